"""Files that may be missing, odd or forbidden."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import pytest

from elir_deploy.bench.sensors.files import Tree, cpu_list, plain
from tests.bench.sensors.trees import plant


def test_text_is_stripped_of_what_the_kernel_adds(tmp_path):
    plant(tmp_path, {"a": b"performance\n", "b": b"Jetson\0", "c": b"\n", "d": b"caf\xff\n"})
    tree = Tree(tmp_path)
    assert [tree.text(name) for name in "abcde"] == ["performance", "Jetson", None, "caf�", None]
    (tmp_path / "folder").mkdir()
    assert tree.text("folder") is None
    assert tree.text("with\0null") is None


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("0", 0),
        ("-1", -1),
        ("18446744073709551615", 2**64 - 1),
        ("9" * 21, None),
        ("9" * 5000, None),
        ("1_000", None),
        ("٣", None),
        ("0x10", None),
        ("1.5", None),
        ("nan", None),
        ("", None),
        ("12 34", None),
    ],
)
def test_numbers(tmp_path, text, number):
    plant(tmp_path, {"n": text})
    assert Tree(tmp_path).integer("n") == number
    assert Tree(tmp_path).scaled("n", 0.5) == (None if number is None else number / 2)


def test_flags(tmp_path):
    plant(tmp_path, {"yes": 1, "no": 0, "other": 2, "text": "on"})
    tree = Tree(tmp_path)
    found = [tree.flag(name) for name in ("yes", "no", "other", "text", "missing")]
    assert found == [True, False, None, None, None]


def test_matches_are_in_the_order_of_numbers(tmp_path):
    plant(tmp_path, {f"zone{n}/type": n for n in (10, 9, 1)})
    found = Tree(tmp_path).match("zone*")
    assert [path.name for path in found] == ["zone1", "zone9", "zone10"]
    assert Tree(tmp_path / "none").match("zone*") == []


def test_what_root_alone_may_read(tmp_path, monkeypatch):
    plant(tmp_path, {"secret": 1, "open": 1})
    forbid(monkeypatch, "secret")
    tree = Tree(tmp_path)
    assert tree.denied("secret")
    assert tree.text("secret") is None
    assert not tree.denied("open")
    assert not tree.denied("missing")


def forbid(monkeypatch, *names: str) -> None:
    """Files of these names as anyone but root sees them; tests may run as root."""
    really = Path.open

    def open_unless_forbidden(path, *arguments, **options):
        if path.name in names:
            raise PermissionError(13, "Permission denied", str(path))
        return really(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", open_unless_forbidden)


@pytest.mark.parametrize(
    ("text", "cores"),
    [
        ("0-3", (0, 1, 2, 3)),
        ("0,2,4-5", (0, 2, 4, 5)),
        ("7", (7,)),
        ("", ()),
        (None, ()),
        ("junk", ()),
        ("3-1", ()),
        ("0-70000", ()),
        ("-1", ()),
        ("0-1,x", ()),
    ],
)
def test_lists_of_processors(text, cores):
    assert cpu_list(text) == cores


@dataclass(frozen=True)
class Something:
    pair: tuple[float, float | None]
    by_name: dict[str, float]
    what: object


def test_plain_values_survive_json():
    found = plain(Something((1.5, None), {"a": math.nan, "b": math.inf}, Path("/x")))
    assert found == {"pair": [1.5, None], "by_name": {"a": None, "b": None}, "what": "/x"}
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert plain(True) is True
