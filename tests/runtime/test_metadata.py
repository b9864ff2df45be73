"""What is kept of a picture: a table of formats and properties, each cell a test."""

from __future__ import annotations

import io
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, PngImagePlugin, features

from elir_deploy.errors import ImageError, MissingDependencyError, OutputError
from elir_deploy.runtime import Restorer, decoding
from elir_deploy.runtime.files import restore_files
from elir_deploy.runtime.images import Metadata, read_image, write_image
from elir_deploy.runtime.jobs import plan_jobs
from elir_deploy.runtime.profiles import srgb_profile
from tests.bundles import make_bundle
from tests.runtime.exif_files import CAMERAS
from tests.runtime.file_writers import cmyk_profile, grey_profile

RGB = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
EXIF = CAMERAS["phone_with_gps"]()
UPRIGHT = CAMERAS["little_endian"]()
XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="8" '
    b'tiff:ImageWidth="30" xmp:Rating="5"><exif:PixelYDimension>20</exif:PixelYDimension>'
    b"<dc:title>Gr\xc3\xbc\xc3\x9fe</dc:title></rdf:Description></x:xmpmeta>"
)
IPTC = b"\x1c\x02\x78\x00\x07Caption\x1c\x02\x19\x00\x03key"
WHOLE = Metadata(EXIF, XMP, IPTC, (300.0, 150.0), (("parameters", "a cat, Größe 写真"),))


def has_avif() -> bool:
    return bool(features.check("avif"))


def has_heif() -> bool:
    try:
        import pillow_heif  # noqa: F401
    except ImportError:
        return False
    return True


NEEDS_AVIF = pytest.mark.skipif(not has_avif(), reason="this Pillow has no AVIF")
NEEDS_HEIF = pytest.mark.skipif(not has_heif(), reason="pillow-heif is not installed")
WRITTEN = ["png", "jpg", "webp", "tif", pytest.param("avif", marks=NEEDS_AVIF)]
#: Formats of 16 bits.
KEEPING = ("png", "tif", "16.png", "16.tif")
DEEP = ["16.png", "16.tif"]
#: What has no place in a format. The resolution of WebP and AVIF is in their EXIF data.
MISSING = {(suffix, "iptc") for suffix in ("webp", "avif", "heic")} | {
    (suffix, "texts") for suffix in ("jpg", "webp", "tif", "avif", "heic")
}


def pixels_for(path: Path) -> np.ndarray:
    """Of 16 bits, if the name says so."""
    return RGB * np.uint16(257) if ".16." in path.name else RGB


def written(path: Path, metadata: Metadata, **options: object) -> Path:
    write_image(path, pixels_for(path), metadata=metadata, **options)  # type: ignore[arg-type]
    return path


# The table --------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["exif", "xmp", "iptc", "resolution", "texts"])
@pytest.mark.parametrize("target", [*WRITTEN, *DEEP])
@pytest.mark.parametrize("source", [*WRITTEN, *DEEP, pytest.param("heic", marks=NEEDS_HEIF)])
def test_parts_that_are_kept(tmp_path: Path, source: str, target: str, part: str) -> None:
    first = (
        heic(tmp_path / "a.heic") if source == "heic" else written(tmp_path / f"a.{source}", WHOLE)
    )
    loaded = read_image(first, deep=True)
    second = tmp_path / f"b.{target}"
    pixels = loaded.pixels if source in DEEP else pixels_for(second)
    write_image(second, pixels, metadata=loaded.metadata)
    again = read_image(second, deep=True)
    assert (again.pixels.dtype == np.uint16) == (pixels.dtype == np.uint16 and target in KEEPING)
    found = getattr(again.metadata, part)
    wanted = {
        "exif": lambda: b"Model 7" in found and struct.pack(">2I", 35123, 1000) in found,
        "xmp": lambda: b'xmp:Rating="5"' in found and "Grüße".encode() in found,
        "iptc": lambda: found == IPTC,
        "resolution": lambda: found == (300.0, 150.0),
        "texts": lambda: found == WHOLE.texts,
    }[part]
    if (source[-4:].lstrip("."), part) in MISSING or (target[-4:].lstrip("."), part) in MISSING:
        assert not found
    else:
        assert wanted()


@pytest.mark.parametrize("target", [*WRITTEN, *DEEP])
def test_orientation_and_size_in_xmp_are_the_results(tmp_path: Path, target: str) -> None:
    path = tmp_path / f"x.{target}"
    large = np.repeat(pixels_for(path), 4, axis=0)
    write_image(path, large, metadata=Metadata(xmp=XMP))
    loaded = read_image(path)
    assert loaded.pixels.shape == large.shape
    assert loaded.metadata.xmp == XMP.replace(b'Orientation="8"', b'Orientation="1"').replace(
        b">20<", b">80<"
    )


@pytest.mark.parametrize("source", ["png", "jpg", "webp", "tif"])
def test_the_orientation_in_xmp_counts_without_exif_data(tmp_path: Path, source: str) -> None:
    path = tmp_path / f"x.{source}"
    written(path, Metadata(xmp=XMP.replace(b"Orientation", b"Xrientation")))
    content = path.read_bytes()
    if source == "png":  # with the checksum of the chunk
        info = PngImagePlugin.PngInfo()
        info.add_itxt("XML:com.adobe.xmp", XMP.decode())
        Image.fromarray(RGB).save(path, pnginfo=info)
    else:
        path.write_bytes(content.replace(b"Xrientation", b"Orientation"))
    assert read_image(path).pixels.shape == (30, 20, 3)
    with_exif = Metadata(exif=UPRIGHT, xmp=XMP.replace(b"Orientation", b"Xrientation"))
    content = written(path, with_exif).read_bytes()
    if source != "png":
        path.write_bytes(content.replace(b"Xrientation", b"Orientation"))
        assert read_image(path).pixels.shape == RGB.shape  # EXIF data says that it is upright


@pytest.mark.parametrize("target", [*WRITTEN, *DEEP])
def test_the_resolution_alone(tmp_path: Path, target: str) -> None:
    path = written(tmp_path / f"x.{target}", Metadata(resolution=(300.0, 118.11)))
    horizontal, vertical = read_image(path).metadata.resolution or (0.0, 0.0)
    assert horizontal == 300
    assert vertical == pytest.approx(118.11, abs=0.2)


def test_no_resolution_is_made_up(tmp_path: Path) -> None:
    for suffix in ("png", "jpg", "webp", "tif"):
        path = tmp_path / f"x.{suffix}"
        Image.fromarray(RGB).save(path, **({"exif": b"Exif\0\0" + EXIF} if suffix == "jpg" else {}))
        assert read_image(path).metadata.resolution is None


# Colour profiles --------------------------------------------------------------------------------


def corners() -> np.ndarray:
    black = np.indices((2, 2, 2, 2)).sum(axis=0)
    made = np.zeros((2, 2, 2, 2, 3))
    made[..., 0] = 100 - 25 * black
    return made


def rgb_profile(path: Path) -> None:
    Image.fromarray(RGB).save(path, icc_profile=SRGB[:80] + b"mine" + SRGB[84:])


def a_grey_profile(path: Path) -> None:
    Image.fromarray(RGB[:, :, 0]).save(path, icc_profile=grey_profile(1.8))


def a_cmyk_profile(path: Path) -> None:
    image = Image.fromarray(RGB).convert("CMYK")
    image.save(path, icc_profile=cmyk_profile(corners()))


@pytest.mark.parametrize("target", WRITTEN)
@pytest.mark.parametrize(
    ("make", "source"),
    [
        *((rgb_profile, suffix) for suffix in ("png", "jpg", "webp", "tif")),
        *((a_grey_profile, suffix) for suffix in ("png", "jpg", "tif")),
        *((a_cmyk_profile, suffix) for suffix in ("jpg", "tif")),
    ],
)
def test_the_profile_says_what_the_pixels_are(
    tmp_path: Path, make: Callable[[Path], None], source: str, target: str
) -> None:
    path = tmp_path / f"a.{source}"
    make(path)
    bundle = make_bundle(tmp_path / "bundle")
    with Restorer(bundle) as restorer:
        plan = plan_jobs([path], tmp_path / f"b.{target}")
        assert not restore_files(restorer, plan.jobs).failures
    first = read_image(path)
    with Image.open(tmp_path / f"b.{target}") as image:
        profile, mode = image.info["icc_profile"], image.mode
    grey = make is a_grey_profile and target not in ("webp", "avif")
    assert (mode == "L") == grey
    if make is rgb_profile:
        assert profile[80:84] == b"mine"
    else:
        assert profile == srgb_profile(make is a_grey_profile)
    if target in ("png", "tif"):
        assert (
            np.abs(read_image(tmp_path / f"b.{target}").pixels.astype(int) - first.pixels).max()
            <= 1
        )


@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize("target", DEEP)
@pytest.mark.parametrize("source", DEEP)
def test_profiles_of_16_bits(tmp_path: Path, source: str, target: str, grey: bool) -> None:
    """An RGB profile is kept, a grey one applied, with all bits; grey stays grey."""
    path = tmp_path / f"a.{source}"
    profile = grey_profile(1.8) if grey else SRGB[:80] + b"mine" + SRGB[84:]
    write_image(path, pixels_for(path) + np.uint16(7), grey=grey, icc_profile=profile)
    with Restorer(make_bundle(tmp_path / "bundle", io="float32"), "onnxruntime") as restorer:
        plan = plan_jobs([path], tmp_path / f"b.{target}")
        assert not restore_files(restorer, plan.jobs).failures
    first, second = (read_image(tmp_path / name, deep=True) for name in (path, f"b.{target}"))
    assert second.grey == grey
    np.testing.assert_array_equal(first.pixels, second.pixels)
    with Image.open(tmp_path / f"b.{target}") as image:
        assert image.info["icc_profile"] == (srgb_profile(True) if grey else profile)


@pytest.mark.parametrize("grey", [False, True])
def test_the_profile_of_srgb(grey: bool) -> None:
    made = ImageCms.ImageCmsProfile(io.BytesIO(srgb_profile(grey)))
    assert "sRGB" in ImageCms.getProfileDescription(made)
    image = Image.fromarray(RGB[:, :, 0] if grey else RGB)
    mode = image.mode
    converted = ImageCms.profileToProfile(
        image, made, ImageCms.createProfile("sRGB"), outputMode="RGB", flags=0x0100
    )
    difference = np.asarray(converted).astype(int) - np.asarray(image.convert("RGB"))
    assert mode in ("L", "RGB")
    assert np.abs(difference).max() <= 1


# Grey -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [False, True])
@pytest.mark.parametrize("target", WRITTEN)
@pytest.mark.parametrize("source", ["png", "jpg", "tif", "pgm"])
def test_grey_stays_grey(tmp_path: Path, source: str, target: str, alpha: bool) -> None:
    grey, clear = RGB[:, :, 0], RGB[:, :, 1]
    if alpha and (source in ("jpg", "pgm") or target == "jpg"):
        pytest.skip("a format without transparency")
    values = np.dstack([grey, clear]) if alpha else grey
    Image.fromarray(values).save(tmp_path / f"a.{source}")
    with Restorer(make_bundle(tmp_path / "bundle")) as restorer:
        plan = plan_jobs([tmp_path / f"a.{source}"], tmp_path / f"b.{target}")
        assert not restore_files(restorer, plan.jobs, quality=None).failures
    with Image.open(tmp_path / f"b.{target}") as image:
        bands = image.getbands()
        pixels = np.asarray(image.convert("RGB"))
    colours = ("R", "G", "B") if target in ("webp", "avif") else ("L",)
    assert bands == colours + (("A",) if alpha else ())
    assert (np.ptp(pixels.astype(int), axis=2) <= 3).all()
    if alpha and target in ("png", "tif"):
        np.testing.assert_array_equal(read_image(tmp_path / f"b.{target}").alpha, clear)


# TIFF -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("exif", [UPRIGHT, EXIF], ids=["little endian", "big endian"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_tiff_files_are_read_by_others(tmp_path: Path, channels: int, exif: bytes) -> None:
    tifffile = pytest.importorskip("tifffile")
    pixels = np.random.default_rng(1).integers(0, 256, (700, 300, 3), np.uint8)
    alpha = pixels[:, :, 1] if channels in (2, 4) else None
    grey = channels < 3
    write_image(
        tmp_path / "x.tif", pixels, alpha=alpha, grey=grey, metadata=Metadata(exif, XMP, IPTC)
    )
    colours = np.asarray(Image.fromarray(pixels).convert("L")) if grey else pixels
    wanted = np.dstack([colours, alpha]) if alpha is not None else colours
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "x.tif"), wanted)
    with Image.open(tmp_path / "x.tif") as image:
        np.testing.assert_array_equal(np.asarray(image), wanted)


# Limits, and packages that are not there --------------------------------------------------------


def test_what_does_not_fit_into_jpeg_is_refused(tmp_path: Path) -> None:
    for part, size, metadata in (
        ("EXIF data", 65528, Metadata(exif=EXIF.ljust(65528, b"\0"))),
        ("XMP", 65505, Metadata(xmp=XMP.ljust(65505))),
        ("IPTC data", 65507, Metadata(iptc=bytes(65507))),
    ):
        with pytest.raises(OutputError, match=f"JPEG cannot store {size} bytes of {part}, only"):
            written(tmp_path / "x.jpg", metadata)
        written(tmp_path / "x.png", metadata)
    for metadata in (
        Metadata(exif=EXIF.ljust(65527, b"\0")),
        Metadata(xmp=XMP.ljust(65504)),
        Metadata(iptc=bytes(65506)),
    ):
        loaded = read_image(written(tmp_path / "x.jpg", metadata)).metadata
        assert (loaded.xmp is None) == (metadata.xmp is None)
        assert loaded.iptc == metadata.iptc


def test_larger_parts_than_the_limit_are_left_out(tmp_path: Path, monkeypatch) -> None:
    path = written(tmp_path / "x.png", WHOLE)
    monkeypatch.setattr("elir_deploy.runtime.metadata.MAX_METADATA", 10)
    assert read_image(path).metadata == Metadata(resolution=(300.0, 150.0))


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    source=st.sampled_from(["png", "jpg", "webp", "tif"]),
    target=st.sampled_from(["png", "jpg", "webp", "tif"]),
    flips=st.lists(st.tuples(st.floats(0, 0.999), st.integers(1, 255)), min_size=1, max_size=6),
)
def test_damaged_metadata_does_no_harm(
    tmp_path: Path, source: str, target: str, flips: list
) -> None:
    path = written(tmp_path / f"x.{source}", WHOLE)
    data = bytearray(path.read_bytes())
    for place, change in flips:
        data[int(place * len(data))] ^= change
    path.write_bytes(data)
    try:
        loaded = read_image(path, max_pixels=10**6)
    except ImageError:
        return
    result = tmp_path / f"y.{target}"
    try:
        write_image(
            result,
            loaded.pixels,
            icc_profile=loaded.result_profile,
            metadata=loaded.metadata,
            grey=loaded.grey,
        )
    except OutputError:  # what was read of a length may not fit into JPEG
        assert target == "jpg"
        return
    assert read_image(result).pixels.shape == loaded.pixels.shape  # not turned again


def heic(path: Path, grey: bool = False) -> Path:
    import pillow_heif

    image = Image.fromarray(RGB[:, :, 0] if grey else RGB)
    # With the orientation, pillow-heif would turn the picture.
    xmp = XMP.replace(b'Orientation="8"', b'Orientation="1"')
    write_image(path.with_suffix(".webp"), RGB, metadata=Metadata(EXIF, resolution=(300.0, 150.0)))
    with Image.open(path.with_suffix(".webp")) as stored:
        exif = stored.info["exif"]
    pillow_heif.from_pillow(image).save(path, quality=100, exif=exif, xmp=xmp, icc_profile=SRGB)
    return path


@NEEDS_HEIF
@pytest.mark.parametrize("grey", [False, True])
def test_heic(tmp_path: Path, grey: bool) -> None:
    loaded = read_image(heic(tmp_path / "x.heic", grey))
    assert loaded.pixels.shape == RGB.shape
    assert loaded.grey == grey
    assert "HEIF" not in Image.OPEN  # for others
    content = (tmp_path / "x.heic").read_bytes()
    (tmp_path / "x.heic").write_bytes(content[: len(content) // 2])
    with pytest.raises(ImageError, match=r"is damaged|is cut off|not an image"):
        read_image(tmp_path / "x.heic")


@NEEDS_HEIF
def test_a_turned_heic(tmp_path: Path) -> None:
    """As telephones write portraits: turned by a box of the file, which pillow-heif applies."""
    import pillow_heif

    exif = Image.Exif()
    exif[0x112] = 6
    path = tmp_path / "x.heic"
    options = {"quality": -1, "chroma": 444, "exif": exif.tobytes(), "icc_profile": SRGB}
    pillow_heif.from_pillow(Image.fromarray(RGB)).save(path, **options)
    assert b"irot" in path.read_bytes()
    loaded = read_image(path)
    upright = np.rot90(RGB, -1)
    assert loaded.pixels.shape == upright.shape
    assert np.abs(loaded.pixels.astype(int) - upright).mean() < 2
    assert loaded.icc_profile == SRGB
    result = written(tmp_path / "y.jpg", loaded.metadata)
    with Image.open(result) as image:
        assert image.getexif().get(0x112, 1) == 1


def test_what_the_extra_would_read(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif.as_plugin", None)
    (tmp_path / "x.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(50))
    with pytest.raises(MissingDependencyError, match=r"read HEIC files .*elir-deploy\[heif\]"):
        read_image(tmp_path / "x.heic")
    monkeypatch.delitem(Image.OPEN, "AVIF", raising=False)
    monkeypatch.delitem(Image.SAVE, "AVIF", raising=False)
    (tmp_path / "x.avif").write_bytes(b"\0\0\0\x18ftypavif" + bytes(50))
    with pytest.raises(MissingDependencyError, match=r"Pillow 11\.3 .*read AVIF.*\[heif\]"):
        read_image(tmp_path / "x.avif")
    with pytest.raises(MissingDependencyError, match="write AVIF files"):
        written(tmp_path / "y.avif", Metadata())
    with pytest.raises(MissingDependencyError, match="write AVIF files"):
        plan_jobs([tmp_path / "x.avif"], tmp_path, format="avif")
    (job,) = plan_jobs([tmp_path / "x.avif"], tmp_path, format="same").jobs
    assert job.format == ".png"
    assert {".heic", ".heif", ".hif", ".avif"} <= decoding.IMAGE_SUFFIXES
