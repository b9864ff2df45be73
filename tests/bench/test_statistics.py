"""Summaries and intervals, against series whose answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from elir_deploy.bench.statistics import Summary, paired_speedup, psnr_db
from elir_deploy.errors import UsageError


def test_summary_of_a_known_series():
    summary = Summary.of([0.001 * k for k in range(1, 102)])
    assert summary.count == 101
    assert summary.mean == pytest.approx(0.051)
    assert summary.std == pytest.approx(np.std(np.arange(1, 102), ddof=1) * 1e-3)
    assert (summary.minimum, summary.maximum) == (0.001, 0.101)
    percentiles = (summary.p50, summary.p90, summary.p95, summary.p99)
    assert percentiles == pytest.approx((0.051, 0.091, 0.096, 0.1))
    assert summary.fps == pytest.approx(1 / 0.051)
    assert summary.variation == pytest.approx(summary.std / 0.051)


def test_summary_of_two_modes_hides_neither():
    summary = Summary.of([0.01] * 80 + [0.1] * 20)
    assert summary.mean == pytest.approx(0.028)
    assert summary.p50 == 0.01
    assert summary.p90 == summary.p99 == 0.1
    assert summary.variation > 1


def test_nothing_is_clipped():
    summary = Summary.of([0.01] * 199 + [10.0])
    assert summary.maximum == 10
    assert summary.mean == pytest.approx((199 * 0.01 + 10) / 200)


def test_one_sample_and_none():
    summary = Summary.of([0.5])
    assert (summary.std, summary.variation, summary.p99) == (0, 0, 0.5)
    with pytest.raises(UsageError, match="no samples"):
        Summary.of([])


def test_a_constant_ratio_has_no_width():
    ratio = paired_speedup([0.2] * 30, [0.1] * 30)
    assert (ratio.value, ratio.low, ratio.high) == pytest.approx((2, 2, 2))
    assert ratio.confidence == 0.95


def test_drift_that_hits_both_leaves_the_ratio_alone():
    # The machine slows down to a third of its speed: each series varies a lot, their ratio not.
    drift = np.linspace(1, 3, 200)
    ratio = paired_speedup(0.3 * drift, 0.1 * drift)
    assert (ratio.value, ratio.low, ratio.high) == pytest.approx((3, 3, 3))


def test_the_interval_is_deterministic_and_narrows_with_more_samples():
    rng = np.random.default_rng(0)
    slow, fast = rng.normal(0.2, 0.02, 400), rng.normal(0.1, 0.01, 400)
    wide, again = (paired_speedup(slow[:40], fast[:40]) for _ in range(2))
    narrow = paired_speedup(slow, fast)
    assert wide == again
    assert None not in (wide.low, wide.high, narrow.low, narrow.high)
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)
    assert narrow.low < narrow.value < narrow.high


@pytest.mark.parametrize("correlated", [False, True])
def test_the_interval_holds_the_truth_as_often_as_it_says(correlated):
    rng = np.random.default_rng(1)
    truth, held, trials = 1.5, 0, 200
    for trial in range(trials):
        noise = rng.normal(0, 0.1, (2, 200))
        if correlated:  # disturbances that last some rounds, and do not hit both
            noise = np.apply_along_axis(lambda x: np.convolve(x, [0.6, 0.6, 0.6], "same"), 1, noise)
        ratio = paired_speedup(1.5 + noise[0], 1 + noise[1], resamples=500, seed=trial)
        held += ratio.low <= truth <= ratio.high
    assert 0.87 <= held / trials <= 0.99


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_samples(count):
    ratio = paired_speedup([0.2] * count, [0.1] * count, resamples=50)
    assert ratio.value == pytest.approx(2)


def test_series_that_cannot_be_compared():
    with pytest.raises(UsageError, match="no samples"):
        paired_speedup([], [])
    with pytest.raises(UsageError, match="3 and 2"):
        paired_speedup([1, 2, 3], [1, 2])


def test_psnr():
    image = np.zeros((4, 4, 3), np.uint8)
    assert psnr_db(image, image) == math.inf
    assert psnr_db(image + np.uint8(255), image) == pytest.approx(0)
    assert psnr_db(image + np.uint8(1), image) == pytest.approx(48.13, abs=0.01)


def test_too_few_samples_have_no_interval() -> None:
    ratio = paired_speedup([2.0, 2.1, 1.9], [1.0, 1.0, 1.0], run=5)
    assert ratio.value == pytest.approx(2.0)
    assert (ratio.low, ratio.high) == (None, None)
    assert paired_speedup([2.0] * 16, [1.0] * 16, run=5).low == pytest.approx(2.0)
