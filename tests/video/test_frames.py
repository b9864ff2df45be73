"""Pictures in order, through whole restorers and through those of photographs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from elir_deploy.photo import PhotoRestorer
from elir_deploy.runtime import Restorer
from elir_deploy.video import PhotographFrames, WholeFrames
from tests.bundles import make_bundle
from tests.photo.pictures import face_bundle, spots

pytest.importorskip("onnxruntime")


def test_whole_pictures(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b", gain=0.5)
    pictures = [np.full((20, 30, 3), value, np.uint8) for value in (10, 100, 200)]
    with Restorer(bundle, "onnxruntime", threads=1) as restorer:
        frames = WholeFrames(restorer, 0.5)
        assert (frames.scale, frames.bits, frames.faces) == (1, 8, None)
        for picture, restored in zip(pictures, frames.map(pictures), strict=True):
            np.testing.assert_array_equal(restored, restorer(picture, strength=0.5))


def test_the_noise_is_the_same_in_every_picture(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b", gain=0.5, bias=0.2, stride=4)
    picture = np.full((20, 30, 3), 100, np.uint8)
    with Restorer(bundle, "onnxruntime", threads=1) as restorer:
        first, second = WholeFrames(restorer).map([picture, picture])
    assert first.std() > 1
    np.testing.assert_array_equal(second, first)


def test_photographs(tmp_path: Path) -> None:
    """As each by itself, whatever the batches."""
    shapes = [{"batch": 4, "height": 64, "width": 64}]
    bundle = face_bundle(tmp_path / "b", gain=0.5, shapes=shapes)
    places = [[(60, 60)], [], [(70, 60), (200, 90)], [(80, 60)]]
    pictures = [spots(160, 260, *each) for each in places]
    with PhotoRestorer(bundle, backend="onnxruntime", threads=1) as restorer:
        frames = PhotographFrames(restorer, "all", 2, strength=0.5)
        results = list(frames.map(iter(pictures)))
        for picture, restored in zip(pictures, results, strict=True):
            expected = restorer(picture, "all", 2, strength=0.5)
            np.testing.assert_array_equal(restored, expected.pixels)
    assert frames.faces == 4


def test_an_error_of_reading_comes_in_its_place(tmp_path: Path) -> None:
    bundle = face_bundle(tmp_path / "b")

    def pictures():
        yield spots(80, 80)
        raise RuntimeError("end")

    with PhotoRestorer(bundle, backend="onnxruntime", threads=1) as restorer:
        restored = PhotographFrames(restorer).map(pictures())
        next(restored)
        with pytest.raises(RuntimeError, match="end"):
            next(restored)
