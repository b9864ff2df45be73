"""Floats to 8-bit pixels, and how far two pictures are apart.

Each is done in one way: here, in the graphs of 8-bit bundles, and in the C++ runtime. Rounding is
half to even, and what is not a number becomes 0. Decibels of identical pictures are ``math.inf`` in
Python, and null in JSON, which has no infinity.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["as_pixels", "db_from_json", "decibels", "finite_or_none", "psnr_db", "rounded"]


def as_pixels(
    values: NDArray[Any], out: NDArray[np.uint8] | None = None, scratch: NDArray[Any] | None = None
) -> NDArray[np.uint8]:
    """Floats, of which [0, 1] is dark to bright, as pixels of the same shape.

    Args:
        values: of any range; infinities are clipped as other numbers are.
        out: filled instead of a new array.
        scratch: floats of that shape to compute in, instead of new ones.
    """
    if scratch is None:
        scratch = np.empty_like(values, np.result_type(values, np.float32))
    np.fmax(values, 0, out=scratch)  # it takes what is not a number to 0
    np.fmin(scratch, 1, out=scratch)
    np.multiply(scratch, 255, out=scratch)
    np.rint(scratch, out=scratch)
    if out is None:
        out = np.empty_like(scratch, np.uint8)
    np.copyto(out, scratch, casting="unsafe")
    return out


def rounded(levels: NDArray[Any]) -> NDArray[np.uint8]:
    """Floats, of which [0, 255] is dark to bright, as pixels of the same shape."""
    clipped = np.fmin(np.fmax(levels, 0), 255)
    pixels: NDArray[np.uint8] = np.rint(clipped, out=clipped).astype(np.uint8)
    return pixels


def psnr_db(image: NDArray[np.uint8], reference: NDArray[np.uint8]) -> float:
    """Peak signal-to-noise ratio of two pictures, over all their values, in dB.

    Raises:
        ValueError: they are of different shapes.
    """
    if image.shape != reference.shape:
        raise ValueError(f"pictures of {image.shape} and {reference.shape}, wanted one shape")
    error = image.astype(np.float64) - reference
    return decibels(float(np.mean(error**2)), 255)


def decibels(mean_squared_error: float, peak: float = 1.0) -> float:
    """The ratio of the square of ``peak`` to an error, in dB; infinite where there is no error."""
    return 10 * math.log10(peak**2 / mean_squared_error) if mean_squared_error else math.inf


def finite_or_none(value: float | None) -> float | None:
    """Decibels, or any measurement, for JSON: null where they are not finite, or not there."""
    return value if value is not None and math.isfinite(value) else None


def db_from_json(db: float | None) -> float:
    """The decibels of a measurement that JSON holds: infinite where it says null."""
    return math.inf if db is None else db
