"""Tiles: where they lie, how they are blended, and that a picture comes through unharmed."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elir_deploy.runtime.manifest import Shape
from elir_deploy.runtime.noise import NoiseField
from elir_deploy.runtime.resampling import EnlargedPicture
from elir_deploy.runtime.tiling import Tile, choose_tiling, mirrored, overlap, run_tiled, spans

Run = Callable[[np.ndarray, np.ndarray], None]


def tiled(
    image: np.ndarray,
    tile: int | Shape,
    run: Run | None = None,
    stride: int = 1,
    ramp: int | None = None,
) -> np.ndarray:
    """``run`` reads a tile and writes its result."""
    shape = tile if isinstance(tile, Shape) else Shape(1, tile, tile)
    size = (shape.graph_height, shape.graph_width, 3)

    def run_all(tiles: Sequence[Tile]) -> None:
        assert 1 <= len(tiles) <= shape.batch
        for tile in tiles:
            assert tile.source.shape == size
            result = np.empty(size, np.uint8)
            (run or (lambda source, result: np.copyto(result, source)))(tile.source, result)
            tile.result[...] = result[: tile.result.shape[0], : tile.result.shape[1]]

    output = np.full(image.shape, 77, np.uint8)
    tiling = choose_tiling([shape], *image.shape[:2], stride, ramp)
    run_tiled(EnlargedPicture(image, 1, "none"), output, tiling, run_all)
    return output


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height * 1000 + width).integers(0, 256, (height, width, 3), "u1")


# Where they lie ---------------------------------------------------------------------------------


@settings(max_examples=300, deadline=None)
@given(data=st.data(), length=st.integers(1, 5000), stride=st.sampled_from([1, 2, 5, 8, 32]))
def test_spans_cover_everything_once(data: st.DataObject, length: int, stride: int) -> None:
    tile = stride * data.draw(st.integers(2, 512 // stride))
    width = data.draw(st.integers(0, tile // 2))
    found = spans(length, tile, width, stride)
    covered = -(-length // stride) * stride
    assert found[0].start == found[0].begin == found[0].ramp == 0
    assert found[-1].end == length
    for span in found:
        assert 0 <= span.start <= span.begin < span.end <= span.start + tile
        assert span.end <= length
        assert span.start % stride == 0
    for before, span in itertools.pairwise(found):
        assert before.end == span.begin
        assert span.ramp == width
        # Both tiles hold the whole ramp, and unless ramps are long, they do not touch.
        assert span.begin + width <= before.start + tile
        assert width > tile // 4 or before.begin + before.ramp <= span.begin
    if len(found) > 1:
        assert found[-1].start == covered - tile


@pytest.mark.parametrize(
    ("length", "tile", "ramp", "stride", "starts", "begins"),
    [
        (512, 512, 64, 1, [0], [0]),
        (513, 512, 64, 1, [0, 1], [0, 224]),
        (960, 512, 64, 1, [0, 448], [0, 448]),
        (961, 512, 64, 1, [0, 224, 449], [0, 336, 560]),
        (100, 256, 32, 1, [0], [0]),
        (500, 256, 32, 1, [0, 122, 244], [0, 173, 295]),
        (500, 256, 32, 8, [0, 120, 248], [0, 172, 296]),
        (500, 256, 33, 8, [0, 120, 248], [0, 171, 295]),
        (1001, 256, 32, 8, [0, 184, 376, 560, 752], [0, 204, 392, 580, 768]),
        (1001, 256, 0, 8, [0, 248, 496, 752], [0, 252, 500, 752]),
    ],
)
def test_spans_by_hand(
    length: int, tile: int, ramp: int, stride: int, starts: list[int], begins: list[int]
) -> None:
    """Fixed numbers, which the C++ runtime's tests repeat."""
    found = spans(length, tile, ramp, stride)
    assert [span.start for span in found] == starts
    assert [span.begin for span in found] == begins


@pytest.mark.parametrize(
    ("height", "width", "chosen", "tiles"),
    [
        (64, 64, 0, 1),  # exactly
        (20, 60, 0, 1),  # padded
        (96, 128, 1, 1),
        (90, 120, 1, 1),
        (128, 96, 1, 2),  # as many pixels as of six smaller tiles
        (200, 300, 0, 24),
    ],
)
def test_the_shape_with_the_fewest_pixels(height: int, width: int, chosen: int, tiles: int) -> None:
    shapes = [Shape(1, 64, 64), Shape(4, 90, 128, 96, 128), Shape(8, 96, 128)]
    tiling = choose_tiling(shapes, height, width, 8)
    assert (shapes.index(tiling.shape), tiling.count) == (chosen, tiles)


def test_fewer_tiles_of_as_many_pixels() -> None:
    shapes = [Shape(1, 32, 32), Shape(1, 32, 64), Shape(1, 64, 32)]
    assert choose_tiling(shapes, 32, 64, 1, 0).shape == shapes[1]
    assert choose_tiling(shapes, 64, 64, 1, 0).shape == shapes[1]


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
    width = overlap(tile)
    places = spans(size, tile, width)
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
    begin = spans(60, tile, width)[1].begin
    expected = [
        (10 * (2 * width - (2 * k + 1)) + 201 * (2 * k + 1) + width) // (2 * width)
        for k in range(width)
    ]
    assert output[0, begin : begin + width, 0].tolist() == expected
    assert (output == output[:1]).all()


def reference_tiled(image: np.ndarray, tile: int, run: Run, o: int, g: int) -> np.ndarray:
    """The documented rule, written pixel by pixel, with whole rows of tiles in memory."""
    height, width = image.shape[:2]

    def up(length: int) -> int:
        return -(-length // g) * g

    def axis(length: int) -> tuple[list[int], list[int]]:
        m = up(o)
        n = 1 if length <= tile else -(-(up(length) - m) // (tile - m))
        steps = (up(length) - tile) // g
        p = [g * (i * steps // (n - 1)) if n > 1 else 0 for i in range(n)]
        return p, [0] + [p[i] + (p[i - 1] + tile - p[i] - o) // 2 for i in range(1, n)]

    def mix(a: int, b: int, k: int) -> int:
        return (a * (2 * o - (2 * k + 1)) + b * (2 * k + 1) + o) // (2 * o)

    def joined(parts: list[np.ndarray], p: list[int], r: list[int], length: int) -> np.ndarray:
        """Along axis 0."""
        out = np.zeros((length, *parts[0].shape[1:]), int)
        for i, part in enumerate(parts):
            end = length if i + 1 == len(parts) else min(length, r[i + 1] + o)
            for y in range(r[i], end):
                value = part[y - p[i]].astype(int)
                out[y] = mix(out[y], value, y - r[i]) if i and y < r[i] + o else value
        return out

    (py, ry), (px, rx) = axis(height), axis(width)
    size = max(tile, up(height)), max(tile, up(width))
    padded = image[mirrored(height, size[0])][:, mirrored(width, size[1])]
    rows = []
    for y in py:
        parts = []
        for x in px:
            result = np.empty((tile, tile, 3), np.uint8)
            run(padded[y : y + tile, x : x + tile], result)
            parts.append(result.swapaxes(0, 1))
        rows.append(joined(parts, px, rx, width).swapaxes(0, 1))
    return joined(rows, py, ry, height).astype(np.uint8)


def by_place(source: np.ndarray, result: np.ndarray) -> None:
    """Differs from tile to tile, so that every blend matters."""
    result[...] = source ^ np.uint8(source.sum() % 251)


sides = st.integers(1, 120)


@settings(max_examples=40, deadline=None)
@given(height=sides, width=sides, tile=st.sampled_from([16, 24, 40]), data=st.data())
def test_the_streaming_gives_what_the_rule_says(
    height: int, width: int, tile: int, data: st.DataObject
) -> None:
    image, stride = noise(height, width), data.draw(st.sampled_from([1, 2, 8]))
    ramp = data.draw(st.sampled_from([None, 0, 5, tile // 2]))
    expected = reference_tiled(
        image, tile, by_place, overlap(tile) if ramp is None else ramp, stride
    )
    for batch in (1, 3):
        shape = Shape(batch, tile, tile)
        np.testing.assert_array_equal(tiled(image, shape, by_place, stride, ramp), expected)


def test_no_square() -> None:
    """Along each axis, the default ramp is an eighth of that side."""
    image = noise(75, 130)
    shape = Shape(2, 30, 48, 32, 48)
    np.testing.assert_array_equal(tiled(image, shape), image)
    tiling = choose_tiling([shape], 75, 130, 8)
    assert (tiling.rows[-1].ramp, tiling.columns[-1].ramp) == (4, 6)


@pytest.mark.parametrize("side", [928, 1001, 1004])
def test_overlapping_tiles_get_the_same_noise(side: int) -> None:
    """Every tile's noise begins where its pixels do, at a multiple of the latent's stride."""
    picture = np.zeros((side, side, 3), np.uint8)
    picture[:, :, 0], picture[:, :, 1] = np.arange(side) % 256, (np.arange(side) % 256)[:, None]
    field = NoiseField(3, 1.0)
    whole = np.empty((16, side // 8 + 1, side // 8 + 1), np.float32)
    field.fill(whole, 0, 0)
    seen = []

    def run(tiles: Sequence[Tile]) -> None:
        for tile in tiles:
            top, left = tile.noise_top, tile.noise_left
            assert tuple(tile.source[0, 0, 1::-1]) == (8 * top % 256, 8 * left % 256)
            part = np.empty((16, 32, 32), np.float32)
            field.fill(part, top, left)
            inside = whole[:, top : top + 32, left : left + 32]
            np.testing.assert_array_equal(part[:, : inside.shape[1], : inside.shape[2]], inside)
            tile.result[...] = tile.source
            seen.append((top, left))

    output = np.empty_like(picture)
    tiling = choose_tiling([Shape(4, 256, 256)], side, side, 8)
    run_tiled(EnlargedPicture(picture, 1, "none"), output, tiling, run)
    np.testing.assert_array_equal(output, picture)
    assert len(set(seen)) == tiling.count == (25 if side > 928 else 16)


def test_progress_counts_the_tiles() -> None:
    image = noise(100, 70)
    progress: list[tuple[str, int, int]] = []
    tiling = choose_tiling([Shape(2, 32, 32)], 100, 70, 1)
    run_tiled(
        EnlargedPicture(image, 1, "none"),
        np.empty_like(image),
        tiling,
        lambda tiles: None,
        lambda what, done, total: progress.append((what, done, total)),
    )
    total = len(tiling.rows) * len(tiling.columns)
    assert progress == [("tiles", i + 1, total) for i in range(total)]
