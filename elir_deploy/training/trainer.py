"""The training loop: one stage after another, each of them resumable at any update.

A stage's state is everything its next update depends on. Randomness is not part of it, since a
sample's random numbers come from its number (:mod:`elir_deploy.training.data`).
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from elir_deploy.atomic import replacing
from elir_deploy.errors import CheckpointError, QualityError
from elir_deploy.training.data import (
    LatentSamples,
    SampleNumbers,
    TrainingSamples,
    as_images,
    collate,
)

__all__ = ["Report", "Schedule", "Stage", "Stopped", "run_stage"]

STATE_FORMAT = 1
_Tensors: TypeAlias = "tuple[Tensor, ...] | list[Tensor]"


@dataclass(frozen=True)
class Schedule:
    """The learning rate over a stage, as a factor on each optimizer's own.

    Attributes:
        updates: of the whole stage.
        warmup: updates over which the factor rises from 0 to 1.
        shape: what follows: ``constant``, or ``cosine`` down to 0.
    """

    updates: int
    warmup: int = 0
    shape: str = "constant"

    def factor(self, update: int) -> float:
        """For update number ``update``, from 0."""
        rise = min(1.0, (update + 1) / self.warmup) if self.warmup else 1.0
        if self.shape == "constant":
            return rise
        return rise * 0.5 * (1 + math.cos(math.pi * update / self.updates))


@dataclass
class Stage:
    """One thing to train.

    Attributes:
        name: what people and the state file call it.
        objective: module from a batch's tensors, by name, to a dict of losses with ``loss``.
        kept: the module inside ``objective`` whose average is the result.
        optimizers: of the trainable parameters.
        samples: where batches come from.
        batch_size: samples an update, over all processes.
        schedule: learning rate and number of updates.
        ema_decay: of the average of the weights.
    """

    name: str
    objective: nn.Module
    kept: nn.Module
    optimizers: list[torch.optim.Optimizer]
    samples: TrainingSamples | LatentSamples
    batch_size: int
    schedule: Schedule
    ema_decay: float


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
    """Who is told of a stage's progress; on the first process only.

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


@contextmanager
def _deferred_signals() -> Iterator[list[int]]:
    """Numbers of the signals that came, instead of their effect; a second one has its effect."""
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield came
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, frame: Any) -> None:
        came.append(number)
        signal.signal(number, before[signal.Signals(number)])

    for number in before:
        signal.signal(number, note)
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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
        QualityError: the loss is no longer finite; the last state saved is from before.
        CheckpointError: ``state_file`` is damaged or of another run.
        OutputError: the state cannot be written.
    """
    average = AveragedModel(
        stage.kept, multi_avg_fn=_moving_average(stage.ema_decay), use_buffers=False
    ).requires_grad_(False)
    first, unreadable = 0, set[int]()
    if state_file.is_file():
        first, unreadable = _load_state(state_file, stage, average)
    base_rates = [group["initial_lr"] for group in _groups(stage)]
    objective, *optimizers = fabric.setup(stage.objective, *stage.optimizers)
    average.to(fabric.device)
    average.train(False)
    numbers = SampleNumbers(
        first, stage.schedule.updates, stage.batch_size, fabric.global_rank, fabric.world_size
    )
    batches = fabric.setup_dataloaders(
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
    window, saved = _Window(), time.monotonic()
    done = first

    def save() -> None:
        if fabric.is_global_zero:
            _save_state(state_file, stage, average, done, unreadable)
        fabric.barrier()

    with _deferred_signals() as signals:
        objective.train()
        for batch in batches:
            _note_unreadable(batch.pop("unreadable"), unreadable, stage.samples, watchers)
            factor = stage.schedule.factor(done)
            for group, rate in zip(_groups(stage), base_rates, strict=True):
                group["lr"] = rate * factor
            losses = objective(**_as_inputs(batch))
            fabric.backward(losses["loss"])
            for optimizer in optimizers:
                optimizer.step()
            for optimizer in optimizers:
                optimizer.zero_grad()
            average.update_parameters(stage.kept)
            done += 1
            window.add(losses)
            stopping = _anyone(fabric, bool(signals))
            ended = done == stage.schedule.updates
            if done % watchers.report_every == 0 or stopping or ended:
                _report(fabric, stage, window, done, watchers)
                window = _Window()
            if watchers.preview_every and (done % watchers.preview_every == 0 or ended):
                if fabric.is_global_zero:
                    watchers.preview(done, average.module)
                fabric.barrier()
            if (
                stopping
                or ended
                or _anyone(fabric, time.monotonic() - saved > watchers.save_seconds)
            ):
                save()
                saved = time.monotonic()
            if stopping:
                raise Stopped(signals[0] if signals else signal.SIGTERM)
    _note_unreadable(_everyones(fabric, unreadable), unreadable, stage.samples, watchers)
    files = stage.samples.photos.files
    return average.module.cpu(), frozenset(files[number] for number in unreadable)


def _moving_average(decay: float) -> Callable[[_Tensors, _Tensors, Tensor | int], None]:
    """Exponential moving average whose memory is no longer than the training so far: without that,
    the average of a short training would be mostly the weights it began with."""

    def update(averages: _Tensors, current: _Tensors, averaged: Tensor | int) -> None:
        done = float(averaged)
        torch._foreach_lerp_(averages, current, 1 - min(decay, (1 + done) / (10 + done)))

    return update


def _groups(stage: Stage) -> list[dict[str, Any]]:
    groups = [group for optimizer in stage.optimizers for group in optimizer.param_groups]
    for group in groups:
        group.setdefault("initial_lr", group["lr"])
    return groups


def _as_inputs(batch: dict[str, Any]) -> dict[str, Tensor]:
    return {
        name: as_images(value) if value.dtype == torch.uint8 else value
        for name, value in batch.items()
    }


def _anyone(fabric: Any, flag: bool) -> bool:
    """Whether any process says so; all of them get the same answer."""
    if fabric.world_size == 1:
        return flag
    told: Tensor = fabric.all_reduce(torch.tensor(float(flag)), reduce_op="sum")
    return float(told) > 0


def _everyones(fabric: Any, numbers: set[int]) -> list[int]:
    """The numbers of all processes."""
    if fabric.world_size == 1:
        return sorted(numbers)
    gathered: list[Any] = [None] * fabric.world_size
    torch.distributed.all_gather_object(gathered, sorted(numbers))
    return sorted({number for share in gathered for number in share})


def _note_unreadable(
    numbers: list[int],
    known: set[int],
    samples: TrainingSamples | LatentSamples,
    watchers: Watchers,
) -> None:
    for number in numbers:
        if number not in known:
            known.add(number)
            watchers.unreadable(samples.photos.files[number])


def _report(fabric: Any, stage: Stage, window: _Window, done: int, watchers: Watchers) -> None:
    means = window.means()
    if not math.isfinite(means["loss"]):
        raise QualityError(
            f"{stage.name}: the loss is {means['loss']} after {done} updates: start again with a "
            "lower learning rate, or go on from the state saved before with one"
        )
    if fabric.is_global_zero:
        seconds = time.monotonic() - window.began
        watchers.report(
            Report(
                stage.name,
                done,
                stage.schedule.updates,
                means,
                tuple(group["lr"] for group in _groups(stage)),
                window.updates * stage.batch_size / seconds,
            )
        )


def _save_state(
    path: Path, stage: Stage, average: AveragedModel, done: int, unreadable: set[int]
) -> None:
    state = {
        "format": STATE_FORMAT,
        "stage": stage.name,
        "updates_done": done,
        "updates": stage.schedule.updates,
        "batch_size": stage.batch_size,
        "objective": stage.objective.state_dict(),
        "average": average.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in stage.optimizers],
        "unreadable": sorted(unreadable),
    }
    with replacing(path) as file:
        torch.save(state, file)


def read_state(path: Path) -> dict[str, Any]:
    """The state in a file; only tensors and plain values are read.

    Raises:
        CheckpointError: it is damaged or not one of ours.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever the damage leads to
        raise CheckpointError(
            f"{path}: is damaged ({type(error).__name__}); training starts anew without it"
        ) from error
    if not isinstance(state, dict) or state.get("format") != STATE_FORMAT:
        raise CheckpointError(f"{path}: is no training state of this version")
    return state


def _load_state(path: Path, stage: Stage, average: AveragedModel) -> tuple[int, set[int]]:
    """Fill ``stage`` and ``average``; gives the number of updates done and of unreadable files."""
    state = read_state(path)
    wanted = {
        "stage": stage.name,
        "updates": stage.schedule.updates,
        "batch_size": stage.batch_size,
    }
    for name, value in wanted.items():
        if state.get(name) != value:
            raise CheckpointError(f"{path}: has {name} {state.get(name)!r}, wanted {value!r}")
    try:
        stage.objective.load_state_dict(state["objective"])
        average.load_state_dict(state["average"])
        for optimizer, inner in zip(stage.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(inner)
        return int(state["updates_done"]), set(state["unreadable"])
    except (RuntimeError, KeyError, ValueError, TypeError) as error:
        raise CheckpointError(f"{path}: does not fit this run ({error})") from error
