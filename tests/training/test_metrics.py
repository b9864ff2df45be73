from __future__ import annotations

import inspect
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from elir_deploy.errors import MissingDependencyError, UnavailableError
from elir_deploy.training.metrics import (
    ALWAYS,
    METRICS,
    Mean,
    MetricSet,
    PyiqaMetric,
    SkimageMetric,
    default_metrics,
)
from tests.training import standin_pyiqa
from tests.training.small import photo, pretend_installed

TRUTH = photo(0, 64, 64)


def shifted(levels: int) -> np.ndarray:
    return (TRUTH.clip(30, 220) + levels).astype(np.uint8)


@pytest.mark.parametrize("levels", [1, 10, 30])
def test_psnr_of_a_known_error(levels: int) -> None:
    expected = 20 * math.log10(255 / levels)
    metric = SkimageMetric("psnr")
    assert metric.of_image(shifted(levels), shifted(0)) == pytest.approx(expected)


def test_identical_images() -> None:
    assert SkimageMetric("psnr").of_image(TRUTH, TRUTH) == math.inf
    assert SkimageMetric("ssim").of_image(TRUTH, TRUTH) == 1


def test_ssim_by_its_formula() -> None:
    """Wang et al.'s Equation 13 in all pixels whose window is inside the image."""
    from scipy.ndimage import gaussian_filter

    other = (TRUTH * 0.7 + 0.3 * photo(1, 64, 64)).astype(np.uint8)

    def blurred(x: np.ndarray) -> np.ndarray:
        return np.stack([gaussian_filter(x[:, :, c], 1.5, truncate=3.5) for c in range(3)], 2)

    x, y = TRUTH.astype(float), other.astype(float)
    mx, my = blurred(x), blurred(y)
    vx, vy, vxy = (
        blurred(a) - b for a, b in ((x * x, mx * mx), (y * y, my * my), (x * y, mx * my))
    )
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    ssim = (2 * mx * my + c1) * (2 * vxy + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    measured = SkimageMetric("ssim").of_image(other, TRUTH)
    assert measured == pytest.approx(ssim[5:-5, 5:-5].mean(), abs=1e-6)


def test_blur_rises_with_blur() -> None:
    blur = SkimageMetric("blur")
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    values = [
        blur.of_image(np.asarray(image.filter(ImageFilter.GaussianBlur(radius))), TRUTH)
        for radius in (0, 1, 2)
    ]
    assert values == sorted(values)
    assert values[0] < values[2] - 0.1


def test_the_mean_of_zero_one_and_many_values() -> None:
    assert Mean.of([]) == Mean(None, None, 0)
    assert Mean.of([3.0]) == Mean(3.0, None, 1)
    four = Mean.of([1.0, 2.0, 3.0, 4.0])
    assert (four.value, four.count) == (2.5, 4)
    assert four.standard_error == pytest.approx(math.sqrt(5 / 3) / 2)
    assert Mean.of([1.0, math.inf]) == Mean(math.inf, None, 2)
    assert Mean.of([1.0, math.nan]) == Mean(1.0, None, 1)


def test_defaults_are_the_papers_columns() -> None:
    assert default_metrics("bfr") == [name for name in METRICS if name != "clipqa"]
    assert default_metrics("bsr") == ["psnr", "ssim", "lpips", "niqe", "clipqa", "blur"]
    assert set(ALWAYS) < set(default_metrics("tiny"))


# pyiqa ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "called", "truth_too"),
    [
        ("lpips", "lpips", True),
        ("niqe", "niqe", False),
        ("musiq", "musiq", False),
        ("clipqa", "clipiqa", False),
    ],
)
def test_images_are_passed_in_pyiqas_format(pyiqa, name, called, truth_too) -> None:
    pyiqa.values[called] = 0.25
    restored = photo(1, 64, 64)
    assert PyiqaMetric(name).of_image(restored, TRUTH) == 0.25
    assert pyiqa.created == [called]
    ((metric, images),) = pyiqa.calls
    assert metric == called
    assert len(images) == 1 + truth_too
    for tensor, pixels in zip(images, (restored, TRUTH), strict=False):
        np.testing.assert_allclose(tensor[0].permute(1, 2, 0).numpy() * 255, pixels, atol=1e-4)


def folder_of(path: Path, count: int) -> Path:
    path.mkdir()
    for number in range(count):
        Image.fromarray(TRUTH).save(path / f"{number}.png")
    return path


@pytest.mark.parametrize(
    ("faces", "side", "against"),
    [
        (True, 512, {"dataset_name": "FFHQ", "dataset_res": 512, "dataset_split": "trainval70k"}),
        (True, 256, {"dataset_name": "FFHQ", "dataset_res": 256, "dataset_split": "trainval70k"}),
        (True, 320, None),
        (False, 256, None),
    ],
)
def test_fid_of_faces_is_against_ffhq(pyiqa, tmp_path, faces, side, against) -> None:
    restored, truths = folder_of(tmp_path / "r", 3), folder_of(tmp_path / "t", 3)
    metric = PyiqaMetric("fid", faces=faces, side=side)
    assert metric.of_folders(restored, truths) == 40.0
    ((_, call),) = pyiqa.calls
    assert call["fdir1"] == str(restored)
    assert call["verbose"] is False
    if against is None:
        assert call["fdir2"] == str(truths)
        assert metric.compared_with == "the truths"
    else:
        assert {key: call[key] for key in against} == against
        assert "FFHQ" in metric.compared_with


def test_the_stand_in_has_pyiqas_signatures() -> None:
    real = pytest.importorskip("pyiqa")
    from pyiqa.archs.fid_arch import FID
    from pyiqa.default_model_configs import DEFAULT_CONFIGS
    from pyiqa.models.inference_model import InferenceModel

    def parameters(function) -> list[tuple[str, object]]:
        return [
            (p.name, None if p.name == "device" else p.default)
            for p in inspect.signature(function).parameters.values()
            if p.name != "self"
        ]

    pairs = (
        (real.create_metric, standin_pyiqa.StandIn._create_metric),
        (InferenceModel.forward, standin_pyiqa.InferenceModel.forward),
        (FID.forward, standin_pyiqa.fid_forward),
    )
    for theirs, ours in pairs:
        assert parameters(ours) == parameters(theirs)
    for name, (mode, lower_better) in standin_pyiqa.CONFIGS.items():
        config = DEFAULT_CONFIGS[name]
        assert config["metric_mode"] == mode
        assert config.get("lower_better", False) == lower_better


def test_a_metric_with_another_direction_is_refused(pyiqa, monkeypatch) -> None:
    monkeypatch.setitem(standin_pyiqa.CONFIGS, "musiq", ("NR", True))
    with pytest.raises(UnavailableError, match="disagree whether lower is better"):
        PyiqaMetric("musiq")


def test_weights_that_cannot_be_downloaded(pyiqa) -> None:
    pyiqa.creation_error = OSError("<urlopen error timed out>\nand much more")
    with pytest.raises(UnavailableError, match=r"^pyiqa's niqe failed: <urlopen error timed out>$"):
        PyiqaMetric("niqe")


def test_without_pyiqa(no_pyiqa) -> None:
    with pytest.raises(MissingDependencyError, match=r"elir-deploy\[metrics\]"):
        PyiqaMetric("lpips")


def test_ids_is_unavailable(pyiqa) -> None:
    with pytest.raises(UnavailableError, match="no ArcFace"):
        PyiqaMetric("ids")


# Sets of metrics ------------------------------------------------------------------------------


def test_metrics_that_cannot_run_are_listed(no_pyiqa) -> None:
    chosen = MetricSet(default_metrics("bsr"), required=False)
    assert [metric.info.name for metric in chosen.working] == ["psnr", "ssim", "blur"]
    assert set(chosen.not_run) == {"lpips", "niqe", "clipqa"}
    assert chosen.names == default_metrics("bsr")


def test_requested_metrics_must_run(no_pyiqa) -> None:
    with pytest.raises(MissingDependencyError):
        MetricSet(["niqe"], required=True)
    assert MetricSet(["psnr"], required=True).names == ["psnr", "ssim", "blur"]


def test_a_metric_that_fails_later(pyiqa) -> None:
    chosen = MetricSet(["niqe"], required=False)
    metric = next(metric for metric in chosen.working if metric.info.name == "niqe")
    with chosen.drop_on_failure(metric):
        raise UnavailableError("too small")
    assert chosen.not_run == {"niqe": "too small"}
    assert "niqe" not in [metric.info.name for metric in chosen.working]
    strict = MetricSet(["niqe"], required=True)
    with (
        pytest.raises(UnavailableError, match="too small"),
        strict.drop_on_failure(strict.working[-2]),
    ):
        raise UnavailableError("too small")


def test_without_scikit_image(monkeypatch) -> None:
    pretend_installed(monkeypatch, skimage=False)
    with pytest.raises(MissingDependencyError, match=r"elir-deploy\[eval\]"):
        MetricSet([], required=False)
