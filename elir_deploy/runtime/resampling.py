"""Resizing pictures with Pillow's arithmetic, without two full copies in memory.

Bicubic (a = -0.5, antialiased) is a pass along the rows, rounded to 8 bits, and then one along the
columns; each is bit-identical to Pillow's ``Image.resize`` with the other side unchanged, and is
skipped if its side is unchanged. The order is fixed here, since Pillow 13 starts with the columns
if the height shrinks much more than the width.

Two properties allow working in pieces:

- A pass treats rows (or columns) independently, so it can process bands.
- When enlarging by a power of two, the weights of an output pixel depend only on its position in
  the input pixel (the arithmetic is exact) and reach at most 2.5 input pixels: a crop with that
  margin gives the same result as the whole picture.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["EnlargedPicture", "bands", "resize_into", "resize_to"]

#: Margin in input pixels that a crop's bicubic enlargement may read.
_MARGIN = 3
#: Pixels per band; Pillow needs 4 bytes for each.
_BAND_PIXELS = 2**22


class EnlargedPicture:
    """A picture enlarged by ``factor``, of which only the requested blocks are computed.

    Args:
        image: (H, W, 3) uint8.
        factor: enlargement; 1: none.
        kernel: ``nearest`` or ``bicubic``; a factor of ``bicubic`` is a power of two.

    Attributes:
        height: height of the enlarged picture in pixels.
        width: its width.
    """

    def __init__(self, image: NDArray[np.uint8], factor: int, kernel: str) -> None:
        self._image = image
        self._factor = factor
        self._kernel = kernel
        self.height = image.shape[0] * factor
        self.width = image.shape[1] * factor

    def block(self, top: int, left: int, height: int, width: int) -> NDArray[np.uint8]:
        """(height, width, 3) uint8 of the enlarged picture from row ``top``, column ``left``.

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
            large = _resized(source, source.shape[1] * factor, source.shape[0])
            large = _resized(large, large.shape[1], source.shape[0] * factor)
        top, left = top - first_row * factor, left - first_column * factor
        return large[top : top + height, left : left + width]


def resize_to(picture: EnlargedPicture, height: int, width: int) -> NDArray[np.uint8]:
    """Resize the picture to (height, width, 3) uint8, ignoring proportions.

    Needs ``3 * width * picture.height`` bytes besides small buffers.
    """
    narrow = np.empty((picture.height, width, 3), np.uint8)
    for top, rows in bands(picture.height, picture.width):
        band = picture.block(top, 0, rows, picture.width)
        narrow[top : top + rows] = _resized(band, width, rows)
    return _resized(narrow, width, height)


def resize_into(image: NDArray[np.uint8], output: NDArray[np.uint8]) -> None:
    """Resize (h, w, 3) uint8 to fill ``output``, (H, W, 3) uint8.

    Needs ``3 * h * W`` bytes besides small buffers.
    """
    height, width = output.shape[:2]
    wide = _resized(image, width, image.shape[0])
    for left, columns in bands(width, height):
        strip = wide[:, left : left + columns]
        output[:, left : left + columns] = _resized(strip, columns, height)


def bands(length: int, across: int) -> Iterator[tuple[int, int]]:
    """Start and thickness of the bands that ``length`` is divided into, ``across`` pixels wide."""
    thickness = max(1, _BAND_PIXELS // across)
    for start in range(0, length, thickness):
        yield start, min(thickness, length - start)


def _resized(image: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    """One pass: either ``width`` or ``height`` is unchanged."""
    source = Image.fromarray(np.ascontiguousarray(image))
    return np.asarray(source.resize((width, height), Image.Resampling.BICUBIC))
