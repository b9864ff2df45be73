"""Pieces of a resized picture equal those of the whole one, made by Pillow in two passes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from elir_deploy.runtime import resampling
from elir_deploy.runtime.resampling import EnlargedPicture, resize_into, resize_to

KERNELS = {
    "none": Image.Resampling.NEAREST,
    "nearest": Image.Resampling.NEAREST,
    "bicubic": Image.Resampling.BICUBIC,
}
WAYS = [(1, "none"), (3, "nearest"), (8, "nearest"), *((f, "bicubic") for f in (2, 4, 8, 16))]
sides = st.integers(1, 60)


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height * 1000 + width).integers(0, 256, (height, width, 3), "u1")


def by_pillow(image: np.ndarray, height: int, width: int, kernel: str = "bicubic") -> np.ndarray:
    """Along rows, then along columns: Pillow 13 may choose the other order by itself."""
    narrow = Image.fromarray(image).resize((width, image.shape[0]), KERNELS[kernel])
    return np.asarray(narrow.resize((width, height), KERNELS[kernel]))


@settings(max_examples=120, deadline=None)
@given(
    height=sides,
    width=sides,
    how=st.sampled_from(WAYS),
    data=st.data(),
)
def test_a_block_of_the_enlarged_picture(height, width, how, data) -> None:
    factor, kernel = how
    image = noise(height, width)
    whole = by_pillow(image, height * factor, width * factor, kernel)
    picture = EnlargedPicture(image, factor, kernel)
    assert (picture.height, picture.width) == whole.shape[:2]
    top = data.draw(st.integers(0, picture.height - 1))
    left = data.draw(st.integers(0, picture.width - 1))
    rows = data.draw(st.integers(1, picture.height - top))
    columns = data.draw(st.integers(1, picture.width - left))
    block = picture.block(top, left, rows, columns)
    np.testing.assert_array_equal(block, whole[top : top + rows, left : left + columns])


@settings(max_examples=60, deadline=None)
@given(
    height=sides,
    width=sides,
    size=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    band=st.sampled_from([1, 64, 2**22]),
)
def test_resizing_in_bands(height: int, width: int, size: tuple[int, int], band: int) -> None:
    image = noise(height, width)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resampling, "_BAND_PIXELS", band)
        small = resize_to(EnlargedPicture(image, 1, "none"), *size)
        back = np.empty((height, width, 3), np.uint8)
        resize_into(small, back)
    np.testing.assert_array_equal(small, by_pillow(image, *size))
    np.testing.assert_array_equal(back, by_pillow(small, height, width))


@pytest.mark.parametrize(("factor", "kernel"), [(8, "nearest"), (4, "bicubic")])
def test_resizing_what_was_enlarged(factor: int, kernel: str) -> None:
    image = noise(37, 53)
    large = by_pillow(image, 37 * factor, 53 * factor, kernel)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resampling, "_BAND_PIXELS", 3000)
        square = resize_to(EnlargedPicture(image, factor, kernel), 64, 64)
    np.testing.assert_array_equal(square, by_pillow(large, 64, 64))


@pytest.mark.parametrize(("factor", "kernel"), WAYS)
def test_enlarging_equals_pillow(factor: int, kernel: str) -> None:
    image = noise(37, 53)
    picture = EnlargedPicture(image, factor, kernel)
    whole = Image.fromarray(image).resize((53 * factor, 37 * factor), KERNELS[kernel])
    block = picture.block(0, 0, picture.height, picture.width)
    np.testing.assert_array_equal(block, np.asarray(whole))


def test_any_memory_layout() -> None:
    image = noise(40, 30)
    for view in (image[::-1], image[:, ::2], image.swapaxes(0, 1), image[:, :, ::-1]):
        np.testing.assert_array_equal(
            resize_to(EnlargedPicture(view, 1, "none"), 16, 16),
            by_pillow(np.ascontiguousarray(view), 16, 16),
        )
