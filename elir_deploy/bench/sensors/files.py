"""Reading what the kernel says in files, where any of them may be missing, odd or forbidden."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from io import RawIOBase
from pathlib import Path
from typing import Any

__all__ = ["ROOT", "Tree", "cpu_list", "plain"]

#: Where the kernel's folders are; tests put trees of their own here.
ROOT = Path("/")
#: No attribute in sysfs is longer than a page; /proc/cpuinfo grows with the cores.
_LONGEST = 4 * 2**20
_PART = 2**16
#: Digits of a number that is believed; the kernel's counters have 64 bits.
_DIGITS = 20
#: No kernel numbers its processors higher.
_CPUS = 2**16


class Tree:
    """The files below a root folder. Nothing here raises: what cannot be read is None.

    Args:
        root: the folder that stands for ``/``.
    """

    def __init__(self, root: Path = ROOT) -> None:
        self.root = root

    def text(self, path: str | Path) -> str | None:
        """A file's text without white space or NULs around it; None where there is none."""
        try:
            with (self.root / path).open("rb", buffering=0) as file:
                content = _all_of(file)
        except (OSError, ValueError):
            return None
        return content.decode("utf-8", errors="replace").strip(" \t\r\n\0") or None

    def integer(self, path: str | Path) -> int | None:
        """A file that holds one whole number."""
        return whole(self.text(path))

    def scaled(self, path: str | Path, unit: float) -> float | None:
        """A file's whole number times ``unit``."""
        number = self.integer(path)
        return None if number is None else round(number * unit, 6)

    def flag(self, path: str | Path) -> bool | None:
        """A file that holds 0 or 1."""
        return {"0": False, "1": True}.get(self.text(path) or "")

    def exists(self, path: str | Path) -> bool:
        """Whether there is a file or folder of that name."""
        try:
            return (self.root / path).exists()
        except (OSError, ValueError):
            return False

    def match(self, pattern: str) -> list[Path]:
        """Files and folders of a pattern, in the order of the numbers in their names."""
        try:
            return sorted(self.root.glob(pattern), key=_natural)
        except (OSError, ValueError):
            return []

    def denied(self, path: str | Path) -> bool:
        """Whether the file is there and this user may not read it."""
        try:
            with (self.root / path).open("rb") as file:
                file.read(1)
        except PermissionError:
            return True
        except (OSError, ValueError):
            return False
        return False


def _all_of(file: RawIOBase) -> bytes:
    """The kernel may give a long file in parts."""
    content = b""
    while len(content) < _LONGEST and (part := file.read(_PART)):
        content += part
    return content


def whole(text: str | None) -> int | None:
    """A whole number in decimal digits; None where it is anything else."""
    if text is None or re.fullmatch(rf"[+-]?[0-9]{{1,{_DIGITS}}}", text) is None:
        return None
    return int(text)


def cpu_list(text: str | None) -> tuple[int, ...]:
    """Processors as the kernel lists them: ``0-3,8``; none where it is anything else."""
    found: set[int] = set()
    for part in (text or "").split(","):
        first, dash, last = part.strip().partition("-")
        low, high = whole(first), whole(last if dash else first)
        if low is None or high is None or not 0 <= low <= high < _CPUS:
            return ()
        found.update(range(low, high + 1))
    return tuple(sorted(found))


def plain(value: Any) -> Any:
    """A dataclass, or what is in one, as plain JSON values; what JSON cannot hold is None."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(name): plain(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(entry) for entry in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)


def _natural(path: Path) -> list[tuple[int, str]]:
    parts = re.split(r"([0-9]+)", str(path))
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]
