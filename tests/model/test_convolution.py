from __future__ import annotations

import pytest
import torch
from torch import nn

from elir_deploy.model.convolution import CollapsibleConv2d, compose_with_pointwise


@pytest.mark.parametrize("size", [(1, 1), (2, 5), (7, 8)])
def test_collapse_is_exact_at_the_borders(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    layer = CollapsibleConv2d(5, 3).double()
    assert layer.expand.out_channels == 12
    x = torch.randn(2, 5, *size, dtype=torch.float64)
    torch.testing.assert_close(layer.collapse()(x), layer(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("inner_bias", [True, False])
@pytest.mark.parametrize("outer_bias", [True, False])
@pytest.mark.parametrize("stride", [1, 2])
def test_composition(inner_bias: bool, outer_bias: bool, stride: int) -> None:
    torch.manual_seed(0)
    inner = nn.Conv2d(3, 7, 3, stride=stride, padding=1, bias=inner_bias).double()
    outer = nn.Conv2d(7, 2, 1, bias=outer_bias).double()
    x = torch.randn(1, 3, 9, 6, dtype=torch.float64)
    composed = compose_with_pointwise(inner, outer)
    assert composed.weight.dtype == torch.float64
    torch.testing.assert_close(composed(x), outer(inner(x)), rtol=0, atol=1e-12)
