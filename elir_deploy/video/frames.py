"""What restores the pictures of films, in order."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from elir_deploy.photo import Faces, Photo, PhotoRestorer
from elir_deploy.photo.restorer import PreparedPhoto
from elir_deploy.runtime import Restorer
from elir_deploy.runtime.in_order import map_in_order
from elir_deploy.runtime.read_ahead import read_ahead, waiting_together
from elir_deploy.runtime.strength import rounded_strength

__all__ = ["FrameRestorer", "PhotographFrames", "WholeFrames"]

#: Restored pictures that wait to be encoded.
_AHEAD = 2


class FrameRestorer(Protocol):
    """What restores the pictures of a film.

    Attributes:
        scale: sides of a restored picture over those of its original.
        bits: of values, 8 or 16.
        faces: number of faces restored so far; None: none are looked for.
    """

    scale: int
    bits: int
    faces: int | None

    def map(self, frames: Iterable[NDArray[Any]]) -> Generator[NDArray[Any], None, None]:
        """Restore upright pictures, in order, overlapped with reading and the caller's work."""


class WholeFrames:
    """Whole pictures through :meth:`Restorer.map`.

    Args:
        restorer: open.
        strength: as of :meth:`Restorer.restore`.
    """

    faces: int | None = None

    def __init__(self, restorer: Restorer, strength: float = 1.0) -> None:
        self._restorer, self._strength = restorer, strength
        self.scale = restorer.bundle.manifest.model.upscale
        self.bits = restorer.bits

    def map(self, frames: Iterable[NDArray[Any]]) -> Generator[NDArray[Any], None, None]:
        return self._restorer.map(frames, strength=self._strength)


class PhotographFrames:
    """Each picture as a photograph: its faces, and the background where there is one.

    Args:
        restorer: open.
        faces, scale, strength: as of :meth:`PhotoRestorer.restore`.
    """

    bits = 8

    def __init__(
        self,
        restorer: PhotoRestorer,
        faces: Faces = "auto",
        scale: int = 1,
        strength: float = 1.0,
    ) -> None:
        self._restorer, self._faces = restorer, faces
        self._strength = rounded_strength(strength)
        self.scale = scale
        self.faces: int | None = None if faces == "aligned" else 0

    def map(self, frames: Iterable[NDArray[np.uint8]]) -> Generator[NDArray[Any], None, None]:
        return read_ahead(self._restored(frames), _AHEAD)

    def _prepared(self, frames: Iterable[NDArray[np.uint8]]) -> Iterator[PreparedPhoto]:
        """Pictures with their faces, drawn in a thread of its own."""
        with closing(read_ahead(frames, 1)) as ahead:
            for frame in ahead:
                yield self._restorer.prepare(frame, self._faces, strength=self._strength)

    def _restored(self, frames: Iterable[NDArray[np.uint8]]) -> Iterator[NDArray[np.uint8]]:
        restorer = self._restorer

        def restore(group: list[PreparedPhoto]) -> list[Photo]:
            return restorer.restore_together(group, self.scale, strength=self._strength)

        with closing(
            waiting_together(self._prepared(frames), restorer.batch, restorer.joins)
        ) as groups:
            for photos in map_in_order(restore, groups, restorer.restorer.concurrency):
                while photos:
                    photo = photos.pop(0)
                    if self.faces is not None:
                        self.faces += sum(face.restored for face in photo.faces)
                    yield photo.pixels
