"""The weights that a training run starts from."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from elir_deploy.checkpoints import load_autoencoder, load_checkpoint
from elir_deploy.errors import UsageError
from elir_deploy.model import Elir
from elir_deploy.model.autoencoder import LEVELS, Decoder, Encoder
from elir_deploy.training.options import RunOptions

__all__ = ["autoencoder_numbers", "given_weights"]


def given_weights(options: RunOptions) -> tuple[tuple[Encoder, Decoder] | None, Elir | None]:
    """The autoencoder and the model to start from, each None where none was given."""
    autoencoder = load_autoencoder(options.autoencoder) if options.autoencoder else None
    if options.start_from is None:
        return autoencoder, None
    model = load_checkpoint(options.start_from, options.task.name).model
    if autoencoder is not None:
        _check_decoder(model, autoencoder[1], options)
    return autoencoder, model


def autoencoder_numbers(encoder: Encoder) -> dict[str, Any]:
    first, last = encoder.layers[0], encoder.layers[-1]
    assert isinstance(first, nn.Conv2d)
    assert isinstance(last, nn.Conv2d)
    # A convolution and a block, the levels, a convolution.
    blocks = (len(encoder.layers) - 3) // LEVELS - 1
    return {
        "autoencoder_width": first.out_channels,
        "autoencoder_blocks": blocks,
        "latent_channels": last.out_channels,
    }


def _check_decoder(model: Elir, decoder: Decoder, options: RunOptions) -> None:
    """A checkpoint is fine-tuned with the autoencoder it was trained with, or the clean latents
    mean nothing to it.

    Raises:
        UsageError: its decoder is another.
    """
    own, given = model.decoder.state_dict(), decoder.state_dict()
    if own.keys() != given.keys() or any(
        own[name].shape != given[name].shape
        or not torch.allclose(own[name], given[name], rtol=1e-2, atol=1e-3)  # one may be float16
        for name in own
    ):
        raise UsageError(
            f"{options.start_from} was trained with another autoencoder than "
            f"{options.autoencoder}: their decoders differ"
        )
