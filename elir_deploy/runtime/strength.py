"""How much of a restoration is kept: a mix of a picture and its restoration, in integers.

A strength from 0 to 1 is rounded to ``w = floor(256 * strength + 1/2)``, in 1/256. Every value then
becomes ``(before * (256 - w) + after * w + 128) >> 8``: exactly ``before`` at 0, exactly ``after``
at 1, and in between never farther from ``after`` at a higher strength.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elir_deploy.errors import UsageError
from elir_deploy.runtime.resampling import EnlargedPicture, bands

__all__ = ["blend", "mix_into", "rounded_strength"]

_FULL = 256


def rounded_strength(strength: float) -> float:
    """The nearest multiple of 1/256.

    Raises:
        UsageError: it is no number from 0 to 1.
    """
    return _weight(strength) / _FULL


def blend(before: NDArray[Any], after: NDArray[Any], strength: float) -> NDArray[Any]:
    """A picture between ``before`` and ``after``.

    Args:
        before, after: uint8 or uint16, both of the same type and shape.
        strength: 0 for ``before``, 1 for ``after``.

    Returns:
        A new array.

    Raises:
        UsageError: the strength is no number from 0 to 1.
    """
    return _mixed(before, after, _weight(strength))


def mix_into(picture: EnlargedPicture, restored: NDArray[Any], strength: float) -> None:
    """:func:`blend` of the picture and ``restored``, which is as large, into ``restored``.

    At 0 its values are not read. Needs a few megabytes besides.
    """
    weight = _weight(strength)
    if weight == _FULL:
        return
    for top, rows in bands(*restored.shape[:2]):
        before = picture.block(top, 0, rows, restored.shape[1])
        place = restored[top : top + rows]
        place[...] = _mixed(before, place, weight) if weight else before


def _weight(strength: float) -> int:
    if not isinstance(strength, int | float | np.number):
        raise UsageError(f"strength is {strength!r}, expected a number from 0 to 1")
    if not 0 <= strength <= 1:  # nor is NaN
        raise UsageError(f"strength is {strength:g}, expected 0 to 1")
    return math.floor(_FULL * strength + 0.5)


def _mixed(before: NDArray[Any], after: NDArray[Any], weight: int) -> NDArray[Any]:
    # 255 * 256 + 128 fits 16 bits, 65535 * 256 + 128 fits 32.
    wide = np.uint16 if after.dtype == np.uint8 else np.uint32
    mixed = before.astype(wide)
    mixed *= wide(_FULL - weight)
    mixed += after * wide(weight)
    mixed += wide(_FULL // 2)
    mixed >>= wide(8)
    return mixed.astype(after.dtype)
