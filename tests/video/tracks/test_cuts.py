"""Scenes are told apart, whatever moves or flickers within them."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from elir_deploy.runtime.photos import sample_photos
from elir_deploy.video.tracks.cuts import Cuts

PHOTOS = sample_photos(256, faces=False)


def cuts_in(pictures: list[np.ndarray]) -> list[int]:
    cuts = Cuts()
    return [number for number, picture in enumerate(pictures) if cuts(picture)]


@pytest.mark.parametrize("sigma", [0, 50])
def test_cuts(sigma: float) -> None:
    rng = np.random.default_rng(0)
    scenes = [PHOTOS["astronaut"], PHOTOS["coffee"], PHOTOS["chelsea"], PHOTOS["astronaut"]]
    pictures = [
        (scene + rng.normal(0, sigma, scene.shape)).clip(0, 255).astype(np.uint8)
        for scene in scenes
        for _ in range(5)
    ]
    assert cuts_in(pictures) == [5, 10, 15]


@pytest.mark.parametrize("name", PHOTOS)
@pytest.mark.parametrize("size", [256, 64])
def test_cuts_between_pictures_of_the_same_tones(name: str, size: int) -> None:
    picture = sample_photos(size, faces=False)[name]
    mirrored = np.ascontiguousarray(picture[:, ::-1])
    assert cuts_in([picture, picture, mirrored, mirrored]) == [2]


@pytest.mark.parametrize("name", ["astronaut", "coffee"])
def test_cuts_between_pictures_of_the_same_surroundings(name: str) -> None:
    picture = PHOTOS["chelsea"].copy()
    picture[64:192, 64:192] = PHOTOS[name][64:192, 64:192]
    assert cuts_in([PHOTOS["chelsea"], PHOTOS["chelsea"], picture]) == [2]


@pytest.mark.parametrize("name", PHOTOS)
@pytest.mark.parametrize("pixels", [10, 20, 40])
def test_a_pan_that_begins_is_no_cut(name: str, pixels: int) -> None:
    wide = sample_photos((256, 512), faces=False)[name]
    pictures = [wide[:, left : left + 320] for left in (0, 0, pixels, 2 * pixels)]
    assert cuts_in([np.ascontiguousarray(picture) for picture in pictures]) == []


@pytest.mark.parametrize("name", PHOTOS)
@pytest.mark.parametrize("gain", [0.8, 0.9, 1.2])
def test_light_that_changes_is_no_cut(name: str, gain: float) -> None:
    changed = (PHOTOS[name] * gain).clip(0, 255).astype(np.uint8)
    assert cuts_in([PHOTOS[name], PHOTOS[name], changed]) == []


@pytest.mark.parametrize("name", PHOTOS)
@pytest.mark.parametrize("gain", [0.7, 1.3])
def test_a_pan_in_light_that_changes_is_no_cut(name: str, gain: float) -> None:
    wide = sample_photos((256, 512), faces=False)[name]
    lit = (wide * gain).clip(0, 255).astype(np.uint8)
    pictures = [wide[:, :320], wide[:, :320], lit[:, 20:340]]
    assert cuts_in([np.ascontiguousarray(picture) for picture in pictures]) == []


def test_a_fast_pan_over_small_things_is_no_cut() -> None:
    things = np.random.default_rng(0).integers(0, 256, (8, 16, 3)).astype(np.uint8)
    wide = np.asarray(Image.fromarray(things).resize((384, 192), Image.Resampling.BICUBIC))
    pictures = [wide[:, left : left + 320] for left in (0, 0, 45)]
    assert cuts_in([np.ascontiguousarray(picture) for picture in pictures]) == []


@pytest.mark.parametrize("angle", [3, -5])
def test_turning_is_no_cut(angle: float) -> None:
    turned = Image.fromarray(PHOTOS["coffee"]).rotate(angle, Image.Resampling.BICUBIC)
    pictures = [PHOTOS["coffee"], np.asarray(turned)]
    assert cuts_in([picture[32:224, 32:224] for picture in pictures]) == []


def test_motion_and_light_are_no_cuts() -> None:
    pan = [np.roll(PHOTOS["coffee"], 12 * number, axis=1) for number in range(12)]
    assert cuts_in(pan) == []
    fading = [(PHOTOS["coffee"] * (1 - number / 40)).astype(np.uint8) for number in range(40)]
    assert cuts_in(fading) == []
    for number in (1, 7):
        assert cuts_in([np.zeros((number, 1, 3), np.uint8)] * 2) == []
    assert cuts_in([np.full((1, 9, 3), value, np.uint8) for value in (0, 99)]) == [1]
