"""Objects that a forked child cannot use, since it has none of the parent's threads."""

from __future__ import annotations

import ctypes
import os

from elir_deploy.errors import UsageError

__all__ = ["Owner", "leak"]


class Owner:
    """The process that created an object.

    Args:
        what: name of the object in messages.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._process = os.getpid()

    def is_here(self) -> bool:
        """Whether this is that process, not a child forked from it."""
        return os.getpid() == self._process

    def check(self) -> None:
        """Call before acquiring any lock, which a thread that the child lacks may hold forever.

        Raises:
            UsageError: this is another process.
        """
        here = os.getpid()
        if here != self._process:
            raise UsageError(
                f"{self._what} belongs to process {self._process} and cannot be used in {here}, "
                "which was forked from it: open it after the fork, or start processes by 'spawn'"
            )


def leak(value: object) -> None:
    """Never delete ``value``: in a child, its deletion would wait for threads."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(value))
