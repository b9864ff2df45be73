"""Writing 16 bits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from elir_deploy.errors import ImageError
from elir_deploy.runtime import png_writer
from elir_deploy.runtime.images import read_image, write_image

RNG = np.random.default_rng(16)
VALUES = RNG.integers(0, 65536, (29, 41, 4)).astype(np.uint16)
RAMP = np.arange(29 * 41, dtype=np.uint16).reshape(29, 41, 1).repeat(4, axis=2) * np.uint16(11)


def kept(values: np.ndarray, grey: bool, alpha: bool) -> np.ndarray:
    colours = values[:, :, :1] if grey else values[:, :, :3]
    return np.dstack([colours, values[:, :, 3]]) if alpha else colours


@pytest.mark.parametrize("values", [VALUES, RAMP], ids=["noise", "ramp"])
@pytest.mark.parametrize("alpha", [False, True])
@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_every_bit_is_written(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    suffix: str,
    grey: bool,
    alpha: bool,
    values: np.ndarray,
) -> None:
    """Read by Pillow, which shows the higher bytes, and by tifffile."""
    monkeypatch.setattr(png_writer, "_BAND", 2000)  # several bands of several rows
    path = tmp_path / f"x.{suffix}"
    colours = values[:, :, :1].repeat(3, axis=2) if grey else values[:, :, :3]
    write_image(path, colours, alpha=values[:, :, 3] if alpha else None, grey=grey)
    wanted = kept(values, grey, alpha)
    if suffix == "tif":
        tifffile = pytest.importorskip("tifffile")
        np.testing.assert_array_equal(tifffile.imread(path), wanted.squeeze())
        if grey and alpha:
            return  # which Pillow does not read
    loaded = read_image(path, deep=True)
    np.testing.assert_array_equal(loaded.pixels, colours)
    assert loaded.grey == grey
    if alpha:
        np.testing.assert_array_equal(loaded.alpha, values[:, :, 3])
    with Image.open(path) as image:
        if not grey:
            np.testing.assert_array_equal(np.asarray(image), wanted >> 8)
        elif not alpha:
            np.testing.assert_array_equal(np.asarray(image), wanted[:, :, 0])


def test_grey_is_luma(tmp_path: Path) -> None:
    write_image(tmp_path / "x.png", VALUES[:, :, :3], grey=True)
    luma = VALUES[:, :, :3] @ np.array([0.299, 0.587, 0.114])
    assert np.abs(read_image(tmp_path / "x.png", deep=True).pixels[:, :, 0] - luma).max() <= 1


@pytest.mark.parametrize("suffix", ["jpg", "webp"])
def test_other_formats_have_rounded_values(tmp_path: Path, suffix: str) -> None:
    pixels = np.array([0, 128, 129, 256, 257, 385, 386, 65406, 65407, 65535], np.uint16)
    pixels = pixels[:, None, None].repeat(16, axis=0).repeat(160, axis=1).repeat(3, axis=2)
    write_image(tmp_path / f"x.{suffix}", pixels, quality=100 if suffix == "jpg" else "lossless")
    with Image.open(tmp_path / f"x.{suffix}") as image:
        stored = np.asarray(image).astype(int)
    difference = np.abs(stored - np.rint(pixels / 257))
    assert difference.max() <= (1 if suffix == "jpg" else 0)


def test_what_is_no_picture(tmp_path: Path) -> None:
    for pixels, alpha in (
        (VALUES[:, :, :3].astype(np.int32), None),
        (VALUES[:, :, :3], VALUES[:, :, 3].astype(np.uint8)),
    ):
        with pytest.raises(ImageError, match=r"expected (uint8 or uint16|the same type)"):
            write_image(tmp_path / "x.png", pixels, alpha=alpha)
