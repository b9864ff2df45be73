"""One runner kept busy for long: does it slow down, does its memory grow."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from elir_deploy.bench.clocks import Clock, wall_clock
from elir_deploy.bench.protocols import random_image
from elir_deploy.bench.runners import Runner
from elir_deploy.bench.stability import LevelShift, level_shift
from elir_deploy.bench.statistics import student_95
from elir_deploy.progress import ProgressCallback, no_progress

__all__ = ["Soak", "Trend", "Window", "lasting_step", "trend"]

#: Windows that a soak is cut into; none shorter than a second.
_WINDOWS = 60
_SHORTEST_S = 1.0
_IMAGE = 4  # what a random image is for, beside those of the other protocols
_POOL = 16
#: Part of a soak at its start that memory is not judged by: pools and caches fill.
_FILLING = 0.25
#: Independent points that a slope's interval assumes at least; one degree of freedom is left then.
_FEWEST_INDEPENDENT = 3.0
#: Part of a soak's variance that a step must account for. Noise whose neighbours are correlated by
#: 0.9 has steps, too, but 96 % of them account for less.
_STEP_SHARE = 0.7


@dataclass(frozen=True)
class Window:
    """A stretch of a soak.

    Attributes:
        at_s: when it began, in seconds after the soak did.
        seconds: how long it was.
        images: restored in it.
        p50_s: median latency.
        p99_s: 99th percentile.
        max_s: the slowest.
        samples_s: all of them, in the order they were taken.
        rss_bytes: the process's resident memory at its end; None where unknown.
        celsius: the hottest sensor at its end; None where unknown.
        mhz: mean clock of the cores at its end; None where unknown.
    """

    at_s: float
    seconds: float
    images: int
    p50_s: float
    p99_s: float
    max_s: float
    samples_s: tuple[float, ...]
    rss_bytes: int | None
    celsius: float | None
    mhz: float | None


@dataclass(frozen=True)
class Trend:
    """A straight line through windows.

    Attributes:
        per_hour: its slope.
        low: lower end of the 95 % interval.
        high: upper end.
    """

    per_hour: float
    low: float
    high: float


@dataclass
class Soak:
    """A run of many minutes.

    Attributes:
        runner: kept busy, one image at a time.
        seconds: to run for.
        rss: gives the process's resident memory in bytes, or None.
        heat: gives the hottest sensor in degrees Celsius and the mean clock in MHz, or None.
        windows: those finished, also after an interruption.
        complete: whether it ran to its end.
    """

    runner: Runner
    image_shape: tuple[int, int, int]
    seconds: float
    rss: Callable[[], int | None] = lambda: None
    heat: Callable[[], tuple[float | None, float | None]] = lambda: (None, None)
    seed: int = 0
    clock: Clock = wall_clock
    windows: list[Window] = field(default_factory=list)
    complete: bool = False

    def run(self, progress: ProgressCallback = no_progress) -> None:
        """Restore images for :attr:`seconds`.

        Raises:
            ElirError: the device failed; the windows until then are kept.
        """
        length = max(_SHORTEST_S, self.seconds / _WINDOWS)
        pool = [random_image(self.image_shape, self.seed, _IMAGE, k) for k in range(_POOL)]
        began = self.clock()
        turn = 0
        while (passed := (self.clock() - began) / 1e9) < self.seconds:
            what = f"soaking {self.runner.label}, seconds"
            progress(what, round(passed), round(self.seconds))
            taken: list[float] = []
            opened = now = self.clock()
            while now - opened < length * 1e9:
                self.runner.restore(pool[turn % _POOL])
                then, now = now, self.clock()
                taken.append((now - then) / 1e9)
                turn += 1
            celsius, mhz = self.heat()
            p50, p99 = np.percentile(taken, (50, 99))
            self.windows.append(
                Window(
                    at_s=(opened - began) / 1e9,
                    seconds=(now - opened) / 1e9,
                    images=len(taken),
                    p50_s=float(p50),
                    p99_s=float(p99),
                    max_s=max(taken),
                    samples_s=tuple(taken),
                    rss_bytes=self.rss(),
                    celsius=celsius,
                    mhz=mhz,
                )
            )
        self.complete = True

    def slowdown(self) -> Trend | None:
        """Change of the median latency per hour, as a fraction of the median."""
        middle = float(np.median([w.p50_s for w in self.windows])) if self.windows else 0.0
        found = trend([w.at_s for w in self.windows], [w.p50_s for w in self.windows])
        if found is None or not middle:
            return None
        return Trend(found.per_hour / middle, found.low / middle, found.high / middle)

    def growth(self) -> Trend | None:
        """Change of the resident memory in bytes per hour, its first quarter left out."""
        kept = self.windows[math.ceil(len(self.windows) * _FILLING) :]
        known = [(w.at_s, float(w.rss_bytes)) for w in kept if w.rss_bytes is not None]
        return trend([at for at, _ in known], [rss for _, rss in known])


def trend(at_s: list[float], values: list[float]) -> Trend | None:
    """Least squares, and the 95 % interval of the slope; None with fewer than eight points.

    Windows that follow each other resemble each other, so they tell less than their number: what
    remains beside the line is taken for a first-order autoregressive process, and counts as
    ``n (1 - r) / (1 + r)`` independent points (Santer et al. 2000).
    """
    count = len(values)
    if count < 8:
        return None
    times = np.asarray(at_s) / 3600
    centred = times - times.mean()
    spread = float(centred @ centred)
    if not spread:
        return None
    numbers = np.asarray(values) - np.mean(values)
    slope = float(centred @ numbers) / spread
    left = numbers - slope * centred
    squares = float(left @ left)
    neighbours = float(left[1:] @ left[:-1]) / squares if squares else 0.0
    # The line takes some of the correlation with it: by so much the estimate is too low.
    neighbours = min(max(0.0, neighbours + (1 + 4 * neighbours) / count), 1.0)
    independent = max(_FEWEST_INDEPENDENT, count * (1 - neighbours) / (1 + neighbours))
    error = math.sqrt(squares / (independent - 2) / spread)
    reach = student_95(independent - 2) * error
    return Trend(slope, slope - reach, slope + reach)


def lasting_step(values: list[float]) -> LevelShift | None:
    """A change of level between two windows that is most of what happened, as of throttling.

    A straight line fits such a series so badly that its slope says nothing.
    """
    found = level_shift(values)
    if found is None:
        return None
    series = np.asarray(values)
    parts = np.split(series, [found.at])
    within = sum(float(part.var()) * part.size for part in parts)
    return found if within <= (1 - _STEP_SHARE) * float(series.var()) * series.size else None
