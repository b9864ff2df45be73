"""Telling how far long work is."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

__all__ = ["ProgressCallback", "no_progress"]

#: Called with what is being done, how much of it is done, and how much there is (0: unknown).
ProgressCallback: TypeAlias = Callable[[str, int, int], None]


def no_progress(what: str, done: int, total: int) -> None:
    """A :data:`ProgressCallback` that tells nobody: the default wherever one is taken."""
