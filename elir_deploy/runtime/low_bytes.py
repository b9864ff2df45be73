"""The lower bytes of 16-bit colours, which Pillow cuts off.

Of each two bytes Pillow keeps the one that is higher in the file's byte order. Told that the order
is the other one, it keeps the lower one instead: decoding a file a second time gives what is
missing.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["LowBytes", "is_cut"]

_OTHER_ORDER = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
_INTERLEAVED = "LA;16B"
_PLANES = 284


def is_cut(image: Any) -> bool:
    """Whether Pillow cuts the values of an image that is opened but not loaded yet."""
    grey = image.mode.startswith("I")
    return not grey and any(";16" in _raw_mode(tile) for tile in image.tile)


class LowBytes:
    """A second image of a file.

    Args:
        image: opened, not loaded, of values that Pillow cuts.
    """

    def __init__(self, image: Any) -> None:
        self._interleaved = _raw_mode(image.tile[0]) == _INTERLEAVED
        for number, tile in enumerate(image.tile):
            image.tile[number] = _with_raw_mode(tile, _other(_raw_mode(tile)))
        image.load()
        self._image: Image.Image = image

    @staticmethod
    def possible(image: Any) -> bool:
        """Whether :func:`is_cut` is true of an image whose lower bytes can be had."""
        tags = getattr(image, "tag_v2", {})
        # libtiff unpacks planes itself.
        whole = all(_other(_raw_mode(tile)) for tile in image.tile)
        return whole and tags.get(_PLANES) != 2

    def added_to(
        self, high: NDArray[np.uint8], box: tuple[int, int, int, int]
    ) -> NDArray[np.uint16]:
        """(h, w, 3 or 4) uint16, of the part ``box`` whose higher bytes are ``high``."""
        low = np.asarray(self._image.crop(box))
        if self._interleaved:  # high and low of grey and alpha
            high, low = low[:, :, [0, 0, 0, 2]], low[:, :, [1, 1, 1, 3]]
        values = high.astype(np.uint16)
        values <<= np.uint16(8)
        values |= low[:, :, : high.shape[2]]
        return values


def _raw_mode(tile: Any) -> str:
    """How the values of a piece of the file are stored."""
    options = tile[3]
    mode = options[0] if isinstance(options, tuple) and options else options
    return mode if isinstance(mode, str) else ""


def _other(mode: str) -> str | None:
    """The mode that gives the lower bytes; None: there is none."""
    if mode == _INTERLEAVED:
        return "RGBA"
    name, _, order = mode.partition(";16")
    if name not in ("RGB", "RGBA", "RGBX") or order not in _OTHER_ORDER:
        return None
    return f"{name};16{_OTHER_ORDER[order]}"


def _with_raw_mode(tile: Any, mode: str | None) -> Any:
    options = (mode, *tile[3][1:]) if isinstance(tile[3], tuple) else mode
    changed = (*tile[:3], options)
    # A plain tuple before Pillow 11, a named one since.
    return tile._make(changed) if hasattr(tile, "_make") else changed
