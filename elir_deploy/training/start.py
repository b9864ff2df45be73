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

__all__ = ["autoencoder_architecture", "load_initial_weights"]


def load_initial_weights(
    options: RunOptions,
) -> tuple[tuple[Encoder, Decoder] | None, Elir | None]:
    """The autoencoder and the model to start from; None for what the options do not name.

    Raises:
        CheckpointError: a file cannot be used.
        UsageError: the two do not belong together.
    """
    autoencoder = load_autoencoder(options.autoencoder) if options.autoencoder else None
    if options.start_from is None:
        return autoencoder, None
    model = load_checkpoint(options.start_from, options.task.name).model
    if autoencoder is not None:
        _check_decoder(model, autoencoder[1], options)
    return autoencoder, model


def autoencoder_architecture(encoder: Encoder) -> dict[str, Any]:
    """The fields of :class:`elir_deploy.tasks.Architecture` that describe an autoencoder."""
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
    """Check that a checkpoint is fine-tuned with the autoencoder that it was trained with.

    With another one the latents of the clean images would mean nothing to it.
    """
    ours, theirs = model.decoder.state_dict(), decoder.state_dict()
    if ours.keys() != theirs.keys() or any(
        ours[name].shape != theirs[name].shape
        or not torch.allclose(ours[name], theirs[name], rtol=1e-2, atol=1e-3)  # maybe float16
        for name in ours
    ):
        raise UsageError(
            f"{options.start_from} was trained with another autoencoder than "
            f"{options.autoencoder}: their decoders differ"
        )
