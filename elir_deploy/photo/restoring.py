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
from elir_deploy.photo.steps import StepTimer, untimed
from elir_deploy.progress import ProgressCallback, no_progress
from elir_deploy.runtime.placement import empty_result
from elir_deploy.runtime.resampling import EnlargedPicture, resize_into
from elir_deploy.runtime.strength import blend

__all__ = [
    *("SCALES", "Canvas", "Photo", "SquareRestorer"),
    *("empty_output", "restore_faces", "restore_photo"),
]

#: Enlargements of a photograph.
SCALES = (1, 2, 4)

FindFaces = Callable[[NDArray[np.uint8]], Sequence[Face]]
Restore = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]


@dataclass(frozen=True)
class SquareRestorer:
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
    squares: SquareRestorer,
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
        ImageError: ``picture`` or ``background`` has another type, shape or size, or the result
            does not fit into memory.
        UsageError: ``faces`` or ``scale`` is none of the above.
    """
    _check_picture("picture", picture, None)
    height, width = picture.shape[:2]
    output = empty_output(picture, scale)
    canvas = Canvas(
        picture, choose(find(picture), faces, width, height), squares, output, background
    )
    restore_faces([canvas], squares)
    return canvas.photo


class Canvas:
    """The output of a photograph, on which its faces are put back.

    Args:
        picture: (H, W, 3) uint8 RGB.
        faces: of the picture; those with a reason are left alone.
        squares: what restores them.
        output: of :func:`empty_output`.
        background: pixels of the rest, as large as ``output``, or itself; None: the picture,
            enlarged.
        weights: of each face, how much of its restoration is put back, 0 to 1; None: all.

    Attributes:
        photo: the output, and the faces with what becomes of them.
        order: indices of the faces to restore, of which the nearer one comes last.

    Raises:
        ImageError: ``background`` has another type or size.
    """

    def __init__(
        self,
        picture: NDArray[np.uint8],
        faces: Sequence[Face],
        squares: SquareRestorer,
        output: NDArray[np.uint8],
        background: NDArray[np.uint8] | None = None,
        weights: Sequence[float] | None = None,
    ) -> None:
        self._picture, self._side = picture, squares.side
        self._weights = weights
        self._scale = output.shape[0] // picture.shape[0]
        if background is not None:
            _check_picture("background", background, output.shape)
            if background is not output:
                output[...] = background
        elif self._scale == 1:
            output[...] = picture
        else:
            resize_into(picture, output)
        self._enlarged = EnlargedPicture(
            picture, self._scale, "none" if self._scale == 1 else "bicubic"
        )
        height, width = output.shape[:2]
        done, self._places = _aligned(faces, squares, height, width, self._scale)
        self.photo = Photo(output, tuple(done))
        self.order = sorted(self._places, key=lambda i: self._places[i].squared)

    def crop(self, i: int) -> NDArray[np.uint8]:
        """The square of a face."""
        return crop(self._picture, self._places[i].shrunk(self._scale), self._side)

    def paste(self, i: int, square: NDArray[np.uint8], restored: NDArray[np.uint8]) -> None:
        """Put a restored square back."""
        place = self._places[i]
        if self._weights is not None and self._weights[i] < 1:
            restored = blend(square, restored, self._weights[i])
        paste(self.photo.pixels, self._enlarged, place, change(square, restored, place))


def restore_faces(
    canvases: Sequence[Canvas],
    squares: SquareRestorer,
    timer: StepTimer = untimed,
    on_progress: ProgressCallback = no_progress,
) -> None:
    """Restore the faces of several photographs, in batches across them.

    Args:
        canvases: of the photographs.
        squares: what restores the faces.
        timer: encloses the work of each step.
        on_progress: called after each batch, with ``"faces"``, the number done and in all.
    """
    waiting = [(canvas, i) for canvas in canvases for i in canvas.order]
    for first in range(0, len(waiting), squares.batch):
        group = waiting[first : first + squares.batch]
        with timer("align"):
            crops = np.stack([canvas.crop(i) for canvas, i in group])
        with timer("run"):
            restored = squares.run(crops)
        _check_picture("restored batch", restored, crops.shape)
        with timer("paste"):
            for (canvas, i), before, after in zip(group, crops, restored, strict=True):
                canvas.paste(i, before, after)
        on_progress("faces", first + len(group), len(waiting))


def empty_output(picture: NDArray[np.uint8], scale: int) -> NDArray[np.uint8]:
    """(H * scale, W * scale, 3) uint8.

    Raises:
        UsageError: ``scale`` is none of :data:`SCALES`.
        ImageError: there is not enough memory.
    """
    if scale not in SCALES or not isinstance(scale, int):
        raise UsageError(f"scale is {scale!r}, expected one of {', '.join(map(str, SCALES))}")
    return empty_result(picture.shape[0] * scale, picture.shape[1] * scale)


def _aligned(
    faces: Sequence[Face], squares: SquareRestorer, height: int, width: int, scale: int
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
