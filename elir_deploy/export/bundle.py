"""Writing a bundle: staged beside its place and renamed into it, so it is whole or not there."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import io
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from elir_deploy.errors import OutputError
from elir_deploy.runtime.bundle import MANIFEST_NAME, validate_manifest

__all__ = ["BundleWriter", "check_destination", "manifest_bytes", "staged_bundle"]

#: Behind the staging folder's name while an older bundle is being replaced.
_REPLACED = "-replaced"


class BundleWriter:
    """Collects a bundle's files in a staging folder.

    Args:
        folder: the staging folder.
        destination: what it becomes, for messages.
    """

    def __init__(self, folder: Path, destination: Path) -> None:
        self.folder = folder
        self._destination = destination

    def add_artifact(
        self,
        file: str,
        content: bytes,
        *,
        kind: str,
        precision: str,
        tool: str,
        tool_version: str,
        target: str | None = None,
    ) -> dict[str, Any]:
        """Write one artifact, for any device or for ``target``; returns its manifest entry."""
        self._write(file, content)
        return {
            "file": file,
            "kind": kind,
            "precision": precision,
            "target": target,
            "tool": tool,
            "tool_version": tool_version,
            "sha256": hashlib.sha256(content).hexdigest(),
            "bytes": len(content),
        }

    def add_file(self, file: str, content: bytes) -> dict[str, Any]:
        """Write a file that is no artifact; returns what the manifest says of it."""
        self._write(file, content)
        return {"file": file, "sha256": hashlib.sha256(content).hexdigest()}

    def add_reference(
        self, name: str, image: NDArray[np.uint8], restored: NDArray[np.uint8]
    ) -> dict[str, Any]:
        """Write a network input and the model's output, (S, S, 3) uint8; returns the entry."""
        entry: dict[str, Any] = {"name": name}
        for role, pixels in (("input", image), ("output", restored)):
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, "PNG")
            file = f"reference/{name}.{role}.png"
            self._write(file, buffer.getvalue())
            entry[role] = file
            entry[f"{role}_sha256"] = hashlib.sha256(buffer.getvalue()).hexdigest()
        return entry

    def write_manifest(self, manifest: dict[str, Any]) -> None:
        """Check the manifest against the schema and write it."""
        self._write(MANIFEST_NAME, manifest_bytes(manifest))

    def _write(self, file: str, content: bytes) -> None:
        with _output_errors(self._destination):
            path = self.folder / file
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)


def manifest_bytes(manifest: dict[str, Any]) -> bytes:
    """The manifest as it is written, after a check against the schema."""
    validate_manifest(manifest)
    text = json.dumps(manifest, indent=2, ensure_ascii=False, allow_nan=False)
    return f"{text}\n".encode()


@contextlib.contextmanager
def _output_errors(destination: Path) -> Iterator[None]:
    """Errors of the operating system inside are about the place that is written."""
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"cannot write {destination}: {error.strerror}; choose another folder with -o"
        ) from error


def check_destination(destination: Path, *, overwrite: bool) -> None:
    """Whether a bundle may be put there; asked before the work, and again after it.

    Raises:
        OutputError: the place is taken: by a file, by other files, or by a bundle when
            ``overwrite`` is not given.
    """
    if not os.path.lexists(destination):
        return
    if not destination.is_dir() or destination.is_symlink():
        raise OutputError(f"{destination} exists and is no folder; choose another with -o")
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
    """A writer whose folder becomes ``destination`` when the block ends well, else vanishes.

    Raises:
        OutputError: the place is taken (see :func:`check_destination`) or cannot be written.
    """
    shown = destination
    destination = Path(os.path.abspath(destination))
    with _output_errors(shown):
        check_destination(destination, overwrite=overwrite)
        destination.parent.mkdir(parents=True, exist_ok=True)
        _clean_up_after_the_killed(destination)
        staging = destination.with_name(f".{destination.name}.partial-{secrets.token_hex(6)}")
        staging.mkdir()
    # The lock says to other exports that this one is alive, also from within a container.
    lock = os.open(staging, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield BundleWriter(staging, shown)
        with _output_errors(shown):
            check_destination(destination, overwrite=overwrite)
            _move_into_place(staging, destination)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        os.close(lock)


def _clean_up_after_the_killed(destination: Path) -> None:
    """Remove staging folders that no living export holds; put back what one was replacing."""
    for folder in destination.parent.glob(f".{destination.name}.partial-*"):
        if folder.name.endswith(_REPLACED):
            if os.path.lexists(destination):
                shutil.rmtree(folder, ignore_errors=True)
            else:
                folder.rename(destination)
            continue
        with contextlib.suppress(OSError):
            lock = os.open(folder, os.O_RDONLY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)


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
