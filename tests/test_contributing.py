"""What CONTRIBUTING and the README name exists; their tables are complete."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from elir_deploy.runtime.backends import BACKENDS
from elir_deploy.tasks import TASKS

ROOT = Path(__file__).parents[1]
CONTRIBUTING, README, TRAINING, RUNTIME = (
    (ROOT / name).read_text("utf-8")
    for name in ("CONTRIBUTING.md", "README.md", "docs/guide-training.md", "docs/guide-runtime.md")
)
BOTH = pytest.mark.parametrize("text", [CONTRIBUTING, README], ids=["CONTRIBUTING", "README"])


@BOTH
def test_files(text: str) -> None:
    paths = r"\b(?:(?:elir_deploy|tests|runtime|exporters|benchmarks)/[\w./-]+|docs/[\w-]+\.md)"
    named = {name.rstrip(".") for name in re.findall(paths, text)}
    assert len(named) > 8
    missing = [name for name in named if "NAME" not in name and not (ROOT / name).exists()]
    assert not missing


@BOTH
def test_commands(text: str) -> None:
    rules = (ROOT / "Makefile").read_text("utf-8")
    named = set(re.findall(r"`make ([\w-]+)", text))
    assert {"test", "test-all"} <= named
    assert named <= set(re.findall(r"^([\w-]+):", rules, re.MULTILINE))


def test_every_slow_test_has_a_row() -> None:
    table = CONTRIBUTING.split("## What `make test` leaves out")[1].split("\n## ")[0]
    commands = " ".join(re.findall(r"\| [^|]*`P ([^`|]*)`[^|]*\|\n", table)).split()
    assert len(commands) > 8
    slow = [
        path.relative_to(ROOT)
        for path in (ROOT / "tests").rglob("test_*.py")
        if re.search(r"\bmark(s=pytest\.mark)?\.slow\b", path.read_text("utf-8"))
    ]
    listed = [Path(command) for command in commands]
    assert [str(p) for p in slow if not any(p.is_relative_to(name) for name in listed)] == []


def test_constants() -> None:
    constants = set(re.findall(r"`((?!ELIR_)_?[A-Z]+_[A-Z_]+|_[A-Z]+|[A-Z]{5,}S)`", CONTRIBUTING))
    assert len(constants) > 8
    code = "".join(path.read_text("utf-8") for path in (ROOT / "elir_deploy").rglob("*.py"))
    assert not {name for name in constants if not re.search(rf"^{name}\b", code, re.MULTILINE)}


def test_the_picture_of_the_parts() -> None:
    shown = re.findall(r"```\n(weights file.*?)```", CONTRIBUTING, re.DOTALL)[0]
    inside = {path.parent.name for path in ROOT.glob("elir_deploy/*/__init__.py")} - {"cli"}
    assert {part for part in inside if not re.search(rf"\b{part}\b", shown)} == set()


def first_cells(text: str) -> set[str]:
    """What the first cells of all tables have in backticks."""
    cells = re.findall(r"^\| (`[^|]*) \|", text, re.MULTILINE)
    return {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}


def test_tables_of_tasks_and_backends() -> None:
    assert set(TASKS) <= first_cells(README)
    assert set(TASKS) <= first_cells(TRAINING)
    assert set(BACKENDS) <= first_cells(RUNTIME)


def test_table_of_extras() -> None:
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    listed = re.findall(r"`elir-deploy\[([\w,-]+)\]`", README)
    extras = {extra for each in listed for extra in each.split(",")}
    assert extras == set(project["optional-dependencies"])
