from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto
from PIL import Image

from elir_deploy.errors import UsageError
from elir_deploy.export.calibration import (
    TensorStatistics,
    calibration_images,
    collect_statistics,
    packaged_images,
)
from elir_deploy.export.precision import open_session
from elir_deploy.export.quantization import activations
from elir_deploy.tasks import TASKS
from tests.training.small import photo, save, save_photos

SIDE = 64
TASK = replace(TASKS["denoise"], faces=False)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return save_photos(tmp_path / "photos")


def statistics_of(values: np.ndarray) -> TensorStatistics:
    """Of one tensor whose channels are the rows."""
    values = values.astype(np.float32)
    return TensorStatistics(np.abs(values).max(axis=1), values.mean(axis=1, dtype=float), values)


class TestStatistics:
    def test_statistics_are_those_of_the_tensors(
        self, fused: ModelProto, pixels: np.ndarray
    ) -> None:
        names = activations(fused)
        other = 255 - pixels
        found = collect_statistics(fused, names, [{"image": pixels}, {"image": other}], images=2)
        probe = ModelProto()
        probe.CopyFrom(fused)
        known = {v.name: v for v in (*fused.graph.value_info, *fused.graph.output)}
        del probe.graph.output[:]
        probe.graph.output.extend(known[name] for name in names)
        session = open_session(probe)
        runs = [session.run(None, {"image": image}) for image in (pixels, other)]
        assert set(found) == set(names)
        for k, name in enumerate(names):
            both = np.concatenate([run[k] for run in runs])
            np.testing.assert_array_equal(found[name].peak, np.abs(both).max(axis=(0, 2, 3)))
            np.testing.assert_allclose(
                found[name].mean, both.mean(axis=(0, 2, 3), dtype=float), atol=1e-5
            )
            assert len(found[name].samples) == both.shape[1]
            for channel, sampled in zip(both.swapaxes(0, 1), found[name].samples, strict=True):
                assert np.isin(sampled, channel).all()

    def test_samples_of_a_large_tensor_are_few(
        self, fused: ModelProto, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("elir_deploy.export.calibration.SAMPLES_PER_TENSOR", 512)
        name = "encoder.layers.1.relu"
        found = collect_statistics(fused, [name], [{"image": pixels}] * 2, images=2)[name]
        assert found.samples.shape == (16, 2 * (512 // 2 // 16))


class TestImages:
    def test_clean_images_are_degraded_reproducibly(self, photos: Path) -> None:
        first, second = (calibration_images(photos, TASK, SIDE, count=4) for _ in range(2))
        assert [item.name for item in first] == ["0.png", "1.png", "2.png", "3.png"]
        for a, b in zip(first, second, strict=True):
            np.testing.assert_array_equal(a.image, b.image)
            assert a.truth is not None
            assert a.image.shape == a.truth.shape == (SIDE, SIDE, 3)
            assert np.abs(a.image.astype(int) - a.truth).mean() > 20  # noise of sigma 89.6

    def test_images_are_spread_over_the_folder(self, tmp_path: Path) -> None:
        for number in range(10):
            save(tmp_path / f"{number}.png", photo(number, SIDE, SIDE))
        names = [i.name for i in calibration_images(tmp_path, TASK, SIDE, count=5)]
        assert names == [f"{n}.png" for n in (0, 2, 4, 6, 8)]

    def test_degraded_images_are_not_changed(self, photos: Path) -> None:
        (item, *_) = calibration_images(photos, TASK, SIDE, count=4, degraded=True)
        whole = photo(0, 70, 90)
        np.testing.assert_array_equal(item.image, whole[3 : 3 + SIDE, 13 : 13 + SIDE])
        assert item.truth is None

    def test_faces_are_scaled(self, photos: Path) -> None:
        task = replace(TASK, faces=True)
        for degraded in (False, True):
            items = calibration_images(photos, task, SIDE, count=4, degraded=degraded)
            assert {item.image.shape for item in items} == {(SIDE, SIDE, 3)}

    @pytest.mark.parametrize("degraded", [False, True])
    def test_unusable_images_are_left_out_and_named(self, photos: Path, degraded: bool) -> None:
        save(photos / "a.png", np.full((SIDE, SIDE, 3), 9, np.uint8))
        save(photos / "b.png", photo(1, SIDE - 1, SIDE))
        (photos / "c.png").write_bytes(b"not a picture")
        (photos / "d.psd").write_bytes(b"\0")
        said: list[str] = []
        items = calibration_images(photos, TASK, SIDE, count=9, degraded=degraded,
                                   warn=said.append)  # fmt: skip
        assert len(items) == 4
        text = " ".join(said)
        assert "a.png: of one colour" in text
        assert "b.png" in text
        assert "c.png" in text
        assert text.count("1 .psd") == 1
        assert "calibrating with 4 images" in text

    @pytest.mark.parametrize("degraded", [False, True])
    def test_a_folder_without_usable_images_is_an_error(
        self, tmp_path: Path, degraded: bool
    ) -> None:
        with pytest.raises(UsageError, match="no images"):
            calibration_images(tmp_path, TASK, SIDE, count=4, degraded=degraded)
        save(tmp_path / "a.png", np.full((SIDE, SIDE, 3), 9, np.uint8))
        with pytest.raises(UsageError, match=r"none of 1 images can be used.*one colour"):
            calibration_images(tmp_path, TASK, SIDE, count=4, degraded=degraded)
        with pytest.raises(UsageError, match="missing"):
            calibration_images(tmp_path / "missing", TASK, SIDE, count=4, degraded=degraded)

    @pytest.mark.parametrize("name", list(TASKS))
    def test_the_packages_photographs_serve_every_task(self, name: str) -> None:
        items = packaged_images(TASKS[name], SIDE)
        assert items
        for item in items:
            assert item.truth is not None
            assert item.image.shape == item.truth.shape == (SIDE, SIDE, 3)
            assert Image.fromarray(item.image).mode == "RGB"
