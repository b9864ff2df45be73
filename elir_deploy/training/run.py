"""A training run: a folder of images in, checkpoints out.

A run lives in a folder: ``run.json`` says what was asked for, ``state-*.pt`` where it is, so that
the same command goes on where it was stopped or killed.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from elir_deploy.atomic import check_writable, replacing, write_text
from elir_deploy.checkpoints import load_autoencoder, load_checkpoint, save_checkpoint
from elir_deploy.errors import OutputError, UsageError
from elir_deploy.model import Elir, collapse_convolutions, expand_convolutions
from elir_deploy.model.autoencoder import LEVELS, Decoder, Encoder
from elir_deploy.model.vector_field import VectorField
from elir_deploy.runtime.images import check_fits, write_image
from elir_deploy.static_graph import latent_shape
from elir_deploy.tasks import TaskSpec
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
from elir_deploy.training.settings import AutoencoderSettings, RunSettings
from elir_deploy.training.trainer import Schedule, Stage, run_stage

__all__ = ["Result", "RunOptions", "draw_samples", "train"]

#: Images that features are measured on when the linear autoencoder is put into the whole one.
_MEASURED_IMAGES = 32
AUTOENCODER_FILE = "autoencoder.safetensors"


@dataclass(frozen=True)
class RunOptions:
    """What a run is asked to do.

    Attributes:
        images: folder of clean photographs, searched with the folders in it.
        output: the run's folder.
        task: with the architecture, image size, steps and sigma_s of the model to train.
        settings: the numbers of the training.
        autoencoder: file with the autoencoder to start from; None: one is trained first.
        autoencoder_settings: the numbers of that.
        start_from: checkpoint whose weights are fine-tuned; None: random ones are trained.
        whole_images: scale whole images to the model's size instead of cutting pieces.
        validation: folder of photographs for previews; None: those in the package.
        precision: of Fabric: ``32-true``, ``bf16-mixed`` or ``16-mixed``.
        accelerator: of Fabric: ``auto``, ``cpu`` or ``cuda``.
        devices: processes on this machine, each with a device of its own.
        nodes: machines.
        workers: processes that prepare samples, for each device.
        report_every: updates between lines of the log.
        preview_every: updates between previews; 0: none.
        save_seconds: time between saved states.
    """

    images: Path
    output: Path
    task: TaskSpec
    settings: RunSettings
    autoencoder: Path | None = None
    autoencoder_settings: AutoencoderSettings = field(default_factory=AutoencoderSettings)
    start_from: str | None = None
    whole_images: bool = False
    validation: Path | None = None
    precision: str = "32-true"
    accelerator: str = "auto"
    devices: int = 1
    nodes: int = 1
    workers: int = 1
    report_every: int = 20
    preview_every: int = 500
    save_seconds: float = 300.0

    def identity(self) -> dict[str, Any]:
        """What must be the same for a run to be gone on with, as JSON values."""
        return {
            "task": self.task.name,
            "architecture": self.task.architecture.to_dict(),
            "image_size": self.task.image_size,
            "settings": self.settings.to_dict(),
            "autoencoder": self.autoencoder.name if self.autoencoder else None,
            "autoencoder_settings": None if self.autoencoder else asdict(self.autoencoder_settings),
            "start_from": self.start_from and Path(self.start_from).name,
            "whole_images": self.whole_images,
            "precision": self.precision,
        }


@dataclass(frozen=True)
class Result:
    """What a finished run left.

    Attributes:
        checkpoint: the collapsed model, for export.
        expanded_checkpoint: the over-parametrised one, to go on training from.
        images: photographs in the folder.
        unreadable: those of them that could not be read.
        updates: of the last stage.
    """

    checkpoint: Path
    expanded_checkpoint: Path
    images: int
    unreadable: int
    updates: int


def train(
    options: RunOptions, say: Callable[[str, int, int], None], tell: Callable[[str], None]
) -> Result | None:
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
        QualityError: the loss is no longer finite.
        OutputError: the folder cannot be written.
    """
    from lightning_fabric import Fabric

    _check(options)
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
    if fabric.is_global_zero:
        if photos.unread:
            tell(f"not read: {photos.unread}")
        _open_folder(options, len(photos.files))
    fabric.barrier()
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
    _check(options)
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


def _check(options: RunOptions) -> None:
    architecture = options.task.architecture
    if options.start_from and not (
        architecture.estimator_blocks and architecture.autoencoder_width
    ):
        raise UsageError(
            "a model is fine-tuned with all its parts: leave out --no-estimator and --pixel-space"
        )
    side, multiple = options.task.image_size, options.task.architecture.image_multiple
    if side < multiple or side % multiple:
        raise UsageError(f"image size is {side}, wanted a multiple of {multiple}")
    batch_sizes = [options.settings.batch_size]
    if options.autoencoder is None:
        batch_sizes.append(options.autoencoder_settings.batch_size)
    if options.settings.flow_iterations:
        batch_sizes.append(options.settings.flow_batch_size)
    processes = options.devices * options.nodes
    for batch_size in batch_sizes:
        if batch_size % processes:
            raise UsageError(
                f"batch size is {batch_size}, wanted a multiple of the {processes} processes"
            )


def _open_folder(options: RunOptions, images: int) -> None:
    """Make the folder, or check that the run in it is the one asked for."""
    wanted = json.loads(json.dumps(options.identity() | {"images": images}))
    record = options.output / "run.json"
    try:
        options.output.mkdir(parents=True, exist_ok=True)
        if not record.exists():
            write_text(record, json.dumps(wanted, indent=1) + "\n")
            return
        found = json.loads(record.read_text())
    except OSError as error:
        raise OutputError(f"{options.output} cannot be written: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"{record}: is damaged; choose another folder") from error
    if found != wanted:
        raise UsageError(
            f"{options.output} holds a run with {_first_difference(found, wanted)}: "
            "choose another folder, or give the same options to go on with it"
        )


def _first_difference(found: Any, wanted: Any, place: str = "") -> str:
    """Such as ``settings.seed 0, not 1``."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        for key in sorted(found.keys() | wanted.keys()):
            if found.get(key) != wanted.get(key):
                return _first_difference(
                    found.get(key), wanted.get(key), f"{place}.{key}" if place else key
                )
    return f"{place} {found!r}, not {wanted!r}"


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
        self.given_autoencoder, self.given_model = _given_weights(options)

    def initial_model(self) -> tuple[Elir, Encoder]:
        """The over-parametrised model to train and the frozen encoder of clean images."""
        options = self.options
        torch.manual_seed(options.settings.seed)
        architecture = options.task.architecture
        if not architecture.autoencoder_width:
            model = Elir(architecture, collapsible=True)
            return model, model.encoder
        encoder, decoder = self._autoencoder()
        architecture = replace(architecture, **_autoencoder_numbers(encoder))
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
        if self.fabric.is_global_zero:
            _save_autoencoder(target, trained)
            linear_state.unlink(missing_ok=True)
            whole_state.unlink(missing_ok=True)
        self.fabric.barrier()

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
        with self.monitor.watching(stage) as watchers:
            module, unreadable = run_stage(
                self.fabric, stage, self._state(stage.name), watchers, workers=self.options.workers
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
        )

    def _updates(self) -> int:
        settings = self.options.settings
        if settings.iterations is not None:
            return settings.iterations
        return updates_of(settings.epochs, len(self.photos.files), settings.batch_size)


def _given_weights(options: RunOptions) -> tuple[tuple[Encoder, Decoder] | None, Elir | None]:
    """The autoencoder and the model to start from, each None where none was given."""
    autoencoder = load_autoencoder(options.autoencoder) if options.autoencoder else None
    if options.start_from is None:
        return autoencoder, None
    model = load_checkpoint(options.start_from, options.task.name).model
    if autoencoder is not None:
        _check_decoder(model, autoencoder[1], options)
    return autoencoder, model


def _autoencoder_numbers(encoder: Encoder) -> dict[str, Any]:
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


def _save_autoencoder(path: Path, trained: AutoencoderObjective) -> None:
    """Under diffusers' names (``encoder.layers.N``, ``decoder.layers.N``)."""
    from safetensors.torch import save

    tensors = {name: tensor.contiguous() for name, tensor in trained.state_dict().items()}
    with replacing(path) as file:
        file.write(save(tensors))
