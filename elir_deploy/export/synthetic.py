"""Synthetic pictures: drawn, unlike any photograph, as customers' screenshots and scans are.

Precisions are calibrated on photographs; these show what else they lose. Each is here because a
precision loses most on it, or on it alone (docs/decisions.md has the figures).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["checks", "flat", "synthetic_pictures"]

_PATCH = 16  # side in pixels of a patch of colour


def synthetic_pictures(height: int, width: int) -> dict[str, NDArray[np.uint8]]:
    """The pictures, the same on every machine: name to (height, width, 3) uint8 RGB."""
    # RandomState's numbers are promised never to change.
    random = np.random.RandomState(0)
    patches = 255 * random.randint(0, 2, (-(-height // _PATCH), -(-width // _PATCH), 3))
    return {
        "lines": _lines(height, width),
        "white": flat(height, width, 255, 255, 255),
        "magenta": flat(height, width, 255, 0, 255),
        "speckle": _grey(255 * random.randint(0, 2, (height, width))),
        "patches": _enlarged(patches)[:height, :width],
    }


def flat(height: int, width: int, red: int, green: int, blue: int) -> NDArray[np.uint8]:
    """(height, width, 3) uint8 RGB of one colour."""
    return np.tile(np.array([red, green, blue], np.uint8), (height, width, 1))


def checks(height: int, width: int, square: int) -> NDArray[np.uint8]:
    """A chequered board: (height, width, 3), black and white, ``square`` pixels a square."""
    return _grey(255 * ((np.indices((height, width)) // square).sum(axis=0) % 2))


def _enlarged(patches: NDArray[np.integer]) -> NDArray[np.uint8]:
    return patches.astype(np.uint8).repeat(_PATCH, 0).repeat(_PATCH, 1)


def _grey(values: NDArray[np.integer]) -> NDArray[np.uint8]:
    return values.astype(np.uint8)[..., None].repeat(3, axis=2)


def _lines(height: int, width: int) -> NDArray[np.uint8]:
    """Gratings: vertical of one pixel, horizontal of two, vertical of four, diagonal of three."""
    rows, columns = np.indices((height, width))
    upper, left = rows < height // 2, columns < width // 2
    bright = np.select(
        [upper & left, upper, left], [columns % 2, rows // 2 % 2, columns // 4 % 2],
        (rows + columns) // 3 % 2,
    )  # fmt: skip
    return _grey(255 * bright)
