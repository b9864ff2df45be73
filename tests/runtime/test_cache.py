"""The cache folder: where it is, what a damaged file in it does, and what is removed from it."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from elir_deploy.errors import OutputError
from elir_deploy.runtime import cache as cache_module
from elir_deploy.runtime.cache import (
    DEFAULT_LIMIT,
    FolderInUse,
    cache_folder,
    cache_limit,
    compiled_models,
    compiled_place,
    read_sealed,
    remove_compiled,
    trim_compiled,
    write_sealed,
)

SHA256 = "a" * 64
#: Bytes of a sealed file with 100.
SIZE = 132


@pytest.mark.parametrize("call", ["open_folder", "iterdir"])
def test_another_user_s_folder_is_an_output_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def denied(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(cache_module if call == "open_folder" else Path, call, denied)
    with pytest.raises(OutputError, match=r"models cannot be opened: set ELIR_CACHE \(Permission"):
        FolderInUse(tmp_path / "models")


def test_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    usual = tmp_path / "home" / ".cache" / "elir-deploy"
    for value, folder in (
        (str(tmp_path / "x"), tmp_path / "x" / "elir-deploy"),
        ("", usual),
        ("relative", usual),
    ):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert cache_folder() == folder
    for value, folder in (
        ("/a/b", Path("/a/b")),
        ("a", Path("a")),
        ("~", tmp_path / "home"),
        ("~/a", tmp_path / "home" / "a"),
        ("~a", Path("~a")),
        ("", usual),
    ):
        monkeypatch.setenv("ELIR_CACHE", value)
        assert cache_folder() == folder
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == usual
    assert compiled_place("a", "b") == usual / "a" / "b"
    monkeypatch.setenv("ELIR_CACHE_LIMIT", "0")
    assert compiled_place("a", "b") is None
    assert not (tmp_path / "home").exists()


def test_no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")

    def homeless(path: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", homeless)
    with pytest.raises(OutputError, match=r"no home folder .*: set ELIR_CACHE"):
        cache_folder()


def test_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_limit() == DEFAULT_LIMIT == 10**9
    for given, expected in (
        ("", 10**9),
        ("0", 0),
        ("1", 1),
        ("500M", 500 * 10**6),
        ("2G", 2 * 10**9),
        ("999999G", 999999 * 10**9),
        ("9" * 15, 10**15 - 1),
    ):
        monkeypatch.setenv("ELIR_CACHE_LIMIT", given)
        assert cache_limit() == expected
    for wrong in ("-1", "1 G", "G", "1g", "1.5G", "1000000G", "many", "\u0661"):
        monkeypatch.setenv("ELIR_CACHE_LIMIT", wrong)
        with pytest.raises(OutputError, match=f"ELIR_CACHE_LIMIT is {wrong}, expected a size such"):
            cache_limit()


@pytest.mark.parametrize("content", [b"", b"x", bytes(range(256)) * 50])
def test_what_was_written_is_read(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "kept"
    write_sealed(path, b"something older and longer" * 100)
    write_sealed(path, content)
    found = read_sealed(path)
    assert found is not None
    assert found.tobytes() == content
    assert os.listdir(tmp_path) == ["kept"]


def test_damage_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "kept"
    write_sealed(path, b"content" * 10)
    whole = path.read_bytes()
    damaged = [
        b"",
        whole[:20],
        whole[:-1],
        whole + b"\0",
        whole[1:],
        whole[:32],
        b"\0" * len(whole),
    ]
    for position in range(len(whole)):
        flipped = bytearray(whole)
        flipped[position] ^= 16
        damaged.append(bytes(flipped))
    for data in damaged:
        path.write_bytes(data)
        assert read_sealed(path) is None
    path.unlink()
    assert read_sealed(path) is None
    path.mkdir()
    assert read_sealed(path) is None


def test_the_array_outlives_the_file_and_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / "kept"
    write_sealed(path, b"content")
    found = read_sealed(path)
    assert found is not None
    found[0] = 0
    assert path.read_bytes().startswith(b"content")
    write_sealed(path, b"another")
    path.unlink()
    np.testing.assert_array_equal(found, np.frombuffer(b"\0ontent", np.uint8))


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    write_sealed(tmp_path / "made" / "kept", b"content")
    assert read_sealed(tmp_path / "made" / "kept") is not None
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"file/a cannot be created: set ELIR_CACHE \(Not a dir"):
        write_sealed(tmp_path / "file" / "a" / "kept", b"content")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match="folder cannot be written"):
        write_sealed(tmp_path / "folder", b"content")


# What is removed --------------------------------------------------------------------------------


def used(path: Path, days_ago: float) -> None:
    then = time.time() - 86400 * days_ago
    os.utime(path, (then, then))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ELIR_CACHE", str(tmp_path))
    return tmp_path


@pytest.fixture
def files(cache: Path) -> list[Path]:
    """Compiled models of 132 bytes; the first was not used for longest."""
    names = (
        f"openvino/2026.1/{SHA256}/f32.1.blob",
        f"tensorrt-rtx/1.7/{SHA256}/86.2.cache",
        "tensorrt/10.3/timing.cache",
        f"onnxruntime-tensorrt/{SHA256}/x.engine",
    )
    for days, name in enumerate(reversed(names), 6):
        write_sealed(cache / name, b"x" * 100)
        used(cache / name, days)
    return [cache / name for name in names]


def trim(monkeypatch: pytest.MonkeyPatch, limit: str, newest: Path | None = None) -> None:
    monkeypatch.setenv("ELIR_CACHE_LIMIT", limit)
    trim_compiled(newest)


def left(files: list[Path]) -> str:
    return "".join("-+"[path.exists()] for path in files)


def test_what_was_not_used_for_longest_goes_first(
    files: list[Path], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [kept.path for kept in compiled_models(cache)] == files
    for limit, expected in (
        ("528", "++++"),
        ("527", "-+++"),
        ("264", "--++"),
        ("0", "----"),
    ):
        trim(monkeypatch, limit)
        assert left(files) == expected


def test_writing_removes_the_oldest(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ELIR_CACHE_LIMIT", str(4 * SIZE))
    fifth = files[0].with_name("bf16.1.blob")
    write_sealed(fifth, b"x" * 100)
    assert left([*files, fifth]) == "-++++"


def test_reading_is_use(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_sealed(files[0]) is not None
    trim(monkeypatch, "264")
    assert left(files) == "+--+"


def test_a_damaged_file_is_not_used(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    files[0].write_bytes(b"x" * SIZE)
    used(files[0], 100)
    assert read_sealed(files[0]) is None
    trim(monkeypatch, "527")
    assert left(files) == "-+++"


def test_the_newest_stays(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    trim(monkeypatch, "131", files[1])
    assert left(files) == "-+--"


def test_what_is_in_use_stays(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    held = read_sealed(files[0])
    used(files[0], 100)
    folder = os.open(files[3].parent, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_SH)
    trim(monkeypatch, "0")
    assert left(files) == "+--+"
    os.close(folder)
    del held
    trim(monkeypatch, "0")
    assert left(files) == "----"


def test_what_another_process_uses_stays(
    files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from elir_deploy.runtime.cache import read_sealed\n"
        "held = read_sealed(Path(sys.argv[1]))\n"
        "print(len(held), flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(files[0])], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"100\n"
        trim(monkeypatch, "0")
        assert left(files) == "+---"
    trim(monkeypatch, "0")
    assert left(files) == "----"


def test_others_files_stay(files: list[Path], cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another program's, in a folder that was named for the cache; and downloads."""
    others = [
        cache / name
        for name in (
            "elir_bfr.pth",
            "model.blob",
            ".elir-0123456789abcdef.part",
            "openvino/model.blob",
            "openvino/2026.1/model.blob",
            f"openvino/2026.1/{SHA256}/model.xml",
            f"openvino/2026.1/{SHA256}/deeper/model.blob",
            f"openvino/2026.1/{SHA256[1:]}/f32.1.blob",
            f"other/2026.1/{SHA256}/f32.1.blob",
        )
    ]
    for path in others:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"y" * 1000)
        used(path, 1000)
    link = files[0].with_name("linked.blob")
    link.symlink_to(others[1])
    trim(monkeypatch, "0")
    assert left(files) == "----"
    assert left([*others, link]) == "+" * 10
    remove_compiled(cache)
    assert left([*others, link]) == "+" * 10


def test_what_killed_writers_left_goes(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    _, locked = parts = [files[0].with_name(f".elir-{name * 8}.part") for name in ("01", "ab")]
    for path in parts:
        path.write_bytes(b"half")
    with locked.open("ab") as writer:
        fcntl.flock(writer, fcntl.LOCK_EX)
        trim(monkeypatch, "1G")
        assert left(parts) == "-+"
    trim(monkeypatch, "1G")
    assert left([*parts, *files]) == "--++++"


def test_folders_that_are_empty_for_long_go(
    files: list[Path], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trim(monkeypatch, "0")
    assert (cache / "openvino").exists(), "somebody may be about to write"
    for _ in range(4):  # an inner folder that goes changes the outer one
        for path in cache.rglob("*"):
            used(path, 1)
        trim(monkeypatch, "0")
    assert list(cache.iterdir()) == []


def test_an_unfinished_file_is_locked(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def trimmed(content: bytes) -> object:
        trim(monkeypatch, "0")
        monkeypatch.delenv("ELIR_CACHE_LIMIT")
        return sha256(content)

    sha256 = cache_module.hashlib.sha256
    with monkeypatch.context() as patch:
        patch.setattr(cache_module.hashlib, "sha256", trimmed)
        write_sealed(files[0], b"content")
    assert read_sealed(files[0]) is not None


def test_what_the_limit_does_not_allow_is_not_written(
    files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ELIR_CACHE_LIMIT", str(SIZE - 1))
    with pytest.raises(OutputError, match=r"would have 0\.0 MB, more than ELIR"):
        write_sealed(files[0], b"z" * 100)
    monkeypatch.setenv("ELIR_CACHE_LIMIT", str(SIZE))
    write_sealed(files[0], b"z" * 100)
    assert files[0].read_bytes().startswith(b"z")


def test_everything_is_removed_but_what_is_in_use(files: list[Path], cache: Path) -> None:
    (cache / "elir_bfr.pth").write_text("weights")
    held = read_sealed(files[1])
    removed, in_use = remove_compiled(cache)
    assert [kept.path for kept in in_use] == [files[1]]
    assert sorted(kept.path for kept in removed) == sorted([files[0], *files[2:]])
    del held
    remove_compiled(cache)
    assert os.listdir(cache) == ["elir_bfr.pth"]


def test_locks_that_are_not_to_be_had(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Who cannot tell whether a file is in use keeps it, and waits for nobody for long."""

    def refuse(descriptor: int, how: int) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setattr(cache_module, "_PATIENCE_S", 0.05)
    write_sealed(files[0], b"z" * 100)
    assert read_sealed(files[0]) is not None
    trim(monkeypatch, "0")
    assert left(files) == "++++"
