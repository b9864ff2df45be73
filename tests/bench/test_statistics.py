"""Summaries and intervals, against series whose answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from elir_deploy.bench.statistics import Summary, paired_speedup, student_95
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


def test_drift_that_hits_both_leaves_the_ratio_alone():
    # The machine slows down to a third of its speed: each series varies a lot, their ratio not.
    drift = np.linspace(1, 3, 200)
    ratio = paired_speedup(0.3 * drift, 0.1 * drift)
    assert (ratio.value, ratio.low, ratio.high) == pytest.approx((3, 3, 3))


def test_the_interval_narrows_with_more_samples():
    rng, widths = np.random.default_rng(0), []
    for _ in range(50):
        slow, fast = rng.normal(0.2, 0.02, 400), rng.normal(0.1, 0.01, 400)
        found = [paired_speedup(slow[:n], fast[:n]) for n in (40, 400)]
        assert all(ratio.low < ratio.value < ratio.high for ratio in found)
        widths.append([ratio.high - ratio.low for ratio in found])
    few, many = np.mean(widths, axis=0)
    assert few == pytest.approx(10**0.5 * many, rel=0.15)


def noise(rng, shape, neighbour: float) -> np.ndarray:
    """Normal, of variance 1, in which neighbours along the last axis are correlated so much."""
    values = rng.normal(0, 1, shape)
    for k in range(1, shape[-1]):
        values[..., k] *= math.sqrt(1 - neighbour**2)
        values[..., k] += neighbour * values[..., k - 1]
    return values


@pytest.mark.parametrize("neighbour", [0.0, 0.5])
@pytest.mark.parametrize("count", [20, 50, 100, 200])
def test_the_interval_holds_the_truth_as_often_as_it_says(count, neighbour):
    # What disturbs both lasts long; what disturbs one of them, some images.
    rng, trials, truth = np.random.default_rng(1), 1000, 1.5
    shared = 0.1 * noise(rng, (trials, count), 0.9)
    separate = 0.05 * noise(rng, (2, trials, count), neighbour)
    covered = 0
    for slow, fast in zip(
        truth * (1 + shared + separate[0]), 1 + shared + separate[1], strict=True
    ):
        ratio = paired_speedup(slow, fast, run=5)
        covered += ratio.low <= truth <= ratio.high
    assert 0.95 - 0.035 <= covered / trials <= 0.95 + 0.02


def test_the_other_way_round_is_the_reciprocal():
    rng = np.random.default_rng(0)
    slow, fast = rng.normal(0.2, 0.02, 63), rng.normal(0.1, 0.01, 63)
    there, back = paired_speedup(slow, fast, run=5), paired_speedup(fast, slow, run=5)
    assert there.value * back.value == pytest.approx(1)
    assert there.low * back.high == there.high * back.low == pytest.approx(1)


def test_few_turns_have_no_interval():
    for count in (1, 2, 3, 19):
        ratio = paired_speedup([0.2] * count, [0.1] * count, run=5)
        assert (ratio.value, ratio.low, ratio.high) == (pytest.approx(2), None, None)
    assert paired_speedup([0.2] * 20, [0.1] * 20, run=5).low == pytest.approx(2)


def test_series_that_cannot_be_compared():
    with pytest.raises(UsageError, match="no samples"):
        paired_speedup([], [])
    with pytest.raises(UsageError, match="3 and 2"):
        paired_speedup([1, 2, 3], [1, 2])


# scipy.stats.t.ppf(0.975, freedom)
STUDENT = {
    1: 12.706205,
    1.5: 6.016663,
    2: 4.302653,
    2.3: 3.807163,
    3: 3.182446,
    4: 2.776445,
    7: 2.364624,
    30: 2.042272,
    1e7: 1.959964,
}


@pytest.mark.parametrize("freedom", STUDENT)
def test_students_percentile(freedom):
    assert student_95(freedom) == pytest.approx(STUDENT[freedom], abs=1e-6)
