"""What a model is given of a picture with transparency."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from elir_deploy.runtime import Restorer, transparency
from elir_deploy.runtime.files import restore_files
from elir_deploy.runtime.images import read_image, write_image
from elir_deploy.runtime.jobs import plan_jobs
from elir_deploy.runtime.transparency import without_transparency
from tests.emulation import restores_squares

RNG = np.random.default_rng(5)
#: How much of each pixel a disc covers, (64, 64) uint8.
DISC = np.rint(
    255
    * np.hypot(*(np.mgrid[:512, :512] / 8 - 32 + 1 / 16))
    .__lt__(20)
    .reshape(64, 8, 64, 8)
    .mean((1, 3))
).astype(np.uint8)


def over(background: int, colours: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    weight = alpha[:, :, None] / 255
    return colours * weight + background * (1 - weight)


def test_a_disc_goes_on_outside_itself() -> None:
    pixels = np.where(DISC[:, :, None] > 0, np.uint8(240), np.uint8(0)).repeat(3, axis=2)
    assert (without_transparency(pixels, DISC) == 240).all()


def test_opaque_pixels_stay_and_the_others_count_by_their_alpha() -> None:
    pixels = RNG.integers(0, 256, (37, 51, 3), np.uint8)
    alpha = RNG.choice(np.uint8([0, 1, 128, 254, 255]), (37, 51))
    seen = without_transparency(pixels, alpha)
    np.testing.assert_array_equal(seen[alpha == 255], pixels[alpha == 255])
    near = np.abs(seen.astype(int) - pixels).max(axis=2)
    assert near[alpha == 254].max() <= 1
    assert near[alpha == 128].max() <= 128
    assert near[alpha == 0].max() > 128


@pytest.mark.parametrize("alpha", [0, 255])
def test_all_or_nothing_is_left_alone(alpha: int) -> None:
    pixels = RNG.integers(0, 256, (5, 7, 3), np.uint8)
    assert without_transparency(pixels, np.full((5, 7), alpha, np.uint8)) is pixels


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (1, 33), (17, 1), (2, 3), (31, 64)])
def test_colours_reach_everything(shape: tuple[int, int]) -> None:
    """From a single pixel that hardly shows."""
    pixels = np.zeros((*shape, 3), np.uint8)
    alpha = np.zeros(shape, np.uint8)
    pixels[-1, -1], alpha[-1, -1] = (10, 100, 200), 40
    seen = without_transparency(pixels, alpha)
    assert (np.abs(seen.astype(int) - (10, 100, 200)) <= 1).all()


def test_two_colours_meet_between_them() -> None:
    pixels = np.zeros((32, 96, 3), np.uint8)
    pixels[:, :8], pixels[:, -8:] = 50, 200
    alpha = np.zeros((32, 96), np.uint8)
    alpha[:, :8] = alpha[:, -8:] = 255
    row = without_transparency(pixels, alpha)[16, :, 0].astype(int)
    assert np.abs(row[:14] - 50).max() <= 6
    assert np.abs(row[-14:] - 200).max() <= 6
    assert 50 < row[48] < 200


def test_bands_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = RNG.integers(0, 256, (45, 61, 3), np.uint8)
    alpha = RNG.integers(0, 256, (45, 61), np.uint8) // 64 * 64
    whole = without_transparency(pixels, alpha)
    monkeypatch.setattr(transparency, "_BAND_PIXELS", 100)
    np.testing.assert_array_equal(without_transparency(pixels, alpha), whole)


@restores_squares
@pytest.mark.parametrize("colours", ["to the rim", "half way", "mixed with black"])
def test_the_rim_of_a_restored_disc_is_not_dark(tmp_path: Path, colours: str) -> None:
    """A disc of 240 on transparent black through the packaged model, and put on white."""
    level = {
        "to the rim": np.where(DISC > 0, 240.0, 0.0),
        "half way": np.where(DISC > 127, 240.0, 0.0),
        "mixed with black": 240 * (DISC / 255),
    }[colours]
    pixels = np.rint(level).astype(np.uint8)[:, :, None].repeat(3, axis=2)
    write_image(tmp_path / "disc.png", pixels, alpha=DISC)
    plan = plan_jobs([tmp_path / "disc.png"], tmp_path / "out", compare=True)
    with Restorer("tiny", "onnxruntime") as restorer:
        assert not restore_files(restorer, plan.jobs).failures
    restored = read_image(tmp_path / "out" / "disc.png")
    np.testing.assert_array_equal(restored.alpha, DISC)
    rim = (DISC > 0) & (DISC < 255)
    before = over(255, pixels, DISC)[rim]
    after = over(255, restored.pixels, DISC)[rim]
    assert after.mean() > before.mean() - 1
    # Beside the disc's edge the network itself is off by up to 5 levels; black by 20 and more.
    assert after.min() > before.min() - 6
    pair = read_image(tmp_path / "out" / "disc.compare.png").pixels
    assert pair[0, 0].min() > 150  # not the black that nobody sees
