from __future__ import annotations

import pytest
import torch

from elir_deploy.model.autoencoder import Decoder, Encoder
from elir_deploy.tasks import Architecture


def test_equals_diffusers() -> None:
    """diffusers has images in [-1, 1], this project in [0, 1]."""
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    theirs = diffusers.AutoencoderTiny(latent_channels=16).eval()
    arch = Architecture()
    encoder, decoder = Encoder(arch), Decoder(arch)
    encoder.load_state_dict(theirs.encoder.state_dict())
    decoder.load_state_dict(theirs.decoder.state_dict())
    image = torch.rand(2, 3, 48, 64)
    with torch.no_grad():
        latent = encoder(image)
        assert latent.shape == (2, 16, 6, 8)
        torch.testing.assert_close(latent, theirs.encoder(2 * image - 1), rtol=0, atol=1e-5)
        latent = 20 * torch.randn_like(latent)  # far into the tanh's saturation
        torch.testing.assert_close(
            decoder(latent), (theirs.decoder(latent) + 1) / 2, rtol=0, atol=1e-5
        )


def test_numbers_of_layers() -> None:
    arch = Architecture(autoencoder_width=6, autoencoder_blocks=2, latent_channels=5)
    encoder, decoder = Encoder(arch), Decoder(arch)
    assert len(encoder.layers) == 3 + 3 * 3
    assert len(decoder.layers) == 4 + 3 * 4
    assert decoder(encoder(torch.rand(1, 3, 16, 8))).shape == (1, 3, 16, 8)
