"""The restorer: a bundle opened on a backend, which restores images of any size."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from copy import copy
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TypeVar, cast, get_args

import numpy as np
from numpy.typing import NDArray

from elir_deploy.errors import ImageError, UsageError
from elir_deploy.progress import ProgressCallback, no_progress
from elir_deploy.runtime.backends import Session
from elir_deploy.runtime.bundle import Bundle
from elir_deploy.runtime.device_arrays import DeviceArray, is_device_array
from elir_deploy.runtime.device_images import check_on_device, restore_on_device
from elir_deploy.runtime.in_order import map_in_order
from elir_deploy.runtime.manifest import NOISE_TENSOR, Shape
from elir_deploy.runtime.opening import Setup, field_noise, open_sessions
from elir_deploy.runtime.placement import (
    Fit,
    Placement,
    check_fit,
    check_image,
    checked_overlap,
    described,
    shape_of_pixels,
    shape_of_values,
    size_warning,
)
from elir_deploy.runtime.pool import Pool
from elir_deploy.runtime.read_ahead import read_ahead, waiting_together
from elir_deploy.runtime.resampling import EnlargedPicture
from elir_deploy.runtime.strength import rounded_strength
from elir_deploy.runtime.tensors import TensorSpec
from elir_deploy.runtime.tiling import Tile, choose_tiling, run_tiled

__all__ = ["Fit", "Mode", "Restorer"]

#: What a backend is optimised for.
Mode = Literal["latency", "throughput"]

#: Type of an image's values.
Pixel = TypeVar("Pixel", np.uint8, np.uint16)
#: An image, or an array in CUDA memory.
Image = TypeVar("Image", bound="NDArray[np.uint8] | NDArray[np.uint16] | DeviceArray")

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
        precision: ``fp32``, ``fp16``, ``bf16``, ``int8``, ``w8``; None: the fastest automatic one.
        fit: ``resize`` or ``tile``; None: ``resize`` for face tasks, ``tile`` for others.
        force: allow a face task to run in tiles, for which it was not trained.
        threads: CPU threads that a run may use; None: the backend's default.
        device: number of the GPU, or name of a device of OpenVINO: ``GPU``, ``GPU.1``, ``NPU``.
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
        bits: of the values of images: 8, or up to 16 if the graphs have floats at both ends.
        noise: the noise of every picture; None: it is baked into the graph.
        concurrency: number of images at the same time; 1 unless ``mode`` is ``throughput``.
        threads: CPU threads that a run uses; None: it uses the GPU, or the number is unknown.
        device: as given, a name in capitals.

    Raises:
        BundleError: the bundle is damaged, or has no files for the backend.
        UsageError: an argument is invalid, of noise that is baked, or of another backend's device.
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
        device: int | str = 0,
        mode: Mode = "latency",
        sigma_s: float | None = None,
        seed: int | None = None,
        tile_overlap: int | None = None,
    ) -> None:
        check_fit(fit)
        if mode not in get_args(Mode):
            raise UsageError(f"mode is {mode!r}, expected one of {', '.join(get_args(Mode))}")
        if threads is not None and threads < 1:
            raise UsageError(f"threads is {threads}, expected at least 1")
        self.bundle = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
        manifest = self.bundle.manifest
        self._model = manifest.model
        self._shapes = manifest.shapes
        self.bits = self.bundle.bits
        self.noise = field_noise(manifest, seed, sigma_s)
        self.fit: Fit = fit or ("resize" if self._model.faces else "tile")
        self._placement = Placement(
            manifest.model,
            manifest.shapes,
            stride=1 if self.noise is None else manifest.tensors[NOISE_TENSOR].stride,
            overlap=checked_overlap(tile_overlap, self._shapes),
            resize=self.fit == "resize",
            tiles_allowed=force or not self._model.faces,
            deep=self.bits == 16,
        )
        device = device.upper() if isinstance(device, str) else device  # as OpenVINO writes it
        setup = Setup(threads, device, throughput=mode == "throughput")
        opened = open_sessions(self.bundle, backend, precision, setup)
        self.backend, self.precision, self.device = opened.backend, opened.precision, device
        self.concurrency = len(opened.sessions)
        self.threads = opened.sessions[0].session.threads
        self._exact_batches = opened.sessions[0].session.exact_batches
        self._pool = Pool(opened.sessions)

    def __str__(self) -> str:
        """Task, backend, precision and threads, such as "tiny: openvino, bf16, 2 threads"."""
        where = f" on {self.device}" if isinstance(self.device, str) else ""
        threads = f", {self.threads} thread{'s' * (self.threads > 1)}" if self.threads else ""
        return f"{self._model.task}: {self.backend}{where}, {self.precision}{threads}"

    def with_options(
        self,
        *,
        fit: Fit | None = None,
        sigma_s: float | None = None,
        seed: int | None = None,
        tile_overlap: int | None = None,
    ) -> Restorer:
        """A restorer with other options that shares the sessions; closing either closes both.

        Args:
            fit, sigma_s, seed, tile_overlap: as of :class:`Restorer`; None: as here.

        Raises:
            UsageError: as of :class:`Restorer`.
        """
        check_fit(fit)
        other = copy(self)
        if sigma_s is not None or seed is not None:
            seed = self.noise.seed if seed is None and self.noise else seed
            sigma_s = self.noise.sigma_s if sigma_s is None and self.noise else sigma_s
            other.noise = field_noise(self.bundle.manifest, seed, sigma_s)
        other.fit = fit or self.fit
        overlap = checked_overlap(tile_overlap, self._shapes)
        overlap = self._placement.overlap if overlap is None else overlap
        other._placement = replace(self._placement, resize=other.fit == "resize", overlap=overlap)
        return other

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

        Its ``noise``, if it has one, is :attr:`noise` from its beginning on, as in :meth:`run`,
        also after ``select``, until the caller writes it. :meth:`restore`, :meth:`map` and
        :meth:`run` overwrite all arrays: get the session again afterwards. While it is used
        directly, nothing else may use this restorer, in particular ``map``.
        """
        return self._pool.first().for_caller(self.noise)

    def restore(
        self,
        image: Image,
        *,
        strength: float = 1.0,
        on_progress: ProgressCallback = no_progress,
    ) -> Image:
        """Restore one image.

        Args:
            image: (H, W, 3) uint8 RGB of any size, or uint16 if :attr:`bits` is 16. Or such an
                array of PyTorch or CuPy in the memory of the GPU that runs the bundle, uint8 and of
                one of the bundle's sizes: see :mod:`.device_images`.
            strength: from 0, the image itself, enlarged where the task enlarges, to 1, its
                restoration, in steps of 1/256; see :mod:`.strength`. At 0 the model does not run.
            on_progress: called after each tile, if tiles are used, with ``"tiles"``, the number
                done and the number in all.

        Returns:
            (H * upscale, W * upscale, 3) RGB of the image's type, a new array of its library.

        Raises:
            ImageError: ``image`` has another shape or type or is empty, or the result does not fit
                into memory.
            UnavailableError: an array in CUDA memory, and the backend or the task needs the host's.
            UsageError: a face task would run in tiles, ``strength`` is not from 0 to 1, or the
                restorer is closed.
        """
        strength = rounded_strength(strength)
        self._pool.first()  # raises when closed
        if is_device_array(image):
            check_on_device(self.bundle.manifest, enlarge=True, strength=strength)
            return cast(Image, self._run_on_device(image, False))
        check_image(image, self.bits == 16)
        prepared = self._placement.prepare(cast("NDArray[np.uint8]", image))
        if strength:
            run = partial(self._run, prepared.tiling.shape)
            run_tiled(prepared.picture, prepared.restored, prepared.tiling, run, on_progress)
        return cast(Image, prepared.finish(strength))

    __call__ = restore

    def map(
        self, images: Iterable[NDArray[Pixel]], *, strength: float = 1.0
    ) -> Generator[NDArray[Pixel], None, None]:
        """Restore many images, in order, with reading, running and the caller's work overlapped.

        One thread reads from ``images`` and :attr:`concurrency` threads run the model. Images that
        wait, need one run each and have the same shape of the bundle are run together, up to its
        batch; the model never waits for more. At most two images, or the largest batch, wait before
        the model, and two after those of a run, and one more run if several are made at a time. An
        error, of ``images`` or of a run, is raised in its place and ends the iteration. Closing the
        generator early stops the threads; a thread inside ``images`` ends with its current item.

        Args:
            images: NumPy arrays as for :meth:`restore`; may be endless.
            strength: as for :meth:`restore`.
        """
        restore = partial(self.restore_together, strength=rounded_strength(strength))
        ahead = max(_AHEAD, *map(self.batch_of, self._shapes))

        def restored() -> Iterator[NDArray[Pixel]]:
            with closing(waiting_together(images, ahead, self.joins)) as groups:
                for results in map_in_order(restore, groups, self.concurrency):
                    while results:
                        yield results.pop(0)

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
        shape, taken = shape_of_values(values, self.bundle.manifest)
        if self.noise is None:
            if noise is not None:
                raise ImageError("this bundle's noise is baked into its graphs: do not pass noise")
        else:
            spec = self.bundle.manifest.tensor(NOISE_TENSOR, taken)
            if noise is None:
                noise = np.empty(spec.shape, np.float32)
                for index in range(len(noise)):
                    self.noise.fill(noise[index], 0, 0)
            elif noise.shape != spec.shape or noise.dtype != np.float32:
                raise ImageError(f"noise is {described(noise)}, expected {spec}")
        try:
            return self._pool.take().run(shape, values, noise)
        finally:
            self._pool.give_back()

    def run_pixels(self, pixels: Image) -> Image:
        """Run the model on 8-bit pixels, whatever the input type of its graphs.

        Args:
            pixels: (H, W, 3) uint8 RGB, already enlarged, of one of the bundle's shapes, or as
                large as its graph takes them; or (n, H, W, 3), which run in batches. An array in
                CUDA memory as for :meth:`restore`, too.

        Returns:
            a new array of the same shape; values out of range are clipped, NaN becomes 0.

        Raises:
            ImageError: another shape or dtype.
        """
        if is_device_array(pixels):
            self._pool.first()
            check_on_device(self.bundle.manifest, enlarge=False)
            return cast(Image, self._run_on_device(pixels, True))
        array = cast("NDArray[np.uint8]", pixels)
        several = isinstance(array, np.ndarray) and array.ndim == 4
        images = list(array) if several else [array]
        for image in images:
            check_image(image)
        height, width = array.shape[-3:-1]
        shape = shape_of_pixels(height, width, self._shapes)
        result = np.empty_like(array)
        tiling = choose_tiling([shape], height, width, 1)
        tiles = [
            tiling.whole(EnlargedPicture(image, 1, "none"), restored)
            for image, restored in zip(images, result if several else [result], strict=True)
        ]
        for first in range(0, len(tiles), shape.batch):
            self._run(shape, tiles[first : first + shape.batch])
        return cast(Image, result)

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
        return size_warning(height, width, self.bundle.manifest)

    def batch_of(self, shape: Shape) -> int:
        """Images of a shape that run together: 1 if a batch would change their bytes."""
        return shape.batch if self._exact_batches else 1

    def joins(self, group: list[NDArray[Any]], image: NDArray[Any]) -> bool:
        """Whether a waiting image can be in the same run as others."""
        shape = self._placement.single_run(group[0])
        if shape is None or len(group) >= self.batch_of(shape):
            return False
        return self._placement.single_run(image) == shape

    def restore_together(self, images: list[NDArray[Any]], strength: float) -> list[NDArray[Any]]:
        """Restore images, in one run if there are several."""
        if any(map(is_device_array, images)):  # whose stream the threads of map do not know
            raise ImageError("map takes NumPy arrays: call restore for images in CUDA memory")
        if len(images) == 1 or not strength:
            return [self.restore(image, strength=strength) for image in images]
        all_prepared = [self._placement.prepare(image) for image in images]
        tiles = [each.tiling.whole(each.picture, each.restored) for each in all_prepared]
        self._run(all_prepared[0].tiling.shape, tiles)
        return [each.finish(strength) for each in all_prepared]

    def _run_on_device(self, image: Any, several: bool) -> Any:
        manifest, noise = self.bundle.manifest, self.noise
        try:
            session = self._pool.take()
            return restore_on_device(session, image, manifest, noise, self.backend, several)
        finally:
            self._pool.give_back()

    def _run(self, shape: Shape, tiles: Sequence[Tile]) -> None:
        """Run the model on tiles of ``shape``, from and to pixels."""
        try:
            self._pool.take().run_tiles(shape, tiles, self.noise)
        finally:
            self._pool.give_back()
