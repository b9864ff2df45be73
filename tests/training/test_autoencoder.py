from __future__ import annotations

import copy

import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.precision import MixedPrecision

from elir_deploy.tasks import Architecture
from elir_deploy.training.autoencoder import (
    AutoencoderObjective,
    ConvolutionMuon,
    LinearAutoencoder,
    autoencoder_from_linear,
    muon_and_adamw,
)

ARCHITECTURE = Architecture(autoencoder_width=8, autoencoder_blocks=2, latent_channels=4)


def smooth_images(count: int = 4, size: int = 64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand((count, 3, size // 8, size // 8), generator=generator)
    return torch.nn.functional.interpolate(coarse, size=(size, size), mode="bilinear")


@pytest.fixture(scope="module")
def linear() -> LinearAutoencoder:
    """Trained for a few updates."""
    torch.manual_seed(0)
    model = LinearAutoencoder(ARCHITECTURE)
    optimizers = muon_and_adamw(model, 0.02, 0.001)
    for _ in range(60):
        loss = AutoencoderObjective(model.encoder, model.decoder)(smooth_images())["loss"]
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    return model


def test_the_basis_changes_the_latents_but_not_the_images(linear: LinearAutoencoder) -> None:
    images = smooth_images(4, 256)
    changed = copy.deepcopy(linear)
    autoencoder_from_linear(changed, ARCHITECTURE, images)
    with torch.no_grad():
        # At the borders zero padding now means the mean latent.
        inside = (slice(None), slice(None), slice(48, -48), slice(48, -48))
        torch.testing.assert_close(
            changed(images)[inside], linear(images)[inside], rtol=0, atol=1e-4
        )
        latents = changed.encoder(images).transpose(0, 1).flatten(1)
    torch.testing.assert_close(latents.mean(1), torch.zeros(4), rtol=0, atol=1e-3)
    torch.testing.assert_close(latents.std(1).square().mean(), torch.tensor(1.0), rtol=0.01, atol=0)


def test_the_full_autoencoder_starts_as_the_linear_one(linear: LinearAutoencoder) -> None:
    """Away from the borders and below the decoder's limit."""
    images = smooth_images(8, 256)
    basis = copy.deepcopy(linear)
    encoder, decoder = autoencoder_from_linear(basis, ARCHITECTURE, images)
    with torch.no_grad():
        expected = basis.encoder(images)
        latents = encoder(images)
        inside = (slice(None), slice(None), slice(4, -4), slice(4, -4))
        # A few features are more than three standard deviations below their mean.
        error = (latents - expected)[inside].square().mean()
        assert error < 0.01 * expected[inside].square().mean()
        limited = torch.tanh(expected / 3) * 3
        inside = (slice(None), slice(None), slice(32, -32), slice(32, -32))
        error = (decoder(expected) - basis.decoder(limited))[inside].square().mean()
        assert error < 0.01 * basis.decoder(limited)[inside].var()


def test_muon_updates_the_convolutions() -> None:
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(3, 5, 3)
    before = conv.weight.detach().clone()
    optimizer = ConvolutionMuon([conv.weight], 0.1)
    conv(torch.randn(1, 3, 8, 8)).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()
    assert conv.weight.grad is None
    update = (conv.weight - before).detach().flatten(1) / 0.1
    # Muon's update is near orthogonal: all singular values between about 0.7 and 1.2.
    singular = torch.linalg.svdvals(update)
    assert singular.min() > 0.5
    assert singular.max() < 1.3


def test_muon_refuses_channels_last_weights() -> None:
    conv = torch.nn.Conv2d(3, 5, 3).to(memory_format=torch.channels_last)
    with pytest.raises(ValueError, match="make it contiguous"):
        ConvolutionMuon([conv.weight], 0.1)


def test_the_autoencoder_trains_in_float16() -> None:
    """A loss scaler reads the gradients that Muon's matrices have before the step."""
    scaler = torch.amp.GradScaler("cpu")
    fabric = Fabric(accelerator="cpu", devices=1, plugins=MixedPrecision("16-mixed", "cpu", scaler))
    torch.manual_seed(0)
    model = LinearAutoencoder(ARCHITECTURE)
    objective, *optimizers = fabric.setup(
        AutoencoderObjective(model.encoder, model.decoder), *muon_and_adamw(model, 0.02, 0.001)
    )
    losses = []
    for _ in range(20):
        losses.append(objective(clean=smooth_images())["loss"])
        fabric.backward(losses[-1])
        for optimizer in optimizers:
            optimizer.step()
        for optimizer in optimizers:
            optimizer.zero_grad()
    assert losses[-1] < 0.5 * losses[0]
