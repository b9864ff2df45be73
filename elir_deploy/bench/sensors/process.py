"""What this process may use, and the memory it uses."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from elir_deploy.bench.sensors.files import ROOT, Tree, whole_number
from elir_deploy.bench.sensors.nvml import Nvml, import_pynvml
from elir_deploy.operating_system import allowed_cores

__all__ = ["Affinity", "device_bytes", "peak_host_bytes", "rss_bytes"]


@dataclass(frozen=True)
class Affinity:
    """Where this process may run.

    Attributes:
        allowed: logical cores it may use, sorted; None if the system does not tell.
        quota_cores: CPU seconds per second that its control groups grant; None if unlimited.
    """

    allowed: tuple[int, ...] | None
    quota_cores: float | None

    @classmethod
    def read(cls, root: Path = ROOT) -> Affinity:
        """The affinity of the calling thread."""
        return cls(allowed_cores(), _quota(Tree(root)))


def rss_bytes(root: Path = ROOT) -> int | None:
    """Resident memory, shared pages included; None if unknown."""
    return _status_bytes(root, "VmRSS")


def peak_host_bytes(root: Path = ROOT) -> int | None:
    """The highest resident memory since the process began; None if unknown.

    Neither psutil nor ``ru_maxrss`` has it: the latter includes the parent's before the exec.
    """
    return _status_bytes(root, "VmHWM")


def device_bytes(load: Callable[[], Any] = import_pynvml) -> int | None:
    """Memory on all NVIDIA GPUs, the CUDA context's some 100 MB included.

    None without NVML, before the process uses a GPU, and in containers, where NVML knows the
    process by another number.
    """
    with closing(Nvml(load)) as nvml:
        used = [nvml.process_bytes(handle, os.getpid()) for handle in nvml.handles]
    known = [count for count in used if count is not None]
    return sum(known) if known else None


def _quota(tree: Tree) -> float | None:
    """The smallest quota of the process's control groups and their parents.

    Documentation/admin-guide/cgroup-v2.rst, ``cpu.max``; Documentation/scheduler/sched-bwc.rst,
    ``cpu.cfs_quota_us`` of version 1.
    """
    quotas = []
    for line in (tree.text("proc/self/cgroup") or "").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        for group in _with_parents(path):
            if number == "0":
                for mount in ("sys/fs/cgroup", "sys/fs/cgroup/unified"):
                    quota, _, period = (tree.text(f"{mount}{group}/cpu.max") or "").partition(" ")
                    quotas.append(_ratio(whole_number(quota), whole_number(period)))
            elif "cpu" in controllers.split(","):
                folder = f"sys/fs/cgroup/{controllers}{group}"
                if not tree.exists(folder):
                    folder = f"sys/fs/cgroup/cpu{group}"
                limits = (tree.integer(f"{folder}/cpu.cfs_{n}_us") for n in ("quota", "period"))
                quotas.append(_ratio(*limits))
    return min((quota for quota in quotas if quota is not None), default=None)


def _with_parents(path: str) -> list[str]:
    """A control group and its parents; the root alone for a path that leads out of the tree."""
    names = [name for name in path.split("/") if name]
    if ".." in names:
        names = []
    return ["".join(f"/{name}" for name in names[:depth]) for depth in range(len(names) + 1)]


def _ratio(quota: int | None, period: int | None) -> float | None:
    """None if there is no limit: ``max``, or -1."""
    if quota is None or period is None or quota <= 0 or period <= 0:
        return None
    return round(quota / period, 3)


def _status_bytes(root: Path, name: str) -> int | None:
    status = Tree(root).text("proc/self/status") or ""
    line = re.search(rf"^{name}:\s*([0-9]{{1,18}}) kB$", status, re.MULTILINE)
    return int(line[1]) * 1024 if line else None
