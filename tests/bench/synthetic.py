"""Runners, a yardstick and a meter of known behaviour, on a clock that only they move."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from elir_deploy.bench.runners import Fidelity, Runner


class FakeClock:
    """Stands still until told to move."""

    def __init__(self) -> None:
        self.now_ns = self.began_ns = 10**12

    def __call__(self) -> int:
        return self.now_ns

    @property
    def passed(self) -> float:
        """Seconds since it was made."""
        return (self.now_ns - self.began_ns) / 1e9

    def advance(self, seconds: float) -> None:
        self.now_ns += round(seconds * 1e9)


class SyntheticRunner(Runner):
    """Takes ``latency(k)`` seconds for its k-th image, a tenth of that outside the device.

    ``parts`` are shares of the device's time by name.
    """

    backend = "synthetic"
    precision = "fp32"
    version = "synthetic 1"
    weights = "none"

    def __init__(
        self,
        label: str,
        clock: FakeClock,
        latency: Callable[[int], float] | float,
        *,
        parts: Mapping[str, float] | None = None,
    ) -> None:
        self.label = label
        self.images: list[np.ndarray] = []
        self.closed = False
        self._clock = clock
        self._latency = latency if callable(latency) else lambda _: latency
        self._shares = tuple((parts or {}).values())
        self.stage_names = tuple(parts or ())

    def restore(self, image):
        seconds = self._latency(len(self.images))
        self.images.append(image)
        self._clock.advance(0.05 * seconds)
        self.device_ns = round(0.9 * seconds * 1e9)
        self.stages_ns = tuple(round(share * self.device_ns) for share in self._shares)
        self._clock.advance(0.9 * seconds)
        self._clock.advance(0.05 * seconds)
        return image

    def fidelity(self, bundle):
        return Fidelity.of(50.0, 1, "synthetic")

    def close(self):
        self.closed = True


def drifting(clock: FakeClock, seconds: float, per_second: float) -> Callable[[int], float]:
    """Slower by the same fraction of ``seconds`` in every second of the clock."""
    return lambda _: seconds * (1 + per_second * clock.passed)


def throttled(clock: FakeClock, seconds: float, after_s: float, ratio: float):
    """``ratio`` times slower once the clock has gone so far."""
    return lambda _: seconds * (ratio if clock.passed >= after_s else 1)


def bimodal(fast: float, slow: float, fast_of_ten: int = 5) -> Callable[[int], float]:
    """So many fast images in every ten, in an order without a pattern."""
    order = np.random.default_rng(0).permuted(np.tile(np.arange(10), (1000, 1)), axis=1).ravel()
    return lambda k: fast if order[k % order.size] < fast_of_ten else slow


def warming_up(seconds: float, images: int, times: float = 3.0) -> Callable[[int], float]:
    """``times`` slower at first, 1 % of that after ``images``; and noise of 1 %."""
    noise = scattered(seconds, 0.01)
    return lambda k: noise(k) + seconds * (times - 1) * 0.01 ** (k / images)


def scattered(seconds: float, scatter: float, seed: int = 0) -> Callable[[int], float]:
    """Normal noise of that relative size, the same for the same seed."""
    noise = np.random.default_rng(seed).normal(1, scatter, 20_000)
    return lambda k: seconds * float(noise[k % noise.size])


class SyntheticYardstick:
    """Takes ``duration(k)`` seconds at its k-th measurement, and notes what it gave."""

    def __init__(self, clock: FakeClock, duration: Callable[[int], float] | float) -> None:
        self.given: list[int] = []
        self._clock = clock
        self._duration = duration if callable(duration) else lambda _: duration

    def measure(self) -> int:
        seconds = self._duration(len(self.given))
        self._clock.advance(seconds)
        self.given.append(round(seconds * 1e9))
        return self.given[-1]


class SyntheticMeter:
    """Joules at so many watts since the clock was made."""

    def __init__(self, clock: FakeClock, watts: float) -> None:
        self.readings = 0
        self._clock = clock
        self._watts = watts

    def read(self) -> float:
        self.readings += 1
        return self._watts * self._clock.passed
