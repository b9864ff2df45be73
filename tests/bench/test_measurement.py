"""Sampling: order, images, pairs, interruptions and failures, on a clock of our own."""

from __future__ import annotations

import gc
import itertools
from collections import Counter
from dataclasses import fields

import numpy as np
import pytest

from elir_deploy.bench.measurement import Measurement, Samples, random_image
from elir_deploy.bench.protocols import PROTOCOLS, BenchProtocol
from elir_deploy.bench.statistics import Summary, paired_speedup
from elir_deploy.errors import UnavailableError
from tests.bench.synthetic import (
    FakeClock,
    SyntheticMeter,
    SyntheticRunner,
    SyntheticYardstick,
    bimodal,
    drifting,
    scattered,
    throttled,
    warming_up,
)

SHAPE = (4, 6, 3)


@pytest.fixture(autouse=True)
def collections(monkeypatch):
    """How often all garbage was collected; it is not, since that takes longer than these tests."""
    made: list[bool] = []
    monkeypatch.setattr(gc, "collect", lambda: made.append(True))
    return made


def measured(runners, clock, *, warmup=2, images=20, block=5, seed=0, **more) -> Measurement:
    protocol = BenchProtocol("test", "", warmup=warmup, images=images, block=block)
    return Measurement(runners, protocol, SHAPE, seed=seed, clock=clock, **more)


def until_known(runners, clock, *, warmup=0, **numbers) -> Measurement:
    protocol = BenchProtocol("test", "", warmup=warmup, **numbers)
    return Measurement(runners, protocol, SHAPE, clock=clock)


def lists_of(samples: Samples) -> dict[str, list]:
    return {entry.name: getattr(samples, entry.name) for entry in fields(samples)}


def _batches(items: list) -> list[list]:
    """Threes in order."""
    return [items[i : i + 3] for i in range(0, len(items), 3)]


def test_the_papers_protocol():
    paper = PROTOCOLS["paper"]
    assert (paper.warmup, paper.images) == (10, 200)


def test_known_latencies_come_back():
    clock = FakeClock()
    parts = {"one": 0.25, "two": 0.75}
    measurement = measured(
        [
            SyntheticRunner("slow", clock, 0.02, parts=parts),
            SyntheticRunner("fast", clock, 0.005),
        ],
        clock,
    )
    measurement.run()
    assert measurement.complete
    for label, seconds in (("slow", 0.02), ("fast", 0.005)):
        samples = measurement.samples[label]
        assert samples.image_ns == [round(seconds * 1e9)] * 20
        assert samples.device_ns == [round(0.9 * seconds * 1e9)] * 20
        assert len(samples.started_ns) == 20
        assert samples.yardstick_ns == samples.joules == [None] * 20
    assert measurement.samples["slow"].stages_ns == [(4_500_000, 13_500_000)] * 20
    assert measurement.samples["fast"].stages_ns == [()] * 20


# Warming up -----------------------------------------------------------------------------------


def test_warming_up_does_not_count():
    clock = FakeClock()
    runner = SyntheticRunner("cold", clock, lambda k: 5.0 if k < 3 else 0.01)
    measurement = measured([runner], clock, warmup=3, images=7)
    measurement.run()
    assert len(runner.images) == 10
    assert max(measurement.samples["cold"].image_ns) == 10**7
    warmup = measurement.warmups["cold"]
    assert (warmup.images, warmup.seconds, warmup.settled) == (3, 15.0, None)


def warmup_of(latency, clock):
    measurement = measured([SyntheticRunner("a", clock, latency)], clock, warmup=None)
    measurement.run()
    return measurement.warmups["a"], measurement.samples["a"]


def test_thirty_slow_images_are_waited_for():
    warmup, samples = warmup_of(warming_up(0.05, images=30), FakeClock())
    assert warmup.settled is True
    assert 30 < warmup.images < 120
    assert np.mean(samples.image_ns) == pytest.approx(0.05e9, rel=0.01)


def test_the_wait_is_as_long_as_the_warm_up():
    found = [warmup_of(warming_up(0.05, images), FakeClock())[0].images for images in (5, 30, 80)]
    assert found == sorted(found)
    assert found[2] > 3 * found[0]


@pytest.mark.parametrize(
    ("seconds", "images"),
    [
        (0.2, 10),  # never fewer than ten images
        (0.02, 50),  # nor less than a second
        (0.001, 500),  # but no more than five hundred
    ],
)
def test_a_warm_runner_is_not_warmed_longer(seconds, images):
    warmup, _ = warmup_of(seconds, FakeClock())
    assert (warmup.images, warmup.settled) == (images, True)
    assert warmup.seconds == pytest.approx(images * seconds)


def test_noise_ends_a_warm_up_soon():
    settled = [warmup_of(scattered(0.1, 0.05, seed), FakeClock())[0] for seed in range(30)]
    assert all(warmup.settled for warmup in settled)
    assert np.mean([warmup.images for warmup in settled]) < 20


def test_who_never_settles_is_measured_all_the_same():
    clock = FakeClock()
    warmup, samples = warmup_of(lambda k: 0.05 * (1 + 0.01 * k), clock)
    assert warmup.settled is False
    assert 60 <= warmup.seconds < 60.5
    assert len(samples.image_ns) == 20
    warmup, _ = warmup_of(lambda k: 0.001 * (1 + 0.01 * k), FakeClock())
    assert (warmup.images, warmup.settled) == (500, False)


def test_a_minute_is_enough_for_the_slowest():
    warmup, samples = warmup_of(25.0, FakeClock())
    assert (warmup.images, warmup.settled) == (3, None)  # nobody can tell from three
    assert len(samples.image_ns) == 20


def test_who_fails_while_warming_up_is_left_out():
    clock = FakeClock()
    runners = [Failing("bad", clock, 0.1), SyntheticRunner("good", clock, 0.1)]
    measurement = measured(runners, clock, warmup=None)
    measurement.run()
    assert list(measurement.samples) == ["good"]
    assert measurement.warmups["bad"].images == 4
    assert measurement.warmups["bad"].settled is None


# How long -------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 3])
def test_a_run_goes_on_until_every_runner_had_its_seconds(count):
    clock = FakeClock()
    runners = [SyntheticRunner(name, clock, 0.1) for name in "abc"[:count]]
    measurement = until_known(runners, clock, seconds=30)
    measurement.run()
    assert measurement.complete
    assert 30 * count <= clock.passed < 1.15 * 30 * count


def test_a_run_goes_on_until_every_median_is_known():
    clock = FakeClock()
    runners = [
        SyntheticRunner("steady", clock, 0.01),
        SyntheticRunner("scattered", clock, scattered(0.01, 0.2)),
    ]
    measurement = until_known(runners, clock, seconds=0.5, tolerance=0.02)
    measurement.run()
    widths = measurement.half_widths()
    assert widths["steady"] == 0
    assert 0.005 < widths["scattered"] <= 0.02
    counts = {len(samples.image_ns) for samples in measurement.samples.values()}
    assert len(counts) == 1
    # 2.36 * 1.25 * 0.2 / sqrt(n) is 0.02 at n = 870; the estimate scatters by a quarter.
    assert 200 < counts.pop() < 2500


def test_a_finer_tolerance_takes_longer():
    def images(tolerance: float) -> int:
        clock = FakeClock()
        runner = SyntheticRunner("a", clock, scattered(0.01, 0.1))
        measurement = until_known([runner], clock, seconds=0.1, tolerance=tolerance)
        measurement.run()
        return len(measurement.samples["a"].image_ns)

    assert images(0.05) < images(0.01) < images(0.004)


def test_at_most_ends_a_run_that_does_not_come_to_know():
    clock = FakeClock()
    runner = SyntheticRunner("a", clock, scattered(0.1, 0.5))
    measurement = until_known([runner], clock, seconds=1, at_most_s=40, tolerance=0.0001)
    measurement.run()
    assert measurement.complete
    assert 40 <= clock.passed < 40 + 5 * 0.3
    assert measurement.half_widths()["a"] > 0.0001


def test_one_round_is_measured_however_slow():
    clock = FakeClock()
    measurement = until_known([SyntheticRunner("a", clock, 9.0)], clock, at_most_s=1)
    measurement.run()
    assert len(measurement.samples["a"].image_ns) == 5


# Images and turns -----------------------------------------------------------------------------


def test_every_runner_gets_the_same_images_and_none_twice():
    clock = FakeClock()
    first, second = (SyntheticRunner(name, clock, 0.01) for name in "ab")
    measured([first, second], clock, warmup=3, images=7, block=3).run()
    assert all(np.array_equal(a, b) for a, b in zip(first.images, second.images, strict=True))
    # 3 to warm up, 7 that count, and five (50 ms) before each of the turns of 3, 3 and 1.
    assert len({image.tobytes() for image in first.images}) == 3 + 7 + 3 * 5
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

    class Noted(SyntheticRunner):
        def restore(self, image):
            turns.append(self.label)
            return super().restore(image)

    measured([Noted(n, clock, 0.1) for n in "abc"], clock, warmup=0, images=180, block=2).run()
    assert len(turns) == 90 * 3 * (1 + 2)
    heads = [turn[0] for turn in _batches(turns)]
    assert all(len(set(turn)) == 1 for turn in _batches(turns))
    rounds = list(_batches(heads))
    assert all(sorted(turn) == ["a", "b", "c"] for turn in rounds)
    assert all(rounds[k] == rounds[k + 1][::-1] for k in range(0, 90, 2))
    assert min(Counter(turn[0] for turn in rounds).values()) > 15
    assert min(Counter(itertools.pairwise(heads)).values()) > 5


@pytest.mark.parametrize(("seconds", "before"), [(0.2, 1), (0.02, 3), (0.0001, 500)])
def test_a_turn_begins_with_one_image_or_fifty_milliseconds_that_do_not_count(seconds, before):
    clock = FakeClock()
    runners = [SyntheticRunner(name, clock, seconds) for name in "ab"]
    measured(runners, clock, warmup=0, images=10).run()
    assert len(runners[0].images) == 2 * (before + 5)


def test_the_first_images_of_a_turn_do_not_count():
    clock = FakeClock()
    previous = [""]

    class Cold(SyntheticRunner):
        def restore(self, image):
            if previous[0] != self.label:
                clock.advance(1)
            previous[0] = self.label
            return super().restore(image)

    measurement = measured([Cold(name, clock, 0.01) for name in "ab"], clock)
    measurement.run()
    assert all(set(s.image_ns) == {10**7} for s in measurement.samples.values())


def test_a_runner_alone_is_measured_in_one_row():
    clock = FakeClock()
    runner = SyntheticRunner("alone", clock, 0.01)
    measured([runner], clock, warmup=2, images=11).run()
    assert len(runner.images) == 13


def test_drift_hits_all_alike():
    # Everything takes longer by the hour: one after the other, the second would look 50 % slower.
    clock = FakeClock()
    measurement = measured(
        [SyntheticRunner(name, clock, drifting(clock, 0.1, 0.05)) for name in "ab"],
        clock,
        images=100,
    )
    measurement.run()
    a, b = (measurement.samples[name].image_ns for name in "ab")
    assert Summary.of(np.array(a) / 1e9).variation > 0.25
    ratio = paired_speedup(a, b, run=5)
    assert ratio.value == pytest.approx(1, abs=0.005)
    assert ratio.low < 1 < ratio.high


def test_throttling_hits_all_alike():
    clock = FakeClock()
    runners = [
        SyntheticRunner("a", clock, throttled(clock, 0.2, 30, 1.5)),
        SyntheticRunner("b", clock, throttled(clock, 0.1, 30, 1.5)),
    ]
    measurement = measured(runners, clock, images=200)
    measurement.run()
    a, b = (measurement.samples[name].image_ns for name in "ab")
    assert set(a) == {2 * 10**8, 3 * 10**8}
    assert paired_speedup(a, b, run=5).value == pytest.approx(2, rel=0.02)


def test_two_modes_are_kept_as_they_are():
    clock = FakeClock()
    runner = SyntheticRunner("bimodal", clock, bimodal(0.01, 0.03, fast_of_ten=7))
    measurement = measured([runner], clock, warmup=0)
    measurement.run()
    assert Counter(measurement.samples["bimodal"].image_ns) == {10**7: 14, 3 * 10**7: 6}


# The yardstick, energy and what is called between turns ----------------------------------------


def test_every_sample_has_the_faster_yardstick_of_the_two_beside_its_turn():
    clock = FakeClock()
    yardstick = SyntheticYardstick(clock, lambda k: 0.001 * (1 + (k * 7) % 5))
    turns: list[str] = []

    class Noted(SyntheticRunner):
        def restore(self, image):
            turns.append(self.label)
            return super().restore(image)

    measurement = measured(
        [Noted(n, clock, 0.1) for n in "ab"], clock, warmup=0, yardstick=yardstick
    )
    measurement.run()
    # One at the very beginning and one after each of eight turns.
    assert len(yardstick.given) == 9
    expected: dict[str, list[int]] = {"a": [], "b": []}
    sides = itertools.pairwise(yardstick.given)
    for label, (before, after) in zip(turns[:: 1 + 5], sides, strict=True):
        expected[label] += [min(before, after)] * 5
    for label, samples in measurement.samples.items():
        assert samples.yardstick_ns == expected[label]
    assert len(set(expected["a"])) > 1


def test_a_runner_alone_settles_after_the_yardstick():
    clock = FakeClock()
    runner = SyntheticRunner("alone", clock, 0.1)
    measured([runner], clock, yardstick=SyntheticYardstick(clock, 0.003)).run()
    assert len(runner.images) == 2 + 4 * (1 + 5)


def test_the_energy_of_a_turn_is_shared_out_over_its_images():
    clock = FakeClock()
    meter = SyntheticMeter(clock, 10.0)
    runners = [
        SyntheticRunner("even", clock, 0.1),
        SyntheticRunner("odd", clock, lambda k: 0.1 if k % 2 else 0.3),
    ]
    yardstick = SyntheticYardstick(clock, 0.5)
    measurement = measured(runners, clock, joules=meter.read, yardstick=yardstick)
    measurement.run()
    even, odd = (measurement.samples[name] for name in ("even", "odd"))
    assert even.joules == pytest.approx([1.0] * 20)
    # Neither settling nor the yardstick is in it.
    for first in range(0, 20, 5):
        turn = slice(first, first + 5)
        assert len(set(odd.joules[turn])) == 1
        assert sum(odd.joules[turn]) == pytest.approx(10 * sum(odd.image_ns[turn]) / 1e9)


def test_something_is_called_after_every_turn_with_the_seconds_since_the_first_image():
    clock = FakeClock()
    called: list[float] = []
    measured([SyntheticRunner("a", clock, 0.1)], clock, between=called.append).run()
    assert called == pytest.approx([0.5, 1.0, 1.5, 2.0])
    called.clear()
    pair = [SyntheticRunner(name, clock, 0.1) for name in "ab"]
    measured(pair, clock, between=called.append).run()
    assert len(called) == 2 * 4


# Interruptions and failures -------------------------------------------------------------------


class Bomb:
    """Goes off at the n-th call."""

    def __init__(self, calls: int) -> None:
        self.left = calls

    def tick(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt


def everything(bomb: Bomb) -> Measurement:
    """A run in which a bomb ticks before and after whatever it calls."""
    clock = FakeClock()

    def ticking(call):
        def around(*arguments):
            bomb.tick()
            result = call(*arguments)
            bomb.tick()
            return result

        return around

    runners = [
        SyntheticRunner("a", clock, scattered(0.1, 0.2)),
        SyntheticRunner("b", clock, scattered(0.2, 0.2), parts={"x": 0.5, "y": 0.5}),
    ]
    for runner in runners:
        runner.restore = ticking(runner.restore)
    yardstick = SyntheticYardstick(clock, lambda k: 0.001 * (1 + k % 3))
    yardstick.measure = ticking(yardstick.measure)
    measurement = measured(
        runners,
        clock,
        warmup=1,
        images=10,
        yardstick=yardstick,
        joules=ticking(SyntheticMeter(clock, 10.0).read),
        between=ticking(lambda at_s: None),
    )
    with pytest.raises(KeyboardInterrupt):
        measurement.run()
    return measurement


def test_an_interruption_anywhere_keeps_lists_of_one_length():
    whole = None
    kept: Counter[int] = Counter()
    for calls in range(200, -1, -1):
        bomb = Bomb(calls)
        try:
            measurement = everything(bomb)
        except pytest.fail.Exception:  # it went off after the end, if at all
            continue
        counts = {len(e) for s in measurement.samples.values() for e in lists_of(s).values()}
        assert len(counts) == 1
        kept[counts.pop()] += 1
        assert not measurement.complete
        if whole is None:
            whole = measurement.samples
        for label, samples in measurement.samples.items():
            for name, values in lists_of(samples).items():
                full = lists_of(whole[label])[name]
                if name in ("joules", "yardstick_ns"):  # of the last turn, what there was
                    assert all(
                        one in (None, other) or (name == "yardstick_ns" and one > other)
                        for one, other in zip(values, full, strict=False)
                    )
                else:
                    assert values == full[: len(values)]
    assert sorted(kept) == list(range(11))


@pytest.mark.parametrize("label", ["a", "b"])
@pytest.mark.parametrize("entry", [entry.name for entry in fields(Samples)])
def test_an_interruption_between_two_lists_keeps_lists_of_one_length(label, entry):
    clock = FakeClock()

    class Interrupting(list):
        def __iadd__(self, more):
            self.extend(more)
            if len(self) == 10:
                raise KeyboardInterrupt
            return self

    measurement = measured([SyntheticRunner(name, clock, 0.1) for name in "ab"], clock)
    setattr(measurement.samples[label], entry, Interrupting())
    with pytest.raises(KeyboardInterrupt):
        measurement.run()
    for samples in measurement.samples.values():
        assert {len(values) for values in lists_of(samples).values()} <= {5, 10}
    assert len({len(e) for s in measurement.samples.values() for e in lists_of(s).values()}) == 1


class Failing(SyntheticRunner):
    lasts = 4

    def restore(self, image):
        if len(self.images) >= self.lasts:
            raise UnavailableError("the device is gone")
        return super().restore(image)


@pytest.mark.parametrize("lasts", [0, 1, 2, 4, 9, 10, 14])
@pytest.mark.parametrize("with_yardstick", [False, True])
def test_a_runner_that_fails_is_left_out_and_the_rest_goes_on(lasts, with_yardstick, monkeypatch):
    monkeypatch.setattr(Failing, "lasts", lasts)
    clock = FakeClock()
    runners = [Failing("bad", clock, 0.01), SyntheticRunner("good", clock, 0.01)]
    yardstick = SyntheticYardstick(clock, 0.001) if with_yardstick else None
    measurement = measured(runners, clock, yardstick=yardstick)
    measurement.run()
    assert measurement.complete
    assert measurement.failures == {"bad": "the device is gone"}
    assert list(measurement.samples) == ["good"]
    assert {len(values) for values in lists_of(measurement.samples["good"]).values()} == {20}


def test_one_that_fails_late_does_not_hold_up_the_medians_of_the_rest(monkeypatch):
    monkeypatch.setattr(Failing, "lasts", 100)
    clock = FakeClock()
    runners = [
        Failing("bad", clock, scattered(0.1, 0.5)),
        SyntheticRunner("good", clock, 0.1),
    ]
    measurement = until_known(runners, clock, seconds=5, tolerance=0.001)
    measurement.run()
    assert list(measurement.samples) == ["good"]
    assert clock.passed < 100


def test_all_runners_failing_is_an_error():
    clock = FakeClock()
    with pytest.raises(UnavailableError, match="every runner failed: bad: the device is gone"):
        measured([Failing("bad", clock, 0.01)], clock).run()


def test_what_was_made_before_is_not_walked_while_measuring(collections):
    clock = FakeClock()
    frozen: list[int] = []
    between = lambda at_s: frozen.append(gc.get_freeze_count())  # noqa: E731
    measured([SyntheticRunner("a", clock, 0.1)], clock, between=between).run()
    assert collections == [True]
    assert min(frozen) > 1000
    assert gc.get_freeze_count() == 0


# Progress -------------------------------------------------------------------------------------


def test_progress_is_told():
    clock = FakeClock()
    told: list[tuple[str, int, int]] = []
    measured([SyntheticRunner("a", clock, 0.01)], clock, warmup=1, images=7).run(
        lambda *args: told.append(args)
    )
    assert told == [("warming up a", 0, 0), ("measuring", 0, 7), ("measuring", 5, 7)]


def test_progress_is_told_in_seconds_where_the_number_of_images_is_open():
    clock = FakeClock()
    told: list[tuple[str, int, int]] = []
    until_known([SyntheticRunner("a", clock, 1.0)], clock, seconds=10, at_most_s=60).run(
        lambda *args: told.append(args)
    )
    assert told[:4] == [
        ("warming up a", 0, 0),
        ("measuring, seconds", 0, 60),
        ("measuring, seconds", 5, 60),
        ("measuring, seconds", 10, 60),
    ]
