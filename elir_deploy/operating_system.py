"""What POSIX has and Windows lacks: locks on files and folders, forks, links that are not followed.

On POSIX, a ``flock`` says that a file or folder is in use; it ends with its process, and the C++
runtime understands it. On Windows nothing is locked: the system itself refuses to delete, rename or
replace a file that is open or mapped. On Windows, temporary files of killed processes therefore
remain, and two processes that add engines to one bundle, or download the same weights, must take
turns.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # Windows
    HAS_LOCKS = False
else:
    HAS_LOCKS = True

__all__ = [
    "CUDA_DRIVER",
    "HAS_LOCKS",
    "after_fork_in_child",
    "allowed_cores",
    "clock_ticks",
    "close",
    "file_identity",
    "lock",
    "open_folder",
    "open_to_lock",
    "remove_open",
    "rename_open",
    "unlock",
]

#: The library of NVIDIA's driver.
CUDA_DRIVER = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"


# Locks ------------------------------------------------------------------------------------------


def open_folder(path: Path) -> int | None:
    """Open a folder to lock it; None on Windows."""
    if sys.platform != "win32" and HAS_LOCKS:
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    return None


def open_to_lock(path: Path) -> int | None:
    """Open a file or folder, but not what a link leads to, to lock it; None on Windows."""
    if sys.platform != "win32" and HAS_LOCKS:
        # NFS takes exclusive locks only on files open for writing.
        access = os.O_RDONLY if path.is_dir() else os.O_RDWR
        return os.open(path, access | os.O_NOFOLLOW | os.O_NONBLOCK)
    return None


def lock(descriptor: int | None, *, shared: bool = False, wait: bool = False) -> bool:
    """Lock a file or folder until it is closed; False if the (file) system has no locks.

    Raises:
        BlockingIOError: another process or descriptor has locked it, and ``wait`` is False.
    """
    if sys.platform != "win32" and HAS_LOCKS and descriptor is not None:
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        try:
            fcntl.flock(descriptor, kind if wait else kind | fcntl.LOCK_NB)
        except BlockingIOError:
            raise
        except OSError:
            return False
        return True
    return False


def unlock(descriptor: int | None) -> None:
    """Unlock before closing, which alone would leave the lock with a child forked meanwhile."""
    if sys.platform != "win32" and HAS_LOCKS and descriptor is not None:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_UN)


def close(descriptor: int | None) -> None:
    """Close what :func:`open_folder` or :func:`open_to_lock` opened."""
    if descriptor is not None:
        os.close(descriptor)


# Files ------------------------------------------------------------------------------------------


def rename_open(file: BinaryIO, target: Path) -> None:
    """Rename a file that this process has open and locked; on Windows it is closed first."""
    if not HAS_LOCKS:
        file.close()
    os.replace(file.name, target)


def remove_open(file: BinaryIO) -> None:
    """Delete a file that this process has open and locked; on Windows it is closed first."""
    if not HAS_LOCKS:
        file.close()
    Path(file.name).unlink(missing_ok=True)


def file_identity(path: Path) -> object:
    """Equal for two names of the same file; the path itself, in full, if there is no file."""
    try:
        status = path.stat()
    except OSError:
        return path.absolute()
    # Some of Windows' file systems number no files.
    return (status.st_dev, status.st_ino) if status.st_ino else Path(os.path.realpath(path))


# Processes and processors -----------------------------------------------------------------------


def after_fork_in_child(function: Callable[[], None]) -> None:
    """Call ``function`` in every forked child; does nothing where processes do not fork."""
    if sys.platform != "win32" and hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=function)


def allowed_cores() -> tuple[int, ...] | None:
    """Logical cores that the calling thread may use, sorted; None if the system does not tell."""
    if sys.platform == "linux":
        with suppress(AttributeError, OSError):
            return tuple(sorted(os.sched_getaffinity(0)))
    return None


def clock_ticks() -> int:
    """Units per second of the times in /proc, which Windows does not have."""
    if sys.platform != "win32":
        with suppress(AttributeError):
            return os.sysconf("SC_CLK_TCK")
    return 100
