"""How samples are taken in turns: which images, how many, in which order."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from elir_deploy.bench.runners import Runner
from elir_deploy.bench.stability import FEWEST_WARM, half_width, settled_from
from elir_deploy.bench.yardstick import SETTLE_NS, Yardstick
from elir_deploy.errors import ElirError, UnavailableError
from elir_deploy.progress import ProgressCallback, no_progress

if TYPE_CHECKING:
    from elir_deploy.bench.protocols import BenchProtocol

__all__ = ["Measurement", "Samples", "Warmup", "random_image"]

#: Purposes of random images; no two images are the same.
_WARMUP, _COUNTED, _SETTLING = range(3)
#: Bounds of a warm-up that ends by itself: it ends at either of the upper bounds.
_LEAST_WARMUP, _MOST_WARMUP = 10, 500
_LEAST_WARMUP_NS, _MOST_WARMUP_NS = 10**9, 60 * 10**9
#: Growth of a series before it is checked again: checking at every image would stop at a lucky
#: moment.
_CHECK_WARMUP_AGAIN, _CHECK_AGAIN = 1.25, 1.1


@dataclass
class Samples:
    """The series of one runner; entry i of each list belongs to image i.

    Attributes:
        image_ns: from the 8-bit image to the restored 8-bit image.
        device_ns: part of it inside the backend's run; None where that is unknown.
        started_ns: start of the sample, counted from the start of the first.
        yardstick_ns: the faster of the yardstick's times before and after the sample's turn; None
            without a yardstick.
        joules: of the turn, divided by its images; None without a meter.
        stages_ns: parts of ``device_ns``; empty where there is only one.
    """

    image_ns: list[int] = field(default_factory=list)
    device_ns: list[int | None] = field(default_factory=list)
    started_ns: list[int] = field(default_factory=list)
    yardstick_ns: list[int | None] = field(default_factory=list)
    joules: list[float | None] = field(default_factory=list)
    stages_ns: list[tuple[int, ...]] = field(default_factory=list)

    @property
    def _lists(self) -> tuple[list[Any], ...]:
        return tuple(getattr(self, entry.name) for entry in fields(self))

    def extend(self, other: Samples, count: int) -> None:
        """Append the first ``count`` samples of ``other``."""
        for mine, more in zip(self._lists, other._lists, strict=True):
            mine += more[:count]

    def truncate(self, count: int) -> None:
        """Keep the first ``count`` samples."""
        for entries in self._lists:
            del entries[count:]

    @property
    def complete_count(self) -> int:
        """Samples with every entry: an interruption may fall between two lists."""
        return min(len(entries) for entries in self._lists)


@dataclass(frozen=True)
class Warmup:
    """Number and time of the images that a runner restored before those that count.

    Attributes:
        settled: whether the latencies had settled; None where that was not checked, or where too
            few images fit into the longest warm-up to tell.
    """

    images: int
    seconds: float
    settled: bool | None


@dataclass
class Measurement:
    """Runners measured side by side.

    They take turns of a few images each, every round of the same images, in an order that is
    shuffled for one round and reversed for the next: clock changes, heat and other programs affect
    all of them alike, and none always follows the same neighbour. A turn begins with images that
    do not count, one or as many as take 50 ms, since the neighbour has emptied the caches and its
    threads still spin: right after another library, eager PyTorch took a fifth longer than alone
    (4.9 M parameters at 128 x 128).

    Attributes:
        runners: with distinct labels.
        protocol: with the number of images.
        image_shape: (H, W, 3) of the images.
        photograph: restored every time; None: random images.
        seed: of images and order.
        yardstick: measured before every turn; None: none.
        joules: returns the energy used since some moment; read at both ends of a turn.
        between: called after every turn with the seconds since the first.
        samples: by label; all series have the same length, also after an interruption.
        warmups: by label.
        failures: reason by label, of runners that failed and were left out.
        complete: whether every image was measured.
    """

    runners: Sequence[Runner]
    protocol: BenchProtocol
    image_shape: tuple[int, int, int]
    seed: int = 0
    clock: Callable[[], int] = time.perf_counter_ns
    yardstick: Yardstick | None = None
    joules: Callable[[], float] | None = None
    between: Callable[[float], None] = lambda seconds: None
    photograph: NDArray[np.uint8] | None = None
    samples: dict[str, Samples] = field(init=False)
    warmups: dict[str, Warmup] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    complete: bool = False
    _reversed: list[Runner] = field(default_factory=list)
    _start: int | None = None
    _last_yardstick: int | None = None

    def __post_init__(self) -> None:
        self.samples = {runner.label: Samples() for runner in self.runners}
        self._shuffle = np.random.default_rng(self.seed)

    def run(self, progress: ProgressCallback = no_progress) -> None:
        """Warm up, then measure. Interrupted, it keeps the images that all runners finished.

        Raises:
            UnavailableError: every runner failed.
        """
        try:
            with _frozen_garbage():
                for runner in self.runners:
                    progress(f"warming up {runner.label}", 0, 0)
                    self._warm_up(runner)
                if self.protocol.images is None:
                    self._measure_until_precise(progress)
                else:
                    self._measure_images(self.protocol.images, progress)
        finally:  # an interruption may fall between two runners' samples
            count = min((series.complete_count for series in self.samples.values()), default=0)
            for series in self.samples.values():
                series.truncate(count)
        self.complete = True

    def half_widths(self) -> dict[str, float]:
        """Half-width of the 95 % interval of each median, relative to it, by label."""
        return {label: half_width(series.image_ns) for label, series in self.samples.items()}

    def _measure_images(self, images: int, progress: ProgressCallback) -> None:
        block = self.protocol.block
        for first in range(0, images, block):
            progress("measuring", first, images)
            self._round(range(first, min(first + block, images)))

    def _measure_until_precise(self, progress: ProgressCallback) -> None:
        """Until every median is precise enough, checked whenever there is a tenth more."""
        protocol, block = self.protocol, self.protocol.block
        start, first, next_check = self.clock(), 0, 8 * block
        while True:
            seconds = (self.clock() - start) / 1e9
            progress("measuring, seconds", round(seconds), round(protocol.at_most_s))
            if first and seconds >= protocol.at_most_s:
                return
            self._round(range(first, first + block))
            first += block
            if first >= next_check:
                next_check = math.ceil(first * _CHECK_AGAIN)
                # Per runner, settling included: else a fast one would never come to an end.
                each = (self.clock() - start) / 1e9 / len(self.samples)
                widest = max(self.half_widths().values())
                if each >= protocol.seconds and widest <= protocol.tolerance:
                    return

    def _warm_up(self, runner: Runner) -> None:
        required = self.protocol.warmup
        series = Samples()
        start, next_check = self.clock(), _LEAST_WARMUP
        settled: bool | None = None
        while runner.label not in self.failures:
            count, elapsed = len(series.image_ns), self.clock() - start
            if required is not None:
                if count >= required:
                    break
            else:
                last = count >= _MOST_WARMUP or elapsed >= _MOST_WARMUP_NS
                if last or (count >= next_check and elapsed >= _LEAST_WARMUP_NS):
                    # The longest warm-up of a slow device has too few images to tell.
                    enough = count >= FEWEST_WARM
                    settled = settled_from(series.image_ns) is not None if enough else None
                    next_check = math.ceil(count * _CHECK_WARMUP_AGAIN)
                if last or settled:
                    break
            self._restore(runner, [self._image(_WARMUP, count)], series)
        elapsed = self.clock() - start
        self.warmups[runner.label] = Warmup(len(series.image_ns), elapsed / 1e9, settled)

    def _round(self, indices: range) -> None:
        """The same images through every runner."""
        images = [self._image(_COUNTED, index) for index in indices]
        running = [runner for runner in self.runners if runner.label in self.samples]
        turns = {runner.label: Samples() for runner in running}
        try:
            if self.yardstick is not None and self._last_yardstick is None:
                self._last_yardstick = self.yardstick.measure()
            for runner in self._next_order(running):
                if self.yardstick is not None or len(running) > 1:
                    self._settle(runner, indices.start)
                if runner.label in self.samples:
                    self._turn(runner, images, turns[runner.label])
                    if started := turns[runner.label].started_ns:
                        start = started[0] if self._start is None else self._start
                        self.between((self.clock() - start) / 1e9)
        finally:
            self._add_round({label: turns[label] for label in turns if label in self.samples})

    def _next_order(self, running: list[Runner]) -> list[Runner]:
        """Shuffled, and the next time the same reversed: a steady drift cancels in two rounds."""
        if set(self._reversed) == set(running):
            order, self._reversed = self._reversed, []
        else:
            order = [running[turn] for turn in self._shuffle.permutation(len(running))]
            self._reversed = order[::-1]
        return order

    def _settle(self, runner: Runner, first: int) -> None:
        start, count = self.clock(), 0
        while runner.label not in self.failures:
            # Numbered so that every runner settles on the same images.
            image = self._image(_SETTLING, first * _MOST_WARMUP + count)
            self._restore(runner, [image], Samples())
            count += 1
            if self.clock() - start >= SETTLE_NS or count >= _MOST_WARMUP:
                return

    def _turn(self, runner: Runner, images: Sequence[NDArray[np.uint8]], series: Samples) -> None:
        """Images in a row, with their energy and the yardstick on either side."""
        before = self._last_yardstick
        energy = None if self.joules is None else self.joules()
        try:
            self._restore(runner, images, series)
        finally:
            # The faster of both sides, or the first when interrupted.
            series.yardstick_ns += [before] * len(series.image_ns)
            series.joules += [None] * len(series.image_ns)
        count = len(series.image_ns)
        if self.joules is not None and energy is not None and count:
            series.joules = [(self.joules() - energy) / count] * count
        if self.yardstick is not None and before is not None:
            self._last_yardstick = self.yardstick.measure()
            series.yardstick_ns = [min(before, self._last_yardstick)] * count

    def _restore(
        self, runner: Runner, images: Sequence[NDArray[np.uint8]], series: Samples
    ) -> None:
        """Time images in a row through one runner."""
        for image in images:
            start = self.clock()
            try:
                runner.restore(image)
            except ElirError as error:
                self._drop(runner, str(error))
                return
            end = self.clock()
            series.started_ns.append(start)
            series.image_ns.append(end - start)
            series.device_ns.append(runner.device_ns)
            series.stages_ns.append(runner.stages_ns)

    def _add_round(self, turns: dict[str, Samples]) -> None:
        """Add a round's samples, cut to the images that every runner finished."""
        count = min((series.complete_count for series in turns.values()), default=0)
        if self._start is None and count:
            self._start = min(series.started_ns[0] for series in turns.values())
        for label, series in turns.items():
            series.started_ns = [start - (self._start or 0) for start in series.started_ns]
            self.samples[label].extend(series, count)

    def _image(self, purpose: int, index: int) -> NDArray[np.uint8]:
        if self.photograph is not None:
            return self.photograph
        return random_image(self.image_shape, self.seed, purpose, index)

    def _drop(self, runner: Runner, reason: str) -> None:
        self.failures[runner.label] = reason
        del self.samples[runner.label]
        if not self.samples:
            reasons = "; ".join(f"{label}: {reason}" for label, reason in self.failures.items())
            raise UnavailableError(f"every runner failed: {reasons}")


def random_image(
    shape: tuple[int, int, int], seed: int, purpose: int, index: int
) -> NDArray[np.uint8]:
    """Uniformly random bytes; the same for the same numbers, different for any others."""
    rng = np.random.default_rng([seed, purpose, index])
    return rng.integers(0, 256, shape, np.uint8)


@contextmanager
def _frozen_garbage() -> Iterator[None]:
    """Keep garbage collection from visiting earlier objects in the middle of a sample."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
