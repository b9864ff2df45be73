"""Which files ``elir-restore`` reads and writes: all names, before the first picture is read."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

from elir_deploy.errors import UsageError
from elir_deploy.operating_system import file_identity
from elir_deploy.output_files import STANDARD_OUTPUT, check_writable
from elir_deploy.runtime.folders import Unread, list_images
from elir_deploy.runtime.images import IMAGE_SUFFIXES, OUTPUT_FORMATS, STANDARD_INPUT, format_of
from elir_deploy.runtime.job import (
    COMPARE,
    Existing,
    Job,
    check_targets,
    is_comparison,
    is_stream,
    prepare_folders,
)

__all__ = [
    "FORMATS",
    "Existing",
    "Job",
    "Naming",
    "Plan",
    "check_events_file",
    "check_naming",
    "name_jobs",
    "plan_jobs",
]

#: Values of ``--format``.
FORMATS = ("png", "jpg", "webp", "tif", "avif", "same")


@dataclass(frozen=True)
class Plan:
    """The jobs for the user's inputs.

    Attributes:
        jobs: in the order of the inputs, folders sorted by name.
        skipped: jobs whose results exist and stay.
        renamed: jobs whose result keeps the suffix of its input, as ``a.jpg.png``, because another
            would have the same name without it.
        unread: other files and folders in the folders.
        presumed_results: pictures in the folders that are presumed to be earlier results, by their
            names.
    """

    jobs: list[Job]
    skipped: list[Job]
    renamed: list[Job]
    unread: Unread
    presumed_results: list[Path]


@dataclass(frozen=True)
class Naming:
    """How a result is called after its input; attributes are arguments of :func:`plan_jobs`."""

    format: str
    suffix: str = ""
    compare: bool = False

    def job(self, source: Path, place: Path, keep_extension: bool) -> Job:
        stem = (place.name if keep_extension else place.stem) + self.suffix
        compare = place.with_name(f"{stem}{COMPARE}.png") if self.compare else None
        return Job(source, place.with_name(stem + self.format_of(source)), compare)

    def format_of(self, source: Path) -> str:
        if self.format != "same":
            return f".{self.format}"
        same = OUTPUT_FORMATS.get(source.suffix.lower())
        return source.suffix if same is not None and same.available else ".png"


@dataclass
class _Sources:
    """The files to read.

    Attributes:
        places: every file, and its path below the output folder.
        listed: those that were found in a folder, not named.
        unread: other files and folders.
        presumed_results: of those listed, what is presumed to be earlier results and removed from
            ``places``.
    """

    places: list[tuple[Path, Path]] = field(default_factory=list)
    listed: set[Path] = field(default_factory=set)
    unread: Unread = field(default_factory=Unread)
    presumed_results: list[Path] = field(default_factory=list)


def plan_jobs(
    inputs: Sequence[Path],
    output: Path,
    *,
    format: str | None = None,
    recursive: bool = False,
    existing: Existing = "error",
    compare: bool = False,
    suffix: str = "",
) -> Plan:
    """Plan the jobs for files and folders.

    Files below a folder keep their relative paths. A missing file becomes a job that will fail.
    Temporary files that killed runs left in the folders of the results are deleted.

    Args:
        inputs: files, and folders of images; ``-`` is standard input.
        output: folder for the results, created if needed. With one input that is no folder, it may
            be a file with the suffix of a format, a device or a pipe, or ``-``, standard output.
        format: one of :data:`FORMATS`; ``same``: the input's if it can be written, else PNG; None:
            that of ``output`` if it is a file, else PNG.
        recursive: include subfolders, except for ``output``.
        existing: whether results that exist are an error, stay, or are replaced.
        compare: also write input and result side by side, as NAME.compare.png.
        suffix: appended to the names of results, before the dot: ``-x`` gives ``a-x.png``.

    Raises:
        UsageError: there is nothing to do, two inputs have the same name, a result exists or would
            replace a picture of the inputs, or arguments do not fit together.
        OutputError: a folder cannot be created or written.
        MissingDependencyError: Pillow does not write the format.
    """
    check_naming(format, existing, suffix)
    if _is_file(inputs, output):
        jobs = [_single_job(inputs, output, format, compare, suffix)]
        renamed: list[Job] = []
        found = _Sources()
    else:
        found = _sources(inputs, output, recursive)
        if suffix:
            _set_results_aside(found, output, suffix)
        jobs, renamed = name_jobs(found.places, output, Naming(format or "png", suffix, compare))
        if not jobs:
            reason = f": {found.unread}" if found.unread else ""
            raise UsageError(f"no images in {', '.join(str(path) for path in inputs)}{reason}")
    for job in jobs:
        format_of(job.target, job.format)
    check_targets(jobs, existing, found.presumed_results)
    prepare_folders(jobs)
    skipped = [job for job in jobs if existing == "skip" and job.done]
    left = set(skipped)
    jobs = [job for job in jobs if job not in left]
    return Plan(jobs, skipped, renamed, found.unread, found.presumed_results)


def check_events_file(events: str, plan: Plan) -> None:
    """Check that ``events`` can be written and is none of the plan's files.

    Raises:
        UsageError: it is one of them.
        OutputError: it cannot be written.
    """
    jobs = [*plan.jobs, *plan.skipped]
    files = {
        file_identity(path)
        for job in jobs
        for path in (job.source, *job.targets)
        if not is_stream(path)
    }
    if file_identity(Path(events)) in files:
        raise UsageError(f"the events would replace {events}, an input or a result")
    check_writable(events)


def check_naming(format: str | None, existing: str, suffix: str) -> None:
    """Check arguments of :func:`plan_jobs`, which raises the errors."""
    if format is not None and format not in FORMATS:
        raise UsageError(f"format is {format!r}, expected one of {', '.join(FORMATS)}")
    if existing not in get_args(Existing):
        raise UsageError(
            f"existing is {existing!r}, expected one of {', '.join(get_args(Existing))}"
        )
    if "/" in suffix or os.sep in suffix or "\0" in suffix:
        raise UsageError(f"--suffix is {suffix!r}, expected a part of a file name")


# One file -------------------------------------------------------------------------------------


def _is_file(inputs: Sequence[Path], output: Path) -> bool:
    """Whether ``output`` is the file to write, not a folder."""
    suffix = output.suffix.lower()
    known = suffix in OUTPUT_FORMATS and not os.path.isdir(output)
    if suffix in IMAGE_SUFFIXES - set(OUTPUT_FORMATS) and not os.path.isdir(output):
        raise UsageError(
            f"-o {output}: {suffix} files are not written, expected one of "
            f"{', '.join(OUTPUT_FORMATS)}, or a folder"
        )
    stream = str(output) == STANDARD_OUTPUT
    device = output.exists() and not output.is_dir() and not output.is_file()
    one = known or stream or device
    if one and (len(inputs) != 1 or inputs[0].is_dir()):
        what = "- is standard output" if stream else f"{output} is one file"
        many = f"are {len(inputs)} inputs" if len(inputs) != 1 else f"is the folder {inputs[0]}"
        raise UsageError(f"-o {what}, but there {many}: give a folder")
    return one


def _single_job(
    inputs: Sequence[Path], output: Path, format: str | None, compare: bool, suffix: str
) -> Job:
    (source,) = inputs
    if suffix:
        raise UsageError(f"--suffix {suffix!r} needs an output folder, but -o is {output}")
    ending = output.suffix.lower() if output.suffix.lower() in OUTPUT_FORMATS else None
    if ending is None and compare:
        raise UsageError(f"--compare cannot be used with -o {output}: give a file or folder")
    chosen = None if format is None else Naming(format).format_of(source)
    if ending and chosen and OUTPUT_FORMATS[ending] != OUTPUT_FORMATS[chosen.lower()]:
        raise UsageError(f"-o {output} and --format {format} disagree: remove one")
    pair = output.with_name(f"{output.stem}{COMPARE}.png") if compare else None
    return Job(source, output, pair, None if ending else chosen or ".png")


# Folders --------------------------------------------------------------------------------------


def _sources(inputs: Sequence[Path], folder: Path, recursive: bool) -> _Sources:
    found = _Sources()
    for path in inputs:
        if str(path) == STANDARD_INPUT:
            found.places.append((path, Path("stdin")))
        elif path.is_dir():
            listed = list_images(path, recursive=recursive, excluded=folder)
            found.unread.add(listed.unread)
            found.places += zip(listed.files, listed.places, strict=True)
            found.listed.update(listed.files)
        elif path.name:
            found.places.append((path, Path(path.name)))
        else:
            raise UsageError(f"{str(path)!r} is not a file")
    return found


def name_jobs(
    places: Sequence[tuple[Path, Path]], folder: Path, naming: Naming
) -> tuple[list[Job], list[Job]]:
    """All jobs, and those whose names keep the suffix because they would collide.

    Args:
        places: every input, and its path below ``folder``.
        folder: for the results.
        naming: of the results.
    """
    ambiguous: set[int] = set()
    while True:
        jobs = [
            naming.job(source, folder / place, number in ambiguous)
            for number, (source, place) in enumerate(places)
        ]
        colliding = _colliding(jobs)
        if colliding <= ambiguous:
            return jobs, [jobs[number] for number in sorted(ambiguous)]
        ambiguous |= colliding


def _colliding(jobs: Sequence[Job]) -> set[int]:
    """Numbers of the jobs whose results would have one name, in folders of any system."""
    exact: dict[str, set[int]] = {}
    folded: dict[str, set[int]] = {}
    for number, job in enumerate(jobs):
        for target in job.targets:
            exact.setdefault(str(target), set()).add(number)
            folded.setdefault(str(target).casefold(), set()).add(number)
    # exFAT and Windows do not tell A.png from a.png. Inputs that differ in nothing else are from
    # a system that does; their suffixes would not tell them apart.
    for name, numbers in folded.items():
        if len({jobs[number].source.name.casefold() for number in numbers}) == len(numbers):
            exact[name] = exact.get(name, set()) | numbers
    return {n for numbers in exact.values() if len(numbers) > 1 for n in numbers}


def _set_results_aside(found: _Sources, folder: Path, suffix: str) -> None:
    """Take listed pictures for earlier results if their names are those of results.

    In every format and with or without comparisons, since the earlier run may have had others.
    """
    names = {
        os.path.join(os.path.realpath(folder / place.parent), stem + suffix)
        for _, place in found.places
        for stem in (place.name, place.stem)
    }
    places = []
    for source, place in found.places:
        name = os.path.join(os.path.realpath(source.parent), source.stem)
        known = name in names and source.suffix.lower() in OUTPUT_FORMATS
        known |= is_comparison(source) and name.removesuffix(COMPARE) in names
        if source in found.listed and known:
            found.presumed_results.append(source)
        else:
            places.append((source, place))
    found.places = places
