"""Colour metadata of files that Pillow does not apply.

Gamma and code points of PNG, boxes of JPEG 2000 and AVIF, profiles of grey pictures. What would
come out in wrong colours is refused.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
from numpy.typing import NDArray

from elir_deploy.errors import ImageError

__all__ = [
    "ColourMetadata",
    "Curve",
    "gamma_curve",
    "grey_curve",
    "profile_space",
    "read_colour_metadata",
]

#: Levels from 0 to 255 to the levels of sRGB.
Curve: TypeAlias = "Callable[[NDArray[Any]], NDArray[Any]]"

# Code points of ITU-T H.273 that are taken as sRGB: unspecified, BT.709, SD video; their curves,
# and the sRGB one.
_PRIMARIES = (1, 2, 5, 6)
_TRANSFERS = (1, 2, 6, 13, 14, 15)
_HDR = {16: "PQ", 18: "HLG"}
#: Enumerated colour spaces of JPEG 2000 that Pillow decodes: CMYK, sRGB, grey, sYCC.
_JP2_SPACES = (12, 16, 17, 18)
#: Of cHRM, x and y of red, green and blue.
_SRGB_PRIMARIES = (0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
#: Within it, primaries are sRGB's: half a level of an 8-bit picture.
_PRIMARIES_TOLERANCE = 0.01
#: Of gAMA around 1/2.2, which stands for sRGB (libpng takes as much for nothing to do).
_GAMMA_TOLERANCE = 0.05
#: Colour types of PNG.
_PNG_GREY, _PNG_RGB, _PNG_GREY_ALPHA, _PNG_RGBA = 0, 2, 4, 6
#: littleCMS: computes each value instead of interpolating in a table of few.
_NO_OPTIMIZATION: Any = 0x0100


@dataclass(frozen=True)
class ColourMetadata:
    """Colour metadata from a file's header.

    Attributes:
        profile: an ICC profile that Pillow does not give.
        gamma: the exponent from the values to light, inverted (PNG's gAMA); None: nothing to do.
        grey: the values are grey, whatever mode Pillow decodes them to.
        clear: the grey value that is transparent, on the scale that the file is decoded to.
        cut: values of more than 8 bits, which Pillow cuts.
        narrowed: values of more than 8 bits, of which Pillow gives 8.
    """

    profile: bytes | None = None
    gamma: float | None = None
    grey: bool = False
    clear: int | None = None
    cut: bool = False
    narrowed: bool = False


def read_colour_metadata(path: Path, file: BinaryIO) -> ColourMetadata:
    """Read the header of ``file``, which is then at its beginning again.

    Raises:
        ImageError: its colours have no form in sRGB that is computed here.
    """
    head = file.read(12)
    try:
        if head.startswith(b"\x89PNG\r\n\x1a\n"):
            return _png(path, file)
        if head[4:8] == b"jP  ":
            return _jpeg_2000(path, file)
        if head[4:8] == b"ftyp":
            return _heif(path, file)
        if head.startswith(b"\xff\x4f\xff\x51"):  # JPEG 2000 without boxes
            return ColourMetadata(narrowed=_is_deep(head + file.read(31), 42))
        return ColourMetadata()
    finally:
        file.seek(0)


def gamma_curve(gamma: float) -> Curve:
    """The curve to sRGB from values whose light is their power of ``1 / gamma``."""

    def curve(levels: NDArray[np.float64]) -> NDArray[np.float64]:
        light = (levels / 255) ** (1 / gamma)
        return 255 * np.where(light > 0.0031308, 1.055 * light ** (1 / 2.4) - 0.055, 12.92 * light)

    return curve


def grey_curve(profile: bytes) -> Curve | None:
    """The curve from the grey of a profile to sRGB's; None: the profile is damaged."""
    from PIL import Image, ImageCms

    try:
        transform = ImageCms.buildTransform(
            io.BytesIO(profile), ImageCms.createProfile("sRGB"), "L", "RGB", flags=_NO_OPTIMIZATION
        )
    except ImageCms.PyCMSError:
        return None
    every = np.arange(256)
    table = np.asarray(transform.apply(Image.fromarray(every.astype(np.uint8)[None])))[0, :, 1]
    return lambda levels: np.interp(levels, every, table)


def profile_space(profile: object) -> str | None:
    """The colour space of an ICC profile: ``RGB``, ``GRAY``, ``CMYK`` or another."""
    if not isinstance(profile, bytes):
        return None
    return profile[16:20].decode("ascii", "replace").rstrip()


# PNG ------------------------------------------------------------------------------------------


def _png(path: Path, file: BinaryIO) -> ColourMetadata:
    chunks = dict(_chunks(file))
    header = chunks.get(b"IHDR", b"")
    if len(header) < 13:
        return ColourMetadata()  # Pillow says what is wrong with it
    bits, kind = header[8], header[9]
    coloured = kind not in (_PNG_GREY, _PNG_GREY_ALPHA)
    gamma = None
    if b"iCCP" in chunks or b"sRGB" in chunks:
        pass
    elif len(chunks.get(b"cICP", b"")) >= 2:
        _check_code_points(path, chunks[b"cICP"][0], chunks[b"cICP"][1])
    else:
        gamma = _gamma(chunks.get(b"gAMA", b""))
        if coloured and len(chunks.get(b"cHRM", b"")) >= 32:
            _check_primaries(path, chunks[b"cHRM"])
    cut = bits == 16 and kind != _PNG_GREY
    if cut and kind == _PNG_RGB and b"tRNS" in chunks:
        raise ImageError(
            f"{path} has 16-bit colours, one of them transparent, and only 8 bits are read: "
            "save it with an alpha channel"
        )
    clear = None
    if kind == _PNG_GREY and b"tRNS" in chunks:
        clear = int.from_bytes(chunks[b"tRNS"][:2], "big")
        if bits < 8:  # which are stretched
            clear = clear * 255 // (2**bits - 1)
    return ColourMetadata(None, gamma, not coloured, clear, cut)


def _chunks(file: BinaryIO) -> Iterator[tuple[bytes, bytes]]:
    """Kind and beginning of the chunks before the picture."""
    file.seek(8)
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        if kind in (b"IDAT", b"IEND"):
            return
        content = file.read(min(length, 32))
        yield kind, content
        file.seek(length - len(content) + 4, io.SEEK_CUR)


def _gamma(chunk: bytes) -> float | None:
    gamma = int.from_bytes(chunk[:4], "big") / 100_000
    return gamma if gamma and abs(2.2 * gamma - 1) > _GAMMA_TOLERANCE else None


def _check_primaries(path: Path, chunk: bytes) -> None:
    primaries = [value / 100_000 for value in struct.unpack(">8I", chunk[:32])][2:]
    if any(
        abs(x - y) > _PRIMARIES_TOLERANCE for x, y in zip(primaries, _SRGB_PRIMARIES, strict=True)
    ):
        raise ImageError(
            f"{path} has primaries {primaries} (x and y of red, green, blue) and no ICC profile, "
            "expected sRGB's: convert it to sRGB first"
        )


def _check_code_points(path: Path, primaries: int, transfer: int) -> None:
    if primaries not in _PRIMARIES or transfer not in _TRANSFERS:
        hdr = f" ({_HDR[transfer]}, high dynamic range)" if transfer in _HDR else ""
        raise ImageError(
            f"{path} has colour primaries {primaries} and transfer {transfer}{hdr} of ITU-T H.273 "
            "and no ICC profile, expected sRGB's 1 and 13: convert it to sRGB first"
        )


# Boxes ----------------------------------------------------------------------------------------


def _jpeg_2000(path: Path, file: BinaryIO) -> ColourMetadata:
    boxes = list(_boxes(_top_box(file, b"jp2h")))
    # 255: the components differ, in a box of their own.
    narrowed = any(
        _is_deep(content, 10)
        if kind == b"ihdr" and content[10:11] != b"\xff"
        else kind == b"bpcc" and any(_is_deep(content, place) for place in range(len(content)))
        for kind, content in boxes
    )
    for kind, box in boxes:
        if kind != b"colr" or len(box) < 7:
            continue
        method = box[0]
        if method == 1:
            space = int.from_bytes(box[3:7], "big")
            if space not in _JP2_SPACES:
                raise ImageError(
                    f"{path} has colour space {space} of JPEG 2000, expected sRGB (16), grey (17), "
                    "sYCC (18) or CMYK (12): convert it to sRGB first"
                )
            return ColourMetadata(narrowed=narrowed)
        if method in (2, 3):
            profile = box[3:]
            if profile_space(profile) not in ("RGB", "GRAY"):
                raise ImageError(
                    f"{path} has a profile of {profile_space(profile)}, expected RGB or GRAY in a "
                    "JPEG 2000 file: convert it to sRGB first"
                )
            return ColourMetadata(profile, narrowed=narrowed)
    return ColourMetadata(narrowed=narrowed)


def _is_deep(content: bytes, place: int) -> bool:
    """Whether the bits of a component of JPEG 2000, written as one less, are more than 8."""
    return len(content) > place and (content[place] & 0x7F) + 1 > 8


def _heif(path: Path, file: BinaryIO) -> ColourMetadata:
    boxes = list(_boxes(_top_box(file, b"meta")[4:]))  # behind version and flags
    # AV1's configuration has a flag for more than 8 bits, that of HEVC the bits of the luma.
    narrowed = any(
        (kind == b"av1C" and len(content) > 2 and content[2] & 0x40 != 0)
        or (kind == b"hvcC" and len(content) > 17 and content[17] & 7 != 0)
        for kind, content in boxes
    )
    colours = [content for kind, content in boxes if kind == b"colr" and len(content) >= 7]
    if not any(box[:4] in (b"prof", b"rICC") for box in colours):
        for box in colours:  # the first is the picture's, others are of its parts
            if box[:4] == b"nclx" and len(box) >= 8:
                _check_code_points(path, *struct.unpack(">HH", box[4:8]))
                break
    return ColourMetadata(narrowed=narrowed)


def _top_box(file: BinaryIO, box_type: bytes) -> bytes:
    """The content of the first box of that type; empty if there is none."""
    file.seek(0)
    while len(head := file.read(8)) == 8:
        size, kind = struct.unpack(">I4s", head)
        left = size - 8
        if size == 1:
            left = int.from_bytes(file.read(8), "big") - 16
        if kind == box_type:
            return file.read(left if size else -1)
        if left < 0:
            break
        file.seek(left, io.SEEK_CUR)
    return b""


def _boxes(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Type and content of the boxes, and of those in the boxes of a picture's properties."""
    place = 0
    while place + 8 <= len(content):
        size, kind = struct.unpack_from(">I4s", content, place)
        if size < 8:
            return
        inner = content[place + 8 : place + size]
        yield kind, inner
        if kind in (b"iprp", b"ipco"):
            yield from _boxes(inner)
        place += size
