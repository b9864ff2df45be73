"""Putting a restored face back: the change that the network made, under a soft mask.

What is pasted is not the restored square but its difference to the crop, so that what the network
leaves alone stays as it is to the byte, and detail that the crop is too small for remains.
Everything is integer arithmetic (``//`` and ``>>`` round down), so that another implementation can
reproduce it to the bit. For a square of S pixels:

**Mask.** An ellipse with its centre at (S / 2, 272 S / 512), 216 S / 512 wide and 236 S / 512 high
to each side, holds face, forehead and the inner part of the hair. It is evaluated at (u, v) in
units of 1/32 pixel, relative to the centre in the same units, with half axes r_x and r_y in 1/32
pixel, as
``e = (u^2 * (2^44 // r_x^2) + v^2 * (2^44 // r_y^2)) >> 32``, which is 4096 on its rim. With
``t = min(4096, (4096 - isqrt(4096 e)) * 4096 // 1024)``, which is 4096 within three quarters of the
axes, the mask is ``m = (t^2 * (3 * 4096 - 2 t) + 2^25) >> 26``, from 0 to 1024 (smoothstep).

**Tone.** The change must vanish on the mask's rim but for texture, so a plane is subtracted from
each channel of it: the one that fits it best where the mask fades out. With the weights
``w = (m (1024 - m)) >> 8`` and coordinates u and v in pixels from the centre, which the weights are
symmetric about, its coefficients in 1/4096 are ``(2^13 sum(w c g) + d) // (2 d)`` with
``d = sum(w g^2)`` for g = 1, u and v. The plane is rounded half up, and the change then limited to
-255 to 255.

**Detail.** A face larger than the square (scale above 1) has detail that the network does not see.
The share kept is that of the finest visible detail that the network preserved. With the sum g of a
pixel's channels, ``h = 4 g(u, v) - g(u - 1, v) - g(u + 1, v) - g(u, v - 1) - g(u, v + 1)`` of the
crop and of the restored square, and ``w = m >> 4`` within the outermost pixels, the share kept is
``k = (2^9 sum(w h_c h_r) + d) // (2 d)`` with ``d = sum(w h_c^2)``, limited to 0 to 256; it is 256
if d is 0 or the face is not larger. ``((256 - k) (s - 128) + 128) >> 8`` with the crop s is added
to the change, which is then limited again.

**Order.** Faces are put back by growing scale, so that the nearer one is in front; of equal ones
in the order of the detector. Every pixel of the output with m > 0 becomes::

    o + ((m * (2048 * (e - o) - 8 * (256 - k) * (e - 128) + c) + 2^20) >> 21)   limited to 0 to 255

where ``o`` is the output so far, ``e`` the enlarged picture and ``c`` the change there in 1/2048
(:func:`~elir_deploy.photo.sampling.interpolate` of the change, reduced by the inverse similarity's
scale if the face is smaller than the square; beyond the square it is 0). So where the output has
another background than the enlarged picture, the face is restored from the picture alone.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from elir_deploy.photo.alignment import BITS, Similarity
from elir_deploy.photo.sampling import interpolate, packed, reduced_change

__all__ = ["Change", "Enlarged", "change", "mask", "masked", "paste"]

_FULL = 1024
_UNIT = 4096
_INNER = 3 * _UNIT // 4
#: Pixels that are put back at a time.
_BAND_PIXELS = 2**15
_MARGIN = 3
#: All detail is kept.
_DETAIL = 256


class Enlarged(Protocol):
    """The enlarged picture, block by block: see ``runtime.resampling.EnlargedPicture``."""

    def block(self, top: int, left: int, height: int, width: int) -> NDArray[np.uint8]: ...


@dataclass(frozen=True)
class _Ellipse:
    """The mask's, in units of 1/32 pixel of the square."""

    x: int
    y: int
    across: int
    down: int

    @classmethod
    def of(cls, side: int) -> _Ellipse:
        return cls(*(32 * side * part // 512 for part in (256, 272, 216, 236)))

    def mask(self, u: NDArray[np.int64], v: NDArray[np.int64]) -> NDArray[np.int32]:
        """m at positions in units of 1/32 pixel."""
        u, v = u - self.x, v - self.y
        u *= u
        v *= v
        u *= (1 << 44) // (self.across * self.across)
        v *= (1 << 44) // (self.down * self.down)
        u += v
        u >>= 32
        np.minimum(u, _UNIT, out=u)
        return _ramp().take(u)

    def bounds(self, to: Similarity) -> tuple[int, int, int, int]:
        """Top, left, bottom and right of the ellipse in the picture, the latter exclusive."""
        x = to.x + ((to.a * self.x - to.b * self.y) >> 5)
        y = to.y + ((to.b * self.x + to.a * self.y) >> 5)
        across = math.isqrt((to.a * self.across) ** 2 + (to.b * self.down) ** 2) >> 5
        down = math.isqrt((to.b * self.across) ** 2 + (to.a * self.down) ** 2) >> 5
        return (
            (y - down) >> 20,
            (x - across) >> 20,
            ((y + down) >> 20) + 2,
            ((x + across) >> 20) + 2,
        )


@functools.lru_cache(2)
def mask(side: int) -> NDArray[np.int32]:
    """(side, side): the mask at the square's pixels, 0 to 1024; not to be written."""
    axis = 32 * np.arange(side, dtype=np.int64)
    m = _Ellipse.of(side).mask(*np.broadcast_arrays(axis, axis[:, None]))
    m.setflags(write=False)
    return m


@dataclass(frozen=True)
class Change:
    """What a network changed in a square.

    Attributes:
        pixels: (S, S, 3), -255 to 255.
        detail: how much is kept of detail that the square is too small for, 0 to 256.
    """

    pixels: NDArray[np.int16]
    detail: int


def change(
    square: NDArray[np.uint8], restored: NDArray[np.uint8], similarity: Similarity
) -> Change:
    """What the network changed, without its shift of the surroundings' tone.

    Args:
        square, restored: (S, S, 3): the crop, and the network's result.
        similarity: from the square to the output.
    """
    difference = restored.astype(np.int16)
    difference -= square
    rim = _Rim.of(square.shape[0])
    for channel in range(3):
        difference[:, :, channel] -= rim.plane(difference[:, :, channel])
    np.clip(difference, -255, 255, out=difference)
    detail = _DETAIL
    if similarity.squared > 1 << (2 * BITS):
        detail = _detail_kept(square, restored)
    if detail < _DETAIL:
        lost = (_DETAIL - detail) * (square.astype(np.int32) - 128)
        difference += ((lost + 128) >> 8).astype(np.int16)
        np.clip(difference, -255, 255, out=difference)
    return Change(difference, detail)


def _detail_kept(square: NDArray[np.uint8], restored: NDArray[np.uint8]) -> int:
    weights = (mask(square.shape[0]) >> 4)[1:-1, 1:-1].astype(np.int64)
    seen, kept = _finest(square), _finest(restored)
    weights *= seen
    whole = int((weights * seen).sum())
    if whole == 0:
        return _DETAIL
    share = ((int((weights * kept).sum()) << 9) + whole) // (2 * whole)
    return max(0, min(_DETAIL, share))


def _finest(square: NDArray[np.uint8]) -> NDArray[np.int32]:
    """(S - 2, S - 2): h of the inner pixels."""
    grey = square[:, :, 0].astype(np.int32)
    grey += square[:, :, 1]
    grey += square[:, :, 2]
    h: NDArray[np.int32] = 4 * grey[1:-1, 1:-1]
    h -= grey[:-2, 1:-1]
    h -= grey[2:, 1:-1]
    h -= grey[1:-1, :-2]
    h -= grey[1:-1, 2:]
    return h


@dataclass(frozen=True)
class _Rim:
    """Where the mask fades out, for fitting planes.

    Attributes:
        axes: 1, u and v, which broadcast to (S, S).
        weighted: each times the weight, (3, S * S).
        squares: weighted sum of each one's square.
    """

    axes: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]
    weighted: NDArray[np.int64]
    squares: tuple[int, int, int]

    @classmethod
    @functools.lru_cache(2)
    def of(cls, side: int) -> _Rim:
        m = mask(side).astype(np.int64)
        weights = m * (_FULL - m) >> 8
        ellipse, index = _Ellipse.of(side), np.arange(side)
        u, v = index[None, :] - ellipse.x // 32, index[:, None] - ellipse.y // 32
        axes = np.ones((1, 1), np.int64), u, v
        weighted = np.stack([(weights * axis).ravel() for axis in axes])
        squares = tuple(int((weights * axis * axis).sum()) for axis in axes)
        return cls(axes, weighted, squares)  # type: ignore[arg-type]

    def plane(self, values: NDArray[np.int16]) -> NDArray[np.int64]:
        """(S, S) the plane that fits best."""
        flat = values.ravel().astype(np.int64)
        total = np.full((1, 1), 1 << 11, np.int64)
        for axis, weighted, square in zip(self.axes, self.weighted, self.squares, strict=True):
            coefficient = ((int(weighted @ flat) << 13) + square) // (2 * square)
            total = total + coefficient * axis
        return total >> 12


def masked(similarity: Similarity, side: int, height: int, width: int) -> tuple[int, int, int, int]:
    """Top, left, bottom and right of the mask within a picture, the latter two exclusive.

    Outside the picture they enclose nothing.
    """
    top, left, bottom, right = _Ellipse.of(side).bounds(similarity)
    return max(0, top), max(0, left), min(height, bottom), min(width, right)


def paste(
    output: NDArray[np.uint8],
    enlarged: Enlarged,
    similarity: Similarity,
    changed: Change,
) -> None:
    """Put a face back.

    Args:
        output: (H, W, 3) uint8, changed under the mask.
        enlarged: the picture that the faces were cropped from, of the output's size.
        similarity: from the square to the output.
        changed: of :func:`change`.
    """
    side = changed.pixels.shape[0]
    ellipse = _Ellipse.of(side)
    inverse = similarity.inverse()
    factor = inverse.reduction
    # The change is 0 around the square.
    source = packed(reduced_change(changed.pixels, factor, _MARGIN))
    into = inverse.into_reduced(-_MARGIN * factor, -_MARGIN * factor, factor)
    top, left, bottom, right = masked(similarity, side, output.shape[0], output.shape[1])
    if top >= bottom or left >= right:
        return
    band = max(1, _BAND_PIXELS // (right - left))
    limits = (32, 32 * source.shape[1]), (32, 32 * (source.shape[0] - 3))
    for first in range(top, bottom, band):
        rows = np.arange(first, min(bottom, first + band), dtype=np.int64)
        columns = np.arange(left, right, dtype=np.int64)
        m = ellipse.mask(*inverse.positions(columns, rows))
        used = np.flatnonzero(m.any(axis=0))
        if not len(used):
            continue
        m, columns = m[:, used[0] : used[-1] + 1], columns[used[0] : used[-1] + 1]
        # Where m is 0 the position may lie outside, and does not matter.
        x, y = (
            np.clip(position, *limit, out=position)
            for position, limit in zip(into.positions(columns, rows), limits, strict=True)
        )
        place = output[first : rows[-1] + 1, columns[0] : columns[-1] + 1]
        picture = enlarged.block(first, int(columns[0]), len(rows), len(columns))
        _add(place, picture.astype(np.int32), m, interpolate(source, x, y), changed.detail)


def _add(
    place: NDArray[np.uint8],
    picture: NDArray[np.int32],
    m: NDArray[np.int32],
    values: NDArray[np.int32],
    detail: int,
) -> None:
    """Change ``place``; ``values`` is overwritten."""
    pixels = place.astype(np.int32)
    values += (picture - pixels) << 11
    if detail < _DETAIL:
        picture -= 128
        picture *= 8 * (_DETAIL - detail)
        values -= picture
    values *= m[:, :, None]
    values += 1 << 20
    values >>= 21
    pixels += values
    np.clip(pixels, 0, 255, out=pixels)
    place[...] = pixels


@functools.cache
def _ramp() -> NDArray[np.int32]:
    """m by e, from 0 to 4096."""
    t = np.array([math.isqrt(_UNIT * e) for e in range(_UNIT + 1)], np.int64)
    t = np.minimum(_UNIT, (_UNIT - t) * _UNIT // (_UNIT - _INNER))
    return ((t * t * (3 * _UNIT - 2 * t) + (1 << 25)) >> 26).astype(np.int32)
