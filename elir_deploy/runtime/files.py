"""Restoring files, for ``elir-restore``.

All names are determined and checked before the first image is read. Then reading, running and
writing overlap: one thread decodes the next image, the caller's thread runs the model (several do,
if the restorer has several sessions), and one thread encodes the last result. A file that fails is
recorded, and the others are still restored.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from elir_deploy.errors import ElirError, ImageError, OutputError, UsageError
from elir_deploy.progress import ProgressCallback, no_progress
from elir_deploy.runtime.folders import Unread, list_images
from elir_deploy.runtime.images import (
    OUTPUT_FORMATS,
    LoadedImage,
    check_fits,
    enlarge_alpha,
    read_image,
    write_image,
)
from elir_deploy.runtime.in_order import map_in_order
from elir_deploy.runtime.read_ahead import read_ahead
from elir_deploy.runtime.resampling import resize_into
from elir_deploy.runtime.restorer import Restorer

__all__ = ["FORMATS", "Job", "Outcome", "Plan", "plan_jobs", "restore_files"]

#: Values of ``--format``.
FORMATS = ("png", "jpg", "webp", "same")

#: Progress counts the tiles of images that take longer than this.
_LONG_S = 2.0

#: A job, its image and the result, or the reason why one is missing.
_Restored: TypeAlias = "tuple[Job, LoadedImage | None, NDArray[np.uint8] | str]"


@dataclass(frozen=True)
class Job:
    """One image to restore.

    Attributes:
        source: the file to read.
        target: the file to write.
        compare: the file with input and result side by side; None: not written.
    """

    source: Path
    target: Path
    compare: Path | None = None

    @property
    def targets(self) -> list[Path]:
        """The files that are written."""
        return [self.target] if self.compare is None else [self.target, self.compare]


@dataclass(frozen=True)
class Plan:
    """The jobs for the user's inputs.

    Attributes:
        jobs: in the order of the inputs, folders sorted by name.
        renamed: jobs whose result keeps the suffix of its input, as ``a.jpg.png``, because another
            would have the same name without it.
        unread: other files and folders in the folders.
    """

    jobs: list[Job]
    renamed: list[Job]
    unread: Unread


@dataclass
class Outcome:
    """The result of all jobs.

    Attributes:
        restored: successful jobs.
        failures: failed jobs, with the reason.
        seconds: total time, including reading and writing.
    """

    restored: list[Job] = field(default_factory=list)
    failures: list[tuple[Job, str]] = field(default_factory=list)
    seconds: float = 0.0


def plan_jobs(
    inputs: Sequence[Path],
    folder: Path,
    *,
    format: str = "png",
    recursive: bool = False,
    overwrite: bool = False,
    compare: bool = False,
) -> Plan:
    """Plan the jobs for files and folders.

    Files below a folder keep their relative paths. A missing file becomes a job that will fail.

    Args:
        inputs: files, and folders of images.
        folder: folder for the results; created if needed.
        format: one of :data:`FORMATS`; ``same``: the input's if it can be written, else PNG.
        recursive: include subfolders, except for ``folder``.
        overwrite: results may replace existing files.
        compare: also write input and result side by side, as NAME.compare.png.

    Raises:
        UsageError: there is nothing to do, two inputs have the same name, or a result exists or
            would replace an input.
        OutputError: the folder cannot be created.
    """
    if format not in FORMATS:
        raise UsageError(f"format is {format!r}, expected one of {', '.join(FORMATS)}")
    unread = Unread()
    places = list(_sources(inputs, folder, recursive, unread))
    if not places:
        beside = f": {unread}" if unread else ""
        raise UsageError(f"no images in {', '.join(str(path) for path in inputs)}{beside}")
    jobs, renamed = _named_jobs(places, folder, format, compare)
    _check_targets(jobs, overwrite)
    for parent in sorted({job.target.parent for job in jobs}):
        _make_folder(parent)
    return Plan(jobs, renamed, unread)


def restore_files(
    restorer: Restorer,
    jobs: Sequence[Job],
    *,
    on_failure: Callable[[Job, str], None] | None = None,
    on_input_warning: Callable[[Job, str], None] | None = None,
    on_progress: ProgressCallback = no_progress,
) -> Outcome:
    """Restore the images of ``jobs``.

    At most one image waits before the model and one after it, and one more if the restorer runs
    several at a time. An interruption leaves only complete files.

    Args:
        restorer: an open restorer.
        jobs: jobs of :func:`plan_jobs`.
        on_failure: called when a job fails, in the thread where it did.
        on_input_warning: called for images unlike the training data, in the thread that restores.
        on_progress: also counts tiles if the restorer runs one image at a time.
    """
    outcome = Outcome()
    started = time.perf_counter()
    finish = partial(_record, outcome, on_failure)

    def restore(item: tuple[int, Job, LoadedImage | str]) -> _Restored:
        number, job, image = item
        if isinstance(image, str):
            return job, None, image
        warning = restorer.input_warning(*image.pixels.shape[:2])
        if warning is not None and on_input_warning is not None:
            on_input_warning(job, warning)
        progress = _tile_progress(on_progress, number, len(jobs))
        return job, image, _restore(restorer, image, progress)

    writer = ThreadPoolExecutor(1, thread_name_prefix="elir-write")
    writing: Future[None] | None = None
    try:
        with (
            closing(read_ahead(_read_all(jobs, restorer), 1)) as images,
            closing(map_in_order(restore, images, restorer.concurrency)) as restored,
        ):
            on_progress("restoring", 0, len(jobs))
            for number, (job, image, result) in enumerate(restored, 1):
                if image is None or isinstance(result, str):
                    finish(job, str(result))
                else:
                    if writing is not None:
                        writing.result()
                    writing = writer.submit(_write, job, image, result, finish)
                del image, result  # only the writer references them now
                if number < len(jobs):
                    on_progress("restoring", number, len(jobs))
        if writing is not None:
            writing.result()
        on_progress("restoring", len(jobs), len(jobs))
    finally:
        # Finishes the image that is being written, which is quick.
        writer.shutdown(wait=True)
        outcome.seconds = time.perf_counter() - started
    return outcome


# Names ----------------------------------------------------------------------------------------


def _sources(
    inputs: Sequence[Path], folder: Path, recursive: bool, unread: Unread
) -> Iterator[tuple[Path, Path]]:
    """Every input file, and its path below the output folder."""
    for path in inputs:
        if not path.is_dir():
            if not path.name:
                raise UsageError(f"{str(path)!r} is not a file")
            yield path, Path(path.name)
            continue
        listed = list_images(path, recursive=recursive, excluded=folder)
        unread.add(listed.unread)
        yield from zip(listed.files, listed.places, strict=True)


def _named_jobs(
    places: Sequence[tuple[Path, Path]], folder: Path, format: str, compare: bool
) -> tuple[list[Job], list[Job]]:
    """All jobs, and those whose names keep the suffix because they would collide."""
    longer: set[int] = set()
    while True:
        jobs = [
            _job(source, folder / place, format, compare, number in longer)
            for number, (source, place) in enumerate(places)
        ]
        writers: dict[Path, set[int]] = {}
        for number, job in enumerate(jobs):
            for target in job.targets:
                writers.setdefault(target, set()).add(number)
        colliding = {n for numbers in writers.values() if len(numbers) > 1 for n in numbers}
        if colliding <= longer:
            return jobs, [jobs[number] for number in sorted(longer)]
        longer |= colliding


def _job(source: Path, place: Path, format: str, compare: bool, longer: bool) -> Job:
    stem = place.name if longer else place.stem
    target = place.with_name(stem + _suffix(source, format))
    return Job(source, target, place.with_name(f"{stem}.compare.png") if compare else None)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"the folder {folder} cannot be created: {error.strerror}") from None


def _suffix(source: Path, format: str) -> str:
    if format != "same":
        return f".{format}"
    return source.suffix if source.suffix.lower() in OUTPUT_FORMATS else ".png"


def _check_targets(jobs: Sequence[Job], overwrite: bool) -> None:
    sources = {_identity(job.source): job.source for job in jobs}
    planned: dict[str, Path] = {}
    for job in jobs:
        for target in job.targets:
            place = os.path.realpath(target)
            if place in planned:
                raise UsageError(
                    f"{planned[place]} and {job.source} would both become {target}: "
                    "restore them into different folders"
                )
            planned[place] = job.source
            source = sources.get(_identity(target))
            if source is not None:
                raise UsageError(
                    f"the result {target} would replace the input {source}: "
                    "choose another output folder"
                )
            if target.is_dir():
                raise UsageError(f"the result {target} is a folder: move it away")
            if not overwrite and target.exists():
                raise UsageError(f"{target} exists: use --overwrite to replace results")


def _identity(path: Path) -> object:
    """Equal for two names of the same file."""
    try:
        status = path.stat()
    except OSError:
        return path.absolute()
    return status.st_dev, status.st_ino


# Work -----------------------------------------------------------------------------------------


def _read_all(
    jobs: Iterable[Job], restorer: Restorer
) -> Iterator[tuple[int, Job, LoadedImage | str]]:
    """Number, from 1, and image of each job, or the reason why it cannot be read."""
    upscale = restorer.bundle.manifest.model.upscale
    for number, job in enumerate(jobs, 1):
        yield number, job, _read(job, upscale)


def _read(job: Job, upscale: int) -> LoadedImage | str:
    try:
        image = read_image(job.source)
        height, width = (length * upscale for length in image.pixels.shape[:2])
        # Now, not after minutes of restoring.
        check_fits(job.target, height, width, alpha=image.alpha, icc_profile=image.icc_profile)
        return image
    except ElirError as error:
        return str(error)


def _restore(
    restorer: Restorer, image: LoadedImage, on_progress: ProgressCallback
) -> NDArray[np.uint8] | str:
    try:
        tiles = on_progress if restorer.concurrency == 1 else no_progress
        return restorer.restore(image.opaque(), on_progress=tiles)
    except (ImageError, UsageError) as error:
        return str(error)
    except MemoryError:
        return "not enough memory for this image"


def _record(
    outcome: Outcome,
    on_failure: Callable[[Job, str], None] | None,
    job: Job,
    failure: str | None,
) -> None:
    if failure is None:
        outcome.restored.append(job)
        return
    outcome.failures.append((job, failure))
    if on_failure is not None:
        on_failure(job, failure)


def _write(
    job: Job,
    image: LoadedImage,
    result: NDArray[np.uint8],
    finish: Callable[[Job, str | None], None],
) -> None:
    """Write one result, and call ``finish`` with the reason if that failed."""
    failure = None
    try:
        alpha = image.alpha
        if alpha is not None:
            alpha = enlarge_alpha(alpha, result.shape[0] // alpha.shape[0])
        write_image(job.target, result, alpha=alpha, icc_profile=image.icc_profile)
        if job.compare is not None:
            pair = _side_by_side(image.opaque(), result)
            write_image(job.compare, pair, icc_profile=image.icc_profile)
    except ElirError as error:
        failure = str(error)
    except MemoryError:
        failure = f"{job.target} cannot be written: not enough memory"
    finish(job, failure)


def _side_by_side(image: NDArray[np.uint8], result: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width = result.shape[:2]
    pair = np.empty((height, 2 * width, 3), np.uint8)
    if image.shape == result.shape:
        pair[:, :width] = image
    else:
        resize_into(image, pair[:, :width])
    pair[:, width:] = result
    return pair


def _tile_progress(on_progress: ProgressCallback, number: int, jobs: int) -> ProgressCallback:
    started = time.perf_counter()

    def tile_progress(what: str, done: int, total: int) -> None:
        if time.perf_counter() - started > _LONG_S:
            on_progress(f"restoring image {number} of {jobs}, {what}", done, total)

    return tile_progress
