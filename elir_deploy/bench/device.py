"""Description of a machine: what a latency depends on and a reader cannot guess."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from elir_deploy import __version__
from elir_deploy.bench.sensors.cpu import cpu_entries, is_virtual, read_cpu
from elir_deploy.bench.sensors.files import ROOT, Tree, query_psutil
from elir_deploy.bench.sensors.process import Affinity

__all__ = ["CpuMeter", "describe_device", "installed_version", "usable_cores"]

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
#: Fields of nvidia-smi.
_GPU_FIELDS = ("name", "driver_version", "clocks.sm", "clocks.max.sm", "power.limit", "pstate")


def describe_device(root: Path = ROOT) -> dict[str, Any]:
    """This machine as plain JSON values; None for what is unknown.

    Memory, physical cores and the clock need psutil.
    """
    tree = Tree(root)
    entry = next(iter(cpu_entries(tree)), {})
    flags = set((entry.get("flags") or entry.get("Features") or "").split())
    cpu, memory = read_cpu(tree), query_psutil("virtual_memory")
    return {
        "machine": tree.text("proc/device-tree/model"),
        "cpu": {
            "model": entry.get("model name", entry.get("CPU part", platform.processor())) or None,
            "physical_cores": query_psutil("cpu_count", logical=False),
            "cache": entry.get("cache size"),
            "instruction_sets": [name for name in _INSTRUCTION_SETS if name in flags],
            "virtual_machine": is_virtual(tree),
            "architecture": platform.machine(),
            "logical_cores": os.cpu_count(),
            "usable_cores": usable_cores(root),
            "governor": cpu.governors,
            "mhz_now": cpu.mhz,
        },
        "gpus": _nvidia_gpus(),
        "memory": {
            "total_bytes": getattr(memory, "total", None),
            "available_bytes": getattr(memory, "available", None),
        },
        "load_average": list(os.getloadavg()),
        "os": _os_name(),
        "kernel": platform.release(),
        "python": sys.version.split()[0],
        "elir_deploy": __version__,
        "libraries": {name: version for name in _LIBRARIES if (version := installed_version(name))},
        "environment": {name: os.environ[name] for name in _VARIABLES if name in os.environ},
    }


def installed_version(package: str) -> str | None:
    """Version of an installed package; None if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def usable_cores(root: Path = ROOT) -> int:
    """Logical cores this process may keep busy, by its affinity and its container's quota.

    At least one, and whole ones: threads wait for the last of them.
    """
    affinity = Affinity.read(root)
    cores = len(affinity.allowed or ()) or os.cpu_count() or 1
    quota = affinity.quota_cores
    return cores if quota is None else min(cores, max(1, int(quota)))


class CpuMeter:
    """CPU time that other programs and other virtual machines used since construction.

    From /proc/stat and not from psutil: elir-compare depends on it, so every install needs it.
    """

    def __init__(self, root: Path = ROOT) -> None:
        self._tree = Tree(root)
        self._before = self._read()

    def cores_elsewhere(self, seconds: float) -> dict[str, float] | None:
        """Cores that others kept busy on average in the ``seconds`` since construction.

        ``other_programs`` and ``stolen`` by the hypervisor; None if the system does not tell.
        """
        before, after = self._before, self._read()
        if before is None or after is None or seconds <= 0:
            return None
        programs, stolen = (max(0.0, b - a) for a, b in zip(before, after, strict=True))
        return {
            "other_programs": round(programs / seconds, 3),
            "stolen": round(stolen / seconds, 3),
        }

    def _read(self) -> tuple[float, float] | None:
        """Seconds of other programs and of other virtual machines since boot, over all cores."""
        words = (self._tree.text("proc/stat") or "").partition("\n")[0].split()
        if len(words) < 9 or words[0] != "cpu":
            return None
        ticks = os.sysconf("SC_CLK_TCK")
        user, nice, system, _, _, irq, softirq, stolen = (int(word) / ticks for word in words[1:9])
        # This process and its children that ended.
        process = sum(os.times()[:4])
        return user + nice + system + irq + softirq - process, stolen


def _nvidia_gpus() -> list[dict[str, str]]:
    """Name, driver, clocks and power limit of each GPU; empty without nvidia-smi."""
    query = ["nvidia-smi", f"--query-gpu={','.join(_GPU_FIELDS)}", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    rows = [line.split(", ") for line in answer.stdout.splitlines()]
    return [
        dict(zip(_GPU_FIELDS, row, strict=True)) for row in rows if len(row) == len(_GPU_FIELDS)
    ]


def _os_name() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return platform.system()
