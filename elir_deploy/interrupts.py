"""Ctrl-C and SIGTERM while something has to be finished first."""

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
    """What was held back.

    Attributes:
        signal: the number of the first signal that came; None: none did.
    """

    signal: int | None = None


@contextmanager
def deferred_interrupts(*, second_at_once: bool = True) -> Iterator[Interruption]:
    """Hold back Ctrl-C and SIGTERM until the block is done, or asks for them.

    They are raised when the block ends, unless it raises something itself. In another thread than
    the main one, which alone gets signals, nothing is held back. A signal that the process ignores
    stays ignored.

    Args:
        second_at_once: a second signal has its usual effect; otherwise it has none, for blocks
            that run in the callbacks of a library that drops what they raise.

    Raises:
        KeyboardInterrupt: Ctrl-C came.
        SystemExit: SIGTERM came; the exit code is 143.
    """
    held = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield held
        return
    found = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    # None: a handler that Python did not set, and cannot set again.
    before = {n: handler for n, handler in found.items() if handler not in (signal.SIG_IGN, None)}

    def give_back() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(number: int, frame: FrameType | None) -> None:
        if held.signal is None:
            held.signal = number
        if second_at_once:
            give_back()

    for number in before:
        signal.signal(number, note)
    try:
        yield held
    finally:
        give_back()
    if held.signal is not None:
        raise_interruption(held.signal)


def raise_interruption(number: int) -> NoReturn:
    """Raise what a signal leads to in a command.

    Raises:
        KeyboardInterrupt: for SIGINT.
        SystemExit: for any other, with the exit code of shells.
    """
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + number)
