"""What files say of their pictures beside the colours: EXIF, XMP, IPTC, resolution, texts.

It is carried over to results as bytes; only what a result makes untrue is changed: orientation,
size and thumbnail.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import Any, BinaryIO

from PIL import Image

from elir_deploy.runtime.exif import (
    ORIENTATION,
    Directory,
    Entry,
    make_block,
    numbers,
    orientation_in,
    read_directory,
    resolution_entries,
    resolution_in,
    updated_block,
)

__all__ = [
    "MAX_METADATA",
    "Metadata",
    "hide_orientation",
    "part_too_large",
    "read_metadata",
    "save_options",
    "tiff_tags",
]

#: Larger parts are not carried over: bytes of EXIF, XMP, IPTC, and of all texts.
MAX_METADATA = 2**26

_PREFIX = b"Exif\0\0"
_XMP_KEY = "XML:com.adobe.xmp"
_IPTC_KEY = "Raw profile type iptc"
_XMP_TAG, _IPTC_TAG, _PHOTOSHOP_TAG = 700, 33723, 34377
_IPTC_RESOURCE = 0x0404
#: Tags of TIFF files that say how the values are stored, or have been read already (profile, XMP,
#: IPTC), or hold other pictures: pages, thumbnails, layers.
_STRUCTURE = frozenset(
    {254, 255, 256, 257, 258, 259, 262, 263, 264, 265, 266, 273, 277, 278, 279, 280, 281, 284}
    | {288, 289, 290, 291, 292, 293, 301, 317, 318, 319, 320, 321, 322, 323, 324, 325, 330, 332}
    | {333, 334, 336, 337, 338, 339, 340, 341, 342, 343, 346, 347, 400, 512, 513, 514, 515, 517}
    | {518, 519, 520, 521, 529, 530, 531, 532, 559, 34675, 37724}
    | {_XMP_TAG, _IPTC_TAG, _PHOTOSHOP_TAG}
)
#: Sizes and orientation in XMP, as attributes or elements.
_XMP_NUMBER = re.compile(
    rb"(\b(?:tiff:(Orientation|ImageWidth|ImageLength)|exif:(PixelXDimension|PixelYDimension))"
    rb"(?:\s*=\s*[\"']|\s*>)\s*)(\d+)"
)
#: What a segment of JPEG holds beside its own header, in bytes.
_JPEG_LARGEST = {"EXIF data": 65533 - 6, "XMP": 65533 - 29, "IPTC data": 65533 - 27}


@dataclass(frozen=True)
class Metadata:
    """What a file says of its picture.

    Attributes:
        exif: an EXIF block; the orientation in it was applied to the pixels.
        xmp: an XMP packet; the same.
        iptc: IPTC records.
        resolution: pixels per inch, horizontally and vertically.
        texts: texts of a PNG file, by keyword.
    """

    exif: bytes | None = None
    xmp: bytes | None = None
    iptc: bytes | None = None
    resolution: tuple[float, float] | None = None
    texts: tuple[tuple[str, str], ...] = ()


# Reading --------------------------------------------------------------------------------------


def read_metadata(image: Image.Image, file: BinaryIO) -> tuple[Metadata, int]:
    """What ``file`` says, and the orientation of the pixels that Pillow decodes, from 1 to 8.

    Args:
        image: opened from ``file`` and loaded.
        file: it is read again, if it is a TIFF file.
    """
    tags = read_directory(file, MAX_METADATA) if image.format == "TIFF" else None
    exif = _unless_too_large(_exif(image) if tags is None else _block_of(tags))
    xmp = _unless_too_large(_xmp(image, tags))
    resolution = _resolution(image, exif, tags)
    metadata = Metadata(exif, xmp, _unless_too_large(_iptc(image, tags)), resolution, _texts(image))
    if tags is not None and numbers(tags, ORIENTATION):
        return metadata, 1  # Pillow has applied it
    oriented = exif is not None and _has_orientation(exif)
    return metadata, orientation_in(exif or b"") if oriented else _xmp_orientation(xmp)


def hide_orientation(image: Image.Image) -> None:
    """Leave the orientation in XMP to :func:`read_metadata`: some versions of Pillow apply it."""
    image.info.pop("xmp", None)


def _exif(image: Image.Image) -> bytes | None:
    content = image.info.get("exif")
    if not isinstance(content, bytes):
        content = _raw_profile(image.info.get("Raw profile type exif")) or b""
    while content.startswith(_PREFIX):
        content = content[len(_PREFIX) :]
    return content if content[:4] in (b"II*\0", b"MM\0*") else None


def _block_of(tags: Directory) -> bytes | None:
    entries = {tag: entry for tag, entry in tags.entries.items() if tag not in _STRUCTURE}
    if not entries and not tags.children:
        return None
    return make_block(Directory(tags.order, entries, tags.children))


def _has_orientation(exif: bytes) -> bool:
    directory = read_directory(BytesIO(exif), MAX_METADATA)
    return directory is not None and ORIENTATION in directory.entries


def _xmp(image: Image.Image, tags: Directory | None) -> bytes | None:
    if tags is not None:
        entry = tags.entries.get(_XMP_TAG)
        return None if entry is None else entry.content
    content = image.info.get("xmp") or image.info.get(_XMP_KEY)
    if content is None:  # Pillow before 11
        mark = b"http://ns.adobe.com/xap/1.0/\0"
        segments = [data for _, data in getattr(image, "applist", ()) if data.startswith(mark)]
        content = segments[0][len(mark) :] if segments else None
    if isinstance(content, str):
        content = content.encode("utf-8", "surrogateescape")
    return content if isinstance(content, bytes) else None


def _xmp_orientation(xmp: bytes | None) -> int:
    for _, name, _, value in _XMP_NUMBER.findall(xmp or b""):
        if name == b"Orientation":
            return int(value) if len(value) == 1 and 1 <= int(value) <= 8 else 1
    return 1


def _iptc(image: Image.Image, tags: Directory | None) -> bytes | None:
    if tags is not None:
        if _IPTC_TAG in tags.entries:
            return tags.entries[_IPTC_TAG].content
        photoshop = tags.entries.get(_PHOTOSHOP_TAG)
        return (
            None if photoshop is None else dict(_resources(photoshop.content)).get(_IPTC_RESOURCE)
        )
    resources = image.info.get("photoshop")
    if isinstance(resources, dict):
        content = resources.get(_IPTC_RESOURCE)
        return content if isinstance(content, bytes) else None
    content = _raw_profile(image.info.get(_IPTC_KEY))
    if content is not None and content.startswith(b"8BIM"):
        return dict(_resources(content)).get(_IPTC_RESOURCE)
    return content


def _resources(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Photoshop's image resources."""
    place = 0
    while content[place : place + 4] == b"8BIM" and place + 12 <= len(content):
        number = int.from_bytes(content[place + 4 : place + 6], "big")
        place += 6 + (content[place + 6] + 2) // 2 * 2  # a name of even length with its own
        length = int.from_bytes(content[place : place + 4], "big")
        yield number, content[place + 4 : place + 4 + length]
        place += 4 + (length + 1) // 2 * 2


def _raw_profile(text: object) -> bytes | None:
    """The content of a profile in a text of PNG, as ImageMagick writes it.

    That is a name, a length, and hexadecimal digits.
    """
    parts = str(text).split(None, 2) if isinstance(text, str) else []
    if len(parts) < 3:
        return None
    try:
        return bytes.fromhex(parts[2])
    except ValueError:
        return None


def _resolution(
    image: Image.Image, exif: bytes | None, tags: Directory | None
) -> tuple[float, float] | None:
    found = image.info.get("dpi")
    if image.format in ("JPEG", "MPO") and image.info.get("jfif_unit") not in (1, 2):
        found = None  # from EXIF data, or made up
    if tags is not None:
        found = resolution_in(tags)  # where Pillow also makes some up
    elif found is None and exif is not None:
        directory = read_directory(BytesIO(exif), MAX_METADATA)
        found = None if directory is None else resolution_in(directory)
    try:
        horizontal, vertical = (_rounded(float(value)) for value in found or ())
    except (TypeError, ValueError, OverflowError, ZeroDivisionError):
        return None
    return (horizontal, vertical) if 0 < min(horizontal, vertical) <= 65535 else None


def _rounded(value: float) -> float:
    """A whole number, where whole pixels per metre are nearest to one, as in PNG."""
    if not math.isfinite(value) or value > 65535:
        raise ValueError
    return float(round(value)) if abs(value - round(value)) < 0.013 else value


def _texts(image: Image.Image) -> tuple[tuple[str, str], ...]:
    if image.format != "PNG":
        return ()
    texts: dict[str, str] = getattr(image, "text", {})
    if sum(map(len, texts.values())) > MAX_METADATA:
        return ()
    return tuple(
        (str(name), str(text))
        for name, text in texts.items()
        if name != _XMP_KEY and not name.startswith("Raw profile type ")
    )


def _unless_too_large(content: bytes | None) -> bytes | None:
    return content if content and len(content) <= MAX_METADATA else None


# Writing --------------------------------------------------------------------------------------


def part_too_large(format: str, metadata: Metadata) -> tuple[str, int, int] | None:
    """What a format cannot hold: its name, its bytes and how many may be; None: all is held."""
    if format != "JPEG":
        return None
    parts = {"EXIF data": metadata.exif, "XMP": metadata.xmp, "IPTC data": metadata.iptc}
    for name, content in parts.items():
        if content is not None and len(content) > _JPEG_LARGEST[name]:
            return name, len(content), _JPEG_LARGEST[name]
    return None


def save_options(format: str, metadata: Metadata, width: int, height: int) -> dict[str, Any]:
    """Pillow's options for saving a result of this size with its metadata.

    Args:
        format: ``PNG``, ``JPEG``, ``WEBP`` or ``AVIF``.
        metadata: of the input.
        width: width of the result in pixels.
        height: height of the result in pixels.
    """
    options: dict[str, Any] = {}
    stores_resolution = format in ("PNG", "JPEG")  # outside EXIF
    # AVIF has the orientation elsewhere, and Pillow would write the block anew.
    exif = _exif_for(metadata, width, height, stores_resolution, oriented=format != "AVIF")
    if exif is not None:
        options["exif"] = exif if format == "PNG" else _PREFIX + exif
    if stores_resolution and metadata.resolution is not None:
        options["dpi"] = metadata.resolution
    xmp = _xmp_for(metadata, width, height)
    if format == "PNG":
        options["pnginfo"] = _png_texts(metadata, xmp)
    elif format == "JPEG":
        options["extra"] = _segments(metadata, xmp)
    elif xmp is not None:
        options["xmp"] = xmp
    return options


def tiff_tags(metadata: Metadata, width: int, height: int, icc_profile: bytes | None) -> Directory:
    """The entries of a TIFF file beside those of its structure; arguments as above."""
    exif = _exif_for(metadata, width, height, True)
    found = None if exif is None else read_directory(BytesIO(exif), MAX_METADATA)
    directory = found or Directory("<")
    entries = {tag: e for tag, e in directory.entries.items() if tag not in _STRUCTURE}
    if metadata.resolution is not None:
        entries |= resolution_entries(directory.order, metadata.resolution)
    xmp = _xmp_for(metadata, width, height)
    others = ((_XMP_TAG, 1, xmp), (_IPTC_TAG, 7, metadata.iptc), (34675, 7, icc_profile))
    entries |= {tag: Entry(kind, content) for tag, kind, content in others if content}
    return Directory(directory.order, entries, directory.children)


def _exif_for(
    metadata: Metadata, width: int, height: int, stores_resolution: bool, *, oriented: bool = True
) -> bytes | None:
    resolution = None if stores_resolution else metadata.resolution
    if metadata.exif is not None:
        return updated_block(metadata.exif, width, height, resolution=resolution, oriented=oriented)
    if resolution is not None:
        return make_block(Directory("<", resolution_entries("<", resolution)))
    return None


def _xmp_for(metadata: Metadata, width: int, height: int) -> bytes | None:
    if metadata.xmp is None:
        return None
    values = {b"Orientation": 1, b"ImageWidth": width, b"ImageLength": height}
    values |= {b"PixelXDimension": width, b"PixelYDimension": height}

    def updated(found: re.Match[bytes]) -> bytes:
        return found[1] + str(values[found[2] or found[3]]).encode()

    return _XMP_NUMBER.sub(updated, metadata.xmp)


def _png_texts(metadata: Metadata, xmp: bytes | None) -> Any:
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    if xmp is not None:
        info.add(b"iTXt", _XMP_KEY.encode() + bytes(5) + xmp)
    if metadata.iptc is not None:
        content = _resource(metadata.iptc).hex()
        lines = "\n".join(content[place : place + 72] for place in range(0, len(content), 72))
        info.add_text(_IPTC_KEY, f"\niptc\n{len(content) // 2:8}\n{lines}\n", zip=True)
    for name, text in metadata.texts:
        info.add_text(name, text, zip=len(text) > 1000)
    return info


def _segments(metadata: Metadata, xmp: bytes | None) -> bytes:
    """Segments of a JPEG file, with their markers."""
    parts = []
    if xmp is not None:
        parts.append(b"\xff\xe1" + _with_length(b"http://ns.adobe.com/xap/1.0/\0" + xmp))
    if metadata.iptc is not None:
        parts.append(b"\xff\xed" + _with_length(b"Photoshop 3.0\0" + _resource(metadata.iptc)))
    return b"".join(parts)


def _with_length(content: bytes) -> bytes:
    return struct.pack(">H", len(content) + 2) + content


def _resource(iptc: bytes) -> bytes:
    head = b"8BIM" + struct.pack(">HHI", _IPTC_RESOURCE, 0, len(iptc))
    return head + iptc + bytes(len(iptc) % 2)
