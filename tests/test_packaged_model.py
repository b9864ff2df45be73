"""The trained model in the package: what a user gets without training or downloading anything."""

from __future__ import annotations

import functools
from importlib import resources
from pathlib import Path

import numpy as np
import pytest

from elir_deploy.degradations import BlindDegradation
from elir_deploy.pixels import psnr_db
from elir_deploy.runtime import Bundle, Restorer
from elir_deploy.runtime.bundle import file_sha256
from elir_deploy.runtime.photos import sample_photos
from elir_deploy.tasks import TASKS
from tests.emulation import restores_squares

DATA = Path(str(resources.files("elir_deploy"))) / "data"
CHECKPOINT = DATA / "tiny.safetensors"
PRECISIONS = ["fp32", "fp16", "int8", "w8"]


@functools.cache
def photographs() -> list[np.ndarray]:
    """Those of the package, none of which was trained on."""
    return list(sample_photos(256, faces=False).values())


def noisy_photos(sigma: float) -> list[tuple[np.ndarray, np.ndarray]]:
    """(with noise of this deviation clipped to 8 bits, truth) of each photograph."""
    noise = BlindDegradation(0.0, sigma, None)
    return [
        (noise.apply(photo, np.random.default_rng(number)), photo)
        for number, photo in enumerate(photographs())
    ]


def decoded(photo: np.ndarray) -> np.ndarray:
    """Through the autoencoder alone: no restoration can come closer to the truth."""
    torch = pytest.importorskip("torch")
    from elir_deploy.checkpoints import load_autoencoder
    from elir_deploy.cli.train import PACKAGED_AUTOENCODER

    encoder, decoder = load_autoencoder(DATA / PACKAGED_AUTOENCODER)
    image = torch.from_numpy(photo).permute(2, 0, 1)[None] / 255
    with torch.inference_mode():
        output = decoder(encoder(image))[0].clamp(0, 1).mul(255).round()
    return output.permute(1, 2, 0).numpy().astype(np.uint8)


def test_it_is_small() -> None:
    assert Bundle.open("tiny").manifest.model.parameters <= 4e6
    # So that a wheel, in which weights are hardly compressed, stays below 45 MB.
    assert sum(path.stat().st_size for path in DATA.rglob("*") if path.is_file()) <= 44e6


def test_the_bundle_was_made_from_the_checkpoint() -> None:
    info = Bundle.open("tiny").manifest
    assert info.source.sha256 == file_sha256(CHECKPOINT)
    assert not info.source.random
    assert info.model.task == "tiny"
    assert Bundle.open("tiny").damaged_files() == {}


@restores_squares
@pytest.mark.parametrize(
    ("sigma", "gain"),
    [(15, 6.6), (25, 9.6), (50, 12.9), (89.6, 14.7)],
    ids=lambda each: f"{each:g}",
)
def test_it_removes_noise_of_any_strength(sigma: float, gain: float) -> None:
    """Within half a dB of what was measured when it was trained."""
    pytest.importorskip("onnxruntime")
    with Restorer("tiny") as restore:
        gains = [
            psnr_db(restore(low), truth) - psnr_db(low, truth) for low, truth in noisy_photos(sigma)
        ]
    assert np.mean(gains) >= gain - 0.5
    assert min(gains) > 0


@restores_squares
def test_it_leaves_clean_photographs_as_the_autoencoder_does() -> None:
    pytest.importorskip("onnxruntime")
    with Restorer("tiny") as restore:
        lost = [
            psnr_db(decoded(photo), photo) - psnr_db(restore(photo), photo)
            for photo in photographs()
        ]
    assert np.mean(lost) <= 1.5


@restores_squares
@pytest.mark.parametrize("precision", PRECISIONS)
def test_it_keeps_the_brightness_of_flat_pictures(precision: str) -> None:
    pytest.importorskip("onnxruntime")
    with Restorer("tiny", backend="onnxruntime", precision=precision) as restore:
        for level in range(10, 250, 5):
            flat = np.full((256, 256, 3), level, np.uint8)
            errors = restore(flat).mean(axis=(0, 1)) - level
            assert abs(errors.mean()) <= 2
            # INT8 was measured to tint flat pictures by up to 3.7 levels, with OpenVINO by 4.0.
            assert np.abs(errors).max() <= (5 if precision == "int8" else 2)


def test_every_precision_is_there_and_passed() -> None:
    info = Bundle.open("tiny").manifest
    assert info.precisions == PRECISIONS
    assert {name: v.passed for name, v in info.verification.items()} == dict.fromkeys(
        (*PRECISIONS, "bf16"), True
    )


@restores_squares
@pytest.mark.parametrize(("precision", "loss"), [("fp16", 0.02), ("int8", 0.3), ("w8", 0.3)])
def test_reduced_precision_costs_no_more_than_promised(precision: str, loss: float) -> None:
    pytest.importorskip("onnxruntime")
    photos = noisy_photos(50)
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

    _, decoder = load_autoencoder(DATA / PACKAGED_AUTOENCODER)
    own = load_checkpoint("tiny").model.decoder.state_dict()
    assert all(torch.equal(own[name], tensor) for name, tensor in decoder.state_dict().items())
    # 32.2 to 35.1 dB when it was trained.
    for photo in photographs():
        assert psnr_db(decoded(photo), photo) > 31.5


def test_checkpoint_and_bundle_agree() -> None:
    torch = pytest.importorskip("torch")
    from elir_deploy.checkpoints import load_checkpoint
    from elir_deploy.training.eager import CheckpointSubject

    checkpoint = load_checkpoint("tiny")
    assert checkpoint.task.architecture == TASKS["tiny"].architecture
    subject = CheckpointSubject(checkpoint)
    low, _ = noisy_photos(50)[0]
    with torch.inference_mode(), Restorer("tiny", precision="fp32") as restore:
        assert psnr_db(restore(low), subject.restore(low).pictures[0]) > 60


def test_the_flow_sharpens_the_coarse_estimate() -> None:
    pytest.importorskip("torch")
    from skimage.measure import blur_effect

    from elir_deploy.checkpoints import load_checkpoint
    from elir_deploy.training.eager import CheckpointSubject

    checkpoint, without = load_checkpoint("tiny"), load_checkpoint("tiny")
    for parameter in without.model.vector_field.parameters():
        parameter.data.zero_()
    blurs = []
    for low, _ in noisy_photos(50):
        restored = CheckpointSubject(checkpoint).restore(low)
        (noise_alone,) = CheckpointSubject(without).restore(low).pictures
        images = (restored.coarse, noise_alone, restored.pictures[0])
        blurs.append([blur_effect(image, channel_axis=2) for image in images])
    coarse, noise, sharp = np.mean(blurs, axis=0)
    assert sharp < noise < coarse
