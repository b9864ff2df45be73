"""Smoothing over time without lag: a weighted fit over pictures before and after.

Around each picture, a line is fitted to what was seen, least squares with tricube weights. As the
window is symmetric, or the fit extends to its end, something in uniform motion comes out where it
is. A slope that jitter alone could have is taken for less, or for none: at the ends of a track it
would be most of what is left of the jitter. Where a line leaves more than jitter, a parabola over a
shorter time takes its place by degrees.
What is given has been carried into the picture by the motion that pictures show, where they show
it: then little but jitter is left.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["WINDOW", "smoothed"]

#: Pictures on each side of one that count for a line, and for a parabola.
WINDOW, _NARROW = 15, 7
#: Root mean square of what a line leaves, over the distance of the eyes: jitter up to the first,
#: motion from the second on.
_JITTER, _MOTION = 0.06, 0.10
#: The same of smaller faces, of which jitter is a larger share: as if the eyes were so far apart.
_EYES = 25.0
#: Variance that a slope explains, over what jitter would: below this, it is taken for none.
_SLOPE = 3.0


def smoothed(
    numbers: NDArray[np.int64], values: NDArray[np.float64], number: int
) -> NDArray[np.float64]:
    """Where a face is in a picture.

    Args:
        numbers: (n,) of the pictures in which it was seen, ascending.
        values: (n, 14) what was seen, carried into the picture: x and y of five landmarks, eyes
            first, and its box.
        number: of the picture.

    Returns:
        (14,).
    """
    times = (numbers - number).astype(np.float64)
    line, left = _fit(times, values, WINDOW, 1)
    eyes = values[:, 2:4] - values[:, 0:2]
    apart = max(_EYES, float(np.sqrt((eyes**2).sum(axis=1)).mean()))
    share = float(np.clip((left / apart - _JITTER) / (_MOTION - _JITTER), 0, 1))
    if not share:
        return line
    parabola, _ = _fit(times, values, _NARROW, 2)
    return (1 - share) * line + share * parabola


def _fit(
    times: NDArray[np.float64], seen: NDArray[np.float64], window: int, degree: int
) -> tuple[NDArray[np.float64], float]:
    """The fit at time 0, and the root mean square in pixels of what it leaves of landmarks."""
    times = times / (window + 1)
    near = np.abs(times) < 1
    if near.sum() < 2:  # a gap: from one to the next
        after = int(np.clip(np.searchsorted(times, 0), 1, max(1, len(times) - 1)))
        near = np.zeros(len(times), bool)
        near[after - 1 : after + 1] = True
        times = times / max(1.0, 1.01 * float(np.abs(times[near]).max()))
    times, seen = times[near], seen[near]
    weights = (1 - np.abs(times) ** 3) ** 3
    powers = np.vander(times, min(degree, len(times) - 1) + 1, increasing=True)
    root = np.sqrt(weights)[:, None]
    coefficients = np.linalg.lstsq(root * powers, root * seen, rcond=None)[0]
    if powers.shape[1] == 2:
        coefficients = _shrunk(coefficients, weights, times, seen)
    rest = (seen - powers @ coefficients)[:, :10]
    squares = (rest**2).reshape(len(times), 5, 2).sum(axis=2).mean(axis=1)
    return coefficients[0], float(np.sqrt(np.average(squares, weights=weights)))


def _shrunk(
    line: NDArray[np.float64],
    weights: NDArray[np.float64],
    times: NDArray[np.float64],
    seen: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Between a weighted mean and a line, by what the slope explains (F test, James and Stein)."""
    mean = np.average(seen, axis=0, weights=weights)
    freedom = weights.sum() ** 2 / (weights**2).sum() - 2
    if freedom <= 0:  # as good as two, which say nothing of jitter
        return line
    without, left = (
        float((weights[:, None] * (seen - fit) ** 2)[:, :10].sum())
        for fit in (mean, line[0] + times[:, None] * line[1])
    )
    explained = (without - left) * freedom
    share = 1 - _SLOPE * left / explained if explained > _SLOPE * left else 0.0
    return np.stack([mean + share * (line[0] - mean), share * line[1]])
