"""Which faces are restored."""

from __future__ import annotations

from dataclasses import replace

import pytest

from elir_deploy.errors import ImageError, UsageError
from elir_deploy.photo.detectors import FACE_TEMPLATE
from elir_deploy.photo.faces import Face, choose, is_aligned
from tests.photo.pictures import face


def test_choice() -> None:
    near_centre, large, tiny = face(320, 230, 100), face(120, 300, 300), face(330, 250, 18)
    faces = [large, tiny, near_centre]
    reasons = {}
    for choice in ("all", "largest", "centre"):
        chosen = choose(faces, choice, 640, 480)  # type: ignore[arg-type]
        assert [replace(f, reason=None) for f in chosen] == faces
        reasons[choice] = [f.reason for f in chosen]
    small = "too small: the eyes are 4.4 pixels apart, expected at least 5"
    assert reasons["all"] == [None, small, None]
    assert reasons["largest"] == [None, small, "it is not the largest face"]
    assert reasons["centre"] == ["it is not the face closest to the centre", small, None]
    assert choose([], "largest", 640, 480) == []
    assert [f.reason for f in choose([tiny], "largest", 640, 480)] == [small]
    with pytest.raises(UsageError, match="faces is 'biggest', expected one of all, "):
        choose(faces, "biggest", 640, 480)  # type: ignore[arg-type]


def test_an_aligned_picture() -> None:
    def aligned(faces: list[Face], width: int = 512, height: int = 512) -> bool:
        return is_aligned(faces, width, height, FACE_TEMPLATE, 512)

    exact = face(255.5, 255.5, 512)
    assert aligned([exact])
    assert aligned([face(255.5, 255.5, 1024 * 512 / 1024)], 512, 500)
    assert not aligned([exact], 512, 480)
    assert not aligned([exact, face(100, 100, 40)])
    assert not aligned([])
    # 5 % of 512 are 25.6 pixels, and one landmark is enough.
    for offset, expected in ((25.5, True), (25.7, False)):
        moved = list(exact.landmarks)
        moved[3] = (round((moved[3][0] + offset) * 64) / 64, moved[3][1])
        assert aligned([replace(exact, landmarks=tuple(moved))]) is expected  # type: ignore[arg-type]


def test_the_json_of_events() -> None:
    seen = face(100, 90, 128).not_restored("it is not the largest face").to_json()
    assert list(seen) == ["box", "landmarks", "score", "restored", "reason"]
    assert seen["box"] == [65, 55, 135, 125]
    assert len(seen["landmarks"]) == 5
    assert (seen["restored"], seen["reason"]) == (False, "it is not the largest face")


def test_faces_of_another_detector() -> None:
    points = [(10.3, 20.0), (30.01, 20), (20, 30), (12, 40), (28, 40)]
    given = Face.rounded((1.234, 2, 50, 60), points)
    assert given.box == (79 / 64, 2, 50, 60)
    assert given.landmarks[:2] == ((659 / 64, 20), (30 + 1 / 64, 20))
    with pytest.raises(ImageError, match="4 edges and 8 coordinates of 4 landmarks"):
        Face.rounded((1, 2, 50, 60), points[:4])
    with pytest.raises(ImageError, match="4 edges and 8 coordinates of 4 landmarks"):
        replace(given, landmarks=given.landmarks[:4])
    with pytest.raises(ImageError, match="3 edges and 10 coordinates"):
        replace(given, box=given.box[:3])
    with pytest.raises(UsageError, match="faces has a tuple, expected Face"):
        choose([given, (1, 2, 50, 60)], "all", 100, 100)  # type: ignore[list-item]
    with pytest.raises(ImageError, match="the coordinate nan"):
        Face.rounded((1, 2, 50, float("nan")), points)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1e7, 0.3])
def test_coordinates_that_no_face_has(value: float) -> None:
    good = face(100, 90, 128)
    with pytest.raises(ImageError, match="a face has the coordinate"):
        replace(good, box=(value, 0.0, 1.0, 1.0))
    with pytest.raises(ImageError, match="a face has the coordinate"):
        replace(good, landmarks=(*good.landmarks[:4], (1.0, value)))
