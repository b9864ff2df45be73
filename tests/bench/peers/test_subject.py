"""Which weights and which noise peers run with, and what is refused."""

from __future__ import annotations

import hashlib

import pytest

from elir_deploy.bench import peers
from elir_deploy.bench.peers.subject import subject_of
from elir_deploy.errors import CheckpointError, MissingDependencyError, UsageError
from tests.bench.peers.bundles import eager_peer, small_bundle, with_manifest
from tests.bench.peers.conftest import TINY
from tests.bundles import make_bundle

torch = pytest.importorskip("torch")


def test_a_bundle_of_the_packaged_checkpoint_needs_none(tiny64):
    subject = subject_of(tiny64, None)
    assert subject.weights == "tiny.safetensors"
    assert subject.doubt is None
    noise = subject.noise.numpy().astype("<f4").tobytes()
    assert hashlib.sha256(noise).hexdigest() == tiny64.manifest.noise.sha256
    given = subject_of(tiny64, peers.checkpoint_of(tiny64, str(TINY)))
    assert torch.equal(given.noise, subject.noise)
    assert given.weights == subject.weights


def test_noise_that_cannot_be_made_again_is_a_reason(tiny64, tmp_path):
    other = with_manifest(tiny64, tmp_path / "b", noise__seed=1)
    doubt = subject_of(other, None).doubt
    assert "the noise of seed 1 has SHA-256" in doubt
    assert tiny64.manifest.noise.sha256 in doubt
    fidelity = eager_peer(other).fidelity(other)
    assert (fidelity.psnr_db, fidelity.images, fidelity.note) == (None, 0, doubt)


def test_another_checkpoint_is_refused_with_both_hashes(tiny64, tmp_path):
    file = tmp_path / "other.safetensors"
    file.write_bytes(TINY.read_bytes() + b"\0")
    seen = hashlib.sha256(file.read_bytes()).hexdigest()
    wanted = hashlib.sha256(TINY.read_bytes()).hexdigest()
    with pytest.raises(UsageError, match=f"its SHA-256 is {seen}, wanted {wanted} "):
        peers.checkpoint_of(tiny64, str(file))
    with pytest.raises(UsageError, match="random weights"):
        peers.checkpoint_of(tiny64, "random")
    with pytest.raises(CheckpointError, match="no such file"):
        peers.checkpoint_of(tiny64, str(tmp_path.name))


def test_a_bundle_with_random_weights_has_no_checkpoint(tmp_path):
    bundle = small_bundle(tmp_path / "b")
    with pytest.raises(UsageError, match="leave the checkpoint out"):
        peers.checkpoint_of(bundle, str(TINY))
    with pytest.raises(UsageError, match="leave the checkpoint out"):
        peers.open_peers(["torch"], bundle, peers.load(str(TINY), None), None)


def test_without_torch(monkeypatch, tmp_path):
    monkeypatch.setattr(peers, "find_spec", lambda name: None)
    assert "pip install 'elir-deploy[export]'" in peers.torch_missing()
    with pytest.raises(MissingDependencyError, match="measure a checkpoint"):
        peers.load("random", "bfr")
    runners, missing = peers.open_peers(list(peers.PEERS), small_bundle(tmp_path / "b"), None, None)
    assert not runners
    assert {m.label: m.reason for m in missing} == dict.fromkeys(peers.PEERS, peers.torch_missing())


@pytest.mark.parametrize(
    ("wanted", "exported"),
    [(["bf16"], ("fp32",)), (["fp32", "bf16", "fp16"], ("fp32", "fp16")), (None, None)],
)
def test_a_checkpoint_is_exported_to_the_files_that_run(tmp_path, monkeypatch, wanted, exported):
    pipeline = pytest.importorskip("elir_deploy.export.pipeline")
    asked = []

    def export(checkpoint, folder, options, progress):
        asked.append(options.precisions)
        make_bundle(folder)

    monkeypatch.setattr(pipeline, "export_bundle", export)
    peers.export_to_bundle("checkpoint", tmp_path / "b", wanted)
    assert asked == [exported or pipeline.ExportOptions().precisions]
