"""TIFF files of many kinds, beside tifffile, which decodes them by itself: the same, or refused."""

from __future__ import annotations

import itertools
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elir_deploy.errors import ImageError
from elir_deploy.runtime.images import LoadedImage, read_image
from tests.runtime.file_writers import tiff

tifffile = pytest.importorskip("tifffile")

RNG = np.random.default_rng(4)
H, W = 21, 35
KINDS = {"minisblack": 1, "miniswhite": 1, "rgb": 3, "separated": 4, "ycbcr": 3}


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def to_rgb(samples: np.ndarray, white: float, kind: str, extra: int | None) -> tuple[Any, Any]:
    """What the specification makes of samples (H, W, C): RGB and transparency from 0 to 255."""
    values = samples / white
    alpha = None
    if extra is not None:
        values, last = values[:, :, :-1], values[:, :, -1:]
        alpha = None if extra == 0 else 255 * last[:, :, 0]
        if extra == 1:  # the colours come multiplied
            values = np.minimum(values / np.maximum(last, 1e-9), 1)
    if kind == "separated":
        values = (1 - values[:, :, :3]) * (1 - values[:, :, 3:])
    elif kind == "ycbcr":
        y, blue, red = values[:, :, 0], values[:, :, 1] - 128 / 255, values[:, :, 2] - 128 / 255
        values = np.stack([y + 1.402 * red, y - 0.344136 * blue - 0.714136 * red, y + 1.772 * blue])
        values = values.transpose(1, 2, 0).clip(0, 1)
    elif kind == "miniswhite":
        values = 1 - values
    return 255 * (values.repeat(3, axis=2) if values.shape[2] == 1 else values), alpha


def is_read(kind: str, bits: int, order: str, extra: int | None, planes: bool) -> bool:
    """What Pillow has no decoder for is refused."""
    if kind == "rgb":
        return True
    if kind == "separated":
        return extra is None or (extra == 0 and (bits == 8 or planes))
    if (kind, bits, order) == ("miniswhite", 16, ">"):
        return False
    if (kind, bits) == ("minisblack", 8) and not planes:
        return True
    return extra is None or (extra == 0 and planes and kind != "ycbcr")


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("compression", [None, "deflate"])
@pytest.mark.parametrize(
    ("kind", "bits"),
    [
        *itertools.product(["minisblack", "miniswhite"], [8, 16, 32]),
        *itertools.product(["rgb", "separated"], [8, 16]),
        ("ycbcr", 8),
    ],
)
def test_whatever_is_read_is_what_tifffile_reads(
    tmp_path: Path, kind: str, bits: int, compression: str | None, order: str
) -> None:
    """32 stands for float. Planes or pixels, tiles or strips, with transparency or without."""
    path = tmp_path / "x.tif"
    white = {8: 255, 16: 65535, 32: 1}[bits]
    for planes, extra, layout in itertools.product(
        (False, True), (None, 0, 1, 2), ({}, {"tile": (16, 32)}, {"rowsperstrip": 8})
    ):
        count = KINDS[kind] + (extra is not None)
        if (bits == 32 and count > 1) or (planes and count == 1):
            continue
        samples = RNG.random((H, W, count)) * white
        if extra == 1:
            samples[:, :, :-1] *= samples[:, :, -1:] / white
        samples = samples.astype({8: "u1", 16: "u2", 32: "f4"}[bits])
        arranged = samples.transpose(2, 0, 1) if planes else samples
        tifffile.imwrite(
            path,
            arranged[:, :, 0] if count == 1 else arranged,
            photometric=kind,
            planarconfig=("separate" if planes else "contig") if count > 1 else None,
            extrasamples=None if extra is None else [extra],
            compression=compression,
            byteorder=order,
            metadata=None,
            **layout,
        )
        stored = tifffile.imread(path)
        stored = (stored.transpose(1, 2, 0) if planes else stored).reshape(H, W, count)
        np.testing.assert_array_equal(stored, samples)
        loaded = read_or_refused(path)
        if loaded is not None:
            check(loaded, stored, white, kind, extra)
        if int(PIL.__version__.split(".")[0]) >= 13:  # older ones decode fewer
            assert (loaded is not None) == is_read(kind, bits, order, extra, planes)


def read_or_refused(path: Path) -> LoadedImage | None:
    refusals = ("unsupported kind of TIFF file", "in separate planes")
    try:
        return read_image(path)
    except ImageError as error:
        if any(reason in str(error) for reason in refusals):
            return None
        raise


def check(
    loaded: LoadedImage, stored: np.ndarray, white: float, kind: str, extra: int | None
) -> None:
    pixels, alpha = to_rgb(stored, white, kind, extra)
    error = np.abs(loaded.pixels - pixels)
    assert (loaded.alpha is None) == (alpha is None)
    if alpha is not None:
        assert np.abs(loaded.alpha - alpha).max() <= 1.01
        error *= alpha[:, :, None] / 255  # by as much as it shows
    # Colours of 16 bits are cut, before inks are multiplied, or colours divided by their alpha.
    assert error.max() <= (2.2 if white > 255 and (kind == "separated" or extra == 1) else 1.01)


@pytest.mark.parametrize("deflated", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("bits", [1, 2, 4, 12])
@pytest.mark.parametrize("photometric", [0, 1])
def test_grey_of_few_bits_and_of_12(
    tmp_path: Path, photometric: int, bits: int, order: str, deflated: bool
) -> None:
    values = RNG.integers(0, 2**bits, (H, W, 1))
    path = written(tmp_path / "x.tif", tiff(values, bits, photometric, order, deflated=deflated))
    if bits == 12 and (order == ">" or photometric == 0):
        with pytest.raises(ImageError, match="is an unsupported kind of TIFF file"):
            read_image(path)
        return
    expected = values * 255 / (2**bits - 1)
    found = read_image(path).pixels
    assert np.abs(found - (expected if photometric else 255 - expected)).max() <= 0.5


@pytest.mark.parametrize("deflated", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("largest", [255, 65535])
def test_palettes_of_8_and_of_16_bits(
    tmp_path: Path, largest: int, order: str, deflated: bool
) -> None:
    colours = RNG.integers(0, 256, (3, 256)) * (largest // 255)
    index = RNG.integers(0, 256, (H, W, 1))
    table = (3, colours.reshape(-1).tolist())
    content = tiff(index, 8, 3, order, deflated=deflated, t320=table)
    found = read_image(written(tmp_path / "x.tif", content)).pixels
    expected = colours[:, index[:, :, 0]].transpose(1, 2, 0) // (largest // 255)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("deflated", [False, True])
def test_subsampled_ycbcr(tmp_path: Path, deflated: bool) -> None:
    rows, columns = (H + 1) // 2, (W + 1) // 2
    y = RNG.integers(60, 200, (2 * rows, 2 * columns))
    blue, red = (RNG.integers(100, 150, (rows, columns)) for _ in range(2))
    squares = y.reshape(rows, 2, columns, 2).transpose(0, 2, 1, 3).reshape(rows, columns, 4)
    units = np.concatenate([squares, blue[:, :, None], red[:, :, None]], axis=2)
    whole = np.stack([channel.repeat(2, 0).repeat(2, 1)[:H, :W] for channel in (blue, red)], axis=2)
    samples = np.dstack([y[:H, :W], whole])
    raw = units.astype(np.uint8).tobytes()
    content = tiff(samples, 8, 6, deflated=deflated, raw=raw, t530=(3, [2, 2]))
    found = read_image(written(tmp_path / "x.tif", content)).pixels
    assert np.abs(found - to_rgb(samples, 255, "ycbcr", None)[0]).max() <= 1.01


def test_lab(tmp_path: Path) -> None:
    """Of grey, which no adaptation of the white point changes."""
    samples = np.dstack([RNG.integers(0, 256, (H, W)), np.zeros((H, W, 2), int)])
    found = read_image(written(tmp_path / "x.tif", tiff(samples, 8, 8))).pixels
    light = samples[:, :, 0] / 2.55
    luminance = np.where(light > 8, ((light + 16) / 116) ** 3, light / 903.3)
    levels = 255 * np.where(
        luminance <= 0.0031308, 12.92 * luminance, 1.055 * luminance ** (1 / 2.4) - 0.055
    )
    assert np.abs(found - levels[:, :, None]).max() <= 2


@pytest.mark.parametrize("order", ["<", ">"])
def test_what_has_no_agreed_meaning_is_refused(tmp_path: Path, order: str) -> None:
    grey, four = RNG.integers(0, 100, (H, W, 1)), RNG.integers(0, 256, (H, W, 4))
    rgb = four[:, :, :3]
    for content, reason in (
        (tiff(grey.astype("i1"), 8, 1, order, t339=(3, [2])), "signed 8-bit values, without a"),
        (tiff(grey.astype("i2"), 16, 1, order, t339=(3, [2])), "signed 16-bit values"),
        (tiff(four, 8, 5, order, t332=(3, [2])), "inks other than CMYK"),
        (tiff(rgb, 8, 2, order, t254=(4, [1])), "begins with a preview of another picture"),
        (tiff(rgb, 8, 2, order, t50706=(1, [1, 4, 0, 0])), "as raw photographs do"),
        (tiff(four[:, :, :2], 8, 1, order, planes=True, t338=(3, [2])), "in separate planes"),
        (tiff(rgb, 8, 8, order, planes=True), "has LAB in separate planes"),
        (tiff(rgb, 8, 9, order), "unsupported kind of TIFF file: save it as"),
        (
            tiff(rgb.astype("f4"), 32, 2, order, t339=(3, [3, 3, 3])),
            "unsupported kind of TIFF file",
        ),
    ):
        with pytest.raises(ImageError, match=reason):
            read_image(written(tmp_path / "x.tif", content))


@pytest.mark.parametrize("deflated", [False, True])
@pytest.mark.parametrize("planes", [False, True])
def test_a_missing_end_is_one(tmp_path: Path, planes: bool, deflated: bool) -> None:
    samples = RNG.integers(0, 256, (3, H, W) if planes else (H, W, 3), np.uint8)
    tifffile.imwrite(
        tmp_path / "x.tif",
        samples,
        photometric="rgb",
        planarconfig="separate" if planes else "contig",
        compression="deflate" if deflated else None,
    )
    whole = (tmp_path / "x.tif").read_bytes()
    with pytest.raises(ImageError, match=f"is cut off: it has {len(whole) - 20} bytes of "):
        read_image(written(tmp_path / "x.tif", whole[:-20]))


@settings(max_examples=150, deadline=None)
@given(
    bits=st.sampled_from([1, 2, 4, 8, 16]),
    photometric=st.sampled_from([0, 1, 2, 3, 5, 6, 8]),
    count=st.integers(1, 6),
    order=st.sampled_from("<>"),
    planes=st.booleans(),
    deflated=st.booleans(),
    tags=st.dictionaries(
        st.sampled_from(["t254", "t266", "t274", "t317", "t332", "t338", "t339", "t530"]),
        st.tuples(st.just(3), st.lists(st.integers(0, 3), min_size=1, max_size=3)),
    ),
)
def test_odd_tags_never_get_further(tmp_path_factory, tags: dict, **made: Any) -> None:
    """Read or refused, and nothing else."""
    count, bits = made.pop("count"), made["bits"]
    samples = np.random.default_rng(0).integers(0, 2**bits, (9, 11, count))
    path = tmp_path_factory.getbasetemp() / "odd.tif"
    path.write_bytes(tiff(samples, **made, **tags))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            loaded = read_image(path)
        except ImageError:
            return
    assert loaded.pixels.shape in ((9, 11, 3), (11, 9, 3))
