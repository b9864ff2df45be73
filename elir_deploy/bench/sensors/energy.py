"""Energy that a machine used, from whatever it measures itself.

It is that of whole packages, GPUs or modules with all that runs on them, idle power included, never
that of one process. Energies of two machines compare only if :attr:`EnergyMeter.scope` is the same.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from time import monotonic

from elir_deploy.bench.sensors.board import is_jetson
from elir_deploy.bench.sensors.files import ROOT, Tree
from elir_deploy.bench.sensors.nvml import Nvml, has_nvidia_driver

__all__ = ["EnergyMeter", "PowerSource", "Source"]

#: Between two readings of a counter. Intel's starts again after 65 kJ (2**32 times 15.3 uJ) or
#: more, which takes a minute at 1 kW.
COUNTER_SECONDS = 10.0
#: Between two samples of a power; sensors average over about as long, or longer.
SAMPLE_SECONDS = 0.1
#: A power is unknown if its samples are further apart.
LONGEST_GAP_SECONDS = 1.0
_RAPL = "sys/class/powercap"
#: Rails of a Jetson's whole module: Orin Nano and Orin NX have one; those of AGX Orin add up, and
#: the memory's VDDQ_VDD2_1V8AO is inside VIN_SYS_5V0 (NVIDIA Jetson Linux Developer Guide,
#: "Software-Based Power Consumption Modeling").
_MODULE_RAILS = (("VDD_IN",), ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"))


class Source:
    """Energy that one part of the machine used since the source was created, from a counter.

    Args:
        name: of the sensor; ``scope`` is the part of the machine.
        read: returns the counter; None if that failed.
        unit: joules of one count.
        wraps_at: where it starts again; None: it does not, and a fall is a driver's restart.
    """

    period_seconds = COUNTER_SECONDS

    def __init__(
        self,
        name: str,
        scope: str,
        read: Callable[[], float | None],
        unit: float = 1.0,
        wraps_at: float | None = None,
    ) -> None:
        self.name = name
        self.scope = scope
        self.joules = 0.0  # until the last update; it never falls
        self._read = read
        self._unit = unit
        self._wraps_at = wraps_at or 0.0
        self._last = read()
        self._failed = self._restarted = False

    @property
    def problem(self) -> str | None:
        """Why the sum is unreliable; None if it is not."""
        # The next reading makes up for one that fails, but not for a restart.
        if self._failed:
            return f"{self.name} could not be read"
        return f"{self.name} decreased" if self._restarted else None

    def update(self) -> None:
        """Add what was used since the last update."""
        value = self._read()
        self._failed = value is None
        if value is None:
            return
        step = 0.0 if self._last is None else value - self._last
        if step < 0:
            step += self._wraps_at
        self._restarted = self._restarted or step < 0
        self.joules += max(0.0, step) * self._unit
        self._last = value


class PowerSource(Source):
    """A power in watts that is sampled and integrated by the trapezoidal rule."""

    period_seconds = SAMPLE_SECONDS

    def __init__(self, name: str, scope: str, read: Callable[[], float | None]) -> None:
        super().__init__(name, scope, read)
        self._at = monotonic()
        self._longest_gap = 0.0

    @property
    def problem(self) -> str | None:
        if self._longest_gap <= LONGEST_GAP_SECONDS:
            return None
        return f"{self.name} could not be read for {self._longest_gap:.1f} s"

    def update(self) -> None:
        watts, now = self._read(), monotonic()
        elapsed = now - self._at
        self._longest_gap = max(self._longest_gap, elapsed)
        if watts is not None:
            before = watts if self._last is None else self._last
            self.joules += (before + watts) / 2 * elapsed
            self._last, self._at = watts, now


class EnergyMeter:
    """Adds up sources, which a thread keeps up to date.

    Stretches shorter than about a second are not resolved: drivers move a GPU's counter in steps of
    up to 0.1 s, and an INA3221 averages.
    """

    def __init__(self, sources: Sequence[Source], *, thread: bool = True) -> None:
        self.sources = tuple(sources)
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        if thread:
            self._thread = threading.Thread(target=self._sample, name="energy-meter", daemon=True)
            self._thread.start()

    @classmethod
    def search(
        cls, nvml: Nvml, root: Path = ROOT, *, thread: bool = True
    ) -> tuple[EnergyMeter | None, tuple[str, ...]]:
        """The best meter of this machine, and what is not metered, with the reason and a remedy."""
        tree = Tree(root)
        missing: list[str] = []
        if is_jetson(tree):
            # Its module's rails include the GPU and the processor.
            sources = _module_sources(tree, missing)
        else:
            sources = [*_gpu_sources(nvml, tree, missing), *_rapl_sources(tree, missing)]
        return (cls(sources, thread=thread) if sources else None), tuple(missing)

    @property
    def source(self) -> str:
        """The sensors, for people."""
        return " + ".join(source.name for source in self.sources)

    @property
    def scope(self) -> str:
        """What is measured, for people."""
        return " + ".join(dict.fromkeys(source.scope for source in self.sources))

    def read(self) -> float:
        """Joules since the meter was created; it never falls. Some 20 us a source."""
        with self._lock:
            for source in self.sources:
                source.update()
            return sum(source.joules for source in self.sources)

    def problems(self) -> tuple[str, ...]:
        """Why the sum is unreliable; empty if it is not."""
        return tuple(source.problem for source in self.sources if source.problem)

    def close(self) -> None:
        """End the thread."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join(timeout=5.0)
            self._thread = None

    def _sample(self) -> None:
        period = min(source.period_seconds for source in self.sources)
        while not self._closed.wait(period):
            self.read()


def _gpu_sources(nvml: Nvml, tree: Tree, missing: list[str]) -> list[Source]:
    sources = []
    for index, handle in enumerate(nvml.handles):
        read = partial(nvml.joules, handle)
        if read() is None:
            missing.append(f"GPU {index}: its driver reports no energy")
        else:
            scope = f"GPU {index} with its memory"
            sources.append(Source(f"NVML energy of GPU {index}", scope, read))
    if nvml.reason and has_nvidia_driver(tree):
        missing.append(f"GPU: {nvml.reason}")
    return sources


def _rapl_sources(tree: Tree, missing: list[str]) -> list[Source]:
    """Counters of x86 processors (Documentation/power/powercap/powercap.rst).

    Every ``package-N``, which includes its cores and graphics, and its ``dram``, which is beside
    it. Not ``psys``: it is the whole platform, and differs between boards. Not
    ``intel-rapl-mmio``: it is package-0 again.
    """
    sources: list[Source] = []
    forbidden = False
    for folder in tree.match(f"{_RAPL}/intel-rapl:*"):
        number = re.match(r"intel-rapl:[0-9]+", folder.name)
        package = (tree.text(f"{_RAPL}/{number[0]}/name") if number else None) or ""
        zone = tree.text(folder / "name")
        if not package.startswith("package") or zone not in (package, "dram"):
            continue
        name = package if zone == package else f"{package} dram"
        read = partial(tree.integer, folder / "energy_uj")
        if read() is None:
            forbidden = True
            continue
        wraps_at = tree.integer(folder / "max_energy_range_uj")
        scope = "the processor" if zone == package else "the processor's memory"
        sources.append(Source(f"RAPL {name}", scope, read, 1e-6, wraps_at))
    if forbidden:
        # Since 2020, because secrets can be guessed from them (PLATYPUS, CVE-2020-8694).
        allow = f"sudo chmod a+r /{_RAPL}/intel-rapl:*/energy_uj"
        missing.append(f"RAPL: readable by root only; until the next start, {allow}")
    elif not sources:
        missing.append(f"RAPL: /{_RAPL} has no package")
    return sources


def _module_sources(tree: Tree, missing: list[str]) -> list[Source]:
    """A Jetson's module, by the kernel's INA3221 driver (Documentation/hwmon/ina3221.rst)."""
    rails: dict[str, list[Path]] = {}
    # in7 is a sum of shunt voltages, in4 to in6 are the shunts': no supplies.
    for file in tree.match("sys/class/hwmon/hwmon*/in[123]_label"):
        if tree.text(file.parent / "name") == "ina3221":
            number = file.name[2]
            supply = [file.with_name(f"{what}{number}_input") for what in ("in", "curr")]
            rails[tree.text(file) or ""] = supply
    for labels in _MODULE_RAILS:
        if rails.keys() >= set(labels):
            watts = partial(_sum_of_products, tree, [rails[label] for label in labels])
            scope = "the Jetson's module, without the carrier board"
            return [PowerSource(f"INA3221 {' + '.join(labels)}", scope, watts)]
    names = ", ".join(rails) or "none"
    missing.append(f"module: no INA3221 rails that add up to it (rails: {names})")
    return []


def _sum_of_products(tree: Tree, rails: Sequence[Sequence[Path]]) -> float | None:
    """Watts from files of millivolts and milliamperes."""
    total = 0.0
    for files in rails:
        volts, amperes = (tree.integer(file) for file in files)
        if volts is None or amperes is None:
            return None
        total += volts * amperes * 1e-6
    return total
