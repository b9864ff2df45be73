"""The clock of all measurements, which tests replace."""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["Clock", "clock_resolution_ns", "wall_clock"]

#: Returns nanoseconds since a fixed moment; never goes back.
Clock = Callable[[], int]

wall_clock: Clock = time.perf_counter_ns


def clock_resolution_ns() -> float:
    """Smallest step of :data:`wall_clock` in nanoseconds, as the system states it."""
    return time.get_clock_info("perf_counter").resolution * 1e9
