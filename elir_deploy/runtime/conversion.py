"""Conversion between 8-bit pixels, (H, W, 3), and tensors.

Floats are computed in the tensor's memory order, and only bytes are transposed, since strided
passes over floats take several times as long.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from elir_deploy.pixels import as_pixels
from elir_deploy.runtime.tensors import TensorSpec

__all__ = ["PixelsToTensor", "TensorToPixels"]


class PixelsToTensor:
    """Fills one image of a tensor of ``spec``; floats are pixels / 255.

    For one thread at a time.
    """

    def __init__(self, spec: TensorSpec) -> None:
        self._channels_first = spec.layout == "NCHW"
        self._bytes = np.empty(spec.shape[1:], np.uint8) if spec.dtype == "float32" else None

    def __call__(self, pixels: NDArray[np.uint8], tensor: NDArray[Any]) -> None:
        values = tensor if self._bytes is None else self._bytes
        values[...] = pixels.transpose(2, 0, 1) if self._channels_first else pixels
        if self._bytes is not None:
            np.divide(self._bytes, np.float32(255), out=tensor, dtype=np.float32)


class TensorToPixels:
    """Fills pixels from one image of a tensor of ``spec``.

    Floats are converted by :func:`elir_deploy.pixels.as_pixels`; what does not fit into the pixels,
    on the right and below, is cut off. For one thread at a time.
    """

    def __init__(self, spec: TensorSpec) -> None:
        self._channels_first = spec.layout == "NCHW"
        floats = spec.dtype == "float32"
        self._floats = np.empty(spec.shape[1:], np.float32) if floats else None
        self._bytes = np.empty(spec.shape[1:], np.uint8) if floats else None

    def __call__(self, tensor: NDArray[Any], pixels: NDArray[np.uint8]) -> None:
        values = self._rounded(tensor)
        height, width = pixels.shape[:2]
        if not self._channels_first:
            pixels[...] = values[:height, :width]
            return
        for channel in range(3):  # one by one: NumPy would step through all three at each pixel
            pixels[:, :, channel] = values[channel, :height, :width]

    def _rounded(self, tensor: NDArray[Any]) -> NDArray[np.uint8]:
        if self._floats is None or self._bytes is None:
            return tensor
        return as_pixels(tensor, self._bytes, self._floats)
