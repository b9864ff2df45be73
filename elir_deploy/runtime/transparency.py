"""Filling the transparent parts of a picture for a model.

A model spreads the colours of transparent pixels, most often black, into visible ones next to them.
So the picture is blended over a background of its own colours: averages over the smallest square
of the neighbourhood that has any visible pixels, weighted by alpha. Integer arithmetic gives the
same bytes everywhere.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from elir_deploy.runtime.resampling import resize_into

__all__ = ["without_transparency"]

#: Pixels per band.
_BAND_PIXELS = 2**20


def without_transparency(pixels: NDArray[Any], alpha: NDArray[Any]) -> NDArray[Any]:
    """Blend the picture over a background of its own colours.

    Args:
        pixels: (H, W, 3) uint8 or uint16; unchanged where it is opaque.
        alpha: (H, W) of the same type; the largest value is opaque.

    Returns:
        (H, W, 3) of this type; ``pixels`` itself if all of it is opaque or transparent.
    """
    full = int(np.iinfo(alpha.dtype).max)
    wide = _wide(alpha)
    if alpha.min() == full or alpha.max() == 0 or alpha.size == 1:
        return pixels
    background = np.empty_like(pixels)
    resize_into(without_transparency(*_halved(pixels, alpha)), background)
    for rows in _bands(*alpha.shape):
        weight = alpha[rows, :, None].astype(wide)
        under = background[rows]
        # Rounded to nearest; at most 255 * 255 + 127, which 16 bits hold, and the same with 16.
        mixed = weight * pixels[rows] + (wide(full) - weight) * under + wide(full // 2)
        under[:] = mixed // wide(full)
    return background


def _wide(values: NDArray[Any]) -> type[np.uint16 | np.uint32]:
    """A type for the product of two values."""
    return np.uint16 if values.dtype == np.uint8 else np.uint32


def _halved(pixels: NDArray[Any], alpha: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Averages of 2x2 pixels weighted by alpha, and the sums of alpha, up to full opacity."""
    height, width = ((length + 1) // 2 for length in alpha.shape)
    colours = np.empty((height, width, 3), pixels.dtype)
    weights = np.empty((height, width), alpha.dtype)
    for rows in _bands(height, width):
        below = slice(2 * rows.start, 2 * rows.stop)
        every = alpha[below, :, None].astype(_wide(alpha))
        weight, sums = _squares(every), _squares(every * pixels[below])
        colours[rows] = (sums + weight // 2) // np.maximum(weight, 1)
        weights[rows] = np.minimum(weight[:, :, 0], np.iinfo(alpha.dtype).max)
    return colours, weights


def _squares(values: NDArray[Any]) -> NDArray[Any]:
    """Sums of 2x2 values, fewer at the edges: (H, W, C) to (ceil(H / 2), ceil(W / 2), C)."""
    sums: NDArray[Any] = values[::2].astype(np.uint32 if values.dtype == np.uint16 else np.uint64)
    sums[: len(values) // 2] += values[1::2]
    halves: NDArray[Any] = sums[:, ::2].copy()
    halves[:, : sums.shape[1] // 2] += sums[:, 1::2]
    return halves


def _bands(height: int, width: int) -> list[slice]:
    rows = max(2, _BAND_PIXELS // width // 2 * 2)
    return [slice(top, min(top + rows, height)) for top in range(0, height, rows)]
