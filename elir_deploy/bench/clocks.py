"""The clock of all measurements, which tests replace."""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["Clock", "wall_clock"]

#: Returns nanoseconds since a fixed moment; never goes back.
Clock = Callable[[], int]

wall_clock: Clock = time.perf_counter_ns
