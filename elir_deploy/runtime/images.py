"""Reading and writing image files.

Whatever a file holds, its pixels come out as 8-bit RGB, upright, with the transparency beside
them; what has no such form (animations, floats out of range, files cut off) is refused with the
reason. Writing is all or nothing.
"""

from __future__ import annotations

import errno
import functools
import io
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from elir_deploy.atomic import replacing
from elir_deploy.errors import ImageError, OutputError

__all__ = [
    "IMAGE_SUFFIXES",
    "MAX_PIXELS",
    "OUTPUT_FORMATS",
    "LoadedImage",
    "check_transparency",
    "enlarge_alpha",
    "read_image",
    "write_image",
]

#: Largest picture that is decoded, 268 megapixels; more is taken for a decompression bomb.
MAX_PIXELS = 2**28

#: Formats that are read, by Pillow's names. Not among them: EPS, which would run Ghostscript.
_FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "TIFF", "BMP", "GIF", "PPM", "JPEG2000", "AVIF")
#: Files taken from a folder.
IMAGE_SUFFIXES = frozenset(
    f".{name}"
    for name in (
        *("png", "apng", "jpg", "jpeg", "jpe", "jfif", "mpo", "webp", "tif", "tiff"),
        *("bmp", "gif", "ppm", "pgm", "jp2", "avif"),
    )
)

#: By suffix: Pillow's name of the format and how it is saved.
OUTPUT_FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    ".png": ("PNG", {}),
    ".jpg": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".jpeg": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".webp": ("WEBP", {"quality": 95}),
}

_BAND_PIXELS = 2**22
_pillow_limit = threading.Lock()


@dataclass(frozen=True)
class LoadedImage:
    """A picture as it was in a file.

    Attributes:
        pixels: (H, W, 3) uint8 RGB, upright.
        alpha: (H, W) uint8, 255 opaque; None where the file has no transparency.
        icc_profile: of the RGB values; None: taken as sRGB.
    """

    pixels: NDArray[np.uint8]
    alpha: NDArray[np.uint8] | None = None
    icc_profile: bytes | None = None


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
            return _decoded(path, file, max_pixels)
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
    if path.suffix.lower() not in OUTPUT_FORMATS:
        raise OutputError(
            f"{path}: the name ends in {path.suffix!r}, wanted one of {', '.join(OUTPUT_FORMATS)}"
        )
    kind, options = OUTPUT_FORMATS[path.suffix.lower()]
    check_transparency(path, alpha)
    if alpha is not None and alpha.min() == 255:
        alpha = None
    image = Image.fromarray(np.ascontiguousarray(pixels))
    if alpha is not None:
        image.putalpha(Image.fromarray(np.ascontiguousarray(alpha)))
    if icc_profile:
        options = options | {"icc_profile": icc_profile}
    try:
        with replacing(path) as file:
            image.save(file, format=kind, **options)
    except OSError as error:  # without a number: Pillow, of what a format cannot hold
        size = f"{image.width}x{image.height}"
        raise OutputError(f"{path}: {kind} cannot hold {size} pixels: {error}") from None
    except ValueError as error:
        raise OutputError(f"{path} cannot be written as {kind}: {error}") from None


def check_transparency(path: Path, alpha: NDArray[np.uint8] | None) -> None:
    """Refuse transparency where the format of ``path`` cannot hold it.

    Raises:
        OutputError: ``alpha`` is not entirely opaque and the format is JPEG.
    """
    if path.suffix.lower() in (".jpg", ".jpeg") and alpha is not None and alpha.min() < 255:
        raise OutputError(
            f"{path}: the image has transparency, which JPEG cannot hold: write PNG or WebP"
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


# Decoding -------------------------------------------------------------------------------------


def _decoded(path: Path, file: io.BufferedReader, max_pixels: int) -> LoadedImage:
    if not file.peek(1):
        raise ImageError(f"{path} is empty (0 bytes)")
    try:
        with _opened(file) as image:
            _check_header(path, image, max_pixels)
            image.load()
            return _loaded(path, image)
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError(f"{path} is not an image in a format that is read here") from None
    except MemoryError:
        raise ImageError(f"{path}: not enough memory to decode it") from None
    except Exception as error:  # a damaged file drives Pillow into any exception
        # What the system refused is not the file's fault; EINVAL is a jump out of the file.
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise
        text = str(error) or type(error).__name__
        if any(word in text.lower() for word in ("truncated", "end of file", "eof")):
            raise ImageError(f"{path} is cut off: {text}") from None
        raise ImageError(f"{path} is damaged: {text}") from None


@contextmanager
def _opened(file: io.BufferedReader) -> Iterator[Image.Image]:
    Image.init()
    formats = [name for name in _FORMATS if name in Image.OPEN]
    # Pillow's own limit warns at 89 megapixels and fails at 179; ours is checked right after.
    with _pillow_limit:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            image = Image.open(file, formats=formats)
        finally:
            Image.MAX_IMAGE_PIXELS = limit
    with image:
        yield image


def _check_header(path: Path, image: Image.Image, max_pixels: int) -> None:
    if image.width * image.height > max_pixels:
        raise ImageError(
            f"{path} is {image.width}x{image.height}, more than {max_pixels} pixels: refused"
        )
    frames = getattr(image, "n_frames", 1)
    # An MPO is a JPEG with further views behind it (stereo pairs, depth): the first is the photo.
    if frames > 1 and image.format != "MPO":
        raise ImageError(f"{path} has {frames} frames, wanted one: extract the one you want")


def _loaded(path: Path, image: Image.Image) -> LoadedImage:
    from PIL import ImageOps

    try:
        ImageOps.exif_transpose(image, in_place=True)
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001  # damaged EXIF data is no reason to refuse the picture
        pass
    profile = image.info.get("icc_profile")
    convert = _conversion(path, image, profile)
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    transparent = image.has_transparency_data
    alpha = np.empty(pixels.shape[:2], np.uint8) if transparent else None
    # In bands, as a converted copy and its bytes would each take as much as the picture.
    rows = max(1, _BAND_PIXELS // image.width)
    for top in range(0, image.height, rows):
        bottom = min(top + rows, image.height)
        band = convert(image.crop((0, top, image.width, bottom)))
        if alpha is not None:
            values = np.asarray(band.convert("RGBA"))
            pixels[top:bottom], alpha[top:bottom] = values[:, :, :3], values[:, :, 3]
        else:
            pixels[top:bottom] = np.asarray(band.convert("RGB"))
    # A grey or CMYK profile does not describe the RGB values made from its pixels.
    fits = isinstance(profile, bytes) and profile[16:20] == b"RGB "
    return LoadedImage(pixels, alpha, profile if fits else None)


def _conversion(
    path: Path, image: Image.Image, profile: object
) -> Callable[[Image.Image], Image.Image]:
    """From a band of ``image`` to one that Pillow converts to RGB by itself.

    Raises:
        ImageError: the values have no 8-bit form.
    """
    if image.mode in ("I", "F"):
        least, most = cast(tuple[float, float], image.getextrema())
        limit = 65535 if image.mode == "I" else 1
        if not (least >= 0 and most <= limit):
            kind = "32-bit" if image.mode == "I" else "float"
            raise ImageError(
                f"{path} has {kind} values from {least:g} to {most:g}, wanted 0 to {limit}: "
                "scale it first"
            )
    if image.mode.startswith("I"):
        return _rounded_to_8_bits
    if image.mode == "F":
        return functools.partial(_scaled_to_8_bits, path)
    if image.mode in ("CMYK", "LAB"):
        return _to_srgb(image.mode, profile)
    return lambda band: band


def _rounded_to_8_bits(band: Image.Image) -> Image.Image:
    values = np.asarray(band).astype(np.uint32)
    grey = Image.fromarray(((values + 128) // 257).astype(np.uint8))
    clear = band.info.get("transparency")  # the one grey value that a PNG declares transparent
    if isinstance(clear, int):
        grey.putalpha(Image.fromarray(np.where(values == clear, np.uint8(0), np.uint8(255))))
    return grey


def _scaled_to_8_bits(path: Path, band: Image.Image) -> Image.Image:
    values = np.asarray(band) * np.float32(255)
    if np.isnan(values).any():  # which no comparison finds
        raise ImageError(f"{path} has float values that are not numbers: replace them first")
    return Image.fromarray(np.rint(values).astype(np.uint8))


def _to_srgb(mode: str, profile: object) -> Callable[[Image.Image], Image.Image]:
    """From CMYK or LAB by the colour profile; CMYK without one by Pillow's plain formula."""
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
