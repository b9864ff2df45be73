"""Several processes that train one model: what they must agree on, lest one wait for ever."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch
from torch import Tensor

from elir_deploy.errors import OutputError

__all__ = ["anyone", "everyones", "on_first"]

T = TypeVar("T")


def anyone(fabric: Any, flag: bool) -> bool:
    """Whether any process says so; all of them get the same answer."""
    if fabric.world_size == 1:
        return flag
    told: Tensor = fabric.all_reduce(torch.tensor(float(flag)), reduce_op="sum")
    return float(told) > 0


def everyones(fabric: Any, numbers: Iterable[int]) -> list[int]:
    """The numbers of all processes."""
    if fabric.world_size == 1:
        return sorted(numbers)
    gathered: list[Any] = [None] * fabric.world_size
    torch.distributed.all_gather_object(gathered, sorted(numbers))
    return sorted({number for share in gathered for number in share})


def on_first(fabric: Any, act: Callable[[], T]) -> T | None:
    """Let the first process act, while the others wait; they get None.

    Raises:
        OutputError: on the others, if ``act`` failed; the first raises what it raised.
    """
    result, failure = None, None
    if fabric.is_global_zero:
        try:
            result = act()
        except Exception as error:  # noqa: BLE001  # raised below, when the others know
            failure = error
    if anyone(fabric, failure is not None):
        raise failure or OutputError("the first process failed, and says why")
    return result
