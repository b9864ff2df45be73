"""The images of folders and buckets, and copies of their files, through fsspec."""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from elir_deploy.errors import (
    InputError,
    MissingDependencyError,
    OutputError,
    UnavailableError,
    UsageError,
)
from elir_deploy.output_files import remove_parts
from elir_deploy.runtime.folders import Unread, is_picture
from elir_deploy.runtime.images import IMAGE_SUFFIXES, format_of
from elir_deploy.runtime.jobs import (
    Existing,
    Job,
    Naming,
    Plan,
    check_naming,
    name_jobs,
    plan_jobs,
)

__all__ = ["LocalJob", "RemoteJob", "plan_batch", "remove_leftovers"]


@dataclass(frozen=True)
class RemoteJob(Job):
    """A job whose files are in file systems that fsspec reaches; its paths are relative.

    Attributes:
        source_root, target_root: URLs that ``source`` and ``target`` are relative to.
    """

    source_root: str = ""
    target_root: str = ""

    @property
    def input_name(self) -> str:
        return f"{self.source_root}/{self.source.as_posix()}"

    @property
    def output_name(self) -> str:
        return f"{self.target_root}/{self.target.as_posix()}"


def plan_batch(
    source: str,
    destination: str,
    naming: Naming,
    *,
    existing: Existing = "error",
    recursive: bool = False,
) -> Plan:
    """The jobs for a folder or URL, named as those of ``elir-restore``.

    Raises:
        UsageError, OutputError: as :func:`~elir_deploy.runtime.jobs.plan_jobs`.
        InputError: a folder cannot be listed.
        UnavailableError: fsspec, or what it needs for such URLs, is not installed.
    """
    if not _is_url(source) and not _is_url(destination):
        return plan_jobs(
            [Path(source)],
            Path(destination),
            format=naming.format,
            recursive=recursive,
            existing=existing,
            suffix=naming.suffix,
        )
    check_naming(naming.format, existing, naming.suffix)
    source, destination = _root(source), _root(destination)
    for root in (source, destination):
        if root.startswith("memory:"):
            raise UsageError(f"{root} is in the memory of this process, and workers have their own")
    if f"{destination}/".startswith(f"{source}/"):
        raise UsageError(f"{destination} is inside {source}: results would become inputs")
    places, unread = _images(source, recursive)
    if not places:
        raise UsageError(f"no images in {source}{f': {unread}' if unread else ''}")
    named, renamed = name_jobs([(place, place) for place in places], Path(), naming)
    jobs = [_remote(job, source, destination) for job in named]
    inputs = {job.input_name for job in jobs}
    for job in jobs:
        format_of(job.target, job.format)
        if job.output_name in inputs:
            raise UsageError(
                f"the result {job.output_name} would replace an input: choose another destination"
            )
    sizes = _sizes(destination, None if recursive else 1)
    done = [job for job in jobs if sizes.get(job.target.as_posix())]
    if done and existing == "error":
        raise UsageError(
            f"{done[0].output_name} exists: use --existing skip to go on with the others, or "
            "--existing overwrite to replace results"
        )
    skipped = set(done) if existing == "skip" else set()
    return Plan(
        [job for job in jobs if job not in skipped],
        [job for job in jobs if job in skipped],
        [_remote(job, source, destination) for job in renamed],
        unread,
        [],
    )


def _is_url(text: str) -> bool:
    return "://" in text


def _root(text: str) -> str:
    # Not as_uri: fsspec takes percent signs as they are.
    return text.rstrip("/") if _is_url(text) else f"file://{Path(text).resolve().as_posix()}"


def _remote(job: Job, source: str, destination: str) -> RemoteJob:
    return RemoteJob(job.source, job.target, source_root=source, target_root=destination)


def _images(root: str, recursive: bool) -> tuple[list[Path], Unread]:
    """Paths of the images below ``root``, sorted, and the other files."""
    places, unread = [], Unread()
    for name in sorted(_sizes(root, None if recursive else 1)):
        place, parts = Path(name), name.split("/")
        suffix = place.suffix.lower()
        if suffix in IMAGE_SUFFIXES and not {"", ".", ".."}.isdisjoint(parts):
            unread.unnamed.append(name)  # a path would be that of another key
        elif any(part.startswith(".") for part in parts):
            continue
        elif suffix in IMAGE_SUFFIXES:
            places.append(place)
        elif is_picture(suffix) is not False:
            count, example = unread.files.get(suffix, (0, place))
            unread.files[suffix] = count + 1, example
    return places, unread


def _sizes(root: str, depth: int | None = None) -> dict[str, int]:
    """Bytes of the files below ``root``, by their relative paths; none where there is no folder."""
    system, path = _system(root)
    try:
        system.ls(path, detail=False)  # find omits what it cannot list
        files = system.find(path, maxdepth=depth, detail=True)
    except FileNotFoundError:
        return {}
    except Exception as error:  # noqa: BLE001  # every file system raises what its library does
        raise InputError(f"{root} cannot be listed: {error}") from None
    return {
        name[len(path) :].removeprefix("/"): int(entry["size"] or 0)
        for name, entry in files.items()
    }


def _system(url: str) -> tuple[Any, str]:
    """The file system of an URL, and the path in it."""
    try:
        from fsspec.core import url_to_fs
    except ImportError:
        raise MissingDependencyError("fsspec", "ray", f"reach {url}") from None
    try:
        system, path = url_to_fs(url)
    except ImportError as error:
        raise UnavailableError(f"{url}: {error}") from None
    except ValueError as error:
        raise UsageError(f"{url}: {error}") from None
    return system, str(path)


def remove_leftovers(jobs: Iterable[Job]) -> None:
    """Delete the unfinished files of workers that were killed."""
    remove_parts.cache_clear()  # they are newer than the last look
    for folder in {job.target.parent for job in jobs if not isinstance(job, RemoteJob)}:
        remove_parts(folder)


# Files ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LocalJob(Job):
    """A job with copies of the files of another, ``remote``."""

    remote: RemoteJob = field(kw_only=True)

    @classmethod
    def of(cls, remote: RemoteJob, folder: Path) -> LocalJob:
        """With files in a folder of its own below ``folder``, whatever the keys of others are."""
        here = Path(tempfile.mkdtemp(dir=folder))
        (here / "out").mkdir()
        return cls(here / remote.source.name, here / "out" / remote.target.name, remote=remote)

    def fetch(self) -> None:
        """Copy the input.

        Raises:
            InputError: it cannot be read.
        """
        system, root = _system(self.remote.source_root)
        try:
            system.get_file(f"{root}/{self.remote.source.as_posix()}", str(self.source))
        except Exception as error:  # noqa: BLE001  # as in _sizes
            raise InputError(f"{self.remote.input_name} cannot be read: {error}") from None

    def send(self) -> None:
        """Copy the result, whole or not at all, and delete the copy here.

        Raises:
            OutputError: it cannot be written.
        """
        system, root = _system(self.remote.target_root)
        path = f"{root}/{self.remote.target.as_posix()}"
        folder, _, _ = path.rpartition("/")
        part = f"{folder}/.elir-{secrets.token_hex(8)}.part"
        try:
            system.makedirs(folder, exist_ok=True)
            system.put_file(str(self.target), part)
            system.mv(part, path)
        except Exception as error:  # noqa: BLE001  # as in _sizes
            with suppress(Exception):
                system.rm_file(part)
            raise OutputError(f"{self.remote.output_name} cannot be written: {error}") from None
        self.target.unlink()
