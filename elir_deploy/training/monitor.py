"""What a run shows as it goes: a log, TensorBoard, previews, progress."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from elir_deploy.output_files import replacing
from elir_deploy.progress import ProgressCallback
from elir_deploy.runtime.images import write_image
from elir_deploy.training.options import RunOptions
from elir_deploy.training.phase import Phase
from elir_deploy.training.preview import Previews, with_vector_field
from elir_deploy.training.record import record_learning_rates
from elir_deploy.training.trainer import Callbacks, Report

__all__ = ["Monitor"]


class Monitor:
    """Writes the logs and previews of a run; used in the first process only.

    Args:
        options: options of the run; the logs are written to its folder.
        on_progress: called with the current task, the amount done and the total.
        on_message: called with lines of text for the user.
        on_report: called with every report of a phase.
    """

    def __init__(
        self,
        options: RunOptions,
        on_progress: ProgressCallback,
        on_message: Callable[[str], None],
        on_report: Callable[[Report], None],
    ) -> None:
        self._options = options
        self._on_progress = on_progress
        self._on_message = on_message
        self._on_report = on_report
        self._previews = Previews(options, on_message)
        self._board: Any = None
        self._quality = ""

    def callbacks(self, phase: Phase) -> Callbacks:
        """The callbacks for a phase.

        They raise OutputError where the run's folder cannot be written.
        """
        log = _Log(self._options.output / f"log-{phase.file_stem}.csv")
        callbacks = self._options.intervals()
        callbacks.start = partial(self._start, phase, log)
        callbacks.report = partial(self._report, log)
        callbacks.preview = partial(self._preview, phase)
        callbacks.unreadable = self._warn_unreadable
        return callbacks

    def close(self) -> None:
        """Flush TensorBoard's file."""
        if self._board is not None:
            self._board.close()

    @property
    def board(self) -> Any:
        """TensorBoard's writer, created on first use."""
        if self._board is None:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(self._options.output / "tensorboard"))
        return self._board

    def _start(self, phase: Phase, log: _Log, done: int) -> None:
        log.load(done)
        self._quality = ""
        self._on_progress(phase.name, done, phase.schedule.updates)
        if done == phase.schedule.updates:
            return
        rates = phase.learning_rates
        before = record_learning_rates(self._options.output, phase.name, done, rates)
        if before is not None:
            self._on_message(
                f"{phase.name}: learning rate {rates[0]:g} after update {done}, "
                f"{before[0]:g} until then"
            )

    def _report(self, log: _Log, report: Report) -> None:
        log.append(report)
        for name, value in report.losses.items():
            self.board.add_scalar(f"{report.phase}/{name}", value, report.update)
        self.board.add_scalar(
            f"{report.phase}/learning rate", report.learning_rates[0], report.update
        )
        self.board.add_scalar(
            f"{report.phase}/images a second", report.images_per_second, report.update
        )
        self._on_progress(
            f"{report.phase}: loss {report.losses['loss']:.5f}"
            f", {report.images_per_second:.1f} images/s{self._quality}",
            report.update,
            report.updates,
        )
        self._on_report(report)

    def _warn_unreadable(self, path: Path) -> None:
        self._on_message(f"warning: {path} cannot be read and is skipped")

    def _preview(self, phase: Phase, update: int, module: nn.Module) -> None:
        if phase.surrounding is not None:
            module = with_vector_field(phase.surrounding, module)
        sheet, ratios = self._previews.draw(module, phase.trains_flow)
        folder = self._options.output / "samples"
        folder.mkdir(exist_ok=True)
        write_image(folder / f"{phase.file_stem}-{update:06d}.png", sheet)
        self.board.add_image(phase.name, sheet, update, dataformats="HWC")
        for name, value in ratios.items():
            self.board.add_scalar(f"{phase.name}/PSNR {name}", value, update)
        self._quality = f", preview {list(ratios.values())[-1]:.2f} dB"


class _Log:
    """A CSV file with a row for each report, rewritten as a whole so that it is never cut short."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rows: list[dict[str, Any]] = []

    def load(self, update: int) -> None:
        """Keep the rows up to an update: those after it will be written again."""
        if self._path.exists():
            with self._path.open(newline="") as file:
                self._rows = [row for row in csv.DictReader(file) if int(row["update"]) <= update]

    def append(self, report: Report) -> None:
        self._rows.append(
            {
                "update": report.update,
                **report.losses,
                "learning rate": report.learning_rates[0],
                "images a second": report.images_per_second,
            }
        )
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, list(self._rows[-1]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(self._rows)
        with replacing(self._path) as file:
            file.write(text.getvalue().encode())
