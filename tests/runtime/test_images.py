"""Image files: every mode comes out as RGB, every bad file as one clear error."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
import threading
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, PngImagePlugin

from elir_deploy import output_files
from elir_deploy.errors import ImageError, OutputError
from elir_deploy.runtime import decoding, resampling
from elir_deploy.runtime.images import (
    OUTPUT_FORMATS,
    check_fits,
    enlarge_alpha,
    read_image,
    write_image,
)
from tests.runtime.file_writers import chunk, png

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (20, 30, 3), np.uint8)
GREY = RGB[:, :, 0]
ALPHA = RNG.integers(0, 256, (20, 30), np.uint8)
PHOTO = np.clip(
    np.linspace(0, 255, 200)[:, None, None] + RNG.normal(0, 20, (200, 300, 3)), 0, 255
).astype(np.uint8)


def saved(path: Path, image: Image.Image | np.ndarray, **options: object) -> Path:
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(path, **options)  # type: ignore[arg-type]
    return path


# Modes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["png", "tif", "bmp", "ppm", "webp"])
def test_rgb(tmp_path: Path, suffix: str) -> None:
    options = {"lossless": True} if suffix == "webp" else {}
    loaded = read_image(saved(tmp_path / f"x.{suffix}", RGB, **options))
    np.testing.assert_array_equal(loaded.pixels, RGB)
    assert (loaded.alpha, loaded.icc_profile) == (None, None)
    assert loaded.pixels.flags.c_contiguous


def test_grey(tmp_path: Path) -> None:
    for name, image in (
        ("l.png", GREY),
        ("p.png", Image.fromarray(GREY).convert("P")),
        ("l.tif", GREY),
    ):
        loaded = read_image(saved(tmp_path / name, image))
        np.testing.assert_array_equal(loaded.pixels, np.repeat(GREY[:, :, None], 3, axis=2))
    black_and_white = Image.fromarray(GREY > 99)
    loaded = read_image(saved(tmp_path / "1.png", black_and_white))
    np.testing.assert_array_equal(loaded.pixels[:, :, 1], (GREY > 99) * np.uint8(255))


def test_palette(tmp_path: Path) -> None:
    image = Image.fromarray(RGB).quantize(16)
    loaded = read_image(saved(tmp_path / "p.gif", image))
    np.testing.assert_array_equal(loaded.pixels, np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha(tmp_path: Path, mode: str) -> None:
    colour = RGB if mode == "RGBA" else GREY
    pixels = np.dstack([colour, ALPHA])
    loaded = read_image(saved(tmp_path / "a.png", Image.fromarray(pixels, mode)))
    np.testing.assert_array_equal(loaded.alpha, ALPHA)
    expected = RGB if mode == "RGBA" else np.repeat(GREY[:, :, None], 3, axis=2)
    np.testing.assert_array_equal(loaded.pixels, expected)


def test_transparent_colours(tmp_path: Path) -> None:
    palette = Image.fromarray(RGB).quantize(16)
    index = np.asarray(palette)
    loaded = read_image(saved(tmp_path / "p.png", palette, transparency=3))
    np.testing.assert_array_equal(loaded.alpha, np.where(index == 3, 0, 255))
    loaded = read_image(saved(tmp_path / "q.png", palette, transparency=bytes(range(0, 160, 10))))
    np.testing.assert_array_equal(loaded.alpha, index * 10)
    colour = tuple(int(value) for value in RGB[4, 5])
    loaded = read_image(saved(tmp_path / "rgb.png", RGB, transparency=colour))
    assert loaded.alpha is not None
    assert loaded.alpha[4, 5] == 0
    assert (loaded.alpha == 255).sum() == loaded.alpha.size - 1
    loaded = read_image(saved(tmp_path / "l.png", GREY, transparency=int(GREY[1, 2])))
    np.testing.assert_array_equal(loaded.alpha, np.where(GREY[1, 2] == GREY, 0, 255))


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_grey_is_rounded(tmp_path: Path, suffix: str) -> None:
    values = np.arange(0, 65536, 7, dtype=np.uint16)[:9216].reshape(96, 96)
    loaded = read_image(saved(tmp_path / f"x.{suffix}", values))
    np.testing.assert_array_equal(loaded.pixels[:, :, 2], np.rint(values / 257).astype(np.uint8))


def test_32_bit_and_float(tmp_path: Path) -> None:
    fine = read_image(saved(tmp_path / "i.tif", GREY.astype(np.int32) * 257))
    np.testing.assert_array_equal(fine.pixels[:, :, 0], GREY)
    fine = read_image(saved(tmp_path / "f.tif", (GREY / 255).astype(np.float32)))
    np.testing.assert_array_equal(fine.pixels[:, :, 0], GREY)
    for name, values, reason in (
        ("i.tif", GREY.astype(np.int32) * 100_000, "32-bit values from .* expected 0 to 65535"),
        ("j.tif", GREY.astype(np.int32) - 1000, "32-bit values from -"),
        ("f.tif", GREY.astype(np.float32), "float values from .* expected 0 to 1"),
        ("n.tif", np.where(GREY > 128, np.nan, 0.5).astype(np.float32), "n\\.tif has float values"),
    ):
        with pytest.raises(ImageError, match=reason):
            read_image(saved(tmp_path / name, values))


def test_one_number_among_floats_that_is_none(tmp_path: Path) -> None:
    values = np.full((20, 30), 0.5, np.float32)
    values[7, 7] = np.nan
    with pytest.raises(ImageError, match=r"n\.tif has float values"):
        read_image(saved(tmp_path / "n.tif", values))


def test_a_16_bit_grey_that_is_transparent(tmp_path: Path) -> None:
    values = GREY.astype(np.uint16) * 257
    clear = int(values[1, 2]).to_bytes(2, "big")
    (tmp_path / "x.png").write_bytes(png(values, 16, 0, [(b"tRNS", clear)]))
    loaded = read_image(tmp_path / "x.png")
    np.testing.assert_array_equal(loaded.pixels[:, :, 0], GREY)
    np.testing.assert_array_equal(loaded.alpha, np.where(GREY[1, 2] == GREY, 0, 255))


def test_cmyk_without_a_profile(tmp_path: Path) -> None:
    image = Image.fromarray(RGB).convert("CMYK")
    loaded = read_image(saved(tmp_path / "c.tif", image))
    np.testing.assert_array_equal(loaded.pixels, np.asarray(image.convert("RGB")))
    broken = read_image(saved(tmp_path / "d.tif", image, icc_profile=b"junk" * 50))
    np.testing.assert_array_equal(broken.pixels, loaded.pixels)
    assert broken.icc_profile is None


def test_inks_of_a_jpeg_are_inverted_whoever_wrote_it(tmp_path: Path) -> None:
    """As Adobe's are; browsers take those without Adobe's mark so too."""
    image = Image.fromarray(PHOTO).convert("CMYK")
    content = saved(tmp_path / "c.jpg", image, quality=100).read_bytes()
    mark = content.index(b"\xff\xee")
    length = int.from_bytes(content[mark + 2 : mark + 4], "big")
    (tmp_path / "d.jpg").write_bytes(content[:mark] + content[mark + 2 + length :])
    for name in ("c.jpg", "d.jpg"):
        found = read_image(tmp_path / name).pixels.astype(int)
        assert np.abs(found - np.asarray(image.convert("RGB"))).mean() < 3


def test_lab_and_ycbcr(tmp_path: Path) -> None:
    smooth = np.asarray(Image.fromarray(PHOTO).resize((30, 20)))
    lab = ImageCms.profileToProfile(
        Image.fromarray(smooth),
        ImageCms.createProfile("sRGB"),
        ImageCms.createProfile("LAB"),
        outputMode="LAB",
    )
    ycbcr = Image.fromarray(smooth).convert("YCbCr")
    for name, image in (("lab.tif", lab), ("y.jpg", ycbcr)):
        loaded = read_image(saved(tmp_path / name, image))
        assert np.abs(loaded.pixels.astype(int) - smooth).max() <= 10


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
def test_exif_rotation(tmp_path: Path, orientation: int, suffix: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = np.zeros((16, 32, 3), np.uint8)
    upright[:8, :16] = 255  # white top left
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.swapaxes(0, 1),
        6: np.rot90(upright),
        7: upright[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(upright, -1),
    }[orientation]
    path = saved(tmp_path / f"x.{suffix}", np.ascontiguousarray(stored), exif=exif)
    assert np.abs(read_image(path).pixels.astype(int) - upright).max() < 40


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
def test_transparency_is_turned_with_the_picture(
    tmp_path: Path, orientation: int, suffix: str
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    whole = np.dstack([RGB, ALPHA])
    stored = {
        1: whole,
        2: whole[:, ::-1],
        3: whole[::-1, ::-1],
        4: whole[::-1],
        5: whole.swapaxes(0, 1),
        6: np.rot90(whole),
        7: whole[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(whole, -1),
    }[orientation]
    options = {"lossless": True, "exact": True} if suffix == "webp" else {}
    path = saved(tmp_path / f"x.{suffix}", np.ascontiguousarray(stored), exif=exif, **options)
    loaded = read_image(path)
    np.testing.assert_array_equal(loaded.pixels, RGB)
    np.testing.assert_array_equal(loaded.alpha, ALPHA)


def test_damaged_exif_is_no_reason(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.png", RGB, exif=b"Exif\x00\x00garbage")
    np.testing.assert_array_equal(read_image(path).pixels, RGB)


def test_profiles(tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    loaded = read_image(saved(tmp_path / "x.png", RGB, icc_profile=profile))
    assert loaded.icc_profile == profile
    np.testing.assert_array_equal(loaded.pixels, RGB)
    grey = profile[:16] + b"GRAY" + profile[20:]
    assert read_image(saved(tmp_path / "g.png", GREY, icc_profile=grey)).icc_profile is None


def test_a_pipe_is_read(tmp_path: Path) -> None:
    content = saved(tmp_path / "x.png", RGB).read_bytes()
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(content,))
    writer.start()
    np.testing.assert_array_equal(read_image(tmp_path / "pipe").pixels, RGB)
    writer.join()


# Text and profiles beside the picture -----------------------------------------------------------

LONG = bytes(range(32, 127)) * 50_000  # 5 MB, where Pillow takes one


def texts(size: int) -> dict[str, tuple[bytes, bytes]]:
    """A chunk of each kind that holds so many bytes of text, or of a profile."""
    text = (LONG * (size // len(LONG) + 1))[:size]
    packed = zlib.compress(text)
    return {
        "text": (b"tEXt", b"parameters\0" + text),
        "compressed": (b"zTXt", b"workflow\0\0" + packed),
        "international": (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + packed),
        "profile": (b"iCCP", b"p\0\0" + packed),
    }


@pytest.mark.parametrize("behind", [False, True])
@pytest.mark.parametrize("kind", list(texts(1)))
def test_long_texts_and_profiles_are_no_damage(tmp_path: Path, kind: str, behind: bool) -> None:
    content = png(RGB, 8, 2)
    made = chunk(*texts(5_000_000)[kind])
    place = len(content) - 12 if behind else 33  # before IEND, behind IHDR
    path = tmp_path / "x.png"
    path.write_bytes(content[:place] + made + content[place:])
    np.testing.assert_array_equal(read_image(path).pixels, RGB)
    assert PngImagePlugin.MAX_TEXT_CHUNK == 2**20  # for all others


def test_what_is_written_with_a_long_profile_is_read(tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    profile += np.random.default_rng(0).bytes(3_000_000)
    for suffix in ("png", "jpg", "webp"):
        write_image(tmp_path / f"x.{suffix}", RGB, icc_profile=profile)
        assert read_image(tmp_path / f"x.{suffix}").icc_profile == profile


@pytest.mark.parametrize("behind", [False, True])
@pytest.mark.parametrize("kind", ["compressed", "international", "profile"])
def test_bombs_in_texts_are_refused(tmp_path: Path, kind: str, behind: bool) -> None:
    content = png(RGB, 8, 2)
    bomb = chunk(*texts(decoding.MAX_TEXT + 1)[kind])
    if kind != "profile":  # also many of less
        half = chunk(*texts(decoding.MAX_TEXT // 2 + 1)[kind])
        bomb = bomb if behind else half + half
    place = len(content) - 12 if behind else 33
    path = tmp_path / "x.png"
    path.write_bytes(content[:place] + bomb + content[place:])
    with pytest.raises(ImageError, match=r"x\.png has more than 64 MiB of text or colour profile"):
        read_image(path)


# What is refused --------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["gif", "webp", "tif", "png"])
def test_frames_are_counted(tmp_path: Path, suffix: str) -> None:
    frames = [Image.fromarray(np.roll(RGB, i, axis=0)) for i in range(3)]
    path = saved(tmp_path / f"x.{suffix}", frames[0], save_all=True, append_images=frames[1:])
    with pytest.raises(ImageError, match="has 3 frames, expected one"):
        read_image(path)


def test_the_first_view_of_an_mpo(tmp_path: Path) -> None:
    frames = [Image.fromarray(PHOTO), Image.fromarray(PHOTO[::-1])]
    path = saved(
        tmp_path / "x.jpg", frames[0], format="MPO", save_all=True, append_images=frames[1:]
    )
    assert np.abs(read_image(path).pixels.astype(int) - PHOTO).mean() < 20


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "bmp", "ppm", "gif"])
@pytest.mark.parametrize("share", [0.3, 0.5, 0.9])
def test_half_a_file(tmp_path: Path, suffix: str, share: float) -> None:
    path = saved(tmp_path / f"x.{suffix}", PHOTO)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(ImageError, match="is cut off") as caught:
        read_image(path)
    assert str(path) in str(caught.value)


def test_half_a_webp(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.webp", PHOTO)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(ImageError, match=r"is damaged|is cut off"):
        read_image(path)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", r"is empty \(0 bytes\)"),
        (b"hello, this is text" * 10, "is not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is not an image"),
        (b"\x89PNG\r\n\x1a\n" + b"\x00" * 30, "damaged|not an image"),
        (b"\xff\xd8\xff\xe0", "cut off|not an image|damaged"),
    ],
)
def test_what_is_no_image(tmp_path: Path, data: bytes, reason: str) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(data)
    with pytest.raises(ImageError, match=reason):
        read_image(path)


def test_what_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"nothing\.png cannot be read: No such file"):
        read_image(tmp_path / "nothing.png")
    with pytest.raises(ImageError, match="cannot be read: Is a directory"):
        read_image(tmp_path)


def test_a_disk_that_fails_is_not_a_damaged_file(tmp_path: Path, monkeypatch) -> None:
    def fail(self: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    path = saved(tmp_path / "x.png", RGB)
    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", fail)
    with pytest.raises(ImageError, match=r"x\.png cannot be read: Input/output error"):
        read_image(path)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    suffix=st.sampled_from(["png", "jpg", "gif", "tif", "webp", "bmp"]),
    flips=st.lists(st.tuples(st.floats(0, 0.999), st.integers(1, 255)), min_size=1, max_size=6),
)
def test_flipped_bytes_never_get_further(tmp_path: Path, suffix: str, flips: list) -> None:
    path = saved(tmp_path / f"x.{suffix}", RGB)
    data = bytearray(path.read_bytes())
    for place, change in flips:
        data[int(place * len(data))] ^= change
    path.write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            loaded = read_image(path, max_pixels=10**6)
        except ImageError as error:
            message = str(error)
            assert str(path) in message  # an error is not required
            return
    assert loaded.pixels.dtype == np.uint8
    assert loaded.pixels.ndim == 3


def huge_png(path: Path, width: int, height: int) -> Path:
    """A PNG whose header promises so many grey pixels, and holds none."""
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\x00\x00\x00\x00"
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts))
    return path


def test_the_limit_is_ours_and_seen_in_the_header(tmp_path: Path) -> None:
    limit = Image.MAX_IMAGE_PIXELS
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for side in (16385, 60000, 2**31 - 1):
            with pytest.raises(ImageError, match=f"is {side}x{side}, more than 268435456 pixels"):
                read_image(huge_png(tmp_path / "bomb.png", side, side))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB
    # Between Pillow's limits and ours: no warning, and the file is found to be short.
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        path = saved(tmp_path / "large.png", Image.new("1", (12_000, 9_000)))
        with pytest.raises(ImageError, match="more than 1000 pixels"):
            read_image(path, max_pixels=1000)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Image, "MAX_IMAGE_PIXELS", 5_000_000)
            path = saved(tmp_path / "x.png", Image.new("1", (4000, 3000)))
            assert read_image(path).pixels.shape == (3000, 4000, 3)
            assert Image.MAX_IMAGE_PIXELS == 5_000_000
    assert limit == Image.MAX_IMAGE_PIXELS


def test_reading_in_bands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resampling, "_BAND_PIXELS", 70)
    pixels = np.dstack([RGB, ALPHA])
    loaded = read_image(saved(tmp_path / "a.png", pixels))
    np.testing.assert_array_equal(loaded.pixels, RGB)
    np.testing.assert_array_equal(loaded.alpha, ALPHA)


def test_reading_from_many_threads(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.png", RGB)
    limit = Image.MAX_IMAGE_PIXELS
    wrong = []

    def work() -> None:
        for _ in range(30):
            if not np.array_equal(read_image(path).pixels, RGB):
                wrong.append(1)  # noqa: PERF401

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong
    assert limit == Image.MAX_IMAGE_PIXELS


# Writing ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".png", ".PNG", ".jpg", ".jpeg", ".webp"])
def test_writing(tmp_path: Path, suffix: str) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    path = tmp_path / f"x{suffix}"
    path.write_text("replaced")
    write_image(path, PHOTO, icc_profile=profile)
    loaded = read_image(path)
    assert loaded.icc_profile == profile
    if suffix.lower() == ".png":
        np.testing.assert_array_equal(loaded.pixels, PHOTO)
    else:
        assert np.abs(loaded.pixels.astype(int) - PHOTO).mean() < (4 if "jp" in suffix else 13)
    assert os.listdir(tmp_path) == [path.name]
    umask = os.umask(0)
    os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask


def test_jpeg_keeps_its_colours(tmp_path: Path) -> None:
    write_image(tmp_path / "x.jpg", PHOTO)
    with Image.open(tmp_path / "x.jpg") as image:
        assert image.layer == [(1, 1, 1, 0), (2, 1, 1, 1), (3, 1, 1, 1)]  # 4:4:4


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif", ".avif"])
def test_writing_alpha(tmp_path: Path, suffix: str) -> None:
    if not OUTPUT_FORMATS[suffix].available:
        pytest.skip("Pillow does not write the format")
    write_image(tmp_path / f"x{suffix}", RGB, alpha=ALPHA)
    alpha = read_image(tmp_path / f"x{suffix}").alpha
    # AVIF is lossy in transparency, too; this is noise.
    np.testing.assert_allclose(alpha, ALPHA, rtol=0, atol=3 if suffix == ".avif" else 0)


def test_opaque_alpha_is_left_out(tmp_path: Path) -> None:
    write_image(tmp_path / "x.jpg", RGB, alpha=np.full((20, 30), 255, np.uint8))
    with pytest.raises(OutputError, match="JPEG cannot store the image's transparency"):
        write_image(tmp_path / "y.jpg", RGB, alpha=ALPHA)
    assert os.listdir(tmp_path) == ["x.jpg"]


def test_enlarged_alpha() -> None:
    assert enlarge_alpha(ALPHA, 1) is ALPHA
    large = enlarge_alpha(ALPHA, 4)
    expected = Image.fromarray(ALPHA).resize((120, 80), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(large, np.asarray(expected))


def test_what_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"ends in '\.bmp', expected one of \.png"):
        write_image(tmp_path / "x.bmp", RGB)
    with pytest.raises(OutputError, match="No such file"):
        write_image(tmp_path / "nowhere" / "x.png", RGB)
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="Not a directory"):
        write_image(tmp_path / "file" / "x.png", RGB)
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(OutputError, match="Is a directory"):
        write_image(tmp_path / "folder.png", RGB)
    assert sorted(os.listdir(tmp_path)) == ["file", "folder.png"]


@pytest.mark.parametrize(
    ("suffix", "largest"), [(".webp", 16383), (".jpg", 65500), (".JPEG", 65500)]
)
def test_sizes_that_a_format_cannot_hold(tmp_path: Path, suffix: str, largest: int) -> None:
    path = tmp_path / f"x{suffix}"
    for shape in ((1, largest), (largest, 1)):
        write_image(path, np.zeros((*shape, 3), np.uint8))
        assert read_image(path).pixels.shape[:2] == shape
        path.unlink()
    for height, width in ((1, largest + 1), (largest + 1, 1)):
        reason = f"cannot store {width}x{height} pixels, only {largest} a side: write PNG"
        with pytest.raises(OutputError, match=reason):
            check_fits(path, height, width)
        with pytest.raises(OutputError, match=reason):
            write_image(path, np.zeros((height, width, 3), np.uint8))
    check_fits(tmp_path / "x.png", largest + 1, 1)
    assert os.listdir(tmp_path) == []


def test_a_profile_that_a_jpeg_cannot_hold(tmp_path: Path) -> None:
    """Its 255 segments are counted in a byte; one more would lose the profile without a word."""
    largest = b"\0" * 16 + b"RGB " + bytes(255 * 65519 - 20)
    write_image(tmp_path / "x.jpg", RGB, icc_profile=largest)
    assert read_image(tmp_path / "x.jpg").icc_profile == largest
    with pytest.raises(OutputError, match="cannot store a colour profile of 16707346 bytes"):
        write_image(tmp_path / "y.jpg", RGB, icc_profile=largest + b"\0")
    assert os.listdir(tmp_path) == ["x.jpg"]


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_a_full_disk(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """/dev/full takes no byte, as a full disk."""
    path = tmp_path / f"x{suffix}"
    path.write_text("what was there")

    opened = Path.open

    def full(part: Path, mode: str) -> object:
        part.touch()
        return opened(Path("/dev/full"), "wb")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", full)
        with pytest.raises(OutputError, match="No space left on device: free some space"):
            write_image(path, PHOTO)
    assert os.listdir(tmp_path) == [path.name]
    assert path.read_text() == "what was there"


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_a_disk_that_fills_up(tmp_path: Path, suffix: str) -> None:
    """A limit on the size of files fails a write in its middle, as a disk that fills up."""
    code = (
        "import resource, sys, numpy as np\n"
        "from elir_deploy.runtime.images import write_image\n"
        "from elir_deploy.errors import OutputError\n"
        "noise = np.random.default_rng(0).integers(0, 256, (500, 500, 3), np.uint8)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try:\n"
        "    write_image(sys.argv[1], noise)\n"
        "except OutputError as error:\n"
        "    print(error)\n"
    )
    path = tmp_path / f"x{suffix}"
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert os.strerror(errno.EFBIG) in done.stdout
    assert os.listdir(tmp_path) == []


def test_parts_of_two_processes_do_not_meet(tmp_path: Path, monkeypatch) -> None:
    """What another writer of the same name left or is writing stays."""
    monkeypatch.setattr(output_files.secrets, "token_hex", lambda count: "0" * count)
    other = tmp_path / f".elir-{'0' * 8}.part"
    other.write_text("of another")
    with pytest.raises(OutputError, match="File exists"):
        write_image(tmp_path / "x.png", RGB)
    assert other.read_text() == "of another"


@pytest.mark.parametrize(
    ("pixels", "alpha", "reason"),
    [
        ([[1]], None, "pixels is a list, expected a NumPy array"),
        (RGB.astype(np.float32), None, "pixels is float32, expected uint8"),
        (GREY, None, r"pixels has shape \(20, 30\), expected \(H, W, 3\)"),
        (np.dstack([RGB, ALPHA]), None, "pixels has shape"),
        (RGB[:0], None, "pixels has shape"),
        (RGB, ALPHA / 255, "alpha is float64"),
        (RGB, RGB, "alpha has shape"),
        (RGB, ALPHA[:, 1:], r"alpha is uint8 \(20, 29\), pixels uint8 \(20, 30, 3\)"),
    ],
)
def test_what_is_no_picture(tmp_path: Path, pixels, alpha, reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        write_image(tmp_path / "x.png", pixels, alpha=alpha)
    assert os.listdir(tmp_path) == []
