"""PyTorch beside the runtime."""

from __future__ import annotations

import numpy as np
import pytest

from elir_deploy.bench import peers
from elir_deploy.bench.protocols import random_image
from elir_deploy.degradations import enlarge
from elir_deploy.errors import MissingDependencyError
from elir_deploy.runtime import Bundle
from elir_deploy.tasks import Architecture
from tests.bundles import make_bundle, read_manifest, write_manifest

torch = pytest.importorskip("torch")

SMALL = Architecture(
    autoencoder_width=8,
    autoencoder_blocks=1,
    latent_channels=4,
    estimator_blocks=1,
    estimator_growth=8,
    vector_field_width=32,
    time_frequencies=8,
    time_width=16,
)


def small_bundle(folder, **changes) -> Bundle:
    make_bundle(folder, random=True, **changes)
    manifest = read_manifest(folder)
    manifest["model"]["architecture"] = SMALL.to_dict()
    write_manifest(folder, manifest)
    return Bundle.open(folder)


def test_a_bundles_peer_has_its_architecture_and_says_that_its_weights_are_others(tmp_path):
    bundle = small_bundle(tmp_path / "b")
    peer = peers.torch_peer(bundle, None, threads=None)
    image = random_image((32, 32, 3), 0, 0, 0)
    restored = peer.restore(image)
    assert (restored.shape, restored.dtype) == ((32, 32, 3), np.uint8)
    assert np.array_equal(restored, peer.restore(image))
    assert peer.device_ns > 0
    assert peer.precision == "fp32"
    assert peer.weights.startswith("random")
    fidelity = peer.fidelity(bundle)
    assert fidelity.psnr_db is None
    assert "other weights" in fidelity.note


def test_the_peer_runs_algorithm_1(tmp_path):
    bundle = small_bundle(tmp_path / "b", upscale=4, kernel="bicubic", task="bsr")
    peer = peers.torch_peer(bundle, None, threads=None)
    low = random_image((8, 8, 3), 0, 0, 0)
    x = torch.from_numpy(enlarge("bsr", low)).permute(2, 0, 1)[None] / 255
    with torch.inference_mode():
        expected = peer._model(x, 3, peer._noise)[0].permute(1, 2, 0).numpy() * 255
    assert np.abs(peer.restore(low) - expected).max() <= 0.501
    assert peer._noise.std() == pytest.approx(0.025, rel=0.3)


def test_threads_are_set(tmp_path):
    before = torch.get_num_threads()
    try:
        peers.torch_peer(small_bundle(tmp_path / "b"), None, threads=1)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_a_checkpoints_peer_is_collapsed_and_leaves_the_checkpoint_alone(tmp_path):
    from elir_deploy.checkpoints import Checkpoint
    from elir_deploy.model import Elir
    from elir_deploy.tasks import TASKS

    model = Elir(SMALL, collapsible=True).eval()
    checkpoint = Checkpoint(model, TASKS["tiny"], "mine.ckpt", "0" * 64, False, "training")
    peer = peers.torch_peer(small_bundle(tmp_path / "b"), checkpoint, threads=None)
    assert not peer._model.collapsible
    assert model.collapsible
    assert peer.weights == "mine.ckpt"
    assert peer.fidelity(None).note == "the reference itself"


def test_without_torch(monkeypatch):
    monkeypatch.setattr(peers, "find_spec", lambda name: None)
    assert "pip install 'elir-deploy[export]'" in peers.torch_missing()
    with pytest.raises(MissingDependencyError, match="measure a checkpoint"):
        peers.load("random", "bfr")


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
