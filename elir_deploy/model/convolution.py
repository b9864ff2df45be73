"""Collapsible convolution: two linear layers while training, one 3x3 convolution afterwards.

Paper, Section 7.3.2: each 3x3 convolution is widened fourfold and followed by a 1x1 convolution;
with nothing between them the two are one linear map.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["CollapsibleConv2d", "compose_with_pointwise", "conv3x3"]

#: Width of the hidden layer of an over-parametrised convolution, in output widths.
EXPANSION = 4


class CollapsibleConv2d(nn.Module):
    """A 3x3 convolution to ``EXPANSION`` times the output width, then a 1x1 convolution.

    Input (N, in_channels, H, W), output (N, out_channels, H, W).
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        hidden = EXPANSION * out_channels
        self.expand = nn.Conv2d(in_channels, hidden, 3, padding=1)
        self.project = nn.Conv2d(hidden, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.project(self.expand(x))
        return out

    def collapse(self) -> nn.Conv2d:
        """The single 3x3 convolution that computes the same function."""
        return compose_with_pointwise(self.expand, self.project)


def compose_with_pointwise(conv: nn.Conv2d, pointwise: nn.Conv2d) -> nn.Conv2d:
    """The one convolution equal to ``pointwise(conv(x))``, borders included.

    Zero padding happens before ``conv`` only, so the composition is exact at the borders too. The
    products are summed in float64 and rounded once.
    """
    inner = conv.weight.detach().double()  # (hidden, in, kh, kw)
    outer = pointwise.weight.detach().double().flatten(1)  # (out, hidden)
    weight = torch.einsum("oh,hikl->oikl", outer, inner)
    bias = torch.zeros(outer.shape[0], dtype=torch.float64)
    if conv.bias is not None:
        bias = bias + outer @ conv.bias.detach().double()
    if pointwise.bias is not None:
        bias = bias + pointwise.bias.detach().double()
    composed = nn.Conv2d(
        conv.in_channels,
        pointwise.out_channels,
        (conv.kernel_size[0], conv.kernel_size[1]),
        stride=(conv.stride[0], conv.stride[1]),
        padding=conv.padding,  # type: ignore[arg-type]  # annotated as str | tuple[int, ...]
        dtype=conv.weight.dtype,
        device=conv.weight.device,
    )
    with torch.no_grad():
        composed.weight.copy_(weight)
        assert composed.bias is not None
        composed.bias.copy_(bias)
    composed.weight.requires_grad_(conv.weight.requires_grad)
    composed.bias.requires_grad_(conv.weight.requires_grad)
    return composed.train(conv.training)


def conv3x3(in_channels: int, out_channels: int, collapsible: bool) -> nn.Module:
    """A 3x3 convolution that keeps the size, in its training or its collapsed form."""
    if collapsible:
        return CollapsibleConv2d(in_channels, out_channels)
    return nn.Conv2d(in_channels, out_channels, 3, padding=1)
