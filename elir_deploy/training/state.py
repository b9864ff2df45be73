"""Where a stage is: everything its next update depends on, in a file.

Randomness is not part of it, since a sample's random numbers come from its number
(:mod:`elir_deploy.training.data`), and learning rates are not, since a run may go on with others.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from elir_deploy.atomic import replacing
from elir_deploy.errors import CheckpointError
from elir_deploy.training.stage import Stage

__all__ = ["first_not_finite", "load_state", "read_state", "save_state", "state_of"]

STATE_FORMAT = 1


def state_of(
    stage: Stage, average: AveragedModel, done: int, unreadable: Iterable[int]
) -> dict[str, Any]:
    """The state after ``done`` updates; its tensors are those of ``stage`` and ``average``."""
    return {
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


def first_not_finite(state: dict[str, Any]) -> str | None:
    """The place of a tensor with a number that is not finite, such as ``average.module.weight``."""
    for place, tensor in _tensors(state, ""):
        if not tensor.is_floating_point() or not tensor.numel():
            continue
        # Not a number is both smallest and largest; isfinite over all takes 50 times as long.
        if not torch.stack(torch.aminmax(tensor)).isfinite().all():
            return place
    return None


def _tensors(value: Any, place: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield place, value
        return
    items: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    for key, inner in items:
        yield from _tensors(inner, f"{place}.{key}" if place else str(key))


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write a state whole; until that is done, the one before stays.

    Raises:
        OutputError: ``path`` cannot be written.
    """
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
            f"{path}: is damaged ({type(error).__name__}); remove it to begin its stage anew"
        ) from error
    if not isinstance(state, dict) or state.get("format") != STATE_FORMAT:
        raise CheckpointError(f"{path}: is no training state of this version")
    return state


def load_state(path: Path, stage: Stage, average: AveragedModel) -> tuple[int, set[int]]:
    """Fill ``stage`` and ``average``; gives the number of updates done and of unreadable files.

    Raises:
        CheckpointError: it is damaged, of another stage, or has numbers that are not finite.
    """
    state = read_state(path)
    wanted = {
        "stage": stage.name,
        "updates": stage.schedule.updates,
        "batch_size": stage.batch_size,
    }
    for name, value in wanted.items():
        if state.get(name) != value:
            raise CheckpointError(f"{path}: has {name} {state.get(name)!r}, wanted {value!r}")
    broken = first_not_finite(state)
    if broken is not None:
        raise CheckpointError(
            f"{path}: {broken} has numbers that are not finite; remove it to begin its stage anew"
        )
    try:
        stage.objective.load_state_dict(state["objective"])
        average.load_state_dict(state["average"])
        for optimizer, inner in zip(stage.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(inner)
        return int(state["updates_done"]), set(state["unreadable"])
    except (RuntimeError, KeyError, ValueError, TypeError) as error:
        raise CheckpointError(f"{path}: does not fit this run ({error})") from error
