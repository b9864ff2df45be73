"""Reading pictures between their pixels, in integers.

Two operations, defined to the bit:

**Reduction** by a whole number k: a pixel is the mean of k x k pixels, (2 * sum + k^2) // (2 * k^2)
for each channel.

**Interpolation** at positions in units of 1/32 pixel: with ``p = position >> 5`` and
``f = position & 31`` along each axis, the 4 x 4 pixels from p - 1 to p + 2 count with bicubic
weights (a = -0.5) that are rounded to 1/2048. Along an axis the weight of pixel p + i is, in units
of 1/65536, exactly (f is in units of 1/32)::

    i = -1:     -f^3 +  64 f^2 - 1024 f
    i =  0:    3 f^3 - 160 f^2          + 65536
    i =  1:   -3 f^3 + 128 f^2 + 1024 f
    i =  2:      f^3 -  32 f^2

A weight of two axes is ``(w_y * w_x + 2^20) >> 21``; the 16 must sum to 2048, so the remainder is
added to the largest (the first, on a tie). The result is the sum of weight times value, in units of
1/2048.
"""

from __future__ import annotations

import functools
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from elir_deploy.runtime.tiling import mirrored

__all__ = ["SUBPIXELS", "WEIGHT_BITS", "interpolate", "packed", "reduced_change", "reduced_region"]

Pixels: TypeAlias = "NDArray[np.uint8]"
#: Positions are in units of 1/32 pixel.
SUBPIXELS = 32
#: Results are in units of 2^-11.
WEIGHT_BITS = 11

# Three channels are summed at once, each in 21 bits of a 64-bit number: as long as every sum fits,
# it does not matter that the numbers overflow on the way. The four columns are summed apart first.
_LANE = 21
_LANE_MASK = (1 << _LANE) - 1
_LANE_BIAS = 1 << (_LANE - 1)
_BIAS = sum(_LANE_BIAS << (_LANE * channel) for channel in range(3))
#: Pixels that are summed at a time when reducing.
_BAND_PIXELS = 2**18


def reduced_region(
    picture: NDArray[np.uint8], top: int, left: int, height: int, width: int, factor: int
) -> NDArray[np.uint8]:
    """A region of (H, W, 3) uint8, which is continued by mirroring, reduced by ``factor``.

    Args:
        picture: edge pixels are repeated by the mirroring: index i of length L is
            ``m = i mod 2L``, then ``2L - 1 - m`` where ``m >= L``.
        top, left: where the region begins; may be negative.
        height, width: of the result in pixels; the region is ``factor`` times as large.
        factor: at least 1.

    Returns:
        (height, width, 3); it may be a view of the picture.
    """
    rows, columns = height * factor, width * factor
    inside_rows = top >= 0 and top + rows <= picture.shape[0]
    inside_columns = left >= 0 and left + columns <= picture.shape[1]
    across = mirrored(picture.shape[1], columns, left)

    def part(first: int, count: int) -> Pixels:
        if inside_rows:
            block = picture[top + first : top + first + count]
        else:
            block = picture[mirrored(picture.shape[0], count, top + first)]
        return block[:, left : left + columns] if inside_columns else block[:, across]

    if factor == 1:
        return part(0, rows)
    result = np.empty((height, width, 3), np.uint8)
    band = max(1, _BAND_PIXELS // (columns * factor))
    for first in range(0, height, band):
        count = min(band, height - first)
        result[first : first + count] = _means(part(first * factor, count * factor), factor)
    return result


def reduced_change(change: NDArray[np.int16], factor: int, margin: int) -> NDArray[np.int16]:
    """(S, S, 3) reduced by ``factor``, with 0 around it.

    Args:
        change: whole numbers from -255 to 255.
        factor: at least 1.
        margin: pixels of the result before the first and after the last.
    """
    side = change.shape[0]
    count = -(-side // factor)
    padded = np.zeros(((count + 2 * margin) * factor,) * 2 + (3,), np.int16)
    first = margin * factor
    padded[first : first + side, first : first + side] = change
    return padded if factor == 1 else _means(padded, factor)


def packed(values: NDArray[np.integer]) -> NDArray[np.int64]:
    """(H, W, 3) of whole numbers from -255 to 255 in the form that :func:`interpolate` reads.

    Returns:
        (H, W - 3, 4): the pixel and the next three of its row.
    """
    lanes = values[:, :, 0].astype(np.int64)
    lanes += values[:, :, 1].astype(np.int64) << _LANE
    lanes += values[:, :, 2].astype(np.int64) << (2 * _LANE)
    return np.stack([lanes[:, tap : lanes.shape[1] - 3 + tap] for tap in range(4)], axis=2)


def interpolate(
    source: NDArray[np.int64], x: NDArray[np.int64], y: NDArray[np.int64]
) -> NDArray[np.int32]:
    """Values between pixels.

    Args:
        source: :func:`packed` of (H, W, 3).
        x, y: (n,) positions in units of 1/32 pixel, whole pixels at their centres, from 1 to at
            most W - 3 and H - 3 pixels.

    Returns:
        (n, 3), in units of 1/2048.
    """
    weights = _weights()
    stride = source.shape[1]
    pixels = _in_fours(source).reshape(-1)
    first = ((y >> 5) - 1) * stride + ((x >> 5) - 1)
    phase = ((y & 31) << 5) | (x & 31)
    total = np.zeros((*x.shape, 4), np.int64)
    value, weight = np.empty_like(total), np.empty_like(total)
    for row in range(4):
        # "wrap" skips the check of every index; all are in range.
        pixels[row * stride :].take(first, out=_in_fours(value), mode="wrap")
        weights[row].take(phase, out=_in_fours(weight), mode="wrap")
        value *= weight
        total += value
    total = total[..., 0] + total[..., 1] + total[..., 2] + total[..., 3] + _BIAS
    result = np.empty((*x.shape, 3), np.int32)
    for channel in range(3):
        result[..., channel] = (total >> (_LANE * channel)) & _LANE_MASK
    result -= _LANE_BIAS
    return result


def _in_fours(numbers: NDArray[np.int64]) -> NDArray[Any]:
    """(…, 4) as (…) of 32 bytes, which ``take`` copies as fast as 8."""
    return numbers.view("V32")[..., 0]


def _means(block: NDArray[Any], factor: int) -> NDArray[Any]:
    """Means of squares; sums of rows first, which reads memory in order."""
    small = factor <= 128  # sums of 255 fit 16 bits, of squares 32
    rows = block[::factor].astype(np.int16 if small else np.int64)
    for row in range(1, factor):
        rows += block[row::factor]
    area = factor * factor
    means = np.empty((rows.shape[0], rows.shape[1] // factor, 3), block.dtype)
    for channel in range(3):  # NumPy's loops over the innermost three numbers are slow
        total = rows[:, ::factor, channel].astype(np.int32 if small else np.int64)
        for column in range(1, factor):
            total += rows[:, column::factor, channel]
        total *= 2
        total += area
        total //= 2 * area
        means[:, :, channel] = total
    return means


@functools.cache
def _weights() -> NDArray[Any]:
    """(4, 1024): the four weights of every row by 32 * (phase of y) + (phase of x)."""
    f = np.arange(SUBPIXELS, dtype=np.int64)
    axis = np.stack(
        [
            -(f**3) + 64 * f**2 - 1024 * f,
            3 * f**3 - 160 * f**2 + 65536,
            -3 * f**3 + 128 * f**2 + 1024 * f,
            f**3 - 32 * f**2,
        ]
    )
    both = axis[:, None, :, None] * axis[None, :, None, :]
    weights = (both.reshape(16, -1) + 2**20) >> (32 - WEIGHT_BITS)
    greatest = weights.argmax(axis=0)
    weights[greatest, np.arange(weights.shape[1])] += (1 << WEIGHT_BITS) - weights.sum(axis=0)
    return _in_fours(np.ascontiguousarray(weights.reshape(4, 4, -1).transpose(0, 2, 1)))
