from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from elir_deploy.model.vector_field import TimeEmbedding, VectorField
from elir_deploy.tasks import Architecture
from tests.official import SMALL


def test_time_embedding() -> None:
    torch.manual_seed(0)
    embedding = TimeEmbedding(Architecture()).double()
    times = [0.0, 1 / 3, 0.8]
    rows = []
    for t in times:
        angles = [1000 * t * math.exp(-math.log(10000) / 79 * k) for k in range(80)]
        rows.append([math.cos(a) for a in angles] + [math.sin(a) for a in angles])
    features = torch.tensor(rows, dtype=torch.float64)
    hidden = F.silu(embedding.linear1(features))
    torch.testing.assert_close(
        embedding(torch.tensor(times, dtype=torch.float64)),
        embedding.linear2(hidden),
        rtol=0,
        atol=1e-10,
    )


def test_u_net_with_one_level_that_halves() -> None:
    """Compared with the description, computed from the state dict."""
    arch = replace(SMALL, vector_field_multipliers=(1, 2))
    torch.manual_seed(0)
    field = VectorField(arch, collapsible=False).double()
    state = field.state_dict()
    z = torch.randn(2, arch.latent_channels, 6, 4, dtype=torch.float64)
    t = torch.tensor([0.0, 0.5], dtype=torch.float64)
    silu_embedding = F.silu(field.time_embedding(t))

    def parameters(name: str) -> tuple[torch.Tensor, torch.Tensor]:
        return state[f"{name}.weight"], state[f"{name}.bias"]

    def normalized(name: str, x: torch.Tensor) -> torch.Tensor:
        x = F.silu(F.group_norm(x, 32, *parameters(f"{name}.norm"), eps=1e-5))
        return F.conv2d(x, *parameters(f"{name}.conv"), padding=1)

    def residual(name: str, x: torch.Tensor) -> torch.Tensor:
        bias = F.linear(silu_embedding, *parameters(f"{name}.time_bias"))
        hidden = normalized(f"{name}.block1", x) + bias[:, :, None, None]
        skip = F.conv2d(x, *parameters(f"{name}.skip"))
        return normalized(f"{name}.block2", hidden) + skip

    x = F.conv2d(z, *parameters("first_proj"))
    x = first = residual("down.0.residual", x)
    x = second = residual("down.1.residual", x)
    x = F.conv2d(x, *parameters("down.1.downsample"), stride=2, padding=1)
    x = residual("middle.0", x)
    x = F.conv_transpose2d(x, *parameters("up.0.upsample"), stride=2, padding=1)
    x = residual("up.0.residual", torch.cat([x, second], 1))
    x = residual("up.1.residual", torch.cat([x, first], 1))
    expected = F.conv2d(normalized("final_block", x), *parameters("final_proj"))
    torch.testing.assert_close(field(z, t), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("multipliers", [(1,), (2,), (1, 2, 1, 2), (2, 1, 3)])
@pytest.mark.parametrize("middle", [0, 2])
@pytest.mark.parametrize("collapsible", [False, True])
def test_other_depths(multipliers: tuple[int, ...], middle: int, collapsible: bool) -> None:
    arch = replace(SMALL, vector_field_multipliers=multipliers, middle_blocks=middle)
    field = VectorField(arch, collapsible)
    z = torch.randn(1, arch.latent_channels, 8, 12)
    assert field(z, torch.zeros(1)).shape == z.shape
