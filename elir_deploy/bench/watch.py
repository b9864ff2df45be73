"""Watches the machine before, during and after a run."""

from __future__ import annotations

import re
from typing import Any

from elir_deploy.bench.sensors import EnergyMeter, Nvml, State, read_state, throttled_between

__all__ = ["Watch"]

#: Seconds between two readings during a run.
_INTERVAL_S = 2.0


class Watch:
    """Reads the sensors around a run, and between its rounds.

    Attributes:
        before: the state when the watch began; ``after`` is that at :meth:`finish`.
        during: readings in between, as plain JSON values.
        throttling: sentences on what slowed the machine down, after :meth:`finish`.
        meter: of energy, or None; ``missing_meters`` has the reasons and remedies.
    """

    def __init__(self) -> None:
        self._nvml = Nvml()
        self.meter, self.missing_meters = EnergyMeter.search(self._nvml)
        self.before = read_state(self._nvml)
        self.after: State | None = None
        self.during: list[dict[str, Any]] = []
        self.throttling: list[str] = []
        self._throttled: list[str] = []
        self._last: tuple[float, State] | None = None

    def look(self, at_s: float) -> None:
        """Record the state ``at_s`` seconds into the run, unless it was recorded just before."""
        if self._last is not None and at_s - self._last[0] < _INTERVAL_S:
            return
        state = read_state(self._nvml, quick=True)
        throttled = throttled_between(self._last[1], state, loaded=False) if self._last else []
        self._throttled += throttled
        celsius, mhz = hottest_and_clock(state)
        watts = [gpu.power_watts for gpu in state.gpus or () if gpu.power_watts is not None]
        self.during.append(
            {
                "at_s": round(at_s, 3),
                "mhz": mhz,
                "celsius": celsius,
                "throttled": None if self._last is None else bool(throttled),
                "watts": sum(watts) if watts else None,
            }
        )
        self._last = (at_s, state)

    def heat(self) -> tuple[float | None, float | None]:
        """The hottest sensor in degrees Celsius, and the mean clock of the cores in MHz, now."""
        return hottest_and_clock(read_state(self._nvml, quick=True))

    def finish(self) -> None:
        """Read the sensors for the last time."""
        self.after = read_state(self._nvml)
        self.throttling = throttled_between(self.before, self.after)
        # What came and went in between shows in neither state. Numbers differ between readings.
        reported = {re.sub(r"\d+(\.\d+)?", "#", sentence) for sentence in self.throttling}
        for sentence in self._throttled:
            pattern = re.sub(r"\d+(\.\d+)?", "#", sentence)
            if pattern not in reported:
                reported.add(pattern)
                self.throttling.append(sentence)

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "before": self.before.as_json(),
            "after": None if self.after is None else self.after.as_json(),
            "during": self.during,
        }

    def close(self) -> None:
        """Stop the meter."""
        if self.meter is not None:
            self.meter.close()
        self._nvml.close()

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def hottest_and_clock(state: State) -> tuple[float | None, float | None]:
    """The hottest sensor in degrees Celsius, and the mean clock of the cores in MHz."""
    gpus = [gpu.temperature_celsius for gpu in state.gpus or ()]
    degrees = [*state.temperatures.values(), *(float(c) for c in gpus if c is not None)]
    return max(degrees, default=None), state.cpu.mhz
