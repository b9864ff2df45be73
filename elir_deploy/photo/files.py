"""Photographs in files, for ``elir-restore``: faces of one are found while another is restored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from elir_deploy.photo.faces import Faces
from elir_deploy.photo.restorer import PhotoRestorer, PreparedPhoto
from elir_deploy.photo.restoring import Photo
from elir_deploy.progress import ProgressCallback
from elir_deploy.runtime.file_restorer import RestoredImage
from elir_deploy.runtime.images import LoadedImage

__all__ = ["PhotoFileRestorer"]


class PhotoFileRestorer:
    """What :func:`~elir_deploy.runtime.files.restore_files` restores photographs with.

    Args:
        restorer: an open restorer.
        faces, scale: as of :meth:`PhotoRestorer.restore`.
    """

    bits = 8
    instead_of_8_bits = "photographs are restored in 8; with --faces aligned there may be 16"
    has_preparation = True

    def __init__(self, restorer: PhotoRestorer, faces: Faces = "auto", scale: int = 1) -> None:
        self._restorer = restorer
        self._faces: Faces = faces
        self.scale = scale
        self.concurrency = restorer.restorer.concurrency
        self.ahead = restorer.batch

    def input_warning(self, height: int, width: int) -> str | None:
        aligned = self._faces == "aligned"
        return self._restorer.restorer.input_warning(height, width) if aligned else None

    def prepare(self, image: LoadedImage, strength: float) -> PreparedPhoto:
        prepared = self._restorer.prepare(image.opaque(), self._faces, strength=strength)
        return replace(prepared, shown=image.pixels)

    def joins(self, group: list[PreparedPhoto], prepared: PreparedPhoto) -> bool:
        return self._restorer.joins(group, prepared)

    def restore(
        self, group: list[PreparedPhoto], strength: float, on_progress: ProgressCallback
    ) -> list[RestoredImage]:
        photos = self._restorer.restore_together(
            group, self.scale, strength=strength, on_progress=on_progress
        )
        return [_restored(*pair) for pair in zip(group, photos, strict=True)]


def _restored(prepared: PreparedPhoto, photo: Photo) -> RestoredImage:
    if prepared.faces is None:
        return RestoredImage(photo.pixels)
    faces = [face.to_json() for face in photo.faces]
    warning = "; ".join(filter(None, (prepared.warning, _warning(faces)))) or None
    return RestoredImage(photo.pixels, faces, warning)


def _warning(faces: Sequence[dict[str, object]]) -> str | None:
    """Why no face was restored; None: one was."""
    if not faces:
        return "no face was found"
    if any(face["restored"] for face in faces):
        return None
    [first, *others] = dict.fromkeys(str(face["reason"]) for face in faces)
    more = " (and for other reasons)" if others else ""
    return f"no face of {len(faces)} was restored: {first}{more}"
