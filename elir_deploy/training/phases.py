"""The phases of a training run, built from its options."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from elir_deploy.model import Elir
from elir_deploy.static_graph import latent_shape
from elir_deploy.training.autoencoder import AutoencoderObjective, muon_and_adamw
from elir_deploy.training.data import LatentSamples, PhotoFolder, TrainingSamples
from elir_deploy.training.objective import LatentFlow, RestorationObjective
from elir_deploy.training.options import RunOptions
from elir_deploy.training.phase import Phase, Schedule

__all__ = [
    "AUTOENCODER",
    "LINEAR_AUTOENCODER",
    "autoencoder_phase",
    "autoencoder_samples",
    "flow_phase",
    "restoration_phase",
    "restoration_samples",
]

LINEAR_AUTOENCODER = "linear autoencoder"
AUTOENCODER = "autoencoder"


def autoencoder_samples(options: RunOptions, photos: PhotoFolder) -> TrainingSamples:
    """Crops for both phases of the autoencoder."""
    return TrainingSamples(
        photos,
        options.autoencoder_settings.crop_size,
        task_name=None,
        noise_shape=None,
        whole=False,
        seed=options.settings.seed,
    )


def restoration_samples(
    options: RunOptions, photos: PhotoFolder, model: Elir, seed: int, side: int
) -> TrainingSamples:
    """Clean and degraded images for the whole model."""
    return TrainingSamples(
        photos,
        side,
        task_name=options.task.name,
        noise_shape=latent_shape(model, side)[1:],
        whole=options.whole_images,
        seed=seed,
    )


def autoencoder_phase(
    options: RunOptions,
    name: str,
    encoder: nn.Module,
    decoder: nn.Module,
    samples: TrainingSamples,
    device: torch.device,
) -> Phase:
    """Training of an autoencoder, the linear or the full one, on clean crops."""
    settings = options.autoencoder_settings
    if name == LINEAR_AUTOENCODER:
        iterations, learning_rate = settings.linear_iterations, settings.linear_learning_rate
    else:
        iterations, learning_rate = settings.iterations, settings.learning_rate
    # Moved before the optimizers are built: Muon holds views of the weights' memory.
    objective = AutoencoderObjective(encoder, decoder).to(device)
    return Phase(
        name=name,
        objective=objective,
        averaged=objective,
        optimizers=muon_and_adamw(objective, learning_rate, settings.bias_learning_rate),
        samples=samples,
        batch_size=settings.batch_size,
        schedule=Schedule(iterations, warmup=min(50, iterations), shape="cosine"),
        ema_decay=settings.ema_decay,
        rate_option=f"--autoencoder-learning-rate {settings.learning_rate:g}",
    )


def restoration_phase(
    options: RunOptions,
    photos: PhotoFolder,
    model: Elir,
    teacher: nn.Module,
    device: torch.device,
) -> Phase:
    """The paper's training: encoder, coarse estimator and vector field together.

    The last is left out where it has a phase of its own.
    """
    settings = options.settings
    trains_flow = not settings.flow_iterations
    objective = RestorationObjective(model, settings.objective, teacher, flow=trains_flow)
    objective.to(device)  # before Muon, as above
    return Phase(
        name="restoration",
        objective=objective,
        averaged=model,
        optimizers=[_adamw(options, model)] if trains_flow else _optimizers(options, model),
        samples=restoration_samples(
            options, photos, model, settings.seed, options.restoration_size
        ),
        batch_size=settings.batch_size,
        schedule=Schedule(settings.updates(len(photos.files)), settings.warmup, settings.schedule),
        ema_decay=settings.ema_decay,
        rate_option=f"--learning-rate {settings.learning_rate:g}",
        trains_flow=trains_flow,
    )


def flow_phase(options: RunOptions, model: Elir, latents: LatentSamples) -> Phase:
    """Training of the vector field alone, on latents of the finished encoder and estimator."""
    settings = options.settings
    # On the device since the latents were computed: Muon holds views of its weights.
    field = model.vector_field.requires_grad_(True)
    return Phase(
        name="flow",
        objective=RestorationObjective(
            LatentFlow(field), replace(settings.objective, beta=0.0), nn.Identity()
        ),
        averaged=field,
        optimizers=_optimizers(options, field),
        samples=latents,
        batch_size=settings.flow_batch_size,
        schedule=Schedule(settings.flow_iterations, settings.warmup, settings.schedule),
        ema_decay=settings.ema_decay,
        rate_option=f"--learning-rate {settings.learning_rate:g}",
        surrounding=model,
    )


def _optimizers(options: RunOptions, module: nn.Module) -> list[torch.optim.Optimizer]:
    """Muon's and AdamW's where ``muon_ratio`` is set, for the flow's phase and the one before."""
    settings = options.settings
    if settings.muon_ratio:
        rate = settings.muon_ratio * settings.learning_rate
        return muon_and_adamw(module, rate, settings.learning_rate)
    return [_adamw(options, module)]


def _adamw(options: RunOptions, module: nn.Module) -> torch.optim.Optimizer:
    settings = options.settings
    return torch.optim.AdamW(
        [p for p in module.parameters() if p.requires_grad],
        settings.learning_rate,
        betas=(0.9, 0.999),
        eps=1e-8,
        weight_decay=settings.weight_decay,
    )
