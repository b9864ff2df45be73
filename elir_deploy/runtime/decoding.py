"""Decoding image files to 8-bit RGB, upright, with transparency in a separate array.

Pillow decodes them; values that it would decode wrongly are corrected or refused.
"""

from __future__ import annotations

import errno
import functools
import importlib
import io
import re
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from elir_deploy.errors import ImageError, MissingDependencyError
from elir_deploy.pixels import rounded
from elir_deploy.runtime.colours import (
    ColourMetadata,
    Curve,
    gamma_curve,
    grey_curve,
    profile_space,
    read_colour_metadata,
)
from elir_deploy.runtime.metadata import Metadata, hide_orientation, read_metadata
from elir_deploy.runtime.profiles import srgb_profile
from elir_deploy.runtime.tiff import is_tiff, needs_libtiff, peak_of, prepare_tiff, white_is_zero
from elir_deploy.runtime.transparency import without_transparency

__all__ = ["IMAGE_SUFFIXES", "LoadedImage", "decoded"]

#: Supported formats, by Pillow's names. Not EPS, which would run Ghostscript.
_FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "TIFF", "BMP", "GIF", "PPM", "JPEG2000", "AVIF")
#: Brands of HEIC files, and of AVIF files.
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_AVIF_BRANDS = (b"avif", b"avis")
#: Suffixes of images in folders.
IMAGE_SUFFIXES = frozenset(
    f".{name}"
    for name in (
        *("png", "apng", "jpg", "jpeg", "jpe", "jfif", "mpo", "webp", "tif", "tiff", "bmp", "gif"),
        *("ppm", "pgm", "pbm", "pnm", "pfm", "jp2", "j2k", "jpc", "j2c", "jpf", "jpx", "avif"),
        *("heic", "heif", "hif"),
    )
)

#: Maximum bytes of text, and of a colour profile, in a PNG file: Pillow's limit for all text of a
#: file. It allows a megabyte for one piece of text, which printer profiles and workflows of image
#: generators exceed. This is a twelfth of the memory of the largest picture.
MAX_TEXT = 2**26

_BAND_PIXELS = 2**22
_DEEP_MODES = ("I", "I;16", "I;16L", "I;16B", "F")
_GREY_MODES = ("1", "L", "LA", "La", *_DEEP_MODES)
#: By EXIF orientation: the pixels as they are stored, as a view of the upright picture.
_AS_STORED: dict[int, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.swapaxes(0, 1),
    6: lambda upright: np.rot90(upright),
    7: lambda upright: upright[::-1, ::-1].swapaxes(0, 1),
    8: lambda upright: np.rot90(upright, -1),
}


@dataclass(frozen=True)
class LoadedImage:
    """A picture from a file.

    Attributes:
        pixels: (H, W, 3) uint8 RGB, upright.
        alpha: (H, W) uint8, 255 is opaque; None: the file has no transparency.
        icc_profile: colour profile of the RGB values; None: sRGB.
        converted: the file has a profile of another space (grey, CMYK), from which the values were
            converted.
        grey: the file holds grey values, which ``pixels`` repeats.
        metadata: what else the file says of the picture.
    """

    pixels: NDArray[np.uint8]
    alpha: NDArray[np.uint8] | None = None
    icc_profile: bytes | None = None
    converted: bool = False
    grey: bool = False
    metadata: Metadata = field(default_factory=Metadata)

    @property
    def result_profile(self) -> bytes | None:
        """The colour profile for a file of the result; None: the input had none, either."""
        return srgb_profile(self.grey) if self.converted else self.icc_profile

    def opaque(self) -> NDArray[np.uint8]:
        """The input for a model, (H, W, 3) uint8 RGB; see :mod:`.transparency`."""
        return self.pixels if self.alpha is None else without_transparency(self.pixels, self.alpha)


class _Patched:
    """Constants of a module of Pillow, changed while any thread is in the ``with`` block."""

    def __init__(self, module: str, **numbers: object) -> None:
        self._module = f"PIL.{module}"  # imported when used
        self._numbers = numbers
        self._before: dict[str, object] = {}
        self._inside = 0
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        module = importlib.import_module(self._module)
        with self._lock:
            if not self._inside:
                self._before = {name: getattr(module, name) for name in self._numbers}
                self._set(self._numbers)
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._set(self._before)

    def _set(self, numbers: dict[str, object]) -> None:
        for name, value in numbers.items():
            setattr(sys.modules[self._module], name, value)


# Pillow's limit warns at 89 megapixels and fails at 179; ours is checked right afterwards.
_while_opening = _Patched("Image", MAX_IMAGE_PIXELS=None)
_with_libtiff = _Patched("TiffImagePlugin", READ_LIBTIFF=True)
_while_reading = _Patched("PngImagePlugin", MAX_TEXT_CHUNK=MAX_TEXT, MAX_TEXT_MEMORY=MAX_TEXT)


def decoded(path: Path, file: BinaryIO, max_pixels: int) -> LoadedImage:
    """Decode the picture in ``file``.

    Raises:
        ImageError: see :func:`elir_deploy.runtime.images.read_image`.
        OSError: the file cannot be read.
    """
    head = file.read(12)
    file.seek(0)
    if not head:
        raise ImageError(f"{path} is empty (0 bytes)")
    try:
        colours = read_colour_metadata(path, file)
        with _while_reading, _opened(file, head) as image:
            _check_header(path, image, max_pixels)
            if image.format == "TIFF":
                prepare_tiff(path, image, file.seek(0, io.SEEK_END))
                hide_orientation(image)
            image.load()
            metadata, orientation = read_metadata(image, file)
            return replace(_loaded(path, image, colours, orientation), metadata=metadata)
    except (ImageError, MissingDependencyError):
        raise
    except UnidentifiedImageError:
        if is_tiff(head):
            raise ImageError(
                f"{path} is an unsupported kind of TIFF file: save it as 8-bit or 16-bit RGB"
            ) from None
        raise ImageError(f"{path} is not an image in a supported format") from None
    except MemoryError:
        raise ImageError(f"{path}: not enough memory to decode it") from None
    except Exception as error:  # Pillow raises any exception for damaged files
        # Errors of the system are not the file's fault, except EINVAL, for a bad seek.
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise
        reason = _reason(str(error) or type(error).__name__, is_tiff(head))
        raise ImageError(f"{path} {reason}") from None


def _reason(text: str, tiff: bool) -> str:
    if re.match("decompressed data too large|too much memory used in text", text, re.IGNORECASE):
        return (
            f"has more than {MAX_TEXT // 2**20} MiB of text or colour profile, like a "
            "decompression bomb: save it without them"
        )
    if any(word in text.lower() for word in ("truncated", "end of file", "eof")):
        return f"is cut off: {text}"
    if tiff and re.match(r"(decoder error )?-\d|unknown raw mode", text):
        return f"is damaged, or an unsupported kind of TIFF file: {text}"
    return f"is damaged: {text}"


def _opened(file: BinaryIO, head: bytes) -> Image.Image:
    Image.init()
    formats = [name for name in _FORMATS if name in Image.OPEN]
    tiff = is_tiff(head)
    with _while_opening:
        try:
            image = Image.open(file, formats=formats)
        except UnidentifiedImageError:
            if head[4:8] == b"ftyp" and head[8:12] in (*_HEIF_BRANDS, *_AVIF_BRANDS):
                return _opened_heif(file, head[8:12])
            if not tiff:
                raise
        else:
            if not (tiff and needs_libtiff(image)):
                return image
        file.seek(0)
        with _with_libtiff:
            return Image.open(file, formats=formats)


def _opened_heif(file: BinaryIO, brand: bytes) -> Image.Image:
    """Open a HEIC file, which Pillow does not know, nor AVIF before 11.3."""
    if brand in _AVIF_BRANDS:
        if "AVIF" in Image.OPEN:
            raise UnidentifiedImageError
        raise MissingDependencyError("Pillow 11.3", "heif", "read AVIF files")
    try:
        from pillow_heif.as_plugin import HeifImageFile
    except ImportError:
        raise MissingDependencyError("pillow-heif", "heif", "read HEIC files") from None
    file.seek(0)
    open_heif: Any = HeifImageFile  # which has no types
    image: Image.Image = open_heif(file)
    return image


def _check_header(path: Path, image: Image.Image, max_pixels: int) -> None:
    if image.width * image.height > max_pixels:
        raise ImageError(
            f"{path} is {image.width}x{image.height}, more than {max_pixels} pixels: too large"
        )
    frames = getattr(image, "n_frames", 1)
    # An MPO is a JPEG followed by more views (stereo pairs, depth): the first is the photo.
    # A HEIC file names its first one, too.
    if frames > 1 and image.format not in ("MPO", "HEIF"):
        raise ImageError(f"{path} has {frames} frames, expected one: extract one of them")


def _loaded(
    path: Path, image: Image.Image, metadata: ColourMetadata, orientation: int
) -> LoadedImage:
    profile = metadata.profile or image.info.get("icc_profile")
    if metadata.clear is not None:
        image.info["transparency"] = metadata.clear  # Pillow has it on the file's scale
    convert, table = _conversion(path, image, metadata, profile)
    turned = orientation >= 5
    shape = (image.width, image.height) if turned else (image.height, image.width)
    pixels = np.empty((*shape, 3), np.uint8)
    transparent = image.has_transparency_data
    alpha = np.empty(shape, np.uint8) if transparent else None
    as_stored = _AS_STORED[orientation]
    stored_pixels = as_stored(pixels)
    stored_alpha = None if alpha is None else as_stored(alpha)
    # In bands, since a converted copy and its bytes would each need the picture's memory.
    rows = max(1, _BAND_PIXELS // image.width)
    for top in range(0, image.height, rows):
        bottom = min(top + rows, image.height)
        band = convert(image.crop((0, top, image.width, bottom)))
        values = np.asarray(band.convert("RGB" if alpha is None else "RGBA"))
        colours = values[:, :, :3]
        stored_pixels[top:bottom] = colours if table is None else table[colours]
        if stored_alpha is not None:
            stored_alpha[top:bottom] = values[:, :, 3]
    # A grey or CMYK profile does not describe the RGB values made from its pixels.
    space = profile_space(profile)
    converted = space is not None and space != "RGB"
    grey = metadata.grey or image.mode in _GREY_MODES
    return LoadedImage(pixels, alpha, None if converted else profile, converted, grey)


# Values ---------------------------------------------------------------------------------------


def _conversion(
    path: Path, image: Image.Image, metadata: ColourMetadata, profile: object
) -> tuple[Callable[[Image.Image], Image.Image], NDArray[np.uint8] | None]:
    """A function that prepares a band of ``image`` for Pillow's conversion to RGB, and a table
    that is applied to the result.

    Raises:
        ImageError: the values cannot be converted to 8 bits.
    """
    curve = _curve(image, metadata, profile)
    if curve is not None and metadata.cut:
        raise ImageError(
            f"{path} has 16-bit colours with another transfer curve than sRGB's, and the 8 bits "
            "that are read are too few for its shadows: convert it to sRGB first"
        )
    if image.mode in _DEEP_MODES or metadata.clear is not None:
        _check_range(path, image)
        return functools.partial(
            _to_8_bits,
            path,
            white=peak_of(image),
            inverted=white_is_zero(image),
            curve=curve,
            clear=metadata.clear,
        ), None
    table = None if curve is None else rounded(curve(np.arange(256.0)))
    if image.mode in ("CMYK", "LAB"):
        return _to_srgb(image.mode, profile), table
    if image.mode == "La":
        return lambda band: band.convert("LA"), table
    return lambda band: band, table


def _curve(image: Image.Image, metadata: ColourMetadata, profile: object) -> Curve | None:
    if metadata.gamma is not None:
        return gamma_curve(metadata.gamma)
    grey = metadata.grey or image.mode in _GREY_MODES
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


def _to_8_bits(
    path: Path,
    band: Image.Image,
    *,
    white: int,
    inverted: bool,
    curve: Curve | None,
    clear: int | None,
) -> Image.Image:
    values = np.asarray(band.convert("L") if band.mode == "1" else band)
    levels = values * (255 / white)
    if np.isnan(levels).any():  # comparisons do not detect it
        raise ImageError(f"{path} has float values that are not numbers: replace them first")
    if inverted:
        levels = 255 - levels
    if curve is not None:
        levels = curve(levels)
    grey = Image.fromarray(rounded(levels))
    if clear is not None:
        grey.putalpha(Image.fromarray(np.where(values == clear, np.uint8(0), np.uint8(255))))
    return grey


def _to_srgb(mode: str, profile: object) -> Callable[[Image.Image], Image.Image]:
    """Convert from CMYK or LAB by the profile; CMYK without one by Pillow's simple formula."""
    from PIL import ImageCms

    source: Any = None
    if mode == "LAB":
        source = ImageCms.createProfile("LAB")
    elif isinstance(profile, bytes):
        source = io.BytesIO(profile)
    if source is not None:
        with suppress(ImageCms.PyCMSError):
            transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
            return transform.apply
    return lambda band: band
