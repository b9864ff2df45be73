"""Reading 16-bit colours, whose lower bytes Pillow cuts off."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from elir_deploy.errors import ImageError
from elir_deploy.runtime.colours import read_colour_metadata
from elir_deploy.runtime.exif import orientation_in
from elir_deploy.runtime.images import read_image, write_image
from tests.runtime.exif_files import CAMERAS
from tests.runtime.file_writers import png, tiff

RNG = np.random.default_rng(16)
VALUES = RNG.integers(0, 65536, (23, 31, 4)).astype(np.uint16)
RGB, GREY = VALUES[:, :, :3], VALUES[:, :, :1]
GREY_ALPHA = VALUES[:, :, [0, 3]]


def by_tifffile(pixels: np.ndarray, **options: Any) -> bytes:
    tifffile = pytest.importorskip("tifffile")
    file = io.BytesIO()
    photometric = "minisblack" if pixels.ndim == 2 else "rgb"
    tifffile.imwrite(file, pixels, photometric=photometric, **options)
    return file.getvalue()


FILES = {
    "rgb.png": lambda: (png(RGB, 16, 2), RGB),
    "rgba.png": lambda: (png(VALUES, 16, 6), VALUES),
    "grey.png": lambda: (png(GREY, 16, 0), GREY),
    "grey with alpha.png": lambda: (png(GREY_ALPHA, 16, 4), GREY_ALPHA),
    "little endian.tif": lambda: (tiff(RGB, 16, 2), RGB),
    "big endian.tif": lambda: (tiff(RGB, 16, 2, ">"), RGB),
    "deflated.tif": lambda: (tiff(RGB, 16, 2, deflated=True), RGB),
    "deflated big endian.tif": lambda: (tiff(RGB, 16, 2, ">", deflated=True), RGB),
    "differences.tif": lambda: (by_tifffile(RGB, compression="zlib", predictor=True), RGB),
    "tiles.tif": lambda: (by_tifffile(RGB, tile=(16, 16)), RGB),
    "alpha.tif": lambda: (tiff(VALUES, 16, 2, t338=(3, [2])), VALUES),
    "fourth undeclared.tif": lambda: (tiff(VALUES, 16, 2), VALUES),
    "fourth of no meaning.tif": lambda: (tiff(VALUES, 16, 2, t338=(3, [0])), RGB),
    "grey.tif": lambda: (tiff(GREY, 16, 1), GREY),
    "grey big endian.tif": lambda: (tiff(GREY, 16, 1, ">"), GREY),
    "grey, white is zero.tif": lambda: (tiff(65535 - GREY, 16, 0), GREY),
    "grey.pgm": lambda: (b"P5 31 23 65535\n" + GREY.astype(">u2").tobytes(), GREY),
}


@pytest.mark.parametrize("name", FILES)
def test_every_bit_is_read(tmp_path: Path, name: str) -> None:
    content, values = FILES[name]()
    (tmp_path / name).write_bytes(content)
    loaded = read_image(tmp_path / name, deep=True)
    grey = values.shape[2] < 3
    colours = values[:, :, :1].repeat(3, axis=2) if grey else values[:, :, :3]
    assert loaded.pixels.dtype == np.uint16
    np.testing.assert_array_equal(loaded.pixels, colours)
    assert (loaded.grey, loaded.reduced) == (grey, False)
    if values.shape[2] in (2, 4):
        assert loaded.alpha is not None
        assert loaded.alpha.dtype == np.uint16
        np.testing.assert_array_equal(loaded.alpha, values[:, :, -1])
    else:
        assert loaded.alpha is None
    cut = read_image(tmp_path / name)
    assert cut.pixels.dtype == np.uint8
    assert cut.reduced
    assert np.abs(cut.pixels - colours / 257).max() <= 1


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("planes.tif", lambda: tiff(RGB, 16, 2, planes=True)),
        ("planes deflated.tif", lambda: tiff(RGB, 16, 2, planes=True, deflated=True)),
        ("multiplied with alpha.tif", lambda: tiff(VALUES, 16, 2, t338=(3, [1]))),
        ("inks.tif", lambda: tiff(VALUES, 16, 5)),
    ],
)
def test_what_is_reduced_says_so(tmp_path: Path, name: str, make: Any) -> None:
    (tmp_path / name).write_bytes(make())
    loaded = read_image(tmp_path / name, deep=True)
    assert loaded.reduced
    np.testing.assert_array_equal(loaded.pixels, read_image(tmp_path / name).pixels)


def heic_of_10_bits() -> bytes:
    pillow_heif = pytest.importorskip("pillow_heif")
    file = io.BytesIO()
    size = RGB.shape[1::-1]
    pillow_heif.from_bytes("RGB;16", size, RGB.astype("<u2").tobytes()).save(file, quality=-1)
    return file.getvalue()


def saved(format: str, changes: dict[int, int], box: bytes = b"") -> bytes:
    """A file of 8 bits whose header, from ``box`` on, says that it has more."""
    if format not in Image.SAVE:
        pytest.skip(f"this Pillow has no {format}")
    file = io.BytesIO()
    options = {"no_jp2": not box} if format == "JPEG2000" else {}
    Image.fromarray((RGB >> 8).astype(np.uint8)).save(file, format, **options)
    content = bytearray(file.getvalue())
    start = content.index(box) + len(box)
    for place, value in changes.items():
        content[start + place] = value
    return bytes(content)


@pytest.mark.parametrize(
    ("make", "narrowed"),
    [
        (heic_of_10_bits, True),
        (lambda: saved("AVIF", {}, b"av1C"), False),
        (lambda: saved("AVIF", {2: 0x40}, b"av1C"), True),
        (lambda: saved("JPEG2000", {}, b"ihdr"), False),
        (lambda: saved("JPEG2000", {10: 15}, b"ihdr"), True),
        (lambda: saved("JPEG2000", {}), False),
        (lambda: saved("JPEG2000", {42: 15}), True),
    ],
)
def test_the_header_says_how_many_bits(make: Any, narrowed: bool) -> None:
    """Of these formats Pillow gives 8 bits, whatever the file has."""
    assert read_colour_metadata(Path("x"), io.BytesIO(make())).narrowed == narrowed


@pytest.mark.parametrize("deep", [False, True])
def test_heic_of_10_bits(tmp_path: Path, deep: bool) -> None:
    (tmp_path / "x.heic").write_bytes(heic_of_10_bits())
    loaded = read_image(tmp_path / "x.heic", deep=deep)
    assert loaded.pixels.dtype == np.uint8
    assert loaded.reduced


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "bmp"])
def test_8_bits_stay(tmp_path: Path, suffix: str) -> None:
    Image.fromarray((RGB >> 8).astype(np.uint8)).save(tmp_path / f"x.{suffix}")
    loaded = read_image(tmp_path / f"x.{suffix}", deep=True)
    assert loaded.pixels.dtype == np.uint8
    assert not loaded.reduced


def test_other_deep_values(tmp_path: Path) -> None:
    """Floats and 32-bit integers become 16 bits; a transparent grey alpha; gamma is followed."""
    floats = np.linspace(0, 1, 600, dtype=np.float32).reshape(20, 30)
    Image.fromarray(floats).save(tmp_path / "f.tif")
    loaded = read_image(tmp_path / "f.tif", deep=True)
    np.testing.assert_array_equal(loaded.pixels[:, :, 1], np.rint(floats.astype(float) * 65535))
    Image.fromarray(GREY[:, :, 0].astype(np.int32)).save(tmp_path / "i.tif")
    np.testing.assert_array_equal(read_image(tmp_path / "i.tif", deep=True).pixels[:, :, :1], GREY)
    clear = int(GREY[3, 4, 0])
    (tmp_path / "c.png").write_bytes(png(GREY, 16, 0, [(b"tRNS", clear.to_bytes(2, "big"))]))
    alpha = read_image(tmp_path / "c.png", deep=True).alpha
    np.testing.assert_array_equal(alpha, (GREY[:, :, 0] != clear) * np.uint16(65535))
    linear = (b"gAMA", (100000).to_bytes(4, "big"))
    (tmp_path / "g.png").write_bytes(png(RGB, 16, 2, [linear]))
    with pytest.raises(ImageError, match="too few for its shadows"):
        read_image(tmp_path / "g.png")
    light = RGB / 65535
    srgb = np.where(light > 0.0031308, 1.055 * light ** (1 / 2.4) - 0.055, 12.92 * light)
    pixels = read_image(tmp_path / "g.png", deep=True).pixels
    assert np.abs(pixels - 65535 * srgb).max() <= 0.51


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_turned(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x.{suffix}"
    exif = CAMERAS["phone_with_gps"]()
    with Image.open(io.BytesIO(png(RGB >> 8, 8, 2))) as image:
        image.save(tmp_path / "8.png", exif=exif)
    upright = read_image(tmp_path / "8.png").pixels
    assert upright.shape != RGB.shape
    if suffix == "png":
        path.write_bytes(png(RGB, 16, 2, [(b"eXIf", exif)]))
    else:
        path.write_bytes(tiff(RGB, 16, 2, t274=(3, [orientation_in(exif)])))
    loaded = read_image(path, deep=True)
    np.testing.assert_array_equal(loaded.pixels >> 8, upright)
    write_image(tmp_path / f"y.{suffix}", loaded.pixels, metadata=loaded.metadata)
    again = read_image(tmp_path / f"y.{suffix}", deep=True)
    np.testing.assert_array_equal(again.pixels, loaded.pixels)


@pytest.mark.parametrize("share", [0.5, 0.9])
@pytest.mark.parametrize("name", ["rgb.png", "deflated.tif", "big endian.tif"])
def test_cut_off(tmp_path: Path, name: str, share: float) -> None:
    content, _ = FILES[name]()
    (tmp_path / name).write_bytes(content[: int(share * len(content))])
    with pytest.raises(ImageError):
        read_image(tmp_path / name, deep=True)


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    name=st.sampled_from(["rgb.png", "grey with alpha.png", "deflated.tif", "tiles.tif"]),
    flips=st.lists(st.tuples(st.floats(0, 0.999), st.integers(1, 255)), min_size=1, max_size=6),
)
def test_flipped_bytes_never_get_further(tmp_path: Path, name: str, flips: list) -> None:
    content = bytearray(FILES[name]()[0])
    for place, change in flips:
        content[int(place * len(content))] ^= change
    (tmp_path / name).write_bytes(content)
    try:
        loaded = read_image(tmp_path / name, max_pixels=10**6, deep=True)
    except ImageError:
        return
    assert loaded.pixels.dtype in (np.uint8, np.uint16)
    assert loaded.pixels.ndim == 3
