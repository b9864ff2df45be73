"""The images of folders and buckets, and copies of their files, through fsspec."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
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

__all__ = ["RemoteJob", "fetch", "plan_batch", "remove_leftovers", "send"]


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
        place = Path(name)
        if any(part.startswith(".") for part in place.parts):
            continue
        suffix = place.suffix.lower()
        if suffix in IMAGE_SUFFIXES:
            places.append(place)
        elif is_picture(suffix) is not False:
            count, example = unread.files.get(suffix, (0, place))
            unread.files[suffix] = count + 1, example
    return places, unread


def _sizes(root: str, depth: int | None = None) -> dict[str, int]:
    """Bytes of the files below ``root``, by their relative paths; none where there is no folder."""
    system, path = _system(root)
    try:
        files = system.find(path, maxdepth=depth, detail=True)
    except FileNotFoundError:
        return {}
    except Exception as error:  # noqa: BLE001  # every file system raises what its library does
        raise InputError(f"{root} cannot be listed: {error}") from None
    return {name[len(path) :].lstrip("/"): int(entry["size"] or 0) for name, entry in files.items()}


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


def fetch(job: RemoteJob, folder: Path) -> Job:
    """Copy the input of ``job`` into ``folder``; returns the job for the copy.

    Raises:
        InputError: it cannot be read.
    """
    local = folder / "in" / job.source
    local.parent.mkdir(parents=True, exist_ok=True)
    system, path = _system(job.input_name)
    try:
        system.get_file(path, str(local))
    except Exception as error:  # noqa: BLE001  # as in _sizes
        raise InputError(f"{job.input_name} cannot be read: {error}") from None
    target = folder / "out" / job.target
    target.parent.mkdir(parents=True, exist_ok=True)
    return Job(local, target)


def send(local: Path, job: RemoteJob) -> None:
    """Copy a result to where ``job`` wants it, whole or not at all, and delete the copy here.

    Raises:
        OutputError: it cannot be written.
    """
    system, path = _system(job.output_name)
    folder, _, _ = path.rpartition("/")
    part = f"{folder}/.elir-{secrets.token_hex(8)}.part"
    try:
        system.makedirs(folder, exist_ok=True)
        system.put_file(str(local), part)
        system.mv(part, path)
    except Exception as error:  # noqa: BLE001  # as in _sizes
        with suppress(Exception):
            system.rm_file(part)
        raise OutputError(f"{job.output_name} cannot be written: {error}") from None
    local.unlink()
