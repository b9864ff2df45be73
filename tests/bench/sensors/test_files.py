"""Files that may be missing, malformed or forbidden; psutil, which may be missing."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from elir_deploy.bench.sensors.files import Tree, cpu_list, query_psutil
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


def test_matches_are_sorted(tmp_path):
    plant(tmp_path, {f"zone{n}/type": n for n in (10, 9, 1)})
    found = Tree(tmp_path).match("zone*")
    assert [path.name for path in found] == ["zone1", "zone10", "zone9"]
    assert Tree(tmp_path / "none").match("zone*") == []


def test_a_file_that_only_root_may_read(tmp_path, monkeypatch):
    plant(tmp_path, {"secret": 1})
    forbid(monkeypatch, "secret")
    assert Tree(tmp_path).text("secret") is None
    assert Tree(tmp_path).exists("secret")


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


def test_psutil_that_is_missing_or_fails(psutil, monkeypatch):
    assert query_psutil("cpu_count", logical=False) == 2
    assert query_psutil("no_such_function") is None
    psutil.cpu_freq = lambda: 1 // 0
    assert query_psutil("cpu_freq") is None
    monkeypatch.setitem(sys.modules, "psutil", None)
    assert query_psutil("cpu_count") is None


def test_the_real_psutil_has_what_is_read_of_it(monkeypatch):
    monkeypatch.delitem(sys.modules, "psutil")
    assert query_psutil("cpu_count", logical=False) >= 1
    memory = query_psutil("virtual_memory")
    assert 0 < memory.available < memory.total
    psutil = pytest.importorskip("psutil")
    assert callable(psutil.cpu_freq)
    assert callable(psutil.sensors_battery)
