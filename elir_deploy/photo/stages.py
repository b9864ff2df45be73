"""The stages of a photograph's way, and what times them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeAlias

__all__ = ["STAGES", "StageTimer", "StageTimes", "untimed"]

#: Find faces, cut out their squares, run the model on them, put them back.
STAGES = ("detect", "align", "run", "paste")
#: Encloses the work of a stage, which it is called with.
StageTimer: TypeAlias = "Callable[[str], AbstractContextManager[Any]]"


def untimed(stage: str) -> AbstractContextManager[None]:
    """Time nothing."""
    return nullcontext()


class StageTimes:
    """Adds up nanoseconds, for one thread.

    Attributes:
        ns: by stage.
    """

    def __init__(self, clock: Callable[[], int] = time.perf_counter_ns) -> None:
        self._clock = clock
        self.reset()

    def reset(self) -> None:
        self.ns = dict.fromkeys(STAGES, 0)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = self._clock()
        yield
        self.ns[stage] += self._clock() - start
