"""Whole photographs, with functions in place of networks."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from elir_deploy.errors import ImageError, UsageError
from elir_deploy.photo import Face, restore_photo
from elir_deploy.photo.detectors import FACE_TEMPLATE
from elir_deploy.photo.restoring import Canvas, restore_faces
from elir_deploy.runtime.resampling import resize_into
from tests.photo.pictures import face, squares
from tests.photo.test_paste import noise

#: Over one another, over the edges, tiny, larger than the picture.
GROUP = (
    face(150, 120, 200, 10),
    face(210, 140, 160, -30),
    face(5, 230, 120, 45),
    face(330, 20, 90),
    face(300, 200, 14),
    face(200, 150, 900, -20),
)


def enlarged(picture: np.ndarray, scale: int) -> np.ndarray:
    output = np.empty((picture.shape[0] * scale, picture.shape[1] * scale, 3), np.uint8)
    resize_into(picture, output)
    return output


@pytest.mark.parametrize("scale", [1, 2, 4])
def test_an_identity_network_changes_nothing(scale: int) -> None:
    picture = noise(240, 350)
    photo = restore_photo(picture, lambda _: GROUP, squares(lambda x: x), scale=scale)
    assert (photo.pixels == enlarged(picture, scale)).all()
    assert [f.restored for f in photo.faces] == [True] * 4 + [False, True]
    reason = photo.faces[4].reason
    assert reason is not None
    assert "too small" in reason
    assert [f.landmarks for f in photo.faces] == [f.landmarks for f in GROUP]


def test_another_background_shows_outside_the_faces_alone() -> None:
    picture, background = noise(300, 300), noise(300, 300, 1)
    found = [face(150, 150, 200)]
    photo = restore_photo(picture, lambda _: found, squares(lambda x: x), background=background)
    assert (photo.pixels[145:155, 145:155] == picture[145:155, 145:155]).all()
    assert (photo.pixels[:55] == background[:55]).all()
    assert (photo.pixels[:, :60] == background[:, :60]).all()


def test_outside_the_masks_every_byte_is_the_inputs() -> None:
    picture = noise(400, 500)
    found = face(250, 200, 180, 30)
    photo = restore_photo(picture, lambda _: [found], squares(lambda x: 255 - x))
    rows, columns = np.mgrid[:400, :500]
    turned = ((columns - 250) + 1j * (rows - 200)) / (np.exp(1j * np.radians(30)) * 180 / 512)
    u, v = turned.real + 255.5 - 256, turned.imag + 255.5 - 272
    outside = (u / 216) ** 2 + (v / 236) ** 2 > 1.001
    assert (photo.pixels == picture)[outside].all()
    inside = (u / 216) ** 2 + (v / 236) ** 2 < 0.5
    assert (photo.pixels != picture)[inside].mean() > 0.9


def test_weights_keep_a_share_of_a_restoration() -> None:
    picture = noise(300, 300)
    found = [face(150, 150, 200), face(40, 40, 60)]

    def restored(*weights: float) -> np.ndarray:
        parts = squares(lambda x: 255 - x)
        output = picture.copy()
        canvas = Canvas(picture, found, parts, output, None, weights or None)
        restore_faces([canvas], parts)
        return output.astype(int)

    np.testing.assert_array_equal(restored(1, 1), restored())
    np.testing.assert_array_equal(restored(0, 0), picture)
    whole, half = restored(1, 1) - picture, restored(0.5, 1) - picture
    np.testing.assert_array_equal(half[:80, :80], whole[:80, :80])
    # Where nothing was clipped.
    assert (np.abs(half - whole / 2)[90:210, 90:210] <= 3).mean() > 0.99


def test_progress_counts_faces() -> None:
    picture, told = noise(300, 300), []
    parts = squares(lambda x: x)
    faces = [face(150, 150, 200)] * (parts.batch + 1)
    restore_faces(
        [Canvas(picture, faces, parts, picture.copy())],
        parts,
        on_progress=lambda *a: told.append(a),
    )
    assert told == [("faces", n, parts.batch + 1) for n in (parts.batch, parts.batch + 1)]


def dots(crops: np.ndarray) -> np.ndarray:
    """A bright spot at every point of the template."""
    y, x = np.mgrid[:512, :512]
    spots = sum(np.exp(-((x - u) ** 2 + (y - v) ** 2) / (2 * 8.0**2)) for u, v in FACE_TEMPLATE)
    return (crops + np.rint(150 * spots)[:, :, None]).astype(np.uint8)


@pytest.mark.parametrize("scale", [1, 2])
@pytest.mark.parametrize("box", [40, 100, 283, 600])
@pytest.mark.parametrize("angle", [-45, 0, 7, 45])
def test_geometry(scale: int, box: float, angle: float) -> None:
    size = box * 512 / 280
    found = face(600.25, 580.75, size, angle)
    picture = np.full((1200, 1200, 3), 60, np.uint8)
    pixels = restore_photo(picture, lambda _: [found], squares(dots), scale=scale).pixels
    change = pixels[:, :, 0].astype(float) - 60
    assert change.max() > 50
    reach = int(20 * size / 512 * scale) + 2
    for x, y in found.landmarks:
        column, row = round(x * scale), round(y * scale)
        near = change[row - reach : row + reach + 1, column - reach : column + reach + 1]
        v, u = np.mgrid[-reach : reach + 1, -reach : reach + 1]
        centre = (u * near).sum() / near.sum() + column, (v * near).sum() / near.sum() + row
        assert centre == pytest.approx((x * scale, y * scale), abs=0.25)


def test_the_nearer_of_overlapping_faces_is_in_front() -> None:
    far, near = face(200, 200, 120), face(215, 200, 160)
    picture = np.full((400, 400, 3), 100, np.uint8)

    def marked(crops: np.ndarray) -> np.ndarray:
        """A number for each square, away from the rim; small faces come first."""
        result = crops.copy()
        for i in range(len(result)):
            result[i, 150:400, 130:380] += np.uint8(50 * (i + 1))
        return result

    one = restore_photo(picture, lambda _: [far, near], squares(marked)).pixels
    other = restore_photo(picture, lambda _: [near, far], squares(marked)).pixels
    assert (one == other).all()
    assert (one[200, 215] == 200).all()


def test_faces_go_through_the_network_in_batches() -> None:
    shapes = []

    def run(crops: np.ndarray) -> np.ndarray:
        shapes.append(crops.shape)
        return crops

    found = [face(100 + 20 * i, 100, 100) for i in range(7)]
    restore_photo(noise(200, 400), lambda _: found, squares(run, side=256, batch=3))
    assert shapes == [(3, 256, 256, 3), (3, 256, 256, 3), (1, 256, 256, 3)]


def test_a_photograph_without_a_face_passes() -> None:
    def never(crops: np.ndarray) -> np.ndarray:
        raise AssertionError

    picture = noise(50, 60)
    photo = restore_photo(picture, lambda _: [], squares(never), faces="largest")
    assert (photo.pixels == picture).all()
    assert photo.faces == ()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"scale": 3}, UsageError, "scale is 3, expected one of 1, 2, 4"),
        ({"faces": "aligned"}, UsageError, "'aligned', expected one of all, "),
        ({"picture": noise(9, 9)[:, :, 0]}, ImageError, r"shape \(9, 9\)"),
        ({"picture": noise(9, 9).astype(float)}, ImageError, "float64"),
        ({"background": noise(9, 9)}, ImageError, "background has shape"),
        ({"run": lambda x: x[:, :-1]}, ImageError, "restored batch has shape"),
    ],
)
def test_bad_input(change: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments: dict[str, Any] = {"picture": noise(200, 200), "run": lambda x: x} | change
    run, picture = arguments.pop("run"), arguments.pop("picture")
    found: list[Face] = [face(100, 100, 150)]
    with pytest.raises(error, match=message):
        restore_photo(picture, lambda _: found, squares(run), **arguments)


def test_faces_that_cannot_be_put_back() -> None:
    """Of a caller's own detector, say: they are left alone, and say why."""
    upside_down = face(100, 100, 100)
    upside_down = replace(
        upside_down,
        landmarks=tuple((x, 200 - y) for x, y in upside_down.landmarks),  # type: ignore[arg-type]
    )
    found = [face(9000, 100, 100), upside_down, face(100, 100, 900), face(100, 100, 100)]
    picture = noise(200, 200)
    photo = restore_photo(picture, lambda _: found, squares(lambda x: x // 2))
    assert [f.reason for f in photo.faces] == [
        "it lies outside the picture",
        "its landmarks are not those of a face",
        "it is more than 4 times as large as the picture",
        None,
    ]
    assert [f.restored for f in photo.faces] == [False, False, False, True]


def test_memory_beside_the_pictures() -> None:
    picture = np.zeros((3000, 4000, 3), np.uint8)
    found = [face(1000, 1000, 500, 20), face(2500, 1500, 2600, -15)]
    tracemalloc.start()
    try:
        restore_photo(picture, lambda _: found, squares(lambda x: x // 2))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (peak - picture.nbytes) / 1e6 < 60
