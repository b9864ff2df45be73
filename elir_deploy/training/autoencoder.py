"""Training an autoencoder, for those who have none.

Trained from random weights, an autoencoder of this kind spends most of its time on learning to
carry brightness and colour through twenty-odd ReLUs. So it starts from a linear autoencoder, the
same network without blocks and ReLUs, which is cheap and soon better than what the whole network
reaches in many times its time. The linear maps are then put into the whole network with its biases
set so that nearly all features are positive, where a ReLU does nothing, and training goes on.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from elir_deploy.model.autoencoder import LATENT_LIMIT, LEVELS, AutoencoderBlock, Decoder, Encoder
from elir_deploy.tasks import Architecture

__all__ = [
    "AutoencoderObjective",
    "ConvolutionMuon",
    "LinearAutoencoder",
    "autoencoder_from_linear",
]

#: Standard deviations by which features are lifted above 0.
_LIFT = 3.0
#: Standard deviation of the latent's channels, which the decoder limits to 3.
_LATENT_DEVIATION = 1.0


class LinearAutoencoder(nn.Module):
    """The autoencoder's convolutions between its blocks, and nothing else."""

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        width, latent = arch.autoencoder_width, arch.latent_channels
        self.encoder = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1),
            *(nn.Conv2d(width, width, 3, 2, padding=1, bias=False) for _ in range(LEVELS)),
            nn.Conv2d(width, latent, 3, padding=1),
        )
        decoder: list[nn.Module] = [nn.Conv2d(latent, width, 3, padding=1)]
        for _ in range(LEVELS):
            decoder.append(nn.Upsample(scale_factor=2))
            decoder.append(nn.Conv2d(width, width, 3, padding=1, bias=False))
        decoder.append(nn.Conv2d(width, 3, 3, padding=1))
        self.decoder = nn.Sequential(*decoder)
        for conv in _convolutions(self):
            nn.init.orthogonal_(conv.weight)
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)

    def forward(self, image: Tensor) -> Tensor:
        """Images (N, 3, H, W) in [0, 1] to images of that shape."""
        restored: Tensor = self.decoder(self.encoder(image))
        return restored


class AutoencoderObjective(nn.Module):
    """Mean squared error of what an encoder and a decoder make of clean images."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder

    def forward(self, clean: Tensor) -> dict[str, Tensor]:
        """``loss`` for images (N, 3, H, W) in [0, 1]."""
        return {"loss": F.mse_loss(self.decoder(self.encoder(clean)).float(), clean)}


class ConvolutionMuon(torch.optim.Muon):
    """PyTorch's Muon for convolutions: a weight (out, in, kh, kw) is taken as a matrix (out, rest).

    Args:
        weights: four-dimensional parameters.
        learning_rate: the norm of an update is about this times the root of the weight's shorter
            side.
    """

    def __init__(self, weights: list[nn.Parameter], learning_rate: float) -> None:
        self._weights = weights
        # Views, so that updating the matrix updates the weight.
        self._matrices = [nn.Parameter(weight.detach().flatten(1)) for weight in weights]
        for weight, matrix in zip(weights, self._matrices, strict=True):
            if weight.untyped_storage().data_ptr() != matrix.untyped_storage().data_ptr():
                raise ValueError("a weight whose matrix is no view of it: make it contiguous")
        super().__init__(self._matrices, lr=learning_rate, weight_decay=0.0)

    def step(self, closure: Any = None) -> Any:
        for weight, matrix in zip(self._weights, self._matrices, strict=True):
            matrix.grad = None if weight.grad is None else weight.grad.contiguous().flatten(1)
        return super().step(closure)  # type: ignore[no-untyped-call]  # in torch

    def zero_grad(self, set_to_none: bool = True) -> None:
        super().zero_grad(set_to_none)
        for weight in self._weights:
            weight.grad = None


def muon_and_adamw(
    module: nn.Module, learning_rate: float, bias_learning_rate: float
) -> list[torch.optim.Optimizer]:
    """Muon for a module's convolutions, AdamW for its biases."""
    weights = [p for p in module.parameters() if p.ndim == 4]
    biases = [p for p in module.parameters() if p.ndim == 1]
    return [
        ConvolutionMuon(weights, learning_rate),
        torch.optim.AdamW(biases, bias_learning_rate, betas=(0.9, 0.99), weight_decay=0.0),
    ]


@torch.no_grad()
def autoencoder_from_linear(
    linear: LinearAutoencoder, arch: Architecture, images: Tensor
) -> tuple[Encoder, Decoder]:
    """The autoencoder that computes nearly what a linear one does, ready to be trained further.

    "Nearly": borders, where the lift meets the zero padding, and the decoder's tanh differ.

    Args:
        linear: trained; its latents are changed to a better basis on the way.
        arch: of the autoencoder.
        images: (N, 3, H, W) in [0, 1], to measure features on.
    """
    _change_latent_basis(linear, images)
    encoder, decoder = Encoder(arch), Decoder(arch)
    latents = _lifted(encoder.layers, _convolutions(linear.encoder), images)
    limited = torch.tanh(latents / LATENT_LIMIT) * LATENT_LIMIT
    _lifted(decoder.layers, _convolutions(linear.decoder), limited)
    return encoder, decoder


def _convolutions(module: nn.Module) -> Iterator[nn.Conv2d]:
    return (child for child in module.modules() if isinstance(child, nn.Conv2d))


def _by_channel(x: Tensor) -> Tensor:
    """(N, C, h, w) as (C, N * h * w)."""
    return x.transpose(0, 1).flatten(1)


def _change_latent_basis(linear: LinearAutoencoder, images: Tensor) -> None:
    """Make distances in the latent space those between images, and the channels alike.

    With z' = H R z, R the root of how latents weigh in the decoded image and H orthogonal, a
    change of the latent is as large as the change of the image, up to one factor. H spreads the
    principal components evenly: otherwise the first channel, brightness, would run into the
    decoder's limit while the last would be lost beside noise or in eight bits.
    """
    last, first = linear.encoder[-1], linear.decoder[0]
    assert isinstance(last, nn.Conv2d)
    assert isinstance(first, nn.Conv2d)
    assert last.bias is not None
    assert first.bias is not None
    channels = first.in_channels
    latents = _by_channel(linear.encoder(images)).double()
    mean = latents.mean(1)
    # Each channel's impulse response; the squares' mean over neighbours is left out.
    impulses = torch.zeros(channels, channels, 17, 17)
    impulses[range(channels), range(channels), 8, 8] = 1
    responses = linear.decoder(impulses) - linear.decoder(torch.zeros(1, channels, 17, 17))
    responses = responses.flatten(1).double()
    root = _root(responses @ responses.T)
    covariance = root @ torch.cov(latents) @ root.T
    components = torch.linalg.eigh(covariance).eigenvectors.T.flip(0)  # largest first
    basis = _even_rotation(channels) @ components @ root
    deviation = torch.diag(basis @ torch.cov(latents) @ basis.T).mean().sqrt()
    basis *= _LATENT_DEVIATION / deviation
    first.bias += torch.einsum("oihw,i->o", first.weight, mean.float())
    first.weight.copy_(
        torch.einsum("oihw,ic->ochw", first.weight.double(), torch.linalg.inv(basis))
    )
    last.bias.copy_(basis @ (last.bias.double() - mean))
    last.weight.copy_(torch.einsum("oc,cihw->oihw", basis, last.weight.double()))


def _root(matrix: Tensor) -> Tensor:
    """Symmetric square root of a positive semi-definite matrix."""
    values, vectors = torch.linalg.eigh(matrix)
    root: Tensor = vectors @ torch.diag(values.clamp_min(1e-12).sqrt()) @ vectors.T
    return root


def _even_rotation(size: int) -> Tensor:
    """Orthogonal, (size, size): the discrete Hartley transform, whose entries are all of about
    one size."""
    angles = 2 * torch.pi * torch.outer(torch.arange(size), torch.arange(size)).double() / size
    rotation: Tensor = (angles.cos() + angles.sin()) / size**0.5
    return rotation


def _lifted(layers: nn.Sequential, linear: Iterator[nn.Conv2d], x: Tensor) -> Tensor:
    """Copy the linear convolutions into ``layers`` and lift features above 0 before ReLUs.

    ``lift`` is how much higher each channel is in ``layers`` than in the linear network ``x`` runs
    through; the next convolution turns it into a constant of its output.
    """
    lift = torch.zeros(x.shape[1])
    lifted = False
    for position, layer in enumerate(layers):
        if isinstance(layer, nn.Upsample):
            x = layer(x)
        elif isinstance(layer, nn.Conv2d):
            source = next(linear)
            layer.weight.copy_(source.weight)
            x = source(x)
            lift = torch.einsum("oihw,i->o", source.weight, lift)
            if layer.bias is not None and source.bias is not None:
                layer.bias.copy_(source.bias - lift)
                lift = torch.zeros_like(lift)
            lifted = False
        elif isinstance(layer, nn.ReLU):
            wanted = _wanted_lift(x)
            previous = layers[position - 1]
            assert isinstance(previous, nn.Conv2d)
            assert previous.bias is not None
            previous.bias += wanted - lift
            lift, lifted = wanted, True
        else:
            assert isinstance(layer, AutoencoderBlock)
            last = _opened(layer)
            if not lifted:
                wanted = _wanted_lift(x)
                last.copy_(wanted - lift)
                lift, lifted = wanted, True
    return x


def _wanted_lift(x: Tensor) -> Tensor:
    values = _by_channel(x)
    return _LIFT * values.std(1) - values.mean(1)


def _opened(block: AutoencoderBlock) -> Tensor:
    """Make a block pass its input on: its branch ends in zeros. Gives the bias of that end."""
    for conv in list(_convolutions(block))[:-1]:
        assert conv.bias is not None
        nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
        nn.init.zeros_(conv.bias)
    end = block.conv[-1]
    assert isinstance(end, nn.Conv2d)
    assert end.bias is not None
    nn.init.zeros_(end.weight)
    nn.init.zeros_(end.bias)
    return end.bias
