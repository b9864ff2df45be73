from __future__ import annotations

import torch
from torch.nn import functional as F

from elir_deploy.model.estimator import CoarseEstimator
from tests.official import SMALL


def test_residual_in_residual_dense_blocks() -> None:
    """Compared with the formulas, computed from the state dict."""
    torch.manual_seed(0)
    estimator = CoarseEstimator(SMALL, collapsible=False).double()
    state = estimator.state_dict()
    z = torch.randn(1, SMALL.latent_channels, 5, 6, dtype=torch.float64)

    def conv(name: str, x: torch.Tensor) -> torch.Tensor:
        return F.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], padding=1)

    def dense(name: str, x: torch.Tensor) -> torch.Tensor:
        features = x
        for k in range(4):
            features = torch.cat([features, F.silu(conv(f"{name}.convs.{k}", features))], 1)
        return x + 0.2 * conv(f"{name}.convs.4", features)

    out = z
    for i in range(SMALL.estimator_blocks):
        inner = out
        for j in range(3):
            inner = dense(f"cascade.{i}.dense_blocks.{j}", inner)
        out = out + 0.2 * inner
    torch.testing.assert_close(estimator(z), z + out, rtol=0, atol=1e-12)
