"""Eager PyTorch and torch.compile beside the runtime."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from elir_deploy.bench import peers
from elir_deploy.bench.measurement import random_image
from elir_deploy.bench.peers import pytorch
from elir_deploy.bench.peers.subject import subject_of
from elir_deploy.degradations import enlarge
from elir_deploy.pixels import as_pixels
from tests.bench.peers.bundles import SMALL, eager_peer, small_bundle
from tests.test_pixels import HALVES

torch = pytest.importorskip("torch")

#: Opens peers of the bundle argv[1] and says what became of them.
OPEN = """
import json, sys
from elir_deploy.bench import peers
from elir_deploy.runtime import Bundle

say = lambda what, done, total: print(what, flush=True)
names = sys.argv[2:]
runners, missing = peers.open_peers(names, Bundle.open(sys.argv[1]), None, 1, say)
print(json.dumps([[c.label for c in runners], [[m.label, m.reason] for m in missing]]))
"""


def opened_elsewhere(bundle, *names, **environment):
    """Labels and reasons of peers opened in a process of its own."""
    command = [sys.executable, "-c", OPEN, str(bundle.path), *names]
    done = subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    labels, missing = json.loads(done.stdout.splitlines()[-1])
    return labels, dict(missing), done.stderr


def test_a_bundles_peer_has_its_architecture_and_says_that_its_weights_are_others(tmp_path):
    bundle = small_bundle(tmp_path / "b", random=False)
    peer = eager_peer(bundle)
    image = random_image((32, 32, 3), 0, 0, 0)
    restored = peer.restore(image)
    assert (restored.shape, restored.dtype) == ((32, 32, 3), np.uint8)
    assert np.array_equal(restored, peer.restore(image))
    assert peer.device_ns > 0
    assert (peer.label, peer.precision) == ("torch eager fp32", "fp32")
    assert peer.weights.startswith("random")
    fidelity = peer.fidelity(bundle)
    assert fidelity.psnr_db is None
    assert "other weights" in fidelity.note


def test_its_floats_become_pixels_as_everywhere(tmp_path):
    made = HALVES.size // 3 * 3
    values = np.concatenate([HALVES[:made], np.float32([0, 1, np.nan])]).reshape(1, 3, 1, -1)
    peer = eager_peer(small_bundle(tmp_path / "b"))
    peer._network = lambda x, steps, noise: torch.from_numpy(values)
    pixels = peer.run_pixels(np.zeros((8, 8, 3), np.uint8))
    np.testing.assert_array_equal(pixels, as_pixels(values[0].transpose(1, 2, 0)))


def test_the_peer_runs_algorithm_1_with_the_bundles_noise(tmp_path):
    bundle = small_bundle(tmp_path / "b", steps=3, upscale=4, kernel="bicubic", task="bsr")
    peer = eager_peer(bundle)
    subject = subject_of(bundle, None)
    low = random_image((8, 8, 3), 0, 0, 0)
    x = torch.from_numpy(enlarge("bsr", low)).permute(2, 0, 1)[None] / 255
    with torch.inference_mode():
        expected = subject.model(x, 3, subject.noise)[0].permute(1, 2, 0).numpy() * 255
    assert np.abs(peer.restore(low) - expected).max() <= 0.501
    unit = np.random.RandomState(0).standard_normal(subject.noise.shape)
    assert np.allclose(subject.noise, 0.025 * unit)


def test_threads_are_set(tmp_path):
    before = torch.get_num_threads()
    try:
        eager_peer(small_bundle(tmp_path / "b"), threads=1)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_a_checkpoints_peer_is_collapsed_and_leaves_the_checkpoint_alone(tmp_path):
    from elir_deploy.checkpoints import Checkpoint
    from elir_deploy.model import Elir
    from elir_deploy.tasks import TASKS

    model = Elir(SMALL, collapsible=True).eval().requires_grad_(False)
    checkpoint = Checkpoint(model, TASKS["tiny"], "random", None, True, "random")
    bundle = small_bundle(tmp_path / "b")
    subject = subject_of(bundle, checkpoint)
    assert subject.model is model
    assert not subject.collapsed.collapsible
    assert model.collapsible
    peer = eager_peer(bundle, checkpoint)
    assert peer.weights == "random"
    assert peer.fidelity(bundle).note.startswith("random weights")


def check_compiled(bundle, temporary):
    (eager, compiled), missing = peers.open_peers(["torch", "torch-compile"], bundle, None, 1)
    assert not missing
    assert (compiled.label, compiled.precision) == ("torch-compile fp32", "fp32")
    # What it was compiled to is gone from disk; it runs all the same, and compiles no more.
    assert not list(temporary.glob("elir-bench-*"))
    assert "elir-bench" not in os.environ.get("TORCHINDUCTOR_CACHE_DIR", "")
    assert eager.preparation is None
    assert compiled.preparation.what == "to compile"
    for k in range(3):
        image = random_image((32, 32, 3), 0, 0, k)
        start = time.perf_counter()
        restored = compiled.restore(image)
        assert time.perf_counter() - start < compiled.preparation.seconds / 2
        assert np.abs(restored.astype(int) - eager.restore(image)).max() <= 1
        assert compiled.device_ns > 0
    assert compiled.fidelity(bundle).note.startswith("random weights")
    for runner in (eager, compiled):
        runner.close()


def test_a_compiled_network_is_the_same(tmp_path, temporary, monkeypatch):
    """Traced only, as C++ takes a minute to compile."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    monkeypatch.setattr(pytorch, "_require_compiler", lambda: None)
    check_compiled(small_bundle(tmp_path / "b"), temporary)


@pytest.mark.slow
def test_torch_compile_as_it_comes(tmp_path, temporary):
    check_compiled(small_bundle(tmp_path / "b"), temporary)


def test_without_a_compiler_the_others_are_opened(tmp_path):
    bundle = small_bundle(tmp_path / "b")
    (tmp_path / "empty").mkdir()
    for environment in ({"CXX": "/nowhere/g++"}, {"PATH": str(tmp_path / "empty")}):
        labels, missing, printed = opened_elsewhere(
            bundle, "torch-compile", "torch", TMPDIR=str(tmp_path), **environment
        )
        assert labels == ["torch eager fp32"]
        assert "needs a C++ compiler" in missing["torch-compile"]
        assert environment.get("CXX", "g++") in missing["torch-compile"]
        assert "\n" not in missing["torch-compile"]
        assert "Traceback" not in printed
        assert not list(tmp_path.glob("elir-bench-*"))


def test_a_compiler_that_fails_is_quoted(tmp_path, temporary, monkeypatch):
    output = "In file included:\nx.cpp:1:1: fatal error: Python.h: No such file\ncompilation ended"

    def fail(*args):
        raise torch._inductor.exc.CppCompileError(["g++", "x.cpp"], output)

    monkeypatch.setattr(torch, "compile", lambda model: fail)
    monkeypatch.setattr(pytorch, "_require_compiler", lambda: None)
    names = ["torch-compile", "torch"]
    (eager,), (missing,) = peers.open_peers(names, small_bundle(tmp_path / "b"), None, 1)
    assert eager.backend == "torch"
    assert missing.label == "torch-compile"
    assert missing.reason == "torch.compile failed: x.cpp:1:1: fatal error: Python.h: No such file"
    assert not list(temporary.glob("elir-bench-*"))


@pytest.mark.slow
def test_a_compiler_that_fails_for_real(tmp_path):
    bundle = small_bundle(tmp_path / "b")
    compiler = tmp_path / "g++"
    compiler.write_text(
        '#!/bin/sh\n[ "$1" = --version ] && exec g++ --version\n'
        'echo "x.cpp:1:1: fatal error: Python.h: No such file" >&2\nexit 1\n'
    )
    compiler.chmod(0o755)
    labels, missing, _ = opened_elsewhere(
        bundle, "torch-compile", "torch", TMPDIR=str(tmp_path), CXX=str(compiler)
    )
    assert labels == ["torch eager fp32"]
    assert "torch.compile failed: " in missing["torch-compile"]
    assert "fatal error: Python.h" in missing["torch-compile"]
    assert not list(tmp_path.glob("elir-bench-*"))


def interrupted_while_compiling(bundle: Path, folder: Path, seconds: float) -> str:
    """What a process prints to stderr that gets Ctrl-C so long after it began to compile."""
    command = [sys.executable, "-c", OPEN, str(bundle), "torch-compile"]
    with subprocess.Popen(
        command,
        env=os.environ | {"TMPDIR": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("compiling"):
                break
        assert list(folder.glob("elir-bench-*"))
        time.sleep(seconds)
        assert process.poll() is None, "compiled before it could be interrupted"
        process.send_signal(signal.SIGINT)
        return process.communicate(timeout=60)[1]


@pytest.mark.parametrize("seconds", [1, pytest.param(6, marks=pytest.mark.slow)])
def test_ctrl_c_while_compiling_leaves_no_folder(tmp_path, seconds):
    bundle = small_bundle(tmp_path / "b")
    for _ in range(3):  # Python drops an interrupt that arrives within a destructor
        printed = interrupted_while_compiling(bundle.path, tmp_path, seconds)
        assert not list(tmp_path.glob("elir-bench-*"))
        if "KeyboardInterrupt" in printed:
            return
    pytest.fail("three interrupts were ignored")
