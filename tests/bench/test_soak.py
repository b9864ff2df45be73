"""Kept busy for long, on a clock of our own."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from elir_deploy.bench.soak import Soak, lasting_step, trend
from elir_deploy.errors import UnavailableError
from tests.bench.synthetic import FakeClock, SyntheticRunner, drifting, scattered

SHAPE = (4, 6, 3)


def soak_of(latency, clock, seconds=600.0, **more) -> Soak:
    return Soak(SyntheticRunner("a", clock, latency), SHAPE, seconds, clock=clock, **more)


def test_it_runs_for_its_time_in_sixty_windows():
    clock = FakeClock()
    soak = soak_of(0.25, clock)
    soak.run()
    assert soak.complete
    assert clock.passed == 600
    assert len(soak.windows) == 60
    assert [window.at_s for window in soak.windows] == [10.0 * k for k in range(60)]
    assert {window.seconds for window in soak.windows} == {10.0}
    assert {window.images for window in soak.windows} == {40}


def test_windows_are_no_shorter_than_a_second():
    clock = FakeClock()
    soak = soak_of(0.3, clock, seconds=5)
    soak.run()
    assert [window.images for window in soak.windows] == [4] * 5  # 1.2 s each
    assert [window.at_s for window in soak.windows] == pytest.approx([0, 1.2, 2.4, 3.6, 4.8])


def test_one_image_longer_than_the_soak_is_measured():
    soak = soak_of(50.0, FakeClock(), seconds=1)
    soak.run()
    assert [window.images for window in soak.windows] == [1]
    assert soak.drift_percent is None
    assert soak.rss_growth_bytes is None


def test_percentiles_of_a_window():
    clock = FakeClock()
    soak = soak_of(lambda k: 0.01 * (1 + k % 10), clock, seconds=5.5)
    soak.run()
    (first, *_) = soak.windows
    assert (first.images, first.seconds) == (19, pytest.approx(1.0))
    taken = 0.01 * (1 + np.arange(19) % 10)
    assert (first.p50_s, first.p99_s) == pytest.approx(np.percentile(taken, (50, 99)))


def test_images_go_round_and_are_those_of_the_seed():
    seen = []
    for seed in (0, 0, 1):
        clock = FakeClock()
        soak = soak_of(0.1, clock, seconds=4, seed=seed)
        soak.run()
        seen.append([image.tobytes() for image in soak.runner.images])
    assert len(set(seen[0])) == 16
    assert seen[0][:16] == seen[0][16:32]
    assert seen[0] == seen[1]
    assert not set(seen[0]) & set(seen[2])


def test_memory_and_heat_are_read_at_the_end_of_every_window():
    clock = FakeClock()
    memory = itertools.count(100)
    soak = soak_of(
        0.5, clock, seconds=120, rss=lambda: next(memory), heat=lambda: (clock.passed, None)
    )
    soak.run()
    assert [window.rss_bytes for window in soak.windows] == list(range(100, 160))
    assert [window.celsius for window in soak.windows] == [2.0 * (k + 1) for k in range(60)]
    assert {window.mhz for window in soak.windows} == {None}


@pytest.mark.parametrize("percent_an_hour", [-20.0, 3.0, 60.0])
def test_a_slowdown_is_found_with_its_interval(percent_an_hour):
    clock = FakeClock()
    noise = scattered(1.0, 0.02)
    drift = drifting(clock, 0.5, percent_an_hour / 100 / 3600)
    soak = soak_of(lambda k: drift(k) * noise(k), clock, seconds=7200)
    soak.run()
    found = soak.drift_percent
    # Of the median, which is that of the middle, an hour after the start.
    expected = percent_an_hour / (1 + percent_an_hour / 100)
    assert found.low < found.value < found.high
    assert found.low - 0.2 < expected < found.high + 0.2
    assert np.sign(found.low) == np.sign(found.high) == np.sign(percent_an_hour)


def test_no_slowdown_is_shown_where_there_is_none():
    shown = 0
    for seed in range(20):
        soak = soak_of(scattered(0.5, 0.05, seed), FakeClock(), seconds=300)
        soak.run()
        found = soak.drift_percent
        shown += found.low > 0 or found.high < 0
    assert shown <= 3


def test_growth_of_the_memory_is_found_and_its_beginning_left_out():
    clock = FakeClock()
    rng = np.random.default_rng(0)

    def rss() -> int:
        filling = min(clock.passed, 120) * 10**7  # of a pool, in the first two minutes
        return round(10**9 + filling + 5000 * clock.passed + rng.normal(0, 10_000))

    soak = soak_of(0.5, clock, rss=rss)
    soak.run()
    found = soak.rss_growth_bytes
    assert found.low < 5000 * 3600 < found.high
    assert found.high - found.low < 2 * 5000 * 360


def test_memory_that_stays_does_not_grow():
    rng = np.random.default_rng(0)
    soak = soak_of(0.5, FakeClock(), rss=lambda: round(10**9 + rng.normal(0, 10_000)))
    soak.run()
    found = soak.rss_growth_bytes
    assert found.low < 0 < found.high


def test_where_memory_cannot_be_read_nothing_is_said_of_it():
    soak = soak_of(0.5, FakeClock(), rss=lambda: None)
    soak.run()
    assert soak.rss_growth_bytes is None
    assert soak.drift_percent is not None


@pytest.mark.parametrize("error", [KeyboardInterrupt, UnavailableError])
def test_finished_windows_are_kept(error):
    clock = FakeClock()

    def latency(k: int) -> float:
        if k == 50:
            raise error
        return 0.5

    soak = soak_of(latency, clock)
    with pytest.raises(error):
        soak.run()
    assert not soak.complete
    assert [window.images for window in soak.windows] == [20, 20]


def test_progress_is_told_in_seconds():
    told = []
    soak_of(0.5, FakeClock(), seconds=180).run(lambda *arguments: told.append(arguments))
    assert told[:2] == [("soaking a, seconds", 0, 180), ("soaking a, seconds", 3, 180)]
    assert len(told) == 60


# Trends ---------------------------------------------------------------------------------------


def test_a_straight_line_is_known_exactly():
    found = trend([60.0 * k for k in range(10)], [7 + 2.0 * k for k in range(10)])
    assert (found.value, found.low, found.high) == pytest.approx((120, 120, 120))


def test_the_interval_of_a_trend_holds_it_as_often_as_it_says():
    at_s = [10.0 * k for k in range(20)]
    held = 0
    for seed in range(1000):
        rng = np.random.default_rng(seed)
        found = trend(at_s, (3 + np.array(at_s) / 3600 + rng.normal(0, 0.1, 20)).tolist())
        held += found.low <= 1 <= found.high
    assert 0.93 <= held / 1000 <= 0.97


def wandering(rng, neighbour: float, count: int = 60) -> np.ndarray:
    """Noise of variance 1 in which neighbours are correlated so much."""
    values = rng.normal(0, 1, count)
    for k in range(1, count):
        values[k] = neighbour * values[k - 1] + np.sqrt(1 - neighbour**2) * values[k]
    return values


@pytest.mark.parametrize("neighbour", [0.5, 0.8, 0.9])
def test_noise_that_wanders_is_no_trend(neighbour):
    # Of white noise as many windows would tell: 25, 50 and 66 % then.
    at_s, shown, trials = [10.0 * k for k in range(60)], 0, 400
    for seed in range(trials):
        found = trend(at_s, wandering(np.random.default_rng(seed), neighbour).tolist())
        shown += found.low > 0 or found.high < 0
    assert shown / trials <= 0.11


def test_throttling_is_a_lasting_step_and_wandering_noise_is_none():
    rng = np.random.default_rng(0)
    for at in (9, 30, 51):
        values = 0.5 * (1 + 0.01 * wandering(rng, 0.5))
        values[at:] *= 1.2
        found = lasting_step(values.tolist())
        assert abs(found.at - at) <= 3
        assert found.ratio == pytest.approx(1.2, rel=0.03)
    noise = [(1 + 0.03 * wandering(rng, 0.9)).tolist() for _ in range(100)]
    assert sum(lasting_step(values) is not None for values in noise) <= 8
    assert lasting_step([0.5] * 60) is None


def test_few_points_or_no_time_have_no_trend():
    assert trend([float(k) for k in range(7)], [1.0] * 7) is None
    assert trend([5.0] * 8, [1.0] * 8) is None
    assert trend([float(k) for k in range(8)], [1.0] * 8).value == 0
