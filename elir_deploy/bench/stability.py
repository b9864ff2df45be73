"""Whether a series of latencies has settled, is known well enough, and stays where it is.

Every rule looks at the series as it was taken, in order. None of them removes a sample.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elir_deploy.bench.statistics import student_95

__all__ = [
    "FEWEST_WARM",
    "Drift",
    "Modes",
    "Step",
    "drift",
    "half_width",
    "settled_from",
    "step",
    "two_speeds",
]

#: Stretches of time that a half-width is estimated from.
_BATCHES = 8
#: Student's 99th percentile for those. The 97.5th, 2.36, holds the median in 95 % of series of a
#: given length, but a run that ends at the first look at which it is small ends at looks that
#: underrate it: the true median is then within in 90 to 92 % only, with this one in 95 % again.
_REACH = 2.998
#: Stretches of time whose medians show drift and steps.
_WINDOWS = 20
_SHUFFLES = 1000
#: A step that shuffled windows reach more often than this is chance.
_CHANCE = 0.005
#: Smaller steps, and modes closer than that, are of no consequence.
_LEAST_STEP = 1.05
_LEAST_GAP = 1.10
#: Widths of the wider group, in logarithms, that the medians of two modes must lie apart. A normal
#: distribution cut in half has halves 2.3 apart, a uniform one 3.2; a tail is as wide as it is far.
_APART = 6.0
#: A group's width is that of a normal distribution with the same 10th and 90th percentiles, which
#: a few outliers do not move. The cut is not theirs either: beyond the 5th and 95th percentile of
#: all, a sample counts as one there.
_INNER, _NORMAL_INNER = (0.1, 0.9), 2.563
_ALL_BUT_OUTLIERS = (0.05, 0.95)
_LEAST_SHARE = 0.1
#: Samples below which nothing is said of a warm-up.
FEWEST_WARM = 5


def settled_from(samples: Sequence[float] | NDArray[np.float64]) -> int | None:
    """Index from which on a warming-up series is steady; None where it is not, or too short.

    The marginal standard error rule (White 1997): cut where the standard error of what remains is
    least. A cut that is not in the first half means that the series still moves.
    """
    values = np.asarray(samples, dtype=np.float64)
    count = values.size
    if count < FEWEST_WARM:
        return None
    left = count - np.arange(count - 2)  # samples that remain after each cut
    centred = values - values.mean()
    sums = centred[::-1].cumsum()[::-1][: count - 2]
    squares = (centred**2)[::-1].cumsum()[::-1][: count - 2]
    errors = np.maximum(squares - sums**2 / left, 0) / left**2
    # Rounding leaves tiny errors where there are none: the earliest of equals.
    cut = int(np.argmax(errors <= errors.min() + (1e-9 * np.abs(values).max()) ** 2))
    return cut if cut < count // 2 else None


def half_width(samples: Sequence[float] | NDArray[np.float64]) -> float:
    """Half the 95 % interval of the median, relative to it; infinite with under 40 samples.

    From the scatter of the median over eight stretches of time, which holds the correlation of
    neighbours. It is so wide that it holds where a run ends as soon as it is small enough; of a
    number of samples fixed beforehand it holds 98 %.
    """
    values = np.asarray(samples, dtype=np.float64)
    if values.size < 5 * _BATCHES:
        return math.inf
    found = [float(np.median(batch)) for batch in np.array_split(values, _BATCHES)]
    whole = float(np.median(values))
    error = float(np.std(found, ddof=1)) / math.sqrt(_BATCHES)
    return _REACH * error / whole if whole else 0.0


@dataclass(frozen=True)
class Drift:
    """A steady change over a run.

    Attributes:
        change: over the whole run, as a fraction of the median latency; above 0 is slower.
        low: lower end of the 95 % interval.
        high: upper end.
    """

    change: float
    low: float
    high: float

    @property
    def shown(self) -> bool:
        """Whether the interval leaves out "no change"."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Step:
    """A change from one image to the next that stays, as when a device begins to throttle.

    Attributes:
        at: index of the first sample after it.
        ratio: latency after it over that before; above 1 is slower.
    """

    at: int
    ratio: float


@dataclass(frozen=True)
class Modes:
    """Two speeds between which a series changes.

    Attributes:
        fast: typical latency of the faster group, in seconds or whatever the samples are in.
        slow: of the slower one.
        share: of samples in the faster group.
    """

    fast: float
    slow: float
    share: float


def drift(samples: Sequence[float], started: Sequence[float]) -> Drift | None:
    """Linear trend of the medians of stretches of time; None with too few samples for one.

    Args:
        samples: latencies in the order they were taken.
        started: when each began, in any unit.
    """
    windows = _windows(samples)
    if windows is None:
        return None
    parts = np.array_split(np.asarray(started, dtype=np.float64), _WINDOWS)
    times = np.array([float(part.mean()) for part in parts])
    span = float(started[-1] - started[0])
    middle = float(np.median(windows))
    centred = times - times.mean()
    spread = float(centred @ centred)
    if not spread or not middle:
        return None
    around = windows - windows.mean()
    slope = float(centred @ around) / spread
    left = around - slope * centred
    error = math.sqrt(float(left @ left) / (_WINDOWS - 2) / spread)
    reach = student_95(_WINDOWS - 2) * error
    return Drift(*(float(s * span / middle) for s in (slope, slope - reach, slope + reach)))


def step(samples: Sequence[float]) -> Step | None:
    """The one change of level that explains a series best, if neither chance nor a trend does.

    A straight line through stretches of time is what a trend looks like, and what remains beside
    it, shuffled, what chance adds to one: rarely does a step then gain so much over the line.
    """
    windows = _windows(samples)
    if windows is None:
        return None
    cuts, explained = _best_splits(windows)
    at = int(cuts)
    before, after = float(windows[:at].mean()), float(windows[at:].mean())
    ratio = after / before if before else 1.0
    if max(ratio, 1 / ratio if ratio else math.inf) < _LEAST_STEP:
        return None
    places = np.arange(_WINDOWS) - (_WINDOWS - 1) / 2
    places /= math.sqrt(float(places @ places))
    line = windows.mean() + (places @ windows) * places
    rng = np.random.default_rng(0)
    shuffled = line + rng.permuted(np.tile(windows - line, (_SHUFFLES, 1)), axis=1)
    gained = float(explained) - float(places @ windows) ** 2
    by_chance = _best_splits(shuffled)[1] - (shuffled @ places) ** 2
    if gained <= 0 or int((by_chance >= gained).sum()) > _CHANCE * _SHUFFLES:
        return None
    sizes = [part.size for part in np.array_split(np.asarray(samples), _WINDOWS)]
    return Step(sum(sizes[:at]), ratio)


def two_speeds(samples: Sequence[float]) -> Modes | None:
    """Two clearly separate groups of latencies, each of a tenth of the samples or more."""
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
    """Where to cut each row so that its two parts differ the most, and the squares it explains."""
    count = values.shape[-1]
    before = np.arange(1, count)
    centred = values - values.mean(axis=-1, keepdims=True)
    sums = centred.cumsum(axis=-1)[..., :-1]
    explained = sums**2 * count / (before * (count - before))
    return explained.argmax(axis=-1) + 1, explained.max(axis=-1)
