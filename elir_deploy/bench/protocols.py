"""How samples are taken: which images, how many, in which order."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from elir_deploy.bench.clocks import Clock, wall_clock
from elir_deploy.bench.runners import Runner
from elir_deploy.bench.stability import FEWEST_WARM, half_width, settled_from
from elir_deploy.bench.yardstick import SETTLE_NS
from elir_deploy.errors import ElirError, UnavailableError
from elir_deploy.progress import ProgressCallback, no_progress

__all__ = [
    "PROTOCOLS",
    "BenchProtocol",
    "Measurement",
    "Samples",
    "Warmup",
    "random_image",
]

#: What a random image is for; no two images are the same.
_WARMUP, _COUNTED, _SETTLING = range(3)
#: Warming up by itself: never fewer images or shorter, unless the most of the other is reached.
_LEAST_WARMUP, _MOST_WARMUP = 10, 500
_LEAST_WARMUP_NS, _MOST_WARMUP_NS = 10**9, 60 * 10**9
#: How much longer a series must be before it is looked at again: looking at every image would end
#: at a lucky moment.
_LOOK_AGAIN_WARMUP, _LOOK_AGAIN = 1.25, 1.1


@dataclass(frozen=True)
class BenchProtocol:
    """What one run consists of.

    Attributes:
        name: what ``--protocol`` takes.
        title: one line for people.
        warmup: images restored before the first that counts; None: until the latencies settle.
        images: images that count; None: until the medians are known to ``tolerance``.
        seconds: that the run lasts for at least, for each of the runners, where ``images`` is
            None; of each load, for throughput; of each runner, for soak.
        at_most_s: after which the run ends in any case, where ``images`` is None.
        tolerance: largest relative half-width of the 95 % interval of each median.
        block: images a runner restores in a row before the next one's turn.
        in_turns: whether runners take turns; without, the last three mean nothing.
        input: which images, in words.
        order: in which the runners come, in words.
        timed: from where to where, in words.
    """

    name: str
    title: str
    warmup: int | None = None
    images: int | None = None
    seconds: float = 10.0
    at_most_s: float = 300.0
    tolerance: float = 0.02
    block: int = 5
    in_turns: bool = True
    input: str = "uniformly random bytes, a new image each time"
    order: str = (
        "runners take turns of `block` images, each turn after images that do not count; the "
        "order is shuffled for one round and reversed for the next"
    )
    timed: str = "8-bit image to restored 8-bit image; device: inside the backend's run"


_TABLE = (
    BenchProtocol(
        name="paper",
        title="the paper's: batch 1, random images, 10 to warm up, mean of 200",
        warmup=10,
        images=200,
    ),
    BenchProtocol(
        name="latency",
        title="one image at a time, until every median is known to 2 % and 10 s have passed",
    ),
    BenchProtocol(
        name="throughput",
        title="many images: several callers, streams, batches, and from files to files",
        input="16 images of uniformly random bytes in a ring; batch: one batch of random bytes; "
        "files: the bundle's photographs as PNG",
        order="every load of one runner after the other, in two passes of opposite order",
        timed="callers, streams: 8-bit image to restored 8-bit image; batch: inside the backend's "
        "run; files: image file to image file",
        warmup=1,
        seconds=5.0,
        in_turns=False,
    ),
    BenchProtocol(
        name="stages",
        title="as latency, each of encoder, estimator, every Euler step and decoder timed alone",
    ),
    BenchProtocol(
        name="steps",
        title="as latency, over numbers of Euler steps M: speed and quality of each",
    ),
    BenchProtocol(
        name="soak",
        title="each runner kept busy for long: does it slow down, does its memory grow",
        input="16 images of uniformly random bytes in a ring",
        order="one runner after the other",
        timed="8-bit image to restored 8-bit image",
        warmup=0,
        seconds=600.0,
        in_turns=False,
    ),
)
#: All protocols by name.
PROTOCOLS: dict[str, BenchProtocol] = {protocol.name: protocol for protocol in _TABLE}


class _Yardstick(Protocol):
    def measure(self) -> int: ...


@dataclass
class Samples:
    """The series of one runner; entry i of each list belongs to image i.

    Attributes:
        image_ns: from the 8-bit image to the restored 8-bit image.
        device_ns: of that, inside the backend's run; None where it cannot be told apart.
        started_ns: when the sample began, since the first began.
        yardstick_ns: what the yardstick took next to the sample's turn, the faster of before and
            after; None without a yardstick.
        joules: of the turn, shared out over its images; None where no meter runs.
        parts_ns: what ``device_ns`` consists of, by part; empty where it is all one.
    """

    image_ns: list[int] = field(default_factory=list)
    device_ns: list[int | None] = field(default_factory=list)
    started_ns: list[int] = field(default_factory=list)
    yardstick_ns: list[int | None] = field(default_factory=list)
    joules: list[float | None] = field(default_factory=list)
    parts_ns: list[tuple[int, ...]] = field(default_factory=list)

    @property
    def _lists(self) -> tuple[list[Any], ...]:
        return tuple(getattr(self, entry.name) for entry in fields(self))

    def keep(self, more: Samples, count: int) -> None:
        """Append the first ``count`` of ``more``."""
        for own, other in zip(self._lists, more._lists, strict=True):
            own += other[:count]

    def cut(self, count: int) -> None:
        """Leave no more than ``count``."""
        for own in self._lists:
            del own[count:]

    @property
    def whole(self) -> int:
        """Samples that have every entry: an interruption may fall between two lists."""
        return min(len(own) for own in self._lists)


@dataclass(frozen=True)
class Warmup:
    """What a runner restored before it counted.

    Attributes:
        images: how many.
        seconds: it took.
        settled: whether the latencies had settled; None where nobody looked, or where too few
            images fit into the longest warm-up to tell.
    """

    images: int
    seconds: float
    settled: bool | None


class Measurement:
    """Runners measured side by side.

    They take turns of a few images each, every round of the same images, in an order that is
    shuffled for one round and reversed for the next: clock changes, heat and other programs hit
    all of them alike, and none always follows the same neighbour. A turn begins with images that
    do not count, one or as many as take 50 ms, since the neighbour has emptied the caches and its
    threads still spin: right after another library, eager PyTorch took a fifth longer than in a
    row of its own (4.9 M parameters at 128 x 128).

    Args:
        runners: with distinct labels.
        protocol: how many images.
        image_shape: (H, W, 3) of the images handed to the runners.
        seed: of images and order.
        clock: to time with.
        yardstick: measured before every turn; None: none.
        joules: gives the energy used since some moment; read at both ends of a turn.
        between: called after every turn, with the seconds since the first.

    Attributes:
        samples: by label; all series have the same length, also after an interruption.
        warmups: by label.
        failures: label to reason, of runners that gave up and were left out.
        complete: whether every image was measured.
    """

    def __init__(
        self,
        runners: Sequence[Runner],
        protocol: BenchProtocol,
        image_shape: tuple[int, int, int],
        *,
        seed: int = 0,
        clock: Clock = wall_clock,
        yardstick: _Yardstick | None = None,
        joules: Callable[[], float] | None = None,
        between: Callable[[float], None] | None = None,
    ) -> None:
        self.protocol = protocol
        self.samples = {runner.label: Samples() for runner in runners}
        self.warmups: dict[str, Warmup] = {}
        self.failures: dict[str, str] = {}
        self.complete = False
        self._runners = list(runners)
        self._image_shape = image_shape
        self._seed = seed
        self._clock = clock
        self._yardstick = yardstick
        self._joules = joules
        self._between = between
        self._shuffle = np.random.default_rng(seed)
        self._reversed: list[Runner] = []
        self._began: int | None = None
        self._last_yardstick: int | None = None

    @property
    def begun(self) -> bool:
        """Whether there is a sample at all."""
        return any(series.image_ns for series in self.samples.values())

    def run(self, progress: ProgressCallback = no_progress) -> None:
        """Warm up, then measure. Interrupted, it keeps the images that all runners finished.

        Raises:
            UnavailableError: no runner was left.
        """
        try:
            with _no_garbage_collection_of_the_past():
                for runner in self._runners:
                    progress(f"warming up {runner.label}", 0, 0)
                    self._warm_up(runner)
                if self.protocol.images is None:
                    self._until_known(progress)
                else:
                    self._so_many(self.protocol.images, progress)
        finally:  # an interruption may fall between two runners' samples
            whole = min((series.whole for series in self.samples.values()), default=0)
            for series in self.samples.values():
                series.cut(whole)
        self.complete = True

    def half_widths(self) -> dict[str, float]:
        """By label, of the 95 % interval of the median, relative to it."""
        return {label: half_width(series.image_ns) for label, series in self.samples.items()}

    def _so_many(self, images: int, tell: ProgressCallback) -> None:
        block = self.protocol.block
        for first in range(0, images, block):
            tell("measuring", first, images)
            self._round(range(first, min(first + block, images)))

    def _until_known(self, tell: ProgressCallback) -> None:
        """Until every median is known well enough, looked at whenever there is a tenth more."""
        protocol, block = self.protocol, self.protocol.block
        began, first, next_look = self._clock(), 0, 8 * block
        while True:
            passed = (self._clock() - began) / 1e9
            tell("measuring, seconds", round(passed), round(protocol.at_most_s))
            if first and passed >= protocol.at_most_s:
                return
            self._round(range(first, first + block))
            first += block
            if first >= next_look:
                next_look = math.ceil(first * _LOOK_AGAIN)
                # Of each runner: settling counts, or a fast one would never come to an end.
                each = (self._clock() - began) / 1e9 / len(self.samples)
                widest = max(self.half_widths().values())
                if each >= protocol.seconds and widest <= protocol.tolerance:
                    return

    def _warm_up(self, runner: Runner) -> None:
        fixed = self.protocol.warmup
        taken = Samples()
        began, next_look = self._clock(), _LEAST_WARMUP
        settled: bool | None = None
        while runner.label not in self.failures:
            done, passed = len(taken.image_ns), self._clock() - began
            if fixed is not None:
                if done >= fixed:
                    break
            else:
                last = done >= _MOST_WARMUP or passed >= _MOST_WARMUP_NS
                if last or (done >= next_look and passed >= _LEAST_WARMUP_NS):
                    # The longest warm-up of a slow device ends before that can be told.
                    known = done >= FEWEST_WARM
                    settled = settled_from(taken.image_ns) is not None if known else None
                    next_look = math.ceil(done * _LOOK_AGAIN_WARMUP)
                if last or settled:
                    break
            self._take(runner, [self._image(_WARMUP, done)], taken)
        passed = self._clock() - began
        self.warmups[runner.label] = Warmup(len(taken.image_ns), passed / 1e9, settled)

    def _round(self, indices: range) -> None:
        """The same images through every runner."""
        images = [self._image(_COUNTED, index) for index in indices]
        running = [c for c in self._runners if c.label in self.samples]
        taken = {runner.label: Samples() for runner in running}
        try:
            if self._yardstick is not None and self._last_yardstick is None:
                self._last_yardstick = self._yardstick.measure()
            for runner in self._next_order(running):
                if self._yardstick is not None or len(running) > 1:
                    self._settle(runner, indices.start)
                if runner.label in self.samples:
                    self._turn(runner, images, taken[runner.label])
                    self._look_around(taken[runner.label])
        finally:
            self._keep({label: taken[label] for label in taken if label in self.samples})

    def _look_around(self, series: Samples) -> None:
        if self._between is not None and series.started_ns:
            began = series.started_ns[0] if self._began is None else self._began
            self._between((self._clock() - began) / 1e9)

    def _next_order(self, running: list[Runner]) -> list[Runner]:
        """Shuffled, and the next time the same reversed: a steady drift cancels in two rounds."""
        if set(self._reversed) == set(running):
            order, self._reversed = self._reversed, []
        else:
            order = [running[turn] for turn in self._shuffle.permutation(len(running))]
            self._reversed = order[::-1]
        return order

    def _settle(self, runner: Runner, first: int) -> None:
        began, done = self._clock(), 0
        while runner.label not in self.failures:
            # Numbered so that every runner settles on the same images.
            image = self._image(_SETTLING, first * _MOST_WARMUP + done)
            self._take(runner, [image], Samples())
            done += 1
            if self._clock() - began >= SETTLE_NS or done >= _MOST_WARMUP:
                return

    def _turn(self, runner: Runner, images: Sequence[NDArray[np.uint8]], series: Samples) -> None:
        """Images in a row, with the energy they took and the yardstick on either side."""
        before = self._last_yardstick
        energy = None if self._joules is None else self._joules()
        try:
            self._take(runner, images, series)
        finally:
            # The faster of both sides, or the one there is when interrupted.
            series.yardstick_ns += [before] * len(series.image_ns)
            series.joules += [None] * len(series.image_ns)
        count = len(series.image_ns)
        if self._joules is not None and energy is not None and count:
            series.joules = [(self._joules() - energy) / count] * count
        if self._yardstick is not None and before is not None:
            self._last_yardstick = self._yardstick.measure()
            series.yardstick_ns = [min(before, self._last_yardstick)] * count

    def _take(self, runner: Runner, images: Sequence[NDArray[np.uint8]], series: Samples) -> None:
        """Time images in a row through one runner."""
        for image in images:
            start = self._clock()
            try:
                runner.restore(image)
            except ElirError as error:
                self._drop(runner, str(error))
                return
            end = self._clock()
            series.started_ns.append(start)
            series.image_ns.append(end - start)
            series.device_ns.append(runner.device_ns)
            series.parts_ns.append(runner.parts_ns)

    def _keep(self, taken: dict[str, Samples]) -> None:
        """Add a round's samples, cut to the images that every runner finished."""
        whole = min((series.whole for series in taken.values()), default=0)
        if self._began is None and whole:
            self._began = min(series.started_ns[0] for series in taken.values())
        for label, series in taken.items():
            series.started_ns = [start - (self._began or 0) for start in series.started_ns]
            self.samples[label].keep(series, whole)

    def _image(self, purpose: int, index: int) -> NDArray[np.uint8]:
        return random_image(self._image_shape, self._seed, purpose, index)

    def _drop(self, runner: Runner, reason: str) -> None:
        self.failures[runner.label] = reason
        del self.samples[runner.label]
        if not self.samples:
            reasons = "; ".join(f"{label}: {why}" for label, why in self.failures.items())
            raise UnavailableError(f"every runner failed: {reasons}")


def random_image(
    shape: tuple[int, int, int], seed: int, purpose: int, index: int
) -> NDArray[np.uint8]:
    """Uniformly random bytes; the same for the same numbers, another for any other."""
    rng = np.random.default_rng([seed, purpose, index])
    return rng.integers(0, 256, shape, np.uint8)


@contextmanager
def _no_garbage_collection_of_the_past() -> Iterator[None]:
    """Keep Python from walking all that was made before, at a moment of its choice."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
