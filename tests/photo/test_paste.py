"""Putting faces back."""

from __future__ import annotations

import math

import numpy as np
import pytest

from elir_deploy.photo.alignment import crop
from elir_deploy.photo.paste import Change, change, mask, paste
from elir_deploy.runtime.resampling import EnlargedPicture
from tests.photo.pictures import astronaut
from tests.photo.test_alignment import similarity
from tests.photo.test_sampling import interpolated


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def mask_at(u: int, v: int, side: int) -> int:
    """At a position in 1/32 pixel."""
    x, y, across, down = (32 * side * part // 512 for part in (256, 272, 216, 236))
    e = ((u - x) ** 2 * (2**44 // across**2) + (v - y) ** 2 * (2**44 // down**2)) >> 32
    t = min(4096, (4096 - math.isqrt(4096 * min(e, 4096))) * 4096 // 1024)
    return (t * t * (3 * 4096 - 2 * t) + 2**25) >> 26


@pytest.mark.parametrize("side", [256, 512])
def test_the_mask(side: int) -> None:
    m = mask(side)
    for u, v in np.random.default_rng(0).integers(0, side, (200, 2)).tolist():
        assert m[v, u] == mask_at(32 * u, 32 * v, side)
    assert m.max() == 1024
    # Nothing at the edges, everything at the landmarks.
    assert not m[[0, -1]].any()
    assert not m[:, [0, -1]].any()
    for x, y in ((193, 240), (319, 240), (257, 314), (201, 371), (313, 371)):
        assert m[y * side // 512, x * side // 512] == 1024
    # It rises without a step.
    assert np.abs(np.diff(m, axis=0)).max() <= 36 * 512 // side
    assert m[m > 0].min() < 10


def test_a_shift_of_tone_is_no_change() -> None:
    square = crop(astronaut(480), similarity(240, 240, 480), 512)
    u, v = np.meshgrid(np.arange(512), np.arange(512))
    plane = np.rint(12 + (u - 200) * 0.04 - (v - 300) * 0.03)
    shifted = (np.clip(square, 60, 190) + plane[:, :, None] * [1, -1, 0.5]).round().astype(np.uint8)
    changed = change(np.clip(square, 60, 190), shifted, similarity(240, 240, 480))
    assert np.abs(changed.pixels).max() <= 1
    assert changed.detail == 256


def test_what_is_changed_inside_stays() -> None:
    """Where the mask does not fade out, whatever was changed is pasted."""
    square = np.full((512, 512, 3), 100, np.uint8)
    restored = square.copy()
    restored[200:300, 200:300] = 160
    changed = change(square, restored, similarity(240, 240, 480)).pixels
    assert (changed == restored.astype(int) - square).all()


@pytest.mark.parametrize(
    ("size", "angle", "detail"), [(60, 20, 256), (512, -40, 256), (700, 3, 100), (1500, 170, 0)]
)
def test_every_pixel_is_what_the_definition_says(size: float, angle: float, detail: int) -> None:
    picture, background = noise(240, 320), noise(240, 320, 1)
    s = similarity(150.3, 90.8, size, angle)
    pixels = np.random.default_rng(2).integers(-255, 256, (512, 512, 3)).astype(np.int16)
    output = background.copy()
    paste(output, EnlargedPicture(picture, 1, "none"), s, Change(pixels, detail))
    i = s.inverse()
    k = max(1, (math.isqrt(4 * (i.a**2 + i.b**2)) // 2**20 + 1) // 2)

    def mean(row: int, column: int) -> list[int]:
        block = np.zeros((k, k, 3), int)
        if row >= 0 and column >= 0:
            part = pixels[row * k : row * k + k, column * k : column * k + k]
            block[: part.shape[0], : part.shape[1]] = part
        return [int((2 * t + k * k) // (2 * k * k)) for t in block.reshape(-1, 3).sum(axis=0)]

    def divided(value: int) -> int:
        return (2 * value + k) // (2 * k)

    changed = 0
    for x, y in np.random.default_rng(3).integers(0, [320, 240], (300, 2)).tolist():
        at = (i.a * x - i.b * y + i.x + 2**14) >> 15, (i.b * x + i.a * y + i.y + 2**14) >> 15
        m = mask_at(*at, 512)
        if not m:
            assert (output[y, x] == background[y, x]).all()
            continue
        changed += 1
        # 3 pixels of zeros stand before the reduced change.
        a, b = divided(i.a), divided(i.b)
        start = 2**20 * 3 * k - 2**19 * (k - 1)
        u = (a * x - b * y + divided(i.x + start) + 2**14) >> 15
        v = (b * x + a * y + divided(i.y + start) + 2**14) >> 15
        rows, columns = range((v >> 5) - 1, (v >> 5) + 3), range((u >> 5) - 1, (u >> 5) + 3)
        patch = np.array([[mean(r - 3, c - 3) for c in columns] for r in rows])
        c = interpolated(patch, 32 + (u & 31), 32 + (v & 31))
        for channel in range(3):
            e, o = int(picture[y, x, channel]), int(background[y, x, channel])
            value = 2048 * (e - o) - 8 * (256 - detail) * (e - 128) + c[channel]
            expected = max(0, min(255, o + ((m * value + 2**20) >> 21)))
            assert output[y, x, channel] == expected
    assert changed > 2


def test_detail_that_the_square_is_too_small_for() -> None:
    """What the network does with the finest noise that it sees is done with finer noise."""
    rng = np.random.default_rng(0)
    clean = np.full((1300, 1300, 3), 120, np.uint8)
    grainy = (clean + rng.normal(0, 20, (1300, 1300, 1))).round().astype(np.uint8)
    s = similarity(650, 650, 1200)
    square = crop(grainy, s, 512)
    inside = slice(450, 850)

    def deviation(restored: np.ndarray) -> float:
        output = grainy.copy()
        paste(output, EnlargedPicture(grainy, 1, "none"), s, change(square, restored, s))
        return float(output[inside, inside].std())

    before = float(grainy[inside, inside].std())
    assert deviation(square) == before
    assert deviation(np.full_like(square, 120)) < 0.1
    half = ((square.astype(int) + 120) // 2).astype(np.uint8)
    assert deviation(half) == pytest.approx(before / 2, rel=0.1)
    # A smaller face has no such detail: its change alone is pasted.
    assert change(square, np.full_like(square, 120), similarity(650, 650, 500)).detail == 256


@pytest.mark.parametrize(("size", "angle"), [(150, 20), (300, -40)])
def test_no_step_at_the_border(size: float, angle: float) -> None:
    """A network that changes tone and texture leaves no edge where its change begins."""
    picture = astronaut(480)
    s = similarity(240, 230, size, angle)
    square = crop(picture, s, 512)
    y, x = np.mgrid[:512, :512]
    pattern = 6 * np.sin(x * 0.9) * np.sin(y * 0.9)
    toned = 255 * (square / 255) ** 0.8 + [12, 0, -9] + pattern[:, :, None]
    restored = np.clip(np.rint(toned), 0, 255).astype(np.uint8)
    output = picture.copy()
    paste(output, EnlargedPicture(picture, 1, "none"), s, change(square, restored, s))
    everywhere = np.zeros_like(picture)
    whole = Change(np.full((512, 512, 3), 255, np.int16), 256)
    paste(everywhere, EnlargedPicture(np.zeros_like(picture), 1, "none"), s, whole)
    inside = everywhere[:, :, 0] > 0

    def border(pixels: np.ndarray) -> float:
        """Mean step between neighbours of which the mask contains one."""
        down = np.abs(np.diff(pixels.astype(float), axis=0))[inside[1:] != inside[:-1]]
        across = np.abs(np.diff(pixels.astype(float), axis=1))[inside[:, 1:] != inside[:, :-1]]
        return float(np.concatenate([down, across]).mean())

    assert border(output) < 1.01 * border(picture)
    # What is seen from afar: the surroundings' tone goes on, for all that the network shifted it.
    rim = (everywhere[:, :, 0] > 40) & (everywhere[:, :, 0] < 215)
    shift = (output.astype(float) - picture)[rim].mean(axis=0)
    assert np.abs(shift).max() < 1.5
    assert np.abs((output.astype(float) - picture)[everywhere[:, :, 0] == 255]).mean() > 3
