"""8-bit images to network inputs, and network outputs back."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from elir_deploy.pixels import as_pixels

__all__ = ["from_network", "to_network"]


def to_network(pixels: NDArray[np.uint8], io: str) -> NDArray[Any]:
    """(S, S, 3) uint8 RGB to a batch of one: uint8 NHWC, or float32 NCHW in [0, 1]."""
    if io == "uint8":
        return pixels[None]
    scaled = pixels.astype(np.float32) / np.float32(255)
    return np.ascontiguousarray(scaled.transpose(2, 0, 1)[None])


def from_network(batch: NDArray[Any]) -> NDArray[np.uint8]:
    """A batch of one, uint8 NHWC or float32 NCHW of any range, to (S, S, 3) uint8 RGB.

    Floats are converted by :func:`elir_deploy.pixels.as_pixels`.
    """
    if batch.dtype == np.uint8:
        same: NDArray[np.uint8] = batch[0]
        return same
    return as_pixels(batch[0].transpose(1, 2, 0))
