"""The models of a service: opened bundles, and what they restore images with."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from elir_deploy.errors import UsageError
from elir_deploy.photo import FACES, SCALES, Faces, PhotoRestorer
from elir_deploy.photo.choices import Choices, open_pictures
from elir_deploy.photo.files import PhotoFileRestorer
from elir_deploy.runtime import Bundle, Restorer
from elir_deploy.runtime.file_restorer import FileRestorer, ImageRestorer
from elir_deploy.serve.parameters import RunOptions

__all__ = ["Model", "named_bundles"]

#: Restorers kept for options of requests; they share the network, and have noise of their own.
_KEPT = 64
_AS_STARTED = RunOptions()


class Model:
    """An opened bundle.

    Args:
        name: by which clients call it.
        choices: the bundle, and how it runs.
        stack: at whose end it is closed.

    Attributes:
        name: by which clients call it.
        bundle: the bundle.
        concurrency: images or batches at the same time.
        has_faces: whether it restores faces in photographs.
    """

    def __init__(self, name: str, choices: Choices, stack: ExitStack) -> None:
        self.name = name
        self.bundle = choices.bundle
        opened = open_pictures(choices, stack)
        self._photos = opened if isinstance(opened, PhotoRestorer) else None
        self.has_faces = self._photos is not None
        restorer = opened if isinstance(opened, Restorer) else opened.restorer
        self.concurrency = restorer.concurrency
        self._title = str(opened)
        self._whole = restorer
        # The same object for the same choices, whose images share runs.
        self._of_photos = functools.lru_cache(_KEPT)(self._open_photos)
        self._of_images = functools.lru_cache(_KEPT)(self._open_images)

    def __str__(self) -> str:
        """What runs, such as "bfr: openvino, bf16, 2 threads; faces by yunet on openvino"."""
        return self._title

    @property
    def introduction(self) -> str:
        """The name and what runs, which begins with the task."""
        named_as_task = self.name == self.bundle.manifest.model.task
        return self._title if named_as_task else f"{self.name}: {self._title}"

    def restorer(
        self, faces: str | None = None, scale: int = 1, run: RunOptions = _AS_STARTED
    ) -> FileRestorer:
        """What restores images; the same object for the same choices, whose images share runs.

        Args:
            faces, scale: as of :meth:`~elir_deploy.photo.PhotoRestorer.restore`; ``faces`` None:
                ``auto`` with a detector, else the image as a whole.
            run: how they run.

        Raises:
            UsageError: a choice is invalid or not for this bundle.
        """
        if faces is not None and faces not in FACES:
            raise UsageError(f"faces is {faces[:80]!r}, expected one of {', '.join(FACES)}")
        if scale not in SCALES:
            raise UsageError(f"scale is {scale}, expected one of {', '.join(map(str, SCALES))}")
        if self._photos is None and (faces not in (None, "aligned") or scale != 1):
            raise UsageError(
                f"faces and scale are for photographs, and the bundle of {self.name} has no face "
                "detector: leave them out"
            )
        if self._photos is None or (faces == "aligned" and scale == 1):  # as elir-restore
            return self._of_images(run)
        if run.fit is not None:
            raise UsageError(
                f"fit is for images that the model sees as a whole, and {self.name} restores faces "
                "in photographs: leave it out, or add faces=aligned"
            )
        return self._of_photos(faces or "auto", scale, run)

    def whole(self, run: RunOptions = _AS_STARTED) -> FileRestorer:
        """What restores images as a whole, without searching for faces.

        Args, Raises: as of :meth:`restorer`.
        """
        return self._of_images(run)

    def _open_images(self, run: RunOptions) -> FileRestorer:
        return ImageRestorer(self._whole.with_options(**run.chosen))

    def _open_photos(self, faces: Faces, scale: int, run: RunOptions) -> FileRestorer:
        assert self._photos is not None
        return PhotoFileRestorer(self._photos.with_options(**run.chosen), faces, scale)


def named_bundles(bundles: Sequence[str]) -> dict[str, Bundle]:
    """Opened bundles by the names of their folders, which models have.

    Raises:
        UsageError: two have the same name.
        BundleError: one cannot be opened.
    """
    opened = {Path(name).resolve().name: Bundle.open(name) for name in bundles}
    if len(opened) < len(bundles):
        raise UsageError("two bundles have the same name: rename the folder of one")
    return opened
