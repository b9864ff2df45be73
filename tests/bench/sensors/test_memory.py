"""Memory of this process."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest

from elir_deploy.bench.sensors.memory import device_bytes, peak_host_bytes, rss_bytes
from tests.bench.sensors.nvml_stand_in import StandIn, not_installed
from tests.bench.sensors.trees import plant

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
    ("processes", "held"),
    [
        ([(os.getpid(), 600 << 20), (1, 900 << 20)], 600 << 20),
        ([(1, 900 << 20)], None),
        ([(os.getpid(), None)], None),  # as in a container
        ([], None),
    ],
)
def test_memory_of_the_gpu(processes, held):
    entries = [SimpleNamespace(pid=pid, usedGpuMemory=count) for pid, count in processes]
    library = StandIn(compute=entries)
    assert device_bytes(lambda: library) == held
    assert library.open == 0


def test_without_nvml_no_memory_of_the_gpu_is_known():
    assert device_bytes(not_installed) is None
