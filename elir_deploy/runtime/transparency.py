"""Filling the transparent parts of a picture for a model.

A model spreads the colours of transparent pixels, most often black, into visible ones next to them.
So the picture is blended over a background of its own colours: averages over the smallest square
of the neighbourhood that has any visible pixels, weighted by alpha. Integer arithmetic gives the
same bytes everywhere.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from elir_deploy.runtime.resampling import resize_into

__all__ = ["without_transparency"]

#: Pixels per band.
_BAND_PIXELS = 2**20


def without_transparency(pixels: NDArray[np.uint8], alpha: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Blend the picture over a background of its own colours.

    Args:
        pixels: (H, W, 3) uint8; unchanged where alpha is 255.
        alpha: (H, W) uint8.

    Returns:
        (H, W, 3) uint8; ``pixels`` itself if all of it is opaque or transparent.
    """
    if alpha.min() == 255 or alpha.max() == 0 or alpha.size == 1:
        return pixels
    background = np.empty_like(pixels)
    resize_into(without_transparency(*_halved(pixels, alpha)), background)
    for rows in _bands(*alpha.shape):
        weight = alpha[rows, :, None].astype(np.uint16)
        under = background[rows]
        # Rounded to nearest; at most 255 * 255 + 127, which 16 bits hold.
        under[:] = (weight * pixels[rows] + (255 - weight) * under + 127) // 255
    return background


def _halved(
    pixels: NDArray[np.uint8], alpha: NDArray[np.uint8]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Averages of 2x2 pixels weighted by alpha, and the sums of alpha, up to 255."""
    height, width = ((length + 1) // 2 for length in alpha.shape)
    colours = np.empty((height, width, 3), np.uint8)
    weights = np.empty((height, width), np.uint8)
    for rows in _bands(height, width):
        below = slice(2 * rows.start, 2 * rows.stop)
        every = alpha[below, :, None].astype(np.uint16)
        weight, sums = _squares(every), _squares(every * pixels[below])
        colours[rows] = (sums + weight // 2) // np.maximum(weight, 1)
        weights[rows] = np.minimum(weight[:, :, 0], 255)
    return colours, weights


def _squares(values: NDArray[np.uint16]) -> NDArray[np.uint32]:
    """Sums of 2x2 values, fewer at the edges: (H, W, C) to (ceil(H / 2), ceil(W / 2), C)."""
    sums: NDArray[np.uint32] = values[::2].astype(np.uint32)
    sums[: len(values) // 2] += values[1::2]
    halves: NDArray[np.uint32] = sums[:, ::2].copy()
    halves[:, : sums.shape[1] // 2] += sums[:, 1::2]
    return halves


def _bands(height: int, width: int) -> list[slice]:
    rows = max(2, _BAND_PIXELS // width // 2 * 2)
    return [slice(top, min(top + rows, height)) for top in range(0, height, rows)]
