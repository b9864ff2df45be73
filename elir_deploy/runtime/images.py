"""Reading and writing image files.

Whatever a file holds, its pixels come out as 8-bit RGB, upright, with the transparency beside
them; what has no such form (animations, floats out of range, files cut off) is refused with the
reason. Writing is all or nothing.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from elir_deploy.atomic import replacing
from elir_deploy.errors import ImageError, OutputError
from elir_deploy.runtime.decoding import IMAGE_SUFFIXES, LoadedImage, decoded

__all__ = [
    "IMAGE_SUFFIXES",
    "MAX_PIXELS",
    "OUTPUT_FORMATS",
    "LoadedImage",
    "OutputFormat",
    "check_fits",
    "enlarge_alpha",
    "read_image",
    "write_image",
]

#: Largest picture that is decoded, 268 megapixels; more is taken for a decompression bomb.
MAX_PIXELS = 2**28


@dataclass(frozen=True)
class OutputFormat:
    """A format that is written.

    Attributes:
        name: Pillow's.
        largest: side in pixels.
        options: how it is saved.
        alpha: whether it holds transparency.
        largest_profile: bytes of a colour profile; None: no limit.
    """

    name: str
    largest: int
    options: dict[str, Any]
    alpha: bool = True
    largest_profile: int | None = None


_PNG = OutputFormat("PNG", 2**31 - 1, {})
# The format holds 65535 pixels, libjpeg no more than these, and a profile in 255 segments.
_JPEG = OutputFormat("JPEG", 65500, {"quality": 95, "subsampling": 0}, False, 255 * 65519)
_WEBP = OutputFormat("WEBP", 16383, {"quality": 95})
#: By suffix.
OUTPUT_FORMATS = {".png": _PNG, ".jpg": _JPEG, ".jpeg": _JPEG, ".webp": _WEBP}


def read_image(path: str | Path, *, max_pixels: int = MAX_PIXELS) -> LoadedImage:
    """Read one image file.

    EXIF rotation is applied; grey and palette pictures become RGB; 16-bit grey is rounded to 8
    bits (v / 257), 16-bit colour cut to them, as Pillow decodes it; CMYK goes through the embedded
    profile if there is one. The profile of an RGB picture is kept, its values are not converted.

    Raises:
        ImageError: not an image, damaged, cut off, more than one frame, too large, or of values
            that have no 8-bit form.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            # A pipe is read whole first: its beginning is looked at more than once.
            source = file if file.seekable() else io.BytesIO(file.read())
            return decoded(path, source, max_pixels)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ImageError(f"{path} cannot be read: {reason}") from None


def write_image(
    path: str | Path,
    pixels: NDArray[np.uint8],
    *,
    alpha: NDArray[np.uint8] | None = None,
    icc_profile: bytes | None = None,
) -> None:
    """Write one image file, whole or not at all; an existing one is replaced.

    Args:
        path: its suffix, one of :data:`OUTPUT_FORMATS`, says the format.
        pixels: (H, W, 3) uint8 RGB.
        alpha: (H, W) uint8; an entirely opaque one is left out.
        icc_profile: stored as it is.

    Raises:
        ImageError: ``pixels`` or ``alpha`` is of another shape or type, or empty.
        OutputError: the suffix is of no such format, the format cannot hold the image, or the
            place cannot be written.
    """
    path = Path(path)
    _check_array(path, "pixels", pixels, (3,))
    if alpha is not None:
        _check_array(path, "alpha", alpha, ())
        if alpha.shape != pixels.shape[:2]:
            raise ImageError(f"{path}: alpha has shape {alpha.shape}, pixels {pixels.shape}")
    height, width = pixels.shape[:2]
    check_fits(path, height, width, alpha=alpha, icc_profile=icc_profile)
    kind = OUTPUT_FORMATS[path.suffix.lower()]
    if alpha is not None and alpha.min() == 255:
        alpha = None
    image = Image.fromarray(np.ascontiguousarray(pixels))
    if alpha is not None:
        image.putalpha(Image.fromarray(np.ascontiguousarray(alpha)))
    options = kind.options | ({"icc_profile": icc_profile} if icc_profile else {})
    try:
        with replacing(path) as file:
            image.save(file, format=kind.name, **options)
    except (OSError, ValueError) as error:  # without a number, so not of the file system
        raise OutputError(f"{path} cannot be written as {kind.name}: {error}") from None


def check_fits(
    path: str | Path,
    height: int,
    width: int,
    *,
    alpha: NDArray[np.uint8] | None = None,
    icc_profile: bytes | None = None,
) -> None:
    """Whether :func:`write_image` could write such a picture; asked before it is made.

    Args:
        path: its suffix says the format.
        height: of the picture in pixels.
        width: likewise.
        alpha: of any size.
        icc_profile: of the picture.

    Raises:
        OutputError: the suffix is of no known format, or the format cannot hold the picture.
    """
    path = Path(path)
    kind = OUTPUT_FORMATS.get(path.suffix.lower())
    if kind is None:
        raise OutputError(
            f"{path}: the name ends in {path.suffix!r}, wanted one of {', '.join(OUTPUT_FORMATS)}"
        )
    if max(height, width) > kind.largest:
        raise OutputError(
            f"{path}: {kind.name} cannot hold {width}x{height} pixels, {kind.largest} a side at "
            "most: write PNG"
        )
    if not kind.alpha and alpha is not None and alpha.min() < 255:
        raise OutputError(
            f"{path}: the image has transparency, which {kind.name} cannot hold: write PNG or WebP"
        )
    if icc_profile and kind.largest_profile is not None and len(icc_profile) > kind.largest_profile:
        raise OutputError(
            f"{path}: {kind.name} cannot hold a colour profile of {len(icc_profile)} bytes, "
            f"{kind.largest_profile} at most: write PNG"
        )


def enlarge_alpha(alpha: NDArray[np.uint8], factor: int) -> NDArray[np.uint8]:
    """(H, W) to (H * factor, W * factor) uint8, bicubic."""
    if factor == 1:
        return alpha
    size = (alpha.shape[1] * factor, alpha.shape[0] * factor)
    large = Image.fromarray(np.ascontiguousarray(alpha)).resize(size, Image.Resampling.BICUBIC)
    return np.asarray(large)


def _check_array(path: Path, what: str, array: object, last: tuple[int, ...]) -> None:
    if not isinstance(array, np.ndarray):
        raise ImageError(f"{path}: {what} is a {type(array).__name__}, wanted a NumPy array")
    if array.dtype != np.uint8:
        raise ImageError(f"{path}: {what} is {array.dtype}, wanted uint8 from 0 to 255")
    if array.ndim != 2 + len(last) or array.shape[2:] != last or array.size == 0:
        wanted = "(H, W, 3)" if last else "(H, W)"
        raise ImageError(f"{path}: {what} has shape {array.shape}, wanted {wanted}, not empty")
