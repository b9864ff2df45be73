"""Smoothing over time without lag: a weighted fit over pictures before and after.

Around each picture, a line is fitted to what was seen, least squares with tricube weights. As the
window is symmetric, or the fit extends to its end, something in uniform motion comes out where it
is. Where a line leaves more than jitter, a parabola takes its place by degrees.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["WINDOW", "smoothed"]

#: Pictures on each side of one that count for it.
WINDOW = 9
#: Root mean square of what a line leaves, over the distance of the eyes: jitter up to the first,
#: motion from the second on.
_JITTER, _MOTION = 0.03, 0.06


def smoothed(
    numbers: NDArray[np.int64], values: NDArray[np.float64], number: int
) -> NDArray[np.float64]:
    """Where a face is in a picture.

    Args:
        numbers: (n,) of the pictures in which it was seen, ascending.
        values: (n, 14) what was seen: x and y of five landmarks, eyes first, and its box.
        number: of the picture.

    Returns:
        (14,).
    """
    times = (numbers - number) / (WINDOW + 1)
    near = np.abs(times) < 1
    if near.sum() < 2:  # a gap: from one to the next
        after = int(np.clip(np.searchsorted(numbers, number), 1, max(1, len(numbers) - 1)))
        near = np.zeros(len(numbers), bool)
        near[after - 1 : after + 1] = True
        times = times / max(1.0, 1.01 * float(np.abs(times[near]).max()))
    times, seen = times[near], values[near]
    weights = (1 - np.abs(times) ** 3) ** 3
    line, left = _fit(times, seen, weights, 1)
    if len(times) < 4:
        return line
    eyes = seen[:, 2:4] - seen[:, 0:2]
    relative = left / max(float(np.sqrt((eyes**2).sum(axis=1)).mean()), 1e-3)
    share = float(np.clip((relative - _JITTER) / (_MOTION - _JITTER), 0, 1))
    if not share:
        return line
    parabola, _ = _fit(times, seen, weights, 2)
    return (1 - share) * line + share * parabola


def _fit(
    times: NDArray[np.float64], seen: NDArray[np.float64], weights: NDArray[np.float64], degree: int
) -> tuple[NDArray[np.float64], float]:
    """The fit at time 0, and the root mean square in pixels of what it leaves of landmarks."""
    powers = np.vander(times, min(degree, len(times) - 1) + 1, increasing=True)
    root = np.sqrt(weights)[:, None]
    coefficients = np.linalg.lstsq(root * powers, root * seen, rcond=None)[0]
    rest = (seen - powers @ coefficients)[:, :10]
    squares = (rest**2).reshape(len(times), 5, 2).sum(axis=2).mean(axis=1)
    return coefficients[0], float(np.sqrt(np.average(squares, weights=weights)))
