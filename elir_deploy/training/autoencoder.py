"""Training an autoencoder from scratch.

From random weights, an autoencoder of this kind spends most of its time on learning to carry
brightness and colour through twenty-odd ReLUs. So training starts with a linear autoencoder, the
same network without blocks and ReLUs, which is cheap and soon better than the full network after
many times as long. Its convolutions are then copied to the full network, whose biases are set so
that nearly all features are positive, where a ReLU is the identity, and training continues.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

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

#: Mean of the lifted features, in their standard deviations.
_LIFT = 3.0
#: Standard deviation of the latent; the decoder's tanh limits it to 3.
_LATENT_DEVIATION = 1.0


class LinearAutoencoder(nn.Module):
    """The autoencoder without its blocks and ReLUs: convolutions only."""

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
    """Mean squared error of reconstructed clean images."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder

    def forward(self, clean: Tensor) -> dict[str, Tensor]:
        """``loss`` for images (N, 3, H, W) in [0, 1]."""
        return {"loss": F.mse_loss(self.decoder(self.encoder(clean)).float(), clean)}


class ConvolutionMuon(torch.optim.Muon):
    """PyTorch's Muon for convolutions: a weight (out, in, kh, kw) is a matrix (out, in * kh * kw).

    Args:
        weights: four-dimensional parameters, already on the device to train on.
        learning_rate: an update's norm is about this times the root of the matrix's shorter side.
    """

    def __init__(self, weights: list[nn.Parameter], learning_rate: float) -> None:
        self._weights = weights
        # Views: updating a matrix updates its weight.
        self._matrices = [nn.Parameter(weight.detach().flatten(1)) for weight in weights]
        for weight, matrix in zip(weights, self._matrices, strict=True):
            if weight.untyped_storage().data_ptr() != matrix.untyped_storage().data_ptr():
                raise ValueError("a weight cannot be viewed as a matrix: make it contiguous")
            # In the backward pass already: a loss scaler looks at the gradients before the step.
            weight.register_post_accumulate_grad_hook(  # type: ignore[no-untyped-call]  # in torch
                partial(_share_gradient, matrix)
            )
        super().__init__(self._matrices, lr=learning_rate, weight_decay=0.0)

    def zero_grad(self, set_to_none: bool = True) -> None:
        super().zero_grad(set_to_none)
        for weight in self._weights:
            weight.grad = None


def _share_gradient(matrix: nn.Parameter, weight: Tensor) -> None:
    assert weight.grad is not None
    matrix.grad = weight.grad.flatten(1)  # a view: other processes' gradients are added in place


def muon_and_adamw(
    module: nn.Module, learning_rate: float, other_learning_rate: float
) -> list[torch.optim.Optimizer]:
    """Muon for what is trained of a module's convolutions, AdamW for all else."""
    trained = [p for p in module.parameters() if p.requires_grad]
    weights = [p for p in trained if p.ndim == 4]
    others = [p for p in trained if p.ndim != 4]
    return [
        ConvolutionMuon(weights, learning_rate),
        torch.optim.AdamW(others, other_learning_rate, betas=(0.9, 0.99), weight_decay=0.0),
    ]


@torch.no_grad()
def autoencoder_from_linear(
    linear: LinearAutoencoder, arch: Architecture, images: Tensor
) -> tuple[Encoder, Decoder]:
    """Build the full autoencoder that computes nearly the same as a linear one.

    They differ at the borders, where lifted features meet zero padding, and by the decoder's tanh.

    Args:
        linear: a trained linear autoencoder; the basis of its latents is changed in place.
        arch: architecture of the full autoencoder.
        images: (N, 3, H, W) in [0, 1], to measure features on.
    """
    _change_latent_basis(linear, images)
    encoder, decoder = Encoder(arch), Decoder(arch)
    latents = _copy_lifted(encoder.layers, _convolutions(linear.encoder), images)
    limited = torch.tanh(latents / LATENT_LIMIT) * LATENT_LIMIT
    _copy_lifted(decoder.layers, _convolutions(linear.decoder), limited)
    return encoder, decoder


def _convolutions(module: nn.Module) -> Iterator[nn.Conv2d]:
    return (child for child in module.modules() if isinstance(child, nn.Conv2d))


def _by_channel(x: Tensor) -> Tensor:
    """(N, C, h, w) as (C, N * h * w)."""
    return x.transpose(0, 1).flatten(1)


def _change_latent_basis(linear: LinearAutoencoder, images: Tensor) -> None:
    """Make distances between latents proportional to those between images, and channels alike.

    The new latent is H R z. R is the square root of the decoder's Gram matrix, so that a change of
    the latent is as large as the change of the image, up to one factor. H is orthogonal and
    spreads the principal components evenly: otherwise the first channel, brightness, would run
    into the decoder's limit while the last would be lost in noise or in eight bits.
    """
    last, first = linear.encoder[-1], linear.decoder[0]
    assert isinstance(last, nn.Conv2d)
    assert isinstance(first, nn.Conv2d)
    assert last.bias is not None
    assert first.bias is not None
    channels = first.in_channels
    latents = _by_channel(linear.encoder(images)).double()
    mean = latents.mean(1)
    # Each channel's impulse response; correlations between neighbours are neglected.
    impulses = torch.zeros(channels, channels, 17, 17)
    impulses[range(channels), range(channels), 8, 8] = 1
    responses = linear.decoder(impulses) - linear.decoder(torch.zeros(1, channels, 17, 17))
    responses = responses.flatten(1).double()
    root = _matrix_root(responses @ responses.T)
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


def _matrix_root(matrix: Tensor) -> Tensor:
    """Symmetric square root of a positive semi-definite matrix."""
    values, vectors = torch.linalg.eigh(matrix)
    root: Tensor = vectors @ torch.diag(values.clamp_min(1e-12).sqrt()) @ vectors.T
    return root


def _even_rotation(size: int) -> Tensor:
    """The discrete Hartley transform: orthogonal, (size, size), with entries of similar size."""
    angles = 2 * torch.pi * torch.outer(torch.arange(size), torch.arange(size)).double() / size
    rotation: Tensor = (angles.cos() + angles.sin()) / size**0.5
    return rotation


def _copy_lifted(layers: nn.Sequential, linear: Iterator[nn.Conv2d], x: Tensor) -> Tensor:
    """Copy the linear convolutions to ``layers`` and lift features above 0 before ReLUs.

    ``x`` runs through the linear network. ``lift`` is how much higher each channel is in
    ``layers``; the next convolution turns it into a constant of its output.

    Returns:
        The linear network's output.
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
            required = _required_lift(x)
            previous = layers[position - 1]
            assert isinstance(previous, nn.Conv2d)
            assert previous.bias is not None
            previous.bias += required - lift
            lift, lifted = required, True
        else:
            assert isinstance(layer, AutoencoderBlock)
            bias = _make_identity(layer)
            if not lifted:
                required = _required_lift(x)
                bias.copy_(required - lift)
                lift, lifted = required, True
    return x


def _required_lift(x: Tensor) -> Tensor:
    values = _by_channel(x)
    return _LIFT * values.std(1) - values.mean(1)


def _make_identity(block: AutoencoderBlock) -> Tensor:
    """Zero the last convolution of a block's branch; returns its bias."""
    for conv in list(_convolutions(block))[:-1]:
        assert conv.bias is not None
        nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
        nn.init.zeros_(conv.bias)
    last = block.conv[-1]
    assert isinstance(last, nn.Conv2d)
    assert last.bias is not None
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return last.bias
