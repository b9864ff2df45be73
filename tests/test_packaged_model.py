"""The trained model in the package: what a user gets without training or downloading anything."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import numpy as np
import pytest

from elir_deploy.degradations import degrade
from elir_deploy.pixels import psnr_db
from elir_deploy.runtime import Bundle, Restorer
from elir_deploy.runtime.bundle import file_sha256
from elir_deploy.runtime.photos import sample_photos
from elir_deploy.tasks import TASKS
from tests.emulation import restores_squares

DATA = Path(str(resources.files("elir_deploy"))) / "data"
CHECKPOINT = DATA / "tiny.safetensors"


def noisy_photos() -> list[tuple[np.ndarray, np.ndarray]]:
    """(noisy, truth) of the packaged photographs, none of which was trained on."""
    photos = sample_photos(256, faces=False).values()
    return [
        (degrade("tiny", photo, np.random.default_rng(number)), photo)
        for number, photo in enumerate(photos)
    ]


def test_it_is_small() -> None:
    assert CHECKPOINT.stat().st_size <= 10e6


def test_the_bundle_was_made_from_the_checkpoint() -> None:
    info = Bundle.open("tiny").manifest
    assert info.source.sha256 == file_sha256(CHECKPOINT)
    assert not info.source.random
    assert info.model.task == "tiny"
    assert Bundle.open("tiny").damaged_files() == {}


@restores_squares
def test_it_removes_noise() -> None:
    pytest.importorskip("onnxruntime")
    with Restorer("tiny") as restore:
        gains = [
            psnr_db(restore(low), truth) - psnr_db(low, truth) for low, truth in noisy_photos()
        ]
    assert np.mean(gains) >= 10.5
    assert min(gains) >= 9


def test_every_precision_is_there_and_passed() -> None:
    info = Bundle.open("tiny").manifest
    assert info.precisions == ["fp32", "fp16", "int8"]
    assert {name: v.passed for name, v in info.verification.items()} == dict.fromkeys(
        ("fp32", "fp16", "bf16", "int8"), True
    )


@restores_squares
@pytest.mark.parametrize(("precision", "loss"), [("fp16", 0.02), ("int8", 0.3)])
def test_reduced_precision_costs_no_more_than_promised(precision: str, loss: float) -> None:
    pytest.importorskip("onnxruntime")
    photos = noisy_photos()
    found = {}
    for name in ("fp32", precision):
        with Restorer("tiny", backend="onnxruntime", precision=name) as restore:
            found[name] = [restore(low) for low, _ in photos]
    to_truth = {
        name: np.mean([psnr_db(r, truth) for r, (_, truth) in zip(restored, photos, strict=True)])
        for name, restored in found.items()
    }
    assert to_truth["fp32"] - to_truth[precision] <= loss
    assert min(map(psnr_db, found[precision], found["fp32"])) >= 35


def test_its_autoencoder_is_there_for_fine_tuning() -> None:
    torch = pytest.importorskip("torch")
    from elir_deploy.checkpoints import load_autoencoder, load_checkpoint
    from elir_deploy.cli.train import PACKAGED_AUTOENCODER

    encoder, decoder = load_autoencoder(DATA / PACKAGED_AUTOENCODER)
    own = load_checkpoint("tiny").model.decoder.state_dict()
    assert all(torch.equal(own[name], tensor) for name, tensor in decoder.state_dict().items())
    # Far better than 26 dB on what it never saw: otherwise the decoder would limit the restoration.
    for photo in sample_photos(256, faces=False).values():
        image = torch.from_numpy(photo).permute(2, 0, 1)[None] / 255
        with torch.inference_mode():
            decoded = decoder(encoder(image))[0].clamp(0, 1).mul(255).permute(1, 2, 0).numpy()
        assert psnr_db(decoded, photo) > 27


def test_checkpoint_and_bundle_agree() -> None:
    torch = pytest.importorskip("torch")
    from elir_deploy.checkpoints import load_checkpoint
    from elir_deploy.training.eager import CheckpointSubject

    checkpoint = load_checkpoint("tiny")
    assert checkpoint.task.architecture == TASKS["tiny"].architecture
    subject = CheckpointSubject(checkpoint)
    low, _ = noisy_photos()[0]
    with torch.inference_mode(), Restorer("tiny", precision="fp32") as restore:
        assert psnr_db(restore(low), subject.restore(low).pictures[0]) > 60


def test_the_flow_sharpens_the_coarse_estimate() -> None:
    pytest.importorskip("torch")
    from skimage.measure import blur_effect

    from elir_deploy.checkpoints import load_checkpoint
    from elir_deploy.training.eager import CheckpointSubject

    subject = CheckpointSubject(load_checkpoint("tiny"))
    blurs = []
    for low, _ in noisy_photos():
        restored = subject.restore(low)
        blurs.append(
            [
                blur_effect(image, channel_axis=2)
                for image in (restored.coarse, restored.pictures[0])
            ]
        )
    coarse, sharp = np.mean(blurs, axis=0)
    assert sharp < coarse
