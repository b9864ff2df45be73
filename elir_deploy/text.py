"""Text for terminals and Markdown: escaped where its origin is unknown, and in tables."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

__all__ = [
    "aligned",
    "duration",
    "in_code",
    "in_markdown",
    "pipes",
    "printable",
    "printable_values",
    "shortened",
]

#: Characters that Markdown may read as markup: HTML and entities, cells, emphasis, code, formulas,
#: links, and headings or quotations at the start of a line. Underscores inside words and brackets
#: without a link are plain text.
_MARKUP = re.compile(
    r"[\\`*<|~$]|&(?=#?\w+;)|(?<![^\W_])_|_(?![^\W_])|(?<=\])[(\[:]|^[#>]", re.ASCII
)


def printable(text: str) -> str:
    """``text`` on one line, with control characters and line ends as escapes such as ``\\x1b``.

    File names and manifests may contain anything.
    """
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def shortened(text: str, length: int = 60) -> str:
    """The first ``length`` characters, the last of them ``...`` if there are more."""
    return text if len(text) <= length else f"{text[: length - 3]}..."


def printable_values(values: Any) -> Any:
    """JSON values with every string, keys included, made :func:`printable`."""
    if isinstance(values, str):
        return printable(values)
    if isinstance(values, dict):
        return {printable(name): printable_values(value) for name, value in values.items()}
    if isinstance(values, (list, tuple)):
        return [printable_values(value) for value in values]
    return values


def duration(seconds: float) -> str:
    """A time in its two largest units, such as ``40 s``, ``12 min`` or ``3 h 5 min``."""
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} d {hours % 24} h"


def aligned(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Aligned columns, the first flush left, the others flush right."""
    table = [header, *rows]
    widths = [max(len(row[column]) for row in table) for column in range(len(header))]
    lines = [
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in table
    ]
    return "\n".join(line.rstrip() for line in lines)


def pipes(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, the first column flush left, the others flush right.

    Cells are text: see :func:`in_markdown`.
    """
    rule = ["---"] + ["---:"] * (len(header) - 1)
    shown = [[in_markdown(cell) for cell in row] for row in [header, *rows]]
    return "\n".join(f"| {' | '.join(row)} |" for row in [shown[0], rule, *shown[1:]])


def in_markdown(text: str) -> str:
    """``text`` on one line, escaped so that Markdown shows it literally."""
    return _MARKUP.sub(r"\\\g<0>", printable(text))


def in_code(text: str) -> str:
    """``text`` on one line as a Markdown code span."""
    shown = printable(text)
    longest = max(map(len, re.findall("`+", shown)), default=0)
    fence = "`" * (longest + 1)
    return f"{fence} {shown} {fence}" if longest else f"{fence}{shown}{fence}"
