"""One runner under long load: whether it slows down, or its memory grows."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from elir_deploy.bench.measurement import random_image
from elir_deploy.bench.runners import Runner
from elir_deploy.bench.stability import LevelShift, level_shift
from elir_deploy.bench.statistics import Estimate, slope
from elir_deploy.progress import ProgressCallback, no_progress

__all__ = ["Soak", "Window", "lasting_step", "trend"]

#: Windows of a soak; none is shorter than a second.
_WINDOWS = 60
_SHORTEST_S = 1.0
_IMAGE = 4  # purpose of a random image, beside those of the other protocols
_POOL = 16
#: First part of a soak, ignored when memory is judged: pools and caches fill.
_FILLING = 0.25
#: Least independent points of a slope's interval; they leave one degree of freedom.
_FEWEST_INDEPENDENT = 3.0
#: Part of a soak's variance that a level shift must account for. Noise whose neighbours are
#: correlated by 0.9 has shifts, too, but 96 % of them account for less.
_STEP_SHARE = 0.7


@dataclass(frozen=True)
class Window:
    """A stretch of a soak.

    Attributes:
        at_s: its start, in seconds after the soak's.
        p50_s, p99_s: percentiles of the latency.
        samples_s: all latencies in order.
        rss_bytes: the process's resident memory at its end; None where unknown.
        celsius: the hottest sensor at its end; None where unknown.
        mhz: mean clock of the cores at its end; None where unknown.
    """

    at_s: float
    seconds: float
    images: int
    p50_s: float
    p99_s: float
    samples_s: tuple[float, ...]
    rss_bytes: int | None
    celsius: float | None
    mhz: float | None


@dataclass
class Soak:
    """A run of many minutes.

    Attributes:
        runner: kept busy, one image at a time.
        image_shape: (H, W, 3) of the images.
        rss: returns the process's resident memory in bytes, or None.
        heat: returns the hottest sensor in degrees Celsius and the mean clock in MHz, or None.
        windows: those finished, also after an interruption.
        complete: whether it ran to its end.
    """

    runner: Runner
    image_shape: tuple[int, int, int]
    seconds: float
    rss: Callable[[], int | None] = lambda: None
    heat: Callable[[], tuple[float | None, float | None]] = lambda: (None, None)
    seed: int = 0
    clock: Callable[[], int] = time.perf_counter_ns
    windows: list[Window] = field(default_factory=list)
    complete: bool = False

    def run(self, progress: ProgressCallback = no_progress) -> None:
        """Restore images for :attr:`seconds`.

        Raises:
            ElirError: the device failed; the finished windows are kept.
        """
        length = max(_SHORTEST_S, self.seconds / _WINDOWS)
        pool = [random_image(self.image_shape, self.seed, _IMAGE, k) for k in range(_POOL)]
        start = self.clock()
        turn = 0
        while (elapsed := (self.clock() - start) / 1e9) < self.seconds:
            progress(f"soaking {self.runner.label}, seconds", round(elapsed), round(self.seconds))
            samples: list[float] = []
            opened = now = self.clock()
            while now - opened < length * 1e9:
                self.runner.restore(pool[turn % _POOL])
                before, now = now, self.clock()
                samples.append((now - before) / 1e9)
                turn += 1
            celsius, mhz = self.heat()
            p50, p99 = np.percentile(samples, (50, 99))
            self.windows.append(
                Window(
                    at_s=(opened - start) / 1e9,
                    seconds=(now - opened) / 1e9,
                    images=len(samples),
                    p50_s=float(p50),
                    p99_s=float(p99),
                    samples_s=tuple(samples),
                    rss_bytes=self.rss(),
                    celsius=celsius,
                    mhz=mhz,
                )
            )
        self.complete = True

    @property
    def label(self) -> str:
        """The runner's."""
        return self.runner.label

    @property
    def drift_percent(self) -> Estimate | None:
        """Change of the median latency per hour, in per cent of the median."""
        middle = float(np.median([w.p50_s for w in self.windows])) if self.windows else 0.0
        line = trend([w.at_s for w in self.windows], [w.p50_s for w in self.windows])
        return line.scaled(100 / middle) if line and middle else None

    @property
    def rss_growth_bytes(self) -> Estimate | None:
        """Change of the resident memory in bytes per hour, without the first quarter."""
        windows = self.windows[math.ceil(len(self.windows) * _FILLING) :]
        known = [(w.at_s, float(w.rss_bytes)) for w in windows if w.rss_bytes is not None]
        return trend([at for at, _ in known], [rss for _, rss in known])


def trend(at_s: list[float], values: list[float]) -> Estimate | None:
    """Slope per hour by least squares; None with fewer than eight points.

    Neighbouring windows resemble each other: the residuals are treated as a first-order
    autoregressive process, worth ``n (1 - r) / (1 + r)`` independent points (Santer et al. 2000).
    """
    count = len(values)
    if count < 8:
        return None

    def independent(residuals: NDArray[np.float64]) -> float:
        squares = float(residuals @ residuals)
        neighbours = float(residuals[1:] @ residuals[:-1]) / squares if squares else 0.0
        # Fitting the line removes some of the correlation; this corrects the estimate.
        neighbours = min(max(0.0, neighbours + (1 + 4 * neighbours) / count), 1.0)
        return max(_FEWEST_INDEPENDENT, count * (1 - neighbours) / (1 + neighbours))

    return slope(np.asarray(at_s) / 3600, np.asarray(values), independent)


def lasting_step(values: list[float]) -> LevelShift | None:
    """A level shift that explains most of the variance, such as throttling.

    A straight line fits such a series so badly that its slope says nothing.
    """
    shift = level_shift(values)
    if shift is None:
        return None
    series = np.asarray(values)
    parts = np.split(series, [shift.at])
    within = sum(float(part.var()) * part.size for part in parts)
    return shift if within <= (1 - _STEP_SHARE) * float(series.var()) * series.size else None
