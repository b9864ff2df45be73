"""8-bit images to network inputs, and network outputs back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elir_deploy.pixels import as_pixels
from elir_deploy.runtime.manifest import NOISE_TENSOR
from elir_deploy.runtime.noise import NoiseField
from elir_deploy.scopes import FUSED, STAGE_TENSORS

__all__ = ["Feeder", "from_network", "to_network"]


@dataclass(frozen=True)
class Feeder:
    """Makes the inputs of a whole network for a picture.

    Attributes:
        io: format of the image: ``uint8`` or ``float32``.
        noise: that the second input is filled from; None: the graph has its noise.
        channels: of the latent.
        stride: side of a pixel of the latent in pixels of the image.
    """

    io: str
    noise: NoiseField | None = None
    channels: int = 16
    stride: int = 8

    def __call__(self, pixels: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        """Input name to array, for an image (H, W, 3) uint8 RGB and the noise of a picture."""
        inputs = {STAGE_TENSORS[FUSED][0]: to_network(pixels, self.io)}
        if self.noise is not None:
            height, width = (side // self.stride for side in pixels.shape[:2])
            values = np.empty((1, self.channels, height, width), np.float32)
            self.noise.fill(values[0], 0, 0)
            inputs[NOISE_TENSOR] = values
        return inputs


def to_network(pixels: NDArray[np.uint8], io: str) -> NDArray[Any]:
    """(H, W, 3) uint8 RGB to a batch of one: uint8 NHWC, or float32 NCHW in [0, 1]."""
    if io == "uint8":
        return pixels[None]
    scaled = pixels.astype(np.float32) / np.float32(255)
    return np.ascontiguousarray(scaled.transpose(2, 0, 1)[None])


def from_network(batch: NDArray[Any]) -> NDArray[np.uint8]:
    """A batch of one, uint8 NHWC or float32 NCHW of any range, to (H, W, 3) uint8 RGB.

    Floats are converted by :func:`elir_deploy.pixels.as_pixels`.
    """
    if batch.dtype == np.uint8:
        same: NDArray[np.uint8] = batch[0]
        return same
    return as_pixels(batch[0].transpose(1, 2, 0))
