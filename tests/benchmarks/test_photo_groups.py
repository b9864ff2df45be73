"""The synthetic group of faces, and what the detectors see of it."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from elir_deploy.photo import Face, FaceDetector, SquareRestorer, restore_photo
from elir_deploy.photo.detectors import FACE_TEMPLATE, FACE_TEMPLATE_SIZE
from tests.photo.pictures import DETECTORS, PORTRAITS

pytest.importorskip("scipy")
pytest.importorskip("onnxruntime")

import benchmarks.photo_groups
from benchmarks.photo_groups import BOXES, degraded, group, matched, opened

pytestmark = pytest.mark.skipif(
    DETECTORS is None or PORTRAITS is None, reason="ELIR_DETECTORS, ELIR_PORTRAITS name no folders"
)


@pytest.fixture(scope="module")
def detector() -> FaceDetector:
    assert DETECTORS is not None
    return opened(str(Path(DETECTORS) / "centerface.onnx"))


@pytest.fixture(scope="module")
def heads(detector: FaceDetector) -> list[tuple[np.ndarray, Face]]:
    assert PORTRAITS is not None
    heads = []
    for path in sorted(Path(PORTRAITS).glob("*.jpg")):
        with Image.open(path) as image:
            picture = np.asarray(image.convert("RGB"))
        heads.append((picture, detector(picture)[0]))
    return heads


def test_the_group_is_found(detector: FaceDetector, heads: list[tuple[np.ndarray, Face]]) -> None:
    scene, placed = group(heads)
    assert len(placed) == len(BOXES) == 12
    for picture in (scene, degraded(scene)):
        found, invented, errors = matched(placed, detector(picture))
        assert found >= 11
        assert invented == 0
        assert max(errors) < 0.25


def test_borders_of_masks_in_the_group_are_no_steps(
    detector: FaceDetector,
    heads: list[tuple[np.ndarray, Face]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The network changes tone and texture; every face alone, at its border in the picture."""
    monkeypatch.syspath_prepend(str(Path(benchmarks.photo_groups.__file__).parent))
    scenes = importlib.import_module("photo_scenes")
    picture = degraded(group(heads)[0])
    squares = SquareRestorer(scenes.tone_and_texture, 512, 4, FACE_TEMPLATE, FACE_TEMPLATE_SIZE)
    found = detector(picture)
    assert len(found) >= 11
    for face in found:
        photo = restore_photo(picture, lambda _, face=face: [face], squares)  # type: ignore[misc]
        mask = scenes.weights(picture.shape, scenes.similarity_of(face))
        assert (photo.pixels == picture)[mask == 0].all()
        before, after = scenes.steps(picture, photo.pixels, mask)
        assert after <= 1.01 * before
        assert np.abs(photo.pixels.astype(int) - picture)[mask > 200].mean() > 0.5
