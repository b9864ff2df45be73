"""What a machine is: everything a latency depends on and a reader cannot guess."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from elir_deploy import __version__
from elir_deploy.bench.sensors.affinity import quota_cores
from elir_deploy.bench.sensors.cpu import is_virtual
from elir_deploy.bench.sensors.files import ROOT, Tree

__all__ = ["CpuMeter", "CpuTimes", "describe_device", "installed_version", "usable_cores"]

#: Instruction sets that decide how fast convolutions are, as /proc/cpuinfo names them.
_INSTRUCTION_SETS = (
    *("sse4_2", "f16c", "fma", "avx", "avx2", "avx_vnni", "avx512f", "avx512_vnni"),
    *("avx512_bf16", "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16", "amx_fp16"),
    *("asimd", "fphp", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2"),
)
#: Libraries whose version changes a latency or an image.
_LIBRARIES = (
    *("numpy", "pillow", "torch", "onnxruntime", "onnxruntime-gpu", "openvino"),
    *("tensorrt", "tensorrt-cu12-bindings", "tensorrt-rtx", "tensorrt-rtx-cu12-bindings"),
    *("cuda-python", "cuda-bindings", "pycuda", "onnx"),
)
#: Environment variables that change how many threads run where.
_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_WAIT_POLICY", "OMP_PROC_BIND")


def describe_device() -> dict[str, Any]:
    """This machine as plain JSON values; what cannot be found out is None."""
    cpuinfo = _read("/proc/cpuinfo")
    return {
        "machine": _read("/proc/device-tree/model").strip("\0\n") or None,
        "cpu": {
            **parse_cpuinfo(cpuinfo),
            "virtual_machine": is_virtual(Tree()),
            "architecture": platform.machine(),
            "logical_cores": os.cpu_count(),
            "usable_cores": usable_cores(),
            "governor": _governor(),
            "mhz_now": _clock_rate(cpuinfo),
        },
        "gpus": _nvidia_gpus(),
        "memory": parse_meminfo(_read("/proc/meminfo")),
        "load_average": list(os.getloadavg()),
        "os": _os_name(),
        "kernel": platform.release(),
        "python": sys.version.split()[0],
        "elir_deploy": __version__,
        "libraries": {name: version for name in _LIBRARIES if (version := installed_version(name))},
        "environment": {name: os.environ[name] for name in _VARIABLES if name in os.environ},
    }


def installed_version(package: str) -> str | None:
    """Version of an installed package; None where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def usable_cores(root: Path = ROOT) -> int:
    """Logical cores this process may keep busy, by its affinity and its container's quota.

    At least one, and no part of one: threads wait for the last of them.
    """
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    quota = quota_cores(Tree(root))
    return cores if quota is None else min(cores, max(1, int(quota)))


def parse_cpuinfo(text: str) -> dict[str, Any]:
    """Model, physical cores and instruction sets, from /proc/cpuinfo."""
    processors = _cpuinfo_entries(text)
    first = processors[0] if processors else {}
    flags = set((first.get("flags") or first.get("Features") or "").split())
    cores = {(p["physical id"], p["core id"]) for p in processors if "core id" in p}
    return {
        "model": first.get("model name") or first.get("CPU part") or platform.processor() or None,
        "physical_cores": len(cores) or None,
        "cache": first.get("cache size"),
        "instruction_sets": [name for name in _INSTRUCTION_SETS if name in flags],
    }


def parse_meminfo(text: str) -> dict[str, int | None]:
    """Total and available memory in bytes, from /proc/meminfo."""
    kib = {}
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if value.split():
            kib[name] = int(value.split()[0])
    return {
        "total_bytes": kib["MemTotal"] * 1024 if "MemTotal" in kib else None,
        "available_bytes": kib["MemAvailable"] * 1024 if "MemAvailable" in kib else None,
    }


@dataclass(frozen=True)
class CpuTimes:
    """Seconds of processor time since boot, over all cores.

    Attributes:
        busy: spent on programs and the kernel.
        stolen: taken by the hypervisor for other machines.
        own: spent on this process and its ended children; part of ``busy``.
    """

    busy: float
    stolen: float
    own: float


def read_cpu_times() -> CpuTimes | None:
    """From /proc/stat and this process; None where there is no such file."""
    return parse_stat(_read("/proc/stat"), sum(os.times()[:4]), os.sysconf("SC_CLK_TCK"))


def parse_stat(text: str, own: float, ticks_per_second: float) -> CpuTimes | None:
    """From the first line of /proc/stat: user, nice, system, idle, iowait, irq, softirq, steal."""
    fields = text.partition("\n")[0].split()
    if len(fields) < 9 or fields[0] != "cpu":
        return None
    user, nice, system, _, _, irq, softirq, stolen = (int(f) for f in fields[1:9])
    busy = (user + nice + system + irq + softirq) / ticks_per_second
    return CpuTimes(busy, stolen / ticks_per_second, own)


class CpuMeter:
    """How much processor time went elsewhere between construction and :meth:`cores_elsewhere`."""

    def __init__(self) -> None:
        self._before = read_cpu_times()

    def cores_elsewhere(self, seconds: float) -> dict[str, float] | None:
        """Cores that other programs, and other virtual machines, kept busy on average.

        Args:
            seconds: since construction.

        Returns:
            ``other_programs`` and ``stolen``; None where the system does not tell.
        """
        before, after = self._before, read_cpu_times()
        if before is None or after is None or seconds <= 0:
            return None
        others = (after.busy - before.busy) - (after.own - before.own)
        return {
            "other_programs": round(max(0.0, others / seconds), 3),
            "stolen": round(max(0.0, (after.stolen - before.stolen) / seconds), 3),
        }


def _cpuinfo_entries(text: str) -> list[dict[str, str]]:
    entries = []
    for block in text.strip().split("\n\n"):
        pairs = (line.partition(":") for line in block.splitlines())
        entry = {name.strip(): value.strip() for name, _, value in pairs}
        if "processor" in entry:
            entries.append(entry)
    return entries


def _clock_rate(cpuinfo: str) -> float | None:
    rates = [float(e["cpu MHz"]) for e in _cpuinfo_entries(cpuinfo) if "cpu MHz" in e]
    return round(sum(rates) / len(rates), 1) if rates else None


def _governor() -> str | None:
    return _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").strip() or None


def _nvidia_gpus() -> list[dict[str, str]]:
    """Name, driver, clocks and power limit of each GPU, from nvidia-smi where there is one."""
    if shutil.which("nvidia-smi") is None:
        return []
    fields = ("name", "driver_version", "clocks.sm", "clocks.max.sm", "power.limit", "pstate")
    try:
        answer = subprocess.run(
            ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return []
    rows = [line.split(", ") for line in answer.stdout.splitlines()]
    return [dict(zip(fields, row, strict=True)) for row in rows if len(row) == len(fields)]


def _os_name() -> str:
    for line in _read("/etc/os-release").splitlines():
        if line.startswith("PRETTY_NAME="):
            return line.partition("=")[2].strip('"')
    return platform.system()


def _read(path: str) -> str:
    try:
        return Path(path).read_text("utf-8", errors="replace")
    except OSError:
        return ""
