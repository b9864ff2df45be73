"""Tiles: where they lie, how they are blended, and that a picture comes through unharmed."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elir_deploy.runtime.resampling import EnlargedPicture
from elir_deploy.runtime.tiling import mirrored, overlap, run_tiled, spans

Run = Callable[[np.ndarray, np.ndarray], None]


def tiled(image: np.ndarray, tile: int, run: Run | None = None) -> np.ndarray:
    def copy(source: np.ndarray, result: np.ndarray) -> None:
        assert source.shape == result.shape == (tile, tile, 3)
        result[...] = source

    output = np.full(image.shape, 77, np.uint8)
    run_tiled(EnlargedPicture(image, 1, "none"), output, tile, run or copy)
    return output


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height * 1000 + width).integers(0, 256, (height, width, 3), "u1")


# Where they lie ---------------------------------------------------------------------------------


@settings(max_examples=300, deadline=None)
@given(length=st.integers(1, 5000), tile=st.integers(1, 512))
def test_spans_cover_everything_once(length: int, tile: int) -> None:
    found = spans(length, tile)
    width = overlap(tile)
    assert found[0].start == found[0].begin == found[0].ramp == 0
    assert found[-1].end == length
    for span in found:
        assert 0 <= span.start <= span.begin < span.end <= span.start + tile
        assert span.end <= length
    for before, span in itertools.pairwise(found):
        assert before.end == span.begin
        assert span.ramp == width
        # Both tiles hold the whole ramp, and the tile before has no ramp of its own there.
        assert span.begin + width <= before.start + tile
        assert before.begin + before.ramp <= span.begin
    if len(found) > 1:
        assert found[-1].start == length - tile


@pytest.mark.parametrize(
    ("length", "tile", "starts", "begins"),
    [
        (512, 512, [0], [0]),
        (513, 512, [0, 1], [0, 224]),
        (960, 512, [0, 448], [0, 448]),
        (961, 512, [0, 224, 449], [0, 336, 560]),
        (100, 256, [0], [0]),
        (500, 256, [0, 122, 244], [0, 173, 295]),
    ],
)
def test_spans_by_hand(length: int, tile: int, starts: list[int], begins: list[int]) -> None:
    """Fixed numbers, which the C++ runtime's tests repeat."""
    assert [span.start for span in spans(length, tile)] == starts
    assert [span.begin for span in spans(length, tile)] == begins


def test_mirrored() -> None:
    assert mirrored(3, 10).tolist() == [0, 1, 2, 2, 1, 0, 0, 1, 2, 2]
    assert mirrored(1, 4).tolist() == [0, 0, 0, 0]
    for length in (1, 2, 5):
        row = np.arange(length)
        np.testing.assert_array_equal(
            row[mirrored(length, 23)], np.pad(row, (0, 23 - length), "symmetric")
        )


# A model that changes nothing -------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(height=st.integers(1, 150), width=st.integers(1, 150), tile=st.sampled_from([1, 8, 32, 64]))
def test_identity(height: int, width: int, tile: int) -> None:
    image = noise(height, width)
    np.testing.assert_array_equal(tiled(image, tile), image)


def test_the_model_sees_mirrored_borders() -> None:
    image = noise(5, 11)
    seen = []

    def look(source: np.ndarray, result: np.ndarray) -> None:
        seen.append(source.copy())
        result[...] = source

    tiled(image, 16, look)
    np.testing.assert_array_equal(seen[0], np.pad(image, ((0, 11), (0, 5), (0, 0)), "symmetric"))


# A model that makes seams -----------------------------------------------------------------------


def test_seams_are_monotone_ramps() -> None:
    """Each tile comes out in one value; the picture must step gently from one to the next."""
    tile, size = 64, 300
    values = iter(np.random.default_rng(1).integers(0, 256, 100).tolist())
    made = []

    def constant(source: np.ndarray, result: np.ndarray) -> None:
        made.append(next(values))
        result[...] = made[-1]

    output = tiled(np.zeros((size, size, 3), np.uint8), tile, constant)[:, :, 0].astype(int)
    places = spans(size, tile)
    width = overlap(tile)
    count = len(places)
    grid = np.array(made).reshape(count, count)
    for i in range(count - 1):
        begin = places[i + 1].begin
        for j in range(count):
            middle = (places[j].begin + places[j].ramp + places[j].end) // 2
            for line, one, two in (
                (output[middle], grid[j, i], grid[j, i + 1]),
                (output[:, middle], grid[i, j], grid[i + 1, j]),
            ):
                ramp = line[begin - 1 : begin + width + 1]
                assert (ramp[0], ramp[-1]) == (one, two)
                steps = np.diff(ramp) * np.sign(two - one)
                assert (steps >= 0).all()
                assert steps.max(initial=0) <= abs(two - one) / width + 1


def test_the_blend_is_the_documented_integer_formula() -> None:
    tile = 32
    width = overlap(tile)
    order = iter([10, 201])
    output = tiled(
        np.zeros((tile, 60, 3), np.uint8), tile, lambda source, result: result.fill(next(order))
    )
    begin = spans(60, tile)[1].begin
    expected = [
        (10 * (2 * width - (2 * k + 1)) + 201 * (2 * k + 1) + width) // (2 * width)
        for k in range(width)
    ]
    assert output[0, begin : begin + width, 0].tolist() == expected
    assert (output == output[:1]).all()


def reference_tiled(image: np.ndarray, tile: int, run: Run) -> np.ndarray:
    """The documented rule, written pixel by pixel, with whole rows of tiles in memory."""
    height, width = image.shape[:2]
    o = overlap(tile)

    def axis(length: int) -> tuple[list[int], list[int]]:
        n = 1 if length <= tile else -(-(length - o) // (tile - o))
        p = [i * (length - tile) // (n - 1) if n > 1 else 0 for i in range(n)]
        return p, [0] + [p[i] + (p[i - 1] + tile - p[i] - o) // 2 for i in range(1, n)]

    def mix(a: int, b: int, k: int) -> int:
        return (a * (2 * o - (2 * k + 1)) + b * (2 * k + 1) + o) // (2 * o)

    def joined(parts: list[np.ndarray], p: list[int], r: list[int], length: int) -> np.ndarray:
        """Along axis 0."""
        out = np.zeros((length, *parts[0].shape[1:]), int)
        for y in range(length):
            i = max(i for i in range(len(r)) if r[i] <= y)
            value = parts[i][y - p[i]].astype(int)
            if i and y < r[i] + o:
                value = mix(parts[i - 1][y - p[i - 1]].astype(int), value, y - r[i])
            out[y] = value
        return out

    (py, ry), (px, rx) = axis(height), axis(width)
    padded = image[mirrored(height, max(tile, height))][:, mirrored(width, max(tile, width))]
    rows = []
    for y in py:
        parts = []
        for x in px:
            result = np.empty((tile, tile, 3), np.uint8)
            run(padded[y : y + tile, x : x + tile], result)
            parts.append(result.swapaxes(0, 1))
        rows.append(joined(parts, px, rx, width).swapaxes(0, 1))
    return joined(rows, py, ry, height).astype(np.uint8)


@settings(max_examples=25, deadline=None)
@given(height=st.integers(1, 120), width=st.integers(1, 120), tile=st.sampled_from([8, 24, 40]))
def test_the_streaming_gives_what_the_rule_says(height: int, width: int, tile: int) -> None:
    def by_place(source: np.ndarray, result: np.ndarray) -> None:
        """Differs from tile to tile, so that every blend matters."""
        result[...] = source ^ np.uint8(source.sum() % 251)

    image = noise(height, width)
    np.testing.assert_array_equal(
        tiled(image, tile, by_place), reference_tiled(image, tile, by_place)
    )


def test_progress_counts_the_tiles() -> None:
    image = noise(100, 70)
    progress = []
    run_tiled(
        EnlargedPicture(image, 1, "none"),
        np.empty_like(image),
        32,
        lambda source, result: np.copyto(result, source),
        lambda what, done, total: progress.append((what, done, total)),
    )
    total = len(spans(100, 32)) * len(spans(70, 32))
    assert progress == [("tiles", i + 1, total) for i in range(total)]
