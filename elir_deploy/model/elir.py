"""The whole network and Algorithm 1 of the paper."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from elir_deploy.model.autoencoder import Decoder, Encoder
from elir_deploy.model.convolution import CollapsibleConv2d, expand_conv
from elir_deploy.model.estimator import CoarseEstimator, DenseBlock
from elir_deploy.model.vector_field import NormalizedConv, VectorField
from elir_deploy.tasks import Architecture

__all__ = ["Elir", "collapse_convolutions", "count_parameters", "expand_convolutions"]


class Elir(nn.Module):
    """Encoder, coarse estimator, vector field and decoder.

    Args:
        arch: the architecture.
        collapsible: build the over-parametrised form instead of the collapsed one.
    """

    def __init__(self, arch: Architecture, collapsible: bool = False) -> None:
        super().__init__()
        self.arch = arch
        self.encoder = Encoder(arch)
        self.estimator = CoarseEstimator(arch, collapsible)
        self.vector_field = VectorField(arch, collapsible)
        self.decoder = Decoder(arch)

    @property
    def collapsible(self) -> bool:
        """Whether the model has over-parametrised convolutions."""
        return any(isinstance(module, CollapsibleConv2d) for module in self.modules())

    def forward(self, image: Tensor, steps: int, noise: Tensor | None = None) -> Tensor:
        """Restore a batch: Algorithm 1.

        Args:
            image: degraded images (N, 3, H, W) in [0, 1]; H and W multiples of
                ``arch.image_multiple``.
            steps: Euler steps M.
            noise: epsilon, scaled by sigma_s, of the latent's shape; None: no noise.

        Returns:
            Restored images (N, 3, H, W), clipped to [0, 1].
        """
        z = self.estimator(self.encoder(image))
        if noise is not None:
            z = z + noise
        for k in range(steps):
            t = torch.full((z.shape[0],), k / steps, dtype=z.dtype, device=z.device)
            z = z + self.vector_field(z, t) / steps
        out: Tensor = self.decoder(z)
        return out.clamp(0, 1)


def collapse_convolutions(module: nn.Module) -> None:
    """Collapse every over-parametrised convolution in ``module``, in place.

    Exact up to one rounding of each weight (paper, Section 7.3.2).
    """
    for name, child in list(module.named_children()):
        if isinstance(child, CollapsibleConv2d):
            setattr(module, name, child.collapse())
        else:
            collapse_convolutions(child)


def expand_convolutions(module: nn.Module) -> None:
    """Over-parametrise the coarse estimator and the vector field in ``module``, in place.

    The inverse of :func:`collapse_convolutions`, for further training.
    """
    for child in module.children():
        if isinstance(child, DenseBlock):
            child.convs = nn.ModuleList(_expanded(conv) for conv in child.convs)
        elif isinstance(child, NormalizedConv):
            child.conv = _expanded(child.conv)
        else:
            expand_convolutions(child)


def _expanded(conv: nn.Module) -> nn.Module:
    return expand_conv(conv) if isinstance(conv, nn.Conv2d) else conv


def count_parameters(module: nn.Module) -> int:
    """Number of parameters; shared ones count once."""
    return sum(parameter.numel() for parameter in module.parameters())
