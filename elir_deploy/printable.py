"""Text of unknown origin, made fit to be shown."""

from __future__ import annotations

from typing import Any

__all__ = ["printable", "printable_values"]


def printable(text: str) -> str:
    """``text`` as one line without controls: those, line ends too, as escapes like ``\\x1b``.

    Files may be named with anything, and manifests hold anything.
    """
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def printable_values(values: Any) -> Any:
    """Plain JSON values with every string in them, names too, :func:`printable`."""
    if isinstance(values, str):
        return printable(values)
    if isinstance(values, dict):
        return {printable(name): printable_values(value) for name, value in values.items()}
    if isinstance(values, (list, tuple)):
        return [printable_values(value) for value in values]
    return values
