"""Sampling: order, images, pairs, interruptions and failures, on a clock of our own."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest

from elir_deploy.bench.protocols import PROTOCOLS, BenchProtocol, Measurement, random_image
from elir_deploy.bench.statistics import Summary, paired_speedup
from elir_deploy.errors import UnavailableError
from tests.bench.synthetic import FakeClock, SyntheticContender

SHAPE = (4, 6, 3)


def measured(contenders, clock, *, warmup=2, images=20, seed=0) -> Measurement:
    protocol = BenchProtocol("test", "", warmup=warmup, images=images)
    return Measurement(contenders, protocol, SHAPE, seed=seed, clock=clock)


def test_the_papers_protocol():
    paper = PROTOCOLS["paper"]
    assert (paper.warmup, paper.images) == (10, 200)


def test_known_latencies_come_back():
    clock = FakeClock()
    measurement = measured(
        [SyntheticContender("slow", clock, 0.02), SyntheticContender("fast", clock, 0.005)], clock
    )
    measurement.run()
    assert measurement.complete
    for label, seconds in (("slow", 0.02), ("fast", 0.005)):
        samples = measurement.samples[label]
        assert samples.image_ns == [round(seconds * 1e9)] * 20
        assert samples.device_ns == [round(0.9 * seconds * 1e9)] * 20
        assert len(samples.started_ns) == 20


def test_warming_up_does_not_count():
    clock = FakeClock()
    contender = SyntheticContender("cold", clock, lambda k: 5.0 if k < 3 else 0.01)
    measurement = measured([contender], clock, warmup=3, images=7)
    measurement.run()
    assert len(contender.images) == 10
    assert max(measurement.samples["cold"].image_ns) == 10**7


def test_every_contender_gets_the_same_images_and_none_twice():
    clock = FakeClock()
    first, second = (SyntheticContender(name, clock, 0.01) for name in "ab")
    measured([first, second], clock, warmup=3, images=5).run()
    assert all(np.array_equal(a, b) for a, b in zip(first.images, second.images, strict=True))
    assert len({image.tobytes() for image in first.images}) == 8
    assert first.images[0].shape == SHAPE


def test_images_are_random_bytes_that_depend_on_the_seed():
    image = random_image((64, 64, 3), 0, 0)
    assert image.dtype == np.uint8
    assert image.mean() == pytest.approx(127.5, abs=2)
    assert (image.min(), image.max()) == (0, 255)
    assert np.array_equal(image, random_image((64, 64, 3), 0, 0))
    assert not np.array_equal(image, random_image((64, 64, 3), 1, 0))
    assert not np.array_equal(image, random_image((64, 64, 3), 0, 0, warmup=True))


def test_the_order_changes_so_that_nobody_always_follows_the_same_neighbour():
    clock = FakeClock()
    turns: list[str] = []

    class Noted(SyntheticContender):
        def restore(self, image):
            turns.append(self.label)
            return super().restore(image)

    measured([Noted(name, clock, 0.01) for name in "abc"], clock, warmup=0, images=90).run()
    rounds = [turns[i : i + 3] for i in range(0, len(turns), 3)]
    assert all(sorted(turn) == ["a", "b", "c"] for turn in rounds)
    assert min(Counter(turn[0] for turn in rounds).values()) > 15
    assert min(Counter(itertools.pairwise(turns)).values()) > 5


def test_drift_hits_all_alike():
    # Everything takes longer by the hour: one after the other, the second would look 50 % slower.
    clock = FakeClock()
    began = clock.now_ns

    def drifting(seconds: float):
        return lambda _: seconds * (1 + (clock.now_ns - began) / 20e9)

    measurement = measured(
        [SyntheticContender(name, clock, drifting(0.1)) for name in "ab"], clock, images=100
    )
    measurement.run()
    a, b = (measurement.samples[name].image_ns for name in "ab")
    assert Summary.of(np.array(a) / 1e9).variation > 0.25
    ratio = paired_speedup(a, b)
    assert ratio.value == pytest.approx(1, abs=0.01)
    assert ratio.low < 1 < ratio.high


def test_two_modes_are_kept_as_they_are():
    clock = FakeClock()
    contender = SyntheticContender("bimodal", clock, lambda k: 0.01 if k % 2 else 0.03)
    measurement = measured([contender], clock)
    measurement.run()
    assert Counter(measurement.samples["bimodal"].image_ns) == {10**7: 10, 3 * 10**7: 10}


@pytest.mark.parametrize("at", [0, 5, 6, 7])
def test_an_interruption_keeps_whole_rounds(at):
    clock = FakeClock()
    calls = 0

    class Interrupted(SyntheticContender):
        def restore(self, image):
            nonlocal calls
            calls += 1
            if calls > at:
                raise KeyboardInterrupt
            return super().restore(image)

    measurement = measured([Interrupted(name, clock, 0.01) for name in "ab"], clock, warmup=1)
    with pytest.raises(KeyboardInterrupt):
        measurement.run()
    assert not measurement.complete
    lengths = {len(samples.image_ns) for samples in measurement.samples.values()}
    assert lengths == {max(0, at // 2 - 1)}


class Failing(SyntheticContender):
    def restore(self, image):
        if len(self.images) >= 4:
            raise UnavailableError("the device is gone")
        return super().restore(image)


def test_a_contender_that_fails_is_left_out_and_the_rest_goes_on():
    clock = FakeClock()
    contenders = [Failing("bad", clock, 0.01), SyntheticContender("good", clock, 0.01)]
    measurement = measured(contenders, clock)
    measurement.run()
    assert measurement.complete
    assert measurement.failures == {"bad": "the device is gone"}
    assert list(measurement.samples) == ["good"]
    assert len(measurement.samples["good"].image_ns) == 20


def test_all_contenders_failing_is_an_error():
    clock = FakeClock()
    with pytest.raises(UnavailableError, match="every contender failed: bad: the device is gone"):
        measured([Failing("bad", clock, 0.01)], clock).run()


def test_progress_is_told():
    clock = FakeClock()
    told: list[tuple[str, int, int]] = []
    measured([SyntheticContender("a", clock, 0.01)], clock, warmup=1, images=2).run(
        lambda *args: told.append(args)
    )
    assert told == [("warming up", 0, 1), ("measuring", 0, 2), ("measuring", 1, 2)]
