from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto

from elir_deploy.errors import BundleError, QualityError
from elir_deploy.export.block_choice import QuantizationOptions, QuantizationReport
from elir_deploy.export.budget import Budget, Judge, blocks_of
from elir_deploy.export.calibration import CalibrationImage, packaged_images
from elir_deploy.export.int8 import Recipe, calibrate
from elir_deploy.export.precision import open_session
from elir_deploy.runtime.bundle import Bundle
from elir_deploy.runtime.manifest import QuantizationQuality
from elir_deploy.scopes import Outline
from elir_deploy.tasks import TASKS
from tests.export.conftest import BYTES, SIZE
from tests.processor import saturating_int8


@pytest.fixture(scope="module")
def images() -> list[CalibrationImage]:
    return packaged_images(TASKS["tiny"], SIZE)


@pytest.fixture(scope="module")
def calibrated(
    fused: ModelProto, outline: Outline, images: list[CalibrationImage]
) -> tuple[Recipe, QuantizationReport]:
    return calibrate(fused, outline, images, BYTES, QuantizationOptions(max_psnr_drop_db=0.3), 35.0)


def restored(model: ModelProto, image: CalibrationImage) -> np.ndarray:
    return open_session(model).run(None, {"image": image.image[None]})[0].astype(float)


class TestCalibrating:
    def test_the_budget_holds(
        self,
        fused: ModelProto,
        outline: Outline,
        images: list[CalibrationImage],
        calibrated: tuple[Recipe, QuantizationReport],
    ) -> None:
        recipe, report = calibrated
        measured = report.figures.measured
        assert measured is not None
        assert measured.fidelity_db is not None
        assert measured.fidelity_db >= 35
        assert measured.psnr_drop_db is not None
        assert measured.psnr_drop_db <= 0.3
        again = Judge(fused, images, BYTES).measure(recipe.apply(fused))
        assert again.fidelity_db == pytest.approx(measured.fidelity_db, abs=0.005)
        assert again.psnr_drop_db == pytest.approx(measured.psnr_drop_db, abs=0.00005)
        names = [block.name for block in blocks_of(fused, outline)]
        assert [s.block.name for s in report.sensitivities] == names
        assert [block.block for block in report.figures.blocks] == names

    def test_random_weights_are_quantised_completely_and_not_measured(
        self, fused: ModelProto, outline: Outline, images: list[CalibrationImage]
    ) -> None:
        recipe, report = calibrate(fused, outline, images, BYTES, QuantizationOptions(), None)
        assert report == QuantizationReport()
        assert recipe.layers == {
            layer for block in blocks_of(fused, outline) for layer in block.layers
        }

    def test_a_budget_out_of_reach_is_an_error(
        self,
        fused: ModelProto,
        outline: Outline,
        images: list[CalibrationImage],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(Budget, "allows", lambda *_: False)
        with pytest.raises(QualityError, match="the best is"):
            calibrate(fused, outline, images, BYTES, QuantizationOptions(), 35.0)

    def test_identical_images_are_null_and_meet_every_floor(
        self, fused: ModelProto, outline: Outline, images: list[CalibrationImage]
    ) -> None:
        """With every block in floating point, 8-bit images do not change."""
        _, report = calibrate(fused, outline, images, BYTES, QuantizationOptions(), 101.0)
        assert report.figures.measured == QuantizationQuality(0.0, None)
        assert all(block.kept for block in report.figures.blocks)

    @pytest.mark.parametrize("change", [{"equalize": False}, {"correct_biases": False}])
    def test_each_option_changes_the_graph(
        self,
        fused: ModelProto,
        outline: Outline,
        images: list[CalibrationImage],
        change: dict[str, bool],
    ) -> None:
        whole, _ = calibrate(fused, outline, images, BYTES, QuantizationOptions(), None)
        block, _ = calibrate(fused, outline, images, BYTES, QuantizationOptions(**change), None)
        assert whole.to_json() != block.to_json()
        assert bool(block.factors) is change.get("equalize", True)
        assert bool(block.corrections) is change.get("correct_biases", True)

    @pytest.mark.skipif(saturating_int8(), reason="INT8 saturates on this processor: no VNNI")
    def test_openvino_keeps_the_same_picture(
        self, fused: ModelProto, outline: Outline, images: list[CalibrationImage]
    ) -> None:
        openvino = pytest.importorskip("openvino")
        core = openvino.Core()
        recipe, _ = calibrate(fused, outline, images, BYTES, QuantizationOptions(), None)
        made = recipe.apply(fused)
        settings = {"INFERENCE_PRECISION_HINT": "f32"}
        compiled = core.compile_model(core.read_model(made.SerializeToString()), "CPU", settings)
        for image in images:
            exact, ours = restored(fused, image), restored(made, image)
            theirs = compiled(image.image[None])[0].astype(float)
            # Values half-way between two levels go either way, so their errors differ, but not
            # in size.
            assert np.abs(theirs - exact).mean() < 2 * np.abs(ours - exact).mean() + 0.1


class TestRecipe:
    def test_of_the_packaged_model(self) -> None:
        stored = Bundle.open("tiny").path / "calibration.json"
        assert Recipe.read(stored).to_json() == stored.read_bytes()

    def test_it_makes_the_same_graph_again(
        self, fused: ModelProto, calibrated: tuple[Recipe, QuantizationReport], tmp_path: Path
    ) -> None:
        recipe, _ = calibrated
        (tmp_path / "calibration.json").write_bytes(recipe.to_json())
        again = Recipe.read(tmp_path / "calibration.json")
        again.check_graph(fused)
        first, second = (
            r.apply(fused).SerializeToString(deterministic=True) for r in (recipe, again)
        )
        assert first == second
        assert again.to_json() == recipe.to_json()
        assert again.figures.kept == calibrated[1].figures.kept

    def test_another_graph_refuses_it(
        self, fused: ModelProto, calibrated: tuple[Recipe, QuantizationReport], tmp_path: Path
    ) -> None:
        other = ModelProto()
        other.CopyFrom(fused)
        other.graph.initializer[0].raw_data = bytes(len(other.graph.initializer[0].raw_data))
        with pytest.raises(BundleError, match="for another graph"):
            calibrated[0].check_graph(other)

    @pytest.mark.parametrize(
        "damage",
        [
            lambda text: text[: len(text) // 2],
            lambda text: b"",
            lambda text: b"\xff\xfe\x00",
            lambda text: b"[]",
            lambda text: b"[" * 100_000,
            lambda text: json.dumps({**json.loads(text), "version": 1}).encode(),
            lambda text: json.dumps({**json.loads(text), "format": "else"}).encode(),
            lambda text: json.dumps({**json.loads(text), "amax": [1, 2]}).encode(),
            lambda text: json.dumps({**json.loads(text), "amax": {"a": "b"}}).encode(),
            lambda text: json.dumps({**json.loads(text), "factors": {"a": [[1]]}}).encode(),
            lambda text: text.replace(b'"layers":', b'"convolutions":'),
            lambda text: text.replace(b'"everything_int8":', b'"everything":'),
            lambda text: text.replace(b'"macs":', b'"operations":'),
            lambda text: text.replace(b'"kept":false', b'"kept":0'),
            lambda text: text.replace(b'"corrections":{"', b'"corrections":{"a":[NaN],"'),
            lambda text: text.replace(b'"corrections":{"', b'"corrections":{"a":[1e999],"'),
        ],
    )
    def test_a_damaged_file_is_an_error(
        self, calibrated: tuple[Recipe, QuantizationReport], tmp_path: Path, damage: object
    ) -> None:
        file = tmp_path / "calibration.json"
        file.write_bytes(damage(calibrated[0].to_json()))  # type: ignore[operator]
        with pytest.raises(BundleError, match="is not a calibration of elir-export"):
            Recipe.read(file)

    def test_a_missing_file_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(BundleError, match="cannot be read"):
            Recipe.read(tmp_path / "none.json")
