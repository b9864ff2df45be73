"""The restorer: a bundle opened on a backend, which restores images of any size."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from elir_deploy import __version__
from elir_deploy.errors import BundleError, ImageError, UsageError
from elir_deploy.progress import ProgressCallback, no_progress
from elir_deploy.runtime.backends import Session
from elir_deploy.runtime.bundle import Bundle
from elir_deploy.runtime.in_order import map_in_order
from elir_deploy.runtime.manifest_file import unsupported_feature
from elir_deploy.runtime.opening import Setup, open_sessions
from elir_deploy.runtime.pool import Pool
from elir_deploy.runtime.read_ahead import read_ahead
from elir_deploy.runtime.resampling import EnlargedPicture, resize_into, resize_to_square
from elir_deploy.runtime.tensors import TensorSpec
from elir_deploy.runtime.tiling import run_tiled

__all__ = ["Fit", "Mode", "Restorer"]

#: How images that are not of the model's size are processed.
Fit = Literal["resize", "tile"]
#: What a backend is optimised for.
Mode = Literal["latency", "throughput"]

#: Images that wait before and after the model in ``map``.
_AHEAD = 2


class Restorer:
    """Restores images with a bundle.

    An image is first enlarged by the task's factor (``sr``: nearest x8, ``bsr``: bicubic x4, else
    1), since the network keeps the size. If it then has the model's size, the model runs on it. If
    not, ``resize`` resizes it to the model's square (bicubic, antialiased, ignoring proportions)
    and the result back; ``tile`` runs the model on overlapping tiles and blends them.

    Calls from several threads are safe: ``concurrency`` of them run, the others wait. Forked child
    processes cannot use it: every call but :meth:`close` raises a UsageError there, and so do runs
    of a :attr:`session` from before the fork.

    Args:
        bundle: a folder, ``tiny``, or an opened :class:`Bundle`. Manifest and hashes are checked.
        backend: a name of :data:`elir_deploy.runtime.backends.BACKENDS`, or ``auto`` for the
            fastest one that can run the bundle on this machine.
        precision: ``fp32``, ``fp16``, ``bf16`` or ``int8``; None: the fastest automatic one.
        fit: ``resize`` or ``tile``; None: ``resize`` for face tasks, ``tile`` for others.
        force: allow a face task to run in tiles, for which it was not trained.
        threads: CPU threads that a run may use; None: the backend's default.
        device: number of the GPU, if there are several.
        mode: ``latency``, or ``throughput`` to run several images at the same time, in :meth:`map`
            and calls from several threads, on backends that gain by it. Each image takes longer.

    Attributes:
        bundle: the opened bundle.
        backend: name of the backend that runs it.
        precision: the precision that runs.
        fit: the value in use.
        concurrency: number of images at the same time; 1 unless ``mode`` is ``throughput``.
        threads: CPU threads that a run uses; None: it uses the GPU, or the number is unknown.

    Raises:
        BundleError: the bundle is damaged, or has no files for the backend.
        UsageError: an argument is invalid.
        UnavailableError: the backend or its device is missing, or no candidate works.

    If ``backend`` or ``precision`` is not named, each candidate first restores the bundle's
    reference picture; one that fails or restores it wrongly is skipped with a RuntimeWarning. If
    both are named, that combination runs, or its error is raised.
    """

    def __init__(
        self,
        bundle: str | Path | Bundle,
        backend: str = "auto",
        *,
        precision: str | None = None,
        fit: Fit | None = None,
        force: bool = False,
        threads: int | None = None,
        device: int = 0,
        mode: Mode = "latency",
    ) -> None:
        if fit is not None and fit not in get_args(Fit):
            raise UsageError(f"fit is {fit!r}, expected one of {', '.join(get_args(Fit))}")
        if mode not in get_args(Mode):
            raise UsageError(f"mode is {mode!r}, expected one of {', '.join(get_args(Mode))}")
        if threads is not None and threads < 1:
            raise UsageError(f"threads is {threads}, expected at least 1")
        self.bundle = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
        reason = unsupported_feature(self.bundle.manifest)
        if reason is not None:
            raise BundleError(f"elir-deploy {__version__} cannot run {self.bundle.path}: {reason}")
        self._model = self.bundle.manifest.model
        self._side = self.bundle.manifest.image_size
        self.fit: Fit = fit or ("resize" if self._model.faces else "tile")
        self._force = force
        setup = Setup(threads, device, throughput=mode == "throughput")
        opened = open_sessions(self.bundle, backend, precision, setup)
        self.backend, self.precision = opened.backend, opened.precision
        self.concurrency = len(opened.sessions)
        self.threads = opened.sessions[0].session.threads
        self._pool = Pool(opened.sessions)

    def __str__(self) -> str:
        """Task, backend, precision and threads, such as "tiny: openvino, bf16, 2 threads"."""
        threads = (
            "" if self.threads is None else f", {self.threads} thread{'s' * (self.threads > 1)}"
        )
        return f"{self._model.task}: {self.backend}, {self.precision}{threads}"

    @property
    def input_spec(self) -> TensorSpec:
        """Input of :meth:`run`."""
        return self.bundle.manifest.input

    @property
    def output_spec(self) -> TensorSpec:
        """Output of :meth:`run`."""
        return self.bundle.manifest.output

    @property
    def session(self) -> Session:
        """The backend's session, with its buffers and a run that allocates nothing.

        While it is used directly, nothing else may use this restorer, in particular ``map``.
        """
        return self._pool.first().session

    def restore(
        self, image: NDArray[np.uint8], *, on_progress: ProgressCallback = no_progress
    ) -> NDArray[np.uint8]:
        """Restore one image.

        Args:
            image: (H, W, 3) uint8 RGB of any size.
            on_progress: called after each tile, if tiles are used, with ``"tiles"``, the number
                done and the number in all.

        Returns:
            (H * upscale, W * upscale, 3) uint8 RGB, a new array.

        Raises:
            ImageError: ``image`` has another shape or type or is empty, or the result does not fit
                into memory.
            UsageError: a face task would run in tiles, or the restorer is closed.
        """
        _check_image(image)
        self.session  # noqa: B018  # raises when closed
        picture = EnlargedPicture(image, self._model.upscale, self._model.upscale_kernel)
        side = self._side
        model_size = (picture.height, picture.width) == (side, side)
        if not model_size and self.fit == "tile":
            self._check_tiles_allowed(picture)
        try:
            output = np.empty((picture.height, picture.width, 3), np.uint8)
        except MemoryError:
            raise ImageError(
                f"the result would be {picture.width}x{picture.height} pixels, "
                f"{3 * picture.height * picture.width / 2**30:.1f} GiB: not enough memory"
            ) from None
        if model_size:
            self._run_pixels(picture.block(0, 0, side, side), output)
        elif self.fit == "resize":
            square = np.empty((side, side, 3), np.uint8)
            self._run_pixels(resize_to_square(picture, side), square)
            resize_into(square, output)
        else:
            run_tiled(picture, output, side, self._run_pixels, on_progress)
        return output

    __call__ = restore

    def map(self, images: Iterable[NDArray[np.uint8]]) -> Generator[NDArray[np.uint8], None, None]:
        """Restore many images, in order, with reading, running and the caller's work overlapped.

        One thread reads from ``images`` and :attr:`concurrency` threads run the model. At most two
        images wait before the model and two after it, and one more if several run. An error, of
        ``images`` or of a run, is raised in its place and ends the iteration. Closing the generator
        early stops the threads; a thread inside ``images`` ends with its current item.

        Args:
            images: each as for :meth:`restore`; may be endless.
        """

        def restored() -> Iterator[NDArray[np.uint8]]:
            with closing(read_ahead(images, _AHEAD)) as sources:
                yield from map_in_order(self.restore, sources, self.concurrency)

        return read_ahead(restored(), _AHEAD)

    def run(self, values: NDArray[Any]) -> NDArray[Any]:
        """Run the model once, without resizing or rounding.

        Args:
            values: array with the shape and dtype of :attr:`input_spec`.

        Returns:
            a new array with the shape and dtype of :attr:`output_spec`.

        Raises:
            ImageError: another shape or dtype.
        """
        spec = self.input_spec
        if values.shape != spec.shape or values.dtype != spec.dtype:
            sides = "x".join(str(side) for side in values.shape)
            raise ImageError(f"values are {values.dtype} {sides}, expected {spec}")
        try:
            return self._pool.take().run(values)
        finally:
            self._pool.give_back()

    def run_pixels(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Run the model once on 8-bit pixels, whatever the input type of its graphs.

        Args:
            pixels: (image_size, image_size, 3) uint8 RGB, already enlarged.

        Returns:
            a new array of the same shape; values out of range are clipped, NaN becomes 0.

        Raises:
            ImageError: another shape or dtype.
        """
        _check_image(pixels)
        side = self._side
        if pixels.shape != (side, side, 3):
            raise ImageError(f"pixels have shape {pixels.shape}, expected {(side, side, 3)}")
        result = np.empty((side, side, 3), np.uint8)
        self._run_pixels(pixels, result)
        return result

    def close(self) -> None:
        """Free the backend's memory; further calls raise a UsageError.

        May be called twice; does nothing in a forked child.
        """
        self._pool.close()

    def __enter__(self) -> Restorer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def input_warning(self, height: int, width: int) -> str | None:
        """Why an image of this size differs from the model's training data; None: it does not."""
        if self._model.faces and max(height, width) > 1.1 * min(height, width):
            return (
                f"{width}x{height} is not square: {self._model.task} expects an aligned face "
                "crop, and gives poor results on other images"
            )
        return None

    def _check_tiles_allowed(self, picture: EnlargedPicture) -> None:
        if self._model.faces and not self._force:
            side = self._side
            raise UsageError(
                f"the image is {picture.width}x{picture.height} at the model's "
                f"scale and the model takes {side}x{side}: {self._model.task} "
                "expects an aligned face crop and is not meant for tiles; use fit "
                "resize (--fit resize) on an aligned crop, or force (--force)"
            )

    def _run_pixels(self, source: NDArray[np.uint8], result: NDArray[np.uint8]) -> None:
        """Run the model from and to 8-bit pixels (side, side, 3)."""
        try:
            self._pool.take().run_pixels(source, result)
        finally:
            self._pool.give_back()


def _check_image(image: object) -> None:
    if not isinstance(image, np.ndarray):
        raise ImageError(f"the image is a {type(image).__name__}, expected a NumPy array")
    if image.ndim != 3 or image.shape[2] != 3:
        hint = ""
        if image.ndim == 3 and image.shape[2] == 4:
            hint = ": pass only the colours, image[:, :, :3]"
        elif image.ndim == 2:
            hint = ": repeat the grey values three times"
        elif image.ndim == 3 and image.shape[0] == 3:
            hint = ": channels come last"
        raise ImageError(f"the image has shape {image.shape}, expected (H, W, 3) RGB{hint}")
    if image.dtype != np.uint8:
        raise ImageError(f"the image is {image.dtype}, expected uint8 from 0 to 255")
    if image.size == 0:
        raise ImageError(f"the image is empty: its shape is {image.shape}")
