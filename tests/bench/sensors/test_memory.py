"""Memory of this process."""

from __future__ import annotations

import os

import pytest

from elir_deploy.bench.sensors import memory
from elir_deploy.bench.sensors.memory import peak_host_bytes, reset_peak, rss_bytes
from tests.bench.sensors.test_files import forbid
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
    folder = tmp_path / "proc/self"
    folder.mkdir(parents=True)
    assert reset_peak(tmp_path) is False
    # A file that was not there is not made.
    assert list(folder.iterdir()) == []


def test_reset_writes_what_the_kernel_takes(tmp_path, monkeypatch):
    plant(tmp_path, {"proc/self/clear_refs": b""})
    assert reset_peak(tmp_path) is True
    assert (tmp_path / "proc/self/clear_refs").read_bytes() == b"5"
    forbid(monkeypatch, "clear_refs")
    assert reset_peak(tmp_path) is False


@pytest.mark.skipif(not os.path.exists("/proc/self/clear_refs"), reason="Linux only")
def test_the_peak_of_this_process_falls_and_rises():
    size = 256 << 20
    block = bytearray(size)
    block[::4096] = b"x" * len(block[::4096])
    high = peak_host_bytes()
    assert high >= size
    del block
    if not reset_peak():
        pytest.skip("the system does not allow it")
    low = peak_host_bytes()
    assert low <= high - size // 2
    assert low >= rss_bytes() * 0.9
    assert memory.peak_host_bytes() < high
