"""Callbacks of long work: how far it is, and what its user should know."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

__all__ = ["ProgressCallback", "WarningCallback", "no_progress", "no_warning"]

#: Called with a description of the work, the amount done and the total (0: unknown).
ProgressCallback: TypeAlias = Callable[[str, int, int], None]
#: Called with the text of a warning.
WarningCallback: TypeAlias = Callable[[str], None]


def no_progress(what: str, done: int, total: int) -> None:
    """A :data:`ProgressCallback` that does nothing: the default wherever one is taken."""


def no_warning(text: str) -> None:
    """A :data:`WarningCallback` that does nothing."""
