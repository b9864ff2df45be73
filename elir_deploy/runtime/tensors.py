"""Descriptions of tensors between stages."""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["TensorSpec"]

_AXES = {"NHWC": (1, 2, 3), "NCHW": (2, 3, 1)}  # of height, width, channels


@dataclass(frozen=True)
class TensorSpec:
    """Name, type and shape of a tensor.

    Attributes:
        name: name of the graph's input or output.
        dtype: ``uint8`` or ``float32``.
        shape: four dimensions in the order of ``layout``; the first is the batch.
        layout: ``NHWC`` or ``NCHW``.
    """

    name: str
    dtype: str
    shape: tuple[int, int, int, int]
    layout: str

    @property
    def height(self) -> int:
        return self.shape[_AXES[self.layout][0]]

    @property
    def width(self) -> int:
        return self.shape[_AXES[self.layout][1]]

    @property
    def channels(self) -> int:
        return self.shape[_AXES[self.layout][2]]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * (1 if self.dtype == "uint8" else 4)

    def __str__(self) -> str:
        sides = "x".join(str(side) for side in self.shape)
        return f"{self.name}: {self.dtype} {sides} {self.layout}"
