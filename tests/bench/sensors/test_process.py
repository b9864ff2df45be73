"""Which cores this process may use, and its memory."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from types import SimpleNamespace

import pytest

from elir_deploy.bench.sensors.process import (
    Affinity,
    device_bytes,
    peak_host_bytes,
    rss_bytes,
)
from tests.bench.sensors.nvml_stand_in import StandIn, not_installed
from tests.bench.sensors.trees import plant

GROUPS = "sys/fs/cgroup"


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"proc/self/cgroup": "0::/", f"{GROUPS}/cpu.max": "150000 100000"}, 1.5),
        ({"proc/self/cgroup": "0::/", f"{GROUPS}/cpu.max": "max 100000"}, None),
        # The tightest of the groups it is in.
        (
            {
                "proc/self/cgroup": "0::/a/b",
                f"{GROUPS}/cpu.max": "max 100000",
                f"{GROUPS}/a/cpu.max": "200000 100000",
                f"{GROUPS}/a/b/cpu.max": "400000 100000",
            },
            2.0,
        ),
        # Seen from inside a container, its group lies outside.
        (
            {
                "proc/self/cgroup": "0::/../x",
                f"{GROUPS}/cpu.max": "100000 100000",
                "sys/fs/x/cpu.max": "50000 100000",
            },
            1.0,
        ),
        # A group of other controllers has the same name as someone else's of this one.
        (
            {
                "proc/self/cgroup": "2:cpuset:/tight\n1:cpu:/",
                f"{GROUPS}/cpu/tight/cpu.cfs_quota_us": 10_000,
                f"{GROUPS}/cpu/tight/cpu.cfs_period_us": 100_000,
            },
            None,
        ),
        # Version 1: its controllers in one folder, or linked by the controller's name.
        (
            {
                "proc/self/cgroup": "4:memory:/m\n3:cpu,cpuacct:/job\n0::/",
                f"{GROUPS}/cpu,cpuacct/job/cpu.cfs_quota_us": 50_000,
                f"{GROUPS}/cpu,cpuacct/job/cpu.cfs_period_us": 100_000,
            },
            0.5,
        ),
        (
            {
                "proc/self/cgroup": "1:cpu,cpuacct:/job",
                f"{GROUPS}/cpu/job/cpu.cfs_quota_us": 250_000,
                f"{GROUPS}/cpu/job/cpu.cfs_period_us": 100_000,
            },
            2.5,
        ),
        (
            {
                "proc/self/cgroup": "1:cpu:/",
                f"{GROUPS}/cpu/cpu.cfs_quota_us": -1,
                f"{GROUPS}/cpu/cpu.cfs_period_us": 100_000,
            },
            None,
        ),
        ({"proc/self/cgroup": "0::/", f"{GROUPS}/cpu.max": "1 0"}, None),
        ({"proc/self/cgroup": "junk\n\n:::\n", f"{GROUPS}/cpu.max": "junk"}, None),
        ({}, None),
    ],
)
def test_quota(tmp_path, files, quota):
    plant(tmp_path, files)
    assert Affinity.read(tmp_path).quota_cores == quota


def test_nothing_is_known(tmp_path, monkeypatch):
    def refuse(pid):
        raise OSError

    monkeypatch.setattr(os, "sched_getaffinity", refuse)
    assert Affinity.read(tmp_path) == Affinity(None, None)
    monkeypatch.delattr(os, "sched_getaffinity")
    assert Affinity.read(tmp_path).allowed is None


def test_a_process_that_is_pinned(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {4, 3})
    affinity = Affinity.read(tmp_path)
    assert affinity.allowed == (3, 4)
    assert json.loads(json.dumps(asdict(affinity))) == {"allowed": [3, 4], "quota_cores": None}


STATUS = "Name:\tpython\nVmPeak:\t  900000 kB\nVmHWM:\t  300000 kB\nVmRSS:\t  100000 kB\n"


def test_from_status(tmp_path):
    plant(tmp_path, {"proc/self/status": STATUS})
    assert peak_host_bytes(tmp_path) == 300_000 * 1024
    assert rss_bytes(tmp_path) == 100_000 * 1024


@pytest.mark.parametrize("status", ["", "VmHWM:\tmany kB", "VmHWM:\t12", "VmHWM:\t9 MB", "VmHWM"])
def test_a_status_without_it(tmp_path, status):
    plant(tmp_path, {"proc/self/status": status})
    assert peak_host_bytes(tmp_path) is None


def test_nothing_is_known_without_procfs(tmp_path):
    assert peak_host_bytes(tmp_path) is None
    assert rss_bytes(tmp_path) is None


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="Linux only")
def test_what_this_process_gave_back_is_in_its_peak_alone():
    size = 256 << 20
    block = bytearray(size)
    block[::4096] = b"x" * len(block[::4096])
    assert rss_bytes() >= size
    del block
    assert peak_host_bytes() >= size
    assert rss_bytes() <= peak_host_bytes() - size // 2


@pytest.mark.parametrize(
    ("processes", "expected"),
    [
        ([(os.getpid(), 600 << 20), (1, 900 << 20)], 600 << 20),
        ([(1, 900 << 20)], None),
        ([(os.getpid(), None)], None),  # as in a container
        ([], None),
    ],
)
def test_memory_of_the_gpu(processes, expected):
    entries = [SimpleNamespace(pid=pid, usedGpuMemory=count) for pid, count in processes]
    library = StandIn(compute=entries)
    assert device_bytes(lambda: library) == expected
    assert library.open == 0


def test_without_nvml_no_memory_of_the_gpu_is_known():
    assert device_bytes(not_installed) is None
