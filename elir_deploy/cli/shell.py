"""Shared by all commands: exit codes, error lines, ``--debug``, progress.

Exit codes: 0 done, 2 bad usage, bad input or an output that cannot be written, 3 a quality floor or
budget was missed, 4 a backend or device is missing, 130 interrupted, 143 terminated, 1 anything
else (a bug).
"""

from __future__ import annotations

import functools
import io
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any, NoReturn, TypeVar

import typer

from elir_deploy import __version__
from elir_deploy.errors import ElirError
from elir_deploy.interrupts import raise_interruption
from elir_deploy.output_files import discard
from elir_deploy.progress import ProgressCallback
from elir_deploy.text import duration, printable

__all__ = ["DebugOption", "VersionOption", "progress", "run_command", "tell"]

EXIT_BAD_OUTPUT = 2
EXIT_INTERRUPTED = 130

F = TypeVar("F", bound=Callable[..., Any])


class _State:
    debug = False
    telling = threading.Lock()


def _set_debug(value: bool) -> bool:
    _State.debug = value
    return value


def _show_version(value: bool) -> None:
    if value:
        print(f"elir-deploy {__version__}")
        raise typer.Exit


DebugOption = Annotated[
    bool,
    typer.Option("--debug", callback=_set_debug, help="Show the traceback of an error."),
]
VersionOption = Annotated[
    bool,
    typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
]


def tell(message: str) -> None:
    """Print a line to standard error, from any thread; if it was closed, work goes on."""
    try:
        with _State.telling:
            # In one piece: print writes the end of the line by itself.
            sys.stderr.write(f"{printable(message)}\n")
            sys.stderr.flush()
    except BrokenPipeError:
        discard(sys.stderr)


def _fail(message: str, code: int) -> NoReturn:
    tell(f"error: {message}")
    raise typer.Exit(code)


def _guarded(function: F) -> F:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        try:
            result = function(*args, **kwargs)
            sys.stdout.flush()  # so that errors occur here, not when Python exits
            return result
        except typer.Exit:
            raise
        except KeyboardInterrupt:
            _fail("interrupted", EXIT_INTERRUPTED)
        except BrokenPipeError:
            # Commands print when their work is done: the reader has enough, as in
            # `elir-inspect bfr | head`.
            discard(sys.stdout)
            raise typer.Exit from None
        except Exception as error:  # noqa: BLE001  # the one place where a bug becomes an exit code
            if _State.debug:
                traceback.print_exc()
            if isinstance(error, ElirError):
                _fail(str(error), error.exit_code)
            if isinstance(error, OSError) and error.errno is not None:
                discard(sys.stdout)
                where = f" ({error.filename})" if error.filename else ""
                _fail(f"{error.strerror or error}{where}", EXIT_BAD_OUTPUT)
            _fail(
                f"unexpected {type(error).__name__}: {error}. This is a bug; "
                "run again with --debug and report what it prints",
                1,
            )

    return wrapper  # type: ignore[return-value]  # functools.wraps keeps the signature, mypy cannot tell


def _terminate(signum: int, frame: object) -> None:
    # SystemExit runs context managers, which remove temporary folders.
    raise_interruption(signum)


def _open_closed_streams() -> None:
    """Replace standard streams that are closed, as services may have them, by an empty file.

    Otherwise the next file to be opened would be standard output or error.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is not None:
            continue
        nothing = os.open(os.devnull, os.O_RDWR)
        try:
            os.fstat(number)
        except OSError:  # nothing else has taken the number since
            os.dup2(nothing, number)
        if nothing != number:
            os.close(nothing)
        setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115  # open to the end


def run_command(function: Callable[..., Any]) -> None:
    """Run ``function`` as a console command and exit the process."""
    signal.signal(signal.SIGTERM, _terminate)
    _open_closed_streams()
    # Windows' encodings lack what a file's name may have; Python's standard error escapes it.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    app = typer.Typer(
        add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="markdown"
    )
    app.command(context_settings={"help_option_names": ["-h", "--help"]})(_guarded(function))
    app()


class _TimeLeft:
    """When work will end, from the share done so far; of nested work, the outer's end is shown.

    Args:
        unit: of what is done, to show how many a second; None: that is not shown.
    """

    def __init__(self, unit: str | None) -> None:
        self._unit = unit
        self._begun: dict[str, float] = {}
        self._ends: dict[str, float] = {}

    def __call__(self, what: str, done: int, total: int) -> str:
        now = time.monotonic()
        begun = self._begun.setdefault(what, now)
        speed = ""
        if self._unit and done and now > begun:
            speed = f", {done / (now - begun):.3g} {self._unit}/s"
        if done >= total > 0:
            self._begun.pop(what)
            self._ends.pop(what, None)
        elif done and total:
            self._ends[what] = now + (now - begun) / done * (total - done)
        left = max(self._ends.values(), default=now) - now
        return speed + (f", {duration(left)} left" if left >= 1 else "")


@contextmanager
def progress(
    *, show_time_left: bool = False, unit: str | None = None
) -> Iterator[ProgressCallback]:
    """Show progress on stderr: a bar on a terminal, otherwise lines.

    Args:
        show_time_left: also when the work will end, if its steps take about the same time.
        unit: of what is done, such as frames, to show then how many a second.
    """
    time_left = _TimeLeft(unit) if show_time_left else lambda what, done, total: ""
    if not sys.stderr.isatty():
        last: list[str] = []
        shown: list[int] = [-1]

        def line(what: str, done: int, total: int) -> None:
            left = time_left(what, done, total)
            tenth = 10 * done // total if total else -1
            if last != [what] or (tenth != shown[0] and total):
                last[:], shown[:] = [what], [tenth]
                count = f" {done}/{total}" if total else ""
                tell(f"{what}{count}{left}")

        yield line
        return

    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        SpinnerColumn,
        TextColumn,
        TimeElapsedColumn,
    )
    from rich.progress import Progress as Bars

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
    )
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task("", total=None, left="")

        def bar(what: str, done: int, total: int) -> None:
            left = time_left(what, done, total).removeprefix(", ")
            bars.update(task, description=what, completed=done, total=total or None, left=left)

        yield bar
