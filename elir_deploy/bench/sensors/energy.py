"""Energy that a machine used, from whatever it measures itself.

It is that of whole packages, boards or modules, with all that runs on them, idle power included,
and never that of one process. What is measured differs from machine to machine, so energies of two
machines compare only where :attr:`EnergyMeter.scope` says the same.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from elir_deploy.bench.sensors.files import ROOT, Tree
from elir_deploy.bench.sensors.jetson import Jtop, find_rails, import_jtop, is_jetson, total_of
from elir_deploy.bench.sensors.nvml import Nvml, nvidia_present
from elir_deploy.bench.sensors.rapl import RaplZone, find_zones

__all__ = ["CounterSource", "EnergyMeter", "PowerSource", "Source"]

#: Between two samples of a power. Sensors average over about as long, or longer; a sample takes
#: some 0.1 ms of processor time, after a sleep more than in a row.
SAMPLE_SECONDS = 0.1
#: Between two looks at a counter. Intel's begins anew after 65 kJ (2**32 times 15.3 uJ) or more,
#: which 1 kW takes a minute for.
COUNTER_SECONDS = 10.0
#: A power is taken to go on for so long after its last sample; then it is unknown.
LONGEST_GAP_SECONDS = 1.0
_JOULES_OF_MICROJOULES = 1e-6


class Source(ABC):
    """Joules of one part of the machine since the source was made.

    Attributes:
        name: of the sensor, for people.
        scope: the part, for people.
        period_seconds: how often :meth:`update` must be called at least.
    """

    name: str
    scope: str
    period_seconds: float

    @property
    @abstractmethod
    def problem(self) -> str | None:
        """Why the sum is not to be believed; None while it is."""

    @abstractmethod
    def update(self, now: float) -> None:
        """Take note of what was used until ``now``."""

    @abstractmethod
    def joules(self, now: float) -> float:
        """The sum until ``now``; it never falls."""


class CounterSource(Source):
    """A counter that the hardware or its driver keeps.

    Args:
        name: of the sensor.
        scope: what it counts.
        read: gives the counter; None where it failed.
        unit: joules of one count.
        wraps_at: what it counts to before it begins anew; None: it does not, and a fall is a
            driver's restart.
    """

    period_seconds = COUNTER_SECONDS

    def __init__(
        self,
        name: str,
        scope: str,
        read: Callable[[], float | None],
        *,
        unit: float,
        wraps_at: float | None = None,
    ) -> None:
        self.name = name
        self.scope = scope
        self._read = read
        self._unit = unit
        self._wraps_at = wraps_at
        self._last = read()
        self._sum = 0.0
        self._unread: str | None = None
        self._went_back: str | None = None
        self._lock = threading.Lock()

    @property
    def problem(self) -> str | None:
        # A reading that fails is made up for by the next; what was lost by a fall is not.
        return self._unread or self._went_back

    def update(self, now: float) -> None:
        with self._lock:
            value = self._read()
            if value is None:
                self._unread = f"{self.name} could not be read"
                return
            self._unread = None
            step = 0.0 if self._last is None else value - self._last
            if step < 0 and self._wraps_at is not None:
                step += self._wraps_at
            if step < 0:
                self._went_back = f"{self.name} went back"
                step = 0.0
            self._sum += step
            self._last = value

    def joules(self, now: float) -> float:
        self.update(now)
        return self._sum * self._unit


class PowerSource(Source):
    """A power that is sampled and integrated (trapezoidal rule).

    Between samples the last power is taken to go on, so the energy of a stretch of time is off by
    at most the change of power within a sample, times that sample's length.

    Args:
        name: of the sensor.
        scope: what it measures.
        watts: gives the power; None where it failed.
        now: the time.
    """

    period_seconds = SAMPLE_SECONDS

    def __init__(
        self, name: str, scope: str, watts: Callable[[], float | None], now: float
    ) -> None:
        self.name = name
        self.scope = scope
        self._watts = watts
        self._power = watts() or 0.0
        self._at = now
        self._sum = 0.0
        self._told = 0.0
        self._longest_gap = 0.0
        self._lock = threading.Lock()

    @property
    def problem(self) -> str | None:
        if self._longest_gap <= LONGEST_GAP_SECONDS:
            return None
        return f"{self.name} gave nothing for {self._longest_gap:.1f} s"

    def update(self, now: float) -> None:
        # Outside the lock: a sensor on a slow bus must not keep a reader waiting.
        power = self._watts()
        with self._lock:
            if power is None or now < self._at:
                return
            self._note_gap(now)
            self._sum += (self._power + power) / 2 * (now - self._at)
            self._power, self._at = power, now

    def joules(self, now: float) -> float:
        with self._lock:
            self._note_gap(now)
            since = min(max(0.0, now - self._at), LONGEST_GAP_SECONDS)
            # The next sample may show that less was used.
            self._told = max(self._told, self._sum + self._power * since)
            return self._told

    def _note_gap(self, now: float) -> None:
        self._longest_gap = max(self._longest_gap, now - self._at)


class EnergyMeter:
    """Joules since the meter was made.

    Of the sources a machine has, these are taken: on a Jetson the input of the whole module, from
    its INA3221; else each NVIDIA GPU's counter, or its power where it has none, together with the
    processors' RAPL counters. They do not overlap, so their sum is :meth:`read`.

    A thread looks at counters every 10 s, so that none wraps unseen, and at powers ten times a
    second; :meth:`cost` says what that takes. Stretches shorter than about a second are not
    resolved: drivers move a GPU's counter in steps of up to 0.1 s, and an INA3221 averages.

    Args:
        sources: what to add up.
        missing: what was not found, and why.
        clock: seconds that never go back.
        thread: whether to start it; without, :meth:`update` must be called.
        also_close: what ends with the meter.

    Attributes:
        missing: see above.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        *,
        missing: Sequence[str] = (),
        clock: Callable[[], float] = time.monotonic,
        thread: bool = True,
        also_close: Sequence[Callable[[], None]] = (),
    ) -> None:
        self.sources = tuple(sources)
        self.missing = tuple(missing)
        self._clock = clock
        self._also_close = list(also_close)
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        if thread:
            self._thread = threading.Thread(target=self._watch, name="energy-meter", daemon=True)
            self._thread.start()

    @classmethod
    def search(
        cls,
        root: Path = ROOT,
        *,
        nvml: Nvml | None = None,
        load_jtop: Callable[[], Any] = import_jtop,
        clock: Callable[[], float] = time.monotonic,
        thread: bool = True,
    ) -> tuple[EnergyMeter | None, tuple[str, ...]]:
        """The best meter there is, and what was not found, with the reason and the way out.

        Args:
            root: where the kernel's folders are.
            nvml: a session to use and leave open; None: one is opened, and closed with the meter.
            load_jtop: gives the module of jetson-stats.
            clock: seconds that never go back.
            thread: whether the meter keeps itself up to date.
        """
        tree = Tree(root)
        missing: list[str] = []
        closers: list[Callable[[], None]] = []
        sources = _module_sources(tree, load_jtop, clock, missing, closers)
        if not sources:
            session = Nvml() if nvml is None else nvml
            gpus = _gpu_sources(session, clock)
            if not gpus and session.reason and nvidia_present(tree) and not is_jetson(tree):
                missing.append(f"GPU: {session.reason}")
            elif not gpus and session.handles:
                missing.append("GPU: its driver tells neither energy nor power")
            if nvml is None and gpus:
                closers.append(session.close)
            elif nvml is None:
                session.close()
            sources = [*gpus, *_processor_sources(tree, missing)]
        if not sources:
            return None, tuple(missing)
        meter = cls(sources, missing=missing, clock=clock, thread=thread, also_close=closers)
        return meter, meter.missing

    @property
    def source(self) -> str:
        """The sensors, for people."""
        return " + ".join(source.name for source in self.sources)

    @property
    def scope(self) -> str:
        """What the energy is that of, for people."""
        return " + ".join(dict.fromkeys(source.scope for source in self.sources))

    def read(self) -> float:
        """Joules since the meter was made, of all that ran on what it measures; it never falls.

        Cheap enough for between the turns of a run: a small file, or a call of the driver, for
        each counter (some 20 us a file), and nothing to wait for where a power is sampled.
        """
        now = self._clock()
        return sum(source.joules(now) for source in self.sources)

    def problems(self) -> tuple[str, ...]:
        """Why the sum is not to be believed; empty while it is."""
        return tuple(source.problem for source in self.sources if source.problem)

    def update(self) -> None:
        """Look at every source; the thread does so by itself."""
        for source in self.sources:
            source.update(self._clock())

    def close(self) -> None:
        """End the thread and give the sensors back."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join(timeout=5.0)
            self._thread = None
        while self._also_close:
            self._also_close.pop()()

    def __enter__(self) -> EnergyMeter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _watch(self) -> None:
        began = self._clock()
        due = [began + source.period_seconds for source in self.sources]
        while not self._ended.wait(max(0.0, min(due) - self._clock())):
            for index, source in enumerate(self.sources):
                if due[index] <= self._clock():
                    source.update(self._clock())
                    # After a pause there is nothing to catch up on.
                    due[index] = max(due[index] + source.period_seconds, self._clock())


def _module_sources(
    tree: Tree,
    load_jtop: Callable[[], Any],
    clock: Callable[[], float],
    missing: list[str],
    closers: list[Callable[[], None]],
) -> list[Source]:
    """The whole of a Jetson's module; nothing on other machines."""
    rails = find_rails(tree)
    chosen = total_of(rails)
    if chosen:
        labels = " + ".join(rail.label for rail in chosen)

        def watts() -> float | None:
            powers = [rail.watts() for rail in chosen]
            known = [power for power in powers if power is not None]
            return sum(known) if len(known) == len(powers) else None

        return [PowerSource(f"INA3221 {labels}", _MODULE, watts, clock())]
    if not is_jetson(tree):
        return []
    jtop = Jtop(load_jtop)
    if jtop.reason is None:
        closers.append(jtop.close)
        return [PowerSource("jetson-stats", _MODULE, jtop.watts, clock())]
    jtop.close()
    missing.append(f"module: {_why_no_rails(tree, [rail.label for rail in rails])}, {jtop.reason}")
    return []


_MODULE = "the Jetson's module, without the carrier board"


def _why_no_rails(tree: Tree, labels: Sequence[str]) -> str:
    if labels:
        return f"its rails ({', '.join(labels)}) are not known to add up to it"
    files = tree.match("sys/bus/i2c/drivers/ina3221x/*/iio:device*/rail_name_*")
    if any(tree.denied(file) for file in files):
        # JetPack 4 lets root alone read them.
        pattern = "/sys/bus/i2c/drivers/ina3221x/*/iio:device*"
        return (
            "its sensors can be read by root only; until the next start, sudo chmod a+r "
            f"{pattern}/rail_name_* {pattern}/in_power*_input"
        )
    return "it shows no INA3221 sensor"


def _gpu_sources(nvml: Nvml, clock: Callable[[], float]) -> list[Source]:
    found: list[Source] = []
    for index, handle in enumerate(nvml.handles):
        joules, watts = partial(nvml.joules, handle), partial(nvml.watts, handle)
        scope = f"GPU {index} with its memory"
        if joules() is not None:
            found.append(CounterSource(f"NVML energy of GPU {index}", scope, joules, unit=1.0))
        elif watts() is not None:
            found.append(PowerSource(f"NVML power of GPU {index}", scope, watts, clock()))
    return found


def _processor_sources(tree: Tree, missing: list[str]) -> list[Source]:
    zones, reason = find_zones(tree)
    if reason is not None:
        missing.append(reason)
    return [_processor_source(zone) for zone in zones]


def _processor_source(zone: RaplZone) -> Source:
    scope = "the processor's memory" if zone.name.endswith("dram") else "the processor"
    return CounterSource(
        f"RAPL {zone.name}",
        scope,
        zone.read,
        unit=_JOULES_OF_MICROJOULES,
        wraps_at=zone.wraps_at,
    )
