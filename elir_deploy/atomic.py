"""Files that appear complete or not at all."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from elir_deploy.errors import OutputError

__all__ = ["replacing", "write_text"]

_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def replacing(path: str | Path, *, durable: bool = True) -> Iterator[BinaryIO]:
    """A new file beside ``path``, in the ``with`` block; it takes that name when the block ends.

    If the block raises, ``path`` is as it was.

    Args:
        path: of the file.
        durable: what is written is on disk before the name changes, so that not even a power cut
            leaves a file in parts.

    Raises:
        OutputError: the place cannot be written, or is full.
    """
    path = Path(path)
    part = path.with_name(f".elir-{secrets.token_hex(8)}.part")
    created = False
    try:
        # Opened here, so that it has the permissions of any new file.
        with part.open("xb") as file:
            created = True
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        part.replace(path)
        created = False
    except OSError as error:
        if error.errno is None:  # not of the file system: Pillow says so what a format cannot hold
            raise
        hint = ": free some space and run again" if error.errno in _FULL else ""
        raise OutputError(f"{path} cannot be written: {error.strerror}{hint}") from error
    finally:
        if created:
            with suppress(OSError):
                part.unlink()


def write_text(path: str | Path, content: str) -> None:
    """Write ``content`` as UTF-8, whole or not at all.

    Raises:
        OutputError: as :func:`replacing`.
    """
    with replacing(path) as file:
        file.write(content.encode())
