"""Sessions that take and give 8-bit pixels, lent to threads."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elir_deploy.errors import UsageError
from elir_deploy.runtime.backends import Session
from elir_deploy.runtime.bundle import Bundle
from elir_deploy.runtime.conversion import PixelsToTensor, TensorToPixels
from elir_deploy.runtime.forks import Owner, leak

__all__ = ["PixelSession", "Pool"]


class PixelSession:
    """A session with the conversions between its arrays and 8-bit pixels. One thread at a time."""

    def __init__(self, bundle: Bundle, session: Session) -> None:
        self.session = session
        self._to_tensor = PixelsToTensor(bundle.manifest.input)
        self._to_pixels = TensorToPixels(bundle.manifest.output)

    def run(self, values: NDArray[Any]) -> NDArray[Any]:
        self.session.input[...] = values
        self.session.run()
        made: NDArray[Any] = self.session.output.copy()
        return made

    def run_pixels(self, source: NDArray[np.uint8], result: NDArray[np.uint8]) -> None:
        self._to_tensor(source, self.session.input)
        self.session.run()
        self._to_pixels(self.session.output, result)


class Pool:
    """Sessions lent to one thread each, until it is closed.

    Ctrl-C may come between any two steps of a thread, also of taking a session and giving it back.
    So there is one record of what is lent, by thread, and a thread that asks while it has one was
    interrupted: it gets that one again, and does not wait for itself when it closes the pool.
    """

    def __init__(self, sessions: Iterable[PixelSession]) -> None:
        self._owner = Owner("this Restorer")
        self._sessions = tuple(sessions)
        self._lent: dict[int, PixelSession] = {}
        self._closed = False
        self._changed = threading.Condition()

    def first(self) -> PixelSession:
        """One of them, lent or not."""
        self._owner.check()
        self._check_open()
        return self._sessions[0]

    def take(self) -> PixelSession:
        """Wait for an idle one; it is this thread's until :meth:`give_back`."""
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
        """End what :meth:`take` began."""
        if not self._owner.is_here():
            return
        with self._changed:
            self._lent.pop(threading.get_ident(), None)
            self._changed.notify_all()

    def close(self) -> None:
        """Wait for the other threads' runs, and close all sessions; nothing new starts."""
        if not self._owner.is_here():
            return
        thread = threading.get_ident()
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._lent.keys() - {thread})
            for session in self._sessions:
                session.session.close()

    def _check_open(self) -> None:
        if self._closed:
            raise UsageError("this Restorer is closed: open another one")

    def __del__(self) -> None:
        if not self._owner.is_here():
            for session in self._sessions:
                leak(session.session)
