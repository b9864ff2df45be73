"""Running a model of a fixed size over a picture of any size, in overlapping tiles.

Everything is integer arithmetic, so that another implementation can reproduce it to the bit. Let
``g`` be the stride of the noise if it is an input of the model, so that overlapping tiles get the
same noise, and else 1. Along each axis, for a picture of ``L`` pixels, tiles of ``T`` (a multiple
of ``g``) and a ramp of ``o`` (:func:`overlap` of ``T``, unless the user chooses)::

    L'  = ceil(L / g) * g                            what the tiles cover
    m   = ceil(o / g) * g                            minimum overlap
    n   = 1 if L <= T else ceil((L' - m) / (T - m))  tiles
    p_i = g * (i * ((L' - T) / g) // (n - 1))        where tile i begins (p_0 = 0)
    r_i = p_i + (p_{i-1} + T - p_i - o) // 2         where it takes over from i - 1 (r_0 = 0)

From ``r_i`` on, in the middle of their overlap, the result goes from what the tiles before gave
(value a) to tile ``i`` (value b) over ``o`` pixels, k = 0, ..., o - 1::

    (a * (2 * o - (2 * k + 1)) + b * (2 * k + 1) + o) // (2 * o)

Ramps of up to a quarter of a tile do not touch each other, so at most two tiles meet. Tiles run row
by row, as many at a time as the model takes; each row of tiles is blended along its row first
(rounding to pixels), then with what the row above left in the output (rounding again). What a tile
reads beyond the picture, to the right and below, is mirrored, edge pixel included (index i of
length L is ``m = i mod 2L``, then ``2L - 1 - m`` where ``m >= L``), and the result is cut.

Of several sizes of tiles, the one with the fewest pixels in all tiles is taken; of equal ones that
with the fewest tiles, and then the first.

Memory beside picture and output is a few tiles for each image of a batch, whatever the picture's
size.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from elir_deploy.progress import ProgressCallback, no_progress
from elir_deploy.runtime.manifest import Shape
from elir_deploy.runtime.resampling import EnlargedPicture

__all__ = [
    "Span",
    "Tile",
    "Tiling",
    "choose_tiling",
    "mirrored",
    "next_multiple",
    "overlap",
    "run_tiled",
    "spans",
]

#: uint8 or uint16.
Pixels = NDArray[Any]


@dataclass(frozen=True)
class Span:
    """One tile along one axis, in pixels of the picture.

    Attributes:
        start: where the tile begins (p_i).
        begin: the first pixel that it contributes to (r_i).
        end: one past the last pixel before the next tile takes over (r_{i+1}, or the picture's
            length).
        ramp: number of pixels from ``begin`` blended with the tile before; 0 for the first.
    """

    start: int
    begin: int
    end: int
    ramp: int


def overlap(tile: int) -> int:
    """Minimum overlap, and width of the ramp, for tiles of ``tile`` pixels: an eighth.

    An eighth costs (8/7)^2 = 1.31 times the model runs of no overlap, a quarter 1.78 times.
    """
    return tile // 8


def spans(length: int, tile: int, ramp: int, stride: int = 1) -> list[Span]:
    """The tiles along an axis of ``length`` pixels, in order.

    Args:
        length: of the picture.
        tile: of a tile, a multiple of ``stride`` and at least twice as long.
        ramp: number of pixels over which tiles are blended, at most half a tile.
        stride: tiles start at multiples of this.
    """
    if length <= tile:
        return [Span(0, 0, length, 0)]
    covered, least = next_multiple(length, stride), next_multiple(ramp, stride)
    count = -(-(covered - least) // (tile - least))
    last = (covered - tile) // stride
    starts = [stride * (i * last // (count - 1)) for i in range(count)]
    begins = [0]
    for before, start in itertools.pairwise(starts):
        begins.append(start + (before + tile - start - ramp) // 2)
    ends = [*begins[1:], length]
    return [
        Span(start, begin, end, ramp if i else 0)
        for i, (start, begin, end) in enumerate(zip(starts, begins, ends, strict=True))
    ]


def next_multiple(length: int, of: int) -> int:
    """``length``, or the next multiple of ``of``."""
    return -(-length // of) * of


def mirrored(length: int, count: int, start: int = 0) -> NDArray[np.intp]:
    """Indices from ``start`` on, ``count`` of them, mapped into ``length`` pixels by mirroring."""
    index = np.arange(start, start + count) % (2 * length)
    return np.minimum(index, 2 * length - 1 - index)


@dataclass(frozen=True)
class Tiling:
    """The tiles of a picture.

    Attributes:
        shape: shape of the model's input that they are run with.
        rows, columns: the tiles along each axis.
        stride: tiles start at multiples of this.
    """

    shape: Shape
    rows: Sequence[Span]
    columns: Sequence[Span]
    stride: int

    @property
    def count(self) -> int:
        return len(self.rows) * len(self.columns)

    def whole(self, picture: EnlargedPicture, result: Pixels) -> Tile:
        """The only tile, which covers the picture; ``result`` has the picture's size."""
        return Tile(_block(picture, 0, 0, self.shape), result, 0, 0)


class Tile(NamedTuple):
    """One image of a run of the model.

    Attributes:
        source: (graph_height, graph_width, 3), not to be written.
        result: written; as large, or smaller by what is cut off on the right and below.
        noise_top, noise_left: where it begins in the picture's latent.
    """

    source: Pixels
    result: Pixels
    noise_top: int
    noise_left: int


def choose_tiling(
    shapes: Sequence[Shape], height: int, width: int, stride: int, ramp: int | None = None
) -> Tiling:
    """Tiles of the shape that covers the picture with the fewest pixels in total.

    Args:
        shapes: shapes of the model's input.
        height, width: of the picture in pixels.
        stride: tiles start at multiples of this.
        ramp: width of the blend along both axes; None: :func:`overlap` of a tile's sides.
    """

    def tiling(shape: Shape) -> Tiling:
        rows, columns = (
            spans(length, tile, overlap(tile) if ramp is None else ramp, stride)
            for length, tile in ((height, shape.graph_height), (width, shape.graph_width))
        )
        return Tiling(shape, rows, columns, stride)

    def cost(tiling: Tiling) -> tuple[int, int]:
        shape = tiling.shape
        return tiling.count * shape.graph_height * shape.graph_width, tiling.count

    return min(map(tiling, shapes), key=cost)


def run_tiled(
    picture: EnlargedPicture,
    output: Pixels,
    tiling: Tiling,
    run: Callable[[Sequence[Tile]], None],
    on_progress: ProgressCallback = no_progress,
) -> None:
    """Run the model on all tiles of ``picture`` and blend them into ``output``.

    Args:
        picture: of the output's size.
        output: (H, W, 3) of the picture's type, overwritten.
        tiling: of a picture of that size.
        run: the model, for at most ``tiling.shape.batch`` tiles.
        on_progress: called after each tile, with the number of tiles done and in all.
    """
    if tiling.count == 1:
        run([tiling.whole(picture, output)])
        return
    shape, stride = tiling.shape, tiling.stride
    places = itertools.product(tiling.rows, tiling.columns)
    size = min(shape.batch, tiling.count)
    results = np.empty((size, shape.graph_height, shape.graph_width, 3), output.dtype)
    blender = _Blender(output, tiling)
    done = 0
    while group := list(zip(results, itertools.islice(places, size), strict=False)):
        run(
            [
                Tile(
                    _block(picture, row.start, column.start, shape),
                    result,
                    row.start // stride,
                    column.start // stride,
                )
                for result, (row, column) in group
            ]
        )
        for result, (row, column) in group:
            blender.add(result, row, column)
            done += 1
            on_progress("tiles", done, tiling.count)


class _Blender:
    """Puts the results of tiles into the output, in order."""

    def __init__(self, output: Pixels, tiling: Tiling) -> None:
        self._output = output
        self._row_ramp, self._column_ramp = tiling.rows[-1].ramp, tiling.columns[-1].ramp
        # The tile to the left, where it fades out.
        self._carried = np.empty((tiling.shape.graph_height, self._column_ramp, 3), output.dtype)

    def add(self, result: Pixels, row: Span, column: Span) -> None:
        height, width = self._output.shape[:2]
        left, right = column.begin - column.start, column.end - column.start
        if column.ramp:
            fading_in = result[:, left : left + column.ramp]
            fading_in[...] = _blend(self._carried, fading_in, axis=1)
        if column.end < width:
            self._carried[...] = result[:, right : right + self._column_ramp]
        # Down to the end of the next row's ramp, which is blended with these pixels.
        bottom = min(row.end + self._row_ramp, height)
        ready = result[row.begin - row.start : bottom - row.start, left:right]
        place = self._output[row.begin : bottom, column.begin : column.end]
        if row.ramp:
            ready[: row.ramp] = _blend(place[: row.ramp], ready[: row.ramp], axis=0)
        place[...] = ready


def _block(picture: EnlargedPicture, top: int, left: int, shape: Shape) -> Pixels:
    """The pixels that a tile reads, mirrored beyond the picture."""
    height, width = shape.graph_height, shape.graph_width
    inside = min(height, picture.height - top), min(width, picture.width - left)
    if inside == (height, width):
        return picture.block(top, left, height, width)
    block = picture.block(top, left, *inside)
    return block[mirrored(inside[0], height)[:, None], mirrored(inside[1], width)]


def _blend(before: Pixels, after: Pixels, axis: int) -> Pixels:
    """From ``before`` to ``after`` along ``axis``, which is as long as the ramp."""
    width = before.shape[axis]
    index = np.arange(width, dtype=np.uint32).reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
    weight = 2 * index + 1
    mixed: NDArray[np.uint32] = before * (2 * width - weight) + after * weight + width
    blended: Pixels = (mixed // (2 * width)).astype(after.dtype)
    return blended
