"""Pictures by a formula, and digests."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]


def pattern(height: int, width: int, seed: int) -> Pixels:
    """The test picture of a seed; the same as ``pattern`` in C++."""
    y, x, c = np.ogrid[:height, :width, :3]
    value = (y * 2654435761 + x * 40503 + c * 97 + seed * 7919 + (x * y) * 31).astype(np.uint64)
    mixed = (value ^ (value >> np.uint64(7))) * np.uint64(0x9E3779B1)
    return ((mixed >> np.uint64(16)) & np.uint64(255)).astype(np.uint8)


def digest(values: NDArray[Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()
