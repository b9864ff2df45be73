"""Writing a bundle: staged beside its destination and renamed, so that it is whole or absent."""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import io
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from elir_deploy.errors import OutputError
from elir_deploy.output_files import locked, remove_abandoned
from elir_deploy.runtime.manifest import File, Manifest
from elir_deploy.runtime.manifest_file import MANIFEST_NAME, encode_manifest

__all__ = ["BundleWriter", "check_destination", "staged_bundle"]

#: Behind the staging folder's name while an older bundle is being replaced.
_REPLACED = "-replaced"


class BundleWriter:
    """Collects a bundle's files in a staging folder.

    Args:
        folder: the staging folder.
        destination: the bundle's folder, for messages.
    """

    def __init__(self, folder: Path, destination: Path) -> None:
        self.folder = folder
        self._destination = destination

    def add(self, file: str, content: bytes) -> File:
        """Write a file; returns its entry."""
        self._write(file, content)
        return File(file, hashlib.sha256(content).hexdigest(), len(content))

    def add_png(self, file: str, pixels: NDArray[np.uint8]) -> File:
        """Write a picture, (H, W, 3) uint8 RGB."""
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        return self.add(file, buffer.getvalue())

    def remove(self, file: str) -> None:
        """Remove a file again."""
        (self.folder / file).unlink()

    def write_manifest(self, manifest: Manifest) -> None:
        """Check the manifest and write it."""
        self._write(MANIFEST_NAME, encode_manifest(manifest))

    def _write(self, file: str, content: bytes) -> None:
        with _output_errors(self._destination):
            path = self.folder / file
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)


@contextlib.contextmanager
def _output_errors(destination: Path) -> Iterator[None]:
    """Turn errors of the operating system into errors about ``destination``."""
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"cannot write {destination}: {error.strerror}; choose another folder with -o"
        ) from error


def check_destination(destination: Path, *, overwrite: bool) -> None:
    """Check that a bundle may be written there; called before the work, and again after it.

    Raises:
        OutputError: there is a file, a folder with other files, or a bundle without ``overwrite``.
    """
    if not os.path.lexists(os.path.realpath(destination)):
        return
    if not destination.is_dir():
        raise OutputError(f"{destination} exists and is not a folder; choose another with -o")
    if os.path.ismount(destination):
        raise OutputError(f"{destination} is a mount point; choose a folder inside it with -o")
    if not any(destination.iterdir()):
        return
    if not (destination / MANIFEST_NAME).is_file():
        raise OutputError(f"{destination} holds other files; choose an empty or new folder with -o")
    if not overwrite:
        raise OutputError(f"{destination} already holds a bundle; --overwrite replaces it")


@contextlib.contextmanager
def staged_bundle(destination: Path, *, overwrite: bool) -> Iterator[BundleWriter]:
    """A writer whose folder becomes ``destination`` when the block succeeds, else is removed.

    The target of a symbolic link is made or replaced.

    Raises:
        OutputError: as :func:`check_destination`, or the destination cannot be written.
    """
    shown = destination
    destination = Path(os.path.realpath(destination))
    with _output_errors(shown):
        check_destination(destination, overwrite=overwrite)
        destination.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(destination)
    with contextlib.ExitStack() as stack:
        with _output_errors(shown):
            staging = stack.enter_context(locked(lambda: _new_staging(destination)))
        stack.callback(shutil.rmtree, staging, ignore_errors=True)
        yield BundleWriter(staging, shown)
        with _output_errors(shown):
            check_destination(destination, overwrite=overwrite)
            _move_into_place(staging, destination)


def _new_staging(destination: Path) -> Path:
    staging = destination.with_name(f".{destination.name}.partial-{secrets.token_hex(6)}")
    staging.mkdir()
    return staging


def _remove_abandoned(destination: Path) -> None:
    """Remove staging folders of killed exports; put back a bundle that one was replacing."""
    left = list(destination.parent.glob(f".{glob.escape(destination.name)}.partial-*"))
    for folder in left:
        if folder.name.endswith(_REPLACED) and not os.path.lexists(destination):
            folder.rename(destination)
    remove_abandoned(left)


def _move_into_place(staging: Path, destination: Path) -> None:
    try:
        staging.rename(destination)  # free, or an empty folder
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
    else:
        return
    replaced = staging.with_name(f"{staging.name}{_REPLACED}")
    destination.rename(replaced)
    try:
        staging.rename(destination)
    except BaseException:
        replaced.rename(destination)
        raise
    shutil.rmtree(replaced, ignore_errors=True)
