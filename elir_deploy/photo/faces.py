"""A face in a picture, and which faces are restored.

Coordinates are pixels of the picture as a person sees it, x to the right and y down, whole numbers
at the centres of pixels: (0, 0) is the centre of the top left one. They are multiples of 1/64
pixel, so that they are exact in every number format.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from elir_deploy.errors import ImageError, UsageError

__all__ = [
    "FACES",
    "MIN_EYE_DISTANCE",
    "UNITS",
    "Face",
    "Faces",
    "Point",
    "Points",
    "check_choice",
    "choose",
    "is_aligned",
    "units",
]

Faces = Literal["auto", "all", "largest", "centre", "aligned"]
#: The choices of faces.
FACES: tuple[Faces, ...] = get_args(Faces)
Point = tuple[float, float]
Points = tuple[Point, Point, Point, Point, Point]

#: Units of coordinates in a pixel.
UNITS = 64
#: Distance of the eyes in pixels below which a face is left as it is.
MIN_EYE_DISTANCE = 5
#: Limit of coordinates in pixels, so that the arithmetic fits 64 bits.
_MAX_COORDINATE = 2**20
#: Landmarks of an aligned picture lie within its side divided by this of the template.
_ALIGNED_WITHIN = 20


@dataclass(frozen=True)
class Face:
    """A face.

    Attributes:
        box: left, top, right and bottom edge; it may reach beyond the picture.
        landmarks: x and y of the left eye, the right eye, the tip of the nose, the left and the
            right corner of the mouth; left and right are those of the picture.
        score: the detector's confidence, 0 to 1.
        restored: whether it was restored and put back.
        reason: why it was not, in one line; None: it was, or nobody has tried.
    """

    box: tuple[float, float, float, float]
    landmarks: Points
    score: float
    restored: bool = False
    reason: str | None = None

    def __post_init__(self) -> None:
        for value in _numbers(self.box, self.landmarks):
            _check_range(value)
            if value * UNITS % 1:
                raise ImageError(
                    f"a face has the coordinate {value!r}, expected a multiple of 1/{UNITS} pixel"
                )

    @classmethod
    def rounded(
        cls, box: Sequence[float], landmarks: Sequence[Sequence[float]], score: float = 1.0
    ) -> Face:
        """A face of another detector, its coordinates rounded to 1/64 pixel.

        Args:
            box: (4,).
            landmarks: (5, 2).
            score: 0 to 1.

        Raises:
            ImageError: a coordinate is not finite or out of range, or there are more or fewer.
        """
        _numbers(box, landmarks)
        edges = tuple(_on_the_grid(value) for value in box)
        points = tuple((_on_the_grid(x), _on_the_grid(y)) for x, y in landmarks)
        return cls(edges, points, float(score))  # type: ignore[arg-type]

    def to_json(self) -> dict[str, Any]:
        """Convert to JSON values, as ``--events`` has them."""
        return {
            "box": list(self.box),
            "landmarks": [list(point) for point in self.landmarks],
            "score": self.score,
            "restored": self.restored,
            "reason": self.reason,
        }

    def not_restored(self, reason: str) -> Face:
        """This face with the reason why it is not restored."""
        return replace(self, reason=reason)


def units(value: float) -> int:
    """A coordinate in units of 1/64 pixel, rounded half to even."""
    return round(value * UNITS)


def check_choice(choice: str, choices: Sequence[str] = FACES) -> None:
    """Raise :class:`UsageError` if it is none of ``choices``."""
    if choice not in choices:
        raise UsageError(f"faces is {choice!r}, expected one of {', '.join(choices)}")


def choose(
    faces: Sequence[Face], choice: Literal["all", "largest", "centre"], width: int, height: int
) -> list[Face]:
    """The same faces in the same order; those that are not to be restored have a ``reason``.

    ``largest`` is the face with the largest box, ``centre`` the one whose box's centre is closest
    to the picture's; of equal ones the first.

    Args:
        faces: of one picture, as its detector gave them.
        choice: which are restored; those whose eyes are closer than 5 pixels never are.
        width, height: of the picture in pixels.
    """
    check_choice(choice, ("all", "largest", "centre"))
    if not isinstance(faces, Iterable):
        raise UsageError(f"faces is {faces!r}, expected {', '.join(FACES)} or a list of Face")
    faces = list(faces)
    for face in faces:
        if not isinstance(face, Face):
            raise UsageError(f"faces has a {type(face).__name__}, expected Face: see Face.rounded")
    chosen = [_unless_too_small(face) for face in faces]
    eligible = [i for i, face in enumerate(chosen) if face.reason is None]
    if choice == "all" or not eligible:
        return chosen
    if choice == "largest":
        best = max(eligible, key=lambda i: _area(chosen[i]))
        reason = "it is not the largest face"
    else:
        best = min(eligible, key=lambda i: _from_centre(chosen[i], width, height))
        reason = "it is not the face closest to the centre"
    for i in eligible:
        if i != best:
            chosen[i] = chosen[i].not_restored(reason)
    return chosen


def is_aligned(
    faces: Sequence[Face], width: int, height: int, template: Points, template_size: int
) -> bool:
    """Whether a picture is an aligned square already: what ``auto`` decides by.

    That is if there is exactly one face and each landmark lies within 5 % of the side from the
    template. A picture whose sides differ by more than that is none.

    Args:
        faces: all that the detector sees.
        width, height: of the picture in pixels.
        template, template_size: landmarks in an aligned square, and its side.
    """
    side = max(width, height)
    if len(faces) != 1 or _ALIGNED_WITHIN * (side - min(width, height)) > side:
        return False
    limit = side * units(template_size)
    for point, expected in zip(faces[0].landmarks, template, strict=True):
        x, y = (
            units(actual) * template_size - units(target) * side
            for actual, target in zip(point, expected, strict=True)
        )
        if _ALIGNED_WITHIN**2 * (x * x + y * y) > limit * limit:
            return False
    return True


def _numbers(box: Sequence[float], landmarks: Sequence[Sequence[float]]) -> list[float]:
    """All coordinates of a face.

    Raises:
        ImageError: there are more or fewer.
    """
    flat = [*box, *(c for point in landmarks for c in point)]
    if (len(box), [len(point) for point in landmarks]) != (4, [2] * 5):
        raise ImageError(
            f"a face has {len(box)} edges and {len(flat) - len(box)} coordinates of "
            f"{len(landmarks)} landmarks, expected 4 and x and y of 5"
        )
    return flat


def _on_the_grid(value: float) -> float:
    _check_range(value)
    return units(value) / UNITS


def _check_range(value: float) -> None:
    if not abs(value) <= _MAX_COORDINATE:  # NaN included
        raise ImageError(
            f"a face has the coordinate {value:g}, expected -{_MAX_COORDINATE} to {_MAX_COORDINATE}"
        )


def _unless_too_small(face: Face) -> Face:
    (x0, y0), (x1, y1) = face.landmarks[:2]
    squared = (x1 - x0) ** 2 + (y1 - y0) ** 2  # exact
    if squared >= MIN_EYE_DISTANCE**2:
        return face
    return face.not_restored(
        f"too small: the eyes are {squared**0.5:.1f} pixels apart, expected at least "
        f"{MIN_EYE_DISTANCE}"
    )


def _area(face: Face) -> float:
    left, top, right, bottom = face.box
    return (right - left) * (bottom - top)


def _from_centre(face: Face, width: int, height: int) -> float:
    """Four times the squared distance."""
    left, top, right, bottom = face.box
    return (left + right - (width - 1)) ** 2 + (top + bottom - (height - 1)) ** 2
