"""The restorer of photographs: a bundle with a face detector, opened on a backend."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elir_deploy.errors import UsageError
from elir_deploy.photo.detection import MAX_FACES, FaceDetector, check_detector
from elir_deploy.photo.faces import Face, Faces, check_choice, choose, is_aligned
from elir_deploy.photo.opening import (
    SharedNetwork,
    check_background,
    noise_of_both,
    open_detector,
    square_of,
)
from elir_deploy.photo.restoring import Canvas, Photo, SquareRestorer, empty_output, restore_faces
from elir_deploy.photo.steps import StepTimer, untimed
from elir_deploy.progress import ProgressCallback, no_progress
from elir_deploy.runtime import Bundle, Mode, Restorer
from elir_deploy.runtime.detector_graph import detector_of
from elir_deploy.runtime.forks import Owner
from elir_deploy.runtime.placement import check_image
from elir_deploy.runtime.resampling import EnlargedPicture, resize_into, resize_to
from elir_deploy.runtime.strength import mix_into, rounded_strength

__all__ = ["PhotoRestorer", "PreparedPhoto"]


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
        warning: what of the picture is not restored, and why; None: nothing.
    """

    picture: NDArray[np.uint8]
    faces: Sequence[Face] | None
    aligned: bool
    shown: NDArray[np.uint8] | None = None
    weights: Sequence[float] | None = None
    warning: str | None = None

    @property
    def squares(self) -> int:
        """Faces to restore."""
        return 1 if self.aligned else sum(face.reason is None for face in self.faces or ())


class PhotoRestorer:
    """Restores the faces of whole photographs.

    Faces are found by the bundle's detector, aligned, restored in batches and put back. The
    detector runs in float32 on the backend that restores faces; where that one cannot run it, on
    another, with a RuntimeWarning that says why. With a ``device`` of OpenVINO, it runs on the CPU.

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
        timer: encloses the work of each step; may be replaced to time it.

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
        device: int | str = 0,
        mode: Mode = "latency",
        sigma_s: float | None = None,
        seed: int | None = None,
        long_side: int | None = None,
    ) -> None:
        self._owner = Owner("this PhotoRestorer")
        opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
        self._description = detector_of(opened)
        square = square_of(opened.manifest)
        self.timer: StepTimer = untimed
        options: dict[str, Any] = {"threads": threads, "device": device, "mode": mode}
        # Mistakes are told before models are compiled.
        long_side = check_detector(self._description, long_side)
        if background is not None and not isinstance(background, Restorer | Bundle):
            background = Bundle.open(background)
        if background is not None:
            rest = background if isinstance(background, Bundle) else background.bundle
            check_background(rest.manifest)
        with ExitStack() as undo:
            self.restorer = undo.enter_context(
                Restorer(
                    opened, backend, precision=precision, sigma_s=sigma_s, seed=seed, **options
                )
            )
            template = self._description.template, self._description.template_size
            self.batch = self.restorer.batch_of(square)
            run = self.restorer.run_pixels
            self._squares = SquareRestorer(run, square.height, self.batch, *template)
            self.detector_backend, network = open_detector(
                opened, self.restorer.backend, long_side, threads, device
            )
            self._network = SharedNetwork(network)
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

    def with_options(
        self,
        *,
        sigma_s: float | None = None,
        seed: int | None = None,
        tile_overlap: int | None = None,
    ) -> PhotoRestorer:
        """A restorer with other options that shares the networks; closing either closes both.

        Args:
            sigma_s, seed: of faces and background, or that whose noise is not baked; None: as here.
            tile_overlap: of the background; None: as here.

        Raises:
            UsageError: an argument is invalid, or of no effect.
        """
        other, background = copy(self), self._background
        if background is None and tile_overlap is not None:
            raise UsageError("tile_overlap is for the tiles of a background, and there is none")
        noise: dict[str, Any] = {"sigma_s": sigma_s, "seed": seed}
        rest = None if background is None else background.bundle
        of_faces, of_rest = noise_of_both(noise, self.restorer.bundle, rest)
        other.restorer = self.restorer.with_options(**of_faces)
        other._squares = replace(self._squares, run=other.restorer.run_pixels)
        if background is not None:
            other._background = background.with_options(tile_overlap=tile_overlap, **of_rest)
        return other

    def detect(self, image: NDArray[np.uint8]) -> list[Face]:
        """The faces in (H, W, 3) uint8 RGB, those of the highest scores first.

        Raises:
            ImageError: ``image`` has another shape or type.
            UsageError: the restorer is closed.

        Warns:
            RuntimeWarning: there are more than 1,024.
        """
        found, warning = self._search(image)
        _warn(warning)
        return found

    def _search(self, image: NDArray[np.uint8]) -> tuple[list[Face], str | None]:
        """The faces, and a warning if there are more; no warning: None."""
        self._check_open()
        check_image(image)
        with self.timer("detect"):
            found = self._find(image)
        if len(found) <= MAX_FACES:
            return found, None
        text = f"the picture has more than {MAX_FACES} faces: those of lower scores are left out"
        return found[:MAX_FACES], text

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
                background alike. At 0 no face is searched for and no network runs.

        Returns:
            The picture, and its faces with the reasons why some were left alone; no faces where
            none were searched for.

        Raises:
            ImageError: ``image`` has another shape or type.
            UsageError: ``faces`` or ``scale`` is invalid, or the restorer is closed.

        Warns:
            RuntimeWarning: there are more than 1,024 faces.
        """
        prepared = self.prepare(image, faces, strength=strength)
        _warn(prepared.warning)
        return self.restore_together([prepared], scale, strength=strength)[0]

    __call__ = restore

    def prepare(
        self,
        image: NDArray[np.uint8],
        faces: Faces | Sequence[Face] = "auto",
        *,
        strength: float = 1.0,
    ) -> PreparedPhoto:
        """The first half of :meth:`restore`: find faces and choose among them.

        Args, Raises: as of :meth:`restore`. ``strength`` only matters if it is 0.
        """
        self._check_open()
        check_image(image)
        if not isinstance(faces, str):
            return PreparedPhoto(image, choose(faces, "all", *_size(image)), aligned=False)
        check_choice(faces)
        if faces == "aligned" or rounded_strength(strength) == 0:
            return PreparedPhoto(image, None, aligned=faces == "aligned")
        found, warning = self._search(image)
        template = self._squares.template, self._squares.template_size
        if faces == "auto" and is_aligned(found, *_size(image), *template):
            return PreparedPhoto(image, [replace(found[0], restored=True)], aligned=True)
        chosen = choose(found, "all" if faces == "auto" else faces, *_size(image))
        return PreparedPhoto(image, chosen, aligned=False, warning=warning)

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
            on_progress: called after each tile of a background and each batch of faces.
        """
        self._check_open()
        strength = rounded_strength(strength)
        outputs = [empty_output(prepared.picture, scale) for prepared in group]
        pairs = list(zip(group, outputs, strict=True))
        if strength == 0:
            photos = [Photo(output, _untouched(prepared.faces)) for prepared, output in pairs]
        else:
            photos = self._restored(pairs, on_progress)
        kernel = "none" if scale == 1 else "bicubic"
        for prepared, output in pairs:
            before = prepared.picture if prepared.shown is None else prepared.shown
            mix_into(EnlargedPicture(before, scale, kernel), output, strength)
        return photos

    def _restored(
        self,
        pairs: Sequence[tuple[PreparedPhoto, NDArray[np.uint8]]],
        on_progress: ProgressCallback,
    ) -> list[Photo]:
        """Photographs, restored into the arrays beside them."""
        self._restore_aligned(
            [(prepared.picture, output) for prepared, output in pairs if prepared.aligned]
        )
        photos = []
        canvases = []
        for prepared, output in pairs:
            photo = Photo(output, tuple(prepared.faces or ()))
            if not prepared.aligned:
                filled = self._restore_background(prepared.picture, output, on_progress)
                canvas = Canvas(
                    *(prepared.picture, photo.faces, self._squares, output),
                    *(output if filled else None, prepared.weights),
                )
                canvases.append(canvas)
                photo = canvas.photo
            photos.append(photo)
        restore_faces(canvases, self._squares, self.timer, on_progress)
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

    def _restore_background(
        self, image: NDArray[np.uint8], output: NDArray[np.uint8], on_progress: ProgressCallback
    ) -> bool:
        """Restore the picture into ``output``; false: there is no bundle for that."""
        if self._background is None:
            return False
        restored = self._background.restore(image, on_progress=on_progress)
        if restored.shape == output.shape:
            output[...] = restored
        else:
            resize_into(restored, output)
        return True


def _warn(text: str | None) -> None:
    if text is not None:
        warnings.warn(text, RuntimeWarning, stacklevel=3)


def _untouched(faces: Sequence[Face] | None) -> tuple[Face, ...]:
    return tuple(replace(face, restored=False) for face in faces or ())


def _size(image: NDArray[np.uint8]) -> tuple[int, int]:
    """Width and height."""
    return image.shape[1], image.shape[0]
