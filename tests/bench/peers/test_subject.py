"""Which weights and which noise peers run with, and what is refused."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from elir_deploy.bench import peers
from elir_deploy.bench.peers import subject
from elir_deploy.bench.peers.subject import subject_of
from elir_deploy.errors import CheckpointError, MissingDependencyError, UsageError
from elir_deploy.runtime import Bundle
from elir_deploy.runtime.noise import NoiseField
from tests.bench.peers.bundles import eager_peer, small_bundle, with_manifest
from tests.bench.peers.conftest import TINY

torch = pytest.importorskip("torch")


def test_a_bundle_of_the_packaged_checkpoint_needs_none(tiny64):
    model = subject_of(tiny64, None)
    assert model.weights == "tiny.safetensors"
    assert model.incomparable is None
    noise = model.noise.numpy().astype("<f4").tobytes()
    assert hashlib.sha256(noise).hexdigest() == tiny64.manifest.noise.sha256
    given = subject_of(tiny64, peers.load_checkpoint_of(tiny64, str(TINY)))
    assert torch.equal(given.noise, model.noise)
    assert given.weights == model.weights


def test_noise_that_is_an_input_is_that_of_a_picture():
    bundle = Bundle.open("tiny")
    model = subject_of(bundle, None)
    assert model.incomparable is None
    expected = np.empty((32, 32, 32), np.float32)
    NoiseField(bundle.manifest.noise.seed, bundle.manifest.model.sigma_s).fill(expected, 0, 0)
    np.testing.assert_array_equal(model.noise[0].numpy(), expected)


def test_noise_that_cannot_be_made_again_is_a_reason(tiny64, tmp_path):
    other = with_manifest(tiny64, tmp_path / "b", noise__seed=1)
    incomparable = subject_of(other, None).incomparable
    assert "the noise of seed 1 has SHA-256" in incomparable
    assert tiny64.manifest.noise.sha256 in incomparable
    fidelity = eager_peer(other).fidelity(other)
    assert (fidelity.psnr_db, fidelity.images, fidelity.note) == (None, 0, incomparable)


def test_another_checkpoint_is_refused_with_both_hashes(tiny64, tmp_path):
    file = tmp_path / "other.safetensors"
    file.write_bytes(TINY.read_bytes() + b"\0")
    seen = hashlib.sha256(file.read_bytes()).hexdigest()
    wanted = hashlib.sha256(TINY.read_bytes()).hexdigest()
    with pytest.raises(UsageError, match=f"its SHA-256 is {seen}, expected {wanted} "):
        peers.load_checkpoint_of(tiny64, str(file))
    with pytest.raises(UsageError, match="random weights"):
        peers.load_checkpoint_of(tiny64, "random")
    with pytest.raises(CheckpointError, match="no such file"):
        peers.load_checkpoint_of(tiny64, str(tmp_path.name))


def test_a_bundle_with_random_weights_has_no_checkpoint(tmp_path):
    from elir_deploy.checkpoints import load_checkpoint

    bundle = small_bundle(tmp_path / "b")
    with pytest.raises(UsageError, match="leave out --checkpoint"):
        peers.load_checkpoint_of(bundle, str(TINY))
    with pytest.raises(UsageError, match="leave out --checkpoint"):
        peers.open_peers(["torch"], bundle, load_checkpoint(TINY), None)


def test_without_torch(monkeypatch, tmp_path):
    for module in (peers, subject):
        monkeypatch.setattr(module, "find_spec", lambda name: None)
    assert "pip install 'elir-deploy[export]'" in peers.torch_missing()
    bundle = small_bundle(tmp_path / "b")
    with pytest.raises(MissingDependencyError, match="load a checkpoint"):
        peers.load_checkpoint_of(bundle, "random")
    runners, missing = peers.open_peers(list(peers.PEERS), bundle, None, None)
    assert not runners
    assert {m.label: m.reason for m in missing} == dict.fromkeys(peers.PEERS, peers.torch_missing())
