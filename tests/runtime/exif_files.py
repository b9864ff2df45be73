"""EXIF blocks like those of cameras, and a reader of them that shares no code with the package."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

BYTE, ASCII, SHORT, LONG, RATIONAL, UNDEFINED, SLONG, SRATIONAL = 1, 2, 3, 4, 5, 7, 9, 10
SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 129: 1}
_CODES = {BYTE: "B", SHORT: "H", LONG: "I", RATIONAL: "I", SLONG: "i", SRATIONAL: "i"}
EXIF, GPS, INTEROPERABILITY, ORIENTATION = 34665, 34853, 40965, 274
THUMBNAIL = b"\xff\xd8" + bytes(range(200)) + b"\xff\xd9"
#: Sizes in the blocks below.
WIDTH, HEIGHT = 30, 20

Fields = dict[tuple[str, int], tuple[int, int, bytes]]


def content(order: str, kind: int, value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    values = value if isinstance(value, tuple) else (value,)
    return struct.pack(f"{order}{len(values)}{_CODES[kind]}", *values)


def directory(order: str, entries: dict[int, Any], start: int, following: int = 0) -> bytes:
    """A directory at ``start``; ``entries`` are (type, value), or directories of their own."""
    table, body = struct.pack(f"{order}H", len(entries)), b""
    place = start + 2 + 12 * len(entries) + 4
    for tag, entry in sorted(entries.items()):
        at = place + len(body)
        if isinstance(entry, dict):
            body += directory(order, entry, at)
            table += struct.pack(f"{order}HHII", tag, LONG, 1, at)
            continue
        kind, value = entry
        data = content(order, kind, value)
        table += struct.pack(f"{order}HHI", tag, kind, len(data) // SIZES[kind])
        if len(data) > 4:
            table += struct.pack(f"{order}I", at)
            body += data + bytes(len(data) % 2)
        else:
            table += data.ljust(4, b"\0")
    return table + struct.pack(f"{order}I", following) + body


def block(order: str, entries: dict[int, Any], thumbnail: bool = False) -> bytes:
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, 8)
    first = directory(order, entries, 8)
    if not thumbnail:
        return head + first
    place = 8 + len(first)
    first = directory(order, entries, 8, place)
    inner = {259: (SHORT, 6), 513: (LONG, 0), 514: (LONG, len(THUMBNAIL)), ORIENTATION: (SHORT, 6)}
    inner[513] = (LONG, place + len(directory(order, inner, place)))
    return head + first + directory(order, inner, place) + THUMBNAIL


def fields(data: bytes) -> Fields:
    """Type, count and bytes of every readable entry, by directory and tag."""
    order = "<" if data[:2] == b"II" else ">"
    found: Fields = {}

    def read(name: str, offset: int) -> int:
        count = struct.unpack_from(f"{order}H", data, offset)[0]
        for number in range(count):
            at = offset + 2 + 12 * number
            if at + 12 > len(data):
                return 0
            tag, kind, values = struct.unpack_from(f"{order}HHI", data, at)
            size = SIZES.get(kind, 1) * values
            place = struct.unpack_from(f"{order}I", data, at + 8)[0] if size > 4 else at + 8
            if place + size > len(data):
                continue
            stored = data[place : place + size]
            names = {EXIF: "exif", GPS: "gps", INTEROPERABILITY: "interoperability"}
            if tag in names and len(stored) == 4:
                pointer = struct.unpack(f"{order}I", stored)[0]
                if pointer + 2 <= len(data):
                    read(names[tag], pointer)
            else:
                found[name, tag] = kind, values, stored
        return int(struct.unpack_from(f"{order}I", data, offset + 2 + 12 * count)[0])

    following = read("first", struct.unpack_from(f"{order}I", data, 4)[0])
    if following:
        read("thumbnail", following)
    return found


# Cameras --------------------------------------------------------------------------------------

_TEXTS = {
    271: (ASCII, b"Maker\0"),
    272: (ASCII, b"Model 7\0"),
    306: (ASCII, b"2024:02:29 12:34:56\0"),
}
_DATES = {36867: (ASCII, b"2024:02:29 12:34:56\0"), 36881: (ASCII, b"+02:00\0")}


def little_endian() -> bytes:
    exif = _DATES | {33434: (RATIONAL, (1, 250)), 34855: (SHORT, 400), 36864: (UNDEFINED, b"0232")}
    return block("<", _TEXTS | {ORIENTATION: (SHORT, 1), EXIF: exif})


def big_endian() -> bytes:
    exif = _DATES | {33437: (RATIONAL, (28, 10)), 40961: (SHORT, 1), 40962: (LONG, WIDTH)}
    return block(">", _TEXTS | {ORIENTATION: (SHORT, 6), EXIF: exif | {40963: (LONG, HEIGHT)}})


def phone_with_gps() -> bytes:
    gps = {
        0: (BYTE, (2, 3, 0, 0)),
        1: (ASCII, b"N\0"),
        2: (RATIONAL, (48, 1, 51, 1, 2990, 100)),
        3: (ASCII, b"E\0"),
        4: (RATIONAL, (2, 1, 17, 1, 4013, 100)),
        5: (BYTE, 0),
        6: (RATIONAL, (35123, 1000)),
        29: (ASCII, b"2024:02:29\0"),
    }
    return block(">", _TEXTS | {ORIENTATION: (SHORT, 8), GPS: gps, EXIF: _DATES})


def with_thumbnail() -> bytes:
    return block("<", _TEXTS | {ORIENTATION: (SHORT, 3), EXIF: _DATES}, thumbnail=True)


def maker_note_with_offsets() -> bytes:
    """Canon's kind: offsets count from the beginning of the block, so it must not move."""
    note = struct.pack("<HHHII", 1, 6, ASCII, 12, 0) + bytes(4) + b"IMG:EOS JPEG"
    made = block("<", _TEXTS | {ORIENTATION: (SHORT, 5), EXIF: _DATES | {37500: (UNDEFINED, note)}})
    at = made.index(b"IMG:EOS JPEG")
    return made.replace(note[:10] + bytes(4), note[:10] + struct.pack("<I", at), 1)


def comments_in_unicode() -> bytes:
    comment = b"UNICODE\0" + "Größe 写真".encode("utf-16-be")
    entries = {
        40092: (BYTE, "Kommentar ü\0".encode("utf-16-le")),
        315: (ASCII, "Zoë Ångström\0".encode()),
        EXIF: _DATES | {37510: (UNDEFINED, comment)},
    }
    return block(">", _TEXTS | entries)


def fractions_of_seconds_and_interoperability() -> bytes:
    inner = {1: (ASCII, b"R98\0"), 2: (UNDEFINED, b"0100")}
    parts = dict.fromkeys((37520, 37521, 37522), (ASCII, b"042\x00"))
    return block("<", _TEXTS | {EXIF: _DATES | parts | {INTEROPERABILITY: inner}})


def odd_rationals() -> bytes:
    exif = {
        33434: (RATIONAL, (0, 0)),
        33437: (RATIONAL, (1, 0)),
        37377: (SRATIONAL, (-1, 3)),
        37380: (SRATIONAL, (-(2**31), 2**31 - 1)),
        37386: (RATIONAL, (2**32 - 1, 2**32 - 1)),
        42034: (RATIONAL, (24, 1, 70, 1, 0, 0, 0, 0)),
    }
    return block(">", _TEXTS | {EXIF: exif})


def undefined_orientation() -> bytes:
    return block("<", _TEXTS | {ORIENTATION: (SHORT, 0), EXIF: _DATES})


def orientation_as_long() -> bytes:
    return block(">", _TEXTS | {ORIENTATION: (LONG, 7), EXIF: _DATES})


def damaged_directory() -> bytes:
    """The EXIF directory is beyond the end, and a text, too."""
    entries = _TEXTS | {ORIENTATION: (SHORT, 6), EXIF: (LONG, 10**6)}
    made = bytearray(block("<", entries))
    at = made.index(struct.pack("<HHI", 272, ASCII, 8)) + 8
    made[at : at + 4] = struct.pack("<I", 2**31)
    return bytes(made)


def unknown_tags_and_types() -> bytes:
    entries = {
        50000: (BYTE, bytes(range(9))),
        50001: (SLONG, (-5, 6)),
        50002: (129, "naïve\0".encode()),
        50003: (11, struct.pack("<f", 0.1)),
        50004: (12, struct.pack("<2d", 0.1, 1e300)),
        18246: (SHORT, 5),
    }
    return block("<", _TEXTS | entries | {ORIENTATION: (SHORT, 2)})


CAMERAS: dict[str, Callable[[], bytes]] = {
    camera.__name__: camera
    for camera in (
        *(little_endian, big_endian, phone_with_gps, with_thumbnail, maker_note_with_offsets),
        *(comments_in_unicode, fractions_of_seconds_and_interoperability, odd_rationals),
        *(undefined_orientation, orientation_as_long, damaged_directory, unknown_tags_and_types),
    )
}
