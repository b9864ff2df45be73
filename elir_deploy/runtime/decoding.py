"""Decoding image files to RGB of 8 or 16 bits, upright, with transparency in a separate array.

Pillow decodes them; values that it would decode wrongly are corrected or refused.
"""

from __future__ import annotations

import errno
import importlib
import io
import re
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from elir_deploy.errors import ImageError, MissingDependencyError
from elir_deploy.runtime.colours import ColourMetadata, profile_space, read_colour_metadata
from elir_deploy.runtime.low_bytes import LowBytes, is_cut
from elir_deploy.runtime.metadata import Metadata, hide_orientation, read_metadata
from elir_deploy.runtime.profiles import srgb_profile
from elir_deploy.runtime.resampling import bands
from elir_deploy.runtime.tiff import is_tiff, needs_libtiff, prepare_tiff
from elir_deploy.runtime.transparency import without_transparency
from elir_deploy.runtime.values import DEEP_MODES, GREY_MODES, conversion

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

#: By EXIF orientation: the pixels as they are stored, as a view of the upright picture.
_AS_STORED: dict[int, Callable[[NDArray[Any]], NDArray[Any]]] = {
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
        pixels: (H, W, 3) uint8 or uint16 RGB, upright.
        alpha: (H, W) of the same type, its largest value is opaque; None: the file has no
            transparency.
        icc_profile: colour profile of the RGB values; None: sRGB.
        converted: the file has a profile of another space (grey, CMYK), from which the values were
            converted.
        grey: the file holds grey values, which ``pixels`` repeats.
        reduced: the file has more than 8 bits, ``pixels`` 8.
        only_8_bits: no more than 8 bits are read of such a file.
        metadata: what else the file says of the picture.
    """

    pixels: NDArray[Any]
    alpha: NDArray[Any] | None = None
    icc_profile: bytes | None = None
    converted: bool = False
    grey: bool = False
    reduced: bool = False
    only_8_bits: bool = False
    metadata: Metadata = field(default_factory=Metadata)

    @property
    def result_profile(self) -> bytes | None:
        """The colour profile for a file of the result; None: the input had none, either."""
        return srgb_profile(self.grey) if self.converted else self.icc_profile

    def widened(self) -> LoadedImage:
        """The same with 16 bits."""
        if self.pixels.dtype == np.uint16:
            return self
        alpha = None if self.alpha is None else self.alpha * np.uint16(257)
        return replace(self, pixels=self.pixels * np.uint16(257), alpha=alpha)

    def opaque(self) -> NDArray[Any]:
        """The input for a model, (H, W, 3) RGB; see :mod:`.transparency`."""
        return self.pixels if self.alpha is None else without_transparency(self.pixels, self.alpha)


@dataclass(frozen=True)
class _Kind:
    """How a file is read.

    Attributes:
        orientation: as EXIF numbers it.
        deep: with 16 bits, if it has them.
        cut: Pillow cuts its 16 bits.
    """

    orientation: int
    deep: bool
    cut: bool


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


def decoded(path: Path, file: BinaryIO, max_pixels: int, deep: bool) -> LoadedImage:
    """Decode the picture in ``file``; with 16 bits if it has them and ``deep``.

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
            cut, whole = is_cut(image), LowBytes.possible(image)
            image.load()
            metadata, orientation = read_metadata(image, file)
            low = _low_bytes(file, head) if deep and cut and whole else None
            kind = _Kind(orientation, deep, cut)
            only_8_bits = colours.narrowed or (cut and not whole)
            loaded = _loaded(path, image, low, colours, kind)
            return replace(loaded, only_8_bits=only_8_bits, metadata=metadata)
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


def _low_bytes(file: BinaryIO, head: bytes) -> LowBytes:
    """Decode the file again."""
    file.seek(0)
    image = _opened(file, head)
    hide_orientation(image)
    return LowBytes(image)


def _loaded(
    path: Path, image: Image.Image, low: LowBytes | None, metadata: ColourMetadata, kind: _Kind
) -> LoadedImage:
    profile = metadata.profile or image.info.get("icc_profile")
    if metadata.clear is not None:
        image.info["transparency"] = metadata.clear  # Pillow has it on the file's scale
    deep = kind.deep and (low is not None or image.mode in DEEP_MODES)
    dtype = np.uint16 if deep else np.uint8
    convert = conversion(path, image, low, metadata, profile, dtype)
    turned = kind.orientation >= 5
    shape = (image.width, image.height) if turned else (image.height, image.width)
    pixels = np.empty((*shape, 3), dtype)
    alpha = np.empty(shape, dtype) if image.has_transparency_data else None
    as_stored = _AS_STORED[kind.orientation]
    stored_pixels = as_stored(pixels)
    stored_alpha = None if alpha is None else as_stored(alpha)
    # In bands, since a converted copy and its bytes would each need the picture's memory.
    for top, rows in bands(image.height, image.width):
        bottom = top + rows
        values = convert((0, top, image.width, bottom))
        stored_pixels[top:bottom] = values[:, :, :3]
        if stored_alpha is not None:
            stored_alpha[top:bottom] = values[:, :, 3]
    # A grey or CMYK profile does not describe the RGB values made from its pixels.
    space = profile_space(profile)
    converted = space is not None and space != "RGB"
    return LoadedImage(
        pixels,
        alpha,
        None if converted else profile,
        converted,
        grey=metadata.grey or image.mode in GREY_MODES,
        reduced=not deep and (kind.cut or metadata.narrowed or image.mode in DEEP_MODES),
    )
