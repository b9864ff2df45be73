"""Collapsible convolution: two linear layers during training, one 3x3 convolution afterwards.

Paper, Section 7.3.2: each 3x3 convolution is widened fourfold and followed by a 1x1 convolution,
without an activation between them. The training form multiplies the two weights in every call and
convolves once: the gradients are the same, and the fourfold features are never computed.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["CollapsibleConv2d", "compose_with_pointwise", "conv3x3", "expand_conv"]

#: Width of the hidden layer of an over-parametrised convolution, relative to its output.
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
        # In float32: half-precision products of weights would add rounding errors.
        with torch.autocast(x.device.type, enabled=False):
            weight, bias = _composed(
                self.expand.weight, self.expand.bias, self.project.weight, self.project.bias
            )
        return F.conv2d(x, weight, bias, padding=1)

    def collapse(self) -> nn.Conv2d:
        """The equivalent 3x3 convolution."""
        return compose_with_pointwise(self.expand, self.project)


def compose_with_pointwise(conv: nn.Conv2d, pointwise: nn.Conv2d) -> nn.Conv2d:
    """The convolution equivalent to ``pointwise(conv(x))``.

    Only ``conv`` pads, so the composition is exact at the borders too. Products are summed in
    float64 and rounded once.
    """
    weight, bias = _composed(
        conv.weight.detach().double(),
        _as_float64(conv.bias),
        pointwise.weight.detach().double(),
        _as_float64(pointwise.bias),
    )
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


def expand_conv(conv: nn.Conv2d) -> CollapsibleConv2d:
    """A collapsible convolution equivalent to ``conv``, a 3x3 one.

    The projection's rows are orthonormal, so its transpose inverts it. The components that the
    projection drops are random, as in an untrained layer.
    """
    expanded = CollapsibleConv2d(conv.in_channels, conv.out_channels)
    inner, outer = expanded.expand, expanded.project
    assert conv.bias is not None
    assert inner.bias is not None
    assert outer.bias is not None
    with torch.no_grad():
        nn.init.orthogonal_(outer.weight)
        mixing = outer.weight.flatten(1)
        inverse = mixing.T
        weight = inner.weight.flatten(1)
        weight += inverse @ (conv.weight.flatten(1) - mixing @ weight)
        inner.bias.zero_()
        outer.bias.copy_(conv.bias)
    return expanded


def _as_float64(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.detach().double()


def _composed(
    inner: Tensor, inner_bias: Tensor | None, outer: Tensor, outer_bias: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Weight and bias of the convolution ``inner`` (hidden, in, kh, kw) followed by the pointwise
    one ``outer`` (out, hidden, 1, 1)."""
    mixing = outer.flatten(1)
    weight = (mixing @ inner.flatten(1)).reshape(-1, *inner.shape[1:])
    bias = outer.new_zeros(outer.shape[0]) if outer_bias is None else outer_bias
    if inner_bias is not None:
        bias = bias + mixing @ inner_bias
    return weight, bias


def conv3x3(in_channels: int, out_channels: int, collapsible: bool) -> nn.Module:
    """A 3x3 convolution with padding 1, over-parametrised or collapsed."""
    if collapsible:
        return CollapsibleConv2d(in_channels, out_channels)
    return nn.Conv2d(in_channels, out_channels, 3, padding=1)
