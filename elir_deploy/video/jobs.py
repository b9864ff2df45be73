"""Which films ``elir-video`` reads and writes, before the first one is opened."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from elir_deploy.errors import UsageError
from elir_deploy.output_files import check_writable
from elir_deploy.runtime.folders import Unread
from elir_deploy.runtime.job import Existing, Job, check_targets, is_stream, prepare_folders
from elir_deploy.runtime.jobs import Plan
from elir_deploy.video.encoding import CONTAINERS
from elir_deploy.video.restoring import partial_name

__all__ = ["plan_films"]

#: The container of the result of a film whose own is not written: it holds nearly every stream.
_OTHERWISE = ".mkv"


def plan_films(inputs: Sequence[Path], output: Path, existing: Existing = "error") -> Plan:
    """Plan the jobs for films.

    Args:
        inputs: files. A missing one becomes a job that will fail.
        output: folder for the results, created if needed; they keep the names of their films, and
            their containers, if these are written, else they are .mkv. With one film it may be a
            file with the suffix of a container.
        existing: whether results that exist are an error, stay, or are replaced.

    Raises:
        UsageError: an input is no regular file, two would have one result, a film would be written
            to standard output, or a result, or what a film that ends early leaves, exists or would
            replace an input.
        OutputError: a folder cannot be created or written.
    """
    for path in (*inputs, output):
        if is_stream(path):
            raise UsageError("films are read from files and written to files, not -: name a file")
    for path in inputs:
        if os.path.isdir(path):
            raise UsageError(f"{path} is a folder, expected films: name them, as in {path}/*")
        if os.path.exists(path) and not os.path.isfile(path):
            raise UsageError(f"{path} is a pipe or a device: films are read twice, name a file")
    if output.suffix.lower() in CONTAINERS and not output.is_dir():
        if len(inputs) != 1:
            raise UsageError(f"-o {output} is one file, but there are {len(inputs)} films")
        jobs = [Job(inputs[0], output)]
    else:
        if output.suffix and not output.exists():
            raise UsageError(
                f"-o {output}: {output.suffix} files are not written, expected one of "
                f"{', '.join(CONTAINERS)}, or a folder that exists"
            )
        jobs = [Job(source, output / _name(source)) for source in inputs]
    parts = [Job(job.source, partial_name(job.target)) for job in jobs]  # of films that end early
    check_targets([*jobs, *parts], existing, instead="another output")
    prepare_folders(jobs)
    for job in jobs:
        check_writable(job.target)
    skipped = [job for job in jobs if existing == "skip" and job.done]
    return Plan([job for job in jobs if job not in skipped], skipped, [], Unread(), [])


def _name(source: Path) -> str:
    suffix = source.suffix if source.suffix.lower() in CONTAINERS else _OTHERWISE
    return source.stem + suffix
