"""Scenes are told apart, whatever moves or flickers within them."""

from __future__ import annotations

import numpy as np
import pytest

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


def test_motion_and_light_are_no_cuts() -> None:
    pan = [np.roll(PHOTOS["coffee"], 12 * number, axis=1) for number in range(12)]
    assert cuts_in(pan) == []
    fading = [(PHOTOS["coffee"] * (1 - number / 40)).astype(np.uint8) for number in range(40)]
    assert cuts_in(fading) == []
    assert cuts_in([np.zeros((1, 1, 3), np.uint8)] * 2) == []
