"""Restoring files, for ``elir-restore``.

Reading, running and writing overlap: one thread decodes the next image, the caller's thread runs
the model (several do, if the restorer has several sessions), and one thread encodes the last
result. Images that wait and fit into one batch are run together. A file that fails is recorded, and
the others are still restored, unless the device no longer responds or the disk is full.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elir_deploy.errors import (
    DeviceLostError,
    DiskFullError,
    ElirError,
    InputError,
    UnavailableError,
    UsageError,
)
from elir_deploy.output_files import check_writable
from elir_deploy.progress import ProgressCallback, no_progress
from elir_deploy.runtime.file_restorer import (
    FileRestorer,
    ImageRestorer,
    image_warnings,
    load_for,
)
from elir_deploy.runtime.images import (
    OUTPUT_FORMATS,
    LoadedImage,
    Quality,
    check_fits,
    enlarge_alpha,
    read_image,
    write_image,
)
from elir_deploy.runtime.in_order import map_in_order
from elir_deploy.runtime.jobs import Job
from elir_deploy.runtime.read_ahead import read_ahead, waiting_together
from elir_deploy.runtime.resampling import resize_into
from elir_deploy.runtime.restorer import Restorer
from elir_deploy.runtime.results import Outcome, Result
from elir_deploy.runtime.strength import rounded_strength

__all__ = ["check_bits", "restore_files"]

#: Progress counts the tiles of images that take longer than this.
_LONG_S = 2.0


@dataclass(frozen=True)
class _Item:
    """A job on its way; without a failure, it was read, prepared and restored one after another."""

    number: int
    result: Result
    image: LoadedImage | None = None
    prepared: Any = None
    pixels: NDArray[Any] | None = None

    def after(self, seconds: float, **changes: Any) -> _Item:
        """The item with more time in its result, and other changes to that."""
        seconds += self.result.seconds
        return replace(self, result=replace(self.result, seconds=seconds, **changes))

    def failed(self, reason: str, seconds: float) -> _Item:
        return _Item(self.number, self.after(seconds, failure=reason).result)


def restore_files(
    restorer: Restorer | FileRestorer,
    jobs: Sequence[Job],
    *,
    strength: float = 1.0,
    bits: int | None = None,
    quality: Quality = None,
    on_result: Callable[[Result], None] | None = None,
    on_progress: ProgressCallback = no_progress,
) -> Outcome:
    """Restore the images of ``jobs``.

    At most one image, or a batch, waits before the model and one after it; one more each if the
    restorer runs several at a time, or prepares images. Interrupted, it leaves complete files.

    Args:
        restorer: open, or what restores images in another way.
        jobs: jobs of :func:`~elir_deploy.runtime.jobs.plan_jobs`.
        strength: as for :meth:`~elir_deploy.runtime.Restorer.restore`; colours hidden by
            transparency are mixed, too.
        bits: of results, 8 or 16; None: those of the input, if the restorer has them.
        quality: as for :func:`~elir_deploy.runtime.images.write_image`.
        on_result: called when a job is done or failed, in the thread where it did.
        on_progress: also counts tiles if the restorer runs one image at a time.

    Raises:
        UsageError: the restorer or a format has no such bits.
        DiskFullError, DeviceLostError: no further image can be restored.
    """
    if isinstance(restorer, Restorer):
        restorer = ImageRestorer(restorer)
    check_bits(bits, (job.format for job in jobs), restorer.bits, restorer.instead_of_8_bits)
    work = _Work(restorer, jobs, rounded_strength(strength), bits, quality, on_result, on_progress)
    writer = ThreadPoolExecutor(1, thread_name_prefix="elir-write")
    writing: Future[None] | None = None
    try:
        with (
            closing(waiting_together(work.prepare_all(), restorer.ahead, work.joins)) as groups,
            closing(map_in_order(work.restore, groups, restorer.concurrency)) as restored,
        ):
            on_progress("restoring", 0, len(jobs))
            for item in _one_by_one(restored):
                number = item.number
                if item.result.failure is not None:
                    work.finish(item.result)
                else:
                    if writing is not None:
                        writing.result()
                    writing = writer.submit(work.write, item)
                del item  # only the writer references the images now
                if number < len(jobs):
                    on_progress("restoring", number, len(jobs))
        if writing is not None:
            writing.result()
        on_progress("restoring", len(jobs), len(jobs))
    finally:
        # Finishes the image that is being written, which is quick.
        writer.shutdown(wait=True)
        work.outcome.seconds = time.perf_counter() - work.started
    return work.outcome


def _one_by_one(groups: Iterator[list[_Item]]) -> Iterator[_Item]:
    for items in groups:
        while items:
            yield items.pop(0)  # not referenced here while the caller works


def check_bits(
    bits: int | None, formats: Iterable[str], available: int, instead: str, option: str = "--bits"
) -> None:
    """Check the argument ``bits`` of :func:`restore_files`.

    Args:
        bits: the argument.
        formats: suffixes of the results, such as ``.png``.
        available: bits of what restores the images.
        instead: what has 16, where that is 8.
        option: the argument's name in errors.

    Raises:
        UsageError: see there.
    """
    if bits not in (None, 8, 16):
        raise UsageError(f"{option} is {bits}, expected 8 or 16")
    if bits != 16:
        return
    if available == 8:
        raise UsageError(f"{option} is 16, but results have 8 here: {instead}")
    for suffix in formats:
        if not OUTPUT_FORMATS[suffix].deep:
            name = OUTPUT_FORMATS[suffix].name
            raise UsageError(f"{option} is 16, and {name} stores 8: PNG and TIFF store 16")


class _Work:
    """The work on jobs, in stages that run in threads of their own."""

    def __init__(
        self,
        restorer: FileRestorer,
        jobs: Sequence[Job],
        strength: float,
        bits: int | None,
        quality: Quality,
        on_result: Callable[[Result], None] | None,
        on_progress: ProgressCallback,
    ) -> None:
        self._restorer = restorer
        self._jobs = jobs
        self._strength = strength
        self._bits = bits
        self._quality = quality
        self._on_result = on_result
        self._on_progress = on_progress
        self.outcome = Outcome()
        self.started = time.perf_counter()

    def prepare_all(self) -> Iterator[_Item]:
        """Each job, ready for the model, or with the reason why not."""
        items = self._read_all()
        if not self._restorer.has_preparation:
            yield from map(self._prepare, items)
            return
        with closing(read_ahead(items, 1)) as ahead:
            yield from map(self._prepare, ahead)

    def _read_all(self) -> Iterator[_Item]:
        for number, job in enumerate(self._jobs, 1):
            yield self._read(_Item(number, Result(job)))

    def _read(self, item: _Item) -> _Item:
        started = time.perf_counter()
        job = item.result.job
        try:
            job.fetch()
            image = self._image(job)
            height, width = (length * self._restorer.scale for length in image.pixels.shape[:2])
            # Now, not after minutes of restoring.
            for target in job.targets:
                check_writable(target)
            check_fits(
                job.target,
                height,
                width,
                alpha=image.alpha,
                icc_profile=image.result_profile,
                metadata=image.metadata,
                format=job.format,
                bits=8 * image.pixels.itemsize,
            )
        except ElirError as error:
            return item.failed(str(error), time.perf_counter() - started)
        warning = "; ".join(image_warnings(self._restorer, image, self._bits)) or None
        read = replace(item, image=image)
        return read.after(time.perf_counter() - started, warning=warning)

    def _image(self, job: Job) -> LoadedImage:
        return load_for(self._restorer, self._bits, lambda deep: read_image(job.source, deep=deep))

    def _prepare(self, item: _Item) -> _Item:
        if item.image is None:
            return item
        started = time.perf_counter()
        try:
            prepared = self._restorer.prepare(item.image, self._strength)
        except DeviceLostError:
            raise
        except (InputError, UnavailableError, MemoryError) as error:
            return item.failed(_reason(error), time.perf_counter() - started)
        return replace(item, prepared=prepared).after(time.perf_counter() - started)

    def joins(self, group: list[_Item], item: _Item) -> bool:
        """Whether a job may be restored together with others."""
        if None in (group[0].image, item.image):
            return False
        return self._restorer.joins([each.prepared for each in group], item.prepared)

    def restore(self, items: list[_Item]) -> list[_Item]:
        """Run the model on images that were prepared, or pass on the one that was not."""
        if items[0].image is None:
            return items
        started = time.perf_counter()
        one = self._restorer.concurrency == len(items) == 1
        progress = self._tile_progress(items[0].number) if one else no_progress
        prepared = [item.prepared for item in items]
        try:
            several = self._restorer.restore(prepared, self._strength, progress)
        except DeviceLostError:
            raise
        except (InputError, UnavailableError, MemoryError) as error:
            if len(items) > 1:  # the others are restored without the one that fails
                return [result for item in items for result in self.restore([item])]
            return [items[0].failed(_reason(error), time.perf_counter() - started)]
        share = (time.perf_counter() - started) / len(items)
        return [
            replace(item, prepared=None, pixels=restored.pixels).after(
                share,
                warning="; ".join(filter(None, (item.result.warning, restored.warning))) or None,
                faces=restored.faces,
            )
            for item, restored in zip(items, several, strict=True)
        ]

    def write(self, item: _Item) -> None:
        """Write the files of a restored image."""
        assert item.image is not None
        assert item.pixels is not None
        started = time.perf_counter()
        job, failure = item.result.job, None
        try:
            self._write(job, item.image, item.pixels)
        except DiskFullError as error:  # as the others would fail, each after its restoration
            self.finish(item.after(time.perf_counter() - started, failure=str(error)).result)
            raise
        except ElirError as error:
            failure = str(error)
        except MemoryError:
            failure = f"{job.target} cannot be written: not enough memory"
        self.finish(item.after(time.perf_counter() - started, failure=failure).result)

    def _write(self, job: Job, image: LoadedImage, pixels: NDArray[Any]) -> None:
        alpha = image.alpha
        if alpha is not None:
            alpha = enlarge_alpha(alpha, pixels.shape[0] // alpha.shape[0])
        # First, so that a killed run leaves no result whose comparison is missing.
        if job.compare is not None:
            pair = _side_by_side(image.opaque(), pixels)
            write_image(job.compare, pair, icc_profile=image.icc_profile)
        write_image(
            job.target,
            pixels,
            alpha=alpha,
            icc_profile=image.result_profile,
            metadata=image.metadata,
            grey=image.grey,
            format=job.format,
            quality=self._quality,
        )

    def finish(self, result: Result) -> None:
        """Record a result."""
        self.outcome.add(result)
        if self._on_result is not None:
            self._on_result(result)

    def _tile_progress(self, number: int) -> ProgressCallback:
        started = time.perf_counter()

        def tile_progress(what: str, done: int, total: int) -> None:
            if time.perf_counter() - started > _LONG_S:
                image = f"image {number} of {len(self._jobs)}"
                self._on_progress(f"restoring {image}, {what}", done, total)

        return tile_progress


def _reason(error: ElirError | MemoryError) -> str:
    return str(error) if isinstance(error, ElirError) else "not enough memory for this image"


def _side_by_side(image: NDArray[Any], result: NDArray[Any]) -> NDArray[Any]:
    height, width = result.shape[:2]
    pair = np.empty((height, 2 * width, 3), result.dtype)
    if image.shape == result.shape:
        pair[:, :width] = image
    else:
        resize_into(image, pair[:, :width])
    pair[:, width:] = result
    return pair
