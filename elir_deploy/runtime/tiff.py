"""TIFF files that Pillow decodes wrongly: corrected or refused.

The combinations were compared with tifffile, an independent decoder (tests/runtime/test_tiff.py).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image

from elir_deploy.errors import ImageError

__all__ = ["is_tiff", "needs_libtiff", "peak_of", "prepare_tiff", "white_is_zero"]

_SUBFILE_TYPE, _BITS, _PHOTOMETRIC, _FILL_ORDER, _PLANES, _COLOUR_MAP = 254, 258, 262, 266, 284, 320
_INK_SET, _SAMPLE_FORMAT, _DNG_VERSION = 332, 339, 50706
_SIGNED = 2
#: Tags of offsets and sizes, of strips and of tiles.
_PIECES = ((273, 279), (324, 325))
#: libtiff returns values in the machine's byte order, but Pillow expects the file's.
_NATIVE = {"F;32BF": "F;32NF", "I;32BS": "I;32NS"}


def is_tiff(head: bytes) -> bool:
    """Whether a file with this beginning is a TIFF file."""
    return head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def needs_libtiff(image: Any) -> bool:
    """Whether Pillow's own decoder for uncompressed files would garble this one.

    It is better for others, since libtiff needs memory for a whole strip, which may be all of it.
    """
    tags = image.tag_v2
    odd = tags.get(_PLANES) == 2 or tags.get(_PHOTOMETRIC) == 6 or tags.get(_FILL_ORDER) == 2
    return odd and bool(image.tile) and image.tile[0][0] != "libtiff"


def prepare_tiff(path: Path, image: Any, length: int) -> None:
    """Check the tags of an opened file of ``length`` bytes before its pixels are decoded.

    Raises:
        ImageError: it has the preview of a raw photograph, or values without a common meaning, or
            it is truncated.
    """
    tags = image.tag_v2
    if tags.get(_SUBFILE_TYPE, 0) & 1 or _DNG_VERSION in tags:
        raise ImageError(
            f"{path} begins with a preview of another picture, as raw photographs do: develop it "
            "into a PNG or TIFF file first"
        )
    bits = _first(tags.get(_BITS, 1))
    if _first(tags.get(_SAMPLE_FORMAT, 1)) == _SIGNED and bits < 32:
        raise ImageError(
            f"{path} has signed {bits}-bit values, without a defined white: save unsigned values"
        )
    if tags.get(_PHOTOMETRIC) == 5 and tags.get(_INK_SET, 1) != 1:
        raise ImageError(f"{path} has inks other than CMYK: convert it to sRGB first")
    if tags.get(_PLANES) == 2 and image.mode in ("LA", "La", "PA", "LAB"):
        raise ImageError(f"{path} has {image.mode} in separate planes: save it interleaved")
    for starts, counts in _PIECES:
        pieces = zip(tags.get(starts, ()), tags.get(counts, ()), strict=False)
        ends = [start + count for start, count in pieces]
        if max(ends, default=0) > length:
            raise ImageError(f"{path} is cut off: it has {length} bytes of {max(ends)}")
    colours = tags.get(_COLOUR_MAP)
    if image.mode in ("P", "PA") and colours and max(colours) < 256:  # 8 bits, not 16
        from PIL import ImagePalette

        image.palette = ImagePalette.raw("RGB;L", bytes(colours))
    for number, tile in enumerate(image.tile):
        if tile[0] == "libtiff" and tile[3][0] in _NATIVE:
            native = (*tile[:3], (_NATIVE[tile[3][0]], *tile[3][1:]))
            # A plain tuple before Pillow 11, a named one since.
            image.tile[number] = tile._make(native) if hasattr(tile, "_make") else native


def white_is_zero(image: Image.Image) -> bool:
    """Whether a grey picture of more than 8 bits is inverted, which Pillow ignores."""
    tags: Any = getattr(image, "tag_v2", {})
    return bool(tags.get(_PHOTOMETRIC) == 0)


def peak_of(image: Image.Image) -> int:
    """Pillow's value of white in a grey picture."""
    if image.mode in ("1", "L", "F"):
        return 1 if image.mode == "F" else 255
    tags: Any = getattr(image, "tag_v2", {})
    return 4095 if _first(tags.get(_BITS, 16)) == 12 else 65535


def _first(value: Any) -> int:
    return int(value[0] if isinstance(value, tuple) else value)
