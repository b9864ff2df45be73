"""Networks in the place of the paper's rivals: as they enlarge, and much smaller."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class Enlarging(nn.Module):
    """Keeps what it gets, ``scale`` times as large; as a face model, beside something else."""

    def __init__(self, scale: int = 1, *, face: bool = False) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 3, 1, bias=False)
        with torch.no_grad():
            self.body.weight.copy_(torch.eye(3)[:, :, None, None])
        self.last = nn.Upsample(scale_factor=scale)
        self.face = face

    def forward(self, x: Any) -> Any:
        result = self.last(self.body(x))
        return (result, x) if self.face else result


class Random(nn.Module):
    """Keeps its weights, which are random; its results are beyond both ends."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 3, 1)

    def forward(self, x: Any) -> Any:
        return 1000 * self.body(x)


def raising() -> Any:
    raise RuntimeError("operator torchvision::nms does not exist")
