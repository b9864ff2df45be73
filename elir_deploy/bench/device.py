"""Description of a machine: what a latency depends on and a reader cannot guess."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from elir_deploy import __version__
from elir_deploy.bench.sensors.cpu import cpu_entries, is_virtual, read_cpu
from elir_deploy.bench.sensors.files import ROOT, Tree, query_psutil
from elir_deploy.bench.sensors.process import Affinity
from elir_deploy.operating_system import clock_ticks

__all__ = [
    *("CoresElsewhere", "Cpu", "CpuMeter", "Device"),
    *("describe_device", "installed_version", "usable_cores"),
]

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


@dataclass(frozen=True)
class Cpu:
    """The processor; None where the system does not say."""

    model: str | None
    instruction_sets: list[str]
    virtual_machine: bool | None
    architecture: str
    usable_cores: int
    governor: str | None


@dataclass(frozen=True)
class Device:
    """A machine; None where the system does not say.

    Attributes:
        machine: the board, where the firmware names one.
        gpus: NVIDIA's, as nvidia-smi describes them.
        memory_bytes: all of it; needs psutil.
        libraries: versions of those installed.
    """

    machine: str | None
    cpu: Cpu
    gpus: list[dict[str, str]]
    memory_bytes: int | None
    os: str
    kernel: str
    python: str
    elir_deploy: str
    libraries: dict[str, str]
    environment: dict[str, str]
    affinity: Affinity


def describe_device(root: Path = ROOT) -> Device:
    """This machine."""
    tree = Tree(root)
    entry = next(iter(cpu_entries(tree)), {})
    flags = set((entry.get("flags") or entry.get("Features") or "").split())
    return Device(
        machine=tree.text("proc/device-tree/model"),
        cpu=Cpu(
            model=entry.get("model name", entry.get("CPU part", platform.processor())) or None,
            instruction_sets=[name for name in _INSTRUCTION_SETS if name in flags],
            virtual_machine=is_virtual(tree),
            architecture=platform.machine(),
            usable_cores=usable_cores(root),
            governor=read_cpu(tree).governors,
        ),
        gpus=_nvidia_gpus(),
        memory_bytes=getattr(query_psutil("virtual_memory"), "total", None),
        os=_os_name(),
        kernel=platform.release(),
        python=sys.version.split()[0],
        elir_deploy=__version__,
        libraries={name: version for name in _LIBRARIES if (version := installed_version(name))},
        environment={name: os.environ[name] for name in _VARIABLES if name in os.environ},
        affinity=Affinity.read(root),
    )


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


@dataclass(frozen=True)
class CoresElsewhere:
    """Cores that others kept busy on average: other programs, and other virtual machines."""

    other_programs: float
    stolen: float


class CpuMeter:
    """CPU time that other programs and other virtual machines used since construction.

    From /proc/stat and not from psutil: elir-compare depends on it, so every install needs it.
    """

    def __init__(self, root: Path = ROOT) -> None:
        self._tree = Tree(root)
        self._before = self._read()

    def cores_elsewhere(self, seconds: float) -> CoresElsewhere | None:
        """Of the ``seconds`` since construction; None if the system does not tell."""
        before, after = self._before, self._read()
        if before is None or after is None or seconds <= 0:
            return None
        busy = (max(0.0, b - a) for a, b in zip(before, after, strict=True))
        return CoresElsewhere(*(round(each / seconds, 3) for each in busy))

    def _read(self) -> tuple[float, float] | None:
        """Seconds of other programs and of other virtual machines since boot, over all cores."""
        words = (self._tree.text("proc/stat") or "").partition("\n")[0].split()
        if len(words) < 9 or words[0] != "cpu":
            return None
        ticks = clock_ticks()
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
