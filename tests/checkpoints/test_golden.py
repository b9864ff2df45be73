"""Released and training files give the results of an implementation that is not this one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from elir_deploy.checkpoints import load_checkpoint
from elir_deploy.model import collapse_convolutions
from tests import official


def assert_close(actual: torch.Tensor, expected: np.ndarray, bound: float = 1e-4) -> None:
    np.testing.assert_allclose(actual.detach().numpy(), expected, rtol=0, atol=bound)


def restored(model: torch.nn.Module, image: torch.Tensor) -> torch.Tensor:
    """Every fourth pixel of the result, (3, H/4, W/4)."""
    return model(image, 3)[0, :, ::4, ::4]


def test_released_layout_matches_every_intermediate(bsr_pth: Path) -> None:
    golden = official.golden("bsr")
    checkpoint = load_checkpoint(bsr_pth)
    model = checkpoint.model
    assert (checkpoint.task.name, checkpoint.layout) == ("bsr", "released")
    assert not model.collapsible
    image = official.golden_input(golden)

    latent = model.encoder(image)
    assert_close(latent, golden["encoder"])
    z = model.estimator(latent)
    assert_close(z, golden["estimator"])
    for k in range(3):
        z = z + model.vector_field(z, torch.tensor([k / 3])) / 3
        assert_close(z, golden[f"step{k + 1}"])
    assert_close(model.decoder(z), golden["decoder"])
    assert_close(restored(model, image), golden["restored"])


def test_training_layout_matches_before_and_after_collapsing(bsr_ckpt: Path) -> None:
    golden = official.golden("bsr_ckpt")
    checkpoint = load_checkpoint(bsr_ckpt)
    model = checkpoint.model
    assert (checkpoint.task.name, checkpoint.layout) == ("bsr", "training")
    assert model.collapsible
    image = official.golden_input(golden)

    before = restored(model, image)
    assert_close(before, golden["restored"])
    collapse_convolutions(model)
    assert not model.collapsible
    after = restored(model, image)
    assert_close(after, golden["restored"])
    assert_close(after, before.detach().numpy(), 1e-5)
