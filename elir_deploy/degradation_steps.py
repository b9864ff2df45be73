"""The image operations that degradations consist of: filters, resizing, noise, JPEG.

Numbers are on the 8-bit scale, and results are the same to the bit on all CPUs.
"""

from __future__ import annotations

import io
import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from elir_deploy.pixels import rounded

__all__ = [
    "Bytes",
    "Floats",
    "Resample",
    "add_gaussian_noise",
    "add_poisson_noise",
    "filter_image",
    "gaussian_taps",
    "jpeg",
    "resize_bytes",
    "resize_floats",
    "sinc_kernel",
    "squared_distance",
]

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]
Resample = Literal["area", "bilinear", "bicubic"]

#: Enough sample points for :func:`_bessel_j1` up to the arguments of a 21 x 21 kernel (44.4).
_BESSEL_POINTS = 128


# Kernels --------------------------------------------------------------------------------------


def gaussian_taps(sigma: float, length: int) -> NDArray[np.float64]:
    """(length,) samples of a centred Gaussian with sum 1; ``sigma`` in pixels.

    The outer product with itself is the two-dimensional kernel.
    """
    offsets = np.arange(length) - length // 2
    taps = np.exp(-0.5 * (offsets / sigma) ** 2)
    normalized: NDArray[np.float64] = taps / taps.sum()
    return normalized


def sinc_kernel(cutoff: float, side: int) -> NDArray[np.float64]:
    """(side, side) circular low-pass filter of sum 1; ``cutoff`` in radians a pixel, up to pi.

    It is truncated, so that it causes ringing, which is its purpose.
    """
    offsets = np.arange(side) - side // 2
    radius = np.hypot(offsets[:, None], offsets[None, :])
    radius[side // 2, side // 2] = 1  # replaced by the limit below
    kernel = cutoff * _bessel_j1(cutoff * radius) / (2 * math.pi * radius)
    kernel[side // 2, side // 2] = cutoff**2 / (4 * math.pi)
    normalized: NDArray[np.float64] = kernel / kernel.sum()
    return normalized


def _bessel_j1(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Bessel function of the first kind, order 1, by its integral over one period.

    The trapezoidal rule is exact to rounding for a periodic integrand sampled this finely.
    """
    angles = 2 * math.pi * np.arange(_BESSEL_POINTS) / _BESSEL_POINTS
    values: NDArray[np.float64] = np.cos(angles - x[..., None] * np.sin(angles)).mean(axis=-1)
    return values


def squared_distance(
    sigma_x: float, sigma_y: float, angle: float, side: int
) -> NDArray[np.float64]:
    """(side, side) squared distances to the centre, in units of the sigmas of rotated axes."""
    offsets = (np.arange(side) - side // 2).astype(np.float64)
    x, y = offsets[None, :], offsets[:, None]
    along = (x * math.cos(angle) + y * math.sin(angle)) / sigma_x
    across = (y * math.cos(angle) - x * math.sin(angle)) / sigma_y
    distance: NDArray[np.float64] = along**2 + across**2
    return distance


# Steps ----------------------------------------------------------------------------------------


def filter_image(image: Floats, kernel: NDArray[np.float64]) -> Floats:
    """Convolve (H, W, 3) with a symmetric kernel with odd sides; edges are mirrored.

    The order of additions, a shifted sum for each tap, is the same on all CPUs.
    """
    rows, columns = kernel.shape
    margins = ((rows // 2, rows // 2), (columns // 2, columns // 2), (0, 0))
    padded = np.pad(image, margins, mode="reflect")
    height, width = image.shape[:2]
    total = np.zeros_like(image)
    product = np.empty_like(image)
    for row in range(rows):
        for column in range(columns):
            window = padded[row : row + height, column : column + width]
            np.multiply(window, np.float32(kernel[row, column]), out=product)
            total += product
    return total


def resize_floats(image: Floats, height: int, width: int, resample: Resample) -> Floats:
    """Resize (H, W, 3); area averages, bilinear and bicubic interpolate without antialiasing."""
    factors = image.shape[1] / width, image.shape[0] / height
    channels = []
    for channel in range(3):
        plane = Image.fromarray(np.ascontiguousarray(image[:, :, channel]))
        if resample == "area":
            resized = plane.resize((width, height), Image.Resampling.BOX)
        else:
            resized = plane.transform(
                (width, height),
                Image.Transform.AFFINE,
                (factors[0], 0, 0, 0, factors[1], 0),
                Image.Resampling.BILINEAR if resample == "bilinear" else Image.Resampling.BICUBIC,
            )
        channels.append(np.asarray(resized))
    return np.stack(channels, axis=2)


def resize_bytes(image: Bytes, height: int, width: int) -> Bytes:
    """Resize (H, W, 3) with Pillow's bicubic, antialiased when shrinking."""
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC)
    return np.array(resized, dtype=np.uint8)


def add_gaussian_noise(
    image: Floats, sigma: float, rng: np.random.Generator, *, grey: bool = False
) -> Floats:
    shape = (*image.shape[:2], 1 if grey else 3)
    noisy: Floats = image + np.float32(sigma) * rng.standard_normal(shape, dtype=np.float32)
    return noisy


def add_poisson_noise(
    image: Floats, factor: float, rng: np.random.Generator, *, grey: bool
) -> Floats:
    """Add shot noise times ``factor``.

    The brightest level is a number of photons: that of distinct levels, rounded up to a power of
    two. Grey noise is computed from the luma.
    """
    levels = rounded(image)
    if grey:
        levels = np.asarray(Image.fromarray(levels).convert("L"))[:, :, None]
    photons = 2 ** math.ceil(math.log2(len(np.unique(levels))))
    expected = levels * (photons / 255)
    noise = (rng.poisson(expected) - expected) * (255 / photons)
    noisy: Floats = image + (factor * noise).astype(np.float32)
    return noisy


def jpeg(image: Bytes, quality: int) -> Bytes:
    """Compress and decompress (H, W, 3), chroma at half the resolution."""
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=quality, subsampling="4:2:0")
    with Image.open(stream) as decoded:
        return np.array(decoded, dtype=np.uint8)
