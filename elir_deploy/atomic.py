"""Outputs that a user names: files that appear complete or not at all, links, devices, pipes.

What is being made stands beside its place under a name of its own, locked. The lock ends with the
process, so that the next one in the folder tells what a killed one left from what is being made.
"""

from __future__ import annotations

import errno
import fcntl
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
from pathlib import Path
from typing import BinaryIO

from elir_deploy.errors import OutputError

__all__ = [
    "STANDARD_OUTPUT",
    "check_writable",
    "held",
    "is_standard_output",
    "remove_abandoned",
    "replacing",
    "write_text",
]

#: The name of standard output.
STANDARD_OUTPUT = "-"

_FULL = (errno.ENOSPC, errno.EDQUOT)
_PART = re.compile(r"\.elir-[0-9a-f]{16}\.part")


@contextmanager
def replacing(path: str | Path, *, durable: bool = True) -> Iterator[BinaryIO]:
    """A file to write in the ``with`` block; all of it is at ``path`` when the block ends.

    A regular file is replaced whole and keeps its permissions; a symbolic link is followed. What
    is no regular file (a device, a pipe, or ``-``, standard output) is written to at the end. If
    the block raises, ``path`` is as it was.

    Args:
        path: of the file.
        durable: what is written is on disk before the name changes, so that not even a power cut
            leaves a file in parts.

    Raises:
        OutputError: the place cannot be written, or is full.
        BrokenPipeError: nobody reads standard output any more.
    """
    try:
        target, mode = _regular_file(path)
        if target is None:
            with _opened(path) as stream:
                content = io.BytesIO()
                yield content
                stream.write(content.getbuffer())
            return
        _clean_up(target.parent)
        with held(functools.partial(_new_part, target.parent)) as part:
            try:
                with part.open("wb") as file:
                    yield file
                    if mode is not None:
                        os.fchmod(file.fileno(), mode)
                    if durable:
                        file.flush()
                        os.fsync(file.fileno())
                part.replace(target)
            except BaseException:
                with suppress(OSError):
                    part.unlink()
                raise
    except OSError as error:
        # Without a number it is not of the file system: Pillow says so what a format cannot hold.
        if error.errno is None or (error.errno == errno.EPIPE and is_standard_output(path)):
            raise
        raise _refused(path, error) from error


def write_text(path: str | Path, content: str) -> None:
    """Write ``content`` as UTF-8, whole or not at all.

    Raises:
        OutputError: as :func:`replacing`.
    """
    with replacing(path) as file:
        file.write(content.encode())


def check_writable(path: str | Path) -> None:
    """Say now, not after the work, that ``path`` cannot be written.

    Raises:
        OutputError: it is a folder, a loop of links or a device that may not be written, or its
            folder is not there or not writable.
    """
    if os.path.isdir(path):
        raise OutputError(f"{path} is a folder, wanted the name of a file")
    try:
        target, _ = _regular_file(path)
    except OSError as error:
        raise _refused(path, error) from None
    if target is None:
        if str(path) != STANDARD_OUTPUT and not os.access(path, os.W_OK):
            raise OutputError(f"{path} is not writable")
        return
    if not target.parent.is_dir():
        raise OutputError(f"{path} cannot be written: there is no folder {_shown(path, target)}")
    if not os.access(target.parent, os.W_OK):
        raise OutputError(f"{path} cannot be written: {_shown(path, target)} is not writable")


def is_standard_output(path: str | Path) -> bool:
    """Whether ``path`` is ``-`` or another name of what standard output goes to."""
    return str(path) == STANDARD_OUTPUT or _own_stream(path) == 1


def _refused(path: str | Path, error: OSError) -> OutputError:
    hint = ": free some space and run again" if error.errno in _FULL else ""
    return OutputError(f"{path} cannot be written: {error.strerror}{hint}")


def _shown(path: str | Path, target: Path) -> Path:
    """The folder of ``target`` as the user wrote it, where no link led elsewhere."""
    return target.parent if os.path.islink(path) else Path(path).parent


def _regular_file(path: str | Path) -> tuple[Path | None, int | None]:
    """The regular file that ``path`` leads to, there or not, and its permissions; None: no such."""
    if str(path) == STANDARD_OUTPUT:
        return None, None
    try:
        status = os.stat(path)
    except FileNotFoundError:  # also a link to what is not there yet
        return Path(os.path.realpath(path)), None
    if not stat.S_ISREG(status.st_mode) or _own_stream(path) is not None:
        return None, None
    return Path(os.path.realpath(path)), stat.S_IMODE(status.st_mode) & 0o777


def _own_stream(path: str | Path) -> int | None:
    """1 or 2 where ``path`` is what this process has there: replacing it would part the two."""
    with suppress(OSError):
        status = os.stat(path)
        for descriptor in (1, 2):
            with suppress(OSError):
                if os.path.samestat(os.fstat(descriptor), status):
                    return descriptor
    return None


def _opened(path: str | Path) -> BinaryIO:
    own = 1 if str(path) == STANDARD_OUTPUT else _own_stream(path)
    if own is None:
        return open(path, "wb")
    for stream in (sys.stdout, sys.stderr):  # what was printed before comes before
        if stream is not None:
            stream.flush()
    return open(own, "wb", closefd=False)


# What is being made ---------------------------------------------------------------------------


@contextmanager
def held(make: Callable[[], Path]) -> Iterator[Path]:
    """What ``make`` makes, a file or a folder, locked for the ``with`` block.

    :func:`remove_abandoned` of another process or thread leaves it alone.
    """
    while True:
        path = make()
        with suppress(FileNotFoundError):
            descriptor = _locked(path, fcntl.LOCK_EX)
            # Between the two another process may have taken it for abandoned.
            if path.exists():
                break
            os.close(descriptor)
    try:
        yield path
    finally:
        os.close(descriptor)


def remove_abandoned(paths: Iterable[Path]) -> None:
    """Delete those files and folders that no living process holds by :func:`held`."""
    for path in paths:
        with suppress(OSError):
            descriptor = _locked(path, fcntl.LOCK_EX | fcntl.LOCK_NB)
            try:
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink()
            finally:
                os.close(descriptor)


def _locked(path: Path, operation: int) -> int:
    # Network file systems lock exclusively only what is open for writing.
    access = os.O_RDONLY if path.is_dir() else os.O_RDWR
    descriptor = os.open(path, access | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        fcntl.flock(descriptor, operation)
    except OSError:
        # A file system without locks: what is made there is never known to be abandoned.
        if operation & fcntl.LOCK_NB:
            os.close(descriptor)
            raise
    return descriptor


def _new_part(folder: Path) -> Path:
    part = folder / f".elir-{secrets.token_hex(8)}.part"
    part.touch(exist_ok=False)  # it has the permissions of any new file
    return part


@functools.lru_cache(maxsize=1024)
def _clean_up(folder: Path) -> None:
    """Once for each folder, as a folder may hold hundreds of thousands of files."""
    with suppress(OSError):
        remove_abandoned([entry for entry in folder.iterdir() if _PART.fullmatch(entry.name)])
