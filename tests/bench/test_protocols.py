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


def measured(contenders, clock, *, warmup=2, images=20, block=5, seed=0) -> Measurement:
    protocol = BenchProtocol("test", "", warmup=warmup, images=images, block=block)
    return Measurement(contenders, protocol, SHAPE, seed=seed, clock=clock)


def _batches(items: list) -> list[list]:
    """Threes in order."""
    return [items[i : i + 3] for i in range(0, len(items), 3)]


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
    measured([first, second], clock, warmup=3, images=7, block=3).run()
    assert all(np.array_equal(a, b) for a, b in zip(first.images, second.images, strict=True))
    # 3 to warm up, 7 that count, and one before each of the turns of 3, 3 and 1.
    assert len({image.tobytes() for image in first.images}) == 3 + 7 + 3
    assert first.images[0].shape == SHAPE


def test_images_are_random_bytes_that_depend_on_every_number():
    image = random_image((64, 64, 3), 0, 0, 0)
    assert image.dtype == np.uint8
    assert image.mean() == pytest.approx(127.5, abs=2)
    assert (image.min(), image.max()) == (0, 255)
    assert np.array_equal(image, random_image((64, 64, 3), 0, 0, 0))
    for other in ((1, 0, 0), (0, 1, 0), (0, 0, 1)):
        assert not np.array_equal(image, random_image((64, 64, 3), *other))


def test_turns_are_short_and_their_order_changes():
    clock = FakeClock()
    turns: list[str] = []

    class Noted(SyntheticContender):
        def restore(self, image):
            turns.append(self.label)
            return super().restore(image)

    measured([Noted(n, clock, 0.01) for n in "abc"], clock, warmup=0, images=180, block=2).run()
    assert len(turns) == 90 * 3 * (1 + 2)
    heads = [turn[0] for turn in _batches(turns)]
    assert all(len(set(turn)) == 1 for turn in _batches(turns))
    rounds = list(_batches(heads))
    assert all(sorted(turn) == ["a", "b", "c"] for turn in rounds)
    assert all(rounds[k] == rounds[k + 1][::-1] for k in range(0, 90, 2))
    assert min(Counter(turn[0] for turn in rounds).values()) > 15
    assert min(Counter(itertools.pairwise(heads)).values()) > 5


def test_the_first_image_of_a_turn_does_not_count():
    clock = FakeClock()
    previous = [""]

    class Cold(SyntheticContender):
        def restore(self, image):
            if previous[0] != self.label:
                clock.advance(1)
            previous[0] = self.label
            return super().restore(image)

    measurement = measured([Cold(name, clock, 0.01) for name in "ab"], clock)
    measurement.run()
    assert all(set(s.image_ns) == {10**7} for s in measurement.samples.values())


def test_a_contender_alone_is_measured_in_one_row():
    clock = FakeClock()
    contender = SyntheticContender("alone", clock, 0.01)
    measured([contender], clock, warmup=2, images=11).run()
    assert len(contender.images) == 13


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
    ratio = paired_speedup(a, b, run=5)
    assert ratio.value == pytest.approx(1, abs=0.005)
    assert ratio.low < 1 < ratio.high


def test_two_modes_are_kept_as_they_are():
    clock = FakeClock()
    contender = SyntheticContender("bimodal", clock, lambda k: 0.01 if k % 2 else 0.03)
    measurement = measured([contender], clock)
    measurement.run()
    assert Counter(measurement.samples["bimodal"].image_ns) == {10**7: 10, 3 * 10**7: 10}


# Two to warm up, then per round two turns of one image that does not count and five that do.
@pytest.mark.parametrize(
    ("calls", "kept"), [(0, 0), (2, 0), (9, 0), (10, 1), (13, 4), (14, 5), (26, 10)]
)
def test_an_interruption_keeps_what_all_have_finished(calls, kept):
    clock = FakeClock()
    left = [calls]

    class Interrupted(SyntheticContender):
        def restore(self, image):
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
            return super().restore(image)

    measurement = measured([Interrupted(name, clock, 0.01) for name in "ab"], clock, warmup=1)
    with pytest.raises(KeyboardInterrupt):
        measurement.run()
    assert not measurement.complete
    for samples in measurement.samples.values():
        lengths = {len(samples.image_ns), len(samples.device_ns), len(samples.started_ns)}
        assert lengths == {kept}


class Failing(SyntheticContender):
    lasts = 4

    def restore(self, image):
        if len(self.images) >= self.lasts:
            raise UnavailableError("the device is gone")
        return super().restore(image)


@pytest.mark.parametrize("lasts", [0, 1, 2, 4, 9])
def test_a_contender_that_fails_is_left_out_and_the_rest_goes_on(lasts, monkeypatch):
    monkeypatch.setattr(Failing, "lasts", lasts)
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
    measured([SyntheticContender("a", clock, 0.01)], clock, warmup=1, images=7).run(
        lambda *args: told.append(args)
    )
    assert told == [("warming up a", 0, 0), ("measuring", 0, 7), ("measuring", 5, 7)]
