"""The similarity and the crop."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from PIL import Image, ImageFilter

from elir_deploy.photo.alignment import Similarity, crop, fit, reason_not_alignable, template_units
from elir_deploy.photo.detectors import FACE_TEMPLATE
from elir_deploy.photo.faces import Face
from tests.photo.pictures import astronaut, face
from tests.photo.test_sampling import interpolated

TEMPLATE = template_units(FACE_TEMPLATE, 512, 512)


def units_of(seen: Face) -> list[tuple[int, int]]:
    return [(int(x * 64), int(y * 64)) for x, y in seen.landmarks]


def similarity(x: float, y: float, size: float, angle: float = 0) -> Similarity:
    return fit(TEMPLATE, units_of(face(x, y, size, angle)))


def test_least_squares() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        size, angle = rng.uniform(30, 3000), rng.uniform(-180, 180)
        points = np.array(units_of(face(*rng.uniform(0, 4000, 2), size, angle))) + rng.integers(
            -100, 100, (5, 2)
        ) * int(size / 100)
        u, v = np.array(TEMPLATE).T / 64
        zero, one = np.zeros(5), np.ones(5)
        matrix = np.concatenate([np.stack([u, -v, one, zero], 1), np.stack([v, u, zero, one], 1)])
        best = np.linalg.lstsq(matrix, points.T.ravel() / 64, rcond=None)[0]
        s = fit(TEMPLATE, [(int(a), int(b)) for a, b in points])
        assert np.array([s.a, s.b, s.x, s.y]) / 2**20 == pytest.approx(best, abs=5e-4)


def test_inverse() -> None:
    for size, angle in itertools.product((20, 512, 5000), (0, 45, -170)):
        s = similarity(700.25, 300, size, angle)
        i = s.inverse()
        for u, v in ((0, 0), (511, 0), (256, 511)):
            x, y = s.a * u - s.b * v + s.x, s.b * u + s.a * v + s.y
            back = (
                (i.a * x - i.b * y) / 2**40 + i.x / 2**20,
                (i.b * x + i.a * y) / 2**40 + i.y / 2**20,
            )
            assert back == pytest.approx((u, v), abs=0.01)


@pytest.mark.parametrize(
    ("size", "angle"), [(90, 20), (512, -45), (700, 3), (900, 90), (1400, 10), (3000, -170)]
)
def test_the_crop_is_what_the_definition_says(size: float, angle: float) -> None:
    """Pixel by pixel, in whole numbers of any size."""
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (300, 400, 3)).astype(np.uint8)
    s = similarity(150.3, 190.8, size, angle)
    square = crop(picture, s, 512)
    k = max(1, (math.isqrt(4 * (s.a**2 + s.b**2)) // 2**20 + 1) // 2)
    corners = [
        (s.a * u - s.b * v + s.x, s.b * u + s.a * v + s.y) for u in (0, 511) for v in (0, 511)
    ]
    left, top = (min(c) // 2**20 - 3 * k for c in zip(*corners, strict=True))

    def mean(row: int, column: int) -> list[int]:
        rows = [(top + row * k + i) % 600 for i in range(k)]
        columns = [(left + column * k + i) % 800 for i in range(k)]
        block = picture[[min(r, 599 - r) for r in rows]][:, [min(c, 799 - c) for c in columns]]
        total = block.reshape(-1, 3).astype(int).sum(axis=0)
        return [int((2 * t + k * k) // (2 * k * k)) for t in total]

    def divided(value: int) -> int:
        return (2 * value + k) // (2 * k)

    a, b = divided(s.a), divided(s.b)
    x0 = divided(s.x - 2**20 * left - 2**19 * (k - 1))
    y0 = divided(s.y - 2**20 * top - 2**19 * (k - 1))
    for u, v in [(0, 0), (511, 511), *rng.integers(0, 512, (20, 2)).tolist()]:
        x, y = (a * u - b * v + x0 + 2**14) >> 15, (b * u + a * v + y0 + 2**14) >> 15
        rows, columns = range((y >> 5) - 1, (y >> 5) + 3), range((x >> 5) - 1, (x >> 5) + 3)
        patch = np.array([[mean(r, c) for c in columns] for r in rows])
        values = interpolated(patch, 32 + (x & 31), 32 + (y & 31))
        expected = [max(0, min(255, (value + 1024) >> 11)) for value in values]
        assert square[v, u].tolist() == expected


def test_only_pixels_under_the_square_are_read() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (900, 900, 3)).astype(np.uint8)
    s = similarity(450, 450, 200, 30)
    square = crop(picture, s, 512)
    outside = np.ones((900, 900), bool)
    outside[300:600, 300:600] = False
    picture[outside] ^= 255
    assert (crop(picture, s, 512) == square).all()


@pytest.mark.parametrize(("size", "least_db"), [(60, 31), (240, 41), (960, 36), (1920, 35)])
def test_quality_of_the_crop(size: int, least_db: float) -> None:
    """Against the picture at the square's own resolution, upright: shrunk well, enlarged well."""
    truth = np.asarray(Image.fromarray(astronaut()).resize((512, 512), Image.Resampling.LANCZOS))
    large = Image.fromarray(astronaut(512))
    truth = np.asarray(large.filter(ImageFilter.GaussianBlur(4 if size < 100 else 1.5)))
    picture = np.asarray(Image.fromarray(truth).resize((size, size), Image.Resampling.BICUBIC))
    scale = round(size / 512 * 2**20)
    square = crop(picture, Similarity(scale, 0, (scale - 2**20) // 2, (scale - 2**20) // 2), 512)
    inner = slice(40, 472)
    error = (square[inner, inner].astype(float) - truth[inner, inner]) ** 2
    assert 10 * np.log10(255**2 / error.mean()) > least_db


def test_shrinking_does_not_alias() -> None:
    """Stripes that are too fine for the square become grey."""
    picture = np.zeros((2048, 2048, 3), np.uint8)
    picture[:, ::2] = 255
    for size, angle in ((1024, 0), (1700, 17), (2000, 45)):
        square = crop(picture, similarity(1024, 1024, size, angle), 512)[128:384, 128:384]
        assert np.abs(square.astype(int) - 128).max() <= 45, size


def test_landmarks_that_cannot_be_aligned() -> None:
    def problem(points: list[tuple[int, int]], longest: int = 1000) -> str | None:
        return reason_not_alignable(TEMPLATE, points, 512, longest)

    good = units_of(face(500, 500, 300, 30))
    assert problem(good) is None
    assert "not those of a face" in str(problem([good[0]] * 5))
    # As in a mirror that swaps top and bottom.
    assert "not those of a face" in str(problem([(x, -y) for x, y in units_of(face(0, 0, 300))]))
    assert "not those of a face" in str(problem([(i * 640, 0) for i in (2, 0, 4, 1, 3)]))
    assert "4 times as large" in str(problem(units_of(face(500, 500, 4100))))
    assert problem(units_of(face(500, 500, 3900))) is None
