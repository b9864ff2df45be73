"""The vector field v(z, t): a convolutional U-Net with a time embedding (paper, Section 7.3.2)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from elir_deploy.model.convolution import conv3x3
from elir_deploy.tasks import GROUPS, Architecture

__all__ = [
    "DownLevel",
    "NormalizedConv",
    "ResidualBlock",
    "TimeEmbedding",
    "UpLevel",
    "VectorField",
]

NORM_EPS = 1e-5
#: Scales time in [0, 1] to the range that sinusoidal embeddings were designed for.
TIME_SCALE = 1000.0
MAX_PERIOD = 10000.0


class TimeEmbedding(nn.Module):
    """Times (N,) in [0, 1] to embeddings (N, time_width)."""

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        self.frequencies = arch.time_frequencies
        self.linear1 = nn.Linear(arch.time_frequencies, arch.time_width)
        self.linear2 = nn.Linear(arch.time_width, arch.time_width)

    def forward(self, t: Tensor) -> Tensor:
        half = self.frequencies // 2
        k = torch.arange(half, dtype=t.dtype, device=t.device)
        angles = TIME_SCALE * t[:, None] * torch.exp(-math.log(MAX_PERIOD) / (half - 1) * k)
        features = torch.cat([angles.cos(), angles.sin()], dim=1)
        out: Tensor = self.linear2(F.silu(self.linear1(features)))
        return out


class NormalizedConv(nn.Module):
    """GroupNorm, SiLU, 3x3 convolution: (N, in, h, w) to (N, out, h, w)."""

    def __init__(self, in_channels: int, out_channels: int, collapsible: bool) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(GROUPS, in_channels, eps=NORM_EPS)
        self.conv = conv3x3(in_channels, out_channels, collapsible)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(F.silu(self.norm(x)))
        return out


class ResidualBlock(nn.Module):
    """Two normalised convolutions beside a 1x1 skip; the time embedding enters as a bias.

    (N, in, h, w) and an embedding (N, time_width) to (N, out, h, w).
    """

    def __init__(
        self, in_channels: int, out_channels: int, time_width: int, collapsible: bool
    ) -> None:
        super().__init__()
        self.time_bias = nn.Linear(time_width, out_channels)
        self.block1 = NormalizedConv(in_channels, out_channels, collapsible)
        self.block2 = NormalizedConv(out_channels, out_channels, collapsible)
        self.skip = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        hidden = self.block1(x) + self.time_bias(F.silu(embedding))[:, :, None, None]
        out: Tensor = self.block2(hidden) + self.skip(x)
        return out


class DownLevel(nn.Module):
    """A residual block, then a stride-2 convolution unless the multiplier is 1."""

    def __init__(self, width: int, multiplier: int, time_width: int, collapsible: bool) -> None:
        super().__init__()
        self.residual = ResidualBlock(width, width, time_width, collapsible)
        self.downsample = (
            nn.Identity()
            if multiplier == 1
            else nn.Conv2d(width, width * multiplier, 3, stride=2, padding=1)
        )

    def forward(self, x: Tensor, embedding: Tensor) -> tuple[Tensor, Tensor]:
        """The skip, taken before downsampling, and the downsampled features."""
        skip = self.residual(x, embedding)
        return skip, self.downsample(skip)


class UpLevel(nn.Module):
    """A transposed convolution unless the multiplier is 1, then a residual block on the
    concatenation [upsampled, skip]."""

    def __init__(self, width: int, multiplier: int, time_width: int, collapsible: bool) -> None:
        super().__init__()
        self.upsample = (
            nn.Identity()
            if multiplier == 1
            else nn.ConvTranspose2d(width * multiplier, width, 4, stride=2, padding=1)
        )
        self.residual = ResidualBlock(2 * width, width, time_width, collapsible)

    def forward(self, x: Tensor, skip: Tensor, embedding: Tensor) -> Tensor:
        out: Tensor = self.residual(torch.cat([self.upsample(x), skip], dim=1), embedding)
        return out


class VectorField(nn.Module):
    """v(z, t): latents (N, latent_channels, h, w) and times (N,) to velocities of that shape."""

    def __init__(self, arch: Architecture, collapsible: bool) -> None:
        super().__init__()
        width = arch.vector_field_width
        self.time_embedding = TimeEmbedding(arch)
        self.first_proj = nn.Conv2d(arch.latent_channels, width, 1)
        levels = []  # (width, multiplier) of each level, top first
        for multiplier in arch.vector_field_multipliers:
            levels.append((width, multiplier))
            width *= multiplier
        self.down = nn.ModuleList(DownLevel(w, m, arch.time_width, collapsible) for w, m in levels)
        self.middle = nn.ModuleList(
            ResidualBlock(width, width, arch.time_width, collapsible)
            for _ in range(arch.middle_blocks)
        )
        self.up = nn.ModuleList(
            UpLevel(w, m, arch.time_width, collapsible) for w, m in reversed(levels)
        )
        top = arch.vector_field_width
        self.final_block = NormalizedConv(top, top, collapsible)
        self.final_proj = nn.Conv2d(top, arch.latent_channels, 1)

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        embedding = self.time_embedding(t)
        x = self.first_proj(z)
        skips = []
        for level in self.down:
            skip, x = level(x, embedding)
            skips.append(skip)
        for block in self.middle:
            x = block(x, embedding)
        for level in self.up:
            x = level(x, skips.pop(), embedding)
        out: Tensor = self.final_proj(self.final_block(x))
        return out
