"""Writing a bundle: staged beside its place and renamed into it, so it is whole or not there."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from elir_deploy.errors import OutputError
from elir_deploy.runtime.bundle import MANIFEST_NAME, validate_manifest

__all__ = ["BundleWriter", "staged_bundle"]

#: Errors of the operating system that mean "this place cannot be written".
_UNWRITABLE = {
    errno.EACCES,
    errno.EDQUOT,
    errno.EEXIST,
    errno.EFBIG,
    errno.EIO,
    errno.EISDIR,
    errno.ENAMETOOLONG,
    errno.ENOENT,
    errno.ENOSPC,
    errno.ENOTDIR,
    errno.EPERM,
    errno.EROFS,
}


class BundleWriter:
    """Collects a bundle's files in a staging folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

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
        """Write one artifact; returns its entry for the manifest."""
        (self.folder / file).write_bytes(content)
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

    def add_reference(
        self, name: str, image: NDArray[np.uint8], restored: NDArray[np.uint8]
    ) -> dict[str, Any]:
        """Write a network input and the model's output, (S, S, 3) uint8; returns the entry."""
        entry: dict[str, Any] = {"name": name}
        (self.folder / "reference").mkdir(exist_ok=True)
        for role, pixels in (("input", image), ("output", restored)):
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, "PNG")
            file = f"reference/{name}.{role}.png"
            (self.folder / file).write_bytes(buffer.getvalue())
            entry[role] = file
            entry[f"{role}_sha256"] = hashlib.sha256(buffer.getvalue()).hexdigest()
        return entry

    def write_manifest(self, manifest: dict[str, Any]) -> None:
        """Check the manifest against the schema and write it."""
        validate_manifest(manifest)
        text = json.dumps(manifest, indent=2, ensure_ascii=False, allow_nan=False)
        (self.folder / MANIFEST_NAME).write_text(text + "\n", encoding="utf-8")


@contextlib.contextmanager
def staged_bundle(destination: Path, *, overwrite: bool) -> Iterator[BundleWriter]:
    """A writer whose folder becomes ``destination`` when the block ends well, else vanishes.

    Raises:
        OutputError: the place is taken (and ``overwrite`` not given, or it is no bundle) or
            cannot be written.
    """
    _check_free(destination, overwrite)
    staging = destination.parent / f".{destination.name}.partial-{os.getpid()}"
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(destination)
        staging.mkdir()
        yield BundleWriter(staging)
        _move_into_place(staging, destination)
    except OSError as error:
        if error.errno in _UNWRITABLE:
            raise OutputError(
                f"cannot write {destination}: {error.strerror}; choose another folder with -o"
            ) from error
        raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _check_free(destination: Path, overwrite: bool) -> None:
    if not os.path.lexists(destination):
        return
    if not destination.is_dir() or destination.is_symlink():
        raise OutputError(f"{destination} exists and is no folder; choose another with -o")
    if not any(destination.iterdir()):
        return
    if not (destination / MANIFEST_NAME).is_file():
        raise OutputError(f"{destination} holds other files; choose an empty or new folder with -o")
    if not overwrite:
        raise OutputError(f"{destination} already holds a bundle; --overwrite replaces it")


def _remove_abandoned(destination: Path) -> None:
    """Staging folders of exports that were killed, recognised by their process being gone."""
    for folder in destination.parent.glob(f".{destination.name}.partial-*"):
        pid = folder.name.rpartition("-")[2]
        if pid.isdigit() and not _is_running(int(pid)):
            shutil.rmtree(folder, ignore_errors=True)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _move_into_place(staging: Path, destination: Path) -> None:
    if not destination.exists():
        staging.rename(destination)
        return
    replaced = staging.with_name(f"{staging.name}-old")
    destination.rename(replaced)
    staging.rename(destination)
    shutil.rmtree(replaced, ignore_errors=True)
