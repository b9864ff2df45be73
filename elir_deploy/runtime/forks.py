"""What was opened before a fork stays the parent's: in the child none of its threads runs."""

from __future__ import annotations

import ctypes
import os

from elir_deploy.errors import UsageError

__all__ = ["Owner", "leak"]


class Owner:
    """The process that makes this object, and later uses what belongs to it.

    Args:
        what: that belongs to it, as messages call it.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._process = os.getpid()

    def is_here(self) -> bool:
        """Whether this is the process, and no child that was forked from it."""
        return os.getpid() == self._process

    def check(self) -> None:
        """To be called before any lock is taken: a thread that is not here may hold it for ever.

        Raises:
            UsageError: this is another process.
        """
        here = os.getpid()
        if here != self._process:
            raise UsageError(
                f"{self._what} belongs to process {self._process} and cannot be used in {here}, "
                "which was forked from it: open it after the fork, or start processes by 'spawn'"
            )


def leak(thing: object) -> None:
    """Let ``thing`` live until the process ends: in a child its end would wait for threads."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))
