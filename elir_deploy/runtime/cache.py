"""What is kept in the user's cache folder: slow to make, harmless to lose, never trusted blindly.

A sealed file ends with the SHA-256 of the rest, so that one that was damaged, or cut off by a
crash, is found to be none. Seals detect damage, not malice: what is kept here is executable code,
so the folder deserves the protection of a program's.

Compiled models together may have ``ELIR_CACHE_LIMIT`` bytes. Whoever adds one removes those that
were not used for longest. The time of last use is the file's modification time. Who uses a file
holds a shared ``flock`` on it or on its folder, who writes one an exclusive lock on the unfinished
file (:mod:`elir_deploy.atomic`); what somebody else has locked is not removed. The C++ runtime
shares the folder and these rules (runtime/src/cache.cpp).
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import stat
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from elir_deploy.atomic import replacing
from elir_deploy.errors import OutputError
from elir_deploy.tasks import TASKS

__all__ = [
    "FolderInUse",
    "Kept",
    "cache_folder",
    "cache_limit",
    "compiled_models",
    "compiled_place",
    "downloads",
    "read_sealed",
    "remove_compiled",
    "remove_unused",
    "trim_compiled",
    "write_sealed",
]

#: Room for the five released models in float32 (0.55 GB), or the largest in every precision (0.5).
DEFAULT_LIMIT = 10**9
_SEAL_BYTES = hashlib.sha256().digest_size
#: Seconds after which nobody is about to write into an empty folder any more.
_STALE_S = 60.0
#: Seconds to wait for another process that removes files.
_PATIENCE_S = 1.0

_SHA256 = "[0-9a-f]{64}"
_UNFINISHED = r"\.elir-[0-9a-f]{16}\.part"
_FOLDERS = ("onnxruntime-tensorrt", "openvino", "tensorrt", "tensorrt-rtx")
#: What is removed has such a path in the cache folder, which may be shared with other programs.
_OURS = re.compile(
    rf"openvino/[^/]+/{_SHA256}/([^/]+\.blob|{_UNFINISHED})"
    rf"|tensorrt-rtx/[^/]+/{_SHA256}/([^/]+\.cache|{_UNFINISHED})"
    rf"|tensorrt/[^/]+/(timing\.cache|{_UNFINISHED})"
    rf"|onnxruntime-tensorrt/{_SHA256}/[^/]+"
)


def cache_folder() -> Path:
    """``$ELIR_CACHE``, or ``elir-deploy`` in ``$XDG_CACHE_HOME`` or ``~/.cache``; not made here.

    Raises:
        OutputError: the user has no home.
    """
    named = os.environ.get("ELIR_CACHE", "")
    general = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification wants relative paths ignored.
    usual = Path(general if os.path.isabs(general) else "~/.cache", "elir-deploy")
    folder = Path(named) if named else usual
    try:
        return folder.expanduser() if folder.parts[:1] == ("~",) else folder
    except RuntimeError as error:
        raise OutputError(
            f"there is no home folder for a cache: set ELIR_CACHE ({error})"
        ) from None


def cache_limit() -> int:
    """The bytes that compiled models may have together: ``$ELIR_CACHE_LIMIT``; 0 keeps none.

    Raises:
        OutputError: it is no size.
    """
    given = os.environ.get("ELIR_CACHE_LIMIT", "")
    if not given:
        return DEFAULT_LIMIT
    if re.fullmatch("[0-9]{1,15}|[0-9]{1,6}[MG]", given) is None:
        raise OutputError(f"ELIR_CACHE_LIMIT is {given}, wanted a size such as 500M or 2G, or 0")
    unit = {"M": 10**6, "G": 10**9}.get(given[-1], 1)
    return int(given.rstrip("MG")) * unit


def compiled_place(*parts: str) -> Path | None:
    """Where a compiled model of this name belongs; None where none is to be kept.

    Raises:
        OutputError: as for :func:`cache_folder` and :func:`cache_limit`.
    """
    return cache_folder().joinpath(*parts) if cache_limit() else None


# Files ------------------------------------------------------------------------------------------


def read_sealed(path: Path) -> NDArray[np.uint8] | None:
    """What :func:`write_sealed` wrote; None if it is not there, unreadable or damaged.

    The array is the file mapped into memory, where writing to it changes nothing but the array. The
    file counts as used now, and as in use as long as the array lives.
    """
    try:
        with path.open("rb") as file:
            _lock(file.fileno(), fcntl.LOCK_SH)  # the mapping keeps a duplicate, and the lock
            mapped = np.memmap(file, np.uint8, "c")
            content, seal = mapped[:-_SEAL_BYTES], mapped[-_SEAL_BYTES:]
            if hashlib.sha256(content.data).digest() != seal.tobytes():
                return None
            with suppress(OSError):  # it may be another user's
                os.utime(file.fileno())
    except (OSError, ValueError):  # ValueError: it is empty
        return None
    return content


def write_sealed(path: Path, content: bytes) -> None:
    """Keep ``content`` as a compiled model; another process sees all of it or nothing.

    Raises:
        OutputError: the place cannot be made or written, is full, or the limit is too small.
    """
    limit, size = cache_limit(), len(content) + _SEAL_BYTES
    if size > limit:
        raise OutputError(
            f"{path} has {size / 1e6:.1f} MB, more than the {limit / 1e6:.1f} MB that "
            "ELIR_CACHE_LIMIT allows"
        )
    _make_folder(path.parent)
    # Not forced to the disk, which takes seconds on a memory card: the seal tells what got there.
    with replacing(path, durable=False) as file:
        file.write(content)
        file.write(hashlib.sha256(content).digest())
    trim_compiled(path)


def _make_folder(folder: Path) -> None:
    """A folder of the cache, if it is not there yet.

    Raises:
        OutputError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder} cannot be made: set ELIR_CACHE ({error.strerror})") from None


class FolderInUse:
    """A folder that another library keeps compiled models in; made if needed.

    They count as used now, and as in use as long as this object lives.

    Attributes:
        folder: its path.

    Raises:
        OutputError: it cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        _make_folder(folder)
        self._descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        _lock(self._descriptor, fcntl.LOCK_SH)
        for path in folder.iterdir():
            with suppress(OSError):  # another user's
                os.utime(path)

    def __del__(self) -> None:
        with suppress(AttributeError, OSError):
            os.close(self._descriptor)


# What is kept -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kept:
    """A file in the cache.

    Attributes:
        path: where it is.
        bytes: its size.
        used_ns: when it was last used, in nanoseconds since 1970.
    """

    path: Path
    bytes: int
    used_ns: int

    @property
    def unfinished(self) -> bool:
        """Whether it is being written, or was when its writer was killed."""
        return re.fullmatch(_UNFINISHED, self.path.name) is not None


def compiled_models(folder: Path) -> list[Kept]:
    """Every compiled model in a cache folder, the one not used for longest first."""
    found = []
    for path in (path for name in _FOLDERS for path in _files(folder / name)):
        if _OURS.fullmatch(path.relative_to(folder).as_posix()):
            with suppress(OSError):  # gone meanwhile
                status = path.lstat()
                if stat.S_ISREG(status.st_mode):
                    found.append(Kept(path, status.st_size, status.st_mtime_ns))
    return sorted(found, key=lambda kept: (kept.used_ns, str(kept.path)))


def trim_compiled(newest: Path | None = None) -> None:
    """Remove compiled models until the rest is within the limit, and what killed writers left.

    Args:
        newest: that stays, since it was just written.

    Raises:
        OutputError: as for :func:`cache_folder` and :func:`cache_limit`.
    """
    folder, limit = cache_folder(), cache_limit()
    with _alone(folder):
        found = compiled_models(folder)
        left = sum(kept.bytes for kept in found if not kept.unfinished)
        for kept in found:
            if kept.unfinished:
                remove_unused(kept)
            elif left > limit and kept.path != newest and remove_unused(kept):
                left -= kept.bytes
        _remove_empty(folder, _STALE_S)


def downloads(folder: Path) -> dict[str, list[Kept]]:
    """The files of each download in a cache folder, by its name, such as ``elir_bfr``."""
    found: dict[str, list[Kept]] = {}
    for name in sorted(spec.released_name for spec in TASKS.values() if spec.released_name):
        for path in sorted([*folder.glob(f"{name}.pth"), *folder.glob(f"{name}.pth.*")]):
            with suppress(OSError):  # gone meanwhile
                status = path.lstat()
                found.setdefault(name, []).append(Kept(path, status.st_size, status.st_mtime_ns))
    return found


def remove_compiled(folder: Path) -> tuple[list[Kept], list[Kept]]:
    """Remove all compiled models of a cache folder: those removed, and those in use, which stay."""
    removed: list[Kept] = []
    in_use: list[Kept] = []
    with _alone(folder):
        for kept in compiled_models(folder):
            (removed if remove_unused(kept) else in_use).append(kept)
        _remove_empty(folder, 0)
    return removed, in_use


def remove_unused(kept: Kept) -> bool:
    """Remove a file unless somebody uses or writes it; whether it is gone."""
    try:
        with ExitStack() as stack:
            for path, how in (
                (kept.path.parent, os.O_RDONLY | os.O_DIRECTORY),
                (kept.path, os.O_RDWR),  # NFS has exclusive locks for writers only
            ):
                descriptor = os.open(path, how | os.O_NOFOLLOW)
                stack.callback(os.close, descriptor)
                if not _lock(descriptor, fcntl.LOCK_EX):
                    return False
            if os.fstat(descriptor).st_mtime_ns != kept.used_ns:
                return False  # used since it was listed
            kept.path.unlink()
    except FileNotFoundError:
        pass
    except OSError:  # another user's
        return False
    return True


def _files(folder: Path) -> Iterator[Path]:
    for parent, _, names in os.walk(folder):
        yield from (Path(parent, name) for name in names)


def _remove_empty(folder: Path, age_s: float) -> None:
    """Remove empty folders; not those that somebody may just have made to write into."""
    for name in _FOLDERS:
        for parent, _, _ in os.walk(folder / name, topdown=False):
            with suppress(OSError):
                if time.time() - os.stat(parent).st_mtime >= age_s:
                    os.rmdir(parent)


def _lock(descriptor: int, kind: int) -> bool:
    """Try to lock a file until it is closed. Where locks are not to be had, nothing is locked."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Two processes that remove at once would remove more than they must."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:  # there is nothing to remove
        yield
        return
    try:
        until = time.monotonic() + _PATIENCE_S
        while not _lock(descriptor, fcntl.LOCK_EX) and time.monotonic() < until:
            time.sleep(0.01)
        yield
    finally:
        with suppress(OSError):
            # Closing would leave the lock to a child that was forked meanwhile.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)
