"""Jetson boards: power of the module from its INA3221 sensors, and the GPU's clock."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from elir_deploy.bench.sensors.files import Tree

__all__ = [
    "DeviceClock",
    "Jtop",
    "Rail",
    "find_rails",
    "import_jtop",
    "is_jetson",
    "read_device_clocks",
    "total_of",
]

#: Rails that are the input of the whole module: Orin Nano, Orin NX, Xavier NX and TX2; Nano.
_INPUTS = ("VDD_IN", "POM_5V_IN")
#: Rails that add up to it on modules without such a rail: AGX Orin, where the memory's
#: VDDQ_VDD2_1V8AO is inside VIN_SYS_5V0; AGX Xavier (NVIDIA Jetson Linux Developer Guide,
#: "Software-Based Power Consumption Modeling").
_SUMS = (
    ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"),
    ("GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"),
)


@dataclass(frozen=True)
class DeviceClock:
    """A clock other than the processor's; on a Jetson, the GPU's.

    Attributes:
        name: the system's, such as ``17000000.gpu`` on Orin.
        now_mhz: at the moment; an idle device is slow.
        min_mhz: the lowest allowed; with jetson_clocks it equals the highest.
        max_mhz: the highest allowed.
        governor: what chooses it.
    """

    name: str
    now_mhz: float | None
    min_mhz: float | None
    max_mhz: float | None
    governor: str | None


@dataclass(frozen=True)
class Rail:
    """One supply that a sensor measures.

    Attributes:
        label: the board's name of it.
        watts: gives its power now; None where it failed. A transfer on the board's I2C bus, or
            two.
    """

    label: str
    watts: Callable[[], float | None]


def is_jetson(tree: Tree) -> bool:
    """Whether NVIDIA's Linux for Tegra runs here."""
    return tree.exists("etc/nv_tegra_release")


def read_device_clocks(tree: Tree) -> tuple[DeviceClock, ...]:
    """Of all devfreq devices (Documentation/ABI/testing/sysfs-class-devfreq), in hertz there."""
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


def find_rails(tree: Tree) -> tuple[Rail, ...]:
    """Every rail that can be read, of both drivers.

    JetPack 5 and newer have the kernel's (Documentation/hwmon/ina3221.rst), JetPack 4 and older
    NVIDIA's own below iio. In both, channels that are not connected are called NC.
    """
    rails: dict[str, Rail] = {}
    folders = tree.match("sys/bus/i2c/drivers/ina3221*/*/hwmon/hwmon*") or [
        folder
        for folder in tree.match("sys/class/hwmon/hwmon*")
        if tree.text(folder / "name") == "ina3221"
    ]
    for folder in folders:
        # in7 is a sum of shunt voltages, in4 to in6 the shunts': no supplies.
        for channel in (1, 2, 3):
            label = tree.text(folder / f"in{channel}_label")
            if label is not None and label != "NC":
                rail = _product(
                    tree, folder / f"in{channel}_input", folder / f"curr{channel}_input"
                )
                rails.setdefault(label, Rail(label, rail))
    for file in tree.match("sys/bus/i2c/drivers/ina3221x/*/iio:device*/rail_name_*"):
        label, number = tree.text(file), file.name.removeprefix("rail_name_")
        if label is not None and label != "NC":
            power = file.with_name(f"in_power{number}_input")
            rails.setdefault(label, Rail(label, _milliwatts(tree, power)))
    return tuple(rail for rail in rails.values() if rail.watts() is not None)


def total_of(rails: tuple[Rail, ...]) -> tuple[Rail, ...]:
    """Those that add up to the whole module; none where that is not known."""
    named = {rail.label: rail for rail in rails}
    for label in _INPUTS:
        if label in named:
            return (named[label],)
    for labels in _SUMS:
        if named.keys() >= set(labels):
            return tuple(named[label] for label in labels)
    return ()


def import_jtop() -> Any:
    """The module of ``jetson-stats``.

    Raises:
        ImportError: it is not installed.
    """
    return importlib.import_module("jtop")


class Jtop:
    """Power of the module as the service of jetson-stats tells it; where there is none, why.

    For boards whose sensors only root may read: the service is root, and reads the same ones.

    Args:
        load: gives the module ``jtop``.
        seconds: between two figures.

    Attributes:
        reason: why there is no figure; None where there is.
    """

    def __init__(self, load: Callable[[], Any] = import_jtop, seconds: float = 0.1) -> None:
        self.reason: str | None = None
        self._client: Any = None
        try:
            client = load().jtop(interval=seconds)
        except ImportError:
            self.reason = "jetson-stats is not installed"
            return
        except Exception as error:  # noqa: BLE001  # nor may its fault end a benchmark
            self.reason = f"jetson-stats: {error}"
            return
        try:
            client.start()
            self._client = client
        except Exception as error:  # noqa: BLE001  # nor may its fault end a benchmark
            self.reason = f"jetson-stats: {error}"
            return
        if self.watts() is None:
            self.reason = "jetson-stats knows no power"

    def watts(self) -> float | None:
        """The last figure of the whole module."""
        try:
            power = self._client.power
            total, rails = power["tot"], power["rail"]
            if total.get("name") in _INPUTS:
                return float(total["power"]) * 1e-3
            # Its total is the sum of all rails, of which one may be inside another.
            for labels in _SUMS:
                if rails.keys() >= set(labels):
                    return sum(float(rails[label]["power"]) for label in labels) * 1e-3
        except Exception:  # noqa: BLE001  # whatever the service sends or fails to send
            return None
        return None

    def close(self) -> None:
        """Leave the service."""
        with suppress(Exception):
            if self._client is not None:
                self._client.close()
        self._client = None


def _product(tree: Tree, volts: Path, amperes: Path) -> Callable[[], float | None]:
    def watts() -> float | None:
        millivolts, milliamperes = tree.integer(volts), tree.integer(amperes)
        if millivolts is None or milliamperes is None:
            return None
        return millivolts * milliamperes * 1e-6

    return watts


def _milliwatts(tree: Tree, power: Path) -> Callable[[], float | None]:
    return lambda: tree.scaled(power, 1e-3)
