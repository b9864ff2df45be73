"""How many images a second a machine restores when many are waiting.

Four kinds of load: *callers*, threads that share one restorer; *streams*, a restorer in throughput
mode with as many callers as its concurrency; *batch*, several images in one run; *files*, from
image files to image files as ``elir-restore`` does it, reading and writing overlapped.
"""

from __future__ import annotations

import math
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from elir_deploy.bench.measurement import random_image
from elir_deploy.bench.runners import BundleRunner, Fidelity, Runner, compare_with_references
from elir_deploy.bench.statistics import Amount, Count, Series
from elir_deploy.errors import ElirError
from elir_deploy.progress import ProgressCallback, no_progress
from elir_deploy.runtime import Bundle, Restorer
from elir_deploy.runtime.conversion import PixelsToTensor, TensorToPixels
from elir_deploy.runtime.files import restore_files
from elir_deploy.runtime.images import write_image
from elir_deploy.runtime.jobs import Job

__all__ = ["Load", "Throughput", "call_together"]

#: Images that the callers cycle through, made beforehand so that making them is not timed.
_POOL = 16
_IMAGE = 3  # purpose of a random image, beside those of the other protocols
#: Seconds between two checks for Ctrl-C: one that comes as a thread begins to wait wakes nobody.
_CHECK_EVERY = 0.1
_FEWEST_FILES, _MOST_FILES = 8, 1000

Restore = Callable[[NDArray[np.uint8]], object]
#: Kinds of load.
Way = Literal["callers", "streams", "batch", "files"]


@dataclass(frozen=True)
class Load:
    """One kind of load and its speed, an entry of the report.

    Attributes:
        concurrency: callers, or images in a batch.
        fps: images per second over all passes, as ``seconds`` and ``images``.
        fidelity: of the images restored this way; None: as the runner's.
        calls: a batch is one call; None for files.
    """

    label: str
    way: Way
    concurrency: Annotated[int, Meta(ge=1)]
    fps: Amount
    fps_by_pass: Annotated[tuple[Amount, ...], Meta(min_length=1, max_length=2)]
    seconds: Amount
    images: Count
    fidelity: Fidelity | None
    calls: Series | None

    @classmethod
    def of_pass(
        cls, concurrency: int, images: int, seconds: float, latencies_s: Sequence[float] = ()
    ) -> Load:
        """One pass; the load has no label yet, and counts as one of callers."""
        fps = images / seconds if seconds else 0.0
        calls = Series.of(latencies_s)
        return cls("", "callers", concurrency, fps, (fps,), seconds, images, None, calls)

    def with_pass(self, other: Load) -> Load:
        """Both passes of the same load as one."""
        images, seconds = self.images + other.images, self.seconds + other.seconds
        latencies = [s for load in (self, other) if load.calls for s in load.calls.samples_s]
        return replace(
            Load.of_pass(self.concurrency, images, seconds, latencies),
            label=self.label,
            way=self.way,
            fps_by_pass=self.fps_by_pass + other.fps_by_pass,
            fidelity=self.fidelity,
        )


def call_together(
    restore: Restore,
    images: Sequence[NDArray[np.uint8]],
    callers: int,
    seconds: float,
    *,
    images_per_call: int = 1,
    clock: Callable[[], int] = time.perf_counter_ns,
) -> Load:
    """Let ``callers`` threads call for one image after another; the load has no label yet.

    A caller finishes the image it has begun, and its rate is over its own time, so that the end of
    the run, when some have finished, does not count.

    Args:
        images: that the callers cycle through, each from another start.
        seconds: how long.
        images_per_call: restored by one call.

    Raises:
        ElirError, KeyboardInterrupt: raised by ``restore``, after all threads were stopped.
    """
    together = threading.Barrier(callers)
    started, stop = threading.Event(), threading.Event()
    calls: list[list[tuple[int, int]]] = [[] for _ in range(callers)]

    def call_until_stopped(caller: int) -> None:
        # The pool waits for threads whose start was not interrupted; the others must not call.
        started.wait()
        if stop.is_set():
            return
        try:
            restore(images[caller % len(images)])  # warm up
            together.wait()
            start = now = clock()
            turn = caller
            while not stop.is_set() and now - start < seconds * 1e9:
                restore(images[turn % len(images)])
                before, now = now, clock()
                calls[caller].append((before, now))
                turn += 1
        except BaseException:
            stop.set()
            together.abort()
            raise

    with ThreadPoolExecutor(callers, "elir-bench-caller") as pool:
        futures: list[Future[None]] = []
        try:
            futures += [pool.submit(call_until_stopped, caller) for caller in range(callers)]
            started.set()
            while wait(futures, timeout=_CHECK_EVERY).not_done:
                pass
        except BaseException:
            stop.set()
            together.abort()
            started.set()
            raise
    _raise_first(futures)
    return _load(calls, images_per_call)


def _raise_first(futures: Sequence[Future[None]]) -> None:
    errors = [error for future in futures if (error := future.exception()) is not None]
    for error in sorted(errors, key=lambda error: isinstance(error, threading.BrokenBarrierError)):
        raise error  # the barrier breaks for the others when one fails


def _load(calls: Sequence[Sequence[tuple[int, int]]], images_per_call: int) -> Load:
    """The load of callers with these starts and ends of calls, in nanoseconds."""
    spans = [(len(one), (one[-1][1] - one[0][0]) / 1e9) for one in calls if one]
    fps = sum(count / span for count, span in spans if span) * images_per_call
    done = sum(count for count, _ in spans) * images_per_call
    latencies = [(end - start) / 1e9 for one in calls for start, end in one]
    return Load.of_pass(len(calls), done, done / fps if fps else 0.0, latencies)


@dataclass
class Throughput:
    """Every load for every runner, in two passes of opposite order.

    Attributes:
        image_shape: (H, W, 3) of the images.
        seconds: of each load in each pass.
        callers: numbers of threads that share a restorer, a load each.
        batches: numbers of images in one run, a load each; none: the bundle's largest, if it has
            batches.
        between: called after every load with the seconds since the first began.
        loads: in the order of the first pass.
        failures: reason by label and load, of those that cannot be measured.
    """

    image_shape: tuple[int, int, int]
    threads: int | None
    seconds: float = 5.0
    callers: tuple[int, ...] = (1, 2)
    batches: tuple[int, ...] = ()
    seed: int = 0
    clock: Callable[[], int] = time.perf_counter_ns
    between: Callable[[float], None] = lambda seconds: None
    loads: dict[tuple[str, str, int], Load] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    _start: int = 0

    def run(self, runners: Sequence[Runner], progress: ProgressCallback = no_progress) -> None:
        """Measure; peers have one caller. Interrupted, it keeps the finished loads."""
        pool = [random_image(self.image_shape, self.seed, _IMAGE, k) for k in range(_POOL)]
        self._start = self.clock()
        for number, order in enumerate((runners, runners[::-1])):
            for place, runner in enumerate(order):
                done = number * len(runners) + place
                progress(f"throughput of {runner.label}", done, 2 * len(runners))
                self._measure(runner, pool)

    def _measure(self, runner: Runner, pool: Sequence[NDArray[np.uint8]]) -> None:
        restore, label = runner.restore, runner.label
        if not isinstance(runner, BundleRunner):
            self._add(label, "callers", 1, partial(self._calls, restore, pool, 1))
            return
        for callers in self.callers:
            self._add(label, "callers", callers, partial(self._calls, restore, pool, callers))
        try:
            self._measure_streams(runner, pool)
        except ElirError as error:  # it could not be opened
            self.failures[f"{label}, streams and files"] = str(error)
        largest = runner.bundle.manifest.shapes[0].batch
        for batch in self.batches or (largest,) * (largest > 1):
            self._add(label, "batch", batch, partial(self._batches, runner, pool, batch))

    def _measure_streams(self, runner: BundleRunner, pool: Sequence[NDArray[np.uint8]]) -> None:
        opened = Restorer(
            *(runner.bundle, runner.backend),
            precision=runner.precision,
            threads=self.threads,
            device=runner.device,
            mode="throughput",
        )
        with opened as restorer:
            label, count = runner.label, restorer.concurrency
            if count > 1:
                self._add(
                    label, "streams", count, partial(self._calls, restorer.restore, pool, count)
                )
            self._add(label, "files", count, partial(self._files, restorer, runner.bundle))

    def _calls(self, restore: Restore, pool: Sequence[NDArray[np.uint8]], callers: int) -> Load:
        return call_together(restore, pool, callers, self.seconds, clock=self.clock)

    def _batches(self, runner: BundleRunner, pool: Sequence[NDArray[np.uint8]], batch: int) -> Load:
        """The session alone, on pixels already at the model's scale."""
        bundle = runner.bundle
        opened = Restorer(
            *(bundle, runner.backend),
            precision=runner.precision,
            threads=self.threads,
            device=runner.device,
        )
        with opened as restorer:
            fidelity = compare_with_references(bundle, partial(_run_last, restorer, batch))
            rng, spec = np.random.default_rng([self.seed, _IMAGE]), restorer.input_spec
            size = (batch, *spec.shape[1:])
            floats = spec.dtype == "float32"
            restorer.run(  # selects the batch, and fills its arrays
                rng.random(size, np.float32) if floats else rng.integers(0, 256, size, np.uint8)
            )
            session = restorer.session
            load = call_together(
                *(lambda _: session.run(), pool, 1, self.seconds),
                images_per_call=batch,
                clock=self.clock,
            )
            return replace(load, fidelity=fidelity)

    def _files(self, restorer: Restorer, bundle: Bundle) -> Load:
        """Photographs, since noise takes PNG several times as long."""
        shrink = bundle.manifest.model.upscale
        photographs = [
            np.ascontiguousarray(image[::shrink, ::shrink])
            for _, image, _ in bundle.reference_images()
        ]
        if not photographs:
            raise ElirError("the bundle has no reference images to restore")
        restorer.restore(photographs[0])  # warm up
        load = _restore_files(restorer, photographs, _FEWEST_FILES)
        count = min(_MOST_FILES, math.ceil(load.fps * self.seconds))
        return load if count <= _FEWEST_FILES else _restore_files(restorer, photographs, count)

    def _add(self, label: str, way: Way, concurrency: int, measure: Callable[[], Load]) -> None:
        key, title = (label, way, concurrency), f"{label}, {way} {concurrency}"
        if title in self.failures:
            return
        try:
            load = replace(measure(), label=label, way=way, concurrency=concurrency)
        except ElirError as error:
            self.failures[title] = str(error)
            return
        self.loads[key] = self.loads[key].with_pass(load) if key in self.loads else load
        self.between((self.clock() - self._start) / 1e9)


def _run_last(restorer: Restorer, batch: int, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Restore (H, W, 3) uint8 RGB in the last place of a batch whose other images are black."""
    spec = restorer.input_spec
    values = np.zeros((batch, *spec.shape[1:]), spec.dtype)
    PixelsToTensor(spec)(pixels, values[-1])
    restored = np.empty_like(pixels)
    TensorToPixels(restorer.output_spec)(restorer.run(values)[-1], restored)
    return restored


def _restore_files(restorer: Restorer, inputs: Sequence[NDArray[np.uint8]], count: int) -> Load:
    with tempfile.TemporaryDirectory(prefix="elir-bench-") as folder:
        outcome = restore_files(restorer, list(_jobs(inputs, Path(folder), count)))
    if outcome.failures:
        raise ElirError(outcome.failures[0][1])
    return Load.of_pass(restorer.concurrency, count, outcome.seconds)


def _jobs(inputs: Sequence[NDArray[np.uint8]], folder: Path, count: int) -> Iterator[Job]:
    for number in range(count):
        source = folder / f"{number}.png"
        write_image(source, inputs[number % len(inputs)])
        yield Job(source, folder / f"{number}.restored.png")
