"""A whole photograph: faces found, restored in their squares and put back.

What finds faces and what restores squares are functions, so this knows no bundle and no backend.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from elir_deploy.errors import ImageError, UsageError
from elir_deploy.photo.alignment import Similarity, crop, fit, reason_not_alignable, template_units
from elir_deploy.photo.faces import Face, Points, choose, units
from elir_deploy.photo.paste import change, masked, paste
from elir_deploy.runtime.resampling import EnlargedPicture, resize_into

__all__ = ["SCALES", "Photo", "Squares", "restore_photo"]

#: Enlargements of a photograph.
SCALES = (1, 2, 4)

FindFaces = Callable[[NDArray[np.uint8]], Sequence[Face]]
Restore = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]


@dataclass(frozen=True)
class Squares:
    """What restores aligned faces.

    Attributes:
        run: from (n, side, side, 3) uint8 to the same.
        side: of the squares in pixels.
        batch: the largest n.
        template: eyes, nose and corners of the mouth in an aligned square.
        template_size: side of the square that the template is for.
    """

    run: Restore
    side: int
    batch: int
    template: Points
    template_size: int


@dataclass(frozen=True)
class Photo:
    """A restored photograph.

    Attributes:
        pixels: (H * scale, W * scale, 3) uint8 RGB.
        faces: all that were found, in pixels of the input; those that were left alone say why.
    """

    pixels: NDArray[np.uint8]
    faces: tuple[Face, ...]


def restore_photo(
    picture: NDArray[np.uint8],
    find: FindFaces,
    squares: Squares,
    *,
    faces: Literal["all", "largest", "centre"] = "all",
    scale: int = 1,
    background: NDArray[np.uint8] | None = None,
) -> Photo:
    """Restore the faces of a photograph.

    Args:
        picture: (H, W, 3) uint8 RGB.
        find: the faces of the picture.
        squares: what restores them.
        faces: which are restored: ``all``, ``largest`` or ``centre``. For ``auto``,
            the caller decides by :func:`~elir_deploy.photo.faces.is_aligned` between ``all`` and
            the whole picture as one square.
        scale: 1, 2 or 4; the picture is enlarged (bicubic), landmarks of the output are ``scale``
            times those of the input.
        background: (H * scale, W * scale, 3) uint8: pixels of the rest of the output; None:
            the picture, enlarged.

    Raises:
        ImageError: ``picture`` or ``background`` has another type, shape or size.
        UsageError: ``faces`` or ``scale`` is none of the above.
    """
    if scale not in SCALES:
        raise UsageError(f"scale is {scale!r}, expected one of {', '.join(map(str, SCALES))}")
    _check_picture("picture", picture, None)
    height, width = picture.shape[:2]
    output = np.empty((height * scale, width * scale, 3), np.uint8)
    if background is not None:
        _check_picture("background", background, output.shape)
        output[...] = background
    elif scale == 1:
        output[...] = picture
    else:
        resize_into(picture, output)
    chosen = choose(find(picture), faces, width, height)
    done, places = _aligned(chosen, squares, output.shape[0], output.shape[1], scale)
    enlarged = EnlargedPicture(picture, scale, "none" if scale == 1 else "bicubic")
    # The nearer of overlapping faces comes last.
    order = sorted(places, key=lambda i: places[i].squared)
    for first in range(0, len(order), squares.batch):
        group = order[first : first + squares.batch]
        crops = np.stack([crop(picture, places[i].shrunk(scale), squares.side) for i in group])
        restored = squares.run(crops)
        _check_picture("restored batch", restored, crops.shape)
        for i, before, after in zip(group, crops, restored, strict=True):
            paste(output, enlarged, places[i], change(before, after, places[i]))
    return Photo(output, tuple(done))


def _aligned(
    faces: Sequence[Face], squares: Squares, height: int, width: int, scale: int
) -> tuple[list[Face], dict[int, Similarity]]:
    """The faces with what becomes of them, and where the squares of some lie in the output.

    ``height`` and ``width`` are the output's.
    """
    template = template_units(squares.template, squares.template_size, squares.side)
    done, places = [], {}
    for i, face in enumerate(faces):
        if face.reason is None:
            points = [(units(x * scale), units(y * scale)) for x, y in face.landmarks]
            reason = reason_not_alignable(template, points, squares.side, max(height, width))
            if reason is None:
                places[i] = fit(template, points)
                top, left, bottom, right = masked(places[i], squares.side, height, width)
                if top >= bottom or left >= right:
                    del places[i]
                    reason = "it lies outside the picture"
            face = replace(face, restored=reason is None, reason=reason)
        done.append(face)
    return done, places


def _check_picture(what: str, pixels: Any, shape: tuple[int, ...] | None) -> None:
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8:
        kind = pixels.dtype if isinstance(pixels, np.ndarray) else type(pixels).__name__
        raise ImageError(f"the {what} is {kind}, expected a NumPy array of uint8")
    if shape is None:
        if pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape:
            raise ImageError(f"the {what} has shape {pixels.shape}, expected (H, W, 3) RGB")
    elif pixels.shape != shape:
        raise ImageError(f"the {what} has shape {pixels.shape}, expected {shape}")
