"""Restoring files: what ``elir-restore`` does.

All names are settled and checked before the first image is read. Then reading, running and
writing overlap: one thread decodes the next image, the caller's runs the model, one encodes the
last; a restorer that runs several images at once does so here. A file that fails is noted and the
rest goes on.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
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

#: What ``--format`` takes.
FORMATS = ("png", "jpg", "webp", "same")

#: An image that takes longer than this has its tiles counted.
_LONG_S = 2.0

#: A job, its image, and the result; without an image, or instead of a result, why not.
_Restored: TypeAlias = "tuple[Job, LoadedImage | None, NDArray[np.uint8] | str]"


@dataclass(frozen=True)
class Job:
    """One image to restore.

    Attributes:
        source: the file to read.
        target: the file to write.
        compare: where to write input and result side by side; None: nowhere.
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
    """What is to be done.

    Attributes:
        jobs: in the order given, folders sorted by name.
        renamed: those whose result keeps the suffix of its input in its name, as ``a.jpg.png``,
            because several would have had the shorter one.
        unread: what in the folders is no job.
    """

    jobs: list[Job]
    renamed: list[Job]
    unread: Unread


@dataclass
class Outcome:
    """What became of the jobs.

    Attributes:
        restored: those done.
        failures: those that failed, with the reason.
        seconds: from the first to the last, reading and writing included.
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
    """The jobs for files and folders.

    Files below a folder keep their place below it. A file that is not there becomes a job that
    will fail.

    Args:
        inputs: files and folders; of a folder, the images in it.
        folder: where the results go; made if needed.
        format: one of :data:`FORMATS`; ``same``: the input's where that can be written, else PNG.
        recursive: also look into the folders of a folder, but not into ``folder``.
        overwrite: results may replace files that are there.
        compare: also write input and result side by side, as NAME.compare.png.

    Raises:
        UsageError: nothing to do, two inputs of one name, a result that exists, or one that
            would replace an input.
        OutputError: the folder cannot be made.
    """
    if format not in FORMATS:
        raise UsageError(f"format is {format!r}, wanted one of {', '.join(FORMATS)}")
    unread = Unread()
    places = list(_sources(inputs, folder, recursive, unread))
    if not places:
        beside = f": {unread}" if unread else ""
        raise UsageError(f"no images in {', '.join(str(path) for path in inputs)}{beside}")
    jobs, renamed = _named(places, folder, format, compare)
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

    At most one image waits before the model and one after it, and one more between them where the
    restorer runs several at once. An interruption leaves finished files, and none half written.

    Args:
        restorer: is not closed.
        jobs: from :func:`plan_jobs`.
        on_failure: called at once when a job fails; in the thread where it did.
        on_input_warning: called when an image differs from what the model was trained on; in the
            thread that restores it.
        on_progress: called with what is being done, how much of it is done, and of how much. Tiles
            are counted where the restorer runs one image at a time.
    """
    outcome = Outcome()
    started = time.perf_counter()

    def finish(job: Job, failure: str | None) -> None:
        if failure is None:
            outcome.restored.append(job)
        else:
            outcome.failures.append((job, failure))
            if on_failure is not None:
                on_failure(job, failure)

    def write(job: Job, image: LoadedImage, result: NDArray[np.uint8]) -> None:
        finish(job, _write(job, image, result))

    def say(done: int) -> None:
        on_progress("restoring", done, len(jobs))

    def restore(item: tuple[int, Job, LoadedImage | str]) -> _Restored:
        number, job, image = item
        if isinstance(image, str):
            return job, None, image
        doubt = restorer.input_warning(*image.pixels.shape[:2])
        if doubt is not None and on_input_warning is not None:
            on_input_warning(job, doubt)
        tiles = (
            _tile_progress(on_progress, number, len(jobs)) if restorer.concurrency == 1 else None
        )
        return job, image, _restore(restorer, image, tiles)

    writer = ThreadPoolExecutor(1, thread_name_prefix="elir-write")
    writing: Future[None] | None = None
    try:
        with (
            closing(
                read_ahead(_read_all(jobs, restorer.bundle.manifest.model.upscale), 1)
            ) as images,
            closing(map_in_order(restore, images, restorer.concurrency)) as restored,
        ):
            say(0)
            for number, (job, image, result) in enumerate(restored, 1):
                if image is None or isinstance(result, str):
                    finish(job, str(result))
                else:
                    if writing is not None:
                        writing.result()
                    writing = writer.submit(write, job, image, result)
                del image, result  # now the writer's, for as long as it needs them
                if number < len(jobs):
                    say(number)
        if writing is not None:
            writing.result()
        say(len(jobs))
    finally:
        # An image that is being written is finished: that is short, and leaves nothing in parts.
        writer.shutdown(wait=True)
        outcome.seconds = time.perf_counter() - started
    return outcome


# Names ----------------------------------------------------------------------------------------


def _sources(
    inputs: Sequence[Path], folder: Path, recursive: bool, unread: Unread
) -> Iterator[tuple[Path, Path]]:
    """Every input file, and its place below the output folder."""
    for path in inputs:
        if not path.is_dir():
            if not path.name:
                raise UsageError(f"{str(path)!r} is no file")
            yield path, Path(path.name)
            continue
        listed = list_images(path, recursive=recursive, excluded=folder)
        unread.add(listed.unread)
        yield from zip(listed.files, listed.places, strict=True)


def _named(
    places: Sequence[tuple[Path, Path]], folder: Path, format: str, compare: bool
) -> tuple[list[Job], list[Job]]:
    """The jobs, and those of them whose names are longer because they would meet another's."""
    longer: set[int] = set()
    while True:
        jobs = [
            _job(source, folder / place, format, compare, number in longer)
            for number, (source, place) in enumerate(places)
        ]
        makers: dict[Path, set[int]] = {}
        for number, job in enumerate(jobs):
            for target in job.targets:
                makers.setdefault(target, set()).add(number)
        meeting = {n for numbers in makers.values() if len(numbers) > 1 for n in numbers}
        if meeting <= longer:
            return jobs, [jobs[number] for number in sorted(longer)]
        longer |= meeting


def _job(source: Path, place: Path, format: str, compare: bool, longer: bool) -> Job:
    stem = place.name if longer else place.stem
    target = place.with_name(stem + _suffix(source, format))
    return Job(source, target, place.with_name(f"{stem}.compare.png") if compare else None)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder} cannot be made a folder: {error.strerror}") from None


def _suffix(source: Path, format: str) -> str:
    if format != "same":
        return f".{format}"
    return source.suffix if source.suffix.lower() in OUTPUT_FORMATS else ".png"


def _check_targets(jobs: Sequence[Job], overwrite: bool) -> None:
    sources = {_identity(job.source): job.source for job in jobs}
    made: dict[str, Path] = {}
    for job in jobs:
        for target in job.targets:
            place = os.path.realpath(target)
            if place in made:
                raise UsageError(
                    f"{made[place]} and {job.source} would both become {target}: "
                    "restore them into different folders"
                )
            made[place] = job.source
            source = sources.get(_identity(target))
            if source is not None:
                raise UsageError(
                    f"the result {target} would replace the input {source}: "
                    "choose another output folder"
                )
            if target.is_dir():
                raise UsageError(f"the result {target} is a folder: move it away")
            if not overwrite and target.exists():
                raise UsageError(f"{target} exists: give --overwrite to replace results")


def _identity(path: Path) -> object:
    """The same for two names of one file."""
    try:
        status = path.stat()
    except OSError:
        return path.absolute()
    return status.st_dev, status.st_ino


# Work -----------------------------------------------------------------------------------------


def _read_all(jobs: Iterable[Job], upscale: int) -> Iterator[tuple[int, Job, LoadedImage | str]]:
    """Number, from 1 on, and image of each job, or why there is none."""
    for number, job in enumerate(jobs, 1):
        yield number, job, _read(job, upscale)


def _read(job: Job, upscale: int) -> LoadedImage | str:
    try:
        image = read_image(job.source)
        height, width = (length * upscale for length in image.pixels.shape[:2])
        # Not after minutes of restoring.
        check_fits(job.target, height, width, alpha=image.alpha, icc_profile=image.icc_profile)
        return image
    except ElirError as error:
        return str(error)


def _restore(
    restorer: Restorer, image: LoadedImage, on_tile: Callable[[int, int], None] | None
) -> NDArray[np.uint8] | str:
    try:
        return restorer.restore(image.opaque(), on_tile=on_tile)
    except (ImageError, UsageError) as error:
        return str(error)
    except MemoryError:
        return "not enough memory for this image"


def _write(job: Job, image: LoadedImage, result: NDArray[np.uint8]) -> str | None:
    """Write one result; the reason if that failed."""
    try:
        alpha = image.alpha
        if alpha is not None:
            alpha = enlarge_alpha(alpha, result.shape[0] // alpha.shape[0])
        write_image(job.target, result, alpha=alpha, icc_profile=image.icc_profile)
        if job.compare is not None:
            pair = _side_by_side(image.opaque(), result)
            write_image(job.compare, pair, icc_profile=image.icc_profile)
    except ElirError as error:
        return str(error)
    except MemoryError:
        return f"{job.target} cannot be written: not enough memory"
    return None


def _side_by_side(image: NDArray[np.uint8], result: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width = result.shape[:2]
    pair = np.empty((height, 2 * width, 3), np.uint8)
    if image.shape == result.shape:
        pair[:, :width] = image
    else:
        resize_into(image, pair[:, :width])
    pair[:, width:] = result
    return pair


def _tile_progress(
    on_progress: ProgressCallback, number: int, jobs: int
) -> Callable[[int, int], None]:
    started = time.perf_counter()

    def on_tile(done: int, tiles: int) -> None:
        if time.perf_counter() - started > _LONG_S:
            on_progress(f"restoring image {number} of {jobs}, tiles", done, tiles)

    return on_tile
