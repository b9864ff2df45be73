"""Reading the outputs of detectors."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from elir_deploy.errors import BundleError, ImageError
from elir_deploy.photo.detection import FaceDetector, View, letterboxed
from elir_deploy.photo.detectors import CONVENTIONS, MAX_DETECTIONS, recognise
from elir_deploy.photo.faces import Face
from elir_deploy.runtime.detector_graph import DetectorNetwork
from tests.photo.pictures import astronaut, description

GOLDEN = Path(__file__).parent / "golden"
DETECTIONS = json.loads((GOLDEN / "detections.json").read_text())


def rows(faces: list[Face]) -> np.ndarray:
    return np.array([[*f.box, *(c for p in f.landmarks for c in p), f.score] for f in faces])


def outputs_of(decoder: str) -> dict[str, np.ndarray]:
    """What the network computed of the small astronaut."""
    with np.load(GOLDEN / "outputs.npz") as stored:
        return {k.split()[1]: v.copy() for k, v in stored.items() if k.startswith(decoder)}


@pytest.mark.parametrize("decoder", CONVENTIONS)
def test_the_original_decoders_read_the_same_from_the_same_tensors(decoder: str) -> None:
    outputs = outputs_of(decoder)
    seen = rows(
        FaceDetector(description(decoder), DetectorNetwork(lambda _: outputs))(astronaut(120))
    )
    expected = np.array(DETECTIONS[f"{decoder} small"])
    assert seen.shape == expected.shape == (1, 15)
    assert np.abs(seen - expected)[:, :14].max() < 0.1
    assert np.abs(seen - expected)[:, 14].max() < 1e-3


def test_a_detector_is_recognised_by_its_outputs() -> None:
    for decoder, convention in CONVENTIONS.items():
        names = [output.name for output in convention.outputs]
        assert recognise(reversed(names)) is CONVENTIONS[decoder]
        assert recognise(names[1:]) is None
    assert recognise(["boxes", "scores"]) is None


def wrong_shape(outputs: dict[str, np.ndarray]) -> None:
    outputs[next(iter(outputs))] = np.zeros((1, 7, 1), np.float32)


def missing(outputs: dict[str, np.ndarray]) -> None:
    outputs.pop(next(iter(outputs)))


def float64(outputs: dict[str, np.ndarray]) -> None:
    name = next(iter(outputs))
    outputs[name] = outputs[name].astype(np.float64)


def millions(outputs: dict[str, np.ndarray]) -> None:
    for name, value in outputs.items():
        outputs[name] = np.zeros((1, 5_000_000, value.shape[-1]), np.float32)


def nan_scores(outputs: dict[str, np.ndarray]) -> None:
    outputs[next(iter(outputs))].flat[3] = np.nan


def everywhere(value: float, *names: str) -> Callable[[dict[str, np.ndarray]], None]:
    """The named outputs, of either detector, have one value everywhere."""

    def change(outputs: dict[str, np.ndarray]) -> None:
        for name in set(names) & set(outputs):
            outputs[name][:] = value

    return change


def one_point(outputs: dict[str, np.ndarray]) -> None:
    for name in {"540", "kps_8", "kps_16", "kps_32"} & set(outputs):
        outputs[name][:] = 0.5


SIZES = ("538", "bbox_8", "bbox_16", "bbox_32")
POINTS = ("540", "kps_8", "kps_16", "kps_32")


@pytest.mark.parametrize("decoder", CONVENTIONS)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (wrong_shape, r"is float32 \(1, 7, 1\), expected"),
        (missing, "is missing, expected"),
        (float64, "is float64"),
        (millions, "5000000"),
        (nan_scores, "scores that are not finite"),
        (everywhere(800.0, *SIZES), "further than|not finite"),
        (everywhere(np.nan, *POINTS), "not finite"),
        (everywhere(1e9, *POINTS), "further than"),
        (one_point, "all landmarks in one point"),
    ],
)
def test_hostile_outputs(decoder: str, change: Callable[[Any], None], message: str) -> None:
    outputs = outputs_of(decoder)
    change(outputs)
    with pytest.raises(BundleError, match=message) as caught:
        FaceDetector(description(decoder), DetectorNetwork(lambda _: outputs))(astronaut(120))
    assert "\n" not in str(caught.value)


def test_too_many_faces() -> None:
    """Every cell of a large picture is a face."""
    tensor = letterboxed(astronaut(640), View.of(640, 640, 1280), (640, 640), "RGB")
    outputs = {}
    for output in CONVENTIONS["centerface"].outputs:
        cells = tensor.shape[2] // output.stride
        outputs[output.name] = np.ones((1, output.channels, cells, cells), np.float32)
    assert outputs["537"].size > MAX_DETECTIONS
    with pytest.raises(
        ImageError, match=f"25600 possible faces, expected at most {MAX_DETECTIONS}"
    ):
        FaceDetector(description("centerface"), DetectorNetwork(lambda _: outputs))(astronaut(640))
