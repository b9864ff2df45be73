"""Reduction and interpolation, against the definition in the module, pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest

from elir_deploy.photo.sampling import interpolate, packed, reduced_change, reduced_region


def axis_weights(f: int) -> list[int]:
    return [
        -(f**3) + 64 * f**2 - 1024 * f,
        3 * f**3 - 160 * f**2 + 65536,
        -3 * f**3 + 128 * f**2 + 1024 * f,
        f**3 - 32 * f**2,
    ]


def weights(fy: int, fx: int) -> list[int]:
    """Of the 16 pixels."""
    both = [(wy * wx + 2**20) >> 21 for wy in axis_weights(fy) for wx in axis_weights(fx)]
    both[both.index(max(both))] += 2048 - sum(both)
    return both


def interpolated(source: np.ndarray, x: int, y: int) -> list[int]:
    patch = source[(y >> 5) - 1 : (y >> 5) + 3, (x >> 5) - 1 : (x >> 5) + 3].reshape(16, 3)
    w = weights(y & 31, x & 31)
    return [sum(w[i] * int(patch[i, c]) for i in range(16)) for c in range(3)]


@pytest.mark.parametrize("low", [0, -255])
def test_interpolation(low: int) -> None:
    rng = np.random.default_rng(0)
    # Extremes side by side: the largest sums there are.
    source = rng.choice([low, 255], (12, 14, 3)).astype(np.int16)
    x, y = rng.integers(32, 11 * 32, 400), rng.integers(32, 9 * 32, 400)
    expected = [interpolated(source, int(a), int(b)) for a, b in zip(x, y, strict=True)]
    assert interpolate(packed(source), x, y).tolist() == expected


def test_the_largest_sums_fit() -> None:
    """Every pattern of weights with the values that make the sum greatest and least."""
    for fy in range(32):
        for fx in range(0, 32, 3):
            positive = (np.array(weights(fy, fx)) > 0).reshape(4, 4)
            source = np.where(positive, 255, -255)[:, :, None].repeat(3, axis=2)
            source[:, :, 1] *= -1
            x, y = np.array([32 + fx]), np.array([32 + fy])
            assert interpolate(packed(source), x, y).tolist() == [
                interpolated(source, 32 + fx, 32 + fy)
            ]


def test_whole_positions_and_flat_areas_are_exact() -> None:
    source = np.random.default_rng(0).integers(0, 256, (8, 8, 3))
    x, y = np.meshgrid(np.arange(1, 6), np.arange(1, 6))
    assert (interpolate(packed(source), x * 32, y * 32) == source[1:6, 1:6] * 2048).all()
    flat = packed(np.full((8, 8, 3), 77))
    rng = np.random.default_rng(0)
    assert (
        interpolate(flat, rng.integers(32, 160, 99), rng.integers(32, 160, 99)) == 77 * 2048
    ).all()


@pytest.mark.parametrize("factor", [1, 2, 5, 130])
@pytest.mark.parametrize(("top", "left"), [(0, 0), (3, 4), (-7, 2), (2, -50), (-300, 900)])
def test_reduction(factor: int, top: int, left: int) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (20, 30, 3)).astype(np.uint8)

    def pixel(y: int, x: int) -> np.ndarray:
        y, x = y % 40, x % 60
        return picture[min(y, 39 - y), min(x, 59 - x)].astype(int)

    actual = reduced_region(picture, top, left, 3, 2, factor)
    for row, column in ((0, 0), (2, 1)):
        total = sum(
            pixel(top + row * factor + i, left + column * factor + j)
            for i in range(factor)
            for j in range(factor)
        )
        expected = (2 * total + factor**2) // (2 * factor**2)
        assert actual[row, column].tolist() == expected.tolist()


@pytest.mark.parametrize("factor", [1, 3, 200])
def test_reduction_of_a_change(factor: int) -> None:
    change = np.random.default_rng(0).choice([-255, 255, 7], (16, 16, 3)).astype(np.int16)
    actual = reduced_change(change, factor, 2)
    count = -(-16 // factor)
    assert actual.shape == (count + 4, count + 4, 3)
    assert not actual[:2].any()
    block = np.zeros((factor, factor, 3), int)
    part = change[:factor, :factor]
    block[: part.shape[0], : part.shape[1]] = part
    expected = (2 * block.sum(axis=(0, 1)) + factor**2) // (2 * factor**2)
    assert actual[2, 2].tolist() == expected.tolist()
