from __future__ import annotations

import json
import math
import subprocess
import sys

import numpy as np
import pytest

from elir_deploy.pixels import (
    as_pixels,
    db_from_json,
    decibels,
    finite_or_none,
    psnr_db,
    rounded,
)

#: Every float16 number and what is not one, and what lies around the halves between two levels.
HALVES = (np.arange(1, 510, 2) / np.float32(510)).astype(np.float32)
FLOATS = np.concatenate(
    [
        np.arange(2**16, dtype=np.uint16).view(np.float16).astype(np.float32),
        *(HALVES, np.nextafter(HALVES, np.float32(0)), np.nextafter(HALVES, np.float32(1))),
        np.float32([np.nan, np.inf, -np.inf, -0.0, 1e-45, 1e38]),
    ]
)


def by_hand(values: np.ndarray) -> np.ndarray:
    """The definition, number by number: Python's round is half to even as well."""
    levels = []
    for value in values:
        number = 0.0 if math.isnan(value) else min(max(float(value), 0.0), 1.0)
        levels.append(round(float(values.dtype.type(number) * values.dtype.type(255))))
    return np.array(levels, np.uint8)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_pixels_of_floats(dtype: type) -> None:
    with np.errstate(invalid="ignore"):  # some are signalling
        values = FLOATS.astype(dtype)
    before = values.copy()
    with np.errstate(all="raise"):
        np.testing.assert_array_equal(as_pixels(values), by_hand(values))
    np.testing.assert_array_equal(values, before)


def test_halves_of_levels_are_rounded_to_even() -> None:
    levels = np.array([0.5, 1.5, 2.5, 253.5, 254.5])
    assert rounded(levels).tolist() == [0, 2, 2, 254, 254]
    # Those of 255 times a float64 whose product is a half exactly.
    values = levels / 255
    exact = values * 255 == levels
    assert exact.any()
    assert as_pixels(values)[exact].tolist() == rounded(levels)[exact].tolist()


def test_float16_is_computed_in_float32() -> None:
    values = np.arange(2**16, dtype=np.uint16).view(np.float16)
    np.testing.assert_array_equal(as_pixels(values), by_hand(values.astype(np.float32)))


def test_levels_out_of_range_and_no_numbers() -> None:
    levels = np.float32([-3, -0.4, 0.5, 254.6, 255.5, 1e9, np.inf, -np.inf, np.nan])
    assert rounded(levels).tolist() == [0, 0, 0, 255, 255, 255, 255, 0, 0]


def test_the_given_arrays_are_used() -> None:
    values = FLOATS.reshape(-1, 1)
    out, scratch = np.zeros(values.shape, np.uint8), np.zeros(values.shape, np.float32)
    assert as_pixels(values, out, scratch) is out
    np.testing.assert_array_equal(out, as_pixels(values))


def test_the_graphs_round_alike() -> None:
    """What an exported graph of 8-bit pixels computes, in PyTorch."""
    torch = pytest.importorskip("torch")
    from elir_deploy.static_graph import ImageOutput

    values = FLOATS[np.isfinite(FLOATS)]
    values = values[: len(values) // 3 * 3].reshape(1, 3, 1, -1)
    made = ImageOutput("uint8")(torch.from_numpy(values)).numpy()
    np.testing.assert_array_equal(made[0], as_pixels(values[0].transpose(1, 2, 0)))


def test_psnr_of_known_errors() -> None:
    image = np.zeros((4, 4, 3), np.uint8)
    assert psnr_db(image + np.uint8(255), image) == 0
    assert psnr_db(image, image + np.uint8(255)) == 0, "differences do not wrap"
    assert psnr_db(image + np.uint8(1), image) == pytest.approx(48.1308, abs=1e-4)
    one = image.copy()
    one[0, 0, 0] = 10
    assert psnr_db(one, image) == pytest.approx(10 * math.log10(255**2 / (100 / 48)))
    assert psnr_db(image, image) == math.inf


def test_psnr_is_that_of_scikit_image() -> None:
    metrics = pytest.importorskip("skimage.metrics")
    rng = np.random.default_rng(0)
    one, other = rng.integers(0, 256, (2, 33, 47, 3), np.uint8)
    expected = metrics.peak_signal_noise_ratio(other, one, data_range=255)
    assert psnr_db(one, other) == pytest.approx(expected, rel=1e-15)


def test_pictures_of_two_shapes_are_not_compared() -> None:
    """NumPy would broadcast them."""
    with pytest.raises(ValueError, match=r"\(4, 4, 3\) and \(1, 1, 3\)"):
        psnr_db(np.zeros((4, 4, 3), np.uint8), np.zeros((1, 1, 3), np.uint8))


def test_decibels_in_json() -> None:
    for error in (0.0, 0.25):
        db = decibels(error)
        assert db_from_json(json.loads(json.dumps(finite_or_none(db)))) == db
    assert finite_or_none(math.inf) is None
    assert finite_or_none(math.nan) is None
    assert finite_or_none(None) is None


def test_nothing_but_numpy_is_imported() -> None:
    code = (
        "import sys, elir_deploy.pixels, elir_deploy.progress, elir_deploy.interrupts\n"
        "print([m for m in sys.modules if m.split('.')[0] in ('torch', 'PIL', 'onnx', 'typer')])"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout == "[]\n"
