"""The table of noise levels, on one packaged photograph."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("skimage")

from benchmarks.noise_levels import (
    FLATS,
    SIDE,
    SIGMAS,
    Autoencoder,
    flat_means,
    measure_noise,
    text,
    with_noise,
)
from elir_deploy.checkpoints import load_checkpoint
from elir_deploy.pixels import psnr_db
from elir_deploy.runtime.photos import sample_photos
from elir_deploy.training.eager import CheckpointSubject
from tests.test_packaged_model import DATA


def test_noise_is_seeded_and_of_the_stated_deviation() -> None:
    grey = np.full((SIDE, SIDE, 3), 128, np.uint8)
    assert with_noise(grey, 15.0, 0).std() == pytest.approx(15, rel=0.02)
    assert np.array_equal(with_noise(grey, 0.0, 0), grey)
    assert np.array_equal(with_noise(grey, 25.0, 1), with_noise(grey, 25.0, 1))
    assert not np.array_equal(with_noise(grey, 25.0, 1), with_noise(grey, 25.0, 2))


def test_the_table_of_a_photograph() -> None:
    photo = sample_photos(SIDE, faces=False)["chelsea"]
    subject = CheckpointSubject(load_checkpoint("tiny"), image_size=SIDE)
    noise, beside, count = measure_noise(subject, iter([photo]), peers=0)
    assert (count, beside) == (1, {})
    assert list(noise) == [f"{sigma:g}" for sigma in SIGMAS]
    low = with_noise(photo, 25.0, 0)
    assert noise["25"]["input"] == pytest.approx(psnr_db(low, photo))
    restored = subject.restore(low).pictures[0]
    assert noise["25"]["restored"] == pytest.approx(psnr_db(restored, photo))
    ceiling = psnr_db(Autoencoder(DATA / "tiny.autoencoder.safetensors")(photo), photo)
    assert ceiling > noise["0"]["coarse"]
    flats = flat_means(subject, None)
    page = text(
        {
            "model": "tiny",
            "sigma_s": 0.04,
            "photographs": count,
            "ceiling": ceiling,
            "noise": noise,
            "bm3d": beside,
            "flats": flats,
        }
    )
    assert f"alone: {ceiling:.2f} dB" in page
    for level in FLATS:
        assert f"| {level} | {flats['PyTorch'][str(level)] - level:+.1f} |" in page
