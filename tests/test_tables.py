from __future__ import annotations

from elir_deploy.tables import aligned, pipes

HEADER = ("row", "a", "long")
ROWS = [("first", "1", "2"), ("x", "1000", "")]


def test_columns_are_as_wide_as_their_widest_cell() -> None:
    assert aligned(HEADER, ROWS).splitlines() == [
        "row       a  long",
        "first     1     2",
        "x      1000",
    ]


def test_markdown() -> None:
    assert pipes(HEADER, ROWS).splitlines() == [
        "| row | a | long |",
        "| --- | ---: | ---: |",
        "| first | 1 | 2 |",
        "| x | 1000 |  |",
    ]
