"""Reading and writing image files.

Pixels are 8-bit RGB, upright, with transparency in a separate array, whatever the format of the
file. Files that cannot be represented so (animations, floats out of range, truncated files) are
refused with the reason. Writing is atomic.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from elir_deploy.errors import ImageError, OutputError
from elir_deploy.output_files import replacing
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

#: Maximum size of a picture, 268 megapixels; larger ones are considered decompression bombs.
MAX_PIXELS = 2**28


@dataclass(frozen=True)
class OutputFormat:
    """An output format.

    Attributes:
        name: Pillow's name.
        largest: maximum side in pixels.
        options: options for saving.
        alpha: whether it supports transparency.
        largest_profile: maximum size of a colour profile in bytes; None: no limit.
    """

    name: str
    largest: int
    options: dict[str, Any]
    alpha: bool = True
    largest_profile: int | None = None


_PNG = OutputFormat("PNG", 2**31 - 1, {})
# The format allows 65535 pixels, libjpeg fewer; profiles have up to 255 segments.
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
    """Write one image file atomically; an existing one is replaced.

    Args:
        path: path of the file; its suffix, one of :data:`OUTPUT_FORMATS`, determines the format.
        pixels: (H, W, 3) uint8 RGB.
        alpha: (H, W) uint8; not written if entirely opaque.
        icc_profile: colour profile, stored unchanged.

    Raises:
        ImageError: ``pixels`` or ``alpha`` has another shape or type, or is empty.
        OutputError: the suffix is not that of a format, the format cannot store the image, or the
            file cannot be written.
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
    except (OSError, ValueError) as error:  # not from the file system
        raise OutputError(f"{path} cannot be written as {kind.name}: {error}") from None


def check_fits(
    path: str | Path,
    height: int,
    width: int,
    *,
    alpha: NDArray[np.uint8] | None = None,
    icc_profile: bytes | None = None,
) -> None:
    """Check that :func:`write_image` could write such a picture.

    Args:
        path: path of the file; its suffix determines the format.
        height: height of the picture in pixels.
        width: width of the picture in pixels.
        alpha: transparency, of any size.
        icc_profile: colour profile of the picture.

    Raises:
        OutputError: the suffix is not that of a format, or the format cannot store the picture.
    """
    path = Path(path)
    kind = OUTPUT_FORMATS.get(path.suffix.lower())
    if kind is None:
        raise OutputError(
            f"{path}: the name ends in {path.suffix!r}, expected one of {', '.join(OUTPUT_FORMATS)}"
        )
    if max(height, width) > kind.largest:
        raise OutputError(
            f"{path}: {kind.name} cannot store {width}x{height} pixels, only {kind.largest} a "
            "side: write PNG"
        )
    if not kind.alpha and alpha is not None and alpha.min() < 255:
        raise OutputError(
            f"{path}: {kind.name} cannot store the image's transparency: write PNG or WebP"
        )
    if icc_profile and kind.largest_profile is not None and len(icc_profile) > kind.largest_profile:
        raise OutputError(
            f"{path}: {kind.name} cannot store a colour profile of {len(icc_profile)} bytes, only "
            f"{kind.largest_profile}: write PNG"
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
        raise ImageError(f"{path}: {what} is a {type(array).__name__}, expected a NumPy array")
    if array.dtype != np.uint8:
        raise ImageError(f"{path}: {what} is {array.dtype}, expected uint8 from 0 to 255")
    if array.ndim != 2 + len(last) or array.shape[2:] != last or array.size == 0:
        expected = "(H, W, 3)" if last else "(H, W)"
        raise ImageError(f"{path}: {what} has shape {array.shape}, expected {expected}, not empty")
