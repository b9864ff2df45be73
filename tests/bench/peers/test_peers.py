"""All peers side by side, and one that fails among them."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from elir_deploy.bench import peers
from elir_deploy.bench.measurement import random_image
from elir_deploy.bench.peers import Peer
from elir_deploy.bench.runners import BundleRunner
from elir_deploy.errors import UsageError
from elir_deploy.runtime.backends import BACKENDS
from tests.bench.peers.bundles import small_bundle
from tests.bench.synthetic import FakeClock, SyntheticRunner

pytest.importorskip("torch")

#: Least PSNR in dB of a picture against the references, by precision.
FLOORS = {"fp32": 60.0, "bf16": 30.0, "fp16": 45.0}


@pytest.fixture
def stand_ins(monkeypatch):
    """Peers that open at once: ``good`` and ``better``; others are added by tests."""
    table = {}
    made = {}

    def add(name, error=None):
        def open_it(bench):
            assert bench.folder.is_dir()
            (bench.folder / name).write_text("left over")
            if error is not None:
                raise error
            made[name] = SyntheticRunner(name, FakeClock(), 0.1)
            return made[name]

        table[name] = Peer(f"a stand-in, {name}", open_it)

    add("good")
    add("better")
    monkeypatch.setattr(peers, "PEERS", table)
    add.made = made
    return add


def test_the_list_says_what_each_is():
    assert list(peers.PEERS) == ["torch", "torch-compile", "plain-onnxruntime", "plain-openvino"]
    assert not set(peers.PEERS) & set(BACKENDS)
    for peer in peers.PEERS.values():
        assert peer.summary
        assert "\n" not in peer.summary
    assert peers.TORCH in peers.PEERS


def test_all_agree_with_the_references_as_their_precision_allows(tiny64, temporary):
    names = [name for name in peers.PEERS if name != "torch-compile"]
    runners, missing = peers.open_peers(names, tiny64, None, threads=1)
    absent = BACKENDS["openvino"].available()
    assert [m.label for m in missing] == (["plain-openvino"] if absent else [])
    assert not list(temporary.glob("elir-bench-*"))  # and they run all the same
    image = random_image((64, 64, 3), 0, 0, 0)
    eager = runners[0].restore(image).astype(int)
    for runner in runners:
        fidelity = runner.fidelity(tiny64)
        print(runner.label, fidelity)
        assert fidelity.identical or fidelity.psnr_db >= FLOORS[runner.precision]
        assert fidelity.images == len(tiny64.manifest.references)
        assert fidelity.note == "against float32 PyTorch, worst image"
        assert runner.weights == "tiny.safetensors"
        difference = np.abs(runner.restore(image) - eager)
        assert difference.max() <= (1 if runner.precision == "fp32" else 40)
        runner.close()


def test_random_weights_are_for_speed(tmp_path):
    bundle = small_bundle(tmp_path / "b")
    (peer,), _ = peers.open_peers(["torch"], bundle, None, threads=1)
    own = BundleRunner(bundle, "onnxruntime", "fp32", threads=1)
    for runner in (peer, own):
        fidelity = runner.fidelity(bundle)
        assert (fidelity.psnr_db, fidelity.images) == (None, 0)
        assert fidelity.note.startswith("random weights: ")
        runner.close()


def test_one_that_fails_leaves_the_rest(tmp_path, temporary, stand_ins):
    stand_ins("broken", RuntimeError("\nit broke\nat length"))
    stand_ins("full", MemoryError())
    names = ["broken", "good", "full", "better", "good"]
    runners, missing = peers.open_peers(names, small_bundle(tmp_path / "b"), None, threads=1)
    assert [c.label for c in runners] == ["good", "better"]
    assert {m.label: m.reason for m in missing} == {
        "broken": "broken cannot be opened: it broke",
        "full": "full cannot be opened: MemoryError",
    }
    assert not any(c.closed for c in runners)
    assert not list(temporary.glob("elir-bench-*"))


def test_an_interruption_closes_what_is_open(tmp_path, temporary, stand_ins):
    stand_ins("interrupted", KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        peers.open_peers(["good", "interrupted"], small_bundle(tmp_path / "b"), None, threads=1)
    assert stand_ins.made["good"].closed
    assert not list(temporary.glob("elir-bench-*"))


def test_an_unknown_name(tmp_path):
    with pytest.raises(UsageError, match="unknown peer 'jax': choose from torch, "):
        peers.open_peers(["torch", "jax"], small_bundle(tmp_path / "b"), None, threads=1)


def test_no_names_are_no_peers(tmp_path):
    assert peers.open_peers([], small_bundle(tmp_path / "b"), None, threads=1) == ([], [])


def test_the_list_can_be_read_without_the_libraries():
    code = (
        "import sys; import elir_deploy.bench.peers as p; p.PEERS; "
        "print([m for m in ('torch', 'onnx', 'onnxruntime', 'openvino') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
