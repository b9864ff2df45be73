"""The restorer of photographs: a bundle with a face detector, opened on a backend."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from elir_deploy.errors import UnavailableError, UsageError
from elir_deploy.photo.detection import FaceDetector
from elir_deploy.photo.faces import Face, Faces, is_aligned
from elir_deploy.photo.restoring import SCALES, Photo, Squares, restore_photo
from elir_deploy.runtime import Bundle, Restorer
from elir_deploy.runtime.backends import BACKENDS
from elir_deploy.runtime.detector_graph import DetectorRun, detector_of
from elir_deploy.runtime.forks import Owner, leak
from elir_deploy.runtime.manifest import Manifest
from elir_deploy.runtime.placement import check_image
from elir_deploy.runtime.resampling import EnlargedPicture, resize_into, resize_to

__all__ = ["PhotoRestorer"]

#: Backends of the detector where that of the faces runs none, in order of preference.
_ALTERNATIVES = ("onnxruntime-cuda", "openvino", "onnxruntime")


class PhotoRestorer:
    """Restores the faces of whole photographs.

    Faces are found by the bundle's detector, aligned, restored in batches and put back. The
    detector runs in float32 on the backend that restores faces; where that one runs no detectors,
    as TensorRT, it runs on another, with a RuntimeWarning that names it.

    Calls from several threads are safe: pictures are searched and faces restored one at a time, the
    other calls wait. Forked child processes cannot use it: every call but :meth:`close` raises a
    UsageError there.

    Args:
        bundle: a folder, or an opened :class:`~elir_deploy.runtime.Bundle`, with a face detector.
        backend, precision, threads, device: as of :class:`~elir_deploy.runtime.Restorer`.
        background: a bundle that restores the rest of the picture in tiles, such as one of ``bsr``,
            or ``tiny``, on the same ``backend``; or an opened Restorer, which stays open; None: the
            rest stays as it is, or is enlarged (bicubic).
        long_side: longer side in pixels that pictures are shrunk to before faces are searched;
            None: the bundle's.

    Attributes:
        restorer: of aligned faces.
        detector_backend: name of the backend that finds faces.

    Raises:
        BundleError: the bundle is damaged or has no face detector.
        UsageError: an argument is invalid, or the bundles are for other pictures.
        UnavailableError: the backend or its device is missing, or no candidate works.
    """

    def __init__(
        self,
        bundle: str | Path | Bundle,
        background: str | Path | Bundle | Restorer | None = None,
        *,
        backend: str = "auto",
        precision: str | None = None,
        threads: int | None = None,
        device: int = 0,
        long_side: int | None = None,
    ) -> None:
        self._owner = Owner("this PhotoRestorer")
        opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
        self._description = detector_of(opened)
        side, batch = _square_of(opened.manifest)
        with ExitStack() as undo:
            self.restorer = undo.enter_context(
                Restorer(opened, backend, precision=precision, threads=threads, device=device)
            )
            template = self._description.template, self._description.template_size
            self._squares = Squares(self.restorer.run_pixels, side, batch, *template)
            self.detector_backend, run = _open_detector(
                opened, self.restorer.backend, threads, device
            )
            self._network = _Network(run)
            self._find = FaceDetector(self._description, self._network, long_side)
            self._background = background if isinstance(background, Restorer) else None
            if background is not None and self._background is None:
                assert not isinstance(background, Restorer)
                self._background = undo.enter_context(
                    Restorer(background, backend, fit="tile", threads=threads, device=device)
                )
            _check_background(self._background)
            self._opened = undo.pop_all()

    def detect(self, image: NDArray[np.uint8]) -> list[Face]:
        """The faces in (H, W, 3) uint8 RGB, those of the highest scores first.

        Raises:
            ImageError: ``image`` has another shape or type.
            UsageError: the restorer is closed.
        """
        self._check_open()
        check_image(image)
        return self._find(image)

    def restore(
        self, image: NDArray[np.uint8], faces: Faces | Sequence[Face] = "auto", scale: int = 1
    ) -> Photo:
        """Restore a photograph.

        Args:
            image: (H, W, 3) uint8 RGB, upright.
            faces: ``all``, ``largest``, the face closest to the ``centre``, or ``aligned``: the
                picture is one aligned face, restored as a square without searching for faces.
                ``auto`` is aligned if there is exactly one face and all five landmarks lie within
                5 % of the side from the template, else all. Or faces that another detector found
                (:meth:`Face.rounded <elir_deploy.photo.Face.rounded>`), all of which are restored.
            scale: 1, 2 or 4 times the size.

        Returns:
            The picture, and its faces with the reasons why some were left alone; no faces where
            none were searched for.

        Raises:
            ImageError: ``image`` has another shape or type.
            UsageError: ``faces`` or ``scale`` is invalid, or the restorer is closed.
        """
        self._check_open()
        check_image(image)
        if scale not in SCALES:
            raise UsageError(f"scale is {scale!r}, expected one of {', '.join(map(str, SCALES))}")
        if isinstance(faces, str) and faces not in get_args(Faces):
            names = ", ".join(get_args(Faces))
            raise UsageError(f"faces is {faces!r}, expected one of {names}, or a list of faces")
        if faces == "aligned":
            return Photo(self._aligned(image, scale), ())
        found = self._find(image) if isinstance(faces, str) else faces
        height, width = image.shape[:2]
        template = self._squares.template, self._squares.template_size
        if faces == "auto" and is_aligned(found, width, height, *template):
            [face] = found
            return Photo(self._aligned(image, scale), (replace(face, restored=True),))
        return restore_photo(
            image,
            lambda _: found,
            self._squares,
            faces=faces if faces in ("largest", "centre") else "all",
            scale=scale,
            background=self._restored_background(image, scale),
        )

    __call__ = restore

    def close(self) -> None:
        """Free the memory of backends; further calls raise a UsageError.

        May be called twice; does nothing in a forked child.
        """
        if self._owner.is_here():
            self._network.close()
            self._opened.close()

    def __enter__(self) -> PhotoRestorer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _check_open(self) -> None:
        self._owner.check()
        self._network.check_open()

    def _aligned(self, image: NDArray[np.uint8], scale: int) -> NDArray[np.uint8]:
        """The picture as one square, brought to the model's size and back."""
        if scale == 1:
            return self.restorer.restore(image)
        side = self._squares.side
        square = image
        if image.shape[:2] != (side, side):
            square = resize_to(EnlargedPicture(image, 1, "none"), side, side)
        restored = self.restorer.run_pixels(square)
        output = np.empty((image.shape[0] * scale, image.shape[1] * scale, 3), np.uint8)
        resize_into(restored, output)
        return output

    def _restored_background(
        self, image: NDArray[np.uint8], scale: int
    ) -> NDArray[np.uint8] | None:
        if self._background is None:
            return None
        restored = self._background.restore(image)
        size = (image.shape[0] * scale, image.shape[1] * scale, 3)
        if restored.shape == size:
            return restored
        output = np.empty(size, np.uint8)
        resize_into(restored, output)
        return output


class _Network:
    """The detector's network, for one thread at a time."""

    def __init__(self, run: DetectorRun) -> None:
        self._owner = Owner("this PhotoRestorer")
        self._run: DetectorRun | None = run
        self._lock = threading.Lock()

    def __call__(self, picture: NDArray[np.float32]) -> Mapping[str, NDArray[np.float32]]:
        with self._lock:
            self.check_open()
            assert self._run is not None
            return self._run(picture)

    def check_open(self) -> None:
        if self._run is None:
            raise UsageError("this PhotoRestorer is closed: open a new one")

    def close(self) -> None:
        with self._lock:
            self._run = None

    def __del__(self) -> None:
        if not self._owner.is_here():
            leak(self._run)


def _square_of(manifest: Manifest) -> tuple[int, int]:
    """Side and batch of the squares that the bundle restores.

    Raises:
        UsageError: it is not for aligned faces.
    """
    model = manifest.model
    for shape in manifest.shapes:
        if model.faces and model.upscale == 1 and shape.height == shape.width:
            return shape.height, shape.batch
    raise UsageError(
        f"the bundle is of {model.task}, expected one that restores squares of aligned faces, such "
        "as bfr"
    )


def _check_background(restorer: Restorer | None) -> None:
    if restorer is not None and restorer.bundle.manifest.model.faces:
        raise UsageError(
            f"the background's bundle is of {restorer.bundle.manifest.model.task}, which is for "
            "aligned faces: expected one for any picture, such as bsr"
        )


def _open_detector(
    bundle: Bundle, faces: str, threads: int | None, device: int
) -> tuple[str, DetectorRun]:
    """The name of the backend, and the detector on it.

    Args:
        bundle: with a detector.
        faces: name of the backend that restores faces.
        threads, device: as of :class:`Restorer`.
    """
    reasons = []
    for name in dict.fromkeys((faces, *_ALTERNATIVES)):
        try:
            run = BACKENDS[name].open_detector(bundle, threads=threads, device=device)
        except UnavailableError as error:
            reasons.append(f"{name}: {error}")
            continue
        if reasons:
            warnings.warn(
                f"the face detector runs on {name}: {'; '.join(reasons)}",
                RuntimeWarning,
                stacklevel=3,
            )
        return name, run
    raise UnavailableError(f"nothing here can run the face detector: {'; '.join(reasons)}")
