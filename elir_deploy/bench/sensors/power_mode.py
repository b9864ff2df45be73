"""What the machine was told to draw at most, and where its power comes from."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass

from elir_deploy.bench.sensors.files import Tree, whole

__all__ = ["NvpModel", "PowerMode", "PowerSupply", "read_power_mode", "read_power_supplies"]

#: Answers take milliseconds; a tool that hangs must not hang the benchmark.
_TIMEOUT_SECONDS = 5.0


@dataclass(frozen=True)
class NvpModel:
    """A Jetson's power mode.

    Attributes:
        name: such as ``15W``, ``MODE_30W_4CORE`` or ``MAXN_SUPER``.
        number: what ``nvpmodel -m`` takes; the same number means another mode on another module.
        fan: the fan's mode, where the release has one.
    """

    name: str | None
    number: int | None
    fan: str | None = None


@dataclass(frozen=True)
class PowerMode:
    """What trades speed for power on this machine; None where there is no such thing.

    Attributes:
        nvpmodel: of a Jetson.
        platform_profile: of a laptop's firmware (Documentation/ABI/testing/
            sysfs-platform_profile), such as ``balanced``.
    """

    nvpmodel: NvpModel | None
    platform_profile: str | None


@dataclass(frozen=True)
class PowerSupply:
    """One source of power (Documentation/ABI/testing/sysfs-class-power).

    Attributes:
        name: the system's, such as ``AC`` or ``BAT0``.
        kind: ``Mains``, ``USB``, ``UPS`` or ``Battery``.
        online: whether it delivers, of those that are no battery.
        status: of a battery: ``Charging``, ``Discharging``, ``Full``, ``Not charging``.
    """

    name: str
    kind: str
    online: bool | None
    status: str | None


def read_power_mode(tree: Tree, *, ask: bool = True) -> PowerMode:
    """Both power modes.

    Args:
        tree: where.
        ask: whether nvpmodel is run, a process; else its files are read.
    """
    answer = _ask_nvpmodel(tree) if ask else None
    return PowerMode(
        nvpmodel=parse_nvpmodel(answer or "") or _stored_nvpmodel(tree),
        platform_profile=tree.text("sys/firmware/acpi/platform_profile"),
    )


def parse_nvpmodel(text: str) -> NvpModel | None:
    """What ``nvpmodel -q`` answers; None where it names no mode.

    The mode's name and, on the next line, its number. Releases with fan modes say that first;
    others warn that there is none; with ``--verbose`` the line begins with ``NVPM VERB:``.
    """
    found = re.search(r"NV Power Mode:[ \t]*(\S+)[^\n]*(?:\n\s*([0-9]{1,4})\s*(?:\n|$))?", text)
    if found is None:
        return None
    fan = re.search(r"NV Fan Mode:[ \t]*(\S+)", text)
    return NvpModel(found[1], whole(found[2]), fan[1] if fan else None)


def read_power_supplies(tree: Tree) -> tuple[PowerSupply, ...]:
    """Of the machine, not of a mouse or a headset (whose scope is ``Device``)."""
    found = []
    for folder in tree.match("sys/class/power_supply/*"):
        kind = tree.text(folder / "type")
        if kind and tree.text(folder / "scope") != "Device":
            online = tree.integer(folder / "online")
            # 2 is a source online whose voltage can be chosen.
            delivers = None if kind == "Battery" or online is None else online > 0
            found.append(PowerSupply(folder.name, kind, delivers, tree.text(folder / "status")))
    return tuple(found)


def on_battery(supplies: tuple[PowerSupply, ...]) -> bool | None:
    """Whether a battery feeds the machine; None where it has none, or does not tell."""
    statuses = [s.status for s in supplies if s.kind == "Battery" and s.status]
    return "Discharging" in statuses if statuses else None


def _ask_nvpmodel(tree: Tree) -> str | None:
    tool = tree.root / "usr/sbin/nvpmodel"
    if not tree.exists("usr/sbin/nvpmodel"):
        return None
    try:
        answer = subprocess.run(
            [str(tool), "-q"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_TIMEOUT_SECONDS,
            check=False,
        )
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    # Without root it names the mode, then fails on a file of another setting.
    return answer.stdout.decode("utf-8", errors="replace")


def _stored_nvpmodel(tree: Tree) -> NvpModel | None:
    """What nvpmodel set last, and the names in its configuration."""
    stored = re.search(r"\bpmode:([0-9]{1,4})\b", tree.text("var/lib/nvpmodel/status") or "")
    if stored is None:
        return None
    number = int(stored[1])
    modes = re.findall(
        r"<\s*POWER_MODEL\s+ID=([0-9]{1,4})\s+NAME=([^\s>]+)", tree.text("etc/nvpmodel.conf") or ""
    )
    return NvpModel({int(n): name for n, name in modes}.get(number), number)
