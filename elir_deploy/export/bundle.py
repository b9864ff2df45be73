"""Writing a bundle: staged beside its destination and renamed, so that it is whole or absent."""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from elir_deploy import output_folders
from elir_deploy.runtime.manifest import File, Manifest
from elir_deploy.runtime.manifest_file import MANIFEST_NAME, encode_manifest

__all__ = ["BundleWriter", "check_destination", "staged_bundle"]

_BUNDLE = output_folders.FolderKind("a bundle", MANIFEST_NAME)


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
        with output_folders.output_errors(self._destination):
            path = self.folder / file
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)


def check_destination(destination: Path, *, overwrite: bool) -> None:
    """Check that a bundle may be written there.

    Raises:
        OutputError: there is a file, a folder with other files, or a bundle without ``overwrite``.
    """
    output_folders.check_destination(destination, _BUNDLE, overwrite=overwrite)


@contextlib.contextmanager
def staged_bundle(destination: Path, *, overwrite: bool) -> Iterator[BundleWriter]:
    """A writer whose folder becomes ``destination`` when the block succeeds, else is removed.

    The target of a symbolic link is made or replaced.

    Raises:
        OutputError: as :func:`check_destination`, or the destination cannot be written.
    """
    with output_folders.staged_folder(destination, _BUNDLE, overwrite=overwrite) as folder:
        yield BundleWriter(folder, destination)
