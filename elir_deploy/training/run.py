"""A training run: a folder of images in, checkpoints out.

A run has a folder: ``run.json`` holds its options and ``state-*.pt`` its progress, so that the
same command continues it after it was stopped or killed.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from elir_deploy.checkpoints import load_autoencoder, save_checkpoint
from elir_deploy.model import Elir, collapse_convolutions, expand_convolutions
from elir_deploy.model.autoencoder import Decoder, Encoder
from elir_deploy.model.vector_field import VectorField
from elir_deploy.output_files import replacing
from elir_deploy.progress import ProgressCallback, no_progress
from elir_deploy.training.autoencoder import (
    AutoencoderObjective,
    LinearAutoencoder,
    autoencoder_from_linear,
)
from elir_deploy.training.data import LatentSamples, PhotoFolder, as_images, collate
from elir_deploy.training.monitor import Monitor
from elir_deploy.training.options import RunOptions
from elir_deploy.training.phase import Phase
from elir_deploy.training.phases import (
    AUTOENCODER,
    LINEAR_AUTOENCODER,
    autoencoder_phase,
    autoencoder_samples,
    flow_phase,
    restoration_phase,
    restoration_samples,
)
from elir_deploy.training.processes import leaving_group, on_first_process
from elir_deploy.training.record import open_folder, read_learning_rates
from elir_deploy.training.start import autoencoder_architecture, load_initial_weights
from elir_deploy.training.trainer import Report, run_phase

__all__ = ["Result", "train"]

#: Images that features are measured on when the full autoencoder is built from the linear one.
_MEASURED_IMAGES = 32
AUTOENCODER_FILE = "autoencoder.safetensors"


@dataclass(frozen=True)
class Result:
    """The result of a finished run.

    Attributes:
        checkpoint: the collapsed model, for export.
        expanded_checkpoint: the over-parametrised model, for further training.
        images: number of photographs in the folder.
        unreadable: number of photographs that could not be read.
        updates: updates of the restoration phase.
        learning_rates: for each phase, the learning rates and the updates from which they held.
    """

    checkpoint: Path
    expanded_checkpoint: Path
    images: int
    unreadable: int
    updates: int
    learning_rates: dict[str, list[tuple[int, float]]]


@leaving_group()
def train(
    options: RunOptions,
    on_progress: ProgressCallback,
    on_message: Callable[[str], None],
    on_report: Callable[[Report], None] = lambda report: None,
) -> Result | None:
    """Train a model, or continue the run in the folder. Turns TF32 off in this process.

    Args:
        options: options of the run.
        on_progress: called with the current task, the amount done and the total.
        on_message: called with lines of text for the user.
        on_report: called with the losses and speed of a phase, every ``options.report_every``
            updates.

    Returns:
        The result; None in all processes but the first.

    Raises:
        UsageError: the options do not fit each other, the images, or the run in the folder.
        CheckpointError: a weights file or a state cannot be used.
        Stopped: on a signal; the state is saved.
        QualityError: the loss or a weight is no longer finite. The last saved state is from before,
            and the run can continue from it with a lower learning rate.
        OutputError: the folder cannot be written.
    """
    from lightning_fabric import Fabric

    options.check()
    photos = PhotoFolder.scan(options.images)
    # cuDNN allows TF32 by default; float32 computations, also those beside bfloat16, stay float32.
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    fabric = Fabric(
        accelerator=options.accelerator,
        devices=options.devices,
        num_nodes=options.nodes,
        precision=options.precision,  # type: ignore[arg-type]  # a Literal there
    )
    fabric.launch()
    monitor = None
    if fabric.is_global_zero:
        monitor = Monitor(options, on_progress, on_message, on_report)
    # Loads the initial weights: files that cannot be used must not be recorded in the folder.
    run = _Run(options, photos, fabric, monitor, on_progress if monitor else no_progress)
    if monitor is not None and photos.unread:
        on_message(f"not read: {photos.unread}")
    on_first_process(fabric, lambda: open_folder(options, len(photos.files)))
    model, teacher = run.build_model()
    teacher = copy.deepcopy(teacher)  # the model's encoder, which is trained, may be the same
    trained = run.train_restoration(model, teacher)
    if options.settings.flow_iterations:
        run.train_flow(trained, teacher)
    return run.finish(trained)


class _Run:
    """The phases of one run, in their order."""

    def __init__(
        self,
        options: RunOptions,
        photos: PhotoFolder,
        fabric: Any,
        monitor: Monitor | None,
        on_progress: ProgressCallback,
    ) -> None:
        self.options = options
        self.photos = photos
        self.fabric = fabric
        self.monitor = monitor
        self.on_progress = on_progress
        self.unreadable: set[Path] = set()
        self.initial_autoencoder, self.initial_model = load_initial_weights(options)

    def build_model(self) -> tuple[Elir, Encoder]:
        """The over-parametrised model to train and the frozen encoder of clean images."""
        options = self.options
        torch.manual_seed(options.settings.seed)
        architecture = options.task.architecture
        if not architecture.autoencoder_width:
            model = Elir(architecture, collapsible=True)
            return model, model.encoder
        encoder, decoder = self._autoencoder()
        architecture = replace(architecture, **autoencoder_architecture(encoder))
        if self.initial_model is not None:
            expand_convolutions(self.initial_model)
            return self.initial_model, encoder
        torch.manual_seed(options.settings.seed)  # whatever random numbers the autoencoder used
        model = Elir(architecture, collapsible=True)
        model.encoder.load_state_dict(encoder.state_dict())
        model.decoder.load_state_dict(decoder.state_dict())
        return model, encoder

    def _autoencoder(self) -> tuple[Encoder, Decoder]:
        if self.initial_autoencoder is not None:
            return self.initial_autoencoder
        file = self.options.output / AUTOENCODER_FILE
        if not file.exists():
            self._train_autoencoder(file)
        return load_autoencoder(file)

    def _train_autoencoder(self, target: Path) -> None:
        options, architecture = self.options, self.options.task.architecture
        torch.manual_seed(options.settings.seed)
        linear = LinearAutoencoder(architecture)
        samples = autoencoder_samples(options, self.photos)
        states = [self._state_file(name) for name in (LINEAR_AUTOENCODER, AUTOENCODER)]
        if states[1].exists():
            encoder, decoder = Encoder(architecture), Decoder(architecture)
        else:
            phase = autoencoder_phase(
                options,
                LINEAR_AUTOENCODER,
                linear.encoder,
                linear.decoder,
                samples,
                self.fabric.device,
            )
            trained = self._run(phase)
            linear.encoder, linear.decoder = trained.encoder, trained.decoder  # type: ignore[assignment]  # nn.Module's attributes
            batch = collate([samples[k] for k in range(_MEASURED_IMAGES)])
            images = as_images(batch["clean"])
            encoder, decoder = autoencoder_from_linear(linear, architecture, images)
        trained = self._run(
            autoencoder_phase(options, AUTOENCODER, encoder, decoder, samples, self.fabric.device)
        )
        assert isinstance(trained, AutoencoderObjective)

        def save() -> None:
            _save_autoencoder(target, trained)
            for state in states:
                state.unlink(missing_ok=True)

        on_first_process(self.fabric, save)

    def train_restoration(self, model: Elir, teacher: Encoder) -> Elir:
        """Train all of the model but the decoder; returns its average, over-parametrised."""
        trained = self._run(
            restoration_phase(self.options, self.photos, model, teacher, self.fabric.device)
        )
        assert isinstance(trained, Elir)
        return trained

    def train_flow(self, model: Elir, teacher: Encoder) -> None:
        """Train the vector field of a trained model, with the rest frozen."""
        trained = self._run(flow_phase(self.options, model, self._latents(model, teacher)))
        assert isinstance(trained, VectorField)
        model.vector_field = trained

    @torch.no_grad()
    def _latents(self, model: Elir, teacher: Encoder) -> LatentSamples:
        """The samples of the flow phase, computed again whenever a run continues."""
        settings, device = self.options.settings, self.fabric.device
        samples = restoration_samples(
            self.options, self.photos, model, settings.seed + 1, self.options.task.image_size
        )
        model.eval().to(device)
        teacher.to(device)
        coarse, clean = [], []
        for first in range(0, settings.flow_latents, settings.flow_batch_size):
            self.on_progress("latents for the flow", first, settings.flow_latents)
            last = min(first + settings.flow_batch_size, settings.flow_latents)
            batch = collate([samples[k] for k in range(first, last)])
            self.unreadable |= {self.photos.files[number] for number in batch["unreadable"]}
            with self.fabric.autocast():
                degraded = as_images(batch["degraded"].to(device))
                coarse.append(model.estimator(model.encoder(degraded)).float().cpu())
                clean.append(teacher(as_images(batch["clean"].to(device))).float().cpu())
        return LatentSamples(self.photos, torch.cat(coarse), torch.cat(clean), settings.seed)

    def _state_file(self, name: str) -> Path:
        return self.options.output / f"state-{name.replace(' ', '-')}.pt"

    def _run(self, phase: Phase) -> nn.Module:
        module, unreadable = run_phase(
            self.fabric,
            phase,
            self._state_file(phase.name),
            self.monitor.callbacks(phase) if self.monitor else self.options.intervals(),
            workers=self.options.workers,
        )
        self.unreadable |= unreadable
        return module

    def finish(self, trained: Elir) -> Result | None:
        """Write the checkpoints; None in all processes but the first."""
        if self.monitor is None:
            return None
        options = self.options
        task = replace(
            options.task, steps=options.euler_steps, sigma_s=options.settings.objective.sigma_s
        )
        collapsed_file = options.output / f"{task.name}.safetensors"
        expanded_file = options.output / f"{task.name}.over-parametrised.safetensors"
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
            updates=options.settings.updates(len(self.photos.files)),
            learning_rates=read_learning_rates(options.output),
        )


def _save_autoencoder(path: Path, trained: AutoencoderObjective) -> None:
    """Under diffusers' names (``encoder.layers.N``, ``decoder.layers.N``)."""
    from safetensors.torch import save

    tensors = {name: tensor.contiguous() for name, tensor in trained.state_dict().items()}
    with replacing(path) as file:
        file.write(save(tensors))
