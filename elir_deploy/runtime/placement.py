"""How images are brought to a shape that the model takes: as they are, resized, or in tiles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from elir_deploy.errors import ImageError, UsageError
from elir_deploy.runtime.manifest import Manifest, Model, Shape
from elir_deploy.runtime.resampling import EnlargedPicture, resize_into, resize_to
from elir_deploy.runtime.strength import mix_into
from elir_deploy.runtime.tiling import Tiling, choose_tiling
from elir_deploy.tasks import TASKS

__all__ = [
    "Fit",
    "Placement",
    "Prepared",
    "check_fit",
    "check_image",
    "check_pixels",
    "checked_overlap",
    "described",
    "empty_result",
    "shape_of_pixels",
    "shape_of_values",
    "size_warning",
]

#: How images that are not of the model's size are processed.
Fit = Literal["resize", "tile"]


class Prepared(NamedTuple):
    """An image on its way through the model.

    Attributes:
        enlarged: the image at the model's scale.
        picture: what the model sees.
        restored: what it gives, as large as ``picture``.
        output: the result, as large as ``enlarged``; may be ``restored`` itself.
        tiling: of ``picture``.
    """

    enlarged: EnlargedPicture
    picture: EnlargedPicture
    restored: NDArray[Any]
    output: NDArray[Any]
    tiling: Tiling

    def finish(self, strength: float) -> NDArray[Any]:
        """The result, once the model ran; for a strength of 0 it need not."""
        if self.restored is not self.output and strength:
            resize_into(self.restored, self.output)
        mix_into(self.enlarged, self.output, strength)
        return self.output


@dataclass(frozen=True)
class Placement:
    """Where images go in the shapes of a model.

    Attributes:
        model: how images are enlarged.
        shapes: shapes of the input.
        stride: what tiles begin at a multiple of.
        overlap: pixels over which tiles are blended; None: an eighth of a tile.
        resize: resize images of other sizes, rather than cutting them into tiles.
        tiles_allowed: whether tiles, or images that are padded to one, make sense.
        deep: whether images may have 16 bits.
    """

    model: Model
    shapes: Sequence[Shape]
    stride: int
    overlap: int | None
    resize: bool
    tiles_allowed: bool
    deep: bool

    def single_run(self, image: object) -> Shape | None:
        """The shape of an image that one run restores; None: it needs more, or cannot be."""
        try:
            check_image(image, self.deep)
        except ImageError:
            return None
        assert isinstance(image, np.ndarray)
        height, width = (side * self.model.upscale for side in image.shape[:2])
        if not (self.resize or self.tiles_allowed or self._exact(height, width)):
            return None
        tiling = self._tiling(height, width)
        return tiling.shape if tiling.count == 1 else None

    def prepare(self, image: NDArray[Any]) -> Prepared:
        """Allocate the result of an image, and what the model reads.

        Raises:
            ImageError: there is not enough memory.
            UsageError: it would be cut into tiles, which are not allowed.
        """
        picture = enlarged = EnlargedPicture(image, self.model.upscale, self.model.upscale_kernel)
        height, width = picture.height, picture.width
        exact = self._exact(height, width)
        if not (exact or self.resize or self.tiles_allowed):
            raise self._tiles_refused(height, width)
        restored = output = empty_result(height, width, image.dtype)
        if self.resize and not exact:
            height, width = self.shapes[0].height, self.shapes[0].width
            picture = EnlargedPicture(resize_to(picture, height, width), 1, "none")
            restored = np.empty((height, width, 3), image.dtype)
        return Prepared(enlarged, picture, restored, output, self._tiling(height, width))

    def _exact(self, height: int, width: int) -> list[Shape]:
        return [shape for shape in self.shapes if (shape.height, shape.width) == (height, width)]

    def _tiling(self, height: int, width: int) -> Tiling:
        exact = self._exact(height, width)
        if self.resize and not exact:
            exact = [self.shapes[0]]
            height, width = exact[0].height, exact[0].width
        return choose_tiling(exact or self.shapes, height, width, self.stride, self.overlap)

    def _tiles_refused(self, height: int, width: int) -> UsageError:
        sizes = " or ".join(f"{shape.width}x{shape.height}" for shape in self.shapes)
        return UsageError(
            f"the image is {width}x{height} at the model's scale and the model takes {sizes}: "
            f"{self.model.task} expects an aligned face crop and is not meant for tiles; use fit "
            "resize (--fit resize) on an aligned crop, or force (--force)"
        )


def check_fit(fit: str | None) -> None:
    """Check that ``fit`` is a :data:`Fit`, or not chosen.

    Raises:
        UsageError: it is not.
    """
    if fit is not None and fit not in get_args(Fit):
        raise UsageError(f"fit is {repr(fit)[:80]}, expected one of {', '.join(get_args(Fit))}")


def checked_overlap(overlap: int | None, shapes: Sequence[Shape]) -> int | None:
    """``overlap``, if tiles can have it.

    Raises:
        UsageError: they cannot.
    """
    most = min(min(shape.graph_height, shape.graph_width) for shape in shapes) // 2
    if overlap is not None and not 0 <= overlap <= most:
        raise UsageError(f"tile_overlap is {overlap}, expected 0 to {most}, which is half a tile")
    return overlap


def empty_result(
    height: int, width: int, dtype: np.dtype[Any] | type[np.generic] = np.uint8
) -> NDArray[Any]:
    """An array for (height, width, 3) pixels.

    Raises:
        ImageError: there is not enough memory.
    """
    try:
        return np.empty((height, width, 3), dtype)
    except MemoryError:
        size = 3 * height * width * np.dtype(dtype).itemsize
        raise ImageError(
            f"the result would be {width}x{height} pixels, {size / 2**30:.1f} GiB: not enough "
            "memory"
        ) from None


def check_image(image: object, deep: bool = False) -> None:
    """Check that ``image`` is (H, W, 3) uint8 or, if ``deep``, uint16.

    Raises:
        ImageError: it is not.
    """
    if not isinstance(image, np.ndarray):
        raise ImageError(f"the image is a {type(image).__name__}, expected a NumPy array")
    check_pixels(image.shape, str(image.dtype), deep)


def check_pixels(shape: tuple[int, ...], dtype: str, deep: bool = False) -> None:
    """Check shape and type of an image's values, as :func:`check_image`."""
    if len(shape) != 3 or shape[2] != 3:
        hint = ""
        if len(shape) == 3 and shape[2] == 4:
            hint = ": pass only the colours, image[:, :, :3]"
        elif len(shape) == 2:
            hint = ": repeat the grey values three times"
        elif len(shape) == 3 and shape[0] == 3:
            hint = ": channels come last"
        raise ImageError(f"the image has shape {shape}, expected (H, W, 3) RGB{hint}")
    if dtype != "uint8" and not (deep and dtype == "uint16"):
        expected = "uint8 or uint16, the whole range of either" if deep else "uint8 from 0 to 255"
        hint = ""
        if dtype == "uint16":
            hint = ": only a Restorer of a bundle exported with --io float32 takes 16 bits"
        raise ImageError(f"the image is {dtype}, expected {expected}{hint}")
    if 0 in shape:
        raise ImageError(f"the image is empty: its shape is {shape}")


def shape_of_values(values: NDArray[Any], manifest: Manifest) -> tuple[Shape, Shape]:
    """The bundle's shape that a tensor of its input has, and the same with the tensor's batch.

    Raises:
        ImageError: it has none of them, or another type.
    """
    name = manifest.stages[0].inputs[0]
    batch = values.shape[0] if values.ndim == 4 else 0
    for shape in manifest.shapes:
        if 1 <= batch <= shape.batch:
            taken = shape.with_batch(batch)
            spec = manifest.tensor(name, taken)
            if values.shape == spec.shape and values.dtype == spec.dtype:
                return shape, taken
    specs = " or ".join(str(manifest.tensor(name, shape)) for shape in manifest.shapes)
    raise ImageError(f"values are {described(values)}, expected {specs}")


def shape_of_pixels(height: int, width: int, shapes: Sequence[Shape]) -> Shape:
    """The shape that images of this size have, or of whose graph they have the size.

    Raises:
        ImageError: there is none.
    """
    for shape in shapes:
        if (height, width) in ((shape.height, shape.width), shape.graph_size):
            return shape
    sizes = " or ".join(f"{shape.height}x{shape.width}" for shape in shapes)
    raise ImageError(f"pixels are {height}x{width}, expected {sizes} (height x width)")


def size_warning(height: int, width: int, manifest: Manifest) -> str | None:
    """Why an image of this size differs from the model's training data; None: it does not."""
    model = manifest.model
    if not model.faces or max(height, width) <= 1.1 * min(height, width):
        return None
    task = TASKS.get(model.task)
    hint = ""
    if manifest.detector is None and task is not None and task.detectable:
        hint = ": in photographs, a bundle exported with --detector centerface finds the faces"
    return (
        f"{width}x{height} is not square: {model.task} expects an aligned face crop, and gives "
        f"poor results on other images{hint}"
    )


def described(values: NDArray[Any]) -> str:
    """Type and sides of an array."""
    return f"{values.dtype} {'x'.join(map(str, values.shape))}"
