"""Writing PNG files of 16 bits, which Pillow writes only in grey."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from io import BytesIO
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["write_png"]

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
#: Colour types of PNG, and Pillow's modes, by the number of channels.
_TYPES = {1: (0, "L"), 2: (4, "LA"), 3: (2, "RGB"), 4: (6, "RGBA")}
_PAETH = 4
#: Bytes that are filtered at a time, of several times as much memory.
_BAND = 2**20


def write_png(file: BinaryIO, values: NDArray[np.uint16], options: dict[str, Any]) -> None:
    """Write a picture.

    Args:
        file: to be written to.
        values: (H, W, C) uint16: grey, grey with alpha, RGB, RGB with alpha.
        options: Pillow's for profile, metadata and resolution, which it writes as for 8 bits.
    """
    height, width, channels = values.shape
    kind, mode = _TYPES[channels]
    file.write(_SIGNATURE)
    header = struct.pack(">2I5B", width, height, 16, kind, 0, 0, 0)
    file.write(_chunk(b"IHDR", header))
    file.write(_metadata_chunks(mode, options))
    # With photographs, whose lower bytes are noise, this takes a fifth of the default's time, and
    # the file is smaller.
    compressor = zlib.compressobj(strategy=zlib.Z_RLE)
    above = np.zeros(2 * width * channels, np.uint8)
    rows = max(1, _BAND // above.size)
    for top in range(0, height, rows):
        stored = values[top : top + rows].astype(">u2")
        band = stored.view(np.uint8).reshape(len(stored), -1)
        data = compressor.compress(_filter_rows(band, above, 2 * channels))
        if data:
            file.write(_chunk(b"IDAT", data))
        above = band[-1]
    file.write(_chunk(b"IDAT", compressor.flush()))
    file.write(_chunk(b"IEND", b""))


def _chunk(kind: bytes, content: bytes) -> bytes:
    checked = kind + content
    return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))


def _metadata_chunks(mode: str, options: dict[str, Any]) -> bytes:
    """The chunks that Pillow writes around the pixels."""
    small = BytesIO()
    Image.new(mode, (1, 1)).save(small, "PNG", **options)
    return b"".join(
        chunk
        for kind, chunk in _chunks(small.getvalue())
        if kind not in (b"IHDR", b"IDAT", b"IEND")
    )


def _chunks(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    place = len(_SIGNATURE)
    while place < len(content):
        length, kind = struct.unpack_from(">I4s", content, place)
        yield kind, content[place : place + length + 12]
        place += length + 12


def _filter_rows(band: NDArray[np.uint8], above: NDArray[np.uint8], pixel: int) -> bytes:
    """Rows with their filter, which is Paeth's.

    Args:
        band: (rows, bytes).
        above: the row before them.
        pixel: bytes of a pixel.
    """
    left, up, corner = np.zeros_like(band), np.vstack([above[None], band[:-1]]), np.zeros_like(band)
    left[:, pixel:], corner[:, pixel:] = band[:, :-pixel], up[:, :-pixel]
    rows = np.full((len(band), 1 + band.shape[1]), _PAETH, np.uint8)
    np.subtract(band, _paeth(left, up, corner), out=rows[:, 1:])
    return rows.tobytes()


def _paeth(
    left: NDArray[np.uint8], up: NDArray[np.uint8], corner: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """The one nearest to left + up - corner."""
    a, b, c = (values.astype(np.int16) for values in (left, up, corner))
    to_left, to_up, to_corner = np.abs(b - c), np.abs(a - c), np.abs(a + b - 2 * c)
    nearest = np.where(to_up <= to_corner, up, corner)
    return np.where((to_left <= to_up) & (to_left <= to_corner), left, nearest)
