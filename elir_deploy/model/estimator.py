"""The coarse estimator g: an l2 estimate of the clean latent (paper, Sections 4.2 and 7.3.1)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from elir_deploy.model.convolution import conv3x3
from elir_deploy.tasks import Architecture

__all__ = ["CoarseEstimator", "DenseBlock", "ResidualInResidualDenseBlock"]

#: Factor on every residual branch of the RRDB.
RESIDUAL_SCALE = 0.2
#: Convolutions per dense block; the last one returns to the latent's channels.
DENSE_CONVOLUTIONS = 5
#: Dense blocks per RRDB.
DENSE_BLOCKS = 3


class DenseBlock(nn.Module):
    """Each convolution takes all earlier outputs; (N, channels, h, w) in and out.

    Attributes:
        residual_scale: factor on the branch; 1 once it is folded into the last convolution.
    """

    def __init__(self, channels: int, growth: int, collapsible: bool) -> None:
        super().__init__()
        self.residual_scale = RESIDUAL_SCALE
        self.convs = nn.ModuleList(
            conv3x3(
                channels + k * growth,
                growth if k < DENSE_CONVOLUTIONS - 1 else channels,
                collapsible,
            )
            for k in range(DENSE_CONVOLUTIONS)
        )

    def forward(self, x: Tensor) -> Tensor:
        features = [x]
        for conv in self.convs[:-1]:
            features.append(F.silu(conv(torch.cat(features, dim=1))))
        branch: Tensor = self.convs[-1](torch.cat(features, dim=1))
        if self.residual_scale != 1:
            branch = branch * self.residual_scale
        return branch + x


class ResidualInResidualDenseBlock(nn.Module):
    """``0.2 * f(x) + x`` over three dense blocks."""

    def __init__(self, channels: int, growth: int, collapsible: bool) -> None:
        super().__init__()
        self.dense_blocks = nn.Sequential(
            *(DenseBlock(channels, growth, collapsible) for _ in range(DENSE_BLOCKS))
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.dense_blocks(x) * RESIDUAL_SCALE + x
        return out


class CoarseEstimator(nn.Module):
    """``z + cascade(z)``, or ``z`` without blocks; (N, latent_channels, h, w) in and out."""

    def __init__(self, arch: Architecture, collapsible: bool) -> None:
        super().__init__()
        self.cascade = nn.Sequential(
            *(
                ResidualInResidualDenseBlock(
                    arch.latent_channels, arch.estimator_growth, collapsible
                )
                for _ in range(arch.estimator_blocks)
            )
        )

    def forward(self, latent: Tensor) -> Tensor:
        if not self.cascade:
            return latent
        out: Tensor = latent + self.cascade(latent)
        return out
