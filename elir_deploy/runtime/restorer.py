"""The restorer: a bundle opened on a backend, which restores images of any size."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from elir_deploy import __version__
from elir_deploy.errors import BundleError, ImageError, UsageError
from elir_deploy.progress import ProgressCallback, no_progress
from elir_deploy.runtime.backends import Session
from elir_deploy.runtime.bundle import Bundle
from elir_deploy.runtime.in_order import map_in_order
from elir_deploy.runtime.manifest import NOISE_TENSOR, Shape
from elir_deploy.runtime.manifest_file import unsupported_feature
from elir_deploy.runtime.opening import Setup, field_noise, open_sessions
from elir_deploy.runtime.pool import Pool
from elir_deploy.runtime.read_ahead import read_ahead
from elir_deploy.runtime.resampling import EnlargedPicture, resize_into, resize_to
from elir_deploy.runtime.tensors import TensorSpec
from elir_deploy.runtime.tiling import Tile, Tiling, choose_tiling, run_tiled

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
    not, ``resize`` resizes it to the model's size (bicubic, antialiased, ignoring proportions)
    and the result back; ``tile`` runs the model on overlapping tiles and blends them. Of several
    sizes, tiles have the one that costs least.

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
        sigma_s: standard deviation of the noise (paper, Algorithm 1); None: the bundle's.
        seed: of the noise, 0 to 2**32 - 1; None: the bundle's.
        tile_overlap: pixels over which tiles are blended; None: an eighth of a tile.
        mode: ``latency``, or ``throughput`` to run several images at the same time, in :meth:`map`
            and calls from several threads, on backends that gain by it. Each image takes longer.

    Attributes:
        bundle: the opened bundle.
        backend: name of the backend that runs it.
        precision: the precision that runs.
        fit: the value in use.
        noise: the noise of every picture; None: it is baked into the graph.
        concurrency: number of images at the same time; 1 unless ``mode`` is ``throughput``.
        threads: CPU threads that a run uses; None: it uses the GPU, or the number is unknown.

    Raises:
        BundleError: the bundle is damaged, or has no files for the backend.
        UsageError: an argument is invalid, or ``sigma_s`` or ``seed`` is of noise that is baked.
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
        sigma_s: float | None = None,
        seed: int | None = None,
        tile_overlap: int | None = None,
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
        manifest = self.bundle.manifest
        self._model = manifest.model
        self._shapes = manifest.shapes
        self.noise = field_noise(manifest, seed, sigma_s)
        self._stride = 1 if self.noise is None else manifest.tensors[NOISE_TENSOR].stride
        self._ramp = _checked_overlap(tile_overlap, self._shapes)
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
        prepared = self._prepare(image)
        run = partial(self._run, prepared.tiling.shape)
        run_tiled(prepared.picture, prepared.restored, prepared.tiling, run, on_progress)
        return prepared.finish()

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

    def run(self, values: NDArray[Any], noise: NDArray[np.float32] | None = None) -> NDArray[Any]:
        """Run the model once, without resizing or rounding.

        Args:
            values: up to a batch of images of one of the bundle's shapes, with the dtype and layout
                of :attr:`input_spec`.
            noise: (n, C, H / stride, W / stride) float32, already multiplied by ``sigma_s``; None:
                for each image :attr:`noise` from its beginning on, if it is an input.

        Returns:
            a new array with the dtype and layout of :attr:`output_spec`.

        Raises:
            ImageError: another shape or dtype.
        """
        shape, taken = self._shape_of(values)
        if self.noise is None:
            if noise is not None:
                raise ImageError("noise is given, but it is baked into this bundle's graphs")
        else:
            spec = self.bundle.manifest.tensor(NOISE_TENSOR, taken)
            if noise is None:
                noise = np.empty(spec.shape, np.float32)
                for index in range(len(noise)):
                    self.noise.fill(noise[index], 0, 0)
            elif noise.shape != spec.shape or noise.dtype != np.float32:
                raise ImageError(f"noise is {_described(noise)}, expected {spec}")
        try:
            return self._pool.take().run(shape, values, noise)
        finally:
            self._pool.give_back()

    def run_pixels(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Run the model once on 8-bit pixels, whatever the input type of its graphs.

        Args:
            pixels: (H, W, 3) uint8 RGB, already enlarged, of one of the bundle's shapes, or as
                large as its graph takes them.

        Returns:
            a new array of the same shape; values out of range are clipped, NaN becomes 0.

        Raises:
            ImageError: another shape or dtype.
        """
        _check_image(pixels)
        height, width = pixels.shape[:2]
        for shape in self._shapes:
            if (height, width) in _sizes(shape):
                break
        else:
            sizes = " or ".join(f"{shape.height}x{shape.width}" for shape in self._shapes)
            raise ImageError(f"pixels are {height}x{width}, expected {sizes} (height x width)")
        result = np.empty_like(pixels)
        picture = EnlargedPicture(pixels, 1, "none")
        tiling = choose_tiling([shape], height, width, self._stride, self._ramp)
        self._run(shape, [tiling.whole(picture, result)])
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

    def _prepare(self, image: NDArray[np.uint8]) -> _Prepared:
        picture = EnlargedPicture(image, self._model.upscale, self._model.upscale_kernel)
        size = picture.height, picture.width
        exact = [shape for shape in self._shapes if (shape.height, shape.width) == size]
        if not exact and self.fit == "tile":
            self._check_tiles_allowed(picture)
        try:
            output = np.empty((*size, 3), np.uint8)
        except MemoryError:
            raise ImageError(
                f"the result would be {picture.width}x{picture.height} pixels, "
                f"{3 * picture.height * picture.width / 2**30:.1f} GiB: not enough memory"
            ) from None
        shapes, restored = exact or self._shapes, output
        if not exact and self.fit == "resize":
            shapes = self._shapes[:1]
            height, width = shapes[0].height, shapes[0].width
            picture = EnlargedPicture(resize_to(picture, height, width), 1, "none")
            restored = np.empty((height, width, 3), np.uint8)
        tiling = choose_tiling(shapes, picture.height, picture.width, self._stride, self._ramp)
        return _Prepared(picture, restored, output, tiling)

    def _check_tiles_allowed(self, picture: EnlargedPicture) -> None:
        if self._model.faces and not self._force:
            sizes = " or ".join(f"{shape.width}x{shape.height}" for shape in self._shapes)
            raise UsageError(
                f"the image is {picture.width}x{picture.height} at the model's "
                f"scale and the model takes {sizes}: {self._model.task} "
                "expects an aligned face crop and is not meant for tiles; use fit "
                "resize (--fit resize) on an aligned crop, or force (--force)"
            )

    def _shape_of(self, values: NDArray[Any]) -> tuple[Shape, Shape]:
        """The bundle's shape that ``values`` have, and the same with their batch."""
        manifest = self.bundle.manifest
        name = manifest.stages[0].inputs[0]
        batch = values.shape[0] if values.ndim == 4 else 0
        for shape in self._shapes:
            if 1 <= batch <= shape.batch:
                taken = shape.with_batch(batch)
                spec = manifest.tensor(name, taken)
                if values.shape == spec.shape and values.dtype == spec.dtype:
                    return shape, taken
        specs = " or ".join(str(manifest.tensor(name, shape)) for shape in self._shapes)
        raise ImageError(f"values are {_described(values)}, expected {specs}")

    def _run(self, shape: Shape, tiles: Sequence[Tile]) -> None:
        """Run the model on tiles of ``shape``, from and to 8-bit pixels."""
        try:
            self._pool.take().run_tiles(shape, tiles, self.noise)
        finally:
            self._pool.give_back()


class _Prepared(NamedTuple):
    """An image on its way through the model.

    Attributes:
        picture: what the model sees.
        restored: what it gives, as large as ``picture``.
        output: the result; ``restored`` itself, or as large as the image was enlarged.
        tiling: of ``picture``.
    """

    picture: EnlargedPicture
    restored: NDArray[np.uint8]
    output: NDArray[np.uint8]
    tiling: Tiling

    def finish(self) -> NDArray[np.uint8]:
        """The result, once the model ran."""
        if self.restored is not self.output:
            resize_into(self.restored, self.output)
        return self.output


def _checked_overlap(overlap: int | None, shapes: Sequence[Shape]) -> int | None:
    most = min(min(shape.graph_height, shape.graph_width) for shape in shapes) // 2
    if overlap is not None and not 0 <= overlap <= most:
        raise UsageError(f"tile_overlap is {overlap}, expected 0 to {most}, which is half a tile")
    return overlap


def _sizes(shape: Shape) -> set[tuple[int, int]]:
    return {(shape.height, shape.width), (shape.graph_height, shape.graph_width)}


def _described(values: NDArray[Any]) -> str:
    return f"{values.dtype} {'x'.join(map(str, values.shape))}"


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
