"""No lag in motion, less jitter."""

from __future__ import annotations

import numpy as np
import pytest

from elir_deploy.photo.detectors import FACE_TEMPLATE
from elir_deploy.video.tracks.smoothing import smoothed

#: A face of which the eyes are 40 pixels apart, and its box.
FACE = np.array([*np.array(FACE_TEMPLATE).ravel() * 0.32, 10.0, 10.0, 140.0, 150.0])


def path(numbers: np.ndarray, speed: float, acceleration: float = 0) -> np.ndarray:
    moved = speed * numbers + acceleration / 2 * numbers**2
    return FACE + moved[:, None]


@pytest.mark.parametrize("number", range(0, 37, 4))
@pytest.mark.parametrize("speed", [0.0, 0.7, 5.0])
def test_uniform_motion_has_no_lag(number: int, speed: float) -> None:
    """Also at both ends, where the window is cut, and between the pictures that were searched."""
    numbers = np.arange(0, 37, 3)
    expected = path(np.array([number]), speed)[0]
    np.testing.assert_allclose(smoothed(numbers, path(numbers, speed), number), expected, atol=1e-6)


def test_accelerated_motion_is_followed() -> None:
    numbers = np.arange(0, 37, 3)
    values = path(numbers, 0, 1.0)
    for number in range(37):
        error = np.abs(smoothed(numbers, values, number) - path(np.array([number]), 0, 1.0)[0])
        assert error.max() < 2.0  # a line alone errs by 9 at the ends


def test_jitter_is_less_than_half() -> None:
    rng = np.random.default_rng(0)
    numbers = np.arange(0, 301, 3)
    jitter = rng.normal(0, 1, (len(numbers), 14))
    values = path(numbers, 0.3) + jitter
    result = np.stack([smoothed(numbers, values, n) for n in range(301)])
    rest = result - path(np.arange(301), 0.3)
    assert rest.std() < 0.62
    assert np.diff(rest, axis=0).std() < np.diff(jitter, axis=0).std() / 4


def test_jitter_gives_no_slope_at_the_ends() -> None:
    """There, a line has about three times the variance of a mean."""
    rng = np.random.default_rng(0)
    numbers = np.arange(0, 30, 2)
    ends = []
    for _ in range(100):
        values = FACE + rng.normal(0, 1, (len(numbers), 14))
        ends.append(smoothed(numbers, values, 0) - FACE)
    assert np.std(ends) < 0.45  # of a mean: 0.41, of a line: 0.70


def test_few_sightings() -> None:
    one = smoothed(np.array([6]), FACE[None], 6)
    np.testing.assert_allclose(one, FACE)
    numbers = np.array([0, 30])
    for number in (0, 15, 30):
        found = smoothed(numbers, path(numbers, 1.0), number)
        np.testing.assert_allclose(found, FACE + number, atol=1e-6)
    np.testing.assert_allclose(smoothed(np.array([0, 2]), path(np.array([0, 2]), 3.0), 0), FACE)
