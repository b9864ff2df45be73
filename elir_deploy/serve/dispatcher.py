"""Images that wait for a model, and the threads that run it, in batches where they can."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from elir_deploy.errors import DeviceLostError, ElirError, UnavailableError
from elir_deploy.runtime.file_restorer import FileRestorer, RestoredImage
from elir_deploy.runtime.images import LoadedImage

__all__ = ["Dispatcher", "Overloaded", "Timing"]


class Overloaded(UnavailableError):  # noqa: N818  # a state that passes, not a fault
    """All places of the queue are taken; ``retry_after_s`` is when some should be free."""

    def __init__(self, retry_after_s: float) -> None:
        super().__init__(f"too many images wait: try again in {retry_after_s:.0f} s")
        self.retry_after_s = retry_after_s


@dataclass(frozen=True)
class Timing:
    """Of a run: seconds that its images waited, seconds of the run, and their number."""

    waited: list[float]
    seconds: float
    images: int


class _AbandonedError(Exception):
    """Nobody waits for what runs any more."""


class _Answer(Future[RestoredImage]):
    """A future that remembers that it was cancelled, though its image runs already."""

    abandoned = False

    def cancel(self) -> bool:
        self.abandoned = True
        return super().cancel()


@dataclass
class _Waiting:
    restorer: FileRestorer
    image: LoadedImage
    strength: float
    future: _Answer = field(default_factory=_Answer)
    since: float = field(default_factory=time.perf_counter)
    prepared: Any = None


class Dispatcher:
    """Runs a model for many callers.

    Args:
        concurrency: number of threads that run it.
        waiting: images that may wait, beside those that run.
        observe: called after each run.
    """

    def __init__(self, concurrency: int, waiting: int, observe: Callable[[Timing], None]) -> None:
        self._observe = observe
        self._capacity = waiting + concurrency
        self._queue: deque[_Waiting] = deque()
        self._changed = threading.Condition()
        self._taken = 0
        self._closed = False
        self._seconds_each = 1.0  # a running mean
        self._threads = [
            threading.Thread(target=self._work, name="elir-serve", daemon=True)
            for _ in range(concurrency)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def waiting(self) -> int:
        """Images that wait for a run."""
        return len(self._queue)

    def check(self, images: int = 1) -> None:
        """Check that there are places for so many images.

        Raises:
            Overloaded: there are not.
        """
        with self._changed:
            self._check(images)

    @contextmanager
    def places(self, images: int = 1) -> Iterator[list[Future[RestoredImage]]]:
        """Places for images, from their decoding to their encoding.

        The caller adds the futures of :meth:`submit` to the list: what still runs when the block
        ends keeps its place until it has ended. A request of more images than there are places
        gets them when all are free.

        Raises:
            Overloaded: there are not enough places.
        """
        with self._changed:
            self._check(images)
            self._taken += images
        futures: list[Future[RestoredImage]] = []
        try:
            yield futures
        finally:
            self._free(images - len(futures))
            for future in futures:
                future.add_done_callback(lambda _: self._free(1))

    def _free(self, places: int) -> None:
        with self._changed:
            self._taken -= places

    def submit(
        self, restorer: FileRestorer, images: list[LoadedImage], strength: float
    ) -> list[Future[RestoredImage]]:
        """Queue images that have places.

        Those whose futures are cancelled are dropped before their turn; a run ends after the
        current tile once the futures of all its images are.

        Raises:
            UnavailableError: the dispatcher is closed.
        """
        entries = [_Waiting(restorer, image, strength) for image in images]
        with self._changed:
            if self._closed:
                raise UnavailableError("the server is shutting down")
            self._queue += entries
            self._changed.notify(len(entries))
        return [entry.future for entry in entries]

    def _check(self, images: int) -> None:
        if self._taken and self._taken + images > self._capacity:
            seconds = self._taken * self._seconds_each / len(self._threads)
            raise Overloaded(max(1.0, seconds))

    def close(self) -> None:
        """Finish what was accepted, and end the threads."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    # The threads ------------------------------------------------------------------------------

    def _work(self) -> None:
        while group := self._next_group():
            self._run(group)

    def _next_group(self) -> list[_Waiting]:
        """The next image, and those behind it that join it; none: the dispatcher is closed."""
        group: list[_Waiting] = []
        while True:
            with self._changed:
                if not group:
                    self._changed.wait_for(lambda: self._queue or self._closed)
                if not self._queue:
                    return group
                if group and not _alike(group[0], self._queue[0]):  # it is not prepared in vain
                    return group
                entry = self._queue.popleft()
            if not self._prepare(entry):
                continue
            prepared = [each.prepared for each in group]
            if group and not entry.restorer.joins(prepared, entry.prepared):
                with self._changed:
                    self._queue.appendleft(entry)
                    self._changed.notify()
                return group
            group.append(entry)

    @staticmethod
    def _prepare(entry: _Waiting) -> bool:
        """Prepare an image; false: that failed, or it was cancelled, and it is done with."""
        if entry.prepared is not None:  # it did not join others
            return True
        if not entry.future.set_running_or_notify_cancel():
            return False
        try:
            entry.prepared = entry.restorer.prepare(entry.image, entry.strength)
        except Exception as error:  # noqa: BLE001  # it is the caller's
            entry.future.set_exception(error)
            return False
        return True

    def _run(self, group: list[_Waiting]) -> None:
        def check_wanted(what: str = "", done: int = 0, total: int = 0) -> None:
            if all(entry.future.abandoned for entry in group):
                raise _AbandonedError

        started = time.perf_counter()
        try:
            check_wanted()
            prepared = [entry.prepared for entry in group]
            results = group[0].restorer.restore(prepared, group[0].strength, check_wanted)
        except Exception as error:  # noqa: BLE001  # it is the callers'
            alone = isinstance(error, ElirError | MemoryError)
            if len(group) > 1 and alone and not isinstance(error, DeviceLostError):
                for entry in group:  # the others are restored without the one that fails
                    self._run([entry])
                return
            for entry in group:
                entry.future.set_exception(error)
            return
        seconds = time.perf_counter() - started
        self._seconds_each += 0.2 * (seconds / len(group) - self._seconds_each)
        self._observe(Timing([started - e.since for e in group], seconds, len(group)))
        for entry, result in zip(group, results, strict=True):
            entry.future.set_result(result)


def _alike(first: _Waiting, second: _Waiting) -> bool:
    return first.restorer is second.restorer and first.strength == second.strength
