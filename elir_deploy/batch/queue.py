"""Which images a worker restores next, and what becomes of those whose worker died."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence

from elir_deploy.errors import UnavailableError
from elir_deploy.runtime.jobs import Job

__all__ = ["JobQueue"]

#: Images that a worker gets at a time: enough to fill its batches and to overlap reading and
#: writing, few enough that workers end together and a lost one costs little.
_CHUNK = 16
#: Chunks for each worker, if there are fewer images.
_CHUNKS_EACH = 4
#: Deaths of workers that an image may cause.
_DEATHS = 2
#: Deaths without a result between them, after which no image is tried again.
_DEATHS_IN_A_ROW = 20


class JobQueue:
    """Hands out jobs in chunks; jobs of dead workers run again, each alone.

    Any of them may have killed the worker, so that a job is given up only when its worker died
    twice, the second time with this job alone.
    """

    def __init__(self, jobs: Sequence[Job], workers: int) -> None:
        size = max(1, min(_CHUNK, len(jobs) // (_CHUNKS_EACH * max(1, workers))))
        self._chunks = deque(
            list(jobs[first : first + size]) for first in range(0, len(jobs), size)
        )
        self._deaths = Counter[Job]()
        self._in_a_row = 0

    def take(self) -> list[Job] | None:
        """The next jobs of a worker; None: there are none at the moment."""
        return self._chunks.popleft() if self._chunks else None

    @property
    def is_empty(self) -> bool:
        """Whether no jobs wait."""
        return not self._chunks

    def succeeded(self) -> None:
        """Note that a worker restored an image."""
        self._in_a_row = 0

    def died(self, unfinished: Sequence[Job], reason: str) -> list[Job]:
        """Queue the unfinished jobs of a dead worker again; returns those that are given up.

        Raises:
            UnavailableError: workers die one after another; the message has ``reason``.
        """
        self._in_a_row += 1
        if self._in_a_row > _DEATHS_IN_A_ROW:
            raise UnavailableError(
                f"{self._in_a_row} workers died without restoring an image between them: {reason}"
            )
        self._deaths.update(unfinished)
        lost = [job for job in unfinished if self._deaths[job] >= _DEATHS]
        again = [job for job in unfinished if self._deaths[job] < _DEATHS]
        self._chunks.extendleft([job] for job in reversed(again))
        return lost
