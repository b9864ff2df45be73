"""How a face moves from one picture to the next, measured from the pictures themselves.

Landmarks of a detector jitter by a pixel and more; two crops of a face tell to a few hundredths of
a pixel how far it moved, turned and grew. Phase correlation finds whole pixels, Gauss-Newton steps
of least squares the rest, with gain and offset free, so that changing light is no motion.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["STILL", "Movement", "movement_between", "spread"]

#: Radius of what counts of a face, and half the side of what is looked at, over the root mean
#: square distance of its landmarks from their centre, which is 0.63 of the eyes' distance.
_RADIUS, _REACH = 2.2, 3.3
#: Side in pixels of what is compared, up to half as much again; larger faces are reduced, by means
#: of squares.
_SIDE = 96
_LEAST = 12
#: Steps at most, and the change of position in pixels below which they end.
_STEPS, _ENOUGH = 15, 2e-3
#: What is left over the contrast of the face, root mean squares, from which it is no match.
_UNLIKE = 0.5
#: Levels of contrast below which there is nothing to see, and least ratio of its gradient's mean
#: squares along two axes: an edge alone may slide along itself.
_CONTRAST, _ONE_WAY = 2.0, 0.02
#: Largest motions between two pictures: ratio of sizes, radians, and of _RADIUS.
_GROWTH, _TURN, _SHIFT = 1.15, 0.2, 1.0
_GAIN = 1.6
#: Share of the face that must be within both pictures.
_SEEN = 0.5
#: Most pixels that are compared.
_POINTS = 2500

Floats = NDArray[np.float64]
Points = NDArray[np.complex128]


@dataclass(frozen=True)
class Movement:
    """A shift, turn and growth of points x + iy: ``factor * point + shift``, in pixels."""

    factor: complex = 1
    shift: complex = 0

    def __call__(self, points: Points) -> Points:
        return self.factor * points + self.shift

    def after(self, first: Movement) -> Movement:
        return Movement(self.factor * first.factor, self.factor * first.shift + self.shift)

    def back(self) -> Movement:
        return Movement(1 / self.factor, -self.shift / self.factor)


STILL = Movement()


def spread(points: Points) -> float:
    """Root mean square distance of points from their centre, in pixels: the size of a face."""
    return float(np.sqrt((np.abs(points - points.mean()) ** 2).mean()))


def movement_between(
    before: NDArray[np.uint8], now: NDArray[np.uint8], points: Points
) -> Movement | None:
    """How a face moved between two pictures.

    Args:
        before, now: (H, W, 3) uint8.
        points: (5,) landmarks in the first as x + iy, in pixels.

    Returns:
        None: the second does not show the same face nearby, or too little of it is in the picture.
    """
    centre = complex(points.mean())
    size = spread(points)
    factor = max(1, round(2 * _REACH * size / _SIDE))
    height, width = before.shape[:2]
    left, right = _range(centre.real, _REACH * size, factor, width)
    top, bottom = _range(centre.imag, _REACH * size, factor, height)
    if min(right - left, bottom - top) < _LEAST * factor:
        return None
    part = np.s_[top:bottom, left:right]
    first, second = (_blurred(_grey(picture[part], factor)) for picture in (before, now))
    middle = (centre - complex(left, top) - (factor - 1) / 2 * (1 + 1j)) / factor
    found = _Registration(first, middle, _RADIUS * size / factor).of(second)
    if found is None:
        return None
    # from reduced pixels around the centre to those of the picture
    return Movement(found.factor, centre + factor * found.shift - found.factor * centre)


def _range(centre: float, reach: float, factor: int, length: int) -> tuple[int, int]:
    """Within a picture, a multiple of ``factor`` long."""
    begin = int(np.clip(np.floor(centre - reach), 0, length))
    end = int(np.clip(np.ceil(centre + reach) + 1, begin, length))
    return begin, end - (end - begin) % factor


def _grey(picture: NDArray[np.uint8], factor: int) -> Floats:
    grey = Image.fromarray(np.ascontiguousarray(picture)).convert("L")
    return np.asarray(grey.reduce(factor), np.float64)


def _blurred(grey: Floats) -> Floats:
    """Smooth enough to be read between pixels."""
    padded = np.pad(grey, 1, mode="edge")
    rows = padded[:-2] + 2 * padded[1:-1] + padded[2:]
    return (rows[:, :-2] + 2 * rows[:, 1:-1] + rows[:, 2:]) / 16


class _Registration:
    """Finds a round part of a picture in others of the same size.

    Args:
        picture: (h, w) levels.
        middle, radius: of the part, in pixels.
    """

    def __init__(self, picture: Floats, middle: complex, radius: float) -> None:
        self._picture, self._middle, self._radius = picture, middle, radius
        rows, columns = np.indices(picture.shape)
        places = columns + 1j * rows - middle
        weights = np.clip(1 - (np.abs(places) / radius) ** 2, 0, None) ** 2
        present = weights.sum() / (np.pi * radius**2 / 3)  # over that of the whole part
        inside = np.flatnonzero(weights)
        inside = inside[:: 1 + len(inside) // _POINTS]
        self._places, weights = places.ravel()[inside], weights.ravel()[inside]
        self._weights = weights * (present / weights.sum())
        levels = picture.ravel()[inside]
        self._mean = float(np.average(levels, weights=weights))
        self._levels = levels - self._mean
        self._contrast = float(np.sqrt(np.average(self._levels**2, weights=weights)))
        down, right = (each.ravel()[inside] for each in np.gradient(picture))
        slope = right - 1j * down  # real part of slope * motion: how levels change along it
        turned = slope * self._places / radius
        ones = np.ones_like(self._levels)
        changes = [turned.real, -turned.imag, slope.real, -slope.imag, -self._levels, -ones]
        self._changes = np.stack(changes, axis=1)

    def of(self, other: Floats) -> Movement | None:
        """The motion of the part, around its middle in both pictures; None: it is not there."""
        weighted = self._changes * self._weights[:, None]
        normal = weighted.T @ self._changes
        if self._contrast < _CONTRAST or _two_ways(normal[2:4, 2:4]) < _ONE_WAY:
            return None
        try:
            solution = np.linalg.solve(normal, weighted.T)
        except np.linalg.LinAlgError:
            return None
        moved, whole = STILL, _whole_shift(self._picture, other)
        if whole:
            starts = moved, Movement(1, whole)
            moved = min(starts, key=lambda start: self._error(other, start, 1, 0))
        gain, offset = 1.0, 0.0
        for _ in range(_STEPS):
            step = solution @ self._rest(other, moved, gain, offset)[0]
            turned, shifted = complex(*step[:2]) / self._radius, complex(*step[2:4])
            moved = Movement(moved.factor + turned, moved.shift + shifted)
            gain, offset = gain + step[4], offset + step[5]
            if not self._possible(moved, gain):
                return None
            if abs(shifted) + abs(turned) * self._radius < _ENOUGH:
                break
        error = self._error(other, moved, gain, offset)
        return moved if error < _UNLIKE * gain * self._contrast else None

    def _possible(self, moved: Movement, gain: float) -> bool:
        return (
            1 / _GROWTH < abs(moved.factor) < _GROWTH
            and abs(np.angle(moved.factor)) < _TURN
            and abs(moved.shift) < _SHIFT * self._radius
            and 1 / _GAIN < gain < _GAIN
        )

    def _rest(
        self, other: Floats, moved: Movement, gain: float, offset: float
    ) -> tuple[Floats, NDArray[np.bool_]]:
        """(n,) what another picture lacks of the part, 0 beyond its edges; (n,) where it is not."""
        height, width = other.shape
        places = moved(self._places) + self._middle
        x, y = places.real, places.imag
        column = np.clip(x.astype(np.int64), 0, width - 2)
        row = np.clip(y.astype(np.int64), 0, height - 2)
        across, along = x - column, y - row
        flat, index = other.ravel(), row * width + column
        upper = flat[index] + across * (flat[index + 1] - flat[index])
        index += width
        lower = flat[index] + across * (flat[index + 1] - flat[index])
        rest = gain * self._levels + offset + self._mean - (upper + along * (lower - upper))
        within = (x >= 0) & (y >= 0) & (x <= width - 1) & (y <= height - 1)
        return rest * within, within

    def _error(self, other: Floats, moved: Movement, gain: float, offset: float) -> float:
        """Root mean square of what it lacks, in levels; infinite: too little is seen of it."""
        rest, within = self._rest(other, moved, gain, offset)
        seen = float(self._weights @ within)
        return float(np.sqrt(self._weights @ rest**2 / seen)) if seen > _SEEN else np.inf


def _two_ways(squares: Floats) -> float:
    """How much a picture changes along its poorest direction, over that along its richest."""
    least, most = np.linalg.eigvalsh(squares)
    return float(least / most) if most > 0 else 0.0


def _whole_shift(before: Floats, now: Floats) -> complex:
    """By phase correlation, in pixels."""
    height, width = before.shape
    window = np.hanning(height)[:, None] * np.hanning(width)
    first, second = (np.fft.rfft2((each - each.mean()) * window) for each in (before, now))
    product = np.conj(first) * second
    phases = product / np.maximum(np.abs(product), 1e-9)
    row, column = np.divmod(int(np.fft.irfft2(phases, before.shape).argmax()), width)
    wrapped = column - width * (column > width // 2), row - height * (row > height // 2)
    return complex(*wrapped)
