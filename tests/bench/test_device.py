"""Reading what a machine says about itself."""

from __future__ import annotations

import json
import os

import pytest

from elir_deploy.bench import device
from elir_deploy.bench.device import (
    CpuMeter,
    CpuTimes,
    describe_device,
    installed_version,
    parse_cpuinfo,
    parse_meminfo,
    parse_stat,
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


def test_cpuinfo_of_x86():
    found = parse_cpuinfo(X86)
    assert found == {
        "model": "AMD EPYC",
        "physical_cores": 1,
        "cache": "1024 KB",
        "instruction_sets": ["sse4_2", "avx2", "avx512f", "avx512_vnni", "avx512_bf16"],
    }
    assert device._clock_rate(X86) == 2550


def test_cpuinfo_of_arm():
    found = parse_cpuinfo(JETSON)
    assert found["model"] == "0xd42"
    assert found["physical_cores"] is None
    assert found["instruction_sets"] == ["asimd", "fphp", "asimdhp", "asimddp"]
    assert device._clock_rate(JETSON) is None


def test_nothing_is_known_without_procfs():
    assert parse_cpuinfo("")["instruction_sets"] == []
    assert parse_meminfo("") == {"total_bytes": None, "available_bytes": None}
    assert parse_stat("", 0, 100) is None


def test_meminfo():
    text = "MemTotal:       2048 kB\nMemFree:  1 kB\nMemAvailable:   1024 kB\nHugePages_Total: 0\n"
    assert parse_meminfo(text) == {"total_bytes": 2**21, "available_bytes": 2**20}


def test_stat():
    line = "cpu  100 20 30 4000 5 6 7 50 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n"
    assert parse_stat(line, own=0.5, ticks_per_second=100) == CpuTimes(1.63, 0.5, 0.5)


def test_meter_of_other_programs(monkeypatch):
    readings = iter([CpuTimes(10, 1, 2), CpuTimes(30, 2, 12)])
    monkeypatch.setattr(device, "read_cpu_times", lambda: next(readings))
    # Of 20 busy seconds 10 were our own; over 10 seconds that leaves one core.
    assert CpuMeter().cores_elsewhere(10) == {"other_programs": 1.0, "stolen": 0.1}


def test_meter_where_the_system_does_not_tell(monkeypatch):
    monkeypatch.setattr(device, "read_cpu_times", lambda: None)
    assert CpuMeter().cores_elsewhere(10) is None


def test_this_machine():
    found = describe_device()
    json.dumps(found, allow_nan=False)
    assert found["cpu"]["usable_cores"] == usable_cores() >= 1
    assert found["cpu"]["virtual_machine"] is is_virtual(Tree())
    assert found["libraries"]["numpy"]
    assert len(found["load_average"]) == 3
    assert found["elir_deploy"]


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
