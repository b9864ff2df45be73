"""The machine watched over a run: its state before and after, and in between now and then."""

from __future__ import annotations

import re
from types import TracebackType
from typing import Any

from elir_deploy.bench.sensors import EnergyMeter, Nvml, State, read_state, throttled_between

__all__ = ["Watch"]

#: Seconds between two looks during a run.
_INTERVAL_S = 2.0


class Watch:
    """Reads the sensors around a run, and between its rounds.

    Attributes:
        before: the machine when the watch began.
        during: what was seen in between, as plain JSON values.
        held_back: sentences on what throttled the machine, once :meth:`finish` was called.
        meter: of energy; None where nothing measures it.
        unmetered: whose energy cannot be had, with the reason and the way out.
    """

    def __init__(self) -> None:
        self._nvml = Nvml()
        self.meter, self.unmetered = EnergyMeter.search(nvml=self._nvml)
        self.before = read_state(nvml=self._nvml)
        self.after: State | None = None
        self.during: list[dict[str, Any]] = []
        self.held_back: list[str] = []
        self._seen: list[str] = []
        self._last: tuple[float, State] | None = None

    def look(self, at_s: float) -> None:
        """Note the state ``at_s`` seconds into the run, unless it was noted just before."""
        if self._last is not None and at_s - self._last[0] < _INTERVAL_S:
            return
        state = read_state(nvml=self._nvml, spin_seconds=0, ask=False)
        throttled = []
        if self._last is not None:
            throttled = throttled_between(self._last[1], state, loaded=False)
        self._seen += throttled
        celsius, mhz = heat(state)
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
        return heat(read_state(nvml=self._nvml, spin_seconds=0, ask=False))

    def finish(self) -> None:
        """Look for the last time."""
        self.after = read_state(nvml=self._nvml)
        self.held_back = throttled_between(self.before, self.after)
        # What came and went in between shows in neither.
        told = {_kind(text) for text in self.held_back}
        for text in self._seen:
            if _kind(text) not in told:
                told.add(_kind(text))
                self.held_back.append(text)

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

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _kind(sentence: str) -> str:
    """A sentence without its numbers, which differ from look to look."""
    return re.sub(r"\d+(\.\d+)?", "#", sentence)


def heat(state: State) -> tuple[float | None, float | None]:
    degrees = [sensor.celsius for sensor in state.temperatures]
    degrees += [
        float(gpu.temperature_celsius)
        for gpu in state.gpus or ()
        if gpu.temperature_celsius is not None
    ]
    clocks = [core.now_mhz for core in state.cpu.cores if core.now_mhz is not None]
    mean = round(sum(clocks) / len(clocks), 1) if clocks else None
    return (max(degrees) if degrees else None), mean
