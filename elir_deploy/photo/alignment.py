"""Aligning a face: the similarity from a square to the picture, and the crop.

Everything is integer arithmetic, so that another implementation can reproduce it to the bit;
``//`` rounds down. Template points t_i and landmarks l_i are whole numbers of 1/64 pixel. With the
sums T and L of the five points of each, ``t'_i = 5 t_i - T``, ``l'_i = 5 l_i - L`` and::

    D = sum(|t'_i|^2)    p = sum(t'_i . l'_i)    q = sum(t'_ix l'_iy - t'_iy l'_ix)
    a = (2^21 p + D) // (2 D)                    b = (2^21 q + D) // (2 D)
    x = (2^20 L_x - a T_x + b T_y + 160) // 320  y = (2^20 L_y - b T_x - a T_y + 160) // 320

the square's (u, v) lies at ``(a u - b v + x, b u + a v + y) / 2^20`` in the picture: least squares
over similarities, up to rounding. Coordinates are whole at the centres of pixels. The inverse, with
``n = a^2 + b^2``, has ``a' = (2^41 a + n) // (2 n)``, ``b' = (-2^41 b + n) // (2 n)``,
``x' = (-(a' x - b' y) + 2^19) >> 20`` and ``y' = (-(b' x + a' y) + 2^19) >> 20``.

In a picture enlarged n times, landmarks are n times as large, and the similarity is theirs; the
crop is read from the picture itself, with ``a``, ``b``, ``x + 2^19`` and ``y + 2^19`` divided by n,
each as ``(2 value + n) // (2 n)``, less 2^19 for x and y.

The crop reads the picture, which is continued by mirroring, reduced by k, which is the scale
sqrt(a^2 + b^2) / 2^20 rounded half up, at least 1 (:mod:`elir_deploy.photo.sampling`). The
reduction begins at column ``l`` and row ``t``, 3 k pixels before the whole numbers below the
corners' least coordinates. Positions in it come from the similarity with ``a``, ``b``,
``x - 2^20 l - 2^19 (k - 1)`` and ``y - 2^20 t - 2^19 (k - 1)`` divided by k, each as
``(2 value + k) // (2 k)``. They are computed in 2^-20 pixel and rounded to 1/32 pixel:
``(value + 2^14) >> 15``. Results are rounded half up and clipped to 8 bits.

Only the pixels under the square are read.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from elir_deploy.photo.faces import Points, units
from elir_deploy.photo.sampling import WEIGHT_BITS, interpolate, packed, reduced_region

__all__ = ["Similarity", "crop", "fit", "reason_not_alignable", "template_units"]

#: Bits after the point of a similarity's numbers.
BITS = 20
#: A square may be this many times as long as the picture's longer side.
_LARGEST = 4
_MARGIN = 3
_BAND_ROWS = 32


@dataclass(frozen=True)
class Similarity:
    """From (u, v) to (a u - b v + x, b u + a v + y); all numbers in units of 2^-20."""

    a: int
    b: int
    x: int
    y: int

    @property
    def squared(self) -> int:
        """The squared scale, in units of 2^-40."""
        return self.a * self.a + self.b * self.b

    @property
    def reduction(self) -> int:
        """The scale rounded half up, at least 1: by how much what is read is reduced first."""
        return max(1, (math.isqrt(4 * self.squared) // (1 << BITS) + 1) // 2)

    def inverse(self) -> Similarity:
        n = self.squared
        a = ((self.a << 41) + n) // (2 * n)
        b = ((-self.b << 41) + n) // (2 * n)
        return Similarity(
            a,
            b,
            (-(a * self.x - b * self.y) + (1 << 19)) >> BITS,
            (-(b * self.x + a * self.y) + (1 << 19)) >> BITS,
        )

    def shrunk(self, scale: int) -> Similarity:
        """The same square in a picture of 1 / ``scale`` the size, whose edges coincide."""
        half = 1 << (BITS - 1)
        a, b, x, y = (
            (2 * value + scale) // (2 * scale)
            for value in (self.a, self.b, self.x + half, self.y + half)
        )
        return Similarity(a, b, x - half, y - half)

    def into_reduced(self, left: int, top: int, factor: int) -> Similarity:
        """The positions in a reduction that begins at ``left`` and ``top``."""
        half = (factor - 1) << (BITS - 1)
        numbers = (
            self.a,
            self.b,
            self.x - (left << BITS) - half,
            self.y - (top << BITS) - half,
        )
        return Similarity(*((2 * value + factor) // (2 * factor) for value in numbers))

    def positions(
        self, u: NDArray[np.int64], v: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Positions of a grid of columns ``u`` and rows ``v``, in units of 1/32."""
        half = 1 << (BITS - 6)
        x = (self.a * u + (self.x + half)) - (self.b * v)[:, None]
        y = (self.b * u + (self.y + half)) + (self.a * v)[:, None]
        x >>= BITS - 5
        y >>= BITS - 5
        return x, y

    def least(self, side: int) -> tuple[int, int]:
        """Whole numbers below x and y of a square's corners."""
        edge = side - 1
        x = self.x + min(0, self.a * edge) + min(0, -self.b * edge)
        y = self.y + min(0, self.b * edge) + min(0, self.a * edge)
        return x >> BITS, y >> BITS

    def extent(self, side: int) -> int:
        """Whole number above the width, or the height, of the square's bounding box."""
        return ((abs(self.a) + abs(self.b)) * (side - 1) >> BITS) + 2


def template_units(template: Points, size: int, side: int) -> list[tuple[int, int]]:
    """Template points for a square of ``side`` pixels, in 1/64 pixel, of one of ``size``."""
    return [(units(x * side / size), units(y * side / size)) for x, y in template]


def reason_not_alignable(
    template: Sequence[tuple[int, int]],
    landmarks: Sequence[tuple[int, int]],
    side: int,
    longest: int,
) -> str | None:
    """Why landmarks cannot be aligned; None: they can.

    Args:
        template, landmarks: in 1/64 pixel.
        side: of the square.
        longest: longer side of the picture.
    """
    d, spread, p, q = _moments(template, landmarks)
    # Numbers below 2^53, so these are the same doubles everywhere.
    explained = float(p) * p + float(q) * q
    if spread == 0 or 4 * explained < float(d) * spread:
        return "its landmarks are not those of a face"
    if explained * side * side > float(d) * d * (_LARGEST * longest) ** 2:
        return f"it is more than {_LARGEST} times as large as the picture"
    return None


def fit(template: Sequence[tuple[int, int]], landmarks: Sequence[tuple[int, int]]) -> Similarity:
    """The similarity from template points to landmarks, both in 1/64 pixel.

    :func:`reason_not_alignable` says for which landmarks there is none.
    """
    d, _, p, q = _moments(template, landmarks)
    a = ((p << 21) + d) // (2 * d)
    b = ((q << 21) + d) // (2 * d)
    (tx, ty), (lx, ly) = _sums(template), _sums(landmarks)
    return Similarity(
        a,
        b,
        ((lx << BITS) - a * tx + b * ty + 160) // 320,
        ((ly << BITS) - b * tx - a * ty + 160) // 320,
    )


def crop(picture: NDArray[np.uint8], similarity: Similarity, side: int) -> NDArray[np.uint8]:
    """The square under ``similarity``: (side, side, 3) of (H, W, 3) uint8."""
    factor = similarity.reduction
    left, top = (least - _MARGIN * factor for least in similarity.least(side))
    size = -(-similarity.extent(side) // factor) + 2 * _MARGIN + 1
    region = packed(reduced_region(picture, top, left, size, size, factor))
    into = similarity.into_reduced(left, top, factor)
    u = np.arange(side, dtype=np.int64)
    square = np.empty((side, side, 3), np.uint8)
    for first in range(0, side, _BAND_ROWS):
        x, y = into.positions(u, u[first : first + _BAND_ROWS])
        values = interpolate(region, x, y)
        values += 1 << (WEIGHT_BITS - 1)
        values >>= WEIGHT_BITS
        np.clip(values, 0, 255, out=values)
        square[first : first + _BAND_ROWS] = values
    return square


def _moments(
    template: Sequence[tuple[int, int]], landmarks: Sequence[tuple[int, int]]
) -> tuple[int, int, int, int]:
    """D, the same of the landmarks, p and q of the module's description."""
    (tx, ty), (lx, ly) = _sums(template), _sums(landmarks)
    d = spread = p = q = 0
    for (t_x, t_y), (l_x, l_y) in zip(template, landmarks, strict=True):
        u, v = 5 * t_x - tx, 5 * t_y - ty
        x, y = 5 * l_x - lx, 5 * l_y - ly
        d += u * u + v * v
        spread += x * x + y * y
        p += u * x + v * y
        q += u * y - v * x
    return d, spread, p, q


def _sums(points: Sequence[tuple[int, int]]) -> tuple[int, int]:
    return sum(x for x, _ in points), sum(y for _, y in points)
