"""Conversion of floats to pixels, and PSNR.

This module, the graphs of 8-bit bundles and the C++ runtime convert in the same way: rounding is
half to even, and NaN becomes 0. The PSNR of identical pictures is ``math.inf`` in Python, and null
in JSON, which has no infinity.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["as_pixels", "db_from_json", "decibels", "finite_or_none", "psnr_db", "rounded"]


def as_pixels(
    values: NDArray[Any], out: NDArray[Any] | None = None, scratch: NDArray[Any] | None = None
) -> NDArray[Any]:
    """Convert floats in [0, 1] to pixels of the same shape.

    Args:
        values: floats of any range, which are clipped.
        out: uint8 or uint16 array for the result, instead of a new one of uint8.
        scratch: floats of the same shape for intermediate results, instead of a new array.
    """
    if scratch is None:
        scratch = np.empty_like(values, np.result_type(values, np.float32))
    np.fmax(values, 0, out=scratch)  # NaN becomes 0
    np.fmin(scratch, 1, out=scratch)
    if out is None:
        out = np.empty_like(scratch, np.uint8)
    np.multiply(scratch, np.iinfo(out.dtype).max, out=scratch)
    np.rint(scratch, out=scratch)
    np.copyto(out, scratch, casting="unsafe")
    return out


def rounded(levels: NDArray[Any]) -> NDArray[np.uint8]:
    """Convert floats in [0, 255] to pixels of the same shape."""
    clipped = np.fmin(np.fmax(levels, 0), 255)
    pixels: NDArray[np.uint8] = np.rint(clipped, out=clipped).astype(np.uint8)
    return pixels


def psnr_db(image: NDArray[np.uint8], reference: NDArray[np.uint8]) -> float:
    """Peak signal-to-noise ratio of two pictures over all values, in dB.

    Raises:
        ValueError: their shapes differ.
    """
    if image.shape != reference.shape:
        raise ValueError(f"shapes are {image.shape} and {reference.shape}, expected equal ones")
    error = image.astype(np.float64) - reference
    return decibels(float(np.mean(error**2)), 255)


def decibels(mean_squared_error: float, peak: float = 1.0) -> float:
    """Ratio of ``peak`` squared to an error, in dB; infinite if there is no error."""
    return 10 * math.log10(peak**2 / mean_squared_error) if mean_squared_error else math.inf


def finite_or_none(value: float | None) -> float | None:
    """A measurement for JSON: null if it is missing or not finite."""
    return value if value is not None and math.isfinite(value) else None


def db_from_json(db: float | None) -> float:
    """Decibels from JSON: infinite if null."""
    return math.inf if db is None else db
