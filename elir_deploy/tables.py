"""Text and tables: aligned columns for a terminal, pipes for Markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence

from elir_deploy.printable import printable

__all__ = ["aligned", "in_code", "in_markdown", "pipes"]

#: What Markdown could take for markup: HTML and entities, cells, emphasis, code, formulas, links;
#: a heading or quotation where a line begins. Underscores inside words and brackets that nothing
#: is linked to are none.
_MARKUP = re.compile(
    r"[\\`*<|~$]|&(?=#?\w+;)|(?<![^\W_])_|_(?![^\W_])|(?<=\])[(\[:]|^[#>]", re.ASCII
)


def aligned(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns of equal width, the first flush left, the others flush right."""
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
    """``text`` so that Markdown shows it as it is, on one line, whoever it is from."""
    return _MARKUP.sub(r"\\\g<0>", printable(text))


def in_code(text: str) -> str:
    """``text`` as Markdown's code, on one line, whoever it is from."""
    shown = printable(text)
    longest = max(map(len, re.findall("`+", shown)), default=0)
    fence = "`" * (longest + 1)
    return f"{fence} {shown} {fence}" if longest else f"{fence}{shown}{fence}"
