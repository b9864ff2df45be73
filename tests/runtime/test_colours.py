"""What files say of their colours: gamma, code points, profiles; followed or refused."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, features

from elir_deploy.errors import ImageError
from elir_deploy.runtime.images import read_image
from tests.runtime.file_writers import cmyk_profile, grey_profile, png

RNG = np.random.default_rng(2)
GREY = np.arange(256, dtype=np.uint8).reshape(8, 32)
RGB = np.stack([GREY, GREY[::-1], GREY[:, ::-1]], axis=2)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
SRGB_PRIMARIES = struct.pack(">8I", *(31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000))
ADOBE_PRIMARIES = struct.pack(">8I", *(31270, 32900, 64000, 33000, 21000, 71000, 15000, 6000))


def srgb(light: np.ndarray) -> np.ndarray:
    """Levels from 0 to 255 of light from 0 to 1."""
    light = np.clip(light, 0, 1)
    return 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


# Grey profiles ----------------------------------------------------------------------------------


@pytest.mark.parametrize("gamma", [1.0, 1.8, 2.2])
@pytest.mark.parametrize("suffix", ["png", "tif", "jpg"])
def test_grey_goes_through_its_profile(tmp_path: Path, gamma: float, suffix: str) -> None:
    path = tmp_path / f"x.{suffix}"
    options = {"quality": 100} if suffix == "jpg" else {}
    Image.fromarray(GREY).save(path, icc_profile=grey_profile(gamma), **options)
    with Image.open(path) as image:
        stored = np.asarray(image) / 255
    loaded = read_image(path)
    expected = srgb(stored**gamma)
    assert np.abs(loaded.pixels - expected[:, :, None]).max() <= 0.6
    assert loaded.icc_profile is None


def test_grey_of_16_bits_and_with_transparency(tmp_path: Path) -> None:
    values = np.arange(0, 65536, 256, dtype=np.uint16).reshape(8, 32)
    profile = grey_profile(1.0)
    Image.fromarray(values).save(tmp_path / "x.png", icc_profile=profile)
    expected = srgb(values / 65535)
    assert np.abs(read_image(tmp_path / "x.png").pixels - expected[:, :, None]).max() <= 1
    both = Image.merge("LA", (Image.fromarray(GREY), Image.fromarray(GREY[::-1])))
    both.save(tmp_path / "a.png", icc_profile=profile)
    loaded = read_image(tmp_path / "a.png")
    assert np.abs(loaded.pixels - srgb(GREY / 255)[:, :, None]).max() <= 0.6
    np.testing.assert_array_equal(loaded.alpha, GREY[::-1])
    deep = np.stack([values, values], axis=2)
    chunk = (b"iCCP", b"p\0\0" + _deflated(profile))
    path = written(tmp_path / "b.png", png(deep, 16, 4, [chunk]))
    with pytest.raises(
        ImageError, match=r"16-bit colours with another transfer curve .* convert it to sRGB"
    ):
        read_image(path)


def test_a_damaged_grey_profile_is_none(tmp_path: Path) -> None:
    broken = SRGB[:16] + b"GRAY" + SRGB[20:]
    Image.fromarray(GREY).save(tmp_path / "x.png", icc_profile=broken)
    loaded = read_image(tmp_path / "x.png")
    np.testing.assert_array_equal(loaded.pixels[:, :, 0], GREY)
    assert loaded.icc_profile is None


def test_profiles_of_another_space_are_not_followed(tmp_path: Path) -> None:
    """A grey profile says nothing of colours; an RGB one of grey, stored as RGB, still holds."""
    Image.fromarray(RGB).save(tmp_path / "x.png", icc_profile=grey_profile(1.0))
    loaded = read_image(tmp_path / "x.png")
    np.testing.assert_array_equal(loaded.pixels, RGB)
    assert loaded.icc_profile is None
    Image.fromarray(GREY).save(tmp_path / "g.jpg", quality=100, icc_profile=SRGB)
    loaded = read_image(tmp_path / "g.jpg")
    assert np.abs(loaded.pixels[:, :, 0].astype(int) - GREY).max() <= 2
    assert loaded.icc_profile == SRGB


def _deflated(content: bytes) -> bytes:
    import zlib

    return zlib.compress(content)


# CMYK -------------------------------------------------------------------------------------------


def corners() -> np.ndarray:
    """L*, a* and b* of each full ink, and of all of them over one another."""
    lab = np.empty((2, 2, 2, 2, 3))
    for c, m, y, k in np.ndindex(2, 2, 2, 2):
        light = 100 * 0.7**c * 0.7**m * 0.95**y * 0.1**k
        lab[c, m, y, k] = light, (1 - k) * 25 * (m - c), (1 - k) * 30 * (y - (c + m) / 4)
    return lab


def lab_to_srgb(lab: np.ndarray) -> np.ndarray:
    """From L*a*b* under D50 to levels of sRGB, adapted after Bradford."""
    fy = (lab[..., 0] + 16) / 116
    f = np.stack([fy + lab[..., 1] / 500, fy, fy - lab[..., 2] / 200], axis=-1)
    xyz = np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29)) * (0.9642, 1, 0.8249)
    to_linear = np.array(
        [
            [3.1338561, -1.6168667, -0.4906146],
            [-0.9787684, 1.9161415, 0.0334540],
            [0.0719453, -0.2289914, 1.4052427],
        ]
    )
    return srgb(xyz @ to_linear.T)


@pytest.mark.parametrize("kind", ["tif", "jpg"])
def test_cmyk_goes_through_its_profile(tmp_path: Path, kind: str) -> None:
    """In a JPEG of Adobe's kind, which is what Pillow writes, the inks are stored inverted."""
    inks = np.array([*np.ndindex(2, 2, 2, 2)], np.uint8)
    image = Image.frombytes("CMYK", (128, 8), (255 * inks.repeat(8, axis=0)).tobytes() * 8)
    path = tmp_path / f"x.{kind}"
    image.save(
        path, icc_profile=cmyk_profile(corners()), **({"quality": 100} if kind == "jpg" else {})
    )
    if kind == "jpg":
        assert b"Adobe\0" in path.read_bytes()
    loaded = read_image(path)
    expected = lab_to_srgb(corners().reshape(16, 3))
    black = np.array([k for *_, k in np.ndindex(2, 2, 2, 2)], bool)
    found = loaded.pixels[4, 4::8].astype(float)
    assert np.abs(found - expected)[~black].max() < 4
    # The printer's black becomes the screen's (the profile's perceptual intent): a little darker.
    assert (found[black] <= expected[black] + 1).all()
    assert np.abs(found - expected)[black].max() < 20
    assert np.ptp(expected, axis=0).min() > 150  # and they are not all alike
    assert loaded.icc_profile is None


# PNG --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gamma", [1.0, 1 / 1.8])
def test_gamma_is_followed(tmp_path: Path, gamma: float) -> None:
    chunks = [(b"gAMA", round(100_000 * gamma).to_bytes(4, "big"))]
    expected = srgb((RGB / 255) ** (1 / gamma))
    loaded = read_image(written(tmp_path / "x.png", png(RGB, 8, 2, chunks)))
    assert np.abs(loaded.pixels - expected).max() <= 0.51
    rgba = np.dstack([RGB, GREY])
    loaded = read_image(written(tmp_path / "a.png", png(rgba, 8, 6, chunks)))
    assert np.abs(loaded.pixels - expected).max() <= 0.51
    np.testing.assert_array_equal(loaded.alpha, GREY)
    deep = np.arange(0, 65536, 256).reshape(8, 32)
    loaded = read_image(written(tmp_path / "g.png", png(deep, 16, 0, chunks)))
    assert np.abs(loaded.pixels[:, :, 1] - srgb((deep / 65535) ** (1 / gamma))).max() <= 0.51
    with pytest.raises(ImageError, match="16-bit colours with another transfer curve"):
        read_image(written(tmp_path / "d.png", png(RGB.astype(int) * 257, 16, 2, chunks)))


@pytest.mark.parametrize(
    "chunks",
    [
        [(b"gAMA", (45455).to_bytes(4, "big"))],
        [(b"gAMA", (0).to_bytes(4, "big"))],
        [(b"gAMA", (100_000).to_bytes(4, "big")), (b"sRGB", b"\0")],
        [(b"gAMA", (100_000).to_bytes(4, "big")), (b"iCCP", b"p\0\0" + _deflated(SRGB))],
        [(b"gAMA", (100_000).to_bytes(4, "big")), (b"cICP", bytes([1, 13, 0, 1]))],
        [(b"cHRM", SRGB_PRIMARIES)],
        [(b"cHRM", ADOBE_PRIMARIES), (b"iCCP", b"p\0\0" + _deflated(SRGB))],
        [(b"cICP", bytes([9, 16, 0, 1])), (b"iCCP", b"p\0\0" + _deflated(SRGB))],
    ],
)
def test_what_is_srgb_or_has_a_profile_stays(tmp_path: Path, chunks: list) -> None:
    loaded = read_image(written(tmp_path / "x.png", png(RGB, 8, 2, chunks)))
    np.testing.assert_array_equal(loaded.pixels, RGB)
    assert loaded.icc_profile == (SRGB if chunks[-1][0] == b"iCCP" else None)


def test_colours_that_are_not_computed_are_refused(tmp_path: Path) -> None:
    for chunk, reason in (
        (
            (b"cICP", bytes([9, 16, 0, 1])),
            r"primaries 9 and transfer 16 \(PQ, high dynamic range\)",
        ),
        ((b"cICP", bytes([12, 13, 0, 1])), "primaries 12 and transfer 13 of .* expected sRGB"),
        ((b"cHRM", ADOBE_PRIMARIES), r"primaries \[0\.64, 0\.33, 0\.21, 0\.71"),
    ):
        with pytest.raises(ImageError, match=reason):
            read_image(written(tmp_path / "x.png", png(RGB, 8, 2, [chunk])))
    grey = read_image(written(tmp_path / "g.png", png(GREY, 8, 0, [(b"cHRM", ADOBE_PRIMARIES)])))
    np.testing.assert_array_equal(grey.pixels[:, :, 0], GREY)  # which has no colour


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_the_transparent_grey_of_few_bits(tmp_path: Path, bits: int) -> None:
    values = RNG.integers(0, 2**bits, (9, 16))
    loaded = read_image(written(tmp_path / "x.png", png(values, bits, 0, [(b"tRNS", b"\0\1")])))
    np.testing.assert_array_equal(loaded.pixels[:, :, 0], values * 255 // (2**bits - 1))
    np.testing.assert_array_equal(loaded.alpha, np.where(values == 1, 0, 255))


def test_a_transparent_colour_of_16_bits_is_refused(tmp_path: Path) -> None:
    values = RNG.integers(0, 65536, (9, 16, 3))
    chunk = (b"tRNS", values[3, 3].astype(">u2").tobytes())
    with pytest.raises(ImageError, match="16-bit colours, one of them transparent"):
        read_image(written(tmp_path / "x.png", png(values, 16, 2, [chunk])))


# Boxes ------------------------------------------------------------------------------------------


def with_colour_box(path: Path, box: bytes) -> Path:
    """The JPEG 2000 file with another colour specification."""
    content = path.read_bytes()
    place = content.index(b"colr") - 4
    size = int.from_bytes(content[place : place + 4], "big")
    header = content.index(b"jp2h") - 4
    longer = int.from_bytes(content[header : header + 4], "big") - size + len(box) + 8
    made = struct.pack(">I4s", len(box) + 8, b"colr") + box
    content = content[:place] + made + content[place + size :]
    path.write_bytes(content[:header] + longer.to_bytes(4, "big") + content[header + 4 :])
    return path


@pytest.mark.skipif(not features.check("jpg_2000"), reason="this Pillow has no JPEG 2000")
def test_colours_of_jpeg_2000(tmp_path: Path) -> None:
    def saved(pixels: np.ndarray) -> Path:
        Image.fromarray(pixels).save(tmp_path / "x.jp2", irreversible=False)
        return tmp_path / "x.jp2"

    assert read_image(saved(RGB)).icc_profile is None
    loaded = read_image(with_colour_box(saved(RGB), b"\2\0\0" + SRGB))
    np.testing.assert_array_equal(loaded.pixels, RGB)
    assert loaded.icc_profile == SRGB
    loaded = read_image(with_colour_box(saved(GREY), b"\2\0\0" + grey_profile(1.0)))
    assert np.abs(loaded.pixels - srgb(GREY / 255)[:, :, None]).max() <= 0.6
    with pytest.raises(ImageError, match=r"colour space 14 of JPEG 2000, expected sRGB \(16\)"):
        read_image(with_colour_box(saved(RGB), b"\1\0\0" + (14).to_bytes(4, "big")))
    rgba = np.dstack([RGB, GREY])
    with pytest.raises(ImageError, match="has a profile of CMYK, expected RGB or GRAY"):
        read_image(with_colour_box(saved(rgba), b"\2\0\0" + cmyk_profile(corners())))


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")
def test_colours_of_avif(tmp_path: Path) -> None:
    path = tmp_path / "x.avif"
    Image.fromarray(RGB).save(path)
    content = path.read_bytes()
    place = content.index(b"colrnclx") + 8
    assert content[place : place + 4] == b"\0\1\0\x0d"  # BT.709 and sRGB
    assert read_image(path).pixels.shape == RGB.shape
    path.write_bytes(content[:place] + b"\0\x09\0\x10" + content[place + 4 :])
    with pytest.raises(ImageError, match="primaries 9 and transfer 16"):
        read_image(path)
    with io.BytesIO() as held:
        Image.fromarray(RGB).save(held, "AVIF", icc_profile=SRGB)
        profiled = held.getvalue()
    assert read_image(written(tmp_path / "y.avif", profiled)).icc_profile == SRGB
