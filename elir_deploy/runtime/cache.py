"""What is kept in the user's cache folder: slow to make, harmless to lose, never trusted blindly.

A sealed file ends with the SHA-256 of the rest, so that one that was damaged, or cut off by a
crash, is found to be none. Seals detect damage, not malice: what is kept here is executable code,
so the folder deserves the protection of a program's.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from elir_deploy.atomic import replacing
from elir_deploy.errors import OutputError

__all__ = ["cache_folder", "read_sealed", "write_sealed"]

_SEAL_BYTES = hashlib.sha256().digest_size


def cache_folder(*parts: str) -> Path:
    """The folder ``elir-deploy/PARTS`` of ``$XDG_CACHE_HOME`` or ``~/.cache``, made if needed.

    Raises:
        OutputError: it cannot be made.
    """
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification wants relative paths ignored.
    folder = Path(base if os.path.isabs(base) else "~/.cache", "elir-deploy", *parts)
    try:
        folder = folder.expanduser()
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: the user has no home
        reason = getattr(error, "strerror", None) or error
        raise OutputError(f"{folder} cannot be made: set XDG_CACHE_HOME ({reason})") from None
    return folder


def read_sealed(path: Path) -> NDArray[np.uint8] | None:
    """What :func:`write_sealed` wrote; None if it is not there, unreadable or damaged.

    The array is the file mapped into memory, where writing to it changes nothing but the array.
    """
    try:
        mapped = np.memmap(path, np.uint8, "c")
    except (OSError, ValueError):  # ValueError: it is empty
        return None
    content, seal = mapped[:-_SEAL_BYTES], mapped[-_SEAL_BYTES:]
    return content if hashlib.sha256(content.data).digest() == seal.tobytes() else None


def write_sealed(path: Path, content: bytes) -> None:
    """Keep ``content``; another process sees all of it or nothing.

    Raises:
        OutputError: the place cannot be written, or is full.
    """
    # Not forced to the disk, which takes seconds on a memory card: the seal tells what got there.
    with replacing(path, durable=False) as file:
        file.write(content)
        file.write(hashlib.sha256(content).digest())
