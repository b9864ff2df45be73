"""A pool of sessions for 8-bit pixels, shared by threads."""

from __future__ import annotations

import atexit
import threading
import weakref
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elir_deploy.errors import UsageError
from elir_deploy.operating_system import after_fork_in_child
from elir_deploy.runtime.backends import Session
from elir_deploy.runtime.bundle import Bundle
from elir_deploy.runtime.conversion import PixelsToTensor, TensorToPixels
from elir_deploy.runtime.forks import Owner, leak
from elir_deploy.runtime.manifest import Shape
from elir_deploy.runtime.noise import NoiseField
from elir_deploy.runtime.tiling import Tile

__all__ = ["PixelSession", "Pool"]


class PixelSession:
    """A session with conversions from and to 8-bit pixels. For one thread at a time."""

    def __init__(self, bundle: Bundle, session: Session) -> None:
        self.session = session
        self._manifest = bundle.manifest
        self._conversions: dict[Shape, tuple[PixelsToTensor, TensorToPixels]] = {}
        self.started_noise: NoiseField | None = None  # that the session's array begins with

    def for_caller(self, noise: NoiseField | None) -> Session:
        """The session for direct use: runs in here leave the noise of their last tile in it."""
        if noise is not None and self.started_noise is not noise:
            self.session.start_noise(noise)
            self.started_noise = noise
        return self.session

    def run(
        self, shape: Shape, values: NDArray[Any], noise: NDArray[np.float32] | None
    ) -> NDArray[Any]:
        """Run the model on tensors; returns a copy of its output."""
        session = self.session
        session.select(shape, len(values))
        session.input[...] = values
        if session.noise is not None and noise is not None:
            session.noise[...] = noise
            self.started_noise = None
        session.run()
        output: NDArray[Any] = session.output.copy()
        return output

    def together(self, shape: Shape, waiting: int) -> int:
        """How many of ``waiting`` images of a shape run together."""
        if not self.session.exact_batches:
            return 1
        return min(waiting, shape.batch) if self.session.any_batch or waiting >= shape.batch else 1

    def run_tiles(self, shape: Shape, tiles: Sequence[Tile], noise: NoiseField | None) -> None:
        """Run the model on at most ``shape.batch`` tiles of ``shape``, from and to pixels."""
        size = self.together(shape, len(tiles))
        for first in range(0, len(tiles), size):
            self._run_together(shape, tiles[first : first + size], noise)

    def _run_together(self, shape: Shape, tiles: Sequence[Tile], noise: NoiseField | None) -> None:
        session = self.session
        session.select(shape, len(tiles))
        if shape not in self._conversions:
            tensors = self._manifest.stages_in(shape)
            first, last = tensors[0].input, tensors[-1].output
            self._conversions[shape] = PixelsToTensor(first), TensorToPixels(last)
        to_tensor, to_pixels = self._conversions[shape]
        for index, tile in enumerate(tiles):
            to_tensor(tile.source, session.input[index])
            if session.noise is not None and noise is not None:
                noise.fill(session.noise[index], tile.noise_top, tile.noise_left)
                self.started_noise = None
        session.run()
        for index, tile in enumerate(tiles):
            to_pixels(session.output[index], tile.result)


class Pool:
    """Sessions, each lent to one thread at a time, until the pool is closed.

    Ctrl-C may interrupt a thread at any point, even while it takes or returns a session. Therefore
    one record says which thread has which session: a thread that already has one when it takes one
    was interrupted and gets the same again, and closing the pool does not wait for that thread.
    """

    def __init__(self, sessions: Iterable[PixelSession]) -> None:
        _pools.add(self)
        self._owner = Owner("this Restorer")
        self._sessions = tuple(sessions)
        self._lent: dict[int, PixelSession] = {}
        self._closed = False
        self._changed = threading.Condition()

    def first(self) -> PixelSession:
        """A session, lent or not."""
        self._owner.check()
        self._check_open()
        return self._sessions[0]

    def take(self) -> PixelSession:
        """Wait for an idle session, which belongs to this thread until :meth:`give_back`."""
        self._owner.check()
        thread = threading.get_ident()
        with self._changed:
            if thread not in self._lent:
                self._changed.wait_for(
                    lambda: self._closed or len(self._lent) < len(self._sessions)
                )
                self._check_open()
                lent = self._lent.values()
                self._lent[thread] = next(r for r in self._sessions if r not in lent)
            self._check_open()
            return self._lent[thread]

    def give_back(self) -> None:
        """Return the session of :meth:`take`."""
        if not self._owner.is_here():
            return
        with self._changed:
            self._lent.pop(threading.get_ident(), None)
            self._changed.notify_all()

    def close(self) -> None:
        """Wait for the other threads' runs and close all sessions; no run starts any more."""
        if self._owner.is_here():
            with self._changed:
                self.drain()
                for session in self._sessions:
                    session.session.close()

    def drain(self) -> None:
        """Wait for the other threads' runs; no run starts any more."""
        if not self._owner.is_here():
            return
        thread = threading.get_ident()
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._lent.keys() - {thread})

    def _check_open(self) -> None:
        if self._closed:
            raise UsageError("this Restorer is closed: open a new one")

    def refuse_runs(self) -> None:
        """In a forked child, make sessions that callers have raise a UsageError when used."""

        for session in self._sessions:
            session.session.refuse(self._owner.check)

    def __del__(self) -> None:
        if not self._owner.is_here():
            for session in self._sessions:
                leak(session.session)


#: All pools of the process.
_pools: weakref.WeakSet[Pool] = weakref.WeakSet()


def _refuse_runs() -> None:
    for pool in tuple(_pools):
        pool.refuse_runs()


@atexit.register
def _drain_pools() -> None:
    # A thread that returns from a library into an interpreter that is gone aborts the process.
    for pool in tuple(_pools):
        pool.drain()


after_fork_in_child(_refuse_runs)
