"""The exporters folder and the device guide say what the commands and targets say."""

from __future__ import annotations

import ast
import functools
import heapq
import importlib
import itertools
import re
import shlex
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import typer

import elir_deploy
from elir_deploy.targets import TARGETS, onnx_limits, target_named

ROOT = Path(__file__).parents[1]
EXPORTERS = ROOT / "exporters"
GUIDE = ROOT / "docs" / "guide-devices.md"
FOLDERS = ("jetpack6", "jetpack7", "rtx", "tensorrt")

pytestmark = pytest.mark.skipif(
    not EXPORTERS.is_dir() or not GUIDE.is_file(), reason="exporters/ or the guide is not here"
)

_COMMAND = re.compile(r"elir-[a-z]+")
_FENCED = re.compile(r"^( *)```[a-z]*\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`([^`\n]+)`")
_INSTRUCTIONS = frozenset(["ARG", "CMD", "COPY", "ENV", "FROM", "RUN", "WORKDIR"])


def _pages() -> list[Path]:
    return [page for page in (*sorted(EXPORTERS.rglob("*.md")), GUIDE) if page.is_file()]


def _joined(text: str) -> list[str]:
    """Lines, those ending in a backslash continued."""
    return text.replace("\\\n", " ").splitlines()


def _invocations(line: str) -> list[list[str]]:
    """The ``elir-*`` commands of a shell line, each with its arguments."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    found: list[list[str]] = []
    current: list[str] | None = None
    for word in lexer:
        if set(word) <= set("();<>|&"):
            current = None
        elif current is not None:
            current.append(word)
        elif _COMMAND.fullmatch(word) and find_spec(_module_name(word)) is not None:
            current = [word]
            found.append(current)
    return found


def _module_name(command: str) -> str:
    return f"elir_deploy.cli.{command.removeprefix('elir-')}"


def _documented() -> list[tuple[str, list[str], bool]]:
    """Every command line: the page, its words, and whether it is whole (in a block)."""
    lines = []
    for page in _pages():
        text = page.read_text("utf-8")
        blocks = [match.group(2) for match in _FENCED.finditer(text)]
        inline = _INLINE.findall(_FENCED.sub("", text))
        for whole, sources in ((True, blocks), (False, inline)):
            for source in sources:
                for line in _joined(source):
                    if "elir-" in line:
                        words = [(page.name, call, whole) for call in _invocations(line)]
                        lines += [entry for entry in words if whole or len(entry[1]) > 1]
    return lines


def _options(command: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The parser of a command, as Typer makes it of its function."""
    module = importlib.import_module(_module_name(command))
    functions: list[Any] = []
    monkeypatch.setattr(module, "run_command", functions.append)
    module.main()
    app = typer.Typer(add_completion=False)
    app.command()(functions[0])
    found = typer.main.get_command(app)
    return found.make_parser(typer.Context(found))


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_folder_has_a_dockerfile_and_a_readme(folder: str) -> None:
    assert (EXPORTERS / folder / "Dockerfile").is_file()
    assert (EXPORTERS / folder / "README.md").is_file()


def test_no_folder_is_left_out_and_none_is_python() -> None:
    assert sorted(path.name for path in EXPORTERS.iterdir() if path.is_dir()) == list(FOLDERS)
    assert not list(EXPORTERS.rglob("*.py"))


@pytest.mark.parametrize("folder", FOLDERS)
def test_what_a_dockerfile_copies_is_in_the_sdist(folder: str) -> None:
    lines = [
        line.split()
        for line in _joined((EXPORTERS / folder / "Dockerfile").read_text("utf-8"))
        if line.strip() and not line.startswith("#")
    ]
    assert {words[0] for words in lines} <= _INSTRUCTIONS
    first = next(words[0] for words in lines if words[0] != "ARG")
    assert first == "FROM"
    held = re.search(r"^only-include = \[(.*)\]", _pyproject(), re.MULTILINE)
    assert held is not None
    sdist = set(re.findall(r'"([^"]+)"', held.group(1)))
    copies = [words[1:-1] for words in lines if words[0] == "COPY"]
    sources = {name for words in copies if not words[0].startswith("--from") for name in words}
    assert sources
    assert sources <= sdist


def _pyproject() -> str:
    return (ROOT / "pyproject.toml").read_text("utf-8")


@pytest.mark.parametrize("command", ["elir-build", "elir-export", "elir-restore", "elir-inspect"])
def test_the_pages_show_every_command_that_a_device_needs(command: str) -> None:
    if find_spec(_module_name(command)) is None:
        pytest.skip(f"{command} is not there yet")
    assert any(call[0] == command and whole for _, call, whole in _documented())


@pytest.mark.parametrize(
    ("page", "call", "whole"),
    [pytest.param(*entry, id=f"{entry[0]}: {' '.join(entry[1])}") for entry in _documented()],
)
def test_a_documented_command_has_these_options(
    page: str, call: list[str], whole: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    command, *words = call
    values, arguments, _ = _options(command, monkeypatch).parse_args(words)
    if whole and "help" not in values:
        assert [word for word in arguments if word is not None] or values
        assert "…" not in call
    for name in values.get("target") or ():
        target_named(name)
    if values.get("backend") is not None:
        _check_backends(values["backend"])


def _check_backends(given: Any) -> None:
    from elir_deploy.runtime.backends import BACKENDS

    names = given if isinstance(given, list) else [given]
    if "tensorrt" not in BACKENDS:
        pytest.skip("the backends of TensorRT are not there yet")
    assert set(names) <= set(BACKENDS)


@pytest.mark.parametrize("page", _pages(), ids=lambda page: f"{page.parent.name}/{page.name}")
def test_what_looks_like_a_target_is_one(page: Path) -> None:
    words = re.findall(r"`((?:rtx|jetpack|sm)\d[\w.]*)`", page.read_text("utf-8"))
    assert set(words) <= set(TARGETS)


def _versions() -> list[tuple[str, str]]:
    """Target and TensorRT of each row of the tables of JetPack releases."""
    rows = []
    for folder in ("jetpack6", "jetpack7"):
        lines = (EXPORTERS / folder / "README.md").read_text("utf-8").splitlines()
        start = next(i for i, line in enumerate(lines) if line.startswith("| JetPack | target |"))
        heading = _cells(lines[start])
        for line in lines[start + 2 :]:
            if not line.startswith("|"):
                break
            cells = dict(zip(heading, _cells(line), strict=True))
            rows.append((cells["target"].strip("`"), cells["TensorRT"]))
    return rows


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_tables_name_every_jetpack() -> None:
    documented = {target for target, _ in _versions()}
    assert documented == {name for name, target in TARGETS.items() if target.on_device}


def test_a_jetpack_has_the_tensorrt_that_its_target_says() -> None:
    for name, target in TARGETS.items():
        if target.tensorrt is not None:
            stated = [version for row, version in _versions() if row == name]
            assert any(f"{version}.".startswith(f"{target.tensorrt}.") for version in stated), name


def test_graphs_for_a_target_parse_under_every_release_named_for_it() -> None:
    for name, version in _versions():
        assert onnx_limits(version) == TARGETS[name].onnx, (name, version)


# Messages -----------------------------------------------------------------------------------------

#: What others say: the kernel, pip, apt, NumPy, and TensorRT while it builds.
FOREIGN = (
    "Killed",
    "error: externally-managed-environment",
    "E: Unable to locate package python3-libnvinfer",
    "A module that was compiled using NumPy 1.x cannot be run in NumPy 2",
    "Target GPU SM 87 is not supported by this TensorRT release",
    "Some tactics do not have sufficient workspace memory to run",
)
#: The least of a quoted message that has to be the program's own words: the rest is what it names.
_OWN_SHARE = 0.45


def _quoted() -> list[tuple[Path, str]]:
    """Messages that the pages' tables of them quote."""
    found = []
    for page in _pages():
        lines = page.read_text("utf-8").splitlines()
        for start, line in enumerate(lines):
            if line.startswith("| message |"):
                rows = itertools.takewhile(lambda row: row.startswith("|"), lines[start + 2 :])
                cells = [_cells(row)[0] for row in rows]
                found += [(page, cell.split("`")[1]) for cell in cells if cell.startswith("`")]
    return found


#: A text of the program, by character; None: something is put in.
_Text = list[str | None]


@functools.cache
def _texts() -> tuple[tuple[frozenset[str], _Text], ...]:
    """Every text of the program that may be a message, with its words."""
    package = Path(elir_deploy.__file__).parent
    texts: list[_Text] = []
    for source in package.rglob("*.py"):
        if source.relative_to(package).parts[0] in ("bench", "checkpoints", "model", "training"):
            continue  # neither builds engines nor runs them
        nodes = list(ast.walk(ast.parse(source.read_text("utf-8"))))
        joined = [node for node in nodes if isinstance(node, ast.JoinedStr)]
        for node in joined:
            parts = [p.value if isinstance(p, ast.Constant) else None for p in node.values]
            texts.append([c for part in parts for c in (part if part else [None])])
        inside = {id(part) for node in joined for part in node.values}
        alone = [n for n in nodes if isinstance(n, ast.Constant) and id(n) not in inside]
        texts += [list(node.value) for node in alone if isinstance(node.value, str)]
    return tuple((_words(t), t) for t in texts if len(t) < 400 and "\n" not in t)


def _nearness(words: frozenset[str], others: frozenset[str]) -> float:
    return len(words & others) ** 2 / max(1, len(others))


def _words(text: Iterable[str | None]) -> frozenset[str]:
    return frozenset(re.findall(r"\w{3,}", "".join(c or " " for c in text)))


def _own(quoted: str, text: _Text) -> int:
    """Characters of ``quoted`` that are the text's own; 0 where it is not this text at all.

    A quotation may begin late and end early; an ellipsis inside it stands for what is put in.
    """
    pattern = [None, *quoted.strip("… "), None]
    best: list[int | None] = [0] + [None] * len(text)
    for place, c in enumerate(text, 1):
        if c is None and best[place - 1] is not None:
            best[place] = best[place - 1]
    for wanted in pattern:
        before, best = best, [None] * (len(text) + 1)
        for place in range(len(text) + 1):
            c = text[place - 1] if place else ""
            ways = [before[place]] if wanted is None or c is None else []
            if place and (wanted is None or c is None):
                ways.append(best[place - 1])
            if place and c is not None and c == wanted and before[place - 1] is not None:
                ways.append(before[place - 1] + 1)
            best[place] = max((way for way in ways if way is not None), default=None)
    return best[-1] or 0


def test_what_others_say_is_quoted_somewhere() -> None:
    assert set(FOREIGN) <= {quoted for _, quoted in _quoted()}


@pytest.mark.parametrize(
    ("page", "quoted"),
    [pytest.param(*entry, id=f"{entry[0].parent.name}: {entry[1]}") for entry in _quoted()],
)
def test_a_documented_message_exists(page: Path, quoted: str) -> None:
    if quoted in FOREIGN:
        return
    words = _words(quoted)
    near = heapq.nlargest(6, _texts(), key=lambda text: _nearness(words, text[0]))
    told = len(quoted.replace("…", ""))
    assert max(_own(quoted, text) for _, text in near) >= _OWN_SHARE * told
