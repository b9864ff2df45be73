"""The state of a training phase in a file: everything its next update depends on.

It holds no random state, since a sample's random numbers come from its number
(:mod:`elir_deploy.training.data`), and no learning rates, since a run may continue with others.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from elir_deploy.errors import CheckpointError
from elir_deploy.output_files import replacing
from elir_deploy.training.phase import Phase

__all__ = ["capture_state", "find_not_finite", "load_state", "save_state"]

STATE_FORMAT = 1


def capture_state(
    phase: Phase, average: AveragedModel, precision: Any, done: int, unreadable: Iterable[int]
) -> dict[str, Any]:
    """The state after ``done`` updates; its tensors share memory with ``phase`` and ``average``.

    Args:
        phase: the phase in training.
        average: the moving average of its weights.
        precision: Fabric's precision plugin; with float16 it holds the loss scaler.
        done: updates done.
        unreadable: numbers of the files that could not be read.
    """
    return {
        "format": STATE_FORMAT,
        "stage": phase.name,
        "updates_done": done,
        "updates": phase.schedule.updates,
        "batch_size": phase.batch_size,
        "objective": phase.objective.state_dict(),
        "average": average.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in phase.optimizers],
        "precision": precision.state_dict(),
        "unreadable": sorted(unreadable),
    }


def find_not_finite(state: dict[str, Any]) -> str | None:
    """The path of a tensor with infinities or NaNs, such as ``average.module.weight``."""
    for path, tensor in _tensors(state, ""):
        if not tensor.is_floating_point() or not tensor.numel():
            continue
        # aminmax propagates NaN; isfinite over all numbers takes 50 times as long.
        if not torch.stack(torch.aminmax(tensor)).isfinite().all():
            return path
    return None


def _tensors(value: Any, path: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield path, value
        return
    items: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    for key, inner in items:
        yield from _tensors(inner, f"{path}.{key}" if path else str(key))


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write a state atomically; the previous one stays until then.

    Raises:
        OutputError: ``path`` cannot be written.
    """
    with replacing(path) as file:
        torch.save(state, file)


def _read_state(path: Path) -> dict[str, Any]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises anything for damaged files
        raise CheckpointError(
            f"{path} is damaged ({type(error).__name__}): remove it to restart this phase"
        ) from error
    if not isinstance(state, dict) or state.get("format") != STATE_FORMAT:
        raise CheckpointError(f"{path} is not a training state of this version")
    return state


def load_state(
    path: Path, phase: Phase, average: AveragedModel, precision: Any
) -> tuple[int, set[int]]:
    """Load a state into ``phase``, ``average`` and ``precision``, on the devices they are on.

    Returns:
        The number of updates done, and the numbers of the unreadable files.

    Raises:
        CheckpointError: it is damaged, of another phase, or has numbers that are not finite.
    """
    state = _read_state(path)
    expected = {
        "stage": phase.name,
        "updates": phase.schedule.updates,
        "batch_size": phase.batch_size,
    }
    for name, value in expected.items():
        if state.get(name) != value:
            raise CheckpointError(f"{path} has {name} {state.get(name)!r}, expected {value!r}")
    bad = find_not_finite(state)
    if bad is not None:
        raise CheckpointError(
            f"{path} has infinities or NaNs in {bad}: remove it to restart this phase"
        )
    try:
        phase.objective.load_state_dict(state["objective"])
        average.load_state_dict(state["average"])
        for optimizer, inner in zip(phase.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(inner)
        if state.get("precision"):  # states of before the scaler was saved have none
            precision.load_state_dict(state["precision"])
        return int(state["updates_done"]), set(state["unreadable"])
    except (RuntimeError, KeyError, ValueError, TypeError) as error:
        raise CheckpointError(f"{path} does not fit this run ({error})") from error
