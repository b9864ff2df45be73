"""First starts, each in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from elir_deploy.bench import cold
from elir_deploy.bench.cold import ColdStart, held_on_devices, start_cold
from elir_deploy.errors import UnavailableError
from tests.bench.sensors.nvml_stand_in import StandIn
from tests.bundles import make_bundle

GOOD = {
    "import_s": 0.5,
    "load_s": 1.0,
    "first_result_s": 2.0,
    "peak_rss_bytes": 2**20,
    "device_bytes": None,
}


@pytest.fixture
def said(monkeypatch):
    """Let the new process say something; notes its command."""
    commands = []

    def use(stdout="", stderr="", code=0, error=None):
        def run(command, **how):
            commands.append(command)
            if error is not None:
                raise error
            return subprocess.CompletedProcess(command, code, stdout, stderr)

        monkeypatch.setattr(cold.subprocess, "run", run)
        return commands

    return use


def test_a_real_start(tmp_path):
    bundle = make_bundle(tmp_path / "b", upscale=4, kernel="bicubic", task="bsr")
    began = time.perf_counter()
    found = start_cold(bundle, "onnxruntime", "fp32", threads=1)
    took = time.perf_counter() - began
    assert 0 < found.first_result_s < found.load_s + found.import_s
    assert found.import_s + found.load_s + found.first_result_s < took
    # More than a bare interpreter; the processes of these tests hold far more.
    assert found.peak_rss_bytes is None or 2**24 < found.peak_rss_bytes < 2**30


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
    assert held_on_devices(lambda: library) == held
    assert library.open == 0


def test_without_a_gpu_it_has_no_memory():
    def missing():
        raise ImportError

    assert held_on_devices(missing) is None
    assert held_on_devices(lambda: StandIn(compute=[])) is None


def test_a_backend_that_fails_says_why(tmp_path):
    bundle = make_bundle(tmp_path / "b")
    with pytest.raises(UnavailableError, match=r"ended with 1: .*no int8") as raised:
        start_cold(bundle, "onnxruntime", "int8", threads=None)
    assert "\n" not in str(raised.value)


def test_the_process_is_this_python_with_everything_it_needs(said, tmp_path):
    commands = said(json.dumps(GOOD) + "\n")
    assert start_cold(tmp_path, "openvino", "fp16", threads=3) == ColdStart(**GOOD)
    start_cold(tmp_path, "openvino", "fp16", threads=None)
    assert commands == [
        [sys.executable, "-m", "elir_deploy.bench.cold", str(tmp_path), "openvino", "fp16", threads]
        for threads in ("3", "0")
    ]


def test_a_library_may_talk_before(said, tmp_path):
    said(f"a banner\n{{}}\n{json.dumps(GOOD)}\n", stderr="a warning")
    assert start_cold(tmp_path, "openvino", "fp16", threads=3).load_s == 1.0


@pytest.mark.parametrize(
    "stdout",
    ["", "\n", "garbage", "[1, 2, 3, 4, 5]", '"text"', "{}", '{"import_s": 1}', "{", "null"],
)
def test_garbage_is_no_start(said, tmp_path, stdout):
    said(stdout, stderr="first line\nwhat went wrong\n", code=-11)
    with pytest.raises(UnavailableError, match=r"^a new process ended with -11: what went wrong$"):
        start_cold(tmp_path, "openvino", "fp16", threads=3)


def test_a_process_that_says_nothing(said, tmp_path):
    said(code=-9)
    with pytest.raises(UnavailableError, match="ended with -9: nothing was said"):
        start_cold(tmp_path, "openvino", "fp16", threads=3)


def test_long_complaints_are_cut(said, tmp_path):
    said(stderr="x" * 10_000, code=1)
    with pytest.raises(UnavailableError) as raised:
        start_cold(tmp_path, "openvino", "fp16", threads=3)
    assert len(str(raised.value)) < 400


@pytest.mark.parametrize(
    "error", [subprocess.TimeoutExpired("python", 600), OSError("no more processes")]
)
def test_a_process_that_cannot_be_waited_for(said, tmp_path, error):
    said(error=error)
    with pytest.raises(UnavailableError, match="a new process could not be measured: "):
        start_cold(tmp_path, "openvino", "fp16", threads=3)


def test_an_interruption_is_not_swallowed(said, tmp_path):
    said(error=KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        start_cold(tmp_path, "openvino", "fp16", threads=3)
