"""Deferring Ctrl-C and SIGTERM until a block of work is done."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import NoReturn

__all__ = ["Interruption", "deferred_interrupts", "raise_interruption"]


@dataclass
class Interruption:
    """A deferred interruption.

    Attributes:
        signal: number of the first signal; None: there was none.
    """

    signal: int | None = None


@contextmanager
def deferred_interrupts(*, allow_second: bool = True) -> Iterator[Interruption]:
    """Defer Ctrl-C and SIGTERM until the block ends, or checks for them.

    They are raised when the block ends, unless it raises something else. Signals only reach the
    main thread; in others, nothing is deferred. Ignored signals stay ignored.

    Args:
        allow_second: a second signal has its usual effect; otherwise it has none, for blocks
            in callbacks of a library that discards exceptions.

    Raises:
        KeyboardInterrupt: for Ctrl-C.
        SystemExit: for SIGTERM; the exit code is 143.
    """
    interruption = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield interruption
        return
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    # None: a handler that Python did not set, and cannot set again.
    before = {n: old for n, old in handlers.items() if old not in (signal.SIG_IGN, None)}

    def restore_handlers() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def record(number: int, frame: FrameType | None) -> None:
        if interruption.signal is None:
            interruption.signal = number
        if allow_second:
            restore_handlers()

    for number in before:
        signal.signal(number, record)
    try:
        yield interruption
    finally:
        restore_handlers()
    if interruption.signal is not None:
        raise_interruption(interruption.signal)


def raise_interruption(number: int) -> NoReturn:
    """Raise the exception for a signal.

    Raises:
        KeyboardInterrupt: for SIGINT.
        SystemExit: for any other signal, with the exit code of shells.
    """
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + number)
