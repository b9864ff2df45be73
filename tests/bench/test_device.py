"""Reading what a machine says about itself."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from elir_deploy.bench import device
from elir_deploy.bench.device import (
    CoresElsewhere,
    CpuMeter,
    describe_device,
    installed_version,
    usable_cores,
)
from elir_deploy.bench.sensors.cpu import is_virtual
from elir_deploy.bench.sensors.files import Tree
from tests.bench.sensors.trees import plant

X86 = """processor\t: 0
model name\t: AMD EPYC
physical id\t: 0
core id\t\t: 0
cpu MHz\t\t: 2500.0
cache size\t: 1024 KB
flags\t\t: fpu sse4_2 avx2 avx512f avx512_bf16 avx512_vnni hypervisor

processor\t: 1
model name\t: AMD EPYC
physical id\t: 0
core id\t\t: 0
cpu MHz\t\t: 2600.0
flags\t\t: fpu
"""
JETSON = """processor\t: 0
BogoMIPS\t: 62.50
Features\t: fp asimd fphp asimdhp asimddp
CPU implementer\t: 0x41
CPU part\t: 0xd42
"""


def cpu_of(root, cpuinfo: str):
    return describe_device(plant(root, {"proc/cpuinfo": cpuinfo})).cpu


def test_cpuinfo_of_x86(tmp_path):
    cpu = cpu_of(tmp_path, X86)
    assert cpu.model == "AMD EPYC"
    assert cpu.instruction_sets == ["sse4_2", "avx2", "avx512f", "avx512_vnni", "avx512_bf16"]


def test_cpuinfo_of_arm(tmp_path):
    cpu = cpu_of(tmp_path, JETSON)
    assert cpu.model == "0xd42"
    assert cpu.instruction_sets == ["asimd", "fphp", "asimdhp", "asimddp"]


def test_the_board_and_its_governors(tmp_path):
    plant(tmp_path, {"proc/device-tree/model": b"NVIDIA Jetson Orin Nano\0"})
    plant(tmp_path, {"sys/devices/system/cpu/online": "0"})
    plant(tmp_path, {"sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "schedutil"})
    found = describe_device(tmp_path)
    assert found.machine == "NVIDIA Jetson Orin Nano"
    assert found.cpu.governor == "schedutil"


def test_a_machine_without_procfs_and_psutil(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "psutil", None)
    found = describe_device(tmp_path)
    assert found.machine is None
    assert found.memory_bytes is None
    assert found.cpu.instruction_sets == []
    assert CpuMeter(tmp_path).cores_elsewhere(10) is None


def test_what_psutil_tells_is_what_the_kernel_does():
    kib = int(Path("/proc/meminfo").read_text().split("MemTotal:")[1].split()[0])
    assert describe_device().memory_bytes == kib * 1024


def cpu_line(**ticks: int) -> str:
    names = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")
    return f"cpu  {' '.join(str(ticks.get(name, 0)) for name in names)} 0 0\ncpu0 1 1 1\n"


def test_cpu_time_of_others(tmp_path, monkeypatch):
    ticks = os.sysconf("SC_CLK_TCK")
    process = [2.0, 0.0, 0.0, 0.0]
    monkeypatch.setattr(os, "times", lambda: process)
    plant(tmp_path, {"proc/stat": cpu_line(user=10 * ticks, idle=7 * ticks, steal=ticks)})
    meter = CpuMeter(tmp_path)
    # Of 20 busy seconds 10 were this process's; over 10 seconds that leaves one core.
    process[:] = [6.0, 3.0, 2.0, 1.0]
    busy = dict.fromkeys(("nice", "system", "irq", "softirq"), 4 * ticks)
    plant(tmp_path, {"proc/stat": cpu_line(user=14 * ticks, idle=99, steal=2 * ticks, **busy)})
    assert meter.cores_elsewhere(10) == CoresElsewhere(1.0, 0.1)
    assert meter.cores_elsewhere(0) is None


def test_this_machine():
    found = describe_device()
    json.dumps(asdict(found), allow_nan=False)
    assert found.cpu.usable_cores == usable_cores() >= 1
    assert found.cpu.virtual_machine is is_virtual(Tree())
    assert found.libraries["numpy"]
    assert found.elir_deploy


def test_graphics_cards(monkeypatch, tmp_path):
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'RTX 2080 Ti, 550.1, 1350 MHz, 2100 MHz, 250.00 W, P0'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    (card,) = device._nvidia_gpus()
    assert (card["name"], card["driver_version"]) == ("RTX 2080 Ti", "550.1")
    tool.write_text("#!/bin/sh\necho 'no driver' >&2\nexit 9\n")
    assert device._nvidia_gpus() == []


@pytest.mark.parametrize(("package", "known"), [("numpy", True), ("no-such-package", False)])
def test_installed_version(package, known):
    assert (installed_version(package) is not None) == known


@pytest.mark.parametrize(
    ("group", "files", "cores"),
    [
        ("0::/", {"cpu.max": "200000 100000"}, 2),
        ("0::/", {"cpu.max": "150000 100000"}, 1),
        ("0::/", {"cpu.max": "5000 100000"}, 1),
        ("0::/", {"cpu.max": "max 100000"}, 8),
        ("0::/", {"cpu.max": "900000 100000"}, 8),
        # A service's, of which the root knows nothing, and version 1's.
        ("0::/a/b", {"a/cpu.max": "300000 100000", "a/b/cpu.max": "max 100000"}, 3),
        ("1:cpu:/", {"cpu/cpu.cfs_quota_us": 200_000, "cpu/cpu.cfs_period_us": 100_000}, 2),
    ],
)
def test_a_containers_quota(tmp_path, monkeypatch, group, files, cores):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    plant(tmp_path, {f"sys/fs/cgroup/{name}": text for name, text in files.items()})
    plant(tmp_path, {"proc/self/cgroup": group})
    assert usable_cores(tmp_path) == cores
