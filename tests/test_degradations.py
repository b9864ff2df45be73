"""Each degradation does what its numbers say, and the same every time."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from PIL import Image

from elir_deploy import degradation_steps
from elir_deploy.degradations import (
    BlindDegradation,
    FaceDegradation,
    RealWorldDegradation,
    degrade,
    enlarge,
    gaussian_taps,
    sinc_kernel,
)
from elir_deploy.errors import ImageError, UsageError
from elir_deploy.pixels import psnr_db
from elir_deploy.runtime.photos import sample_photos
from elir_deploy.tasks import TASKS

MILD_FACE = FaceDegradation(blur_sigma=0.1, scale=1.0, noise_sigma=0.0, jpeg_quality=100)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def grey(side: int, value: int = 128) -> np.ndarray:
    return np.full((side, side, 3), value, np.uint8)


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return sample_photos(128, faces=True)["astronaut"]


@pytest.fixture(scope="module")
def real_world_draws() -> list[RealWorldDegradation]:
    generator = rng(1)
    return [RealWorldDegradation.draw(generator) for _ in range(3000)]


@pytest.mark.parametrize("task", TASKS)
def test_equal_seeds_give_equal_images(task, photo):
    before = photo.copy()
    first, second, other = (degrade(task, photo, rng(seed)) for seed in (3, 3, 4))
    assert np.array_equal(first, second)
    assert not np.array_equal(first, other)
    assert np.array_equal(photo, before), "the image handed over is left alone"


@pytest.mark.parametrize("task", TASKS)
def test_sizes(task, photo):
    low = degrade(task, photo, rng())
    side = 128 // TASKS[task].upscale
    assert (low.shape, low.dtype) == ((side, side, 3), np.uint8)
    assert low.flags.writeable
    assert low.flags.c_contiguous
    large = enlarge(task, low)
    assert (large.shape, large.dtype) == (photo.shape, np.uint8)


@pytest.mark.parametrize("task", TASKS)
def test_images_need_not_be_square(task):
    image = rng().integers(0, 256, (64, 96, 3), np.uint8)
    assert enlarge(task, degrade(task, image, rng())).shape == image.shape


def test_enlarging_is_pillows():
    low = rng().integers(0, 256, (16, 24, 3), np.uint8)
    picture = Image.fromarray(low)
    assert np.array_equal(
        enlarge("sr", low), np.asarray(picture.resize((192, 128), Image.Resampling.NEAREST))
    )
    assert np.array_equal(
        enlarge("bsr", low), np.asarray(picture.resize((96, 64), Image.Resampling.BICUBIC))
    )


def test_images_that_cannot_be_degraded():
    with pytest.raises(ImageError, match="float32, expected uint8"):
        degrade("tiny", np.zeros((8, 8, 3), np.float32), rng())
    with pytest.raises(ImageError, match=r"shape \(8, 8\), expected \(H, W, 3\)"):
        degrade("tiny", np.zeros((8, 8), np.uint8), rng())
    with pytest.raises(ImageError, match="expected a NumPy array"):
        enlarge("sr", [[0]])
    with pytest.raises(ImageError, match="12x16, expected sides that are multiples of 8"):
        degrade("sr", np.zeros((16, 12, 3), np.uint8), rng())
    with pytest.raises(UsageError, match="unknown task 'deblur'"):
        degrade("deblur", grey(8), rng())


# Noise ----------------------------------------------------------------------------------------


def test_denoising_adds_noise_of_89_6_clipped_to_8_bits():
    noisy = degrade("denoise", grey(256, 128), rng()).astype(float)
    # Within the range nothing is clipped; of a normal variable with deviation 89.6 around 128,
    # 15.5 % lies on one side of [0, 255] or the other.
    inside = noisy[(noisy > 0) & (noisy < 255)]
    assert abs(np.mean((noisy == 0) | (noisy == 255)) - 0.155) < 0.005
    # The deviation of a normal variable cut off at +-1.42 sigma is 0.714 sigma.
    assert inside.std() == pytest.approx(0.714 * 89.6, rel=0.01)
    # Independent between channels and pixels.
    assert abs(np.corrcoef(noisy[:, :, 0].ravel(), noisy[:, :, 1].ravel())[0, 1]) < 0.02
    assert abs(np.corrcoef(noisy[:, :-1].ravel(), noisy[:, 1:].ravel())[0, 1]) < 0.02


def test_super_resolution_adds_noise_of_12_8_after_shrinking():
    low = degrade("sr", grey(1024), rng()).astype(float)
    assert low.std() == pytest.approx(12.8, rel=0.02)
    assert low.mean() == pytest.approx(128, abs=0.5)


def test_inpainting_masks_nine_pixels_in_ten_and_adds_noise_to_all():
    degraded = degrade("inpaint", grey(256, 128), rng()).astype(float)
    kept = degraded.mean(axis=2) > 80  # noise of 25.6 in three channels never carries that far
    assert kept.mean() == pytest.approx(0.1, abs=1e-3)
    assert degraded[kept].std() == pytest.approx(25.6, rel=0.02)
    # Noise around 0, its negative half clipped: half are 0, the mean is sigma / sqrt(2 pi).
    assert np.mean(degraded[~kept] == 0) == pytest.approx(0.5, abs=0.02)
    assert degraded[~kept].mean() == pytest.approx(25.6 / np.sqrt(2 * np.pi), rel=0.02)


def test_poisson_noise_grows_with_brightness_and_can_be_grey():
    ramp = np.broadcast_to(np.arange(256, dtype=np.float32)[None, :, None], (256, 256, 3))
    for is_grey in (False, True):
        noise = degradation_steps.add_poisson_noise(ramp, 1.0, rng(), grey=is_grey) - ramp
        assert not noise[:, 0].any()
        # 256 levels: a level is about one photon, and the variance is the brightness.
        assert noise[:, 100:110].std() == pytest.approx(np.sqrt(105), rel=0.05)
        assert np.array_equal(noise[..., 0], noise[..., 1]) is is_grey
        doubled = degradation_steps.add_poisson_noise(ramp, 2.0, rng(), grey=is_grey) - ramp
        np.testing.assert_allclose(doubled, 2 * noise, atol=1e-3)


# Blind face restoration -----------------------------------------------------------------------


def test_draws_of_the_face_degradation():
    generator = rng()
    draws = [FaceDegradation.draw(generator) for _ in range(2000)]
    ranges = {
        "blur_sigma": (0.1, 15),
        "scale": (1 / 32, 1.2),
        "noise_sigma": (0, 20),
        "jpeg_quality": (30, 100),
    }
    for name, (low, high) in ranges.items():
        values = np.array([getattr(draw, name) for draw in draws])
        assert low <= values.min() < low + 0.01 * (high - low) + 0.1
        assert high - 0.01 * (high - low) - 0.1 < values.max() <= high
        assert values.mean() == pytest.approx((low + high) / 2, rel=0.03)


def test_the_mildest_face_degradation_leaves_the_image_nearly_alone(photo):
    assert psnr_db(MILD_FACE.apply(photo, rng()), photo) > 38


@pytest.mark.parametrize("sigma", [2.0, 5.0])
def test_width_of_the_face_blur(sigma):
    image = grey(129, 0)
    blur = dataclasses.replace(MILD_FACE, blur_sigma=sigma)
    # The slope of a blurred edge has the Gaussian's deviation.
    image[:, 64:] = 255
    slope = np.diff(blur.apply(image, rng())[64, :, 1].astype(float))
    positions = np.arange(len(slope)) + 0.5
    centre = (slope * positions).sum() / slope.sum()
    width = np.sqrt((slope * (positions - centre) ** 2).sum() / slope.sum())
    assert width == pytest.approx(sigma, rel=0.05)
    assert centre == pytest.approx(63.5, abs=0.1)


def test_every_face_parameter_costs_quality(photo):
    for change in (
        {"blur_sigma": 4.0},
        {"scale": 1 / 16},
        {"noise_sigma": 20.0},
        {"jpeg_quality": 30},
    ):
        worse = dataclasses.replace(MILD_FACE, **change).apply(photo, rng())
        assert psnr_db(worse, photo) < psnr_db(MILD_FACE.apply(photo, rng()), photo) - 4, change


def test_face_noise_is_of_the_stated_deviation():
    noisy = dataclasses.replace(MILD_FACE, noise_sigma=15.0).apply(grey(256), rng())
    # JPEG at quality 100 halves the chroma's resolution, so only the luma keeps all of it.
    luma = noisy @ np.array([0.299, 0.587, 0.114])
    assert luma.std() == pytest.approx(15 * np.sqrt(0.299**2 + 0.587**2 + 0.114**2), rel=0.05)


def test_jpeg_leaves_blocks_of_eight(photo):
    compressed = degradation_steps.jpeg(photo, 10).astype(float)
    steps = np.abs(np.diff(compressed.mean(axis=2), axis=1)).mean(axis=0)
    at_edges = steps[7::8].mean()
    assert at_edges > 1.3 * np.delete(steps, np.s_[7::8]).mean()


# Blind restoration ----------------------------------------------------------------------------


def test_draws_of_the_blind_degradation():
    generator = rng()
    draws = [BlindDegradation.draw(generator) for _ in range(4000)]
    noises = np.array([draw.noise_sigma for draw in draws])
    assert np.mean(noises == 0) == pytest.approx(0.15, abs=0.02)
    assert 89 < noises.max() <= 90
    assert np.median(noises[noises > 0]) == pytest.approx(90 * 0.5**1.5, rel=0.05)
    blurs = np.array([draw.blur_sigma for draw in draws if draw.blur_sigma])
    assert len(blurs) / len(draws) == pytest.approx(0.15, abs=0.02)
    assert 0.3 <= blurs.min() < blurs.max() <= 1.2
    qualities = [draw.jpeg_quality for draw in draws if draw.jpeg_quality is not None]
    assert len(qualities) / len(draws) == pytest.approx(0.2, abs=0.02)
    assert set(qualities) == set(range(30, 96))
    untouched = np.mean([draw == UNTOUCHED for draw in draws])
    assert untouched == pytest.approx(0.15 * 0.85 * 0.8, abs=0.02)


UNTOUCHED = BlindDegradation(blur_sigma=0.0, noise_sigma=0.0, jpeg_quality=None)


def test_a_blind_degradation_may_leave_the_image_alone(photo):
    assert np.array_equal(UNTOUCHED.apply(photo, rng()), photo)


def test_blind_noise_is_of_the_stated_deviation_clipped_to_8_bits():
    noisy = dataclasses.replace(UNTOUCHED, noise_sigma=20.0).apply(grey(256), rng())
    assert noisy.std() == pytest.approx(20, rel=0.01)
    dark = dataclasses.replace(UNTOUCHED, noise_sigma=20.0).apply(grey(256, 0), rng())
    assert dark.mean() == pytest.approx(20 / np.sqrt(2 * np.pi), rel=0.02)


def test_every_blind_parameter_costs_quality_and_keeps_the_brightness(photo):
    for change in ({"blur_sigma": 1.2}, {"noise_sigma": 15.0}, {"jpeg_quality": 30}):
        worse = dataclasses.replace(UNTOUCHED, **change).apply(photo, rng())
        assert psnr_db(worse, photo) < 35, change
        assert worse.mean() == pytest.approx(photo.mean(), abs=1), change


# Blind super-resolution -----------------------------------------------------------------------


def test_draws_of_the_real_world_degradation(real_world_draws):
    draws = real_world_draws
    scales = np.array([draw.scale for draw in draws])
    assert 0.15 <= scales.min() < 0.17
    assert 1.48 < scales.max() <= 1.5
    assert np.mean(scales > 1) == pytest.approx(0.2, abs=0.03)
    assert np.mean(scales < 1) == pytest.approx(0.7, abs=0.03)
    gaussian = [draw for draw in draws if draw.noise == "gaussian"]
    poisson = [draw for draw in draws if draw.noise == "poisson"]
    assert len(gaussian) / len(draws) == pytest.approx(0.5, abs=0.03)
    assert all(1 <= draw.noise_level <= 30 for draw in gaussian)
    assert all(0.05 <= draw.noise_level <= 3 for draw in poisson)
    assert np.mean([draw.grey_noise for draw in draws]) == pytest.approx(0.4, abs=0.03)
    assert np.mean([draw.final_jpeg_last for draw in draws]) == pytest.approx(0.5, abs=0.03)
    sharp = np.mean([draw.final_sinc is None for draw in draws])
    assert sharp == pytest.approx(0.2, abs=0.03)
    for name in ("jpeg_quality", "final_jpeg_quality"):
        assert {getattr(draw, name) for draw in draws} == set(range(30, 96))
    for name in ("resample", "final_resample"):
        seen = [getattr(draw, name) for draw in draws]
        for resample in ("area", "bilinear", "bicubic"):
            assert seen.count(resample) / len(seen) == pytest.approx(1 / 3, abs=0.03)


def test_kernels_are_normalized_odd_and_symmetric(real_world_draws):
    kernels = [draw.blur for draw in real_world_draws]
    kernels += [draw.final_sinc for draw in real_world_draws if draw.final_sinc is not None]
    assert {kernel.shape[0] for kernel in kernels} == set(range(7, 22, 2))
    for kernel in kernels:
        assert kernel.shape == (kernel.shape[0], kernel.shape[0])
        assert kernel.sum() == pytest.approx(1)
        np.testing.assert_allclose(kernel, kernel[::-1, ::-1], atol=1e-12)
    # One in ten blurs is a sinc, and only those have negative lobes.
    ringing = np.mean([(draw.blur < 0).any() for draw in real_world_draws])
    assert ringing == pytest.approx(0.1, abs=0.02)


def test_a_flat_image_stays_flat_without_noise(real_world_draws):
    for draw in real_world_draws[:20]:
        quiet = dataclasses.replace(draw, noise="gaussian", noise_level=0.0)
        assert np.abs(quiet.apply(grey(64), rng()).astype(int) - 128).max() <= 1


def test_gaussian_taps():
    taps = gaussian_taps(3.0, 41)
    offsets = np.arange(41) - 20
    assert taps.sum() == pytest.approx(1)
    assert np.sqrt((taps * offsets**2).sum()) == pytest.approx(3.0, rel=1e-3)
    narrow = gaussian_taps(0.1, 41)
    assert narrow[20] == pytest.approx(1)


def test_a_sinc_passes_low_frequencies_and_stops_high_ones():
    response = np.abs(np.fft.rfft(sinc_kernel(np.pi / 2, 21).sum(axis=0), 256))
    assert response[:40] == pytest.approx(1, abs=0.15)
    assert response[96:].max() < 0.15


def test_bessel_function_against_its_power_series():
    x = np.linspace(0, 8, 50)
    term, series = x / 2, x / 2
    for k in range(1, 40):
        term = term * -((x / 2) ** 2) / (k * (k + 1))
        series = series + term
    np.testing.assert_allclose(degradation_steps._bessel_j1(x), series, atol=1e-12)
    # Zeros from tables, and far out, where a 21 x 21 kernel needs it, the asymptote.
    zeros = np.array([3.8317059702, 7.0155866698, 10.1734681351])
    np.testing.assert_allclose(degradation_steps._bessel_j1(zeros), 0, atol=1e-9)
    far = np.array([40.0, 44.4])
    asymptotic = np.sqrt(2 / (np.pi * far)) * np.cos(far - 0.75 * np.pi)
    np.testing.assert_allclose(degradation_steps._bessel_j1(far), asymptotic, atol=2e-3)


def test_filtering_mirrors_the_edges():
    image = rng().random((5, 6, 3), np.float32)
    kernel = np.zeros((3, 3))
    kernel[1, 0] = kernel[1, 2] = 0.5
    filtered = degradation_steps.filter_image(image, kernel)
    np.testing.assert_allclose(filtered[:, 0], image[:, 1], atol=1e-6)
    np.testing.assert_allclose(filtered[:, 2], (image[:, 1] + image[:, 3]) / 2, atol=1e-6)


@pytest.mark.parametrize("resample", ["area", "bilinear", "bicubic"])
def test_resizing_keeps_place_and_brightness(resample):
    ramp = np.broadcast_to(np.arange(64, dtype=np.float32)[None, :, None], (64, 64, 3))
    small = degradation_steps.resize_floats(ramp, 16, 16, resample)
    # The centre of small pixel i is at 4 i + 1.5.
    np.testing.assert_allclose(small[5, 2:-2, 0], 4 * np.arange(2, 14) + 1.5, atol=1e-4)
