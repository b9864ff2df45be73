"""The cache folder: where it is, and what a damaged file in it does."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from elir_deploy.errors import OutputError
from elir_deploy.runtime.cache import cache_folder, read_sealed, write_sealed


def test_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    usual = tmp_path / "home" / ".cache" / "elir-deploy"
    for value, folder in (
        (str(tmp_path / "x"), tmp_path / "x" / "elir-deploy"),
        ("", usual),
        ("relative", usual),
    ):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert cache_folder("a", "b") == folder / "a" / "b"
        assert (folder / "a" / "b").is_dir()
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == usual


def test_no_place_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(OutputError, match=r"file/elir-deploy/a cannot be made: set XDG_CACHE_HOME"):
        cache_folder("a")
    monkeypatch.delenv("XDG_CACHE_HOME")

    def homeless(path: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", homeless)
    with pytest.raises(OutputError, match="set XDG_CACHE_HOME"):
        cache_folder("a")


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
    with pytest.raises(OutputError, match="cannot be written"):
        write_sealed(tmp_path / "none" / "kept", b"content")
