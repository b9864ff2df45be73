"""The table of messages that both runtimes share: that Python says what is written in it."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import elir_deploy
from elir_deploy.runtime.messages import message

PACKAGE = Path(elir_deploy.__file__).parent
TABLE: dict[str, str] = json.loads((PACKAGE / "runtime" / "messages.json").read_text("utf-8"))
FIELD = re.compile(r"\{([^{}]*)\}")


#: Said by ``elir_deploy.atomic``, which the runtime uses, in words of its own.
BELOW_THE_RUNTIME = {"file_unwritable", "file_unwritable_full"}


def fields(text: str) -> set[str]:
    return set(FIELD.findall(text))


def modules(folder: Path = PACKAGE) -> Iterator[ast.Module]:
    for path in folder.rglob("*.py"):
        yield ast.parse(path.read_text("utf-8"), path)


def uses() -> Iterator[ast.Call]:
    """Every call of ``message``."""
    for module in modules():
        for node in ast.walk(module):
            if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "message":
                yield node


def literals() -> set[str]:
    """Every text in the runtime's modules, with ``{}`` for what is filled in."""
    found = set()
    for module in modules(PACKAGE / "runtime"):
        for node in ast.walk(module):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
            elif isinstance(node, ast.JoinedStr):
                parts = (p.value if isinstance(p, ast.Constant) else "{}" for p in node.values)
                found.add("".join(map(str, parts)))
    return found


def test_it_is_well_formed() -> None:
    assert list(TABLE) == sorted(TABLE)
    for name, text in TABLE.items():
        assert re.fullmatch("[a-z][a-z0-9_]*", name)
        assert all(re.fullmatch("[a-z]+", field) for field in fields(text)), name
        assert not re.search("[{}]", FIELD.sub("", text)), name


def test_every_use_gives_the_fields_that_the_text_names() -> None:
    for call in uses():
        (name,) = call.args
        assert isinstance(name, ast.Constant), ast.unparse(call)
        given = {keyword.arg for keyword in call.keywords}
        assert given == fields(TABLE[name.value]), ast.unparse(call)


def test_every_message_is_used() -> None:
    used = {call.args[0].value for call in uses()}
    assert TABLE.keys() - used == BELOW_THE_RUNTIME


def test_words_of_the_table_stand_nowhere_else() -> None:
    """As far as they are words, and not an end of some other sentence."""
    written = literals()
    texts = {name: FIELD.sub("{}", text) for name, text in TABLE.items()}
    words = {name: text for name, text in texts.items() if len(FIELD.sub("", text).split()) >= 3}
    assert not {name for name, text in words.items() if any(text in other for other in written)}


@pytest.mark.parametrize(
    "hostile", ["{path}", "{reason}", "{0}", "{{}}", "{", "%s", "{path.parts}"]
)
def test_a_value_is_no_text(hostile: str) -> None:
    assert message("manifest_in", path=hostile, reason=hostile) == f"{hostile}: {hostile}"


def test_the_wrong_fields() -> None:
    with pytest.raises(KeyError):
        message("folder_missing", folder="x")
