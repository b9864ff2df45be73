"""The noise of a picture: a pure function of seed, channel and position."""

import hashlib
import math

import numpy as np
import pytest

from elir_deploy.errors import UsageError
from elir_deploy.runtime.noise import NoiseField, _quantiles


def noise(seed, top, left, shape, sigma_s=1.0):
    out = np.empty(shape, np.float32)
    NoiseField(seed, sigma_s).fill(out, top, left)
    return out


def philox(counter, key):
    """Philox4x64-10 as published (Salmon et al., 2011), in Python's integers."""
    mask = (1 << 64) - 1
    a, b, c, d = counter
    k0, k1 = key
    for _ in range(10):
        p, q = 0xD2E7470EE14C6C93 * a, 0xCA5A826395121157 * c
        a, b, c, d = (q >> 64) ^ b ^ k0, q & mask, (p >> 64) ^ d ^ k1, p & mask
        k0, k1 = (k0 + 0x9E3779B97F4A7C15) & mask, (k1 + 0xBB67AE8584CAA73B) & mask
    return a, b, c, d


@pytest.mark.parametrize(
    ("y", "x", "channel"), [(0, 0, 0), (0, 0, 15), (0, 3, 17), (2, 0, 33), (5, 7, 8)]
)
def test_follows_the_published_generator(y, x, channel):
    words = philox((x, y, channel // 16, 0), (12345, 0))
    part = words[channel % 16 // 4] >> 16 * (channel % 4) & 0xFFFF
    expected = _quantiles()[part] * np.float32(0.3 / 4096)
    assert noise(12345, 0, 0, (34, 6, 8), 0.3)[channel, y, x] == expected


@pytest.mark.parametrize(("top", "left"), [(0, 0), (0, 5), (3, 0), (7, 11)])
def test_tiles_agree_where_they_overlap(top, left):
    whole = noise(1, 0, 0, (20, 24, 24))
    assert np.array_equal(noise(1, top, left, (20, 12, 12)), whole[:, top:, left:][:, :12, :12])


def test_is_normal_over_a_million_values():
    values = np.sort(noise(0, 0, 0, (16, 256, 256)).ravel().astype(np.float64))
    count = values.size
    cdf = 0.5 * np.vectorize(math.erfc)(-values / math.sqrt(2))
    steps = np.arange(count + 1) / count
    distance = max((steps[1:] - cdf).max(), (cdf - steps[:-1]).max())
    assert distance * math.sqrt(count) < 1.63  # Kolmogorov-Smirnov at 1 %
    assert abs(values.mean()) < 3 / math.sqrt(count)
    assert abs(values.var() - 1) < 3 * math.sqrt(2 / count)
    assert abs((values**4).mean() - 3) < 3 * math.sqrt(96 / count)


def test_positions_channels_and_seeds_are_independent():
    first = noise(0, 0, 0, (16, 256, 256))
    bound = 4 / math.sqrt(first.size)
    others = [noise(seed, 0, 0, first.shape) for seed in (1, 2**16, 2**32 - 1)]
    others += [np.roll(first, shift, axis) for axis in range(3) for shift in (1, 2)]
    for other in others:
        assert abs(np.corrcoef(first.ravel(), other.ravel())[0, 1]) < bound


def test_golden_bytes():
    assert hashlib.sha256(_quantiles().astype("<i2").tobytes()).hexdigest() == QUANTILES
    values = noise(4294967295, 4095, 65535, (32, 16, 16), 0.1)
    assert hashlib.sha256(values.astype("<f4").tobytes()).hexdigest() == VALUES


@pytest.mark.parametrize(
    ("seed", "sigma_s"),
    [(-1, 0.1), (2**32, 0.1), (0, -0.1), (0, math.nan), (0, math.inf), (0, 1e39)],
)
def test_values_out_of_range_are_refused(seed, sigma_s):
    with pytest.raises(UsageError, match=r"expected"):
        NoiseField(seed, sigma_s)


QUANTILES = "1ea009ce409dac97d6bd609266910f809c5fb912f78e16bd89145b08174d6fc5"
VALUES = "37413e7e274ac3432c0f150e1dc8e87f543ac5f11347e191f66cb99e08e74253"
