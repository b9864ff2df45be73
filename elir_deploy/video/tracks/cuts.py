"""Where a film cuts from one scene to another."""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from PIL import Image

__all__ = ["Cuts"]

#: Longer side of what is compared: means of squares, in which noise and small motion vanish.
_SIDE = 32
#: Mean difference, in levels, from which there may be a cut.
_LEVELS = 9.0
#: What motion does not explain of it, in levels, times its share of the whole.
_UNEXPLAINED = 7.0
#: Side of a block, and how far away its match may be, in pixels.
_BLOCK = 8
_NEARBY = 8
#: By how much light may change within a scene from one picture to the next.
_LIGHT = 1.5
#: By how much the first difference is above what is usual in this scene, as in pans.
_ABOVE_USUAL = 3.0
_USUAL_OF = 8


class Cuts:
    """Tells scenes apart by their pictures, which are shown to it in order."""

    def __init__(self) -> None:
        self._before: NDArray[np.float32] | None = None
        self._usual: deque[float] = deque(maxlen=_USUAL_OF)

    def __call__(self, picture: NDArray[np.uint8]) -> bool:
        """Whether a picture, (H, W, 3) uint8, begins another scene than the one before."""
        factor = max(1, max(picture.shape[:2]) // _SIDE)
        small = np.asarray(Image.fromarray(picture).reduce(factor), np.float32)
        before, self._before = self._before, small
        if before is None:
            return False
        gain = np.clip(before.mean() / max(1, small.mean()), 1 / _LIGHT, _LIGHT)
        lights = small, gain * small
        difference = min(float(np.abs(lit - before).mean()) for lit in lights)
        usual = float(np.median(self._usual)) if self._usual else 0.0
        if difference > max(_LEVELS, _ABOVE_USUAL * usual):
            unlike = min(_unlike(before, lit) for lit in lights)
            if unlike * unlike / difference > _UNEXPLAINED:
                self._usual.clear()
                return True
        self._usual.append(difference)
        return False


def _unlike(before: NDArray[np.float32], now: NDArray[np.float32]) -> float:
    """Mean difference, in levels, between blocks and their best matches in the previous picture."""
    height, width = now.shape[:2]
    side = min(_BLOCK, height, width)
    margins = (_NEARBY, _NEARBY), (_NEARBY, _NEARBY), (0, 0)
    windows = sliding_window_view(np.pad(before, margins, mode="edge"), (side, side), (0, 1))
    least = []
    for top in range(0, height - side + 1, side):
        for left in range(0, width - side + 1, side):
            block = np.moveaxis(now[top : top + side, left : left + side], 2, 0)
            places = windows[top : top + 2 * _NEARBY + 1, left : left + 2 * _NEARBY + 1]
            least.append(np.abs(places - block).mean(axis=(2, 3, 4)).min())
    return float(np.mean(least))
