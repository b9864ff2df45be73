"""Pixels to tensors and back, against the plain way."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
from numpy.typing import NDArray

from elir_deploy.runtime.conversion import PixelsToTensor, TensorToPixels
from elir_deploy.runtime.tensors import TensorSpec

HEIGHT = WIDTH = 33
KINDS = [("uint8", "NHWC"), ("uint8", "NCHW"), ("float32", "NHWC"), ("float32", "NCHW")]
Dtype = Literal["uint8", "float32"]
Layout = Literal["NHWC", "NCHW"]


def spec(dtype: Dtype, layout: Layout) -> TensorSpec:
    shape = (1, HEIGHT, WIDTH, 3) if layout == "NHWC" else (1, 3, HEIGHT, WIDTH)
    return TensorSpec("image", dtype, shape, layout)


def pixels_last(tensor: NDArray, layout: Layout) -> NDArray:
    return tensor[0] if layout == "NHWC" else tensor[0].transpose(1, 2, 0)


@pytest.mark.parametrize(("dtype", "layout"), KINDS)
def test_there(dtype: Dtype, layout: Layout) -> None:
    convert = PixelsToTensor(spec(dtype, layout))
    tensor = np.empty(spec(dtype, layout).shape, dtype)
    for seed in range(3):
        pixels = np.random.default_rng(seed).integers(0, 256, (HEIGHT, 2 * WIDTH, 3), np.uint8)
        pixels = pixels[:, ::-2]  # not side by side
        convert(pixels, tensor[0])
        expected = pixels if dtype == "uint8" else pixels.astype(np.float32) / np.float32(255)
        np.testing.assert_array_equal(pixels_last(tensor, layout), expected)


@pytest.mark.parametrize(("dtype", "layout"), KINDS)
def test_back(dtype: Dtype, layout: Layout) -> None:
    convert = TensorToPixels(spec(dtype, layout))
    halves = (np.arange(1, 510, 2) / np.float32(510)).astype(np.float32)
    special = [np.nan, np.inf, -np.inf, -0.0, 1e-45, 1.0, *halves, *np.nextafter(halves, 0)]
    for seed in range(3):
        rng = np.random.default_rng(seed)
        tensor = rng.uniform(-0.2, 1.2, spec(dtype, layout).shape).astype(np.float32)
        tensor.reshape(-1)[: len(special)] = special
        if dtype == "uint8":
            tensor = rng.integers(0, 256, tensor.shape, np.uint8)
        pixels = np.zeros((HEIGHT, 2 * WIDTH, 3), np.uint8)
        convert(tensor[0], pixels[:, ::2])
        expected = pixels_last(tensor, layout)
        if dtype == "float32":
            clipped = np.where(np.isnan(expected), 0, np.clip(expected, 0, 1)).astype(np.float32)
            expected = np.rint(clipped * np.float32(255)).astype(np.uint8)
        np.testing.assert_array_equal(pixels[:, ::2], expected)
        assert not pixels[:, 1::2].any()
