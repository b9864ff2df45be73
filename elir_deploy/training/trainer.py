"""The training loop: one stage after another, each of them resumable at any update."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from elir_deploy.errors import QualityError
from elir_deploy.interrupts import deferred_interrupts
from elir_deploy.training.data import SampleNumbers, as_images, collate
from elir_deploy.training.processes import anyone, everyones, on_first
from elir_deploy.training.stage import Stage
from elir_deploy.training.state import first_not_finite, load_state, save_state, state_of

__all__ = ["Report", "Stopped", "Watchers", "run_stage"]

_Tensors: TypeAlias = "tuple[Tensor, ...] | list[Tensor]"


@dataclass(frozen=True)
class Report:
    """What a stage says every few updates.

    Attributes:
        stage: its name.
        update: updates done.
        updates: of the whole stage.
        losses: means since the last report, by name.
        learning_rates: of each optimizer.
        images_per_second: since the last report.
    """

    stage: str
    update: int
    updates: int
    losses: dict[str, float]
    learning_rates: tuple[float, ...]
    images_per_second: float


@dataclass
class Watchers:
    """Who is told of a stage's progress, on the first process only, and when, on all alike.

    Attributes:
        report: called every ``report_every`` updates.
        preview: called every ``preview_every`` updates with the update and the averaged module.
        unreadable: called once for each file that cannot be read, with its path.
        report_every: updates between reports.
        preview_every: updates between previews; 0: none.
        save_seconds: time between states saved to disk.
    """

    report: Callable[[Report], None] = lambda report: None
    preview: Callable[[int, nn.Module], None] = lambda update, module: None
    unreadable: Callable[[Path], None] = lambda path: None
    report_every: int = 20
    preview_every: int = 0
    save_seconds: float = 300.0


class Stopped(Exception):  # noqa: N818  # no error: someone asked for it
    """A signal asked to stop, and the state is saved.

    Attributes:
        signal: its number.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by signal {number}")
        self.signal = number


@dataclass
class _Window:
    """Sums since the last report."""

    sums: dict[str, Tensor] = field(default_factory=dict)
    updates: int = 0
    began: float = field(default_factory=time.monotonic)

    def add(self, losses: dict[str, Tensor]) -> None:
        for name, value in losses.items():
            total = self.sums.get(name)
            self.sums[name] = value.detach() if total is None else total + value.detach()
        self.updates += 1

    def means(self) -> dict[str, float]:
        return {name: float(total) / self.updates for name, total in self.sums.items()}


def run_stage(
    fabric: Any, stage: Stage, state_file: Path, watchers: Watchers, *, workers: int = 1
) -> tuple[nn.Module, frozenset[Path]]:
    """Train a stage from its saved state, or from the start, to its end.

    Args:
        fabric: a launched ``lightning_fabric.Fabric``.
        stage: what to train.
        state_file: where its state is, and is saved; removed by the caller, not here.
        watchers: told of progress.
        workers: processes that prepare samples, for each process that trains; 0: none.

    Returns:
        The average of ``stage.kept`` over the updates, on the CPU, and the files that could not
        be read.

    Raises:
        Stopped: SIGINT or SIGTERM came; the state is saved. A second one takes effect at once.
        QualityError: the loss or what a state would hold is no longer finite; the last state
            saved is from before.
        CheckpointError: ``state_file`` is damaged or of another run.
        OutputError: the state cannot be written.
    """
    return _Training(fabric, stage, state_file, watchers).run(workers)


class _Training:
    """A stage on its way. What one process raises, all of them raise: the others would wait."""

    def __init__(self, fabric: Any, stage: Stage, state_file: Path, watchers: Watchers) -> None:
        self._fabric = fabric
        self._stage = stage
        self._state_file = state_file
        self._watchers = watchers
        self._average = AveragedModel(
            stage.kept, multi_avg_fn=_moving_average(stage.ema_decay), use_buffers=False
        ).requires_grad_(False)
        self._done, self._unreadable = 0, set[int]()
        #: Updates behind the state on disk; None: there is none.
        self._saved: int | None = None
        if state_file.is_file():
            self._done, self._unreadable = load_state(state_file, stage, self._average)
            self._saved = self._done

    def run(self, workers: int) -> tuple[nn.Module, frozenset[Path]]:
        fabric, stage, watchers = self._fabric, self._stage, self._watchers
        objective, *optimizers = fabric.setup(stage.objective, *stage.optimizers)
        self._average.to(fabric.device)
        self._average.train(False)
        window, saved_at = _Window(), time.monotonic()
        with deferred_interrupts() as held:
            objective.train()
            for batch in self._batches(workers):
                window.add(self._update(objective, optimizers, batch))
                stopping = anyone(self._fabric, held.signal is not None)
                ended = self._done == stage.schedule.updates
                if self._done % watchers.report_every == 0 or stopping or ended:
                    self._report(window)
                    window = _Window()
                late = time.monotonic() - saved_at > watchers.save_seconds
                if stopping or ended or anyone(self._fabric, late):
                    self._save()
                    saved_at = time.monotonic()
                if watchers.preview_every and (self._done % watchers.preview_every == 0 or ended):
                    on_first(
                        self._fabric, lambda: watchers.preview(self._done, self._average.module)
                    )
                if stopping:
                    break
            if anyone(self._fabric, held.signal is not None):  # even while the last was saved
                raise Stopped(held.signal or signal.SIGTERM)
        self._note_unreadable(everyones(fabric, self._unreadable))
        files = stage.samples.photos.files
        return self._average.module.cpu(), frozenset(files[n] for n in self._unreadable)

    def _batches(self, workers: int) -> Any:
        fabric, stage = self._fabric, self._stage
        numbers = SampleNumbers(
            self._done,
            stage.schedule.updates,
            stage.batch_size,
            fabric.global_rank,
            fabric.world_size,
        )
        return fabric.setup_dataloaders(
            torch.utils.data.DataLoader(
                stage.samples,
                batch_sampler=numbers,
                num_workers=workers,
                collate_fn=collate,
                pin_memory=fabric.device.type == "cuda",
                persistent_workers=False,
            ),
            use_distributed_sampler=False,
            move_to_device=True,
        )

    def _update(
        self, objective: Any, optimizers: list[Any], batch: dict[str, Any]
    ) -> dict[str, Tensor]:
        self._note_unreadable(batch.pop("unreadable"))
        self._stage.set_rates(self._done)
        losses: dict[str, Tensor] = objective(**_as_inputs(batch))
        self._fabric.backward(losses["loss"])
        for optimizer in optimizers:
            optimizer.step()
        for optimizer in optimizers:
            optimizer.zero_grad()
        self._average.update_parameters(self._stage.kept)
        self._done += 1
        return losses

    def _report(self, window: _Window) -> None:
        stage, means = self._stage, window.means()
        if anyone(self._fabric, not math.isfinite(means["loss"])):
            raise self._diverged("the loss")
        seconds = time.monotonic() - window.began
        report = Report(
            stage.name,
            self._done,
            stage.schedule.updates,
            means,
            stage.current_rates(),
            window.updates * stage.batch_size / seconds,
        )
        on_first(self._fabric, lambda: self._watchers.report(report))

    def _save(self) -> None:
        state = state_of(self._stage, self._average, self._done, self._unreadable)
        broken = first_not_finite(state)
        if anyone(self._fabric, broken is not None):
            raise self._diverged(broken or "a weight")
        on_first(self._fabric, lambda: save_state(self._state_file, state))
        self._saved = self._done

    def _diverged(self, what: str) -> QualityError:
        again = (
            f"run the same command with a lower learning rate (it was {self._stage.rate_setting})"
        )
        way = f"nothing of this stage is saved: {again}"
        if self._saved is not None:
            way = (
                f"{self._state_file}, of update {self._saved}, is intact: {again} to go on from "
                "it, or without that file to begin the stage anew"
            )
        return QualityError(
            f"{self._stage.name}: {what} is not finite after {self._done} updates; {way}"
        )

    def _note_unreadable(self, numbers: list[int]) -> None:
        for number in numbers:
            if number not in self._unreadable:
                self._unreadable.add(number)
                self._watchers.unreadable(self._stage.samples.photos.files[number])


def _moving_average(decay: float) -> Callable[[_Tensors, _Tensors, Tensor | int], None]:
    """Exponential moving average whose memory is no longer than the training so far: without that,
    the average of a short training would be mostly the weights it began with."""

    def update(averages: _Tensors, current: _Tensors, averaged: Tensor | int) -> None:
        done = float(averaged)
        torch._foreach_lerp_(averages, current, 1 - min(decay, (1 + done) / (10 + done)))

    return update


def _as_inputs(batch: dict[str, Any]) -> dict[str, Tensor]:
    return {
        name: as_images(value) if value.dtype == torch.uint8 else value
        for name, value in batch.items()
    }
