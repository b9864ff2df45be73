"""Heat, throttling counters, power modes, battery, and clocks besides the processor's."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from elir_deploy.bench.sensors.cpu import CPUS
from elir_deploy.bench.sensors.files import Tree, query_psutil

__all__ = [
    *("DeviceClock", "PowerMode", "is_jetson", "on_battery", "read_cooling", "read_counters"),
    *("read_device_clocks", "read_power_mode", "read_temperatures"),
]

#: Degrees Celsius; sensors that are switched off show others (-256, on Jetsons).
_PLAUSIBLE = (-60.0, 200.0)
#: Cooling devices that slow computing down, unlike fans, displays and radios. Names from
#: drivers/thermal/cpufreq_cooling.c, devfreq_cooling.c and cpuidle_cooling.c (``thermal-`` first in
#: older kernels), drivers/acpi/processor_driver.c, drivers/thermal/intel/intel_powerclamp.c, and of
#: Jetsons (``gpu-throttle-alert``, ``hot-surface-alert``).
_SLOWING = re.compile(
    r"(thermal-)?(cpufreq|devfreq|idle|cpuidle)-.*|Processor|intel_powerclamp|.*-alert"
)
#: Files of each logical core with what Intel's processors count
#: (Documentation/admin-guide/thermal/intel_thermal_throttle.rst).
_CPU_COUNTERS = tuple(
    f"{part}_throttle_{what}" for part in ("core", "package") for what in ("count", "total_time_ms")
)
#: nvpmodel answers within milliseconds; if it hangs, the benchmark goes on without.
_TIMEOUT_SECONDS = 5.0


@dataclass(frozen=True)
class PowerMode:
    """A Jetson's mode, such as ``15W``, and that of a laptop's firmware, such as ``balanced``."""

    nvpmodel: str | None
    platform_profile: str | None


@dataclass(frozen=True)
class DeviceClock:
    """A clock other than the processor's, such as ``17000000.gpu`` of a Jetson Orin.

    The limits are those allowed at present; jetson_clocks makes them equal.
    """

    name: str
    now_mhz: float | None
    min_mhz: float | None
    max_mhz: float | None
    governor: str | None


def is_jetson(tree: Tree) -> bool:
    """Whether NVIDIA's Linux for Tegra runs here."""
    return tree.exists("etc/nv_tegra_release")


def read_power_mode(tree: Tree, *, run_nvpmodel: bool = True) -> PowerMode:
    """The power modes; running nvpmodel takes a process."""
    return PowerMode(
        nvpmodel=_nvpmodel(tree) if run_nvpmodel else None,
        platform_profile=tree.text("sys/firmware/acpi/platform_profile"),
    )


def read_device_clocks(tree: Tree) -> tuple[DeviceClock, ...]:
    """Clocks of all devfreq devices (Documentation/ABI/testing/sysfs-class-devfreq)."""
    return tuple(
        DeviceClock(
            name=folder.name,
            now_mhz=tree.scaled(folder / "cur_freq", 1e-6),
            min_mhz=tree.scaled(folder / "min_freq", 1e-6),
            max_mhz=tree.scaled(folder / "max_freq", 1e-6),
            governor=tree.text(folder / "governor"),
        )
        for folder in tree.match("sys/class/devfreq/*")
        if tree.exists(folder / "cur_freq")
    )


def on_battery() -> bool | None:
    """Whether a battery powers the machine; None without one, or if unknown."""
    plugged = getattr(query_psutil("sensors_battery"), "power_plugged", None)
    return None if plugged is None else not plugged


def _nvpmodel(tree: Tree) -> str | None:
    """The mode that ``nvpmodel -q`` prints; without root it then fails on another setting."""
    if not tree.exists("usr/sbin/nvpmodel"):
        return None
    try:
        answer = subprocess.run(
            [str(tree.root / "usr/sbin/nvpmodel"), "-q"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_TIMEOUT_SECONDS,
            check=False,
        )
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    output = answer.stdout.decode("utf-8", errors="replace")
    mode = re.search(r"NV Power Mode:[ \t]*(\S+)", output)
    return mode[1] if mode else None


def read_temperatures(tree: Tree) -> dict[str, float]:
    """Degrees Celsius by sensor, of all thermal zones and hwmon chips.

    psutil leaves the zones out where any chip has a temperature: on a Jetson with an NVMe drive it
    shows the drive's alone.
    """
    readings: list[tuple[str, float | None]] = []
    for zone in tree.match("sys/class/thermal/thermal_zone*"):
        name = tree.text(zone / "type") or zone.name
        readings.append((name, tree.scaled(zone / "temp", 1e-3)))
    for file in tree.match("sys/class/hwmon/hwmon*/temp*_input"):
        number = file.name.removesuffix("_input")
        chip = tree.text(file.parent / "name") or file.parent.name
        label = tree.text(file.parent / f"{number}_label") or number
        readings.append((f"{chip} {label}", tree.scaled(file, 1e-3)))
    hottest: dict[str, float] = {}
    for name, celsius in readings:
        if celsius is not None and _PLAUSIBLE[0] < celsius < _PLAUSIBLE[1]:
            hottest[name] = max(celsius, hottest.get(name, celsius))
    return hottest


def read_cooling(tree: Tree) -> dict[str, int]:
    """State of each cooling device that slows computing down; 0: not slowed."""
    states: dict[str, int] = {}
    for device in tree.match("sys/class/thermal/cooling_device*"):
        name, state = tree.text(device / "type"), tree.integer(device / "cur_state")
        if name and state is not None and _SLOWING.fullmatch(name):
            # Negative: switched off. Several may have the same name.
            states[name] = max(0, state, states.get(name, 0))
    return states


def read_counters(tree: Tree, cores: Iterable[int]) -> dict[str, int]:
    """Throttling events, and milliseconds, since the system started.

    Intel's are sums over logical cores, each of which counts the events of its package too. Of
    Jetsons, the over-current and under-voltage events of hwmon ``soctherm_oc`` (NVIDIA Jetson Linux
    Developer Guide, Jetson Orin, "Over-current event").
    """
    files = [f"{CPUS}/cpu{n}/thermal_throttle/{name}" for n in cores for name in _CPU_COUNTERS]
    counters: dict[str, int] = {}
    for file in (*map(Path, files), *tree.match("sys/class/hwmon/hwmon*/oc*_event_cnt")):
        count = tree.integer(file)
        if count is not None:
            counters[file.name] = counters.get(file.name, 0) + count
    return counters
