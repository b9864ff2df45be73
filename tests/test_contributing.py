"""CONTRIBUTING names files and commands that exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text("utf-8")


def test_files() -> None:
    named = set(re.findall(r"\b(?:elir_deploy|tests|runtime|exporters)/[\w./]+", TEXT))
    assert len(named) > 20
    missing = [name for name in named if "NAME" not in name and not (ROOT / name).exists()]
    assert not missing


def test_commands() -> None:
    rules = (ROOT / "Makefile").read_text("utf-8")
    named = set(re.findall(r"`make ([\w-]+)", TEXT))
    assert {"test", "test-all", "slow"} <= named
    assert named <= set(re.findall(r"^([\w-]+):", rules, re.MULTILINE))


def test_constants() -> None:
    constants = set(re.findall(r"`((?!ELIR_)_?[A-Z]+_[A-Z_]+|_[A-Z]+|[A-Z]{5,}S)`", TEXT))
    assert len(constants) > 8
    code = "".join(path.read_text("utf-8") for path in (ROOT / "elir_deploy").rglob("*.py"))
    assert not {name for name in constants if not re.search(rf"^{name}\b", code, re.MULTILINE)}
