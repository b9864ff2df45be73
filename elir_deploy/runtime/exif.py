"""EXIF blocks, and the directories of TIFF files, which have the same structure.

Entries are copied as bytes; only those that describe the picture's size, orientation and resolution
are read. A block keeps everything where it is, because maker notes have offsets of their own: its
first directory is changed in place, or written again at the end if it grows.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import BinaryIO

__all__ = [
    "ORIENTATION",
    "Directory",
    "Entry",
    "make_block",
    "numbers",
    "orientation_in",
    "packed",
    "read_directory",
    "resolution_entries",
    "resolution_in",
    "updated_block",
]

ORIENTATION = 274
_WIDTH, _HEIGHT = 256, 257
_X, _Y, _UNIT = 282, 283, 296
_EXIF, _GPS, _INTEROPERABILITY = 34665, 34853, 40965
#: The size of the picture in the EXIF directory.
_PIXELS_X, _PIXELS_Y = 40962, 40963
#: Directories that are followed, and those in them.
_FOLLOWED: Mapping[int, Mapping[int, Mapping[int, object]]] = {
    _EXIF: {_INTEROPERABILITY: {}},
    _GPS: {},
}

_SHORT, _LONG, _RATIONAL = 3, 4, 5
#: Bytes of a value by its type; not types 13, 16 to 18: offsets and BigTIFF's.
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 129: 1}
_FORMATS = {1: "B", 3: "H", 4: "I"}
_INCH, _CENTIMETRE = 2, 3


@dataclass(frozen=True)
class Entry:
    """A value of a directory.

    Attributes:
        kind: its type, as TIFF numbers them.
        content: its bytes, in the byte order of where it is from.
    """

    kind: int
    content: bytes


@dataclass
class Directory:
    """A directory in memory.

    Attributes:
        order: byte order, as :mod:`struct` writes it.
        entries: values by tag.
        children: directories that are followed (EXIF, GPS, interoperability), by tag.
    """

    order: str
    entries: dict[int, Entry] = field(default_factory=dict)
    children: dict[int, Directory] = field(default_factory=dict)


# Reading --------------------------------------------------------------------------------------


class _DamagedError(ValueError):
    pass


def read_directory(file: BinaryIO, limit: int) -> Directory | None:
    """The first directory of a TIFF file or an EXIF block; None: there is none.

    Damaged entries are left out, and those beyond ``limit`` bytes in all.
    """
    try:
        return _Reader(file, limit).first()
    except _DamagedError:
        return None


class _Reader:
    def __init__(self, file: BinaryIO, limit: int) -> None:
        self._file = file
        self._left = limit
        head = self._at(0, 4)
        self._order = {b"II": "<", b"MM": ">"}.get(head[:2], "")
        version = struct.unpack(f"{self._order or '<'}H", head[2:])[0]
        if not self._order or version not in (42, 43):
            raise _DamagedError
        self._big = version == 43

    def first(self) -> Directory:
        place = self._at(8, 8) if self._big else self._at(4, 4)
        return self._directory(self._offset(place), _FOLLOWED)

    def _directory(
        self, offset: int, followed: Mapping[int, Mapping[int, Mapping[int, object]]]
    ) -> Directory:
        length = 8 if self._big else 2
        (count,) = struct.unpack(
            f"{self._order}{'Q' if self._big else 'H'}", self._at(offset, length)
        )
        directory = Directory(self._order)
        form = f"{self._order}HH{'Q8s' if self._big else 'I4s'}"
        size = struct.calcsize(form)
        for number in range(min(count, 2**16)):
            try:
                raw = self._at(offset + length + number * size, size)
            except _DamagedError:
                break  # the file ends within the directory
            tag, kind, values, place = struct.unpack(form, raw)
            try:
                if tag in followed:
                    child = self._directory(self._offset(place), followed[tag])  # type: ignore[arg-type]
                    directory.children[tag] = child
                else:
                    directory.entries[tag] = self._entry(kind, values, place)
            except _DamagedError:
                continue
        return directory

    def _entry(self, kind: int, count: int, place: bytes) -> Entry:
        length = _SIZES.get(kind, 0) * count
        if not 0 < length <= self._left:
            raise _DamagedError
        inline = length <= len(place)
        content = place[:length] if inline else self._at(self._offset(place), length)
        self._left -= length
        return Entry(kind, content)

    def _offset(self, place: bytes) -> int:
        return int(struct.unpack(f"{self._order}{'Q' if len(place) == 8 else 'I'}", place)[0])

    def _at(self, offset: int, length: int) -> bytes:
        try:
            self._file.seek(offset)
            content = self._file.read(length)
        except (OSError, OverflowError, ValueError):
            raise _DamagedError from None
        if len(content) != length:
            raise _DamagedError
        return content


def orientation_in(block: bytes) -> int:
    """From 1 to 8, as EXIF numbers them; 1 if there is none or an undefined one."""
    table = _Table.first(block)
    value = table.number(ORIENTATION) if table is not None else None
    return value if value is not None and 1 <= value <= 8 else 1


def resolution_in(directory: Directory) -> tuple[float, float] | None:
    """Pixels per inch, horizontally and vertically."""
    values = []
    for tag in (_X, _Y):
        entry = directory.entries.get(tag)
        if entry is None or entry.kind != _RATIONAL or len(entry.content) < 8:
            return None
        numerator, denominator = struct.unpack(f"{directory.order}2I", entry.content[:8])
        values.append(numerator / denominator if denominator else 0.0)
    unit = numbers(directory, _UNIT) or (_INCH,)
    if unit[0] not in (_INCH, _CENTIMETRE):
        return None
    scale = 2.54 if unit[0] == _CENTIMETRE else 1.0
    return values[0] * scale, values[1] * scale


def numbers(directory: Directory, tag: int) -> tuple[int, ...]:
    """The integers of an entry; none if it is missing or of another type."""
    entry = directory.entries.get(tag)
    if entry is None or entry.kind not in _FORMATS:
        return ()
    count = len(entry.content) // _SIZES[entry.kind]
    return struct.unpack(f"{directory.order}{count}{_FORMATS[entry.kind]}", entry.content)


# Writing --------------------------------------------------------------------------------------


def make_block(directory: Directory) -> bytes:
    """An EXIF block with this directory alone."""
    mark = b"II" if directory.order == "<" else b"MM"
    return mark + struct.pack(f"{directory.order}HI", 42, 8) + packed(directory, 8)


def packed(directory: Directory, start: int) -> bytes:
    """A directory and its values as they stand from the even offset ``start`` on."""
    order = directory.order
    tags = sorted({*directory.entries, *directory.children})
    table = struct.pack(f"{order}H", len(tags))
    place = start + 2 + 12 * len(tags) + 4
    body = b""
    for tag in tags:
        if tag in directory.children:
            content = packed(directory.children[tag], place + len(body))
            kind, count, inline = _LONG, 1, False
        else:
            entry = directory.entries[tag]
            content, kind = entry.content, entry.kind
            count, inline = len(content) // _SIZES[kind], len(content) <= 4
        value = content.ljust(4, b"\0") if inline else struct.pack(f"{order}I", place + len(body))
        table += struct.pack(f"{order}HHI", tag, kind, count) + value
        if not inline:
            body += content + bytes(len(content) % 2)
    return table + bytes(4) + body


def resolution_entries(order: str, resolution: tuple[float, float]) -> dict[int, Entry]:
    """Entries for so many pixels per inch."""
    entries = {}
    for tag, value in zip((_X, _Y), resolution, strict=True):
        numerator, denominator = round(10_000 * value), 10_000
        factor = math.gcd(numerator, denominator)
        content = struct.pack(f"{order}2I", numerator // factor, denominator // factor)
        entries[tag] = Entry(_RATIONAL, content)
    return entries | {_UNIT: Entry(_SHORT, struct.pack(f"{order}H", _INCH))}


def updated_block(
    block: bytes,
    width: int,
    height: int,
    *,
    resolution: tuple[float, float] | None = None,
    oriented: bool = True,
) -> bytes:
    """The block of a picture for its upright result.

    The orientation becomes upright, sizes that it holds are the result's, and the thumbnail, which
    shows the old picture, is not referenced any more.

    Args:
        block: an EXIF block.
        width: width of the result in pixels.
        height: height of the result in pixels.
        resolution: pixels per inch, added if the block holds none.
        oriented: keep the entry of the orientation.
    """
    table = _Table.first(block)
    if table is None:
        return block
    content = bytearray(block)
    inner = table.number(_EXIF)
    exif = None if inner is None else _Table.at(block, table.order, inner)
    if exif is not None:
        exif.replace({_PIXELS_X: width, _PIXELS_Y: height})
        content[exif.offset : exif.end] = exif.packed(exif.after)
    table.replace({_WIDTH: width, _HEIGHT: height})
    if not oriented:
        table.raws = [raw for raw in table.raws if table.tag(raw) != ORIENTATION]
    elif table.number(ORIENTATION) in range(2, 9):
        table.replace({ORIENTATION: 1})
    if resolution is not None and not any(table.tag(raw) == _X for raw in table.raws):
        return _with_entries(bytes(content), table, resolution_entries(table.order, resolution))
    content[table.offset : table.end] = table.packed(0).ljust(table.end - table.offset, b"\0")
    return bytes(content)


def _with_entries(block: bytes, table: _Table, entries: dict[int, Entry]) -> bytes:
    """The block with its first directory at the end, where there is room for more entries."""
    order = table.order
    block += bytes(len(block) % 2)
    place = len(block) + 2 + 12 * (len(table.raws) + len(entries)) + 4
    table.raws = [raw for raw in table.raws if table.tag(raw) not in entries]
    body = b""
    for tag, entry in entries.items():
        count = len(entry.content) // _SIZES[entry.kind]
        value = entry.content.ljust(4, b"\0")
        if len(entry.content) > 4:
            value = struct.pack(f"{order}I", place + len(body))
            body += entry.content
        table.raws.append(struct.pack(f"{order}HHI", tag, entry.kind, count) + value)
    table.raws.sort(key=table.tag)
    directory = table.packed(0)
    start = struct.pack(f"{order}I", len(block))
    return block[:4] + start + block[8:] + directory.ljust(place - len(block), b"\0") + body


@dataclass
class _Table:
    """The entries of a directory in a block, as they are stored.

    Attributes:
        order: byte order.
        offset: its first byte.
        end: the byte behind it.
        raws: entries of 12 bytes.
        after: offset of the next directory.
    """

    order: str
    offset: int
    end: int
    raws: list[bytes]
    after: int

    @staticmethod
    def first(block: bytes) -> _Table | None:
        order = {b"II*\0": "<", b"MM\0*": ">"}.get(block[:4])
        if order is None or len(block) < 8:
            return None
        return _Table.at(block, order, struct.unpack(f"{order}I", block[4:8])[0])

    @staticmethod
    def at(block: bytes, order: str, offset: int) -> _Table | None:
        if not 8 <= offset <= len(block) - 2:
            return None
        (count,) = struct.unpack(f"{order}H", block[offset : offset + 2])
        start = offset + 2
        count = min(count, (len(block) - start) // 12)  # the block may end within it
        raws = [block[start + 12 * n : start + 12 * n + 12] for n in range(count)]
        last = start + 12 * count
        after = block[last : last + 4]
        following = struct.unpack(f"{order}I", after)[0] if len(after) == 4 else 0
        return _Table(order, offset, min(last + 4, len(block)), raws, following)

    def tag(self, raw: bytes) -> int:
        return int(struct.unpack(f"{self.order}H", raw[:2])[0])

    def number(self, tag: int) -> int | None:
        for raw in self.raws:
            found, kind, count = struct.unpack(f"{self.order}HHI", raw[:8])
            if found == tag and kind in _FORMATS and count == 1:
                value = raw[8 : 8 + _SIZES[kind]]
                return int(struct.unpack(f"{self.order}{_FORMATS[kind]}", value)[0])
        return None

    def replace(self, values: dict[int, int]) -> None:
        """Give the entries that there are these values."""
        for number, raw in enumerate(self.raws):
            tag = self.tag(raw)
            if tag in values:
                value = values[tag]
                kind = _SHORT if value < 2**16 and raw[2:4] != self._kind(_LONG) else _LONG
                stored = struct.pack(f"{self.order}{_FORMATS[kind]}", value).ljust(4, b"\0")
                self.raws[number] = struct.pack(f"{self.order}HHI", tag, kind, 1) + stored

    def packed(self, after: int) -> bytes:
        """As it is stored, followed by the offset of the next directory."""
        head = struct.pack(f"{self.order}H", len(self.raws))
        return head + b"".join(self.raws) + struct.pack(f"{self.order}I", after)

    def _kind(self, kind: int) -> bytes:
        return struct.pack(f"{self.order}H", kind)
