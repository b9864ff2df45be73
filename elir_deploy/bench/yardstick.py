"""A fixed computation timed between turns; it shows whether the machine changed speed.

A machine that is shared, hot or clocked down is slower for everything. Latencies divided by the
time of the same matrix product next to them can be compared between runs of different days; bare
latencies cannot (docs/decisions.md has the figures).

The product is of float32, on all cores, in numpy's BLAS: compute on every core, a barrier at the
end, and matrices that leave the second-level cache, as convolutions do.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Work", "Yardstick", "describe"]

#: Rows and columns: a few milliseconds on two cores, 4.9 MB of matrices.
_SIDE = 640
_TIMED = 8
#: Worker threads of other libraries spin for tens of milliseconds after their last call (24 ms in
#: OpenBLAS by default) and compete with the next runner.
SETTLE_NS = 50_000_000


class Yardstick:
    """Times the matrix product with ``clock``, which returns nanoseconds."""

    def __init__(self, clock: Callable[[], int] = time.perf_counter_ns) -> None:
        rng = np.random.default_rng(0)
        self._left, self._right = rng.random((2, _SIDE, _SIDE), dtype=np.float32)
        self._product = np.empty_like(self._left)
        self._clock = clock

    def measure(self) -> int:
        """Nanoseconds of the fastest of eight products, once the machine has settled.

        The fastest: whatever disturbs a product of milliseconds is not the machine's speed.
        """
        start = self._clock()
        last = self._time()
        while last and self._clock() - start < SETTLE_NS:
            last = self._time()
        return min(self._time() for _ in range(_TIMED))

    def _time(self) -> int:
        start = self._clock()
        np.matmul(self._left, self._right, out=self._product)
        return self._clock() - start


@dataclass(frozen=True)
class Work:
    """What the yardstick computes, and with which library; only times of the same ones compare."""

    work: str
    numpy: str
    blas: str | None


def describe() -> Work:
    """The yardstick's work here."""
    work = f"float32 matrix product, {_SIDE}x{_SIDE}x{_SIDE}, fastest of {_TIMED}"
    return Work(work, np.__version__, _blas())


def _blas() -> str | None:
    try:
        config: Any = np.show_config(mode="dicts")  # type: ignore[call-overload,unused-ignore]
        blas = config["Build Dependencies"]["blas"]
        return f"{blas['name']} {blas['version']}"
    except (TypeError, KeyError):  # numpy before 1.26 only prints
        return None
