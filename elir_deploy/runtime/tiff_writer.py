"""Writing TIFF files.

Pillow writes them, too, but interprets the EXIF data and writes it anew with its own idea of each
type: fractions of 0, unknown tags and types are lost. Here they are copied.
"""

from __future__ import annotations

import struct
import zlib
from typing import Any, BinaryIO

from numpy.typing import NDArray

from elir_deploy.runtime.exif import Directory, Entry, packed

__all__ = ["write_tiff"]

#: Bytes of a strip before compression.
_STRIP = 2**18
_DEFLATE, _HORIZONTAL_DIFFERENCES = 8, 2
#: By bytes of a value; of 16 bits the lower byte is noise in photographs.
_STRATEGIES = {1: zlib.Z_DEFAULT_STRATEGY, 2: zlib.Z_RLE}
_BLACK_IS_ZERO, _RGB = 1, 2
_UNASSOCIATED_ALPHA = 2


def write_tiff(file: BinaryIO, pixels: NDArray[Any], description: Directory) -> None:
    """Write a picture, compressed without loss.

    Args:
        file: a seekable file, at its beginning.
        pixels: (H, W, C) uint8 or uint16: grey, grey with alpha, RGB, RGB with alpha.
        description: further entries, whose byte order becomes the file's.
    """
    height, width, channels = pixels.shape
    order, size = description.order, pixels.itemsize
    file.write((b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, 0))
    rows = max(1, _STRIP // (width * channels * size))
    starts, lengths, place = [], [], 8
    for top in range(0, height, rows):
        strip = pixels[top : top + rows]
        differences = strip.copy()
        differences[:, 1:] -= strip[:, :-1]
        compressor = zlib.compressobj(strategy=_STRATEGIES[size])
        content = compressor.compress(differences.astype(f"{order}u{size}").tobytes())
        content += compressor.flush()
        file.write(content)
        starts.append(place)
        lengths.append(len(content))
        place += len(content)

    def shorts(*values: int) -> Entry:
        return Entry(3, struct.pack(f"{order}{len(values)}H", *values))

    def longs(*values: int) -> Entry:
        return Entry(4, struct.pack(f"{order}{len(values)}I", *values))

    structure = {
        256: longs(width),
        257: longs(height),
        258: shorts(*[8 * size] * channels),
        259: shorts(_DEFLATE),
        262: shorts(_RGB if channels > 2 else _BLACK_IS_ZERO),
        273: longs(*starts),
        277: shorts(channels),
        278: longs(rows),
        279: longs(*lengths),
        284: shorts(1),
        317: shorts(_HORIZONTAL_DIFFERENCES),
    }
    if channels in (2, 4):
        structure[338] = shorts(_UNASSOCIATED_ALPHA)
    entries = description.entries | structure
    file.write(bytes(place % 2))
    place += place % 2
    file.write(packed(Directory(order, entries, description.children), place))
    file.seek(4)
    file.write(struct.pack(f"{order}I", place))
    file.seek(0, 2)
