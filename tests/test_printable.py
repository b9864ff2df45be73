"""Text of unknown origin, made fit to be shown."""

from __future__ import annotations

from elir_deploy.printable import printable, printable_values


def test_what_steers_a_terminal_becomes_an_escape() -> None:
    assert printable("a\x1b[2Jb\nc\u202ed") == "a\\x1b[2Jb\\nc\\u202ed"
    assert printable("Übung 日本語") == "Übung 日本語"


def test_values_and_names_at_any_depth() -> None:
    values = {"a\n": ["\x1b", ("\t", 1.5, None)], "b": {"c": True}}
    assert printable_values(values) == {"a\\n": ["\\x1b", ["\\t", 1.5, None]], "b": {"c": True}}
