"""Pictures with their faces restored calmly."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import closing
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from elir_deploy.photo import Face, Faces, PhotoRestorer
from elir_deploy.photo.faces import check_choice, choose
from elir_deploy.photo.restorer import PreparedPhoto
from elir_deploy.runtime.read_ahead import read_ahead
from elir_deploy.video.frames import PhotographFrames
from elir_deploy.video.tracks.cuts import Cuts
from elir_deploy.video.tracks.tracks import EVERY, FADE, LOOKAHEAD, Scene, Track

__all__ = ["TrackedFrames"]


class TrackedFrames(PhotographFrames):
    """Faces followed from picture to picture: fewer are searched, and they flicker less.

    Args:
        restorer: open.
        faces: ``all``, which ``auto`` means here, too; ``largest`` or ``centre``: one that stays
            chosen while it is there.
        scale, strength: as of :meth:`PhotoRestorer.restore`.
    """

    def __init__(
        self,
        restorer: PhotoRestorer,
        faces: Faces = "all",
        scale: int = 1,
        strength: float = 1.0,
    ) -> None:
        check_choice(faces, ("auto", "all", "largest", "centre"))
        super().__init__(restorer, faces, scale, strength)

    def _prepared(self, frames: Iterable[NDArray[np.uint8]]) -> Iterator[PreparedPhoto]:
        if not self._strength:  # nothing is searched for what is not restored
            yield from super()._prepared(frames)
            return
        waiting: deque[tuple[int, NDArray[np.uint8]]] = deque()
        cuts, scene, chosen = Cuts(), Scene(0), _Chosen(self._faces)

        def ended() -> Iterator[PreparedPhoto]:
            last, frame = waiting[-1]
            if (last - scene.begin) % EVERY:
                scene.add(last, self._restorer.detect(frame))
            scene.close(last)
            del frame
            while waiting:
                yield chosen.prepared(scene, *waiting.popleft())

        with closing(read_ahead(frames, 1)) as ahead:
            for number, frame in enumerate(ahead):
                if cuts(frame):
                    yield from ended()
                    scene, chosen = Scene(number), _Chosen(self._faces)
                scene.follow(number, frame)
                if (number - scene.begin) % EVERY == 0:
                    scene.add(number, self._restorer.detect(frame))
                waiting.append((number, frame))
                del frame
                if len(waiting) > LOOKAHEAD:
                    yield chosen.prepared(scene, *waiting.popleft())
        if waiting:
            yield from ended()


class _Chosen:
    """Which faces of a scene are restored."""

    def __init__(self, choice: Faces) -> None:
        assert choice != "aligned"  # which TrackedFrames refuses
        self._choice: Literal["all", "largest", "centre"] = "all" if choice == "auto" else choice
        self._track: Track | None = None
        self._since = 0

    def prepared(self, scene: Scene, number: int, frame: NDArray[np.uint8]) -> PreparedPhoto:
        """A picture with its faces, those that are not restored with a reason."""
        found = scene.at(number)
        size = frame.shape[1], frame.shape[0]
        faces = choose([face for _, face, _ in found], "all", *size)
        weights = [weight for _, _, weight in found]
        if self._choice != "all":
            faces = self._one(number, [track for track, _, _ in found], faces, size)
            fading = (number - self._since + 1) / (FADE + 1) if self._since > scene.begin else 1.0
            weights = [min(weight, fading) for weight in weights]
        return PreparedPhoto(frame, faces, aligned=False, weights=weights)

    def _one(
        self,
        number: int,
        tracks: list[Track],
        faces: list[Face],
        size: tuple[int, int],
    ) -> list[Face]:
        """The same with one chosen, the one of the picture before if it is there."""
        if self._track not in tracks or faces[tracks.index(self._track)].reason is not None:
            chosen = choose(faces, self._choice, *size)
            best = [i for i, face in enumerate(chosen) if face.reason is None]
            self._track = tracks[best[0]] if best else None
            self._since = number
        return [
            face
            if face.reason is not None or track is self._track
            else face.not_restored(f"another one is restored ({self._choice})")
            for track, face in zip(tracks, faces, strict=True)
        ]
