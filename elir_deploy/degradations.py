"""The degradation of each task, on which its weights were trained.

All of them take and return 8-bit RGB and draw random numbers from a given generator, so that equal
seeds give equal images. Random parameters are drawn (``FaceDegradation.draw``) separately from
their application (``FaceDegradation.apply``).

Numbers are on the 8-bit scale: a noise of 25.5 is 0.1 of the range.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from elir_deploy.degradation_steps import (
    Bytes,
    Resample,
    add_gaussian_noise,
    add_poisson_noise,
    filter_image,
    gaussian_taps,
    jpeg,
    resize_bytes,
    resize_floats,
    sinc_kernel,
    squared_distance,
)
from elir_deploy.errors import ImageError
from elir_deploy.pixels import rounded
from elir_deploy.tasks import task_named

__all__ = [
    "BlindDegradation",
    "FaceDegradation",
    "RealWorldDegradation",
    "degrade",
    "enlarge",
    "gaussian_taps",
    "sinc_kernel",
]

#: Standard deviations of the noise.
SR_NOISE = 12.8
DENOISE_NOISE = 89.6
INPAINT_NOISE = 25.6
#: The largest.
BLIND_NOISE = 90.0
#: Share of the pixels that inpainting masks.
INPAINT_MASKED = 0.9


def degrade(task_name: str, image: NDArray[np.uint8], rng: np.random.Generator) -> Bytes:
    """Degrade ``image`` for a task.

    Args:
        task_name: a name of :data:`elir_deploy.tasks.TASKS`.
        image: (H, W, 3) uint8 RGB; for ``sr`` and ``bsr``, H and W are multiples of 8 and 4.
        rng: the source of all random numbers.

    Returns:
        (H, W, 3) uint8; for ``sr`` (H/8, W/8, 3) and for ``bsr`` (H/4, W/4, 3), which
        :func:`enlarge` brings to the network's size.

    Raises:
        UsageError: there is no such task.
        ImageError: ``image`` has another type, shape or size.
    """
    task = task_named(task_name)
    _check_image(image, task.upscale)
    return _DEGRADATIONS[task.name](image, rng)


def enlarge(task_name: str, low: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The network's input for an image of :func:`degrade`.

    Args:
        task_name: a name of :data:`elir_deploy.tasks.TASKS`.
        low: (h, w, 3) uint8 RGB.

    Returns:
        (h * f, w * f, 3) uint8 with the task's factor f: nearest x8 for ``sr``, Pillow's bicubic
        (a = -0.5) x4 for ``bsr``, ``low`` itself for others.

    Raises:
        UsageError: there is no such task.
        ImageError: ``low`` has another type or shape.
    """
    task = task_named(task_name)
    _check_image(low, 1)
    if task.upscale == 1:
        return low
    if task.upscale_kernel == "nearest":
        return low.repeat(task.upscale, axis=0).repeat(task.upscale, axis=1)
    return resize_bytes(low, low.shape[0] * task.upscale, low.shape[1] * task.upscale)


def _degrade_face(image: Bytes, rng: np.random.Generator) -> Bytes:
    return FaceDegradation.draw(rng).apply(image, rng)


def _degrade_blindly(image: Bytes, rng: np.random.Generator) -> Bytes:
    return BlindDegradation.draw(rng).apply(image, rng)


def _degrade_real_world(image: Bytes, rng: np.random.Generator) -> Bytes:
    return RealWorldDegradation.draw(rng).apply(image, rng)


def _shrink_and_add_noise(image: Bytes, rng: np.random.Generator) -> Bytes:
    small = resize_bytes(image, image.shape[0] // 8, image.shape[1] // 8)
    return rounded(add_gaussian_noise(small.astype(np.float32), SR_NOISE, rng))


def _add_noise(image: Bytes, rng: np.random.Generator) -> Bytes:
    return rounded(add_gaussian_noise(image.astype(np.float32), DENOISE_NOISE, rng))


def _mask_and_add_noise(image: Bytes, rng: np.random.Generator) -> Bytes:
    """Masked pixels become 0 in all channels; then noise is added to all pixels."""
    height, width = image.shape[:2]
    masked = rng.permutation(height * width)[: int(INPAINT_MASKED * height * width)]
    pixels = image.astype(np.float32)
    pixels.reshape(-1, 3)[masked] = 0
    return rounded(add_gaussian_noise(pixels, INPAINT_NOISE, rng))


_DEGRADATIONS: dict[str, Callable[[Bytes, np.random.Generator], Bytes]] = {
    "bfr": _degrade_face,
    "sr": _shrink_and_add_noise,
    "denoise": _add_noise,
    "inpaint": _mask_and_add_noise,
    "bsr": _degrade_real_world,
    "tiny": _degrade_blindly,
}


# Blind face restoration -----------------------------------------------------------------------


@dataclass(frozen=True)
class FaceDegradation:
    """Blur, shrink, noise, JPEG, enlarge again (paper, Section 5.1).

    Attributes:
        blur_sigma: standard deviation in pixels of the Gaussian, cut off at 41 x 41; [0.1, 15].
        scale: side of the small image over the side of the image; [1/32, 1.2].
        noise_sigma: standard deviation of the Gaussian noise; [0, 20].
        jpeg_quality: 30 to 100.
    """

    blur_sigma: float
    scale: float
    noise_sigma: float
    jpeg_quality: int

    @classmethod
    def draw(cls, rng: np.random.Generator) -> FaceDegradation:
        """Every parameter uniform in its range."""
        return cls(
            blur_sigma=rng.uniform(0.1, 15),
            scale=rng.uniform(1 / 32, 1.2),
            noise_sigma=rng.uniform(0, 20),
            jpeg_quality=int(rng.integers(30, 100, endpoint=True)),
        )

    def apply(self, image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
        """Degrade (H, W, 3) uint8 RGB; ``rng`` gives the noise."""
        height, width = image.shape[:2]
        taps = gaussian_taps(self.blur_sigma, 41)
        blurred = filter_image(filter_image(image.astype(np.float32), taps[None, :]), taps[:, None])
        small = resize_floats(
            blurred,
            max(1, round(height * self.scale)),
            max(1, round(width * self.scale)),
            "bilinear",
        )
        noisy = rounded(add_gaussian_noise(small, self.noise_sigma, rng))
        compressed = jpeg(noisy, self.jpeg_quality).astype(np.float32)
        return rounded(resize_floats(compressed, height, width, "bilinear"))


# Blind restoration ----------------------------------------------------------------------------


@dataclass(frozen=True)
class BlindDegradation:
    """Slight blur, noise, JPEG: each in some images only, none of them in one of ten.

    Attributes:
        blur_sigma: standard deviation in pixels of the Gaussian, [0.3, 1.2], in 15 % of the images;
            0 in the others.
        noise_sigma: standard deviation of the Gaussian noise, in 85 % of the images; 90 times the
            power 1.5 of a uniform number, so that half of them have less than 32. 0 in the others.
        jpeg_quality: 30 to 95, in 20 % of the images; None in the others.
    """

    blur_sigma: float
    noise_sigma: float
    jpeg_quality: int | None

    @classmethod
    def draw(cls, rng: np.random.Generator) -> BlindDegradation:
        blurred, noisy, compressed = rng.random(3) < (0.15, 0.85, 0.2)
        return cls(
            blur_sigma=rng.uniform(0.3, 1.2) if blurred else 0.0,
            noise_sigma=BLIND_NOISE * rng.random() ** 1.5 if noisy else 0.0,
            jpeg_quality=int(rng.integers(30, 95, endpoint=True)) if compressed else None,
        )

    def apply(self, image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
        """Degrade (H, W, 3) uint8 RGB; ``rng`` gives the noise."""
        pixels = image.astype(np.float32)
        if self.blur_sigma:
            taps = gaussian_taps(self.blur_sigma, 9)
            pixels = filter_image(filter_image(pixels, taps[None, :]), taps[:, None])
        if self.noise_sigma:
            pixels = add_gaussian_noise(pixels, self.noise_sigma, rng)
        low = rounded(pixels)
        return low if self.jpeg_quality is None else jpeg(low, self.jpeg_quality)


# Blind super-resolution -----------------------------------------------------------------------

_RESAMPLES: tuple[Resample, ...] = ("area", "bilinear", "bicubic")
#: Side in pixels of the blur kernels: odd, drawn uniformly.
_KERNEL_SIDES = tuple(range(7, 22, 2))
#: The kinds of blur kernel: name to probability, among those that are no sinc.
_KERNEL_KINDS = {
    "iso": 0.45,
    "aniso": 0.25,
    "generalized_iso": 0.12,
    "generalized_aniso": 0.03,
    "plateau_iso": 0.12,
    "plateau_aniso": 0.03,
}
_SINC_PROBABILITY = 0.1
_FINAL_SINC_PROBABILITY = 0.8
_RESIZE_PROBABILITIES = (0.2, 0.7, 0.1)  # up, down, keep
_RESIZE_RANGE = (0.15, 1.5)
_BSR_FACTOR = 4


@dataclass(frozen=True, eq=False)
class RealWorldDegradation:
    """Real-ESRGAN's degradation with the second order left out, then x4 down.

    Blur, resize, noise, JPEG; then a quarter of the original size, a sinc filter (ringing) and
    JPEG once more, in one of two orders.

    Attributes:
        blur: kernel (k, k), k odd from 7 to 21, of sum 1.
        scale: of the first resize; up with probability 0.2, down 0.7, kept 0.1; [0.15, 1.5].
        resample: of the first resize.
        noise: Gaussian or Poisson, equally likely.
        noise_level: Gaussian: standard deviation in [1, 30]; Poisson: factor in [0.05, 3].
        grey_noise: the same noise in the three channels (probability 0.4).
        jpeg_quality: 30 to 95.
        final_resample: of the resize to a quarter of the original size.
        final_sinc: kernel (k, k); None for no filter (probability 0.2).
        final_jpeg_quality: 30 to 95.
        final_jpeg_last: JPEG after resize and filter (probability 0.5), or before them.
    """

    blur: NDArray[np.float64]
    scale: float
    resample: Literal["area", "bilinear", "bicubic"]
    noise: Literal["gaussian", "poisson"]
    noise_level: float
    grey_noise: bool
    jpeg_quality: int
    final_resample: Literal["area", "bilinear", "bicubic"]
    final_sinc: NDArray[np.float64] | None
    final_jpeg_quality: int
    final_jpeg_last: bool

    @classmethod
    def draw(cls, rng: np.random.Generator) -> RealWorldDegradation:
        gaussian = bool(rng.random() < 0.5)
        return cls(
            blur=_draw_blur(rng),
            scale=_draw_scale(rng),
            resample=_RESAMPLES[rng.integers(3)],
            noise="gaussian" if gaussian else "poisson",
            noise_level=rng.uniform(1, 30) if gaussian else rng.uniform(0.05, 3),
            grey_noise=bool(rng.random() < 0.4),
            jpeg_quality=int(rng.integers(30, 95, endpoint=True)),
            final_resample=_RESAMPLES[rng.integers(3)],
            final_sinc=_draw_final_sinc(rng),
            final_jpeg_quality=int(rng.integers(30, 95, endpoint=True)),
            final_jpeg_last=bool(rng.random() < 0.5),
        )

    def apply(self, image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
        """Degrade (H, W, 3) uint8 RGB to (H/4, W/4, 3); ``rng`` gives the noise."""
        height, width = image.shape[:2]
        x = filter_image(image.astype(np.float32), self.blur)
        if self.scale != 1:
            small = max(1, int(height * self.scale)), max(1, int(width * self.scale))
            x = resize_floats(x, *small, self.resample)
        if self.noise == "gaussian":
            x = add_gaussian_noise(x, self.noise_level, rng, grey=self.grey_noise)
        else:
            x = add_poisson_noise(x, self.noise_level, rng, grey=self.grey_noise)
        x = jpeg(rounded(x), self.jpeg_quality).astype(np.float32)
        if not self.final_jpeg_last:
            x = jpeg(rounded(x), self.final_jpeg_quality).astype(np.float32)
        quarter = height // _BSR_FACTOR, width // _BSR_FACTOR
        x = resize_floats(x, *quarter, self.final_resample)
        if self.final_sinc is not None:
            x = filter_image(x, self.final_sinc)
        low = rounded(x)
        return jpeg(low, self.final_jpeg_quality) if self.final_jpeg_last else low


def _draw_scale(rng: np.random.Generator) -> float:
    which = rng.choice(3, p=_RESIZE_PROBABILITIES)
    if which == 0:
        return rng.uniform(1, _RESIZE_RANGE[1])
    return rng.uniform(_RESIZE_RANGE[0], 1) if which == 1 else 1.0


def _draw_blur(rng: np.random.Generator) -> NDArray[np.float64]:
    side = _KERNEL_SIDES[rng.integers(len(_KERNEL_SIDES))]
    if rng.random() < _SINC_PROBABILITY:
        least = math.pi / 3 if side < 13 else math.pi / 5
        return sinc_kernel(rng.uniform(least, math.pi), side)
    kind = str(rng.choice(list(_KERNEL_KINDS), p=list(_KERNEL_KINDS.values())))
    sigma_x = rng.uniform(0.2, 3)
    sigma_y, angle = sigma_x, 0.0
    if kind.endswith("aniso"):
        sigma_y, angle = rng.uniform(0.2, 3), rng.uniform(-math.pi, math.pi)
    distance = squared_distance(sigma_x, sigma_y, angle, side)
    if kind.startswith("generalized"):
        kernel = np.exp(-0.5 * distance ** _draw_shape(rng, 0.5, 4))
    elif kind.startswith("plateau"):
        kernel = 1 / (distance ** _draw_shape(rng, 1, 2) + 1)
    else:
        kernel = np.exp(-0.5 * distance)
    normalized: NDArray[np.float64] = kernel / kernel.sum()
    return normalized


def _draw_shape(rng: np.random.Generator, low: float, high: float) -> float:
    """Exponent of a kernel's fall-off: below 1 or above 1, equally likely."""
    return rng.uniform(low, 1) if rng.random() < 0.5 else rng.uniform(1, high)


def _draw_final_sinc(rng: np.random.Generator) -> NDArray[np.float64] | None:
    if rng.random() >= _FINAL_SINC_PROBABILITY:
        return None
    side = _KERNEL_SIDES[rng.integers(len(_KERNEL_SIDES))]
    return sinc_kernel(rng.uniform(math.pi / 3, math.pi), side)


def _check_image(image: Any, multiple: int) -> None:
    if not isinstance(image, np.ndarray):
        raise ImageError(f"the image is a {type(image).__name__}, expected a NumPy array")
    if image.dtype != np.uint8:
        raise ImageError(f"the image has values of type {image.dtype}, expected uint8")
    if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ImageError(f"the image has shape {image.shape}, expected (H, W, 3) RGB")
    height, width = image.shape[:2]
    if height % multiple or width % multiple:
        raise ImageError(
            f"the image is {width}x{height}, expected sides that are multiples of {multiple}: "
            "crop it first"
        )
