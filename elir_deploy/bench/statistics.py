"""What a series of latencies says. Nothing is clipped, trimmed or smoothed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from elir_deploy.errors import UsageError

__all__ = ["STEADY_VARIATION", "Ratio", "Summary", "paired_speedup", "psnr_db", "student_95"]

#: Coefficient of variation above which a mean is not to be trusted (trtexec's threshold).
STEADY_VARIATION = 0.025

#: Runs of samples below which their spread says nothing, and no interval is given.
_FEWEST_RUNS = 4
#: Random numbers drawn at a time in the bootstrap: bounds its memory.
_CHUNK = 2**20


@dataclass(frozen=True)
class Summary:
    """A series of latencies in seconds.

    Attributes:
        count: of samples.
        mean: arithmetic; its reciprocal is the throughput at batch 1.
        std: of the samples (``count - 1`` in the denominator); 0 for one sample.
        minimum: the fastest.
        p50: median; percentiles interpolate linearly between samples.
        p90: as MLPerf's single-stream figure.
        p95: likewise.
        p99: likewise.
        maximum: the slowest.
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
        """Summarize latencies in seconds.

        Raises:
            UsageError: there are none.
        """
        values = np.asarray(samples, dtype=np.float64)
        if not values.size:
            raise UsageError("no samples to summarize: measure at least one image")
        p50, p90, p95, p99 = (float(p) for p in np.percentile(values, (50, 90, 95, 99)))
        return cls(
            count=values.size,
            mean=float(values.mean()),
            std=float(values.std(ddof=1)) if values.size > 1 else 0.0,
            minimum=float(values.min()),
            p50=p50,
            p90=p90,
            p95=p95,
            p99=p99,
            maximum=float(values.max()),
        )

    @property
    def fps(self) -> float:
        """Images a second at batch 1, from the mean."""
        return 1 / self.mean if self.mean else math.inf

    @property
    def variation(self) -> float:
        """Coefficient of variation: ``std / mean``."""
        return self.std / self.mean if self.mean else 0.0


@dataclass(frozen=True)
class Ratio:
    """How many times faster than the reference, with an interval.

    Attributes:
        value: mean latency of the reference over that of the other; above 1 is faster.
        low: lower end of the interval; None where there are too few samples for one.
        high: upper end, likewise.
        confidence: of the interval.
    """

    value: float
    low: float | None
    high: float | None
    confidence: float


def paired_speedup(
    reference: Sequence[float] | NDArray[np.float64],
    other: Sequence[float] | NDArray[np.float64],
    *,
    confidence: float = 0.95,
    run: int = 1,
    resamples: int = 10_000,
    seed: int = 0,
) -> Ratio:
    """Ratio of the mean latencies of two series taken side by side.

    Sample i of both is of the same image and of nearly the same time, so what slows the machine
    down slows both: pairs are resampled. Neighbouring pairs resemble each other, so they are drawn
    in runs of ``n ** (1/3)`` (circular block bootstrap), or of ``run`` where that is longer.

    Args:
        reference: (n,) latencies in seconds.
        other: (n,) latencies on the same images.
        confidence: of the interval, between 0 and 1.
        run: samples that a contender took in a row.
        resamples: bootstrap repetitions.
        seed: of the bootstrap; the same samples always give the same interval.

    Raises:
        UsageError: the series differ in length or are empty.
    """
    if len(reference) != len(other):
        raise UsageError(f"series of {len(reference)} and {len(other)} samples are no pairs")
    pair = np.asarray([reference, other], dtype=np.float64)
    count = pair.shape[1]
    if not count:
        raise UsageError("no samples to compare: measure at least one image")
    block = min(count, max(run, round(count ** (1 / 3))))
    blocks = -(-count // block)
    value = float(pair[0].mean() / pair[1].mean())
    if blocks < _FEWEST_RUNS:
        return Ratio(value, None, None, confidence)
    # means[k, i] is the mean over the run of samples that begins at i.
    wrapped = np.concatenate([pair, pair[:, : block - 1]], axis=1)
    sums = np.concatenate([np.zeros((2, 1)), wrapped.cumsum(axis=1)], axis=1)
    means = (sums[:, block:] - sums[:, :-block]) / block
    rng = np.random.default_rng(seed)
    ratios = []
    at_a_time = max(1, _CHUNK // blocks)
    for start in range(0, resamples, at_a_time):
        starts = rng.integers(0, count, (min(at_a_time, resamples - start), blocks))
        resampled = means[:, starts].mean(axis=2)
        ratios.append(resampled[0] / resampled[1])
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(ratios), (tail, 1 - tail))
    return Ratio(value, float(low), float(high), confidence)


def psnr_db(image: NDArray[np.uint8], reference: NDArray[np.uint8]) -> float:
    """Peak signal-to-noise ratio of 8-bit images in dB; infinite where they are identical."""
    error = image.astype(np.float64) - reference
    mse = float(np.mean(error**2))
    return 10 * math.log10(255**2 / mse) if mse else math.inf


def student_95(freedom: float) -> float:
    """The 97.5th percentile of Student's t, to 0.005 from 5 degrees of freedom on.

    Cornish and Fisher's expansion about the normal distribution (Abramowitz and Stegun 26.7.5).
    """
    z = 1.959964
    return (
        z
        + (z**3 + z) / (4 * freedom)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3)
    )
