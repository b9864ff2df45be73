"""The ICC profile of sRGB, for results whose values were converted to it from another space."""

from __future__ import annotations

import functools
import struct

__all__ = ["srgb_profile"]

#: XYZ of white, and of the primaries adapted to it (D50).
_WHITE = (0.9642, 1.0, 0.8249)
_PRIMARIES = {
    b"r": (0.43607, 0.22249, 0.01392),
    b"g": (0.38515, 0.71687, 0.09708),
    b"b": (0.14307, 0.06061, 0.71410),
}
#: sRGB's curve: exponent, then a, b, c, d of ICC's parametric curve of type 3.
_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)


@functools.cache
def srgb_profile(grey: bool) -> bytes:
    """A profile (ICC version 4) of sRGB, or of its grey: the same bytes every time."""
    curve = b"para" + bytes(4) + struct.pack(">HH", 3, 0) + _fixed(*_CURVE)
    name = "sRGB grey" if grey else "sRGB"
    tags = [(b"desc", _text(name)), (b"cprt", _text("CC0")), (b"wtpt", _xyz(_WHITE))]
    if grey:
        tags.append((b"kTRC", curve))
    else:
        tags += [(colour + b"XYZ", _xyz(value)) for colour, value in _PRIMARIES.items()]
        tags += [(colour + b"TRC", curve) for colour in _PRIMARIES]
    table, body = b"", b""
    for tag, content in tags:
        place = 132 + 12 * len(tags) + len(body)
        table += tag + struct.pack(">II", place, len(content))
        body += content + bytes(-len(content) % 4)
    size = 132 + len(table) + len(body)
    space = b"GRAY" if grey else b"RGB "
    head = struct.pack(">I4xI4s4s4s", size, 0x04300000, b"mntr", space, b"XYZ ")
    head += struct.pack(">6H4s28x", 2026, 1, 1, 0, 0, 0, b"acsp") + _fixed(*_WHITE) + bytes(48)
    return head + struct.pack(">I", len(tags)) + table + body


def _fixed(*values: float) -> bytes:
    return struct.pack(f">{len(values)}i", *(round(65536 * value) for value in values))


def _xyz(values: tuple[float, float, float]) -> bytes:
    return b"XYZ " + bytes(4) + _fixed(*values)


def _text(text: str) -> bytes:
    encoded = text.encode("utf-16-be")
    return b"mluc" + struct.pack(">4xII4sII", 1, 12, b"enUS", len(encoded), 28) + encoded
