"""Writing the folders a user names: staged beside the destination and renamed, whole or absent."""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from elir_deploy.errors import OutputError
from elir_deploy.output_files import locked, remove_abandoned

__all__ = ["FolderKind", "check_destination", "output_errors", "staged_folder"]

#: Behind the staging folder's name while an older folder is being replaced.
_REPLACED = "-replaced"


@dataclass(frozen=True)
class FolderKind:
    """What a folder holds, and the file it is recognised by: only such a folder is replaced."""

    title: str
    marker: str


@contextlib.contextmanager
def output_errors(destination: Path) -> Iterator[None]:
    """Turn errors of the operating system into errors about ``destination``."""
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"cannot write {destination}: {error.strerror}; choose another folder with -o"
        ) from error


def check_destination(destination: Path, kind: FolderKind, *, overwrite: bool) -> None:
    """Check that a folder may be written there; called before the work, and again after it.

    Raises:
        OutputError: there is a file, a folder of another kind, or one of ``kind`` without
            ``overwrite``.
    """
    if not os.path.lexists(os.path.realpath(destination)):
        return
    if not destination.is_dir():
        raise OutputError(f"{destination} exists and is not a folder; choose another with -o")
    if os.path.ismount(destination):
        raise OutputError(f"{destination} is a mount point; choose a folder inside it with -o")
    if not any(destination.iterdir()):
        return
    if not (destination / kind.marker).is_file():
        raise OutputError(f"{destination} holds other files; choose an empty or new folder with -o")
    if not overwrite:
        raise OutputError(f"{destination} already holds {kind.title}; --overwrite replaces it")


@contextlib.contextmanager
def staged_folder(destination: Path, kind: FolderKind, *, overwrite: bool) -> Iterator[Path]:
    """A folder that becomes ``destination`` when the block succeeds, and else is removed.

    The target of a symbolic link is made or replaced.

    Raises:
        OutputError: as :func:`check_destination`, or the destination cannot be written.
    """
    shown = destination
    destination = Path(os.path.realpath(destination))
    with output_errors(shown):
        check_destination(destination, kind, overwrite=overwrite)
        destination.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(destination)
    with contextlib.ExitStack() as stack:
        with output_errors(shown):
            staging = stack.enter_context(locked(lambda: _new_staging(destination)))
        stack.callback(shutil.rmtree, staging, ignore_errors=True)
        yield staging
        with output_errors(shown):
            check_destination(destination, kind, overwrite=overwrite)
            _move_into_place(staging, destination)


def _new_staging(destination: Path) -> Path:
    staging = destination.with_name(f".{destination.name}.partial-{secrets.token_hex(6)}")
    staging.mkdir()
    return staging


def _remove_abandoned(destination: Path) -> None:
    """Remove staging folders of killed processes; put back a folder that one was replacing."""
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
