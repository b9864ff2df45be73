"""The autoencoder (TAESD3's architecture): images in [0, 1] to latents of 1/8 of the side.

Layers are numbered as in the released files and in diffusers' ``AutoencoderTiny``, so that keys map
one to one. Latents are not scaled. With width 0 both networks are the identity.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from elir_deploy.tasks import Architecture

__all__ = ["AutoencoderBlock", "Decoder", "Encoder"]

#: Before decoding, a tanh limits latents to (-LATENT_LIMIT, LATENT_LIMIT).
LATENT_LIMIT = 3.0
#: Number of times that the resolution is halved by the encoder and doubled by the decoder.
LEVELS = 3


class AutoencoderBlock(nn.Module):
    """``relu(conv(relu(conv(relu(conv(x))))) + x)``; (N, width, H, W) in and out."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.conv(x) + x)


class Encoder(nn.Module):
    """Images (N, 3, H, W) in [0, 1] to latents (N, latent_channels, H/8, W/8)."""

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        width = arch.autoencoder_width
        if not width:
            self.layers = nn.Sequential()
            return
        layers: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1), AutoencoderBlock(width)]
        for _ in range(LEVELS):
            layers.append(nn.Conv2d(width, width, 3, stride=2, padding=1, bias=False))
            layers += [AutoencoderBlock(width) for _ in range(arch.autoencoder_blocks)]
        layers.append(nn.Conv2d(width, arch.latent_channels, 3, padding=1))
        self.layers = nn.Sequential(*layers)

    @property
    def from_rgb(self) -> nn.Module:
        """The convolution that reads the image."""
        return self.layers[0]

    def forward(self, image: Tensor) -> Tensor:
        latent: Tensor = self.layers(image)
        return latent


class Decoder(nn.Module):
    """Latents (N, latent_channels, h, w) to images (N, 3, 8h, 8w), not clipped to [0, 1].

    Attributes:
        latent_scale: factor after the tanh; 1 once it is folded into the first convolution.
    """

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        self.latent_scale = LATENT_LIMIT
        width = arch.autoencoder_width
        if not width:
            self.layers = nn.Sequential()
            return
        layers: list[nn.Module] = [nn.Conv2d(arch.latent_channels, width, 3, padding=1), nn.ReLU()]
        for _ in range(LEVELS):
            layers += [AutoencoderBlock(width) for _ in range(arch.autoencoder_blocks)]
            layers.append(nn.Upsample(scale_factor=2))
            layers.append(nn.Conv2d(width, width, 3, padding=1, bias=False))
        layers += [AutoencoderBlock(width), nn.Conv2d(width, 3, 3, padding=1)]
        self.layers = nn.Sequential(*layers)

    @property
    def from_latent(self) -> nn.Module:
        """The convolution that reads the latent."""
        return self.layers[0]

    @property
    def to_rgb(self) -> nn.Module:
        """The convolution that writes the image."""
        return self.layers[-1]

    def forward(self, latent: Tensor) -> Tensor:
        if not self.layers:
            return latent
        limited = torch.tanh(latent / LATENT_LIMIT)
        if self.latent_scale != 1:
            limited = limited * self.latent_scale
        image: Tensor = self.layers(limited)
        return image
