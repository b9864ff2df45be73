"""Image files byte by byte, for what no library here writes."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 7: 1}
_CODES = {1: "B", 3: "H", 4: "I"}


def png(
    pixels: np.ndarray, bits: int, kind: int, chunks: Sequence[tuple[bytes, bytes]] = ()
) -> bytes:
    """A PNG file.

    Args:
        pixels: (H, W) or (H, W, C) integers.
        bits: of each, packed where they are fewer than 8.
        kind: the colour type: 0 grey, 2 RGB, 4 grey and alpha, 6 RGB and alpha.
        chunks: kind and content of those before the picture.
    """
    height, width = pixels.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    rows = b"".join(b"\0" + row for row in _rows(pixels, bits, ">"))
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def chunk(kind: bytes, content: bytes) -> bytes:
    checked = kind + content
    return len(content).to_bytes(4, "big") + checked + zlib.crc32(checked).to_bytes(4, "big")


def tiff(
    pixels: np.ndarray,
    bits: int,
    photometric: int,
    order: str = "<",
    *,
    deflated: bool = False,
    planes: bool = False,
    raw: bytes | None = None,
    **tags: Any,
) -> bytes:
    """A TIFF file of one strip, or one for each plane.

    Args:
        pixels: (H, W, C).
        bits: of each sample, packed where they are fewer than 8, or 12.
        photometric: 0 white is zero, 1 black is zero, 2 RGB, 3 palette, 5 CMYK, 6 YCbCr, 8 L*a*b*.
        order: of the bytes, as :mod:`struct` writes it.
        raw: instead of the pixels.
        tags: ``t339=(3, [2])``: number, type and values of further ones.
    """
    height, width, count = pixels.shape
    entries: dict[int, tuple[int, list[int] | bytes]] = {
        256: (3, [width]),
        257: (3, [height]),
        258: (3, [bits] * count),
        259: (3, [8 if deflated else 1]),
        262: (3, [photometric]),
        277: (3, [count]),
        278: (3, [height]),
        284: (3, [2 if planes else 1]),
    } | {int(name[1:]): value for name, value in tags.items()}
    if raw is not None:
        strips = [raw]
    elif planes:
        strips = [b"".join(_rows(pixels[:, :, k], bits, order)) for k in range(count)]
    else:
        strips = [b"".join(_rows(pixels, bits, order))]
    if deflated:
        strips = [zlib.compress(strip) for strip in strips]
    content = b"".join(strips)
    start = 8 + 2 + 12 * (len(entries) + 2) + 4
    lengths = [len(strip) for strip in strips]
    entries[273] = 4, [start + sum(lengths[:k]) for k in range(len(strips))]
    entries[279] = 4, lengths
    return _directory(entries, order, content, start)


def _directory(
    entries: dict[int, tuple[int, list[int] | bytes]], order: str, content: bytes, start: int
) -> bytes:
    table = b""
    for tag, (kind, values) in sorted(entries.items()):
        packed = (
            values
            if isinstance(values, bytes)
            else struct.pack(f"{order}{len(values)}{_CODES[kind]}", *values)
        )
        count = len(packed) // _SIZES[kind]
        if len(packed) > 4:
            place = start + len(content)
            content += packed
            packed = struct.pack(f"{order}I", place)
        table += struct.pack(f"{order}HHI", tag, kind, count) + packed.ljust(4, b"\0")
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, 8)
    return head + struct.pack(f"{order}H", len(entries)) + table + bytes(4) + content


def _rows(pixels: np.ndarray, bits: int, order: str) -> list[bytes]:
    if bits in (8, 16, 32):
        kind = pixels.dtype.kind if pixels.dtype.kind in "if" else "u"
        return [row.astype(f"{order}{kind}{bits // 8}").tobytes() for row in pixels]
    flat = pixels.reshape(len(pixels), -1, 1)
    digits = (flat >> np.arange(bits)[::-1] & 1).reshape(len(pixels), -1)
    return [np.packbits(row.astype(np.uint8)).tobytes() for row in digits]


# ICC profiles ---------------------------------------------------------------------------------


def _profile(space: bytes, kind: bytes, pcs: bytes, tags: Sequence[tuple[bytes, bytes]]) -> bytes:
    white = struct.pack(">3i", *(round(65536 * value) for value in (0.9642, 1, 0.8249)))
    text = b"none\0"
    tags = [
        (b"desc", b"desc" + bytes(4) + struct.pack(">I", len(text)) + text + bytes(78)),
        (b"cprt", b"text" + bytes(4) + text),
        (b"wtpt", b"XYZ " + bytes(4) + white),
        *tags,
    ]
    table, body = b"", b""
    for name, content in tags:
        content += bytes(-len(content) % 4)
        place = 132 + 12 * len(tags) + len(body)
        table += name + struct.pack(">II", place, len(content))
        body += content
    size = 132 + len(table) + len(body)
    head = struct.pack(">I4sI4s4s4s", size, b"test", 0x02400000, kind, space, pcs)
    head += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + white + bytes(48)
    return head + struct.pack(">I", len(tags)) + table + body


def grey_profile(gamma: float) -> bytes:
    """An ICC profile of grey whose light is the value to the power of ``gamma``."""
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(256 * gamma))
    return _profile(b"GRAY", b"mntr", b"XYZ ", [(b"kTRC", curve)])


def cmyk_profile(corners: np.ndarray) -> bytes:
    """An ICC profile of a printer, as a table of the corners of CMYK.

    Args:
        corners: (2, 2, 2, 2, 3), L* from 0 to 100, a* and b*, by cyan, magenta, yellow, black.
    """
    identity = struct.pack(">9i", *(65536 * value for value in (1, 0, 0, 0, 1, 0, 0, 0, 1)))
    ramp = bytes(range(256))
    encoded = corners * (255 / 100, 1, 1) + (0, 128, 128)
    table = np.rint(encoded).astype(np.uint8).tobytes()
    lut = b"mft1" + bytes(4) + bytes((4, 3, 2, 0)) + identity + 4 * ramp + table + 3 * ramp
    return _profile(b"CMYK", b"prtr", b"Lab ", [(b"A2B0", lut)])
