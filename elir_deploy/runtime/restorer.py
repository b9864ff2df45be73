"""The restorer: a bundle opened on a backend, from picture to picture."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from elir_deploy import __version__
from elir_deploy.errors import BundleError, ImageError, UsageError
from elir_deploy.runtime.backends import Session
from elir_deploy.runtime.bundle import Bundle
from elir_deploy.runtime.in_order import map_in_order
from elir_deploy.runtime.manifest_file import not_served
from elir_deploy.runtime.opening import Setup, open_sessions
from elir_deploy.runtime.pool import Pool
from elir_deploy.runtime.read_ahead import read_ahead
from elir_deploy.runtime.resampling import EnlargedPicture, resize_into, resize_to_square
from elir_deploy.runtime.tensors import TensorSpec
from elir_deploy.runtime.tiling import run_tiled

__all__ = ["Fit", "Mode", "Restorer"]

#: How an image of another size than the model's is brought to it.
Fit = Literal["resize", "tile"]
#: What a backend is set up for: one image as fast as can be, or the most images in a second.
Mode = Literal["latency", "throughput"]

#: Images held between reading and running, and between running and the caller, in ``map``.
_AHEAD = 2


class Restorer:
    """Restores images with a bundle.

    An image is first enlarged by the task's factor (``sr``: nearest x8, ``bsr``: bicubic x4; 1 for
    the others): the network keeps the size. If that gives the model's own size, the model runs on
    it. If not, ``resize`` brings it to the model's square (bicubic, antialiased, proportions not
    kept) and the result back; ``tile`` runs the model on overlapping tiles and blends them.

    Calls from several threads are safe: as many as ``concurrency`` run, the others take turns. A
    child process made by a fork cannot use it: every call but :meth:`close` raises a UsageError
    there.

    Args:
        bundle: a folder, ``tiny``, or an opened :class:`Bundle`. Manifest and hashes are checked.
        backend: a name of :data:`elir_deploy.runtime.backends.BACKENDS`, or ``auto`` for the
            fastest that this machine and the bundle have in common.
        precision: ``fp32``, ``fp16``, ``bf16`` or ``int8``; None: the fastest that the bundle's
            verification lets run unasked.
        fit: ``resize`` or ``tile``; None: ``resize`` for face tasks, ``tile`` for the others.
        force: let a face task run in tiles, which it was not trained for.
        threads: CPU threads a run may use; None leaves it to the backend.
        device: number of the GPU, where there are several.
        mode: ``latency``, or ``throughput`` to let a backend that gains by it run several images
            at once, which :meth:`map` and calls from several threads then do. Each takes longer.

    Attributes:
        bundle: the opened bundle.
        backend: name of the backend that runs it.
        precision: the one that runs.
        fit: the one in use.
        concurrency: how many images it runs at a time; 1 unless ``mode`` is ``throughput``.
        threads: CPU threads that run them; None: on no CPU, or the backend does not tell.

    Raises:
        BundleError: the bundle is damaged, or holds nothing for the backend.
        UsageError: an argument is off.
        UnavailableError: the backend or its device is not there, or nothing that may run works.

    Where ``backend`` or ``precision`` is left open, each candidate restores the bundle's own
    picture once before it is taken; one that fails, or restores it wrongly, is passed over with a
    RuntimeWarning. Where both are named there is no other: it runs, or its error is raised.
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
            raise UsageError(f"fit is {fit!r}, wanted one of {', '.join(get_args(Fit))}")
        if mode not in get_args(Mode):
            raise UsageError(f"mode is {mode!r}, wanted one of {', '.join(get_args(Mode))}")
        if threads is not None and threads < 1:
            raise UsageError(f"threads is {threads}, wanted at least 1")
        self.bundle = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
        missing = not_served(self.bundle.manifest)
        if missing is not None:
            raise BundleError(f"elir-deploy {__version__} cannot run {self.bundle.path}: {missing}")
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
        """One line on what runs, such as "tiny: openvino, bf16, 2 threads"."""
        threads = (
            "" if self.threads is None else f", {self.threads} thread{'s' * (self.threads > 1)}"
        )
        return f"{self._model.task}: {self.backend}, {self.precision}{threads}"

    @property
    def input_spec(self) -> TensorSpec:
        """What :meth:`run` takes."""
        return self.bundle.manifest.input

    @property
    def output_spec(self) -> TensorSpec:
        """What :meth:`run` gives."""
        return self.bundle.manifest.output

    @property
    def session(self) -> Session:
        """The backend's session: its buffers, and a run that allocates nothing.

        Whoever uses it directly keeps other threads, and ``map``, away from this restorer.
        """
        return self._pool.first().session

    def restore(
        self, image: NDArray[np.uint8], *, on_tile: Callable[[int, int], None] | None = None
    ) -> NDArray[np.uint8]:
        """Restore one image.

        Args:
            image: (H, W, 3) uint8 RGB, of any size.
            on_tile: where tiles are used, called after each with how many are done, of how many.

        Returns:
            (H * upscale, W * upscale, 3) uint8 RGB, a new array.

        Raises:
            ImageError: ``image`` is of another shape or type, empty, or the result does not fit
                into memory.
            UsageError: a face task would run in tiles, or the restorer is closed.
        """
        _check_image(image)
        self.session  # noqa: B018  # raises when closed
        picture = EnlargedPicture(image, self._model.upscale, self._model.upscale_kernel)
        side = self._side
        own_size = (picture.height, picture.width) == (side, side)
        if not own_size and self.fit == "tile":
            self._check_tiles_allowed(picture)
        try:
            output = np.empty((picture.height, picture.width, 3), np.uint8)
        except MemoryError:
            raise ImageError(
                f"the result would be {picture.width}x{picture.height} pixels, "
                f"{3 * picture.height * picture.width / 2**30:.1f} GiB: more memory than there is"
            ) from None
        if own_size:
            self._run_pixels(picture.block(0, 0, side, side), output)
        elif self.fit == "resize":
            square = np.empty((side, side, 3), np.uint8)
            self._run_pixels(resize_to_square(picture, side), square)
            resize_into(square, output)
        else:
            run_tiled(picture, output, side, self._run_pixels, on_tile)
        return output

    __call__ = restore

    def map(self, images: Iterable[NDArray[np.uint8]]) -> Generator[NDArray[np.uint8], None, None]:
        """Restore many images, in order, reading, running and the caller's work overlapped.

        One thread draws from ``images``, and :attr:`concurrency` run the model; at most two images
        wait before and two after it, and where several run, one more between them. An error, of
        ``images`` or of a run, is raised at its place in the order and ends the iteration.
        Closing the generator early stops the threads; a thread inside ``images`` ends with the
        item it waits for.

        Args:
            images: each as for :meth:`restore`; may be endless.
        """

        def restored() -> Iterator[NDArray[np.uint8]]:
            with closing(read_ahead(images, _AHEAD)) as sources:
                yield from map_in_order(self.restore, sources, self.concurrency)

        return read_ahead(restored(), _AHEAD)

    def run(self, values: NDArray[Any]) -> NDArray[Any]:
        """Run the bare model once: no resizing, no rounding.

        Args:
            values: of the shape and dtype of :attr:`input_spec`.

        Returns:
            a new array of the shape and dtype of :attr:`output_spec`.

        Raises:
            ImageError: another shape or dtype.
        """
        spec = self.input_spec
        if values.shape != spec.shape or values.dtype != spec.dtype:
            sides = "x".join(str(side) for side in values.shape)
            raise ImageError(f"values are {values.dtype} {sides}, wanted {spec}")
        try:
            return self._pool.take().run(values)
        finally:
            self._pool.give_back()

    def run_pixels(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Run the model once on 8-bit pixels, whatever types its graphs take.

        Args:
            pixels: (image_size, image_size, 3) uint8 RGB, already enlarged: at the model's scale.

        Returns:
            a new array of the same shape; values out of range are clipped, NaN is 0.

        Raises:
            ImageError: another shape or dtype.
        """
        _check_image(pixels)
        side = self._side
        if pixels.shape != (side, side, 3):
            raise ImageError(f"pixels have shape {pixels.shape}, wanted {(side, side, 3)}")
        result = np.empty((side, side, 3), np.uint8)
        self._run_pixels(pixels, result)
        return result

    def close(self) -> None:
        """Give back the backend's memory; further calls are errors.

        Harmless when called twice, and in a child process, which has nothing to give back.
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
        """Why an image of that size is hardly what the model was trained on, or None."""
        if self._model.faces and max(height, width) > 1.1 * min(height, width):
            return (
                f"{width}x{height} is not square: {self._model.task} expects an aligned face "
                "crop, and on anything else the result is poor"
            )
        return None

    def _check_tiles_allowed(self, picture: EnlargedPicture) -> None:
        if self._model.faces and not self._force:
            side = self._side
            raise UsageError(
                f"the image is {picture.width}x{picture.height} at the model's "
                f"scale and the model takes {side}x{side}: {self._model.task} "
                "expects aligned face crops and makes no sense in tiles; use fit "
                "resize (--fit resize) on an aligned crop, or force (--force)"
            )

    def _run_pixels(self, source: NDArray[np.uint8], result: NDArray[np.uint8]) -> None:
        """The model on 8-bit pixels, (side, side, 3) in and out, whatever the graph's types."""
        try:
            self._pool.take().run_pixels(source, result)
        finally:
            self._pool.give_back()


def _check_image(image: object) -> None:
    if not isinstance(image, np.ndarray):
        raise ImageError(f"the image is a {type(image).__name__}, wanted a NumPy array")
    if image.ndim != 3 or image.shape[2] != 3:
        hint = ""
        if image.ndim == 3 and image.shape[2] == 4:
            hint = ": give the colours alone, image[:, :, :3]"
        elif image.ndim == 2:
            hint = ": repeat the grey values three times"
        elif image.ndim == 3 and image.shape[0] == 3:
            hint = ": channels come last"
        raise ImageError(f"the image has shape {image.shape}, wanted (H, W, 3) RGB{hint}")
    if image.dtype != np.uint8:
        raise ImageError(f"the image is {image.dtype}, wanted uint8 from 0 to 255")
    if image.size == 0:
        raise ImageError(f"the image is empty: its shape is {image.shape}")
