"""Watches the machine before, during and after a run."""

from __future__ import annotations

import re
from dataclasses import dataclass

from elir_deploy.bench.sensors.energy import EnergyMeter
from elir_deploy.bench.sensors.nvml import Nvml
from elir_deploy.bench.sensors.state import State, read_state, throttled_between

__all__ = ["EnergySource", "Reading", "Sensors", "Watch"]

#: Seconds between two readings during a run.
_INTERVAL_S = 2.0


@dataclass(frozen=True)
class Reading:
    """The sensors once during a run, ``at_s`` seconds after its beginning.

    Attributes:
        mhz: mean clock of the cores.
        celsius: of the hottest sensor.
        throttled: since the reading before; None for the first.
        watts: of all GPUs.
    """

    at_s: float
    mhz: float | None
    celsius: float | None
    throttled: bool | None
    watts: float | None


@dataclass(frozen=True)
class Sensors:
    """The sensors before, after and during a run."""

    before: State
    after: State | None
    during: list[Reading]


@dataclass(frozen=True)
class EnergySource:
    """The meter of energy and what it measures; None without one.

    Attributes:
        problems: why its figures are not to be trusted.
        missing: meters that cannot be had, with the reason and a remedy.
    """

    source: str | None
    scope: str | None
    problems: tuple[str, ...]
    missing: tuple[str, ...]


class Watch:
    """Reads the sensors around a run, and between its rounds.

    Attributes:
        before: the state when the watch began; ``after`` is that at :meth:`finish`.
        throttling: sentences on what slowed the machine down, after :meth:`finish`.
        meter: of energy, or None.
    """

    def __init__(self) -> None:
        self._nvml = Nvml()
        self.meter, self._missing_meters = EnergyMeter.search(self._nvml)
        self.before = read_state(self._nvml)
        self.after: State | None = None
        self.during: list[Reading] = []
        self.throttling: list[str] = []
        self._throttled: list[str] = []
        self._last: tuple[float, State] | None = None

    @property
    def sensors(self) -> Sensors:
        """All readings."""
        return Sensors(self.before, self.after, self.during)

    @property
    def energy(self) -> EnergySource:
        """The meter, and its problems until now."""
        meter, missing = self.meter, self._missing_meters
        if meter is None:
            return EnergySource(None, None, (), missing)
        return EnergySource(meter.source, meter.scope, meter.problems(), missing)

    def look(self, at_s: float) -> None:
        """Record the state ``at_s`` seconds into the run, unless it was recorded just before."""
        if self._last is not None and at_s - self._last[0] < _INTERVAL_S:
            return
        state = read_state(self._nvml, quick=True)
        throttled = throttled_between(self._last[1], state, loaded=False) if self._last else []
        self._throttled += throttled
        celsius, mhz = hottest_and_clock(state)
        watts = [gpu.power_watts for gpu in state.gpus or () if gpu.power_watts is not None]
        seen = None if self._last is None else bool(throttled)
        total = sum(watts) if watts else None
        self.during.append(Reading(round(at_s, 3), mhz, celsius, seen, total))
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

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *error: object) -> None:
        if self.meter is not None:
            self.meter.close()
        self._nvml.close()


def hottest_and_clock(state: State) -> tuple[float | None, float | None]:
    """The hottest sensor in degrees Celsius, and the mean clock of the cores in MHz."""
    gpus = [gpu.temperature_celsius for gpu in state.gpus or ()]
    degrees = [*state.temperatures.values(), *(float(c) for c in gpus if c is not None)]
    return max(degrees, default=None), state.cpu.mhz
