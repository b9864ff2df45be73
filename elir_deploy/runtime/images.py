"""Reading and writing image files.

Pixels are RGB of 8 or 16 bits, upright, with transparency in a separate array, whatever the format
of the file. Files that cannot be represented so (animations, floats out of range, truncated files)
are refused with the reason. Writing is atomic.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from elir_deploy.errors import ImageError, MissingDependencyError, OutputError
from elir_deploy.output_files import replacing
from elir_deploy.runtime.decoding import IMAGE_SUFFIXES, LoadedImage, decoded
from elir_deploy.runtime.metadata import Metadata, part_too_large, save_options, tiff_tags
from elir_deploy.runtime.output_formats import OUTPUT_FORMATS, TIFF, OutputFormat, Quality
from elir_deploy.runtime.png_writer import write_png
from elir_deploy.runtime.resampling import bands, resize_into
from elir_deploy.runtime.tiff_writer import write_tiff

__all__ = [
    "IMAGE_SUFFIXES",
    "MAX_PIXELS",
    "OUTPUT_FORMATS",
    "STANDARD_INPUT",
    "LoadedImage",
    "Metadata",
    "OutputFormat",
    "Quality",
    "check_fits",
    "decode_image",
    "encode_image",
    "enlarge_alpha",
    "format_of",
    "read_image",
    "write_image",
]

#: Maximum size of a picture, 268 megapixels; larger ones are considered decompression bombs.
MAX_PIXELS = 2**28
#: The name of standard input.
STANDARD_INPUT = "-"


def decode_image(
    data: bytes, *, name: str = "the image", max_pixels: int = MAX_PIXELS, deep: bool = False
) -> LoadedImage:
    """The image in the bytes of a file; arguments and errors as of :func:`read_image`."""
    try:
        return decoded(Path(name), io.BytesIO(data), max_pixels, deep)
    except OSError as error:
        raise ImageError(f"{name} cannot be read: {error.strerror or error}") from None


def read_image(
    path: str | Path, *, max_pixels: int = MAX_PIXELS, deep: bool = False
) -> LoadedImage:
    """Read one image file.

    The orientation is applied; grey and palette pictures become RGB; CMYK goes through the embedded
    profile if there is one. The profile of an RGB picture is kept, its values are not converted.
    Without ``deep``, 16-bit grey is rounded to 8 bits (v / 257), 16-bit colour cut to them, as
    Pillow decodes it.

    Args:
        path: path of the file; ``-`` is standard input.
        max_pixels: maximum size of the picture.
        deep: give uint16 where the file has more than 8 bits: PNG, TIFF with interleaved colours,
            and grey of any format.

    Raises:
        ImageError: not an image, damaged, cut off, more than one frame, too large, or of values
            that have no 8-bit form.
        MissingDependencyError: the format needs a package that is not installed.
    """
    path = Path(path)
    try:
        if str(path) == STANDARD_INPUT:
            return decoded(
                Path("standard input"), io.BytesIO(sys.stdin.buffer.read()), max_pixels, deep
            )
        with path.open("rb") as file:
            # A pipe is read whole first: its beginning is looked at more than once.
            source = file if file.seekable() else io.BytesIO(file.read())
            return decoded(path, source, max_pixels, deep)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ImageError(f"{path} cannot be read: {reason}") from None


def write_image(
    path: str | Path,
    pixels: NDArray[Any],
    *,
    alpha: NDArray[Any] | None = None,
    icc_profile: bytes | None = None,
    metadata: Metadata | None = None,
    grey: bool = False,
    format: str | None = None,
    quality: Quality = None,
) -> None:
    """Write one image file atomically; an existing one is replaced.

    Args:
        path: path of the file; ``-`` is standard output.
        pixels: (H, W, 3) uint8 or uint16 RGB; PNG and TIFF store 16 bits, in others they are
            rounded to 8.
        alpha: (H, W) of the same type; not written if entirely opaque.
        icc_profile: colour profile, stored unchanged.
        metadata: of the input, carried over as far as the format has a place for it.
        grey: store grey values: the luma of ``pixels``, or, in formats without grey, three of it.
        format: suffix that determines the format, one of :data:`OUTPUT_FORMATS`; None: that of
            ``path``.
        quality: see :data:`Quality`; formats that are always lossless ignore a number.

    Raises:
        UsageError: the format has no such quality.
        ImageError: ``pixels`` or ``alpha`` has another shape or type, or is empty.
        OutputError: the suffix is not that of a format, the format cannot store the image, or the
            file cannot be written.
        BrokenPipeError: standard output was closed by its reader.
        MissingDependencyError: Pillow does not write the format.
    """
    path = Path(path)
    kind, write = _encoder(path, pixels, alpha, icc_profile, metadata, grey, format, quality)
    try:
        with replacing(path) as file:
            write(file)
    except BrokenPipeError:
        raise
    except (OSError, ValueError) as error:  # not from the file system
        raise OutputError(f"{path} cannot be written as {kind.name}: {error}") from None


def encode_image(
    pixels: NDArray[Any],
    format: str,
    *,
    alpha: NDArray[Any] | None = None,
    icc_profile: bytes | None = None,
    metadata: Metadata | None = None,
    grey: bool = False,
    quality: Quality = None,
) -> bytes:
    """What :func:`write_image` would write, with the same arguments and errors."""
    name = Path(f"the {format} image")
    kind, write = _encoder(name, pixels, alpha, icc_profile, metadata, grey, format, quality)
    buffer = io.BytesIO()
    try:
        write(buffer)
    except (OSError, ValueError) as error:
        raise OutputError(f"{name} cannot be written as {kind.name}: {error}") from None
    return buffer.getvalue()


def _encoder(
    path: Path,
    pixels: NDArray[Any],
    alpha: NDArray[Any] | None,
    icc_profile: bytes | None,
    metadata: Metadata | None,
    grey: bool,
    format: str | None,
    quality: Quality,
) -> tuple[OutputFormat, Callable[[BinaryIO], None]]:
    """The format, and a function that encodes the picture into a file."""
    metadata = metadata or Metadata()
    _check_array(path, "pixels", pixels, (3,))
    if alpha is not None:
        _check_array(path, "alpha", alpha, ())
        if alpha.shape != pixels.shape[:2] or alpha.dtype != pixels.dtype:
            raise ImageError(
                f"{path}: alpha is {alpha.dtype} {alpha.shape}, pixels {pixels.dtype} "
                f"{pixels.shape}, expected the same type, height and width"
            )
    kind = check_fits(
        *(path, *pixels.shape[:2]),
        alpha=alpha,
        icc_profile=icc_profile,
        metadata=metadata,
        format=format,
        bits=8 * pixels.itemsize,
    )
    options = kind.options(quality)
    values = _values(pixels, alpha, grey, kind)
    return kind, lambda file: _encode(file, kind, values, options, metadata, icc_profile)


def _encode(
    file: BinaryIO,
    kind: OutputFormat,
    values: NDArray[Any],
    options: dict[str, Any],
    metadata: Metadata,
    icc_profile: bytes | None,
) -> None:
    height, width = values.shape[:2]
    if kind is TIFF:
        write_tiff(file, values, tiff_tags(metadata, width, height, icc_profile))
        return
    options = options | save_options(kind.name, metadata, width, height)
    if icc_profile:
        options["icc_profile"] = icc_profile
    if values.dtype == np.uint16:
        write_png(file, values, options)
        return
    image = Image.fromarray(values[:, :, 0] if values.shape[2] == 1 else values)
    image.save(file, format=kind.name, **options)


def _values(
    pixels: NDArray[Any], alpha: NDArray[Any] | None, grey: bool, kind: OutputFormat
) -> NDArray[Any]:
    """What is stored: (H, W, C), grey or RGB, with alpha if it is not opaque."""
    if pixels.dtype == np.uint16 and not kind.deep:
        pixels = _to_8_bits(pixels)
        alpha = None if alpha is None else _to_8_bits(alpha)
    if grey:
        pixels = _luma(pixels)
        if not kind.grey:
            pixels = pixels.repeat(3, axis=2)
    if alpha is not None and alpha.min() < np.iinfo(alpha.dtype).max:
        return np.dstack([pixels, alpha])
    return np.ascontiguousarray(pixels)


def _to_8_bits(values: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """v / 257, rounded."""
    result = np.empty(values.shape, np.uint8)
    for top, rows in bands(*values.shape[:2]):
        wide = values[top : top + rows].astype(np.uint32)
        result[top : top + rows] = (wide + np.uint32(128)) // np.uint32(257)
    return result


def _luma(pixels: NDArray[Any]) -> NDArray[Any]:
    """(H, W, 1), with Pillow's weights for both types."""
    luma = np.empty((*pixels.shape[:2], 1), pixels.dtype)
    for top, rows in bands(*pixels.shape[:2]):
        wide = pixels[top : top + rows].astype(np.uint32)
        wide *= np.array([19595, 38470, 7471], np.uint32)  # of 65536
        total = wide.sum(axis=2, keepdims=True, dtype=np.uint32) + np.uint32(2**15)
        luma[top : top + rows] = total >> np.uint32(16)
    return luma


def check_fits(
    path: str | Path,
    height: int,
    width: int,
    *,
    alpha: NDArray[Any] | None = None,
    icc_profile: bytes | None = None,
    metadata: Metadata | None = None,
    format: str | None = None,
    bits: int = 8,
) -> OutputFormat:
    """Check that :func:`write_image` could write such a picture, and give the format.

    Args:
        path: path of the file.
        height: height of the picture in pixels.
        width: width of the picture in pixels.
        alpha: transparency, of any size.
        icc_profile: colour profile of the picture.
        metadata: of the picture.
        format: suffix that determines the format; None: that of ``path``.
        bits: of the picture's values.

    Raises:
        OutputError: the suffix is not that of a format, or the format cannot store the picture.
        MissingDependencyError: Pillow does not write the format.
    """
    path = Path(path)
    kind = format_of(path, format)
    if max(height, width) > kind.largest:
        raise OutputError(
            f"{path}: {kind.name} cannot store {width}x{height} pixels, only {kind.largest} a "
            "side: write PNG"
        )
    if not kind.alpha and alpha is not None and alpha.min() < np.iinfo(alpha.dtype).max:
        raise OutputError(
            f"{path}: {kind.name} cannot store the image's transparency: write PNG or WebP"
        )
    if icc_profile and kind.largest_profile is not None and len(icc_profile) > kind.largest_profile:
        raise OutputError(
            f"{path}: {kind.name} cannot store a colour profile of {len(icc_profile)} bytes, only "
            f"{kind.largest_profile}: write PNG"
        )
    channels = 3 if alpha is None else 4
    content = height * width * channels * bits // 8
    if kind.largest_content is not None and content > kind.largest_content:
        raise OutputError(f"{path}: {kind.name} cannot store 4 GiB of pixels: write PNG")
    too_large = None if metadata is None else part_too_large(kind.name, metadata)
    if too_large is not None:
        what, size, most = too_large
        raise OutputError(
            f"{path}: {kind.name} cannot store {size} bytes of {what}, only {most}: write PNG"
        )
    return kind


def format_of(path: Path, format: str | None) -> OutputFormat:
    """The format that :func:`write_image` would write, with the same errors."""
    suffix = path.suffix if format is None else format
    kind = OUTPUT_FORMATS.get(suffix.lower())
    if kind is None:
        raise OutputError(
            f"{path}: the name ends in {suffix!r}, expected one of {', '.join(OUTPUT_FORMATS)}"
        )
    if not kind.available:
        raise MissingDependencyError("Pillow 11.3", "heif", f"write {kind.name} files")
    return kind


def enlarge_alpha(alpha: NDArray[Any], factor: int) -> NDArray[Any]:
    """(H, W) to (H * factor, W * factor) of the same type, bicubic."""
    if factor == 1:
        return alpha
    large = np.empty((alpha.shape[0] * factor, alpha.shape[1] * factor), alpha.dtype)
    resize_into(alpha, large)
    return large


def _check_array(path: Path, what: str, array: object, last: tuple[int, ...]) -> None:
    if not isinstance(array, np.ndarray):
        raise ImageError(f"{path}: {what} is a {type(array).__name__}, expected a NumPy array")
    if array.dtype not in (np.uint8, np.uint16):
        raise ImageError(
            f"{path}: {what} is {array.dtype}, expected uint8 or uint16, the whole range of either"
        )
    if array.ndim != 2 + len(last) or array.shape[2:] != last or array.size == 0:
        expected = "(H, W, 3)" if last else "(H, W)"
        raise ImageError(f"{path}: {what} has shape {array.shape}, expected {expected}, not empty")
