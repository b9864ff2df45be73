"""Which cores the process may use, and how they differ."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from elir_deploy.bench.sensors.files import ROOT, Tree, cpu_list, plain, whole

__all__ = ["Affinity", "CoreKind", "NumaNode", "quota_cores"]

_CPUS = "sys/devices/system/cpu"
#: Part of the fastest one's capacity and clock from which a core is of the same kind.
_ALIKE = 0.9


@dataclass(frozen=True)
class CoreKind:
    """Logical processors that are alike, as those of a big.LITTLE or a hybrid processor are not.

    Attributes:
        cores: their numbers.
        capacity: speed relative to the fastest's, which has 1024 (Documentation/ABI/testing/
            sysfs-devices-system-cpu); None where the system does not tell.
        max_mhz: the hardware's highest clock; None where the system does not tell.
    """

    cores: tuple[int, ...]
    capacity: int | None
    max_mhz: float | None


@dataclass(frozen=True)
class NumaNode:
    """Logical processors that are near the same memory."""

    number: int
    cores: tuple[int, ...]


@dataclass(frozen=True)
class Affinity:
    """Where the process may run.

    Attributes:
        allowed: logical processors that it may use; None where the system does not tell.
        online: those there are.
        physical_cores: of the allowed, those that share a physical core, together; two busy
            threads in one group take each other's time.
        kinds: of the allowed, the fastest first.
        nodes: of the allowed, by NUMA node.
        quota_cores: processor time a second that the control groups grant; None: no limit.
    """

    allowed: tuple[int, ...] | None
    online: tuple[int, ...]
    physical_cores: tuple[tuple[int, ...], ...]
    kinds: tuple[CoreKind, ...]
    nodes: tuple[NumaNode, ...]
    quota_cores: float | None

    @classmethod
    def read(
        cls, root: Path = ROOT, allowed: Callable[[], Iterable[int]] | None = None
    ) -> Affinity:
        """That of the calling thread.

        Args:
            root: where the kernel's folders are.
            allowed: gives the processors it may use; None: asks the kernel.
        """
        tree = Tree(root)
        online = cpu_list(tree.text(f"{_CPUS}/online"))
        usable = _allowed(allowed)
        cores = online if usable is None else usable
        return cls(
            allowed=usable,
            online=online,
            physical_cores=_physical_cores(tree, cores),
            kinds=_kinds(tree, cores),
            nodes=_nodes(tree, cores),
            quota_cores=quota_cores(tree),
        )

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        found: dict[str, Any] = plain(self)
        return found


def _allowed(ask: Callable[[], Iterable[int]] | None) -> tuple[int, ...] | None:
    if ask is None:
        if not hasattr(os, "sched_getaffinity"):
            return None
        ask = _of_this_thread
    try:
        return tuple(sorted(ask()))
    except OSError:
        return None


def _of_this_thread() -> Iterable[int]:
    return os.sched_getaffinity(0)


def _physical_cores(tree: Tree, cores: Iterable[int]) -> tuple[tuple[int, ...], ...]:
    groups = set()
    usable = set(cores)
    for number in usable:
        folder = f"{_CPUS}/cpu{number}/topology"
        siblings = cpu_list(tree.text(f"{folder}/core_cpus_list")) or cpu_list(
            tree.text(f"{folder}/thread_siblings_list")
        )
        groups.add(tuple(core for core in siblings if core in usable) or (number,))
    return tuple(sorted(groups))


def _kinds(tree: Tree, cores: Iterable[int]) -> tuple[CoreKind, ...]:
    # Intel's hybrid processors have a folder for each kind; ARM's have capacities, and so have
    # Intel's in newer kernels.
    small = set(cpu_list(tree.text("sys/devices/cpu_atom/cpus")))
    found: list[tuple[bool, int, float, int]] = []
    for number in cores:
        capacity = tree.integer(f"{_CPUS}/cpu{number}/cpu_capacity") or 0
        clock = tree.scaled(f"{_CPUS}/cpu{number}/cpufreq/cpuinfo_max_freq", 1e-3) or 0.0
        found.append((number in small, -capacity, -clock, number))
    kinds: list[list[tuple[bool, int, float, int]]] = []
    for core in sorted(found):
        if not kinds or not _alike(kinds[-1][0], core):
            kinds.append([])
        kinds[-1].append(core)
    return tuple(
        CoreKind(tuple(sorted(core[3] for core in kind)), -kind[0][1] or None, -kind[0][2] or None)
        for kind in kinds
    )


def _alike(fastest: tuple[bool, int, float, int], core: tuple[bool, int, float, int]) -> bool:
    """Cores of one kind boost by some percent differently (Turbo Boost Max, preferred cores)."""
    return fastest[0] == core[0] and all(
        abs(core[place]) >= _ALIKE * abs(fastest[place]) for place in (1, 2)
    )


def _nodes(tree: Tree, cores: Iterable[int]) -> tuple[NumaNode, ...]:
    usable = set(cores)
    found = []
    for folder in tree.match("sys/devices/system/node/node*"):
        number = whole(folder.name.removeprefix("node"))
        here = tuple(c for c in cpu_list(tree.text(folder / "cpulist")) if c in usable)
        if number is not None and here:
            found.append(NumaNode(number, here))
    return tuple(found)


def quota_cores(tree: Tree) -> float | None:
    """Processor time a second that the control groups grant; None: no limit.

    The smallest of the process's groups, of either version, up to the root.

    Documentation/admin-guide/cgroup-v2.rst, ``cpu.max``; Documentation/scheduler/sched-bwc.rst,
    ``cpu.cfs_quota_us``.
    """
    limits = []
    for line in (tree.text("proc/self/cgroup") or "").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        for group in _up(path):
            if number == "0":
                limits.append(_max_of(tree.text(f"sys/fs/cgroup{group}/cpu.max")))
                limits.append(_max_of(tree.text(f"sys/fs/cgroup/unified{group}/cpu.max")))
            elif "cpu" in controllers.split(","):
                folder = f"sys/fs/cgroup/{controllers}{group}"
                if not tree.exists(folder):
                    folder = f"sys/fs/cgroup/cpu{group}"
                quota = tree.integer(f"{folder}/cpu.cfs_quota_us")
                limits.append(_ratio(quota, tree.integer(f"{folder}/cpu.cfs_period_us")))
    known = [limit for limit in limits if limit is not None]
    return min(known) if known else None


def _up(path: str) -> list[str]:
    """A control group and those it is in; what leads out of the tree is left out."""
    parts = [part for part in path.split("/") if part]
    if ".." in parts:
        parts = []
    return ["".join(f"/{part}" for part in parts[:depth]) for depth in range(len(parts), -1, -1)]


def _max_of(text: str | None) -> float | None:
    quota, _, period = (text or "").partition(" ")
    return _ratio(whole(quota), whole(period))


def _ratio(quota: int | None, period: int | None) -> float | None:
    """None where there is no limit: ``max``, or -1."""
    if quota is None or period is None or quota <= 0 or period <= 0:
        return None
    return round(quota / period, 3)
