"""Whether a series of latencies has settled, is known well enough, and is stationary.

Samples are in the order they were taken; none is removed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elir_deploy.bench.statistics import Estimate, slope

__all__ = [
    *("FEWEST_WARM", "LevelShift", "Modes", "drift", "half_width", "level_shift", "settled_from"),
    "two_speeds",
]

#: Batches that a half-width is estimated from.
_BATCHES = 8
#: Student's 99th percentile for those. With the 97.5th, 2.36, the interval holds the median in 95 %
#: of series of a fixed length, but in 90 to 92 % of runs that end once it is narrow enough: they
#: end where it is underestimated. With this one it is 95 % again.
_REACH = 2.998
#: Windows of time whose medians show drift and level shifts.
_WINDOWS = 20
_SHUFFLES = 1000
#: A level shift that shuffled windows reach more often than this is chance.
_CHANCE = 0.005
#: Smaller level shifts, and closer speeds, do not matter.
_LEAST_SHIFT = 1.05
_LEAST_GAP = 1.10
#: Distance between the medians of two speeds, in widths of the wider group, on a logarithmic scale.
#: The halves of a normal distribution are 2.3 apart, those of a uniform one 3.2.
_APART = 6.0
#: A group's width is that of a normal distribution with the same 10th and 90th percentiles, which
#: a few outliers do not move. Nor do they move the split: samples are clipped to the 5th and 95th
#: percentile of all.
_INNER, _NORMAL_INNER = (0.1, 0.9), 2.563
_ALL_BUT_OUTLIERS = (0.05, 0.95)
_LEAST_SHARE = 0.1
#: With fewer samples a warm-up is not judged.
FEWEST_WARM = 5


def settled_from(samples: Sequence[float] | NDArray[np.float64]) -> int | None:
    """Index from which a warm-up is steady; None if it is not, or too short.

    The marginal standard error rule (White 1997): cut where the standard error of the rest is
    least. If that is not in the first half, the series still moves.
    """
    values = np.asarray(samples, dtype=np.float64)
    count = values.size
    if count < FEWEST_WARM:
        return None
    left = count - np.arange(count - 2)  # samples after each cut
    centred = values - values.mean()
    sums = centred[::-1].cumsum()[::-1][: count - 2]
    squares = (centred**2)[::-1].cumsum()[::-1][: count - 2]
    errors = np.maximum(squares - sums**2 / left, 0) / left**2
    # The earliest of those that are equal up to rounding.
    cut = int(np.argmax(errors <= errors.min() + (1e-9 * np.abs(values).max()) ** 2))
    return cut if cut < count // 2 else None


def half_width(samples: Sequence[float] | NDArray[np.float64]) -> float:
    """Half the 95 % interval of the median, relative to it; infinite with under 40 samples.

    From the scatter of the medians of eight batches, which includes the correlation of neighbours.
    It holds for runs that end once it is narrow enough; with a fixed number of samples it is a 98 %
    interval.
    """
    values = np.asarray(samples, dtype=np.float64)
    if values.size < 5 * _BATCHES:
        return math.inf
    medians = [float(np.median(batch)) for batch in np.array_split(values, _BATCHES)]
    median = float(np.median(values))
    error = float(np.std(medians, ddof=1)) / math.sqrt(_BATCHES)
    return _REACH * error / median if median else 0.0


@dataclass(frozen=True)
class LevelShift:
    """A lasting change of speed within a series, as when a device begins to throttle.

    Attributes:
        at: index of the first sample after it.
        ratio: latency after it over that before; above 1 is slower.
    """

    at: int
    ratio: float


@dataclass(frozen=True)
class Modes:
    """Two speeds between which a series changes: their medians, in the unit of the samples.

    Attributes:
        share: of samples in the faster group.
    """

    fast: float
    slow: float
    share: float


def drift(samples: Sequence[float], started: Sequence[float]) -> Estimate | None:
    """Change over the whole run, as a fraction of the median latency; above 0 is slower.

    The linear trend of the medians of 20 windows over the times when the samples ``started``; None
    with under 40 samples.
    """
    windows = _windows(samples)
    if windows is None:
        return None
    starts = np.array_split(np.asarray(started, dtype=np.float64), _WINDOWS)
    times = np.array([float(part.mean()) for part in starts])
    median = float(np.median(windows))
    trend = slope(times, windows, lambda residuals: _WINDOWS)
    return trend.scaled(float(started[-1] - started[0]) / median) if trend and median else None


def level_shift(samples: Sequence[float]) -> LevelShift | None:
    """The level shift that explains a series best; None if chance or a drift explains it.

    A drift is a straight line through the windows. Its shuffled residuals show how much better than
    the line a level shift is by chance.
    """
    windows = _windows(samples)
    if windows is None:
        return None
    splits, explained = _best_splits(windows)
    at = int(splits)
    before, after = float(windows[:at].mean()), float(windows[at:].mean())
    ratio = after / before if before else 1.0
    if max(ratio, 1 / ratio if ratio else math.inf) < _LEAST_SHIFT:
        return None
    places = np.arange(_WINDOWS) - (_WINDOWS - 1) / 2
    places /= math.sqrt(float(places @ places))
    line = windows.mean() + (places @ windows) * places
    rng = np.random.default_rng(0)
    shuffled = line + rng.permuted(np.tile(windows - line, (_SHUFFLES, 1)), axis=1)
    gain = float(explained) - float(places @ windows) ** 2
    chance_gains = _best_splits(shuffled)[1] - (shuffled @ places) ** 2
    if gain <= 0 or int((chance_gains >= gain).sum()) > _CHANCE * _SHUFFLES:
        return None
    sizes = [part.size for part in np.array_split(np.asarray(samples), _WINDOWS)]
    return LevelShift(sum(sizes[:at]), ratio)


def two_speeds(samples: Sequence[float]) -> Modes | None:
    """Two separate groups of latencies, each a tenth of the samples or more; else None."""
    values = np.sort(np.asarray(samples, dtype=np.float64))
    if values.size < 5 * _BATCHES or values[0] <= 0:
        return None
    logs = np.log(values)
    at = int(_best_splits(np.clip(logs, *np.quantile(logs, _ALL_BUT_OUTLIERS)))[0])
    fewest = min(at, logs.size - at)
    fast, slow = float(np.median(values[:at])), float(np.median(values[at:]))
    width = max(float(np.ptp(np.quantile(part, _INNER))) for part in (logs[:at], logs[at:]))
    apart = slow / fast >= _LEAST_GAP
    apart = apart and math.log(slow / fast) >= _APART * width / _NORMAL_INNER
    enough = fewest >= _LEAST_SHARE * logs.size
    return Modes(fast, slow, at / logs.size) if apart and enough else None


def _windows(samples: Sequence[float]) -> NDArray[np.float64] | None:
    values = np.asarray(samples, dtype=np.float64)
    if values.size < 2 * _WINDOWS:
        return None
    return np.array([float(np.median(part)) for part in np.array_split(values, _WINDOWS)])


def _best_splits(values: NDArray[np.float64]) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Where to split each row so that its parts differ the most, and the squares that explains."""
    count = values.shape[-1]
    before = np.arange(1, count)
    centred = values - values.mean(axis=-1, keepdims=True)
    sums = centred.cumsum(axis=-1)[..., :-1]
    explained = sums**2 * count / (before * (count - before))
    return explained.argmax(axis=-1) + 1, explained.max(axis=-1)
