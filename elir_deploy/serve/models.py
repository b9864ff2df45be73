"""The models of a service: opened bundles, and what they restore images with."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from elir_deploy.errors import UsageError
from elir_deploy.photo import FACES, SCALES, PhotoRestorer
from elir_deploy.photo.choices import Choices, open_pictures
from elir_deploy.photo.files import PhotoFileRestorer
from elir_deploy.runtime import Bundle, Restorer
from elir_deploy.runtime.file_restorer import FileRestorer, ImageRestorer

__all__ = ["Model", "named_bundles"]


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
        self._lock = threading.Lock()
        opened = open_pictures(choices, stack)
        self._photos = opened if isinstance(opened, PhotoRestorer) else None
        self.has_faces = self._photos is not None
        restorer = opened if isinstance(opened, Restorer) else opened.restorer
        self.concurrency = restorer.concurrency
        self._title = str(opened)
        self._whole = ImageRestorer(restorer)
        self._variants: dict[tuple[str, int], FileRestorer] = {}

    def __str__(self) -> str:
        """What runs, such as "bfr: openvino, bf16, 2 threads; faces by yunet on openvino"."""
        return self._title

    def restorer(self, faces: str | None = None, scale: int = 1) -> FileRestorer:
        """What restores images; the same object for the same choices, whose images share runs.

        Args:
            faces, scale: as of :meth:`~elir_deploy.photo.PhotoRestorer.restore`; ``faces`` None:
                ``auto`` with a detector, else the image as a whole.

        Raises:
            UsageError: a choice is invalid, or of photographs without a detector.
        """
        if faces is not None and faces not in FACES:
            raise UsageError(f"faces is {faces!r}, expected one of {', '.join(FACES)}")
        if scale not in SCALES:
            raise UsageError(f"scale is {scale}, expected one of {', '.join(map(str, SCALES))}")
        if self._photos is None:
            if faces not in (None, "aligned") or scale != 1:
                raise UsageError(
                    f"faces and scale are for photographs, and the bundle of {self.name} has no "
                    "face detector: leave them out"
                )
            return self._whole
        key: Any = (faces or "auto", scale)
        with self._lock:
            if key not in self._variants:
                self._variants[key] = PhotoFileRestorer(self._photos, *key)
            return self._variants[key]

    def whole(self) -> FileRestorer:
        """What restores images as a whole, without searching for faces."""
        return self._whole


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
