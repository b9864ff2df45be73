"""The noise of the flow as a pure function of seed, channel and position in the picture's latent.

Overlapping tiles of a picture therefore get the same noise, and no pattern repeats. Everything is
integer arithmetic but for one multiplication in float32, so the bytes are the same on every
processor and in both languages:

1. Philox4x64-10 (Salmon et al., 2011) with the key ``(seed, 0)`` and the counter ``(x, y, b, 0)``
   gives four 64-bit words. Their 16-bit parts, from the lowest of the first word on, belong to
   channels ``16 * b`` to ``16 * b + 15`` of the latent pixel ``(x, y)``.
2. A part ``k`` stands for the normal quantile of ``(k + 1/2) / 65536`` in units of 1/4096, rounded
   to an integer. None is closer than 1e-5 to a tie, so every mathematical library rounds alike.
3. The noise is that integer times ``float32(sigma_s) / 4096``, in float32.
"""

from __future__ import annotations

import functools
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from elir_deploy.errors import UsageError

__all__ = ["FIELD_GENERATOR", "NoiseField", "check_noise"]

#: Name of this function in the manifest.
FIELD_GENERATOR = "philox4x64-10, 16-bit normal quantiles"
_CHANNELS_PER_BLOCK = 16
_UNIT = 1 / 4096
_MAX_SEED = 2**32 - 1
_MAX_SIGMA = float(np.finfo(np.float32).max)


def check_noise(seed: int, sigma_s: float) -> None:
    """Check that a field can have this seed and standard deviation.

    Raises:
        UsageError: one is out of range.
    """
    if not 0 <= seed <= _MAX_SEED:
        raise UsageError(f"the seed of the noise is {seed}, expected 0 to {_MAX_SEED}")
    if not 0 <= sigma_s <= _MAX_SIGMA:
        raise UsageError(f"sigma_s is {sigma_s:g}, expected a number >= 0 that fits float32")


class NoiseField:
    """The noise of one picture.

    Args:
        seed: 0 to 2**32 - 1.
        sigma_s: standard deviation (paper, Algorithm 1).

    Raises:
        UsageError: one is out of range.
    """

    def __init__(self, seed: int, sigma_s: float) -> None:
        check_noise(seed, sigma_s)
        self.seed = seed
        self.sigma_s = sigma_s
        self._values = _quantiles() * (np.float32(sigma_s) * np.float32(_UNIT))

    def fill(self, out: NDArray[np.float32], top: int, left: int) -> None:
        """Fill (c, h, w) from row ``top`` and column ``left`` of the picture's latent on."""
        channels, height, width = out.shape
        words = np.empty((height, 4 * width), np.uint64)
        for first in range(0, channels, _CHANNELS_PER_BLOCK):
            block = first // _CHANNELS_PER_BLOCK
            # NumPy increments the counter before it generates.
            counter = (block << 128) + (top << 64) + left - 1
            philox = np.random.Philox(key=[self.seed, 0], counter=counter % (1 << 256))
            for row in words:
                row[:] = philox.random_raw(row.size)
                philox.advance((1 << 64) - width)
            parts = words.astype("<u8", copy=False).view("<u2")
            parts = parts.reshape(height, width, _CHANNELS_PER_BLOCK)
            group = out[first : first + _CHANNELS_PER_BLOCK]
            group[...] = self._values[parts[:, :, : len(group)]].transpose(2, 0, 1)


@functools.cache
def _quantiles() -> NDArray[np.float32]:
    """The 65,536 normal quantiles in units of 1/4096; antisymmetric."""
    normal = NormalDist()
    upper = [round(normal.inv_cdf((k + 0.5) / 65536) / _UNIT) for k in range(32768, 65536)]
    half = np.array(upper, np.float32)
    return np.concatenate([-half[::-1], half])
