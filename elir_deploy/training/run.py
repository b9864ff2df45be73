"""A training run: a folder of images in, checkpoints out.

A run lives in a folder: ``run.json`` says what was asked for, ``state-*.pt`` where it is, so that
the same command goes on where it was stopped or killed.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from elir_deploy.atomic import check_writable, replacing
from elir_deploy.checkpoints import load_autoencoder, save_checkpoint
from elir_deploy.model import Elir, collapse_convolutions, expand_convolutions
from elir_deploy.model.autoencoder import Decoder, Encoder
from elir_deploy.model.vector_field import VectorField
from elir_deploy.progress import ProgressCallback
from elir_deploy.runtime.images import check_fits, write_image
from elir_deploy.static_graph import latent_shape
from elir_deploy.training.autoencoder import (
    AutoencoderObjective,
    LinearAutoencoder,
    autoencoder_from_linear,
    muon_and_adamw,
)
from elir_deploy.training.data import (
    LatentSamples,
    PhotoFolder,
    TrainingSamples,
    as_images,
    collate,
    updates_of,
)
from elir_deploy.training.monitor import Monitor
from elir_deploy.training.objective import LatentFlow, RestorationObjective
from elir_deploy.training.options import RunOptions
from elir_deploy.training.processes import on_first
from elir_deploy.training.record import learning_rates, open_folder
from elir_deploy.training.stage import Schedule, Stage
from elir_deploy.training.start import autoencoder_numbers, given_weights
from elir_deploy.training.trainer import Watchers, run_stage

__all__ = ["Result", "draw_samples", "train"]

#: Images that features are measured on when the linear autoencoder is put into the whole one.
_MEASURED_IMAGES = 32
AUTOENCODER_FILE = "autoencoder.safetensors"


@dataclass(frozen=True)
class Result:
    """What a finished run left.

    Attributes:
        checkpoint: the collapsed model, for export.
        expanded_checkpoint: the over-parametrised one, to go on training from.
        images: photographs in the folder.
        unreadable: those of them that could not be read.
        updates: of the last stage.
        learning_rates: of each stage that was trained, and the updates from which on they held.
    """

    checkpoint: Path
    expanded_checkpoint: Path
    images: int
    unreadable: int
    updates: int
    learning_rates: dict[str, list[tuple[int, float]]]


def train(options: RunOptions, say: ProgressCallback, tell: Callable[[str], None]) -> Result | None:
    """Train a model, going on with a run that is there. TF32 is off in the process from then on.

    Args:
        options: what to do.
        say: told what is being done, how much of it is done, and how much there is.
        tell: given lines of text for the user.

    Returns:
        What is left; None on all processes but the first.

    Raises:
        UsageError: options that do not fit each other, the images, or the run in the folder.
        CheckpointError: a weights file or a state that cannot be used.
        Stopped: a signal asked for it; the state is saved.
        QualityError: the loss or a weight is no longer finite; the last state saved is from before,
            and a lower learning rate goes on from it.
        OutputError: the folder cannot be written.
    """
    from lightning_fabric import Fabric

    options.check()
    photos = PhotoFolder.scan(options.images)
    # cuDNN's is on by default: what is float32, all of it or the rest beside bfloat16, has 23 bits.
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    fabric = Fabric(
        accelerator=options.accelerator,
        devices=options.devices,
        num_nodes=options.nodes,
        precision=options.precision,  # type: ignore[arg-type]  # a Literal there
    )
    fabric.launch()
    run = _Run(options, photos, fabric, Monitor(options, fabric.is_global_zero, say, tell))
    # Files that cannot be used are found before the folder says that they were asked for.
    if fabric.is_global_zero and photos.unread:
        tell(f"not read: {photos.unread}")
    on_first(fabric, lambda: open_folder(options, len(photos.files)))
    model, teacher = run.initial_model()
    teacher = copy.deepcopy(teacher)  # the model's own encoder, which is trained, may be the same
    trained = run.train_restorer(model, teacher)
    if options.settings.flow_iterations:
        run.train_flow(trained, teacher)
    return run.finish(trained)


def draw_samples(options: RunOptions, path: Path, count: int = 8) -> None:
    """Write a picture of the first samples of a run: clean images above what is made of them.

    Raises:
        UsageError: no images, or a size the model cannot take.
        OutputError: ``path`` cannot be written.
    """
    options.check()
    check_fits(path, 2 * options.task.image_size, count * options.task.image_size)
    check_writable(path)
    samples = TrainingSamples(
        PhotoFolder.scan(options.images),
        options.task.image_size,
        task_name=options.task.name,
        noise_shape=None,
        whole=options.whole_images,
        seed=options.settings.seed,
    )
    items = [samples[k] for k in range(count)]
    rows = [
        np.concatenate([item[name] for item in items], axis=2) for name in ("clean", "degraded")
    ]
    write_image(path, np.ascontiguousarray(np.concatenate(rows, axis=1).transpose(1, 2, 0)))


class _Run:
    """The stages of one run, in their order."""

    def __init__(
        self, options: RunOptions, photos: PhotoFolder, fabric: Any, monitor: Monitor
    ) -> None:
        self.options = options
        self.photos = photos
        self.fabric = fabric
        self.monitor = monitor
        self.unreadable: set[Path] = set()
        self.given_autoencoder, self.given_model = given_weights(options)

    def initial_model(self) -> tuple[Elir, Encoder]:
        """The over-parametrised model to train and the frozen encoder of clean images."""
        options = self.options
        torch.manual_seed(options.settings.seed)
        architecture = options.task.architecture
        if not architecture.autoencoder_width:
            model = Elir(architecture, collapsible=True)
            return model, model.encoder
        encoder, decoder = self._autoencoder()
        architecture = replace(architecture, **autoencoder_numbers(encoder))
        if self.given_model is not None:
            expand_convolutions(self.given_model)
            return self.given_model, encoder
        torch.manual_seed(options.settings.seed)  # whatever the autoencoder took
        model = Elir(architecture, collapsible=True)
        model.encoder.load_state_dict(encoder.state_dict())
        model.decoder.load_state_dict(decoder.state_dict())
        return model, encoder

    def _autoencoder(self) -> tuple[Encoder, Decoder]:
        own = self.options.output / AUTOENCODER_FILE
        if self.given_autoencoder is not None:
            return self.given_autoencoder
        if not own.exists():
            self._train_autoencoder(own)
        return load_autoencoder(own)

    def _train_autoencoder(self, target: Path) -> None:
        settings = self.options.autoencoder_settings
        architecture = self.options.task.architecture
        torch.manual_seed(self.options.settings.seed)
        linear = LinearAutoencoder(architecture)
        linear_state = self._state("linear autoencoder")
        whole_state = self._state("autoencoder")
        samples = TrainingSamples(
            self.photos,
            settings.crop_size,
            task_name=None,
            noise_shape=None,
            whole=False,
            seed=self.options.settings.seed,
        )
        if whole_state.exists():
            encoder, decoder = Encoder(architecture), Decoder(architecture)
        else:
            trained = self._train_pair(
                "linear autoencoder",
                AutoencoderObjective(linear.encoder, linear.decoder),
                samples,
                settings.linear_iterations,
                settings.linear_learning_rate,
            )
            linear.encoder, linear.decoder = trained.encoder, trained.decoder  # type: ignore[assignment]  # nn.Module's attributes
            first = collate([samples[k] for k in range(_MEASURED_IMAGES)])
            measured = as_images(first["clean"])
            encoder, decoder = autoencoder_from_linear(linear, architecture, measured)
        trained = self._train_pair(
            "autoencoder",
            AutoencoderObjective(encoder, decoder),
            samples,
            settings.iterations,
            settings.learning_rate,
        )

        def keep() -> None:
            _save_autoencoder(target, trained)
            linear_state.unlink(missing_ok=True)
            whole_state.unlink(missing_ok=True)

        on_first(self.fabric, keep)

    def _train_pair(
        self,
        name: str,
        objective: AutoencoderObjective,
        samples: TrainingSamples,
        iterations: int,
        learning_rate: float,
    ) -> AutoencoderObjective:
        settings = self.options.autoencoder_settings
        stage = Stage(
            name=name,
            objective=objective,
            kept=objective,
            optimizers=muon_and_adamw(objective, learning_rate, settings.bias_learning_rate),
            samples=samples,
            batch_size=settings.batch_size,
            schedule=Schedule(iterations, warmup=min(50, iterations), shape="cosine"),
            ema_decay=settings.ema_decay,
            rate_setting=f"--autoencoder-learning-rate {settings.learning_rate:g}",
        )
        trained = self._run(stage)
        assert isinstance(trained, AutoencoderObjective)
        return trained

    def train_restorer(self, model: Elir, teacher: Encoder) -> Elir:
        """The stage the paper is about; gives the averaged model, over-parametrised."""
        settings = self.options.settings
        objective = RestorationObjective(model, settings.objective, teacher)
        samples = self._samples(model, settings.seed)
        stage = Stage(
            name="restoration",
            objective=objective,
            kept=model,
            optimizers=[self._adamw(model)],
            samples=samples,
            batch_size=settings.batch_size,
            schedule=Schedule(self._updates(), settings.warmup, settings.schedule),
            ema_decay=settings.ema_decay,
            rate_setting=f"--learning-rate {settings.learning_rate:g}",
        )
        trained = self._run(stage)
        assert isinstance(trained, Elir)
        return trained

    def train_flow(self, model: Elir, teacher: Encoder) -> None:
        """Train the vector field of a trained model on, with everything else as it is."""
        settings = self.options.settings
        field = model.vector_field.requires_grad_(True)
        stage = Stage(
            name="flow",
            objective=RestorationObjective(
                LatentFlow(field), replace(settings.objective, beta=0.0), torch.nn.Identity()
            ),
            kept=field,
            optimizers=[self._adamw(field)],
            samples=self._latents(model, teacher),
            batch_size=settings.flow_batch_size,
            schedule=Schedule(settings.flow_iterations, settings.warmup, settings.schedule),
            ema_decay=settings.ema_decay,
            rate_setting=f"--learning-rate {settings.learning_rate:g}",
        )
        self.monitor.around = model
        trained = self._run(stage)
        assert isinstance(trained, VectorField)
        model.vector_field = trained

    @torch.no_grad()
    def _latents(self, model: Elir, teacher: Encoder) -> LatentSamples:
        """What the vector field is trained on, made anew whenever a run goes on."""
        settings, device = self.options.settings, self.fabric.device
        samples = self._samples(model, settings.seed + 1)
        model.eval().to(device)
        teacher.to(device)
        coarse, clean = [], []
        for first in range(0, settings.flow_latents, settings.flow_batch_size):
            self.monitor.say("latents for the flow", first, settings.flow_latents)
            last = min(first + settings.flow_batch_size, settings.flow_latents)
            batch = collate([samples[k] for k in range(first, last)])
            self.unreadable |= {self.photos.files[number] for number in batch["unreadable"]}
            with self.fabric.autocast():
                degraded = as_images(batch["degraded"].to(device))
                coarse.append(model.estimator(model.encoder(degraded)).float().cpu())
                clean.append(teacher(as_images(batch["clean"].to(device))).float().cpu())
        return LatentSamples(self.photos, torch.cat(coarse), torch.cat(clean), settings.seed)

    def _samples(self, model: Elir, seed: int) -> TrainingSamples:
        task = self.options.task
        return TrainingSamples(
            self.photos,
            task.image_size,
            task_name=task.name,
            noise_shape=latent_shape(model, task.image_size)[1:],
            whole=self.options.whole_images,
            seed=seed,
        )

    def _adamw(self, module: nn.Module) -> torch.optim.Optimizer:
        settings = self.options.settings
        return torch.optim.AdamW(
            [p for p in module.parameters() if p.requires_grad],
            settings.learning_rate,
            betas=(0.9, 0.999),
            eps=1e-8,
            weight_decay=settings.weight_decay,
        )

    def _state(self, name: str) -> Path:
        return self.options.output / f"state-{name.replace(' ', '-')}.pt"

    def _run(self, stage: Stage) -> nn.Module:
        options = self.options
        intervals = Watchers(
            report_every=options.report_every,
            preview_every=options.preview_every,
            save_seconds=options.save_seconds,
        )
        watchers = on_first(self.fabric, lambda: self.monitor.watching(stage, intervals))
        module, unreadable = run_stage(
            self.fabric,
            stage,
            self._state(stage.name),
            watchers or intervals,
            workers=options.workers,
        )
        self.unreadable |= unreadable
        return module

    def finish(self, trained: Elir) -> Result | None:
        """Write the checkpoints; None on all processes but the first."""
        options = self.options
        task = replace(
            options.task,
            steps=options.settings.objective.segments
            if options.settings.objective.consistency
            else options.task.steps,
            sigma_s=options.settings.objective.sigma_s,
        )
        collapsed_file = options.output / f"{task.name}.safetensors"
        expanded_file = options.output / f"{task.name}.over-parametrised.safetensors"
        if not self.fabric.is_global_zero:
            return None
        trained.requires_grad_(False).eval()
        save_checkpoint(expanded_file, trained, task)
        collapse_convolutions(trained)
        save_checkpoint(collapsed_file, trained, task)
        self.monitor.close()
        return Result(
            checkpoint=collapsed_file,
            expanded_checkpoint=expanded_file,
            images=len(self.photos.files),
            unreadable=len(self.unreadable),
            updates=self._updates(),
            learning_rates=learning_rates(options.output),
        )

    def _updates(self) -> int:
        settings = self.options.settings
        if settings.iterations is not None:
            return settings.iterations
        return updates_of(settings.epochs, len(self.photos.files), settings.batch_size)


def _save_autoencoder(path: Path, trained: AutoencoderObjective) -> None:
    """Under diffusers' names (``encoder.layers.N``, ``decoder.layers.N``)."""
    from safetensors.torch import save

    tensors = {name: tensor.contiguous() for name, tensor in trained.state_dict().items()}
    with replacing(path) as file:
        file.write(save(tensors))
