"""What the system tells, through the kernel's files and psutil; any of it may be missing."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

__all__ = ["PSUTIL_MISSING", "ROOT", "Tree", "cpu_list", "query_psutil", "whole_number"]

#: Root of the kernel's folders; tests replace it.
ROOT = Path("/")
PSUTIL_MISSING = "psutil is not installed: pip install 'elir-deploy[sensors]'"
#: Higher CPU numbers are malformed input.
_MAX_CPUS = 2**16


class Tree:
    """Files below a root folder. Nothing here raises: what cannot be read is None.

    Args:
        root: the folder that stands for ``/``.
    """

    def __init__(self, root: Path = ROOT) -> None:
        self.root = root

    def text(self, path: str | Path) -> str | None:
        """Content of a file without surrounding white space and NULs; None if there is none."""
        try:
            with (self.root / path).open("rb") as file:
                content = file.read()
        except (OSError, ValueError):
            return None
        return content.decode("utf-8", errors="replace").strip(" \t\r\n\0") or None

    def integer(self, path: str | Path) -> int | None:
        """Content of a file that holds one integer."""
        return whole_number(self.text(path))

    def scaled(self, path: str | Path, unit: float) -> float | None:
        """A file's integer times ``unit``."""
        number = self.integer(path)
        return None if number is None else round(number * unit, 6)

    def flag(self, path: str | Path) -> bool | None:
        """Content of a file that holds 0 or 1."""
        return {"0": False, "1": True}.get(self.text(path) or "")

    def exists(self, path: str | Path) -> bool:
        """Whether there is a file or folder of that name."""
        try:
            return (self.root / path).exists()
        except (OSError, ValueError):
            return False

    def match(self, pattern: str) -> list[Path]:
        """Files and folders that match a pattern, sorted by name."""
        return sorted(self.root.glob(pattern))


def whole_number(text: str | None) -> int | None:
    """Parse a decimal integer of at most 64 bits; None if the text is anything else."""
    if text is None or re.fullmatch(r"[+-]?[0-9]{1,20}", text) is None:
        return None
    return int(text)


def cpu_list(text: str | None) -> tuple[int, ...]:
    """Parse the kernel's lists of CPUs, such as ``0-3,8``; empty if malformed."""
    cpus: set[int] = set()
    for item in (text or "").split(","):
        first, dash, last = item.strip().partition("-")
        low, high = whole_number(first), whole_number(last if dash else first)
        if low is None or high is None or not 0 <= low <= high < _MAX_CPUS:
            return ()
        cpus.update(range(low, high + 1))
    return tuple(sorted(cpus))


def query_psutil(function: str, **options: Any) -> Any:
    """Result of a function of psutil; None if it fails, or psutil is not installed."""
    try:
        return getattr(importlib.import_module("psutil"), function)(**options)
    except Exception:  # noqa: BLE001  # whatever a machine lacks, it must not end a benchmark
        return None
