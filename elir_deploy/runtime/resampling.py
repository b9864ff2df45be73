"""Bringing a picture to another size, exactly as Pillow does it, without holding it whole twice.

Enlarging (``sr``: nearest, ``bsr``: bicubic, a = -0.5) and fitting (bicubic, antialiased) are those
of ``Image.resize`` to the bit. Three properties of Pillow's resampling make pieces possible:

- It works along rows first and rounds to 8 bits, then along columns. Each pass treats its rows (or
  columns) independently, so a pass can be done in bands.
- Where a pass would keep the size it is left out.
- Enlarging by a power of two, the weights of an output pixel depend only on its place within the
  input pixel (the arithmetic is exact) and reach at most 2.5 input pixels: a cut-out with that
  margin gives what the whole picture gives.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["EnlargedPicture", "resize_into", "resize_to_square"]

#: Input pixels around a cut-out that its bicubic enlargement may read.
_MARGIN = 3
#: Pixels worked on at a time; Pillow takes 4 bytes for each.
_BAND_PIXELS = 2**22


class EnlargedPicture:
    """A picture as it is ``factor`` times larger; only the blocks asked for are ever made.

    Args:
        image: (H, W, 3) uint8.
        factor: 1 leaves it as it is.
        kernel: ``nearest`` or ``bicubic``; a factor of ``bicubic`` is a power of two.

    Attributes:
        height: of the enlarged picture in pixels.
        width: likewise.
    """

    def __init__(self, image: NDArray[np.uint8], factor: int, kernel: str) -> None:
        self._image = image
        self._factor = factor
        self._kernel = kernel
        self.height = image.shape[0] * factor
        self.width = image.shape[1] * factor

    def block(self, top: int, left: int, height: int, width: int) -> NDArray[np.uint8]:
        """(height, width, 3) uint8 of the enlarged picture from row ``top``, column ``left``.

        May be a view of the image: not to be written.
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
            size = (source.shape[1] * factor, source.shape[0] * factor)
            large = _resized(source, size)
        top, left = top - first_row * factor, left - first_column * factor
        return large[top : top + height, left : left + width]


def resize_to_square(picture: EnlargedPicture, side: int) -> NDArray[np.uint8]:
    """(side, side, 3) uint8: the picture, whatever its proportions, resized to a square.

    Takes ``3 * side * picture.height`` bytes beside small buffers.
    """
    narrow = np.empty((picture.height, side, 3), np.uint8)
    for top, rows in _bands(picture.height, picture.width):
        band = picture.block(top, 0, rows, picture.width)
        narrow[top : top + rows] = _resized(band, (side, rows))
    return _resized(narrow, (side, side))


def resize_into(image: NDArray[np.uint8], output: NDArray[np.uint8]) -> None:
    """Resize (h, w, 3) uint8 to fill ``output``, (H, W, 3) uint8.

    Takes ``3 * h * W`` bytes beside small buffers.
    """
    height, width = output.shape[:2]
    wide = _resized(image, (width, image.shape[0]))
    for left, columns in _bands(width, height):
        strip = wide[:, left : left + columns]
        output[:, left : left + columns] = _resized(strip, (columns, height))


def _bands(length: int, across: int) -> Iterator[tuple[int, int]]:
    """Start and thickness of the bands ``length`` is worked on in."""
    thickness = max(1, _BAND_PIXELS // across)
    for start in range(0, length, thickness):
        yield start, min(thickness, length - start)


def _resized(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    resized = Image.fromarray(np.ascontiguousarray(image)).resize(size, Image.Resampling.BICUBIC)
    return np.asarray(resized)
