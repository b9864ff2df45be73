"""EXIF data of 12 kinds of camera, carried over field by field."""

from __future__ import annotations

import struct
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageOps, features

from elir_deploy.runtime.exif import (
    make_block,
    orientation_in,
    read_directory,
    resolution_in,
    updated_block,
)
from elir_deploy.runtime.images import read_image, write_image
from tests.runtime.exif_files import CAMERAS, HEIGHT, ORIENTATION, WIDTH, Fields, fields

PIXELS = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
#: Formats that write EXIF data; the last one not everywhere.
FORMATS = [
    *("png", "jpg", "webp", "tif"),
    pytest.param("avif", marks=pytest.mark.skipif(not features.check("avif"), reason="no AVIF")),
]


def stored(path: Path, exif: bytes) -> Path:
    Image.fromarray(PIXELS).save(path, exif=b"Exif\0\0" + exif)
    return path


def block_of(path: Path) -> bytes:
    """The EXIF block of a file; a TIFF file is one itself."""
    if path.suffix == ".tif":
        return path.read_bytes()
    with Image.open(path) as image:
        image.load()
        return image.info["exif"].removeprefix(b"Exif\0\0")


def expected(exif: bytes, width: int, height: int, suffix: str) -> Fields:
    """The fields of the result: upright, of its size, without the thumbnail."""
    order = "<" if exif[:2] == b"II" else ">"
    made = {key: value for key, value in fields(exif).items() if key[0] != "thumbnail"}
    orientation = made.get(("first", ORIENTATION), (3, 1, b""))
    if orientation[2].strip(b"\0"):  # not 0, which is undefined
        kind = orientation[0]
        upright = struct.pack(f"{order}{'H' if kind == 3 else 'I'}", 1)
        made["first", ORIENTATION] = kind, 1, upright
    if suffix == "avif":
        made.pop(("first", ORIENTATION), None)
    for tag, size in ((40962, width), (40963, height)):
        if ("exif", tag) in made:
            made["exif", tag] = 4, 1, struct.pack(f"{order}I", size)
    return made


@pytest.mark.filterwarnings("ignore:Truncated File Read")
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("camera", CAMERAS)
def test_every_field_is_carried_over(tmp_path: Path, camera: str, suffix: str, bits: int) -> None:
    exif = CAMERAS[camera]()
    # Cameras write JPEG; Pillow stores the block as it is in both.
    loaded = read_image(stored(tmp_path / ("in.jpg" if bits == 8 else "in.png"), exif))
    height, width = loaded.pixels.shape[:2]
    large = np.repeat(loaded.pixels, 2, axis=1)
    if bits == 16:
        large = large * np.uint16(257)
    path = tmp_path / f"out.{suffix}"
    write_image(path, large, metadata=loaded.metadata)
    found = fields(block_of(path))
    wanted = expected(exif, 2 * width, height, suffix)
    if suffix == "tif":  # beside those of its own
        found = {key: value for key, value in found.items() if key in wanted}
    assert found == wanted
    assert read_image(path).pixels.shape == large.shape  # not turned again


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_maker_notes_do_not_move(tmp_path: Path, suffix: str) -> None:
    exif = CAMERAS["maker_note_with_offsets"]()
    loaded = read_image(stored(tmp_path / "in.png", exif))
    write_image(tmp_path / f"out.{suffix}", loaded.pixels, metadata=loaded.metadata)
    assert block_of(tmp_path / f"out.{suffix}").index(b"IMG:EOS") == exif.index(b"IMG:EOS")


def test_a_thumbnail_of_the_old_picture_is_not_shown(tmp_path: Path) -> None:
    exif = CAMERAS["with_thumbnail"]()
    with Image.open(stored(tmp_path / "in.png", exif)) as image:
        assert image.getexif().get_ifd(ExifTags.IFD.IFD1)  # Pillow finds it
    loaded = read_image(tmp_path / "in.png")
    write_image(tmp_path / "out.png", loaded.pixels, metadata=loaded.metadata)
    with Image.open(tmp_path / "out.png") as image:
        assert not image.getexif().get_ifd(ExifTags.IFD.IFD1)


@pytest.mark.filterwarnings("ignore:Truncated File Read")
@pytest.mark.parametrize("camera", CAMERAS)
def test_pixels_are_turned_as_pillow_turns_them(tmp_path: Path, camera: str) -> None:
    path = stored(tmp_path / "x.png", CAMERAS[camera]())
    with Image.open(path) as image:
        if camera == "damaged_directory":  # which Pillow does not read to its end
            upright = np.rot90(PIXELS, -1)
        else:
            upright = np.asarray(ImageOps.exif_transpose(image))
    np.testing.assert_array_equal(read_image(path).pixels, upright)


@pytest.mark.parametrize("camera", CAMERAS)
def test_from_a_tiff_file(tmp_path: Path, camera: str) -> None:
    """Whose own entries the fields are; its thumbnail is another page."""
    exif = CAMERAS[camera]()
    first = read_image(stored(tmp_path / "in.png", exif))
    write_image(tmp_path / "in.tif", first.pixels, metadata=first.metadata)
    loaded = read_image(tmp_path / "in.tif")
    np.testing.assert_array_equal(loaded.pixels, first.pixels)
    write_image(tmp_path / "out.jpg", loaded.pixels, metadata=loaded.metadata)
    found = fields(block_of(tmp_path / "out.jpg"))
    wanted = expected(exif, first.pixels.shape[1], first.pixels.shape[0], "jpg")
    assert found == wanted


def test_a_resolution_is_added_where_there_is_none() -> None:
    exif = CAMERAS["phone_with_gps"]()
    made = updated_block(exif, 9, 9, resolution=(300.0, 72.5))
    added = {("first", tag) for tag in (282, 283, 296)}
    found = fields(made)
    assert set(found) == set(fields(exif)) | added
    directory = read_directory(BytesIO(made), 2**20)
    assert directory is not None
    assert resolution_in(directory) == (300.0, 72.5)
    again = updated_block(made, 9, 9, resolution=(100.0, 100.0))
    assert fields(again) == found  # it holds one already


def test_the_limit_bounds_what_is_read() -> None:
    exif = CAMERAS["little_endian"]()
    directory = read_directory(BytesIO(exif), 30)
    assert directory is not None
    assert sum(len(entry.content) for entry in directory.entries.values()) <= 30


@settings(max_examples=300, deadline=None)
@given(
    camera=st.sampled_from(list(CAMERAS)),
    flips=st.lists(st.tuples(st.floats(0, 0.999), st.integers(1, 255)), min_size=1, max_size=8),
    length=st.floats(0, 1),
)
def test_damaged_blocks_do_no_harm(camera: str, flips: list, length: float) -> None:
    data = bytearray(CAMERAS[camera]())
    for place, change in flips:
        data[int(place * len(data))] ^= change
    exif = bytes(data[: int(length * len(data))])
    made = updated_block(exif, 9, 9, resolution=(300.0, 300.0))
    assert orientation_in(made) == 1
    assert orientation_in(updated_block(exif, 9, 9)) == 1
    directory = read_directory(BytesIO(exif), 2**20)
    if directory is not None:
        assert len(make_block(directory)) < 2**22
