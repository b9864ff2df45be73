"""Motion of faces, measured from pictures, and landmarks that it keeps calm."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from elir_deploy.photo import Face
from elir_deploy.runtime.photos import sample_photos
from elir_deploy.video.tracks.motion import Movement, movement_between
from elir_deploy.video.tracks.tracks import EVERY, LOOKAHEAD, Scene

PHOTOS = sample_photos(240, faces=False)
#: Landmarks of the astronaut.
POINTS = np.array([96 + 47j, 116 + 46j, 107 + 57j, 98 + 67j, 115 + 66j])
CENTRE = complex(POINTS.mean())
#: A motion about the face's centre by the number of the picture.
Motion = Callable[[int], tuple[complex, float]]


def moving(shift: complex, degrees: float = 0, growth: float = 1) -> Movement:
    factor = growth * np.exp(1j * np.deg2rad(degrees))
    return Movement(factor, CENTRE + shift - factor * CENTRE)


def moved(movement: Movement, gain: float = 1) -> np.ndarray:
    """The astronaut after a movement."""
    back = movement.back()
    factor, half = back.factor, 0.5 + 0.5j  # PIL's whole numbers are edges of pixels
    shift = back.shift + half - factor * half
    rows = (factor.real, -factor.imag, shift.real, factor.imag, factor.real, shift.imag)
    picture = Image.fromarray(PHOTOS["astronaut"])
    changed = picture.transform(
        picture.size, Image.Transform.AFFINE, rows, Image.Resampling.BICUBIC
    )
    return (np.asarray(changed) * gain).astype(np.uint8)


@pytest.mark.parametrize("gain", [1.0, 0.8])
@pytest.mark.parametrize(
    ("shift", "degrees", "growth"),
    [
        (0, 0, 1),
        (1 + 2j, 0, 1),
        (0.5 - 0.3j, 0, 1),
        (-9 + 6j, 0, 1),
        (0, 4, 1),
        (1.5 - 2.5j, -3, 1.03),
    ],
)
def test_movements_are_measured(shift: complex, degrees: float, growth: float, gain: float) -> None:
    expected = moving(shift, degrees, growth)
    found = movement_between(PHOTOS["astronaut"], moved(expected, gain), POINTS)
    assert found is not None
    assert np.abs(found(POINTS) - expected(POINTS)).max() < 0.15


def test_noise_is_no_motion() -> None:
    rng = np.random.default_rng(0)
    noisy = [
        (PHOTOS["astronaut"] + rng.normal(0, 15, (240, 240, 3))).clip(0, 255).astype(np.uint8)
        for _ in range(2)
    ]
    found = movement_between(*noisy, POINTS)
    assert found is not None
    assert np.abs(found(POINTS) - POINTS).max() < 0.3


def test_a_large_face_is_reduced() -> None:
    """Six times as large, half a pixel of what is compared is three."""
    large = np.asarray(Image.fromarray(PHOTOS["astronaut"][:120, 40:180]).resize((840, 720)))
    points = 6 * (POINTS - 40) + 2.5 * (1 + 1j)
    found = movement_between(large[:, 10:-10], np.roll(large, 3, axis=1)[:, 10:-10], points - 10)
    assert found is not None
    assert np.abs(found(points) - (points + 3)).max() < 0.3


@pytest.mark.parametrize("name", ["coffee", "chelsea", "flat", "noise", "stripes"])
def test_another_picture_is_no_motion(name: str) -> None:
    before, rng = PHOTOS["astronaut"], np.random.default_rng(0)
    after = PHOTOS.get(name)
    if name == "flat":
        before = after = np.full_like(before, 90)
    elif name == "noise":
        before, after = rng.integers(0, 255, (2, *before.shape), np.uint8)
    elif name == "stripes":  # which may slide along themselves
        before = after = np.broadcast_to(PHOTOS["astronaut"][:, :1], before.shape)
    assert after is not None
    assert movement_between(before, after, POINTS) is None


@pytest.mark.parametrize("away", [-300, 300j, 130 - 55j])
def test_a_face_beyond_the_picture_has_no_motion(away: complex) -> None:
    assert movement_between(PHOTOS["astronaut"], PHOTOS["astronaut"], POINTS + away) is None


def test_movements_in_a_row() -> None:
    first, second = moving(3 - 1j, 20, 1.1), moving(-2j, -7)
    np.testing.assert_allclose(second.after(first)(POINTS), second(first(POINTS)))
    np.testing.assert_allclose(first.back()(first(POINTS)), POINTS)


def to_and_fro(number: int, far: int) -> int:
    return abs(number % (2 * far) - far)


def nodding(number: int) -> tuple[complex, float]:
    return complex(2 * to_and_fro(number, 8), to_and_fro(number, 5)), 0


def nodding_by_parts(number: int) -> tuple[complex, float]:
    return complex(1.3 * to_and_fro(number, 9), 0.7 * to_and_fro(number, 4)), 0


def shaking(number: int) -> tuple[complex, float]:
    return complex(0.5 * to_and_fro(number, 6)), 1.5 * to_and_fro(number, 5) - 4


def jitters(motion: Motion, pictures: Callable[[Movement], np.ndarray]) -> tuple[float, float]:
    """Root mean square errors of landmarks that a detector jitters, in pixels: seen, followed."""
    rng, scene, end = np.random.default_rng(0), Scene(0), 40
    true = [moving(*motion(number)) for number in range(end + 1)]
    seen, followed = [], []
    for number in range(end + LOOKAHEAD + 1):
        if number <= end:
            scene.follow(number, pictures(true[number]))
        if number <= end and number % EVERY == 0:
            points = true[number](POINTS)
            jittered = points + rng.normal(0, 1, 5) + 1j * rng.normal(0, 1, 5)
            seen.append(jittered - points)
            marks = np.stack([jittered.real, jittered.imag], axis=1).tolist()
            scene.add(number, [Face.rounded([80, 20, 130, 80], marks)])
        if number == end:
            scene.close(end)
        if number >= LOOKAHEAD:
            [(_, face, _)] = scene.at(number - LOOKAHEAD)
            found = np.asarray(face.landmarks) @ (1, 1j)
            followed.append(found - true[number - LOOKAHEAD](POINTS))
    first, second = (float(np.sqrt((np.abs(each) ** 2).mean())) for each in (seen, followed))
    return first, second


@pytest.mark.parametrize("motion", [nodding, nodding_by_parts, shaking])
def test_jitter_is_less_than_half_in_any_motion(motion: Motion) -> None:
    seen, followed = jitters(motion, moved)
    assert followed < seen / 2


def test_a_face_that_cannot_be_seen_is_followed_as_it_was_detected() -> None:
    """In steady motion, which needs no more; nothing is taken from what the pictures show."""

    def steadily(number: int) -> tuple[complex, float]:
        return complex(number), 0

    seen, followed = jitters(steadily, lambda _: np.full((240, 240, 3), 90, np.uint8))
    assert followed < seen / 2


def test_a_flash_does_not_stop_a_face() -> None:
    def steadily(number: int) -> tuple[complex, float]:
        return complex(1.5 * number - 30), 0

    count = iter(range(100))
    seen, followed = jitters(
        steadily,
        lambda at: np.full((240, 240, 3), 255, np.uint8) if next(count) in (19, 20) else moved(at),
    )
    assert followed < seen / 2
