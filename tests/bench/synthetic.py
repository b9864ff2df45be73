"""Contenders of known latency on a clock that only they move."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from elir_deploy.bench.contenders import Contender, Fidelity


class FakeClock:
    """Stands still until told to move."""

    def __init__(self) -> None:
        self.now_ns = 10**12

    def __call__(self) -> int:
        return self.now_ns

    def advance(self, seconds: float) -> None:
        self.now_ns += round(seconds * 1e9)


class SyntheticContender(Contender):
    """Takes ``latency(k)`` seconds for its k-th image, a tenth of that outside the device."""

    backend = "synthetic"
    precision = "fp32"
    version = "synthetic 1"
    weights = "none"

    def __init__(
        self, label: str, clock: FakeClock, latency: Callable[[int], float] | float
    ) -> None:
        self.label = label
        self.images: list[np.ndarray] = []
        self.closed = False
        self._clock = clock
        self._latency = latency if callable(latency) else lambda _: latency

    def restore(self, image):
        seconds = self._latency(len(self.images))
        self.images.append(image)
        self._clock.advance(0.05 * seconds)
        self.device_ns = round(0.9 * seconds * 1e9)
        self._clock.advance(0.9 * seconds)
        self._clock.advance(0.05 * seconds)
        return image

    def fidelity(self, bundle):
        return Fidelity(50.0, 1, "synthetic")

    def close(self):
        self.closed = True
