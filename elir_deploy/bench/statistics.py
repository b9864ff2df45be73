"""Summaries of latencies. Nothing is clipped, trimmed or smoothed."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from elir_deploy.errors import UsageError

__all__ = [
    *("STEADY_VARIATION", "Amount", "Count", "Estimate", "Latency", "Series", "Summary"),
    *("paired_speedup", "rounded", "slope", "student_95"),
]

Count = Annotated[int, Meta(ge=0)]
Amount = Annotated[float, Meta(ge=0)]
#: In seconds. Outside of these, logarithms and ratios would overflow.
Latency = Annotated[float, Meta(ge=1e-12, le=1e6)]

#: Coefficient of variation above which a mean is not to be trusted (trtexec's threshold).
STEADY_VARIATION = 0.025

#: Turns below which there is no interval: with three, Student's is 4.3 errors wide, and one
#: disturbed turn is a third of them.
_FEWEST_TURNS = 4
#: Batches that an error is estimated from; the samples of shorter ones would be correlated.
_MOST_BATCHES = 8
#: Gauss-Legendre nodes and weights on 0 to 1.
_NODES, _WEIGHTS = (np.asarray(each) / 2 for each in np.polynomial.legendre.leggauss(32))
_NODES += 0.5


@dataclass(frozen=True)
class Summary:
    """Summary of latencies in seconds.

    Percentiles interpolate linearly; ``std`` has ``count - 1`` in the denominator, and is 0 for one
    sample. MLPerf's single-stream figure is ``p90``.
    """

    count: int
    mean: float
    std: float
    minimum: float
    p50: float
    p90: float
    p95: float
    p99: float
    maximum: float

    @classmethod
    def of(cls, samples: Sequence[float] | NDArray[np.float64]) -> Summary:
        """Summarise latencies in seconds; UsageError if there are none."""
        values = np.asarray(samples, dtype=np.float64)
        if not values.size:
            raise UsageError("no samples to summarize: measure at least one image")
        return cls(
            values.size,
            float(values.mean()),
            float(values.std(ddof=1)) if values.size > 1 else 0.0,
            *map(float, np.percentile(values, (0, 50, 90, 95, 99, 100))),
        )

    @property
    def fps(self) -> float:
        """Images per second at batch 1, from the mean."""
        return 1 / self.mean if self.mean else math.inf

    @property
    def variation(self) -> float:
        """Coefficient of variation: ``std / mean``."""
        return self.std / self.mean if self.mean else 0.0


class Series(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Latencies in seconds, in the order they were measured, and their statistics."""

    statistics: Summary
    samples_s: Annotated[list[Latency], Meta(min_length=1)]

    @classmethod
    def of(cls, samples: Sequence[float]) -> Series | None:
        """With statistics as a report has them; None without samples."""
        return cls(rounded(Summary.of(samples)), list(samples)) if samples else None


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval, whose ends are None where there are too few samples."""

    value: float
    low: float | None
    high: float | None

    @property
    def nonzero(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low is not None and self.high is not None and not self.low <= 0 <= self.high

    def scaled(self, factor: float) -> Estimate:
        """In another unit; ``factor`` is above 0."""
        ends = (None if end is None else end * factor for end in (self.low, self.high))
        return Estimate(self.value * factor, *ends)


def paired_speedup(
    reference: Sequence[float] | NDArray[np.float64],
    other: Sequence[float] | NDArray[np.float64],
    *,
    run: int = 1,
) -> Estimate:
    """Mean latency of ``reference`` over that of ``other``, two series measured in turns.

    Sample i of both is of the same image at nearly the same time, so what slows the machine down
    slows both. Neighbouring pairs are correlated, so the error is from the scatter between up to
    eight batches of whole turns (batch means of the ratio's logarithm, to first order) with
    Student's quantile. A bootstrap is too narrow: its 95 % interval of four turns holds 77 to 87 %.

    Args:
        reference: (n,) latencies in seconds.
        other: (n,) latencies of the same images.
        run: samples in a turn.

    Raises:
        UsageError: the series differ in length or are empty.
    """
    if len(reference) != len(other):
        raise UsageError(f"series of {len(reference)} and {len(other)} samples cannot be paired")
    first, second = (np.asarray(side, dtype=np.float64) for side in (reference, other))
    count = first.size
    if not count:
        raise UsageError("no samples to compare: measure at least one image")
    means = float(first.mean()), float(second.mean())
    value = means[0] / means[1]
    turns = count // run
    if turns < _FEWEST_TURNS:
        return Estimate(value, None, None)
    batches = min(turns, _MOST_BATCHES)
    # Each pair's share in the ratio's logarithm; they sum to 0.
    influence = first / means[0] - second / means[1]
    begins = [run * int(part[0]) for part in np.array_split(np.arange(turns), batches)]
    sums = np.add.reduceat(influence, begins)
    error = math.sqrt(batches / (batches - 1) * float(sums @ sums)) / count
    reach = math.exp(student_95(batches - 1) * error)
    return Estimate(value, value / reach, value * reach)


def slope(
    times: NDArray[np.float64],
    values: NDArray[np.float64],
    independent: Callable[[NDArray[np.float64]], float],
) -> Estimate | None:
    """Slope of the least-squares line; None where all ``times`` are equal.

    Args:
        independent: from the residuals, how many of them are independent of each other.
    """
    centred = times - times.mean()
    spread = float(centred @ centred)
    if not spread:
        return None
    changes = values - values.mean()
    value = float(centred @ changes) / spread
    residuals = changes - value * centred
    freedom = independent(residuals) - 2
    reach = student_95(freedom) * math.sqrt(float(residuals @ residuals) / freedom / spread)
    return Estimate(value, value - reach, value + reach)


@lru_cache(maxsize=256)
def student_95(freedom: float) -> float:
    """The 97.5th percentile of Student's t for any ``freedom`` from 1 on, also fractional.

    With ``t = sqrt(freedom) tan(angle)``, the density is proportional to
    ``cos(angle) ** (freedom - 1)``, which is smooth enough to integrate for any number of degrees.
    scipy has it too, in 35 MB.
    """
    half = (
        math.sqrt(math.pi) / 2 * math.exp(math.lgamma(freedom / 2) - math.lgamma((freedom + 1) / 2))
    )
    # Newton's method, from the normal percentile, which is lower.
    angle = math.atan(1.959963 / math.sqrt(freedom))
    for _ in range(6):
        between = angle * float(_WEIGHTS @ np.cos(angle * _NODES) ** (freedom - 1))
        angle += (0.95 * half - between) / math.cos(angle) ** (freedom - 1)
    return math.sqrt(freedom) * math.tan(angle)


def rounded(value: Any) -> Any:
    """Floats, alone, in a tuple or a record, to six significant digits: more than is measured."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, tuple):
        return tuple(map(rounded, value))
    if isinstance(value, msgspec.Struct):
        entries = msgspec.structs.asdict(value).items()
        return msgspec.structs.replace(value, **{n: rounded(v) for n, v in entries})
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.replace(value, **{n: rounded(v) for n, v in vars(value).items()})
    return value
