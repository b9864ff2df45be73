"""Pictures unlike any photograph, drawn here: what a customer's screenshots and scans are like.

Photographs are what precisions are calibrated and verified on. What else a precision ruins shows
on pages of text, on fine patterns and on colours at the ends of their range.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["checks", "flat", "synthetic_pictures"]

#: Letters five pixels wide and seven high: a number for each column, its lowest bit on top.
_LETTERS = {
    "A": (0x7E, 0x11, 0x11, 0x11, 0x7E),
    "E": (0x7F, 0x49, 0x49, 0x49, 0x41),
    "H": (0x7F, 0x08, 0x08, 0x08, 0x7F),
    "I": (0x00, 0x41, 0x7F, 0x41, 0x00),
    "L": (0x7F, 0x40, 0x40, 0x40, 0x40),
    "N": (0x7F, 0x02, 0x0C, 0x10, 0x7F),
    "O": (0x3E, 0x41, 0x41, 0x41, 0x3E),
    "R": (0x7F, 0x09, 0x19, 0x29, 0x46),
    "S": (0x46, 0x49, 0x49, 0x49, 0x31),
    "T": (0x01, 0x01, 0x7F, 0x01, 0x01),
    " ": (0x00, 0x00, 0x00, 0x00, 0x00),
}
_INK = 16
_PATCH = 16  # side in pixels of a patch of colour


def synthetic_pictures(side: int) -> dict[str, NDArray[np.uint8]]:
    """The set, the same on every machine: name to (side, side, 3) uint8 RGB."""
    # RandomState's numbers are promised never to change.
    random = np.random.RandomState(0)
    rows, columns = np.indices((side, side))
    ramp = np.linspace(0, 255, side).round().astype(np.uint8)
    ramps = np.stack([ramp[columns], ramp[rows], ramp[side - 1 - columns]], axis=2)
    patches = 255 * random.randint(0, 2, (-(-side // _PATCH), -(-side // _PATCH), 3))
    speckle = 255 * random.randint(0, 2, (side, side))
    return {
        **{f"checks{square}": checks(side, square) for square in (1, 2, 4)},
        "text": _text(side, random),
        "lines": _lines(side),
        "gradient": ramps,
        "white": flat(side, 255, 255, 255),
        "grey": flat(side, 128, 128, 128),
        "magenta": flat(side, 255, 0, 255),
        "speckle": _grey(speckle),
        "patches": patches.astype(np.uint8).repeat(_PATCH, 0).repeat(_PATCH, 1)[:side, :side],
    }


def flat(side: int, red: int, green: int, blue: int) -> NDArray[np.uint8]:
    """(side, side, 3) uint8 RGB of one colour."""
    return np.tile(np.array([red, green, blue], np.uint8), (side, side, 1))


def checks(side: int, square: int) -> NDArray[np.uint8]:
    """A chequered board: (side, side, 3) uint8, black and white, ``square`` pixels a square."""
    return _grey(255 * ((np.indices((side, side)) // square).sum(axis=0) % 2))


def _grey(values: NDArray[np.integer]) -> NDArray[np.uint8]:
    return values.astype(np.uint8)[..., None].repeat(3, axis=2)


def _lines(side: int) -> NDArray[np.uint8]:
    """Gratings: upright of one pixel, level of two, upright of four, aslant of three."""
    rows, columns = np.indices((side, side))
    upper, left = rows < side // 2, columns < side // 2
    bright = np.select(
        [upper & left, upper, left], [columns % 2, rows // 2 % 2, columns // 4 % 2],
        (rows + columns) // 3 % 2,
    )  # fmt: skip
    return _grey(255 * bright)


def _text(side: int, random: np.random.RandomState) -> NDArray[np.uint8]:
    """A page: small print above, and letters twice as large below."""
    page = np.full((side, side), 255, np.uint8)
    for scale, top, bottom in ((1, 0, side // 2), (2, side // 2, side)):
        for y in range(top + 2 * scale, bottom - 8 * scale, 10 * scale):
            for x in range(2 * scale, side - 6 * scale, 6 * scale):
                columns = list(_LETTERS.values())[random.randint(len(_LETTERS))]
                bits = np.array(columns)[None, :] >> np.arange(7)[:, None] & 1
                letter = bits.repeat(scale, 0).repeat(scale, 1) == 1
                page[y : y + 7 * scale, x : x + 5 * scale][letter] = _INK
    return _grey(page)
