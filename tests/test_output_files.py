"""Writing: regular files whole or not at all, links followed, devices and pipes written to."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pytest

from elir_deploy import output_files
from elir_deploy.errors import OutputError
from elir_deploy.output_files import (
    check_writable,
    discard,
    locked,
    remove_abandoned,
    replacing,
    write_text,
)

PART = ".elir-0123456789abcdef.part"


def test_files_are_written_whole(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    write_text(path, "öne")
    write_text(path, "two")
    assert path.read_text() == "two"
    assert list(tmp_path.iterdir()) == [path]


def test_discarding_leaves_no_descriptor_open(tmp_path: Path) -> None:
    with (tmp_path / "x").open("w") as stream:
        stream.write("lost")
        before = os.listdir("/proc/self/fd")
        discard(stream)
        assert len(os.listdir("/proc/self/fd")) == len(before)
    assert (tmp_path / "x").read_text() == ""


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_interruption_leaves_the_old_file_and_no_part(
    tmp_path: Path, error: type[BaseException]
) -> None:
    path = tmp_path / "report.json"
    write_text(path, "one")

    def interrupted() -> None:
        with replacing(path) as file:
            file.write(b"two")
            raise error

    with pytest.raises(error):
        interrupted()
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_text() == "one"


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match=r"No space left on device: free some space"):
        write_text(tmp_path / "report.json", "one")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be written"):
        write_text(tmp_path / "none" / "report.json", "")


def test_the_mode_of_any_new_file_and_of_the_one_before(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    write_text(tmp_path / "atomic", "")
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "plain").stat().st_mode
    (tmp_path / "atomic").chmod(0o600)
    write_text(tmp_path / "atomic", "of nobody else")
    assert stat.S_IMODE((tmp_path / "atomic").stat().st_mode) == 0o600


# Links ------------------------------------------------------------------------------------------


def test_links_are_followed_and_stay(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    real = tmp_path / "there" / "real.json"
    real.write_text("one")
    (tmp_path / "second").symlink_to("there/real.json")
    link = tmp_path / "first"
    link.symlink_to("second")
    with pytest.raises(KeyboardInterrupt), replacing(link):
        raise KeyboardInterrupt
    assert real.read_text() == "one"
    write_text(link, "two")
    assert (real.read_text(), link.is_symlink()) == ("two", True)
    assert os.listdir(tmp_path / "there") == ["real.json"]


def test_a_link_to_nothing_makes_what_it_leads_to(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to("later.json")
    check_writable(link)
    write_text(link, "one")
    assert (tmp_path / "later.json").read_text() == "one"
    assert link.is_symlink()
    (tmp_path / "far").symlink_to("none/later.json")
    for write in (check_writable, lambda path: write_text(path, "")):
        with pytest.raises(OutputError, match="far cannot be written"):
            write(tmp_path / "far")


def test_a_loop_of_links(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    for write in (check_writable, lambda path: write_text(path, "")):
        with pytest.raises(OutputError, match="a cannot be written: Too many levels"):
            write(tmp_path / "a")
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


# What is no regular file ------------------------------------------------------------------------


def reading(path: Path) -> Callable[[], bytes]:
    """What a reader at the other end of a pipe gets."""
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(path.read_bytes()), daemon=True)
    reader.start()

    def end() -> bytes:
        reader.join(10)
        return got[0]

    return end


@pytest.mark.parametrize("through_a_link", [False, True])
def test_a_pipe_is_written_to(tmp_path: Path, through_a_link: bool) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    (tmp_path / "link").symlink_to(pipe)
    path = tmp_path / "link" if through_a_link else pipe
    check_writable(path)
    end = reading(pipe)
    write_text(path, "two" * 100_000)
    assert end() == b"two" * 100_000
    assert pipe.is_fifo()
    assert sorted(os.listdir(tmp_path)) == ["link", "pipe"]


def test_nothing_of_a_failure_reaches_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    end = reading(tmp_path / "pipe")
    with pytest.raises(KeyboardInterrupt), replacing(tmp_path / "pipe") as file:
        _interrupted(file)
    assert end() == b""


def _interrupted(file: BinaryIO) -> None:
    file.write(b"half of it")
    raise KeyboardInterrupt


def test_a_device_is_written_to(tmp_path: Path) -> None:
    null = tmp_path / "null"
    try:
        os.mknod(null, stat.S_IFCHR | 0o666, os.makedev(1, 3))
        null.write_text("")
    except OSError:
        pytest.skip("needs the right to make devices")
    check_writable(null)
    write_text(null, "gone")
    assert stat.S_ISCHR(null.stat().st_mode)
    full = tmp_path / "full"
    os.mknod(full, stat.S_IFCHR | 0o666, os.makedev(1, 7))
    with pytest.raises(OutputError, match="full cannot be written: No space left"):
        write_text(full, "too much")
    assert stat.S_ISCHR(full.stat().st_mode)
    assert sorted(os.listdir(tmp_path)) == ["full", "null"]


def test_a_folder_is_none(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="Is a directory"):
        write_text(tmp_path, "")
    with pytest.raises(OutputError, match="is a folder, expected a file name"):
        check_writable(tmp_path)


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="no such folder"):
        check_writable(tmp_path / "none" / "r.json")
    check_writable(tmp_path / "r.json")
    check_writable("-")
    if os.getuid():
        tmp_path.chmod(0o500)
        with pytest.raises(OutputError, match="is not writable"):
            check_writable(tmp_path / "r.json")


WRITER = """
import sys
from elir_deploy.output_files import is_standard_output, write_text
print("before")
write_text(sys.argv[1], "content\\n")
print("after", is_standard_output(sys.argv[1]))
"""


@pytest.mark.parametrize("name", ["-", "/dev/stdout", "/proc/self/fd/1", "itself"])
@pytest.mark.parametrize("kind", ["pipe", "file"])
def test_standard_output_by_all_its_names(tmp_path: Path, name: str, kind: str) -> None:
    """Also where it goes to a file, which replacing would part from what is printed later."""
    if name == "itself" and kind == "pipe":
        pytest.skip("a pipe has no name")
    file = tmp_path / "out"
    command = [sys.executable, "-c", WRITER, str(file) if name == "itself" else name]
    if kind == "file":
        with file.open("w") as stream:
            subprocess.run(command, stdout=stream, check=True)
        shown = file.read_text()
    else:
        shown = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    assert shown == "before\ncontent\nafter True\n"


def test_a_reader_who_left_is_no_error_of_the_place() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    code = "from elir_deploy.output_files import write_text\nwrite_text('-', 'x' * 100_000)"
    done = subprocess.run([sys.executable, "-c", code], stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert b"\nBrokenPipeError: " in done.stderr  # which commands end quietly at


# What a killed run left -------------------------------------------------------------------------

KILLED = """
import os, sys
from elir_deploy.output_files import replacing
with replacing(sys.argv[1]) as file:
    file.write(b"half")
    file.flush()
    print("ready", flush=True)
    sys.stdin.read()
"""


def test_parts_of_the_killed_are_cleaned_up_and_no_others(tmp_path: Path) -> None:
    def begin() -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED, str(tmp_path / "x")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    killed = begin()
    (left,) = tmp_path.iterdir()
    living = begin()
    (at_work,) = set(tmp_path.iterdir()) - {left}
    killed.kill()
    killed.communicate()
    others = [tmp_path / name for name in (".elir-note.part", ".elir-0123456789abcdef.part.bak")]
    for other in others:
        other.write_text("of somebody else")
    write_text(tmp_path / "y", "by the next run")
    assert set(tmp_path.iterdir()) == {at_work, tmp_path / "y", *others}
    living.communicate("")
    assert living.returncode == 0
    assert (tmp_path / "x").read_text() == "half"


def test_a_folder_is_looked_through_once(tmp_path: Path) -> None:
    write_text(tmp_path / "x", "")
    (tmp_path / PART).write_text("of another run, killed meanwhile")
    write_text(tmp_path / "x", "")
    assert (tmp_path / PART).exists()
    output_files.remove_parts.cache_clear()
    write_text(tmp_path / "x", "")
    assert os.listdir(tmp_path) == ["x"]


@pytest.mark.parametrize("folder", [False, True])
def test_a_clean_up_before_the_lock_is_there(tmp_path: Path, folder: bool) -> None:
    """The first try is taken for abandoned in the moment between making and locking."""
    names = iter(["first", "second"])

    def make() -> Path:
        path = tmp_path / next(names)
        path.mkdir() if folder else path.touch()
        if path.name == "first":
            remove_abandoned([path])
        return path

    with locked(make) as path:
        assert path.name == "second"
        remove_abandoned([path])
        assert path.exists()
    remove_abandoned([path])
    assert not path.exists()


def test_a_link_is_never_cleaned_through(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("kept")
    (tmp_path / PART).symlink_to("precious")
    write_text(tmp_path / "x", "")
    assert (tmp_path / "precious").read_text() == "kept"
