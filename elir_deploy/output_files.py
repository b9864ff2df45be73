"""Writing the outputs a user names: atomically for files, and to links, devices and pipes too.

Unfinished output is a locked temporary file beside the target. A lock ends with its process, so the
next process in the folder can tell leftovers of a killed one from work in progress.
"""

from __future__ import annotations

import errno
import functools
import io
import os
import re
import secrets
import shutil
import stat
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TextIO

from elir_deploy.errors import DiskFullError, OutputError
from elir_deploy.operating_system import close, lock, open_to_lock

__all__ = [
    "STANDARD_OUTPUT",
    "check_writable",
    "discard",
    "is_standard_output",
    "locked",
    "open_stream",
    "remove_abandoned",
    "remove_parts",
    "replacing",
    "replacing_as",
    "write_text",
]

#: The name of standard output.
STANDARD_OUTPUT = "-"

_FULL = (errno.ENOSPC, errno.EDQUOT)
_PART = re.compile(r"\.elir-[0-9a-f]{16}\.part")


@dataclass
class Replacement:
    """A file that is being written.

    Attributes:
        file: open for writing.
        name: what it will be called in its folder; may be changed until the block ends.
    """

    file: BinaryIO
    name: str


@contextmanager
def replacing(path: str | Path, *, durable: bool = True) -> Iterator[BinaryIO]:
    """Open a file that appears at ``path``, complete, when the ``with`` block ends.

    A regular file is replaced as a whole and keeps its permissions; a symbolic link is followed.
    Anything else (a device, a pipe, or ``-``, standard output) is written when the block ends. If
    the block raises, ``path`` is unchanged.

    Args:
        path: path of the file.
        durable: flush to disk before the rename, so that even a power cut leaves no partial file.

    Raises:
        OutputError: ``path`` cannot be written, or the disk is full.
        BrokenPipeError: standard output was closed by its reader.
    """
    with replacing_as(path, durable=durable) as replacement:
        yield replacement.file


@contextmanager
def replacing_as(path: str | Path, *, durable: bool = True) -> Iterator[Replacement]:
    """:func:`replacing`, but the block may decide what the file is called in the end."""
    try:
        target, mode = _regular_file(path)
        if target is None:
            with _open_stream(path) as stream:
                content = io.BytesIO()
                yield Replacement(content, str(path))
                stream.write(content.getbuffer())
            return
        remove_parts(target.parent)
        with locked(functools.partial(_new_part, target.parent)) as part:
            try:
                with part.open("wb") as file:
                    replacement = Replacement(file, target.name)
                    yield replacement
                    if mode is not None:
                        part.chmod(mode)
                    if durable:
                        file.flush()
                        os.fsync(file.fileno())
                part.replace(target.with_name(replacement.name))
            except BaseException:
                with suppress(OSError):
                    part.unlink()
                raise
    except OSError as error:
        # Without errno it is not from the file system: Pillow reports unsupported content so.
        if error.errno is None or (error.errno == errno.EPIPE and is_standard_output(path)):
            raise
        raise _output_error(path, error) from error


def write_text(path: str | Path, content: str) -> None:
    """Write ``content`` as UTF-8, atomically.

    Raises:
        OutputError: as :func:`replacing`.
    """
    with replacing(path) as file:
        file.write(content.encode())


def check_writable(path: str | Path) -> None:
    """Check before the work starts that ``path`` can be written.

    Raises:
        OutputError: it is a folder, a loop of links or a read-only device, or its folder is
            missing or not writable.
    """
    if os.path.isdir(path):
        raise OutputError(f"{path} is a folder, expected a file name")
    try:
        target, _ = _regular_file(path)
    except OSError as error:
        raise _output_error(path, error) from None
    if target is None:
        if str(path) != STANDARD_OUTPUT and not os.access(path, os.W_OK):
            raise OutputError(f"{path} is not writable")
        return
    if not target.parent.is_dir():
        raise OutputError(f"{path} cannot be written: no such folder {_shown(path, target)}")
    if not os.access(target.parent, os.W_OK):
        raise OutputError(f"{path} cannot be written: {_shown(path, target)} is not writable")


def is_standard_output(path: str | Path) -> bool:
    """Whether ``path`` is ``-`` or another name for standard output's file."""
    return str(path) == STANDARD_OUTPUT or _stream_number(path) == 1


def open_stream(path: str | Path) -> BinaryIO:
    """Open a file that grows while it is written; an existing one is replaced from its start.

    Standard output and error, by ``-`` or any other name, are written on from where they are.

    Raises:
        OutputError: it cannot be opened.
    """
    try:
        return _open_stream(path)
    except OSError as error:
        raise _output_error(path, error) from None


def discard(stream: TextIO) -> None:
    """Send what is still buffered to /dev/null, so that flushing at exit cannot fail."""
    with suppress(OSError, ValueError), open(os.devnull, "wb") as nothing:
        os.dup2(nothing.fileno(), stream.fileno())


def _output_error(path: str | Path, error: OSError) -> OutputError:
    reason = f"{path} cannot be written: {error.strerror}"
    if error.errno in _FULL:
        return DiskFullError(f"{reason}: free some space and run again")
    return OutputError(reason)


def _shown(path: str | Path, target: Path) -> Path:
    """The folder of ``target`` as the user wrote it, unless a link leads elsewhere."""
    return target.parent if os.path.islink(path) else Path(path).parent


def _regular_file(path: str | Path) -> tuple[Path | None, int | None]:
    """The regular file behind ``path``, existing or not, and its mode; None: not a regular file."""
    if str(path) == STANDARD_OUTPUT:
        return None, None
    try:
        status = os.stat(path)
    except FileNotFoundError:  # or a link to a missing file
        return Path(os.path.realpath(path)), None
    if not stat.S_ISREG(status.st_mode) or _stream_number(path) is not None:
        return None, None
    return Path(os.path.realpath(path)), stat.S_IMODE(status.st_mode) & 0o777


def _stream_number(path: str | Path) -> int | None:
    """1 or 2 if ``path`` is this process's stdout or stderr, which replacing would disconnect."""
    with suppress(OSError):
        status = os.stat(path)
        for descriptor in (1, 2):
            with suppress(OSError):
                if os.path.samestat(os.fstat(descriptor), status):
                    return descriptor
    return None


def _open_stream(path: str | Path) -> BinaryIO:
    number = 1 if str(path) == STANDARD_OUTPUT else _stream_number(path)
    if number is None:
        return open(path, "wb")
    if number == 1 and getattr(sys.stdout, "name", None) == os.devnull:  # in place of a closed one
        raise OutputError("standard output is closed: give a file or a folder")
    for stream in (sys.stdout, sys.stderr):  # keeps the order of earlier prints
        if stream is not None:
            stream.flush()
    return open(number, "wb", closefd=False)


# Temporary files and locks --------------------------------------------------------------------


@contextmanager
def locked(create: Callable[[], Path]) -> Iterator[Path]:
    """The file or folder that ``create`` creates, locked for the ``with`` block.

    :func:`remove_abandoned` in another process or thread leaves it alone.
    """
    while True:
        path = create()
        with suppress(FileNotFoundError):
            descriptor = open_to_lock(path)
            lock(descriptor, wait=True)
            # Before the lock, another process may have removed it as abandoned.
            if path.exists():
                break
            close(descriptor)
    try:
        yield path
    finally:
        close(descriptor)


def remove_abandoned(paths: Iterable[Path]) -> None:
    """Delete the files and folders that no living process has :func:`locked`."""
    for path in paths:
        with suppress(OSError):
            descriptor = open_to_lock(path)
            try:
                if not lock(descriptor):  # nothing is ever known to be abandoned
                    continue
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink()
            finally:
                close(descriptor)


def _new_part(folder: Path) -> Path:
    part = folder / f".elir-{secrets.token_hex(8)}.part"
    part.touch(exist_ok=False)  # with the permissions of any new file
    return part


@functools.lru_cache(maxsize=1024)
def remove_parts(folder: Path) -> None:
    """Delete the temporary files that killed processes left in ``folder``.

    Once per folder and process, since a folder may hold hundreds of thousands of files.
    """
    with suppress(OSError):
        remove_abandoned([entry for entry in folder.iterdir() if _PART.fullmatch(entry.name)])
