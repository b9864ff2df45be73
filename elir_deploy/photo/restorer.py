"""The restorer of photographs: a bundle with a face detector, opened on a backend."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elir_deploy.errors import UsageError
from elir_deploy.photo.detection import FaceDetector, check_detector
from elir_deploy.photo.faces import Face, Faces, check_choice, choose, is_aligned
from elir_deploy.photo.opening import open_detector
from elir_deploy.photo.restoring import (
    Canvas,
    Photo,
    Squares,
    empty_output,
    restore_faces,
)
from elir_deploy.photo.stages import StageTimer, untimed
from elir_deploy.progress import ProgressCallback, no_progress
from elir_deploy.runtime import Bundle, Mode, Restorer
from elir_deploy.runtime.detector_graph import DetectorNetwork, detector_of
from elir_deploy.runtime.forks import Owner, leak
from elir_deploy.runtime.manifest import Manifest, Shape
from elir_deploy.runtime.placement import check_image, empty_result
from elir_deploy.runtime.resampling import EnlargedPicture, resize_into, resize_to
from elir_deploy.runtime.strength import mix_into, rounded_strength

__all__ = ["PhotoRestorer", "PreparedPhoto"]

#: Side of a square in pixels, so that its mask has a rim.
_MIN_SIDE = 16


@dataclass(frozen=True)
class PreparedPhoto:
    """A photograph, and what is to be done with it.

    Attributes:
        picture: (H, W, 3) uint8 RGB.
        faces: those that were found, of which those without a reason are restored; None: none
            were looked for.
        aligned: restore the picture as one square.
        shown: the picture with the colours hidden by its transparency, which a strength below 1
            mixes in; None: ``picture``.
        weights: of each face, how much of its restoration is put back, 0 to 1; None: all.
    """

    picture: NDArray[np.uint8]
    faces: Sequence[Face] | None
    aligned: bool
    shown: NDArray[np.uint8] | None = None
    weights: Sequence[float] | None = None

    @property
    def squares(self) -> int:
        """Faces to restore."""
        return 1 if self.aligned else sum(face.reason is None for face in self.faces or ())


class PhotoRestorer:
    """Restores the faces of whole photographs.

    Faces are found by the bundle's detector, aligned, restored in batches and put back. The
    detector runs in float32 on the backend that restores faces; where that one cannot run it, on
    another, with a RuntimeWarning that says why.

    Calls from several threads are safe: pictures are searched and faces restored one at a time, the
    other calls wait. Forked child processes cannot use it: every call but :meth:`close` raises a
    UsageError there.

    Args:
        bundle: a folder, or an opened :class:`~elir_deploy.runtime.Bundle`, with a face detector.
        backend, precision, threads, device, mode: as for :class:`~elir_deploy.runtime.Restorer`.
        sigma_s, seed: as for Restorer, of the noise of faces.
        background: a bundle that restores the rest of the picture in tiles, such as one of ``bsr``,
            or ``tiny``, on the same ``backend``; or an opened Restorer, which stays open; None: the
            rest stays as it is, or is enlarged (bicubic).
        long_side: longer side in pixels that pictures are shrunk to before faces are searched;
            None: the bundle's.

    Attributes:
        restorer: of aligned faces.
        detector_backend: name of the backend that finds faces.
        batch: faces that are restored together.
        timer: encloses the work of each stage; may be replaced to time it.

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
        mode: Mode = "latency",
        sigma_s: float | None = None,
        seed: int | None = None,
        long_side: int | None = None,
    ) -> None:
        self._owner = Owner("this PhotoRestorer")
        opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
        self._description = detector_of(opened)
        square = _square_of(opened.manifest)
        self.timer: StageTimer = untimed
        options: dict[str, Any] = {"threads": threads, "device": device, "mode": mode}
        # Mistakes are told before models are compiled.
        long_side = check_detector(self._description, long_side)
        if background is not None and not isinstance(background, Restorer | Bundle):
            background = Bundle.open(background)
        if background is not None:
            rest = background if isinstance(background, Bundle) else background.bundle
            _check_background(rest.manifest)
        with ExitStack() as undo:
            self.restorer = undo.enter_context(
                Restorer(
                    opened, backend, precision=precision, sigma_s=sigma_s, seed=seed, **options
                )
            )
            template = self._description.template, self._description.template_size
            self.batch = self.restorer.batch_of(square)
            run = self.restorer.run_pixels
            self._squares = Squares(run, square.height, self.batch, *template)
            self.detector_backend, network = open_detector(
                opened, self.restorer.backend, long_side, threads, device
            )
            self._network = _Network(network)
            undo.callback(self._network.close)
            locked = replace(network, run=self._network.run)
            self._find = FaceDetector(self._description, locked, long_side)
            if isinstance(background, Bundle):
                background = undo.enter_context(
                    Restorer(background, backend, fit="tile", **options)
                )
            self._background = background
            self._opened = undo.pop_all()

    def __str__(self) -> str:
        """What runs it, such as "bfr: openvino, bf16, 2 threads; faces by yunet on openvino"."""
        detector = f"faces by {self._description.name} on {self.detector_backend}"
        background = "" if self._background is None else f"; background by {self._background}"
        return f"{self.restorer}; {detector}{background}"

    def detect(self, image: NDArray[np.uint8]) -> list[Face]:
        """The faces in (H, W, 3) uint8 RGB, those of the highest scores first.

        Raises:
            ImageError: ``image`` has another shape or type.
            UsageError: the restorer is closed.
        """
        self._check_open()
        check_image(image)
        with self.timer("detect"):
            return self._find(image)

    def restore(
        self,
        image: NDArray[np.uint8],
        faces: Faces | Sequence[Face] = "auto",
        scale: int = 1,
        *,
        strength: float = 1.0,
    ) -> Photo:
        """Restore a photograph.

        Args:
            image: (H, W, 3) uint8 RGB, upright.
            faces: ``all``, ``largest``, the face closest to the ``centre``, or ``aligned``: the
                picture is one aligned face, restored as a square without searching for faces.
                ``auto`` is aligned if there is exactly one face, all five landmarks lie within
                5 % of the side from the template, and the sides differ by at most 5 %; else all.
                Or faces that another detector found
                (:meth:`Face.rounded <elir_deploy.photo.Face.rounded>`), all of which are restored.
            scale: 1, 2 or 4 times the size.
            strength: from 0, the image itself, enlarged (bicubic), to 1, its restoration, faces and
                background alike.

        Returns:
            The picture, and its faces with the reasons why some were left alone; no faces where
            none were searched for.

        Raises:
            ImageError: ``image`` has another shape or type.
            UsageError: ``faces`` or ``scale`` is invalid, or the restorer is closed.
        """
        return self.restore_together([self.prepare(image, faces)], scale, strength=strength)[0]

    __call__ = restore

    def prepare(
        self, image: NDArray[np.uint8], faces: Faces | Sequence[Face] = "auto"
    ) -> PreparedPhoto:
        """The first half of :meth:`restore`: find faces and choose among them.

        Args, Raises: as of :meth:`restore`.
        """
        self._check_open()
        check_image(image)
        if not isinstance(faces, str):
            return PreparedPhoto(image, choose(faces, "all", *_size(image)), aligned=False)
        check_choice(faces)
        if faces == "aligned":
            return PreparedPhoto(image, None, aligned=True)
        found = self.detect(image)
        template = self._squares.template, self._squares.template_size
        if faces == "auto" and is_aligned(found, *_size(image), *template):
            return PreparedPhoto(image, [replace(found[0], restored=True)], aligned=True)
        choice = "all" if faces == "auto" else faces
        return PreparedPhoto(image, choose(found, choice, *_size(image)), aligned=False)

    def joins(self, group: Sequence[PreparedPhoto], prepared: PreparedPhoto) -> bool:
        """Whether the faces of one more photograph fit into the same batch."""
        squares = sum(each.squares for each in (*group, prepared))
        return group[0].aligned == prepared.aligned and squares <= self.batch

    def restore_together(
        self,
        group: Sequence[PreparedPhoto],
        scale: int = 1,
        *,
        strength: float = 1.0,
        on_progress: ProgressCallback = no_progress,
    ) -> list[Photo]:
        """The second half of :meth:`restore`, for several photographs: faces share batches.

        Args:
            group: of :meth:`prepare`.
            scale, strength: as of :meth:`restore`.
            on_progress: called after each tile of a background.
        """
        self._check_open()
        strength = rounded_strength(strength)
        outputs = [empty_output(prepared.picture, scale) for prepared in group]
        pairs = list(zip(group, outputs, strict=True))
        self._restore_aligned(
            [(prepared.picture, output) for prepared, output in pairs if prepared.aligned]
        )
        photos = []
        canvases = []
        for prepared, output in pairs:
            photo = Photo(output, tuple(prepared.faces or ()))
            if not prepared.aligned:
                background = self._restored_background(prepared.picture, output.shape, on_progress)
                canvases.append(
                    Canvas(
                        prepared.picture,
                        photo.faces,
                        self._squares,
                        output,
                        background,
                        prepared.weights,
                    )
                )
                photo = canvases[-1].photo
            photos.append(photo)
        restore_faces(canvases, self._squares, self.timer)
        kernel = "none" if scale == 1 else "bicubic"
        for prepared, output in pairs:
            before = prepared.picture if prepared.shown is None else prepared.shown
            mix_into(EnlargedPicture(before, scale, kernel), output, strength)
        return photos

    def close(self) -> None:
        """Free the memory of backends; further calls raise a UsageError.

        May be called twice; does nothing in a forked child.
        """
        if self._owner.is_here():
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

    def _restore_aligned(
        self, pairs: Sequence[tuple[NDArray[np.uint8], NDArray[np.uint8]]]
    ) -> None:
        """Pictures that are one square each, brought to the model's size and to their outputs'."""
        side = self._squares.side
        squares = [
            picture
            if picture.shape[:2] == (side, side)
            else resize_to(EnlargedPicture(picture, 1, "none"), side, side)
            for picture, _ in pairs
        ]
        if squares:
            with self.timer("run"):
                restored = self.restorer.run_pixels(np.stack(squares))
            for square, (_, output) in zip(restored, pairs, strict=True):
                resize_into(square, output)

    def _restored_background(
        self, image: NDArray[np.uint8], shape: tuple[int, ...], on_progress: ProgressCallback
    ) -> NDArray[np.uint8] | None:
        if self._background is None:
            return None
        restored = self._background.restore(image, on_progress=on_progress)
        if restored.shape == shape:
            return restored
        output = empty_result(shape[0], shape[1])
        resize_into(restored, output)
        return output


class _Network:
    """The detector's network, which other threads wait for."""

    def __init__(self, network: DetectorNetwork) -> None:
        self._owner = Owner("this PhotoRestorer")
        self._network: DetectorNetwork | None = network
        self._lock = threading.Lock()

    def run(self, picture: NDArray[np.float32]) -> Mapping[str, NDArray[np.float32]]:
        with self._lock:
            return self._opened().run(picture)

    def _opened(self) -> DetectorNetwork:
        if self._network is None:
            raise UsageError("this PhotoRestorer is closed: open a new one")
        return self._network

    def check_open(self) -> None:
        self._opened()

    def close(self) -> None:
        with self._lock:
            network, self._network = self._network, None
            if network is not None:
                network.close()

    def __del__(self) -> None:
        if not self._owner.is_here():
            leak(self._network)


def _size(image: NDArray[np.uint8]) -> tuple[int, int]:
    """Width and height."""
    return image.shape[1], image.shape[0]


def _square_of(manifest: Manifest) -> Shape:
    """The shape of the squares that the bundle restores.

    Raises:
        UsageError: it is not for aligned faces.
    """
    model = manifest.model
    for shape in manifest.shapes:
        square = shape.height == shape.width >= _MIN_SIDE
        if model.faces and model.upscale == 1 and square:
            return shape
    raise UsageError(
        f"the bundle is for the task {model.task}; PhotoRestorer needs one for aligned faces, such "
        "as bfr"
    )


def _check_background(manifest: Manifest) -> None:
    if manifest.model.faces:
        raise UsageError(
            f"the background bundle is for the task {manifest.model.task} (aligned faces): use one "
            "for any picture, such as bsr"
        )
