"""What a run shows while it goes: a log, TensorBoard, previews, the curve of its losses."""

from __future__ import annotations

import copy
import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from elir_deploy.atomic import replacing
from elir_deploy.degradations import degrade, enlarge
from elir_deploy.model import Elir
from elir_deploy.model.vector_field import VectorField
from elir_deploy.pixels import as_pixels, psnr_db
from elir_deploy.progress import ProgressCallback, no_progress
from elir_deploy.runtime.images import read_image, write_image
from elir_deploy.runtime.photos import sample_photos
from elir_deploy.static_graph import fixed_noise
from elir_deploy.training.autoencoder import AutoencoderObjective
from elir_deploy.training.data import PhotoFolder, as_images, fit_to_square
from elir_deploy.training.options import RunOptions
from elir_deploy.training.record import note_learning_rates
from elir_deploy.training.stage import Stage
from elir_deploy.training.state import read_state
from elir_deploy.training.trainer import Report, Watchers

__all__ = ["Monitor"]

#: Photographs of a validation folder that are previewed.
_PREVIEWS = 8


class Monitor:
    """Logs and previews of a run; silent on all processes but the first.

    Args:
        options: of the run; the logs lie in its folder.
        active: whether this is the first process.
        say: told what is being done, how much of it is done, and how much there is.
        tell: given lines of text for the user.
    """

    def __init__(
        self,
        options: RunOptions,
        active: bool,
        say: ProgressCallback,
        tell: Callable[[str], None],
    ) -> None:
        self._options = options
        self.say = say if active else no_progress
        self._tell = tell
        self._board: Any = None
        self._photos: list[NDArray[np.uint8]] | None = None
        self._quality = ""
        #: The model around a vector field that is trained alone, for previews.
        self.around: Elir | None = None

    def watching(self, stage: Stage, watchers: Watchers) -> Watchers:
        """``watchers`` with this monitor in them, for a stage that is about to begin or go on.

        Raises:
            CheckpointError: the stage's state is damaged.
            OutputError: the run's folder cannot be written.
        """
        options = self._options
        log = options.output / f"log-{stage.name.replace(' ', '-')}.csv"
        state = options.output / f"state-{stage.name.replace(' ', '-')}.pt"
        done = int(read_state(state)["updates_done"]) if state.is_file() else 0
        rows = _rows_until(log, done)
        self._quality = ""
        self.say(stage.name, done, stage.schedule.updates)
        if done < stage.schedule.updates:
            self._note_rates(stage, done)

        def report(told: Report) -> None:
            rows.append(_row(told))
            _write_rows(log, rows)
            self._scalars(told)
            self.say(
                f"{told.stage}: loss {told.losses['loss']:.5f}"
                f", {told.images_per_second:.1f} images/s{self._quality}",
                told.update,
                told.updates,
            )

        return replace(
            watchers,
            report=report,
            preview=lambda update, module: self._preview(stage.name, update, module),
            unreadable=self._note_unreadable,
        )

    def _note_rates(self, stage: Stage, done: int) -> None:
        rates = stage.learning_rates
        before = note_learning_rates(self._options.output, stage.name, done, rates)
        if before is not None:
            self._tell(
                f"{stage.name}: learning rate {rates[0]:g} after update {done}, "
                f"{before[0]:g} until then"
            )

    def close(self) -> None:
        """Flush TensorBoard's file."""
        if self._board is not None:
            self._board.close()

    @property
    def board(self) -> Any:
        """TensorBoard's writer, made when first used."""
        if self._board is None:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(self._options.output / "tensorboard"))
        return self._board

    def _note_unreadable(self, path: Path) -> None:
        self._tell(f"warning: {path} cannot be read and is passed over")

    def _scalars(self, told: Report) -> None:
        for name, value in told.losses.items():
            self.board.add_scalar(f"{told.stage}/{name}", value, told.update)
        self.board.add_scalar(f"{told.stage}/learning rate", told.learning_rates[0], told.update)
        self.board.add_scalar(f"{told.stage}/images a second", told.images_per_second, told.update)

    def _preview(self, stage: str, update: int, module: nn.Module) -> None:
        """Write what the model makes of a few photographs, one row each."""
        rows, ratios = [], []
        for number, photo in enumerate(self._preview_photos()):
            row = self._preview_row(module, photo, number)
            rows.append(np.concatenate(row, axis=1))
            ratios.append([psnr_db(image, photo) for image in row[:-1]])
        sheet = np.concatenate(rows)
        folder = self._options.output / "samples"
        folder.mkdir(exist_ok=True)
        write_image(folder / f"{stage.replace(' ', '-')}-{update:06d}.png", sheet)
        self.board.add_image(stage, sheet, update, dataformats="HWC")
        names = ["input", "coarse", "restored"] if len(ratios[0]) == 3 else ["restored"]
        for name, values in zip(names, np.mean(ratios, axis=0), strict=True):
            self.board.add_scalar(f"{stage}/PSNR {name}", values, update)
        self._quality = f", preview {np.mean(ratios, axis=0)[-1]:.2f} dB"

    def _preview_photos(self) -> list[NDArray[np.uint8]]:
        if self._photos is None:
            task = self._options.task
            if self._options.validation is None:
                self._photos = list(sample_photos(task.image_size, task.faces).values())
            else:
                folder = PhotoFolder.scan(self._options.validation)
                if folder.unread:
                    self._tell(f"not read: {folder.unread}")
                self._photos = [
                    fit_to_square(
                        read_image(file).opaque(),
                        task.image_size,
                        None,
                        whole=self._options.whole_images,
                    )
                    for file in folder.files[:_PREVIEWS]
                ]
        return self._photos

    @torch.no_grad()
    def _preview_row(
        self, module: nn.Module, photo: NDArray[np.uint8], number: int
    ) -> list[NDArray[np.uint8]]:
        """[input, coarse, restored, truth], or [restored, truth] of an autoencoder."""
        device = next(module.parameters()).device
        if isinstance(module, VectorField) and self.around is not None:
            whole = copy.copy(self.around)  # not its parts
            whole._modules = {**self.around._modules, "vector_field": module}
            module = whole.to(device)
        if not isinstance(module, Elir):
            assert isinstance(module, AutoencoderObjective) or hasattr(module, "encoder")
            decoded = module.decoder(module.encoder(_as_batch(photo, device)))  # type: ignore[operator]
            return [_as_picture(decoded), photo]
        task = self._options.task
        rng = np.random.default_rng([self._options.settings.seed, number])
        low = enlarge(task.name, degrade(task.name, photo, rng))
        image = _as_batch(low, device)
        coarse = module.estimator(module.encoder(image))
        objective = self._options.settings.objective
        noise = fixed_noise(0, objective.sigma_s, tuple(coarse.shape)).values.to(device)
        steps = objective.segments if objective.consistency else task.steps
        restored = module(image, steps, noise)
        return [low, _as_picture(module.decoder(coarse)), _as_picture(restored), photo]


def _as_batch(image: NDArray[np.uint8], device: torch.device) -> torch.Tensor:
    return as_images(torch.from_numpy(image.copy()).permute(2, 0, 1)[None].to(device))


def _as_picture(batch: torch.Tensor) -> NDArray[np.uint8]:
    return as_pixels(batch[0].permute(1, 2, 0).float().cpu().numpy())


def _row(told: Report) -> dict[str, float]:
    return {
        "update": told.update,
        **told.losses,
        "learning rate": told.learning_rates[0],
        "images a second": told.images_per_second,
    }


def _rows_until(log: Path, update: int) -> list[dict[str, Any]]:
    """The rows of a log up to an update: those after it will be written again."""
    if not log.exists():
        return []
    with log.open(newline="") as file:
        return [dict(row) for row in csv.DictReader(file) if int(row["update"]) <= update]


def _write_rows(log: Path, rows: list[dict[str, Any]]) -> None:
    import io

    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[-1]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    with replacing(log) as file:
        file.write(text.getvalue().encode())
