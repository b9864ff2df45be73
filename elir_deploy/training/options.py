"""Options of a training run."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from elir_deploy.errors import UsageError
from elir_deploy.tasks import TaskSpec
from elir_deploy.training.settings import AutoencoderSettings, RunSettings
from elir_deploy.training.trainer import Callbacks

__all__ = ["RunOptions"]


@dataclass(frozen=True)
class RunOptions:
    """Options of a training run.

    Attributes:
        images: folder of clean photographs, searched recursively.
        output: folder of the run.
        task: task, with the architecture, image size, steps and sigma_s of the model to train.
        settings: hyper-parameters of the training.
        autoencoder: file of the autoencoder to start from; None: one is trained first.
        autoencoder_settings: hyper-parameters of the autoencoder's training.
        start_from: checkpoint to fine-tune; None: train from random weights.
        whole_images: scale whole images to the model's size instead of cropping.
        validation: folder of photographs for previews; None: those in the package.
        precision: Fabric's ``32-true``, ``bf16-mixed`` or ``16-mixed``. The last uses a loss
            scaler, whose state is saved with the run's; on a CPU Fabric replaces it by bfloat16.
        accelerator: Fabric's ``auto``, ``cpu`` or ``cuda``.
        devices: processes on this machine, one per device.
        nodes: number of machines.
        workers: processes that prepare samples, per device.
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

    @property
    def euler_steps(self) -> int:
        """Euler steps M of the trained model: K where consistency is trained."""
        objective = self.settings.objective
        return objective.segments if objective.consistency else self.task.steps

    @property
    def restoration_size(self) -> int:
        """Side in pixels of the images that encoder and coarse estimator are trained on."""
        side = self.task.image_size
        return min(self.settings.crop_size or side, side)

    def intervals(self) -> Callbacks:
        """Callbacks that do nothing, at the intervals of this run."""
        return Callbacks(
            report_every=self.report_every,
            preview_every=self.preview_every,
            save_seconds=self.save_seconds,
        )

    def identity(self) -> dict[str, Any]:
        """The options that must stay the same for a run to continue, as JSON values."""
        return {
            "task": self.task.name,
            "architecture": self.task.architecture.to_dict(),
            "image_size": self.task.image_size,
            "settings": asdict(self.settings),
            "autoencoder": self.autoencoder.name if self.autoencoder else None,
            "autoencoder_settings": None if self.autoencoder else asdict(self.autoencoder_settings),
            "start_from": self.start_from and Path(self.start_from).name,
            "whole_images": self.whole_images,
            "precision": self.precision,
        }

    def check(self) -> None:
        """Check that the options fit each other.

        Raises:
            UsageError: they do not, or the model cannot take images of the size.
        """
        architecture = self.task.architecture
        if self.start_from and not (
            architecture.estimator_blocks and architecture.autoencoder_width
        ):
            raise UsageError(
                "only a complete model can be fine-tuned: leave out --no-estimator and "
                "--pixel-space"
            )
        multiple = self.task.architecture.image_multiple
        for side in (self.task.image_size, self.restoration_size):
            if side < multiple or side % multiple:
                raise UsageError(f"image size is {side}, expected a multiple of {multiple}")
        batch_sizes = [self.settings.batch_size]
        if self.autoencoder is None:
            batch_sizes.append(self.autoencoder_settings.batch_size)
        if self.settings.flow_iterations:
            batch_sizes.append(self.settings.flow_batch_size)
        processes = self.devices * self.nodes
        for batch_size in batch_sizes:
            if batch_size % processes:
                raise UsageError(
                    f"batch size is {batch_size}, expected a multiple of the {processes} processes"
                )
