"""What a training run is asked to do."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from elir_deploy.errors import UsageError
from elir_deploy.tasks import TaskSpec
from elir_deploy.training.settings import AutoencoderSettings, RunSettings

__all__ = ["RunOptions"]


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

    def check(self) -> None:
        """See that the options fit each other.

        Raises:
            UsageError: they do not, or the model cannot take images of the size.
        """
        architecture = self.task.architecture
        if self.start_from and not (
            architecture.estimator_blocks and architecture.autoencoder_width
        ):
            raise UsageError(
                "a model is fine-tuned with all its parts: leave out --no-estimator and "
                "--pixel-space"
            )
        side, multiple = self.task.image_size, self.task.architecture.image_multiple
        if side < multiple or side % multiple:
            raise UsageError(f"image size is {side}, wanted a multiple of {multiple}")
        batch_sizes = [self.settings.batch_size]
        if self.autoencoder is None:
            batch_sizes.append(self.autoencoder_settings.batch_size)
        if self.settings.flow_iterations:
            batch_sizes.append(self.settings.flow_batch_size)
        processes = self.devices * self.nodes
        for batch_size in batch_sizes:
            if batch_size % processes:
                raise UsageError(
                    f"batch size is {batch_size}, wanted a multiple of the {processes} processes"
                )
