"""How many images a second a machine restores when many are waiting.

Four ways to ask: *callers*, threads that share one restorer; *streams*, a restorer in throughput
mode with as many callers as it runs images at once; *batch*, several images in one run; *files*,
from image files to image files as ``elir-restore`` does it, reading and writing overlapped.
"""

from __future__ import annotations

import math
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from elir_deploy.bench.clocks import Clock, wall_clock
from elir_deploy.bench.graph_variants import with_batch
from elir_deploy.bench.protocols import random_image
from elir_deploy.bench.runners import (
    Fidelity,
    Runner,
    Unavailable,
    compare_with_references,
)
from elir_deploy.errors import ElirError
from elir_deploy.pixels import as_pixels
from elir_deploy.progress import ProgressCallback, no_progress
from elir_deploy.runtime import Bundle, Restorer
from elir_deploy.runtime.backends import BACKENDS, backend_named
from elir_deploy.runtime.backends.base import Session
from elir_deploy.runtime.files import Job, restore_files
from elir_deploy.runtime.images import write_image

__all__ = ["Load", "Throughput", "ask_together"]

#: Different images that the callers go round: made before, so that making them costs nothing.
_POOL = 16
_IMAGE = 3  # what a random image is for, beside those of the protocols
#: Seconds between two looks for Ctrl-C: one that comes as a thread begins to wait wakes nobody.
_LOOKS_EVERY = 0.1
_FEWEST_FILES, _MOST_FILES = 8, 1000

Restore = Callable[[NDArray[np.uint8]], object]


@dataclass(frozen=True)
class Load:
    """One way to ask, and what came of it.

    Attributes:
        label: of backend and precision.
        way: ``callers``, ``streams``, ``batch`` or ``files``.
        concurrency: callers, or images in a batch.
        latencies_s: of every call, in seconds; a batch is one call. Empty for files.
        images: restored, all passes together.
        seconds: spent, all passes together.
        fps: images a second in each pass.
        fidelity: of the pictures, where they are not made by the runner itself.
    """

    label: str
    way: str
    concurrency: int
    latencies_s: tuple[float, ...] = ()
    images: int = 0
    seconds: float = 0.0
    fps: tuple[float, ...] = ()
    fidelity: Fidelity | None = None

    def with_pass(self, other: Load) -> Load:
        """Both passes of the same load as one."""
        return replace(
            self,
            latencies_s=self.latencies_s + other.latencies_s,
            images=self.images + other.images,
            seconds=self.seconds + other.seconds,
            fps=self.fps + other.fps,
        )

    @property
    def mean_fps(self) -> float:
        """Over all passes."""
        return self.images / self.seconds if self.seconds else 0.0


def ask_together(
    restore: Restore,
    images: Sequence[NDArray[np.uint8]],
    callers: int,
    seconds: float,
    *,
    images_per_call: int = 1,
    clock: Clock = wall_clock,
) -> Load:
    """Let ``callers`` threads ask for one image after another for ``seconds``.

    A caller finishes the image it has begun, and its rate is over its own time, so that the end of
    the run, when some have finished, counts for nothing.

    Args:
        restore: called by all threads.
        images: that the callers go round, each from another place.
        callers: threads.
        seconds: after which no caller begins another image.
        images_per_call: that a call restores.
        clock: to time with.

    Returns:
        a load without names.

    Raises:
        ElirError: as raised by ``restore``; the others are stopped first.
        KeyboardInterrupt: likewise.
    """
    together = threading.Barrier(callers)
    stop = threading.Event()
    failures: list[BaseException] = []
    calls: list[list[tuple[int, int]]] = [[] for _ in range(callers)]
    # Not Thread.join: before Python 3.13, one that Ctrl-C interrupts takes the thread for ended.
    changed = threading.Condition()
    asking: set[int] = set()
    ended: set[int] = set()

    def ask(caller: int) -> None:
        with changed:
            if stop.is_set():  # while it was started
                ended.add(caller)
                changed.notify_all()
                return
            asking.add(caller)
        try:
            ask_until_stopped(caller)
        finally:
            with changed:
                asking.remove(caller)
                ended.add(caller)
                changed.notify_all()

    def ask_until_stopped(caller: int) -> None:
        try:
            restore(images[caller % len(images)])  # warm
            together.wait()
            began = now = clock()
            turn = caller
            while not stop.is_set() and now - began < seconds * 1e9:
                restore(images[turn % len(images)])
                then, now = now, clock()
                calls[caller].append((then, now))
                turn += 1
        except threading.BrokenBarrierError:
            pass  # another failed first
        except Exception as error:  # noqa: BLE001  # raised again by the thread that asked
            failures.append(error)
            stop.set()
            together.abort()

    threads = [
        threading.Thread(target=ask, args=(caller,), name=f"elir-bench-caller-{caller}")
        for caller in range(callers)
    ]
    try:
        for thread in threads:
            thread.start()
        with changed:
            while len(ended) < callers:
                changed.wait(_LOOKS_EVERY)
    except BaseException:
        stop.set()
        together.abort()
        with changed:
            while asking:
                changed.wait(_LOOKS_EVERY)
        raise
    if failures:
        raise failures[0]
    took = [(len(made), (made[-1][1] - made[0][0]) / 1e9) for made in calls if made]
    fps = sum(count / spent for count, spent in took if spent) * images_per_call
    done = sum(count for count, _ in took) * images_per_call
    return Load(
        "",
        "callers",
        callers,
        tuple((end - start) / 1e9 for made in calls for start, end in made),
        done,
        done / fps if fps else 0.0,
        (fps,),
    )


@dataclass
class Throughput:
    """Every way to ask, for every runner, in two passes of opposite order.

    Attributes:
        bundle: that is measured.
        threads: CPU threads of every session.
        seconds: of each load in each pass.
        callers: how many threads share a restorer, each number a load.
        batches: images in one run, each number a load; none where they cannot be had.
        seed: of the images.
        loads: what was measured, in the order of the first pass.
        between: called after every load, with the seconds since the first began.
        unavailable: ways that cannot be measured, with the reason.
    """

    bundle: Bundle
    threads: int | None
    seconds: float = 5.0
    callers: tuple[int, ...] = (1, 2)
    batches: tuple[int, ...] = (4,)
    seed: int = 0
    clock: Clock = wall_clock
    between: Callable[[float], None] = lambda seconds: None
    loads: dict[tuple[str, str, int], Load] = field(default_factory=dict)
    unavailable: list[Unavailable] = field(default_factory=list)
    _began: int = 0

    def run(
        self,
        runners: Sequence[Runner],
        progress: ProgressCallback = no_progress,
    ) -> None:
        """Measure. Interrupted, it keeps what is finished.

        Args:
            runners: opened; PyTorch is asked by one caller only.
            progress: told what is measured.
        """
        side = self.bundle.manifest.image_size // self.bundle.manifest.model.upscale
        pool = [random_image((side, side, 3), self.seed, _IMAGE, k) for k in range(_POOL)]
        self._began = self.clock()
        for number, order in enumerate((runners, runners[::-1])):
            for place, runner in enumerate(order):
                done = number * len(runners) + place
                progress(f"throughput of {runner.label}", done, 2 * len(runners))
                self._measure(runner, pool)

    def _measure(self, runner: Runner, pool: Sequence[NDArray[np.uint8]]) -> None:
        label = runner.label
        if runner.backend not in BACKENDS:
            self._keep(label, "callers", 1, partial(self._asked, runner.restore, pool, 1))
            return
        for callers in self.callers:
            self._keep(
                label, "callers", callers, partial(self._asked, runner.restore, pool, callers)
            )
        try:
            self._with_streams(runner, pool)
        except ElirError as error:  # it could not be opened
            self._note(f"{label}, streams and files", str(error))
        for batch in self.batches:
            self._keep(label, "batch", batch, partial(self._batched, runner, pool, batch))

    def _with_streams(self, runner: Runner, pool: Sequence[NDArray[np.uint8]]) -> None:
        opened = Restorer(
            self.bundle,
            runner.backend,
            precision=runner.precision,
            threads=self.threads,
            mode="throughput",
        )
        with opened as restorer:
            label, concurrency = runner.label, restorer.concurrency
            if concurrency > 1:
                asked = partial(self._asked, restorer.restore, pool, concurrency)
                self._keep(label, "streams", concurrency, asked)
            self._keep(label, "files", concurrency, partial(self._files, restorer))

    def _asked(self, restore: Restore, pool: Sequence[NDArray[np.uint8]], callers: int) -> Load:
        return ask_together(restore, pool, callers, self.seconds, clock=self.clock)

    def _batched(self, runner: Runner, pool: Sequence[NDArray[np.uint8]], batch: int) -> Load:
        """The session alone, on pixels already at the model's scale."""
        with tempfile.TemporaryDirectory(prefix="elir-bench-") as folder:
            widened = with_batch(self.bundle, runner.precision, batch, Path(folder))
            backend = backend_named(runner.backend)
            with backend.open(widened, runner.precision, threads=self.threads) as session:
                fidelity = compare_with_references(self.bundle, partial(_in_batch, session))
                rng = np.random.default_rng([self.seed, _IMAGE])
                if session.input.dtype == np.uint8:
                    session.input[...] = rng.integers(0, 256, session.input.shape, np.uint8)
                else:
                    session.input[...] = rng.random(session.input.shape, np.float32)
                load = ask_together(
                    lambda _: session.run(),
                    pool,
                    1,
                    self.seconds,
                    images_per_call=batch,
                    clock=self.clock,
                )
                return replace(load, fidelity=fidelity)

    def _files(self, restorer: Restorer) -> Load:
        """Photographs, since noise takes PNG several times as long."""
        inputs = self._photographs()
        restorer.restore(inputs[0])  # warm
        load = _from_files(restorer, inputs, _FEWEST_FILES)
        count = min(_MOST_FILES, math.ceil(load.mean_fps * self.seconds))
        return load if count <= _FEWEST_FILES else _from_files(restorer, inputs, count)

    def _photographs(self) -> list[NDArray[np.uint8]]:
        """The bundle's reference images in the size that it takes."""
        shrink = self.bundle.manifest.model.upscale
        found = [image[::shrink, ::shrink] for _, image, _ in self.bundle.reference_images()]
        if not found:
            raise ElirError("the bundle holds no reference images to restore")
        return [np.ascontiguousarray(image) for image in found]

    def _keep(self, label: str, way: str, concurrency: int, measure: Callable[[], Load]) -> None:
        key = (label, way, concurrency)
        if any(item.label == _named(*key) for item in self.unavailable):
            return
        try:
            load = replace(measure(), label=label, way=way, concurrency=concurrency)
        except ElirError as error:
            self._note(_named(*key), str(error))
            return
        self.loads[key] = self.loads[key].with_pass(load) if key in self.loads else load
        self.between((self.clock() - self._began) / 1e9)

    def _note(self, label: str, reason: str) -> None:
        if all(item.label != label for item in self.unavailable):
            self.unavailable.append(Unavailable(label, reason))


def _in_batch(session: Session, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A picture in the last place of a batch, behind black ones: (S, S, 3) uint8 RGB, and back."""
    session.input[...] = 0
    if session.input.dtype == np.uint8:
        session.input[-1] = pixels
        session.run()
        return np.array(session.output[-1], np.uint8)
    session.input[-1] = pixels.transpose(2, 0, 1) / np.float32(255)
    session.run()
    return as_pixels(session.output[-1].transpose(1, 2, 0))


def _from_files(restorer: Restorer, inputs: Sequence[NDArray[np.uint8]], count: int) -> Load:
    with tempfile.TemporaryDirectory(prefix="elir-bench-") as folder:
        outcome = restore_files(restorer, list(_jobs(inputs, Path(folder), count)))
    if outcome.failures:
        raise ElirError(outcome.failures[0][1])
    fps = count / outcome.seconds
    return Load("", "files", restorer.concurrency, (), count, outcome.seconds, (fps,))


def _jobs(inputs: Sequence[NDArray[np.uint8]], folder: Path, count: int) -> Iterator[Job]:
    for number in range(count):
        source = folder / f"{number}.png"
        write_image(source, inputs[number % len(inputs)])
        yield Job(source, folder / f"{number}.restored.png")


def _named(label: str, way: str, concurrency: int) -> str:
    return f"{label}, {way} {concurrency}"
