"""Temperatures, and what the kernel does and counts when they, or the currents, are too high."""

from __future__ import annotations

import re
from dataclasses import dataclass

from elir_deploy.bench.sensors.files import Tree

__all__ = [
    "CoolingDevice",
    "EventCounter",
    "Temperature",
    "read_alarms",
    "read_cooling_devices",
    "read_event_counters",
    "read_temperatures",
]

#: What a sensor that is switched off shows lies outside (-256 degrees, on Jetsons).
_CELSIUS = (-60.0, 200.0)
#: Cooling devices that slow computing down; fans, displays and radios do not. Names from
#: drivers/thermal/cpufreq_cooling.c, devfreq_cooling.c and cpuidle_cooling.c (with ``thermal-``
#: in front in older kernels), drivers/acpi/processor_driver.c, drivers/thermal/intel/
#: intel_powerclamp.c, and of Jetsons (``gpu-throttle-alert``, ``hot-surface-alert``).
_SLOWS = re.compile(
    r"(thermal-)?(cpufreq|devfreq|idle|cpuidle)-.*|Processor|intel_powerclamp|.*-alert"
)


@dataclass(frozen=True)
class Temperature:
    """One sensor's.

    Attributes:
        name: the system's, such as ``x86_pkg_temp``, ``coretemp Package id 0`` or ``tj-thermal``.
        celsius: degrees.
    """

    name: str
    celsius: float


@dataclass(frozen=True)
class CoolingDevice:
    """Something the kernel slows down when it is too hot.

    Attributes:
        name: the system's, such as ``cpufreq-cpu0``.
        state: 0: nothing is held back.
        highest: where it ends; None where the system does not tell.
    """

    name: str
    state: int
    highest: int | None


@dataclass(frozen=True)
class EventCounter:
    """Times that a Jetson's hardware met an over-current or under-voltage limit.

    Which of the three means what depends on the module.

    Attributes:
        name: the file's, such as ``oc3_event_cnt``.
        count: since the system started.
        throttles: whether the hardware slows down at it.
    """

    name: str
    count: int
    throttles: bool | None


def read_temperatures(tree: Tree) -> tuple[Temperature, ...]:
    """Of all thermal zones and hwmon chips."""
    found = []
    for zone in tree.match("sys/class/thermal/thermal_zone*"):
        name = tree.text(zone / "type") or zone.name
        found.append((name, tree.scaled(zone / "temp", 1e-3)))
    for file in tree.match("sys/class/hwmon/hwmon*/temp*_input"):
        chip = tree.text(file.parent / "name") or file.parent.name
        number = file.name.removesuffix("_input")
        label = tree.text(file.parent / f"{number}_label") or number
        found.append((f"{chip} {label}", tree.scaled(file, 1e-3)))
    low, high = _CELSIUS
    return tuple(Temperature(name, c) for name, c in found if c is not None and low < c < high)


def read_cooling_devices(tree: Tree) -> tuple[CoolingDevice, ...]:
    """Those that hold a clock down, not the fans. A state below zero means switched off."""
    found = []
    for device in tree.match("sys/class/thermal/cooling_device*"):
        name, state = tree.text(device / "type"), tree.integer(device / "cur_state")
        if name and state is not None and _SLOWS.fullmatch(name):
            highest = tree.integer(device / "max_state")
            found.append(CoolingDevice(name, max(0, state), highest))
    return tuple(found)


def read_event_counters(tree: Tree) -> tuple[EventCounter, ...]:
    """A Jetson's: hwmon ``soctherm_oc`` with ``oc<n>_event_cnt`` and ``oc<n>_throt_en``.

    NVIDIA Jetson Linux Developer Guide, Jetson Orin, "Over-current event".
    """
    found = []
    for file in tree.match("sys/class/hwmon/hwmon*/oc*_event_cnt"):
        count = tree.integer(file)
        if count is not None and count >= 0:
            enabled = tree.flag(file.with_name(file.name.replace("_event_cnt", "_throt_en")))
            found.append(EventCounter(file.name, count, enabled))
    return tuple(found)


def read_alarms(tree: Tree) -> tuple[str, ...] | None:
    """Under-voltage alarms of a Raspberry Pi that are on (drivers/hwmon/raspberrypi-hwmon.c).

    Returns:
        none where they are off; None where there are no such alarms.
    """
    files = [
        file
        for file in tree.match("sys/class/hwmon/hwmon*/in*_lcrit_alarm")
        if tree.text(file.parent / "name") == "rpi_volt"
    ]
    states = {f"rpi_volt {file.name}": tree.flag(file) for file in files}
    if all(state is None for state in states.values()):
        return None
    return tuple(name for name, state in states.items() if state)
