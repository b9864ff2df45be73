"""What all commands share, tried through a command of its own in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from elir_deploy.cli import shell

COMMAND = """
import sys
from elir_deploy.cli.shell import DebugOption, progress, run_command
from elir_deploy.errors import QualityError

def command(what: str, debug: DebugOption = False) -> None:
    if what == "lines":
        for i in range(100_000):
            print("line", i)
    elif what == "progress":
        with progress() as say:
            for i in range(5000):
                say(f"step {i}", i, 5000)
        open("done", "w").close()
    elif what == "quality":
        raise QualityError("too low")
    elif what == "bug":
        raise ValueError("surprise")
    elif what == "letters":
        print("зерно")
    elif what == "full":
        print("x" * 100_000)

run_command(command)
"""


def run(*arguments: str, cwd: Path, **kwargs) -> subprocess.CompletedProcess[str]:
    # Buffered as for a user, whatever the environment of the tests says.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    kwargs = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **kwargs}
    return subprocess.run(
        [sys.executable, "-c", COMMAND, *arguments],
        text=True, cwd=cwd, env=environment, check=False, **kwargs,
    )  # fmt: skip


@pytest.mark.parametrize(("what", "code"), [("quality", 3), ("bug", 1)])
def test_an_error_is_one_line_and_its_exit_code(tmp_path: Path, what: str, code: int) -> None:
    done = run(what, cwd=tmp_path)
    assert done.returncode == code
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert "Traceback" in run(what, "--debug", cwd=tmp_path).stderr


def test_a_full_standard_output_is_exit_2(tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        done = run("full", cwd=tmp_path, stdout=full)
    assert done.returncode == 2
    assert "No space left" in done.stderr
    assert "Exception ignored" not in done.stderr


def test_a_reader_that_leaves_is_no_error(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    done = run("lines", cwd=tmp_path, stdout=write)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")


def test_work_goes_on_when_nobody_reads_its_progress(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    done = run("progress", cwd=tmp_path, stderr=write)
    os.close(write)
    assert done.returncode == 0
    assert (tmp_path / "done").exists()


def test_a_line_is_written_in_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines of several threads would run into each other otherwise."""
    pieces: list[str] = []

    class Stream:
        write = staticmethod(pieces.append)
        flush = staticmethod(lambda: None)

    monkeypatch.setattr(sys, "stderr", Stream)
    shell.tell("one")
    shell.tell("two")
    assert pieces == ["one\n", "two\n"]


def test_the_time_left(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Of nested work, the outer's; where nothing is known, and at the end, none."""
    clock = [0.0]
    monkeypatch.setattr("elir_deploy.cli.shell.time.monotonic", lambda: clock[0])
    with shell.progress(show_time_left=True) as say:
        for clock[0], what, done, total in (
            (0.0, "restoring", 0, 10),
            (40.0, "restoring", 1, 10),
            (50.0, "tiles", 1, 4),
            (60.0, "tiles", 4, 4),
            (400.0, "restoring", 9, 10),
            (440.0, "restoring", 10, 10),
        ):
            say(what, done, total)
    assert capsys.readouterr().err.splitlines() == [
        "restoring 0/10",
        "restoring 1/10, 6 min left",
        "tiles 1/4, 6 min left",
        "tiles 4/4, 6 min left",
        "restoring 9/10, 44 s left",
        "restoring 10/10",
    ]


def test_what_the_terminal_cannot_show_is_escaped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "cp1252")
    done = run("letters", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip() == ascii("зерно").strip("'")
