"""Resizing pictures with Pillow's arithmetic, without two full copies in memory.

Bicubic (a = -0.5, antialiased) is a pass along the rows, rounded to pixels, and then one along the
columns; with 8 bits each is bit-identical to Pillow's ``Image.resize`` with the other side
unchanged, and is skipped if its side is unchanged. 16 bits, which Pillow does not resize, have the
same integer weights, in units of 2^-22, and exact sums. The order is fixed here, since Pillow
13 starts with the columns if the height shrinks much more than the width.

Two properties allow working in pieces:

- A pass treats rows (or columns) independently, so it can process bands.
- When enlarging by a power of two, the weights of an output pixel depend only on its position in
  the input pixel (the arithmetic is exact) and reach at most 2.5 input pixels: a crop with that
  margin gives the same result as the whole picture.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["EnlargedPicture", "bands", "resize_into", "resize_to"]

#: Margin in input pixels that a crop's bicubic enlargement may read.
_MARGIN = 3
#: Pixels per band; Pillow needs 4 bytes for each.
_BAND_PIXELS = 2**22
#: Of a weight's fraction.
_BITS = 22
#: Of 16 bits so many outputs are computed at a time, along the other side of so many pixels.
_TOGETHER, _ACROSS = 32, 128


class EnlargedPicture:
    """A picture enlarged by ``factor``, of which only the requested blocks are computed.

    Args:
        image: (H, W, 3) uint8 or uint16.
        factor: enlargement; 1: none.
        kernel: ``nearest`` or ``bicubic``; a factor of ``bicubic`` is a power of two.

    Attributes:
        height: height of the enlarged picture in pixels.
        width: its width.
        dtype: type of its values.
    """

    def __init__(self, image: NDArray[Any], factor: int, kernel: str) -> None:
        self._image = image
        self._factor = factor
        self._kernel = kernel
        self.height = image.shape[0] * factor
        self.width = image.shape[1] * factor
        self.dtype = image.dtype

    def block(self, top: int, left: int, height: int, width: int) -> NDArray[Any]:
        """(height, width, 3) of the enlarged picture from row ``top``, column ``left``.

        It may be a view of the image: do not write to it.
        """
        factor = self._factor
        if factor == 1:
            return self._image[top : top + height, left : left + width]
        margin = _MARGIN if self._kernel == "bicubic" else 0
        first_row, first_column = max(0, top // factor - margin), max(0, left // factor - margin)
        last_row = -(-(top + height) // factor) + margin
        last_column = -(-(left + width) // factor) + margin
        source = self._image[first_row:last_row, first_column:last_column]
        if self._kernel == "nearest":
            large = source.repeat(factor, axis=0).repeat(factor, axis=1)
        else:
            large = _resized(source, source.shape[1] * factor, source.shape[0] * factor)
        top, left = top - first_row * factor, left - first_column * factor
        return large[top : top + height, left : left + width]


def resize_to(picture: EnlargedPicture, height: int, width: int) -> NDArray[Any]:
    """Resize the picture to (height, width, 3), ignoring proportions.

    Needs ``3 * width * picture.height`` values besides small buffers.
    """
    narrow = np.empty((picture.height, width, 3), picture.dtype)
    for top, rows in bands(picture.height, picture.width):
        band = picture.block(top, 0, rows, picture.width)
        narrow[top : top + rows] = _resized(band, width, rows)
    return _resized(narrow, width, height)


def resize_into(image: NDArray[Any], output: NDArray[Any]) -> None:
    """Resize (h, w, 3) or (h, w) to fill ``output``, (H, W, 3) or (H, W) of the same type.

    Needs ``3 * h * W`` values besides small buffers.
    """
    height, width = output.shape[:2]
    if max(image.shape[0], height) * width <= _BAND_PIXELS:
        output[...] = _resized(image, width, height)
        return
    wide = _resized(image, width, image.shape[0])
    for left, columns in bands(width, height):
        strip = wide[:, left : left + columns]
        output[:, left : left + columns] = _resized(strip, columns, height)


def bands(length: int, across: int) -> Iterator[tuple[int, int]]:
    """Start and thickness of the bands that ``length`` is divided into, ``across`` pixels wide."""
    thickness = max(1, _BAND_PIXELS // across)
    for start in range(0, length, thickness):
        yield start, min(thickness, length - start)


def _resized(image: NDArray[Any], width: int, height: int) -> NDArray[Any]:
    if image.dtype == np.uint16:
        return _deep_pass(_deep_pass(image, 1, width), 0, height)
    source = Image.fromarray(np.ascontiguousarray(image))
    wide = source.resize((width, source.height), Image.Resampling.BICUBIC)
    return np.asarray(wide.resize((width, height), Image.Resampling.BICUBIC))


# 16 bits --------------------------------------------------------------------------------------


def _deep_pass(image: NDArray[np.uint16], axis: int, length: int) -> NDArray[np.uint16]:
    """Resize one axis of (H, W, …) to ``length``.

    Floats of 64 bits hold the integers exactly, and are added several times as fast as integers.
    """
    if image.shape[axis] == length:
        return image
    begins, weights = _weights(image.shape[axis], length)
    shape = list(image.shape)
    shape[axis] = length
    output = np.empty(shape, np.uint16)
    # Both with the axis first.
    source, sink = np.moveaxis(image, axis, 0), np.moveaxis(output, axis, 0)
    for start in range(0, length, _TOGETHER):
        part = slice(start, min(start + _TOGETHER, length))
        first, last = int(begins[start]), int(begins[part.stop - 1]) + len(weights)
        # Beyond the last pixel weights are 0.
        index = np.minimum(begins[part] + np.arange(len(weights))[:, None], len(source) - 1) - first
        for across in range(0, source.shape[1], _ACROSS):
            block = source[first:last, across : across + _ACROSS]
            flat = block.astype(np.float64, order="C").reshape(len(block), -1)
            total = np.full((part.stop - start, flat.shape[1]), float(1 << (_BITS - 1)))
            for rows, weight in zip(index, weights[:, part], strict=True):
                total += flat[rows] * weight[:, None]
            np.floor(total * 2.0**-_BITS, out=total)
            values = np.clip(total, 0, 65535, out=total).reshape(-1, *block.shape[1:])
            sink[part, across : across + _ACROSS] = values
    return output


def _weights(before: int, after: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """For each of ``after`` pixels the first of ``before`` that it reads, and (taps, after) their
    weights, as Pillow computes them.
    """
    scale = before / after
    wide = max(scale, 1.0)
    centres = (np.arange(after) + 0.5) * scale
    begins = np.maximum((centres - 2 * wide + 0.5).astype(np.int64), 0)
    ends = np.minimum((centres + 2 * wide + 0.5).astype(np.int64), before)
    taps = np.arange(int((ends - begins).max()))[:, None]
    exact = np.where(
        taps < ends - begins, _bicubic((taps + begins - centres + 0.5) * (1 / wide)), 0.0
    )
    total = np.zeros(after)
    for row in exact:  # in this order
        total += row
    exact = exact / total * (1 << _BITS)
    return begins, np.trunc(exact + np.where(exact < 0, -0.5, 0.5))


def _bicubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    x = np.abs(x)
    inner = ((-0.5 + 2) * x - (-0.5 + 3)) * x * x + 1
    outer = (((x - 5) * x + 8) * x - 4) * -0.5
    values: NDArray[np.float64] = np.where(x < 1, inner, np.where(x < 2, outer, 0.0))
    return values
