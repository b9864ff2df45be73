"""8-bit pictures to what a network takes, and back."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["from_network", "to_network"]


def to_network(pixels: NDArray[np.uint8], io: str) -> NDArray[Any]:
    """(S, S, 3) uint8 RGB to a batch of one: uint8 NHWC, or float32 NCHW in [0, 1]."""
    if io == "uint8":
        return pixels[None]
    scaled = pixels.astype(np.float32) / np.float32(255)
    return np.ascontiguousarray(scaled.transpose(2, 0, 1)[None])


def from_network(batch: NDArray[Any]) -> NDArray[np.uint8]:
    """A batch of one, uint8 NHWC or float32 NCHW of any range, to (S, S, 3) uint8 RGB.

    Floats are clipped and rounded half to even, as the graphs of 8-bit bundles do it; what is not
    a number becomes black.
    """
    if batch.dtype == np.uint8:
        same: NDArray[np.uint8] = batch[0]
        return same
    clipped = np.nan_to_num(batch[0]).clip(0, 1).transpose(1, 2, 0)
    pixels: NDArray[np.uint8] = np.rint(clipped * np.float32(255)).astype(np.uint8)
    return pixels
