"""Ctrl-C and SIGTERM during a build, which runs in a library for minutes."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any, cast

__all__ = ["Interruption", "built_aside", "interruptible"]

#: Seconds between two looks for Ctrl-C, where the library does not ask for it.
_LOOKS_EVERY = 0.1


@dataclass
class Interruption:
    """The signal that came, if one did."""

    signal: int | None = None


@contextmanager
def interruptible() -> Iterator[Interruption]:
    """Ctrl-C and SIGTERM are noted, and raised at the end: the library's callbacks drop errors."""
    noted = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield noted
        return

    def note(number: int, frame: FrameType | None) -> None:
        noted.signal = number

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    _raise_noted(noted)


def built_aside(build: Callable[[], Any], noted: Interruption) -> Any:
    """What ``build`` returns, of a library that asks nobody while it builds: TensorRT 8.6.

    It builds in a thread, which is left to itself when the build is interrupted, and ends with the
    process.
    """
    made: list[Any] = []
    failure: list[BaseException] = []

    def work() -> None:
        try:
            made.append(build())
        except BaseException as error:  # noqa: BLE001  # raised below
            failure.append(error)

    worker = threading.Thread(target=work, name="elir-build", daemon=True)
    worker.start()
    while worker.is_alive() and noted.signal is None:
        worker.join(_LOOKS_EVERY)
    if worker.is_alive():
        # What the library holds must not be taken apart under it.
        atexit.register(_exit_beside, worker, 128 + cast(int, noted.signal))
        _raise_noted(noted)
    if failure:
        raise failure[0]
    return made[0]


def _raise_noted(noted: Interruption) -> None:
    if noted.signal == signal.SIGTERM:
        raise SystemExit(128 + signal.SIGTERM)
    if noted.signal is not None:
        raise KeyboardInterrupt


def _exit_beside(worker: threading.Thread, code: int) -> None:
    if worker.is_alive():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
