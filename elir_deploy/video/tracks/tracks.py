"""The faces of one scene: detections joined to tracks, and where a track is in a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from elir_deploy.photo import Face
from elir_deploy.photo.faces import MIN_EYE_DISTANCE
from elir_deploy.video.tracks.motion import STILL, Movement, Points, movement_between, spread
from elir_deploy.video.tracks.smoothing import WINDOW, smoothed

__all__ = ["EVERY", "FADE", "LOOKAHEAD", "Scene", "Track"]

#: Faces are detected in every so many pictures.
EVERY = 2
#: Pictures over which a face fades in or out.
FADE = 6
#: Detections that may miss a face before it is taken for gone.
_MISSED = 1
#: Pictures that must be known after one before its faces are.
LOOKAHEAD = max(WINDOW, FADE + (_MISSED + 1) * EVERY)
#: Mean distance of landmarks over the face's size, and ratio of sizes, up to which it is the same.
_FARTHEST, _LARGEST_RATIO = 2.0, 1.6
#: The same distance where the pictures do not show how it moved, as at a cut that was missed.
_JUMP = 0.5
#: Distance of the eyes in pixels from which a face is restored in full; it fades out below.
_FULL_EYES = MIN_EYE_DISTANCE + 2.0


@dataclass(frozen=True)
class _Sample:
    """A face in a picture.

    Attributes:
        number: of the picture.
        values: (14,) x and y of five landmarks, then the box.
    """

    number: int
    values: NDArray[np.float64]
    score: float

    @classmethod
    def of(cls, number: int, face: Face) -> _Sample:
        flat = [c for point in face.landmarks for c in point]
        return cls(number, np.array([*flat, *face.box]), face.score)

    @property
    def points(self) -> Points:
        """(5,) the landmarks as x + iy."""
        return self.values[:10].view(np.complex128)

    def moved(self, movement: Movement) -> NDArray[np.float64]:
        """(14,) its values after a movement; the box stays upright."""
        corners = self.values[10:].view(np.complex128)
        half = abs(movement.factor) * (corners[1] - corners[0]) / 2
        around = movement(corners.mean(keepdims=True))
        points = np.concatenate([movement(self.points), around - half, around + half])
        return points.view(np.float64)


@dataclass(eq=False)
class Track:
    """A face through the pictures of a scene.

    Attributes:
        first, last: the first and the last picture that it was seen in.
        seen: how often.
        samples: where it was seen; old ones are dropped.
        movements: how it moved to a picture from the one before, by the picture's number.
    """

    first: int
    last: int
    seen: int = 0
    samples: list[_Sample] = field(default_factory=list)
    movements: dict[int, Movement] = field(default_factory=dict)
    #: Landmarks in the latest picture, and how far they moved to it.
    _points: Points = field(default_factory=lambda: np.zeros(5, np.complex128))
    _speed: complex = 0j
    #: Whether the pictures since it was last detected leave open how it moved.
    _lost: bool = False

    def add(self, sample: _Sample) -> None:
        self.last = sample.number
        self.seen += 1
        self.samples.append(sample)
        self._points = sample.points
        self._lost = False

    def follow(self, number: int, before: NDArray[np.uint8], now: NDArray[np.uint8]) -> None:
        """From one picture to the next; where that cannot be seen it goes on as it did."""
        seen = movement_between(before, now, self._points)
        self._lost = self._lost or seen is None
        moved = seen or Movement(1, self._speed)
        points = moved(self._points)
        self._speed = complex((points - self._points).mean())
        self._points = points
        self.movements[number] = moved

    def forget(self, number: int) -> None:
        """Drop what is too old for a picture and those after it."""
        while len(self.samples) > 2 and self.samples[1].number < number - WINDOW:
            del self.samples[0]
        begin = self.samples[0].number
        self.movements = {n: moved for n, moved in self.movements.items() if n > begin}

    def distance(self, sample: _Sample) -> float:
        """How unlike a face is what is expected of this one; infinite: it is another."""
        last, expected = self.samples[-1], self.samples[-1].points
        if len(self.samples) > 1:
            before = self.samples[-2]
            steps = (sample.number - last.number) / (last.number - before.number)
            expected = expected + steps * (last.points - before.points)
        size = max(spread(last.points), 1e-3)
        ratio = max(spread(sample.points), 1e-3) / size
        if not 1 / _LARGEST_RATIO < ratio < _LARGEST_RATIO:
            return np.inf
        places, farthest = [expected], _FARTHEST
        if self._lost:
            places, farthest = [expected, self._points], _JUMP
        far = min(float(np.abs(sample.points - each).mean()) for each in places) / size
        return far if far < farthest else np.inf

    def face(self, number: int) -> Face:
        """The face in a picture, smoothed."""
        numbers = np.array([sample.number for sample in self.samples])
        values = smoothed(numbers, self._carried(number), number)
        score = self.samples[int(np.abs(numbers - number).argmin())].score
        return Face.rounded(values[10:].tolist(), values[:10].reshape(5, 2).tolist(), score)

    def _carried(self, number: int) -> NDArray[np.float64]:
        """(n, 14) samples, each moved to a picture as the face did in between."""
        movements = {number: STILL}
        for later in range(number + 1, self.last + 1):
            back = self.movements.get(later, STILL).back()
            movements[later] = movements[later - 1].after(back)
        for earlier in range(number - 1, self.samples[0].number - 1, -1):
            onward = self.movements.get(earlier + 1, STILL)
            movements[earlier] = movements[earlier + 1].after(onward)
        return np.stack([sample.moved(movements[sample.number]) for sample in self.samples])


class Scene:
    """The faces of a scene.

    Args:
        begin: number of its first picture.
    """

    def __init__(self, begin: int) -> None:
        self.begin = begin
        self._end: int | None = None
        self._tracks: list[Track] = []
        self._picture: NDArray[np.uint8] | None = None

    def follow(self, number: int, picture: NDArray[np.uint8]) -> None:
        """Show it a picture, (H, W, 3) uint8, before its faces; each one in order."""
        before, self._picture = self._picture, picture
        if before is not None:
            for track in self._living(number):
                track.follow(number, before, picture)

    def add(self, number: int, faces: Sequence[Face]) -> None:
        """Join the faces of a picture to tracks, nearest first; the others begin new ones."""
        samples = [_Sample.of(number, face) for face in faces]
        living = self._living(number)
        pairs = sorted(
            (track.distance(sample), i, j)
            for i, track in enumerate(living)
            for j, sample in enumerate(samples)
        )
        tracks: dict[int, int] = {}
        for distance, i, j in pairs:
            if distance < np.inf and i not in tracks.values() and j not in tracks:
                tracks[j] = i
        for j, sample in enumerate(samples):
            if j not in tracks:
                self._tracks.append(Track(number, number))
            (living[tracks[j]] if j in tracks else self._tracks[-1]).add(sample)

    def _living(self, number: int) -> list[Track]:
        """Those that may still be in a picture."""
        return [track for track in self._tracks if track.last >= number - (_MISSED + 1) * EVERY]

    def close(self, end: int) -> None:
        """There are no pictures after number ``end``."""
        self._end = end

    def at(self, number: int) -> list[tuple[Track, Face, float]]:
        """The faces in a picture, and how much of their restoration is to be kept.

        The scene must be known up to :data:`LOOKAHEAD` pictures after it, or closed. Pictures are
        asked for in order.
        """
        for track in self._tracks:
            track.forget(number)
        self._tracks = [track for track in self._tracks if track.last >= number]
        found = []
        for track in self._tracks:
            # One that was seen once is a mistake of the detector, but in a scene of one picture.
            if track.first <= number and (track.seen > 1 or self.begin == self._end):
                face = track.face(number)
                found.append((track, face, self._weight(track, face, number)))
        return [each for each in found if each[2] > 0]

    def _weight(self, track: Track, face: Face, number: int) -> float:
        (x0, y0), (x1, y1) = face.landmarks[:2]
        weight = (np.hypot(x1 - x0, y1 - y0) - MIN_EYE_DISTANCE) / (_FULL_EYES - MIN_EYE_DISTANCE)
        if track.first != self.begin:
            weight = min(weight, (number - track.first + 1) / (FADE + 1))
        if track.last != self._end:
            weight = min(weight, (track.last - number + 1) / (FADE + 1))
        return float(min(1.0, weight))
