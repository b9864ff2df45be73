"""The training loop: one phase, resumable at any update."""

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
from elir_deploy.training.phase import Phase
from elir_deploy.training.processes import any_process, gather_numbers, on_first_process
from elir_deploy.training.state import capture_state, find_not_finite, load_state, save_state

__all__ = ["Callbacks", "Report", "Stopped", "run_phase"]

_Tensors: TypeAlias = "tuple[Tensor, ...] | list[Tensor]"


@dataclass(frozen=True)
class Report:
    """Progress of a phase.

    Attributes:
        phase: name of the phase.
        update: updates done.
        updates: updates of the whole phase.
        losses: means since the last report, by name.
        learning_rates: current rates of all parameter groups.
        images_per_second: mean since the last report.
    """

    phase: str
    update: int
    updates: int
    losses: dict[str, float]
    learning_rates: tuple[float, ...]
    images_per_second: float


@dataclass
class Callbacks:
    """Functions called during a phase, in the first process only, and their intervals.

    The intervals must be the same in all processes.

    Attributes:
        start: called once with the updates already done.
        report: called every ``report_every`` updates.
        preview: called every ``preview_every`` updates with the update and the averaged module.
        unreadable: called once for each file that cannot be read, with its path.
        report_every: updates between reports.
        preview_every: updates between previews; 0: none.
        save_seconds: time between states saved to disk.
    """

    start: Callable[[int], None] = lambda done: None
    report: Callable[[Report], None] = lambda report: None
    preview: Callable[[int, nn.Module], None] = lambda update, module: None
    unreadable: Callable[[Path], None] = lambda path: None
    report_every: int = 20
    preview_every: int = 0
    save_seconds: float = 300.0


class Stopped(Exception):  # noqa: N818  # not an error: the user asked for it
    """A signal stopped the training, and the state is saved.

    Attributes:
        signal: number of the signal.
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


def run_phase(
    fabric: Any, phase: Phase, state_file: Path, callbacks: Callbacks, *, workers: int = 1
) -> tuple[nn.Module, frozenset[Path]]:
    """Train a phase to its end, from its saved state or from the start.

    Args:
        fabric: a launched ``lightning_fabric.Fabric``.
        phase: what to train.
        state_file: file of the state; not removed at the end.
        callbacks: functions to call during the phase.
        workers: processes that prepare samples, for each process that trains; 0: none.

    Returns:
        The average of ``phase.averaged`` over the updates, on the CPU, and the files that could
        not be read.

    Raises:
        Stopped: on SIGINT or SIGTERM; the state is saved. A second signal takes effect at once.
        QualityError: the loss or a number of the state is no longer finite; the last saved state
            is from before.
        CheckpointError: ``state_file`` is damaged or of another run.
        OutputError: the state cannot be written.
    """
    return _Training(fabric, phase, state_file, callbacks).run(workers)


class _Training:
    """A phase in training. What one process raises, all raise: otherwise the others would wait."""

    def __init__(self, fabric: Any, phase: Phase, state_file: Path, callbacks: Callbacks) -> None:
        self._fabric = fabric
        self._phase = phase
        self._state_file = state_file
        self._callbacks = callbacks
        self._precision = fabric.strategy.precision
        # Before a state is loaded: that goes to the device where weights and optimizers are.
        self._objective, *self._optimizers = fabric.setup(phase.objective, *phase.optimizers)
        self._average = AveragedModel(
            phase.averaged, multi_avg_fn=_moving_average(phase.ema_decay), use_buffers=False
        ).requires_grad_(False)
        self._average.train(False)
        self._done, self._unreadable = 0, set[int]()
        #: Updates in the state on disk; None: there is no state.
        self._saved: int | None = None
        if state_file.is_file():
            self._done, self._unreadable = load_state(
                state_file, phase, self._average, self._precision
            )
            self._saved = self._done

    def run(self, workers: int) -> tuple[nn.Module, frozenset[Path]]:
        fabric, phase, callbacks = self._fabric, self._phase, self._callbacks
        on_first_process(fabric, lambda: callbacks.start(self._done))
        window, saved_at = _Window(), time.monotonic()
        with deferred_interrupts() as interrupt:
            self._objective.train()
            for batch in self._batches(workers):
                window.add(self._update(batch))
                stopping = any_process(fabric, interrupt.signal is not None)
                ended = self._done == phase.schedule.updates
                if self._done % callbacks.report_every == 0 or stopping or ended:
                    self._report(window)
                    window = _Window()
                late = time.monotonic() - saved_at > callbacks.save_seconds
                if stopping or ended or any_process(fabric, late):
                    self._save()
                    saved_at = time.monotonic()
                if callbacks.preview_every and (self._done % callbacks.preview_every == 0 or ended):
                    on_first_process(
                        fabric, lambda: callbacks.preview(self._done, self._average.module)
                    )
                if stopping:
                    break
            # A signal may also have come while the last state was saved.
            if any_process(fabric, interrupt.signal is not None):
                raise Stopped(interrupt.signal or signal.SIGTERM)
        self._note_unreadable(gather_numbers(fabric, self._unreadable))
        files = phase.samples.photos.files
        return self._average.module.cpu(), frozenset(files[n] for n in self._unreadable)

    def _batches(self, workers: int) -> Any:
        fabric, phase = self._fabric, self._phase
        numbers = SampleNumbers(
            self._done,
            phase.schedule.updates,
            phase.batch_size,
            fabric.global_rank,
            fabric.world_size,
        )
        return fabric.setup_dataloaders(
            torch.utils.data.DataLoader(
                phase.samples,
                batch_sampler=numbers,
                num_workers=workers,
                collate_fn=collate,
                pin_memory=fabric.device.type == "cuda",
                persistent_workers=False,
            ),
            use_distributed_sampler=False,
            move_to_device=True,
        )

    def _update(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        self._note_unreadable(batch.pop("unreadable"))
        self._phase.set_rates(self._done)
        losses: dict[str, Tensor] = self._objective(**_as_inputs(batch))
        self._fabric.backward(losses["loss"])
        for optimizer in self._optimizers:
            optimizer.step()
        for optimizer in self._optimizers:
            optimizer.zero_grad()
        self._average.update_parameters(self._phase.averaged)
        self._done += 1
        return losses

    def _report(self, window: _Window) -> None:
        phase, means = self._phase, window.means()
        if any_process(self._fabric, not math.isfinite(means["loss"])):
            raise self._diverged("the loss")
        seconds = time.monotonic() - window.began
        report = Report(
            phase.name,
            self._done,
            phase.schedule.updates,
            means,
            phase.current_rates(),
            window.updates * phase.batch_size / seconds,
        )
        on_first_process(self._fabric, lambda: self._callbacks.report(report))

    def _save(self) -> None:
        state = capture_state(
            self._phase, self._average, self._precision, self._done, self._unreadable
        )
        bad = find_not_finite(state)
        if any_process(self._fabric, bad is not None):
            raise self._diverged(bad or "a weight")
        on_first_process(self._fabric, lambda: save_state(self._state_file, state))
        self._saved = self._done

    def _diverged(self, what: str) -> QualityError:
        retry = f"run the same command with a lower learning rate than {self._phase.rate_option}"
        if self._saved is None:
            remedy = f"no state of this phase was saved: {retry}"
        else:
            remedy = (
                f"{self._state_file} of update {self._saved} is intact: {retry} to continue from "
                "it, or remove it to restart the phase"
            )
        return QualityError(
            f"{self._phase.name}: {what} is not finite after {self._done} updates; {remedy}"
        )

    def _note_unreadable(self, numbers: list[int]) -> None:
        for number in numbers:
            if number not in self._unreadable:
                self._unreadable.add(number)
                self._callbacks.unreadable(self._phase.samples.photos.files[number])


def _moving_average(decay: float) -> Callable[[_Tensors, _Tensors, Tensor | int], None]:
    """Exponential moving average whose memory is no longer than the training so far.

    Otherwise the average of a short training would be mostly its initial weights.
    """

    def update(averages: _Tensors, current: _Tensors, averaged: Tensor | int) -> None:
        done = float(averaged)
        torch._foreach_lerp_(averages, current, 1 - min(decay, (1 + done) / (10 + done)))

    return update


def _as_inputs(batch: dict[str, Any]) -> dict[str, Tensor]:
    return {
        name: as_images(value) if value.dtype == torch.uint8 else value
        for name, value in batch.items()
    }
