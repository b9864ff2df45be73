"""The steps that a photograph takes, and what times them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeAlias

__all__ = ["PHOTO_STEPS", "StepTimer", "StepTimes", "untimed"]

#: Find faces, cut out their squares, run the model on them, put them back.
PHOTO_STEPS = ("detect", "align", "run", "paste")
#: Encloses the work of a step, which it is called with.
StepTimer: TypeAlias = "Callable[[str], AbstractContextManager[Any]]"


def untimed(step: str) -> AbstractContextManager[None]:
    """Time nothing."""
    return nullcontext()


class StepTimes:
    """Adds up nanoseconds, for one thread.

    Attributes:
        ns: by step.
    """

    def __init__(self, clock: Callable[[], int] = time.perf_counter_ns) -> None:
        self._clock = clock
        self.reset()

    def reset(self) -> None:
        self.ns = dict.fromkeys(PHOTO_STEPS, 0)

    @contextmanager
    def __call__(self, step: str) -> Iterator[None]:
        start = self._clock()
        yield
        self.ns[step] += self._clock() - start
