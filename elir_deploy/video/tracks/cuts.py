"""Where a film cuts from one scene to another."""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["Cuts"]

#: Longer side of what is compared: means of squares, in which noise and small motion vanish.
_SIDE = 32
#: Mean difference, in levels, from which there may be a cut.
_LEVELS = 12.0
#: Mean difference of the sorted values, in levels: what motion within a picture leaves as it is.
_TONES = 3.0
#: And by how much it is above what is usual in this scene, as in pans.
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
        difference = float(np.abs(small - before).mean())
        tones = float(np.abs(_sorted(small) - _sorted(before)).mean())
        usual = float(np.median(self._usual)) if self._usual else 0.0
        if tones > _TONES and difference > max(_LEVELS, _ABOVE_USUAL * usual):
            self._usual.clear()
            return True
        self._usual.append(difference)
        return False


def _sorted(picture: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n, 3): each channel's values in ascending order."""
    return np.sort(picture.reshape(-1, 3), axis=0)
