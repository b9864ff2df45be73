"""The user's cache folder: files that are slow to produce, safe to lose, and checked when read.

A sealed file ends with the SHA-256 of its content, which reveals damage and truncation. Seals
detect damage, not tampering: the cache contains executable code and needs the same protection as
installed programs.

``ELIR_CACHE_LIMIT`` limits the total size of compiled models. Adding one removes the least recently
used ones; a file's modification time is its time of last use. A process that uses a file has a
shared ``flock`` on it or on its folder; one that writes has an exclusive lock on the temporary
file (:mod:`elir_deploy.output_files`); files locked by others are not removed. The C++ runtime
shares the folder and these rules (runtime/src/cache.cpp).
"""

from __future__ import annotations

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

from elir_deploy.errors import OutputError
from elir_deploy.operating_system import close, lock, open_folder, open_to_lock, unlock
from elir_deploy.output_files import replacing
from elir_deploy.tasks import TASKS

__all__ = [
    "DOWNLOADS",
    "CachedFile",
    "FolderInUse",
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

#: File names of what can be downloaded, by name.
DOWNLOADS = {
    "yunet": "yunet_n_dynamic.onnx",
    **{
        spec.released_name: f"{spec.released_name}.pth"
        for spec in TASKS.values()
        if spec.released_name
    },
}
#: Enough for the five released models in float32 (0.55 GB), or the largest in all precisions (0.5).
DEFAULT_LIMIT = 10**9
_SEAL_BYTES = hashlib.sha256().digest_size
#: Age in seconds after which an empty folder is no longer about to be written to.
_STALE_S = 60.0
#: Seconds to wait for another process that is removing files.
_PATIENCE_S = 1.0

_SHA256 = "[0-9a-f]{64}"
_UNFINISHED = r"\.elir-[0-9a-f]{16}\.part"
_FOLDERS = ("onnxruntime-tensorrt", "openvino", "tensorrt", "tensorrt-rtx")
#: Only such paths are removed: other programs may use the folder too.
_REMOVABLE = re.compile(
    rf"openvino/[^/]+/{_SHA256}/([^/]+\.blob|{_UNFINISHED})"
    rf"|tensorrt-rtx/[^/]+/{_SHA256}/([^/]+\.cache|{_UNFINISHED})"
    rf"|tensorrt/[^/]+/(timing\.cache|{_UNFINISHED})"
    rf"|onnxruntime-tensorrt/{_SHA256}/[^/]+"
)


def cache_folder() -> Path:
    """``$ELIR_CACHE``, or ``elir-deploy`` in ``$XDG_CACHE_HOME`` or ``~/.cache``; not created.

    Raises:
        OutputError: the user has no home folder.
    """
    named = os.environ.get("ELIR_CACHE", "")
    general = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification says to ignore relative paths.
    default = Path(general if os.path.isabs(general) else "~/.cache", "elir-deploy")
    folder = Path(named) if named else default
    try:
        return folder.expanduser() if folder.parts[:1] == ("~",) else folder
    except RuntimeError as error:
        raise OutputError(f"no home folder for the cache: set ELIR_CACHE ({error})") from None


def cache_limit() -> int:
    """Maximum total size of compiled models in bytes, ``$ELIR_CACHE_LIMIT``; 0: keep none.

    Raises:
        OutputError: the variable is not a size.
    """
    value = os.environ.get("ELIR_CACHE_LIMIT", "")
    if not value:
        return DEFAULT_LIMIT
    if re.fullmatch("[0-9]{1,15}|[0-9]{1,6}[MG]", value) is None:
        raise OutputError(f"ELIR_CACHE_LIMIT is {value}, expected a size such as 500M or 2G, or 0")
    unit = {"M": 10**6, "G": 10**9}.get(value[-1], 1)
    return int(value.rstrip("MG")) * unit


def compiled_place(*parts: str) -> Path | None:
    """Path of a compiled model; None if none are kept.

    Raises:
        OutputError: as for :func:`cache_folder` and :func:`cache_limit`.
    """
    return cache_folder().joinpath(*parts) if cache_limit() else None


# Files ------------------------------------------------------------------------------------------


def read_sealed(path: Path) -> NDArray[np.uint8] | None:
    """Read a file of :func:`write_sealed`; None if it is missing, unreadable or damaged.

    The array maps the file copy-on-write. The file counts as used now, and as in use for as long as
    the array exists.
    """
    try:
        with path.open("rb") as file:
            _try_lock(file.fileno(), shared=True)  # the mapping duplicates it, with the lock
            mapped = np.memmap(file, np.uint8, "c")
            content, seal = mapped[:-_SEAL_BYTES], mapped[-_SEAL_BYTES:]
            if hashlib.sha256(content.data).digest() != seal.tobytes():
                return None
            with suppress(OSError):  # another user's
                os.utime(path)
    except (OSError, ValueError):  # ValueError: it is empty
        return None
    return content


def write_sealed(path: Path, content: bytes) -> None:
    """Write a compiled model atomically.

    Raises:
        OutputError: the file or its folder cannot be created, the disk is full, or the limit is
            too small.
    """
    limit, size = cache_limit(), len(content) + _SEAL_BYTES
    if size > limit:
        raise OutputError(
            f"{path} would have {size / 1e6:.1f} MB, more than ELIR_CACHE_LIMIT allows "
            f"({limit / 1e6:.1f} MB)"
        )
    _make_folder(path.parent)
    # Not flushed to disk, which takes seconds on a memory card: the seal shows what arrived.
    with replacing(path, durable=False) as file:
        file.write(content)
        file.write(hashlib.sha256(content).digest())
    trim_compiled(path)


def _make_folder(folder: Path) -> None:
    """Create a folder of the cache if necessary.

    Raises:
        OutputError: it cannot be created.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"{folder} cannot be created: set ELIR_CACHE ({error.strerror})"
        ) from None


class FolderInUse:
    """A folder in which another library keeps compiled models, created if necessary.

    Its files count as used now, and as in use for as long as this object exists.

    Attributes:
        folder: path of the folder.

    Raises:
        OutputError: it cannot be created or read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        _make_folder(folder)
        try:
            self._descriptor = open_folder(folder)
            _try_lock(self._descriptor, shared=True)
            files = list(folder.iterdir())
        except OSError as error:  # another user's
            raise OutputError(
                f"{folder} cannot be opened: set ELIR_CACHE ({error.strerror})"
            ) from None
        for path in files:
            with suppress(OSError):  # another user's
                os.utime(path)

    def __del__(self) -> None:
        with suppress(AttributeError, OSError):
            close(self._descriptor)


# Listing and removing ---------------------------------------------------------------------------


@dataclass(frozen=True)
class CachedFile:
    """A file in the cache.

    Attributes:
        path: path of the file.
        bytes: its size.
        used_ns: time of last use, in nanoseconds since 1970.
    """

    path: Path
    bytes: int
    used_ns: int

    @property
    def unfinished(self) -> bool:
        """Whether it is a temporary file, of a running or a killed process."""
        return re.fullmatch(_UNFINISHED, self.path.name) is not None


def compiled_models(folder: Path) -> list[CachedFile]:
    """All compiled models in a cache folder, the least recently used first."""
    files = []
    for path in (path for name in _FOLDERS for path in _files(folder / name)):
        if _REMOVABLE.fullmatch(path.relative_to(folder).as_posix()):
            with suppress(OSError):  # removed meanwhile
                status = path.lstat()
                if stat.S_ISREG(status.st_mode):
                    files.append(CachedFile(path, status.st_size, status.st_mtime_ns))
    return sorted(files, key=lambda file: (file.used_ns, str(file.path)))


def trim_compiled(newest: Path | None = None) -> None:
    """Remove compiled models beyond the limit, and temporary files of killed processes.

    Args:
        newest: a file to keep, since it was just written.

    Raises:
        OutputError: as for :func:`cache_folder` and :func:`cache_limit`.
    """
    folder, limit = cache_folder(), cache_limit()
    with _exclusive(folder):
        files = compiled_models(folder)
        total = sum(file.bytes for file in files if not file.unfinished)
        for file in files:
            if file.unfinished:
                remove_unused(file)
            elif total > limit and file.path != newest and remove_unused(file):
                total -= file.bytes
        _remove_empty(folder, _STALE_S)


def downloads(folder: Path) -> dict[str, list[CachedFile]]:
    """The files of each download in a cache folder, by name, such as ``elir_bfr``."""
    files: dict[str, list[CachedFile]] = {}
    for name, file_name in sorted(DOWNLOADS.items()):
        for path in sorted([*folder.glob(file_name), *folder.glob(f"{file_name}.*")]):
            with suppress(OSError):  # removed meanwhile
                status = path.lstat()
                file = CachedFile(path, status.st_size, status.st_mtime_ns)
                files.setdefault(name, []).append(file)
    return files


def remove_compiled(folder: Path) -> tuple[list[CachedFile], list[CachedFile]]:
    """Remove all compiled models; returns those removed, and those in use, which are kept."""
    removed: list[CachedFile] = []
    in_use: list[CachedFile] = []
    with _exclusive(folder):
        for file in compiled_models(folder):
            (removed if remove_unused(file) else in_use).append(file)
        _remove_empty(folder, 0)
    return removed, in_use


def remove_unused(file: CachedFile) -> bool:
    """Remove a file unless it is in use or being written; returns whether it is gone."""
    try:
        with ExitStack() as stack:
            for path in (file.path.parent, file.path):
                descriptor = open_to_lock(path)
                stack.callback(close, descriptor)
                if descriptor is not None and not _try_lock(descriptor):
                    return False
            if file.path.lstat().st_mtime_ns != file.used_ns:
                return False  # used since it was listed
            file.path.unlink()
    except FileNotFoundError:
        pass
    except OSError:  # another user's, or on Windows, in use
        return False
    return True


def _files(folder: Path) -> Iterator[Path]:
    for parent, _, names in os.walk(folder):
        yield from (Path(parent, name) for name in names)


def _remove_empty(folder: Path, age_s: float) -> None:
    """Remove empty folders that are not new: a process may be about to write into those."""
    for name in _FOLDERS:
        for parent, _, _ in os.walk(folder / name, topdown=False):
            with suppress(OSError):
                if time.time() - os.stat(parent).st_mtime >= age_s:
                    os.rmdir(parent)


def _try_lock(descriptor: int | None, *, shared: bool = False) -> bool:
    """Try to lock a file until it is closed; False also if the file system has no locks."""
    try:
        return lock(descriptor, shared=shared)
    except BlockingIOError:
        return False


@contextmanager
def _exclusive(folder: Path) -> Iterator[None]:
    """Exclude other processes, since two that remove files at once would remove too many."""
    try:
        descriptor = open_folder(folder)
    except OSError:  # there is nothing to remove
        yield
        return
    try:
        until = time.monotonic() + _PATIENCE_S
        while descriptor is not None and not _try_lock(descriptor) and time.monotonic() < until:
            time.sleep(0.01)
        yield
    finally:
        unlock(descriptor)
        close(descriptor)
