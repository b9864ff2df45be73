"""First starts, each in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import numpy as np
import pytest

from elir_deploy import runtime
from elir_deploy.bench import cold
from elir_deploy.bench.cold import ColdStart, start_cold
from elir_deploy.errors import UnavailableError
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


def test_it_counts_from_the_call_and_restores_random_bytes(tmp_path, monkeypatch, capsys):
    bundle = make_bundle(tmp_path / "b", upscale=4, kernel="bicubic", task="bsr")
    images = []

    class Noting(runtime.Restorer):
        def __call__(self, image):
            images.append(image)
            return super().__call__(image)

    monkeypatch.setattr(runtime, "Restorer", Noting)
    for waited in (0, 5 * 10**9):
        began = time.monotonic_ns() - waited
        cold.main([str(bundle), "onnxruntime", "fp32", "1", "0", str(began)])
        found = ColdStart(**json.loads(capsys.readouterr().out))
        assert waited / 1e9 < found.import_s < waited / 1e9 + 4
    first, second = images
    assert np.array_equal(first, second)
    assert first.shape == (8, 8, 3)
    assert np.unique(first).size > 100  # of 192 random bytes, 135 on average


def test_a_backend_that_fails_says_why(tmp_path):
    bundle = make_bundle(tmp_path / "b")
    with pytest.raises(UnavailableError, match=r"ended with 1: .*no int8") as raised:
        start_cold(bundle, "onnxruntime", "int8", threads=None)
    assert "\n" not in str(raised.value)


def test_the_process_is_this_python_with_everything_it_needs(said, tmp_path):
    commands = said(json.dumps(GOOD) + "\n")
    times = [time.monotonic_ns()]
    assert start_cold(tmp_path, "openvino", "fp16", threads=3) == ColdStart(**GOOD)
    start_cold(tmp_path, "openvino", "fp16", threads=None, device="GPU.1")
    times += [int(command.pop()) for command in commands] + [time.monotonic_ns()]
    assert times == sorted(times)
    assert commands == [
        [sys.executable, "-m", "elir_deploy.bench.cold", str(tmp_path), "openvino", "fp16", *how]
        for how in (("3", "0"), ("0", '"GPU.1"'))
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
    with pytest.raises(UnavailableError, match="ended with -9: no message"):
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
