"""Agreement between the processes that train one model, so that none waits forever for another."""

from __future__ import annotations

import gc
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor

from elir_deploy.errors import OutputError

__all__ = ["any_process", "gather_numbers", "leaving_group", "on_first_process"]

T = TypeVar("T")


def any_process(fabric: Any, flag: bool) -> bool:
    """Whether ``flag`` is set in any process; the same answer in all of them."""
    if fabric.world_size == 1:
        return flag
    count: Tensor = fabric.all_reduce(torch.tensor(float(flag)), reduce_op="sum")
    return float(count) > 0


def gather_numbers(fabric: Any, numbers: Iterable[int]) -> list[int]:
    """The numbers of all processes, sorted, each once."""
    if fabric.world_size == 1:
        return sorted(numbers)
    gathered: list[Any] = [None] * fabric.world_size
    torch.distributed.all_gather_object(gathered, sorted(numbers))
    return sorted({number for share in gathered for number in share})


def on_first_process(fabric: Any, function: Callable[[], T]) -> T | None:
    """Call ``function`` in the first process while the others wait; they get None.

    Raises:
        OutputError: in the others, if ``function`` failed; the first raises its error.
    """
    result, failure = None, None
    if fabric.is_global_zero:
        try:
            result = function()
        except Exception as error:  # noqa: BLE001  # raised below, once the others know
            failure = error
    if any_process(fabric, failure is not None):
        raise failure or OutputError("the first process failed: see its error message")
    return result


@contextmanager
def leaving_group() -> Iterator[None]:
    """At the end, leave the group of processes that was made meanwhile, and end its threads.

    They run for as long as a model or optimizer knows the group, and one that meets Python's exit
    aborts the process.
    """
    before = _in_group()
    try:
        yield
    except BaseException as error:
        reason: BaseException | None = error
        while reason is not None and _in_group():
            traceback.clear_frames(reason.__traceback__)
            reason = reason.__cause__ or reason.__context__
        raise
    finally:
        if _in_group() and not before:
            torch.distributed.destroy_process_group()
            gc.collect()


def _in_group() -> bool:
    # Some builds of PyTorch for Jetson have none.
    return torch.distributed.is_available() and torch.distributed.is_initialized()
