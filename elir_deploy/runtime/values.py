"""From the values that Pillow decodes to RGB of 8 or 16 bits."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from elir_deploy.errors import ImageError
from elir_deploy.runtime.colours import (
    ColourMetadata,
    Curve,
    gamma_curve,
    grey_curve,
    profile_space,
)
from elir_deploy.runtime.low_bytes import LowBytes
from elir_deploy.runtime.tiff import peak_of, white_is_zero

__all__ = ["DEEP_MODES", "GREY_MODES", "Box", "conversion"]

#: Left, top, right and bottom, the latter two exclusive.
Box: TypeAlias = "tuple[int, int, int, int]"

#: Modes of grey with more than 8 bits.
DEEP_MODES = ("I", "I;16", "I;16L", "I;16B", "F")
GREY_MODES = ("1", "L", "LA", "La", *DEEP_MODES)


def conversion(
    path: Path,
    image: Image.Image,
    low: LowBytes | None,
    metadata: ColourMetadata,
    profile: object,
    dtype: type[np.uint8 | np.uint16],
) -> Callable[[Box], NDArray[Any]]:
    """A function that gives a part of ``image`` as (h, w, 3) RGB or (h, w, 4) RGBA.

    Args:
        path: for messages.
        image: loaded.
        low: the lower bytes of its colours, if ``dtype`` has 16 bits.
        metadata: of the file.
        profile: the ICC profile, if there is one.
        dtype: of the result; 16 bits only for ``low`` and :data:`DEEP_MODES`.

    Raises:
        ImageError: the values cannot be converted.
    """
    curve = _curve(image, metadata, profile)
    if curve is not None and metadata.cut and low is None:
        raise ImageError(
            f"{path} has 16-bit colours with another transfer curve than sRGB's, and the 8 bits "
            "that are read are too few for its shadows: convert it to sRGB first"
        )
    if image.mode in DEEP_MODES or metadata.clear is not None:
        _check_range(path, image)
        levels = functools.partial(
            _grey_levels, path, white=peak_of(image), inverted=white_is_zero(image), curve=curve
        )
        return lambda box: _grey(levels, image.crop(box), metadata.clear, dtype)
    prepare = _preparation(image.mode, profile)
    mode = "RGBA" if image.has_transparency_data else "RGB"
    most = int(np.iinfo(dtype).max)
    table = None if curve is None else _rounded(curve(np.arange(most + 1) * (255 / most)), dtype)

    def colours(box: Box) -> NDArray[Any]:
        values: NDArray[Any] = np.asarray(prepare(image.crop(box)).convert(mode))
        if low is not None:
            values = low.added_to(values, box)
        if table is None:
            return values
        return np.concatenate([table[values[:, :, :3]], values[:, :, 3:]], axis=2)

    return colours


def _curve(image: Image.Image, metadata: ColourMetadata, profile: object) -> Curve | None:
    if metadata.gamma is not None:
        return gamma_curve(metadata.gamma)
    grey = metadata.grey or image.mode in GREY_MODES
    if grey and isinstance(profile, bytes) and profile_space(profile) == "GRAY":
        return grey_curve(profile)
    return None


def _check_range(path: Path, image: Image.Image) -> None:
    if image.mode not in ("I", "F"):
        return
    least, most = cast(tuple[float, float], image.getextrema())
    limit = 65535 if image.mode == "I" else 1
    if not (least >= 0 and most <= limit):
        kind = "32-bit" if image.mode == "I" else "float"
        raise ImageError(
            f"{path} has {kind} values from {least:g} to {most:g}, expected 0 to {limit}: "
            "scale it first"
        )


def _grey(
    levels: Callable[[NDArray[Any]], NDArray[Any]],
    band: Image.Image,
    clear: int | None,
    dtype: type[np.uint8 | np.uint16],
) -> NDArray[Any]:
    values = np.asarray(band.convert("L") if band.mode == "1" else band)
    grey = _rounded(levels(values), dtype)
    if clear is None:
        return np.broadcast_to(grey[:, :, None], (*grey.shape, 3))
    opaque = (values != clear) * dtype(np.iinfo(dtype).max)
    return np.dstack([grey, grey, grey, opaque])


def _grey_levels(
    path: Path, values: NDArray[Any], *, white: int, inverted: bool, curve: Curve | None
) -> NDArray[Any]:
    """From 0 to 255."""
    levels = values.astype(np.float64) * (255 / white)
    if np.isnan(levels).any():  # comparisons do not detect it
        raise ImageError(f"{path} has float values that are not numbers: replace them first")
    if inverted:
        levels = 255 - levels
    return levels if curve is None else curve(levels)


def _rounded(levels: NDArray[Any], dtype: type[np.uint8 | np.uint16]) -> NDArray[Any]:
    """Levels from 0 to 255, as the whole range of ``dtype``."""
    most = int(np.iinfo(dtype).max)
    values: NDArray[Any] = np.rint(np.clip(levels * (most // 255), 0, most)).astype(dtype)
    return values


def _preparation(mode: str, profile: object) -> Callable[[Image.Image], Image.Image]:
    """What comes before Pillow's conversion to RGB.

    From CMYK or LAB to sRGB by the profile; CMYK without one is left to Pillow's simple formula.
    """
    if mode == "La":
        return lambda band: band.convert("LA")
    source: Any = None
    if mode in ("CMYK", "LAB"):
        from PIL import ImageCms

        if mode == "LAB":
            source = ImageCms.createProfile("LAB")
        elif isinstance(profile, bytes):
            source = io.BytesIO(profile)
        if source is not None:
            with suppress(ImageCms.PyCMSError):
                target = ImageCms.createProfile("sRGB")
                return ImageCms.buildTransform(source, target, mode, "RGB").apply
    return lambda band: band
