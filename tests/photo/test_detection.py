"""From a picture to the detector's input and back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace
from PIL import Image

from elir_deploy.errors import BundleError, UsageError
from elir_deploy.photo.detection import MAX_FACES, FaceDetector, View, letterboxed, suppress
from elir_deploy.photo.detectors import CONVENTIONS
from elir_deploy.runtime.detector_graph import DetectorNetwork
from elir_deploy.runtime.photos import large_photograph
from tests.photo.pictures import DETECTORS, astronaut, description, network, photographs
from tests.photo.test_detectors import DETECTIONS, rows


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (240, 120, (1, 240, 120, 1, 1)),
        (1280, 3, (1, 1280, 3, 1, 1)),
        (1920, 1080, (1, 1280, 720, 1.5, 1.5)),
        (3000, 4000, (3, 960, 1280, 3 * 1333 / 1280, 3 * 1000 / 960)),
        (2, 12_000, (9, 1, 1280, 9 * 1333 / 1280, 9)),
    ],
)
def test_how_pictures_are_shrunk(height: int, width: int, expected: tuple[float, ...]) -> None:
    view = View.of(height, width, 1280)
    assert (view.factor, view.height, view.width, *view.scale) == pytest.approx(expected)
    if height > 2:  # what is not seen is less than a pixel of the shrunk picture
        across, down = view.scale
        assert width - across * view.width < across
        assert height - down * view.height < down


def test_the_input_of_a_detector() -> None:
    picture = np.zeros((500, 900, 3), np.uint8)
    picture[:, :, 0], picture[:, :, 2] = 200, 10
    tensor = letterboxed(picture, View.of(500, 900, 300), (192, 320), "BGR")
    assert (tensor.shape, tensor.dtype) == ((1, 3, 192, 320), np.float32)
    assert (tensor[0, 0, :166, :300] == 10).all()
    assert (tensor[0, 2, :166, :300] == 200).all()
    assert not tensor[:, :, 167:].any()
    assert not tensor[:, :, :, 300:].any()


def test_a_large_picture_keeps_its_content() -> None:
    picture = np.asarray(Image.fromarray(astronaut()).resize((3000, 2600)))
    view = View.of(2600, 3000, 640)
    small = letterboxed(picture, view, view.input_size(32), "RGB")[
        0, :, : view.height, : view.width
    ]
    expected = np.asarray(Image.fromarray(picture).resize((view.width, view.height), 4))
    assert np.abs(small.transpose(1, 2, 0) - expected).mean() < 1


def test_suppression_keeps_the_best_of_overlapping_boxes() -> None:
    boxes = np.array(
        [[0, 0, 10, 10], [1, 0, 11, 10], [20, 0, 30, 10], [0, 0, 10, 10], [6, 0, 16, 10]]
    )
    scores = np.array([0.8, 0.9, 0.7, 0.9, 0.6])
    # The second and the fourth are equally good: the first of them stays.
    assert suppress(boxes, scores, 0.3) == [1, 2]
    assert suppress(boxes, scores, 0.5) == [1, 2, 4]
    assert suppress(boxes, scores, 1.0) == [1, 3, 0, 2, 4]
    assert suppress(np.empty((0, 4), np.int64), np.empty(0), 0.3) == []


def test_suppression_of_very_many_boxes_ends() -> None:
    corners = np.arange(20_000)[:, None] * 4
    boxes = np.concatenate([corners, corners * 0, corners + 3, corners * 0 + 3], axis=1)
    assert suppress(boxes, np.ones(20_000), 0.3) == list(range(MAX_FACES + 1))


def test_one_face_beyond_the_limit() -> None:
    """A picture of 40 x 40 faces, each of which a cell sees."""
    cells = {
        o.name: np.zeros((1, o.channels, 320, 320), np.float32)
        for o in CONVENTIONS["centerface"].outputs
    }
    cells["537"][0, 0, ::8, ::8] = 1
    cells["540"][0, ::3] = 0.5
    detector = FaceDetector(description("centerface"), DetectorNetwork(lambda _: cells))
    assert len(detector(np.zeros((1280, 1280, 3), np.uint8))) == MAX_FACES + 1


def test_a_detector_that_is_not_known() -> None:
    other = replace(description("yunet"), outputs=description("centerface").outputs)
    with pytest.raises(BundleError, match="outputs of the face detector are not those of yunet"):
        FaceDetector(other, DetectorNetwork(lambda _: {}))
    with pytest.raises(BundleError, match="'retinaface', expected one of centerface, yunet"):
        FaceDetector(
            replace(description("yunet"), decoder="retinaface"), DetectorNetwork(lambda _: {})
        )
    for side in (8, 100_000, 640.5):
        with pytest.raises(UsageError, match=f"{side}, expected 32 to 4096"):
            FaceDetector(description("yunet"), DetectorNetwork(lambda _: {}), side)  # type: ignore[arg-type]


@pytest.mark.skipif(DETECTORS is None, reason="ELIR_DETECTORS names no folder")
@pytest.mark.parametrize(
    ("decoder", "file"), [("centerface", "centerface.onnx"), ("yunet", "yunet_n_dynamic.onnx")]
)
def test_the_real_detectors_see_what_others_see_with_them(decoder: str, file: str) -> None:
    """OpenCV's FaceDetectorYN and deface's decoder, on the same tensors; golden/make.py."""
    from elir_deploy.export.detectors import prepare_detector

    assert DETECTORS is not None
    run = network(prepare_detector(Path(DETECTORS) / file, 17).graph)
    detector = FaceDetector(description(decoder), DetectorNetwork(run))
    for name, picture in photographs().items():
        view = View.of(picture.shape[0], picture.shape[1], 1280)
        # Back into the coordinates of the tensor.
        seen = rows(detector(picture)) / np.array([*view.scale * 7, 1])
        expected = np.array(DETECTIONS[f"{decoder} {name}"])
        assert seen.shape == expected.shape, name
        assert np.abs(seen - expected)[:, :14].max() < 0.1, name
        assert np.abs(seen - expected)[:, 14].max() < 1e-3, name


@pytest.mark.skipif(DETECTORS is None, reason="ELIR_DETECTORS names no folder")
@pytest.mark.parametrize("file", ["centerface.onnx", "yunet_n_dynamic.onnx"])
def test_the_photograph_that_is_measured_has_one_face(file: str) -> None:
    from elir_deploy.export.detectors import prepare_detector

    assert DETECTORS is not None
    prepared = prepare_detector(Path(DETECTORS) / file, 18)
    detector = FaceDetector(description(prepared.name), DetectorNetwork(network(prepared.graph)))
    [face] = detector(large_photograph())
    assert 700 < face.box[2] - face.box[0] < 900
