"""elir-inspect --cache and --clear-cache: what they show, and what they remove."""

from __future__ import annotations

import fcntl
import json
import os
import time
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from elir_deploy.cli.inspect import main
from elir_deploy.runtime.cache import read_sealed, write_sealed
from tests.command import run_here

SHA256 = "0123456789ab" + "c" * 52


def inspect(*arguments: object) -> CompletedProcess[str]:
    return run_here(main, *arguments)


def aged(path: Path, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two compiled models, a download, and one that is not finished."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("ELIR_CACHE", str(folder))
    for number, seconds in ((1, 5), (2, 3 * 86400)):
        path = folder / "openvino" / "2026.1" / SHA256 / f"f32.{number}.blob"
        write_sealed(path, bytes(number * 2_000_000))
        aged(path, seconds)
    for name, size in (
        ("elir_bfr.pth", 3_000_000),
        ("elir_bfr.pth.json", 100),
        ("elir_sr.pth.partial", 1_000_000),
        ("elir_sr.pth.partial.json", 100),
        ("mine.pth", 10),
    ):
        (folder / name).write_bytes(bytes(size))
        aged(folder / name, 7200)
    return folder


def names(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.rglob("*") if path.is_file())


def test_what_is_shown(cache: Path) -> None:
    done = inspect("--cache")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == str(cache)
    assert [" ".join(line.split()) for line in lines[3:7]] == [
        "compiled openvino/2026.1/0123456789ab…/f32.1.blob 2.0 MB used just now",
        "compiled openvino/2026.1/0123456789ab…/f32.2.blob 4.0 MB used 3 days ago",
        "download elir_bfr 3.0 MB downloaded 2 hours ago",
        "download elir_sr 1.0 MB unfinished, last tried 2 hours ago",
    ]
    assert lines[-2:] == [
        "compiled models: 2 files, 6.0 MB of 1000.0 MB (ELIR_CACHE_LIMIT)",
        "downloads: 2, 4.0 MB, kept until --clear-cache removes them",
    ]


def test_as_json(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ELIR_CACHE_LIMIT", "5M")
    told = json.loads(inspect("--cache", "--json").stdout)
    assert told["folder"] == str(cache)
    assert told["limit_bytes"] == 5_000_000
    assert [Path(kept["file"]).name for kept in told["compiled"]] == ["f32.2.blob", "f32.1.blob"]
    assert [kept["bytes"] for kept in told["compiled"]] == [4_000_032, 2_000_032]
    assert time.time() - told["compiled"][1]["used"] < 3600
    assert told["downloads"] == [
        {"name": "elir_bfr", "bytes": 3_000_100, "complete": True},
        {"name": "elir_sr", "bytes": 1_000_100, "complete": False},
    ]
    told = json.loads(inspect("--clear-cache", "elir_bfr", "--json").stdout)
    assert told == {
        "folder": str(cache),
        "removed": [str(cache / "elir_bfr.pth"), str(cache / "elir_bfr.pth.json")],
        "freed_bytes": 3_000_100,
    }


def test_a_download_is_complete_whatever_its_suffix(cache: Path) -> None:
    (cache / "yunet_n_dynamic.onnx").write_bytes(bytes(1000))
    assert json.loads(inspect("--cache", "--json").stdout)["downloads"][-1] == {
        "name": "yunet",
        "bytes": 1000,
        "complete": True,
    }


def test_an_empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ELIR_CACHE", str(tmp_path / "none"))
    monkeypatch.setenv("ELIR_CACHE_LIMIT", "0")
    done = inspect("--cache", "--clear-cache", "compiled", "--clear-cache", "downloads")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "removed 0 files, 0.0 MB",
        str(tmp_path / "none"),
        "",
        "compiled models: 0 files, 0.0 MB and no more are kept (ELIR_CACHE_LIMIT)",
        "downloads: 0, 0.0 MB, kept until --clear-cache removes them",
    ]
    assert list(tmp_path.iterdir()) == []


def test_compiled_models_are_removed_and_downloads_stay(cache: Path) -> None:
    done = inspect("--clear-cache", "compiled")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "removed 2 files, 6.0 MB\n"
    assert names(cache) == [
        *("elir_bfr.pth", "elir_bfr.pth.json"),
        *("elir_sr.pth.partial", "elir_sr.pth.partial.json", "mine.pth"),
    ]


def test_downloads_are_removed_where_they_are_named(cache: Path) -> None:
    assert inspect("--clear-cache", "elir_sr").stdout == "removed 2 files, 1.0 MB\n"
    compiled = ["f32.1.blob", "f32.2.blob"]
    assert names(cache) == ["elir_bfr.pth", "elir_bfr.pth.json", *compiled, "mine.pth"]
    assert inspect("--clear-cache", "downloads").stdout == "removed 2 files, 3.0 MB\n"
    assert names(cache) == [*compiled, "mine.pth"]


def test_what_is_in_use_stays(cache: Path) -> None:
    kept = cache / "openvino" / "2026.1" / SHA256 / "f32.2.blob"
    held = read_sealed(kept)
    with (cache / "elir_sr.pth.partial").open("ab") as downloading:
        fcntl.flock(downloading, fcntl.LOCK_EX)
        done = inspect("--clear-cache", "compiled", "--clear-cache", "downloads")
    assert done.returncode == 0
    assert done.stdout == "removed 3 files, 5.0 MB\n"
    assert done.stderr.splitlines() == [
        f"warning: {path} was not removed: it is in use, or belongs to another user"
        for path in (kept, cache / "elir_sr.pth.partial", cache / "elir_sr.pth.partial.json")
    ]
    assert names(cache) == [
        *("elir_sr.pth.partial", "elir_sr.pth.partial.json", "f32.2.blob", "mine.pth")
    ]
    del held


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "BUNDLE is missing: give its folder, 'tiny', or --cache"),
        (("tiny", "--cache"), "--cache and --clear-cache do not take a BUNDLE: leave it out"),
        (
            ("--clear-cache", "mine"),
            "has no mine: choose from compiled, downloads, elir_bfr",
        ),
    ],
)
def test_what_does_not_go_together(cache: Path, arguments: tuple[str, ...], message: str) -> None:
    done = inspect(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(names(cache)) == 7


def test_a_limit_that_is_none(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ELIR_CACHE_LIMIT", "much")
    done = inspect("--cache")
    assert done.returncode == 2
    assert done.stderr == (
        "error: ELIR_CACHE_LIMIT is much, expected a size such as 500M or 2G, or 0\n"
    )
    assert inspect("--clear-cache", "compiled").returncode == 0
