from __future__ import annotations

import pytest

from elir_deploy.text import (
    aligned,
    duration,
    in_code,
    in_markdown,
    pipes,
    printable,
    printable_values,
    shortened,
)
from tests.shown import Shown


def test_control_characters_become_escapes() -> None:
    assert printable("a\x1b[2Jb\nc\u202ed") == "a\\x1b[2Jb\\nc\\u202ed"
    assert printable("Übung 日本語") == "Übung 日本語"


def test_printable_values_reaches_every_key_and_value() -> None:
    values = {"a\n": ["\x1b", ("\t", 1.5, None)], "b": {"c": True}}
    assert printable_values(values) == {"a\\n": ["\\x1b", ["\\t", 1.5, None]], "b": {"c": True}}


HEADER = ("row", "a", "long")
ROWS = [("first", "1", "2"), ("x", "1000", "")]


def test_long_text_is_cut_to_its_length() -> None:
    assert shortened("12345", 5) == "12345"
    assert shortened("123456", 5) == "12..."
    assert len(shortened("x" * 61)) == 60


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


HOSTILE = [
    "<img src=x onerror=alert(1)> <b>bold</b> <!-- gone --> <https://example.org>",
    "a | b || c \\| d \\\\| e \\",
    "one\n| two | three |\n\n# four\n\n<script>",
    "[text](https://example.org) ![image](x.png) [a][b] [a]: https://example.org",
    "*one* **two** _three_ __four__ a_b ~~five~~ ~six~ `code` ``co`de``",
    "&lt;b&gt; &amp; &#60; AT&T; 3 & 4",
    "# heading",
    "> quotation",
    r"\* \_ \< \\ $x^2$",
    "`",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_markdown_shows_any_text_as_it_is(text: str) -> None:
    table = Shown(pipes([text, "a"], [[text, "1"], ["x", text]]))
    expected = printable(text)
    row = ["tr", "td", "td"]
    assert table.tags == ["table", "thead", "tr", "th", "th", "tbody", *row, *row]
    assert table.of("th") == [expected, "a"]
    assert table.of("td") == [expected, "1", "x", expected]
    lines = Shown(f"# {in_markdown(text)}\n\n- {in_markdown(text)}\n- {in_code(text)}, more\n")
    assert lines.tags == ["h1", "ul", "li", "li", "code"]
    assert (lines.of("h1"), lines.of("li")[0], lines.of("code")) == (
        [expected],
        expected,
        [f"{expected}, more"],
    )


def test_usual_text_stays_as_it_is_in_markdown() -> None:
    for text in ("1.2 [1.1, 1.3]", "avx512_vnni", "-3.5", "a -> b", "+-1 %, 3 & 4 (AT&T)"):
        assert in_markdown(text) == text
    assert in_code("fused.fp16.onnx") == "`fused.fp16.onnx`"


def test_durations() -> None:
    times = {0.4: "0 s", 59.4: "59 s", 60: "1 min", 3599: "1 h 0 min", 11_100: "3 h 5 min"}
    assert {time: duration(time) for time in times} == times
    assert duration(200_000) == "2 d 7 h"
