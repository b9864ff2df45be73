"""Conversion between pixels, (H, W, 3) uint8 or, for floats, uint16, and tensors.

Floats are computed in the tensor's memory order, and only pixels are transposed, since strided
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
    """Fills one image of a tensor of ``spec``; floats are pixels / 255, or pixels / 65535.

    For one thread at a time.
    """

    def __init__(self, spec: TensorSpec) -> None:
        self._channels_first = spec.layout == "NCHW"
        self._staged = _Staged(spec)

    def __call__(self, pixels: NDArray[Any], tensor: NDArray[Any]) -> None:
        staged = self._staged.of(pixels.dtype)
        values = tensor if staged is None else staged
        values[...] = pixels.transpose(2, 0, 1) if self._channels_first else pixels
        if staged is not None:
            white = np.float32(np.iinfo(staged.dtype).max)
            np.divide(staged, white, out=tensor, dtype=np.float32)


class TensorToPixels:
    """Fills pixels from one image of a tensor of ``spec``.

    Floats are converted by :func:`elir_deploy.pixels.as_pixels`; what does not fit into the pixels,
    on the right and below, is cut off. For one thread at a time.
    """

    def __init__(self, spec: TensorSpec) -> None:
        self._channels_first = spec.layout == "NCHW"
        floats = spec.dtype == "float32"
        self._floats = np.empty(spec.shape[1:], np.float32) if floats else None
        self._staged = _Staged(spec)

    def __call__(self, tensor: NDArray[Any], pixels: NDArray[Any]) -> None:
        staged = self._staged.of(pixels.dtype)
        values = tensor if staged is None else as_pixels(tensor, staged, self._floats)
        height, width = pixels.shape[:2]
        if not self._channels_first:
            pixels[...] = values[:height, :width]
            return
        for channel in range(3):  # one by one: NumPy would step through all three at each pixel
            pixels[:, :, channel] = values[channel, :height, :width]


class _Staged:
    """Pixels in the order of a tensor of floats; none for one of pixels."""

    def __init__(self, spec: TensorSpec) -> None:
        self._shape = spec.shape[1:] if spec.dtype == "float32" else None
        self._arrays: dict[Any, NDArray[Any]] = {}

    def of(self, dtype: Any) -> NDArray[Any] | None:
        """The array for pixels of a type."""
        if self._shape is None:
            return None
        if dtype not in self._arrays:
            self._arrays[dtype] = np.empty(self._shape, dtype)
        return self._arrays[dtype]
