"""The table of noise levels, on one packaged photograph."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("skimage")

from benchmarks.noise_levels import (
    CONDITIONS,
    FLATS,
    SIDE,
    Autoencoder,
    degraded,
    flat_means,
    measure,
    text,
)
from elir_deploy.checkpoints import load_checkpoint
from elir_deploy.pixels import psnr_db
from elir_deploy.runtime.photos import sample_photos
from elir_deploy.training.eager import CheckpointSubject
from tests.test_packaged_model import DATA


def test_noise_is_seeded_and_of_the_stated_deviation() -> None:
    grey = np.full((SIDE, SIDE, 3), 128, np.uint8)
    assert degraded(grey, "noise 15", 0).std() == pytest.approx(15, rel=0.02)
    assert np.array_equal(degraded(grey, "clean", 0), grey)
    assert np.array_equal(degraded(grey, "noise 25", 1), degraded(grey, "noise 25", 1))
    assert not np.array_equal(degraded(grey, "noise 25", 1), degraded(grey, "noise 25", 2))


def test_the_table_of_a_photograph() -> None:
    photo = sample_photos(SIDE, faces=False)["chelsea"]
    subject = CheckpointSubject(load_checkpoint("tiny"), image_size=SIDE)
    conditions, beside = measure(subject, [photo], peers=0)
    assert beside == {}
    assert list(conditions) == list(CONDITIONS)
    low = degraded(photo, "noise 25", 0)
    assert conditions["noise 25"]["input"] == pytest.approx(psnr_db(low, photo))
    restored = subject.restore(low).pictures[0]
    assert conditions["noise 25"]["restored"] == pytest.approx(psnr_db(restored, photo))
    ceiling = psnr_db(Autoencoder(DATA / "tiny.autoencoder.safetensors")(photo), photo)
    assert ceiling > conditions["clean"]["coarse"]
    flats = flat_means(subject, None)
    page = text(
        {
            "model": "tiny",
            "sigma_s": 0.04,
            "photographs": 1,
            "ceiling": ceiling,
            "blur_truth": 0.3,
            "conditions": conditions,
            "bm3d": beside,
            "flats": flats,
        }
    )
    assert f"alone: {ceiling:.2f} dB" in page
    for level in FLATS:
        assert f"| {level} | {flats['PyTorch'][str(level)] - level:+.1f} |" in page
