"""How much of a restoration is kept."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from elir_deploy.errors import UsageError
from elir_deploy.runtime import Fit, Restorer, blend
from elir_deploy.runtime.resampling import EnlargedPicture
from elir_deploy.runtime.strength import rounded_strength
from tests.bundles import make_bundle


def picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_blend_is_exact(dtype: type) -> None:
    """Every pair of values of some, at every strength, by Python's integers."""
    most = int(np.iinfo(dtype).max)
    values = [0, 1, 2, 3, 100, most // 2, most // 2 + 1, most - 1, most]
    before, after = (side.ravel() for side in np.meshgrid(values, values))
    before, after = before.astype(dtype), after.astype(dtype)
    last = before
    for w in range(257):
        mixed = blend(before, after, w / 256)
        expected = [
            (b * (256 - w) + a * w + 128) >> 8
            for b, a in zip(before.tolist(), after.tolist(), strict=True)
        ]
        assert mixed.dtype == dtype
        assert mixed.tolist() == expected
        nearer = np.abs(after.astype(int) - mixed) <= np.abs(after.astype(int) - last)
        assert nearer.all()
        last = mixed
    assert blend(before, after, 0).tolist() == before.tolist()
    assert blend(before, after, 1).tolist() == after.tolist()


def test_strengths_are_rounded_to_256ths() -> None:
    assert [rounded_strength(s) * 256 for s in (0, 0.0019, 1 / 512, 0.5, 0.999, 1)] == [
        *(0, 0, 1, 128, 256, 256)
    ]
    for wrong in (-0.1, 1.1, math.nan, math.inf, -math.inf):
        with pytest.raises(UsageError, match=f"strength is {wrong:g}, expected 0 to 1"):
            rounded_strength(wrong)


@pytest.mark.parametrize(
    ("fit", "upscale", "kernel"),
    [("tile", 1, "none"), ("resize", 1, "none"), ("tile", 4, "bicubic"), ("resize", 8, "nearest")],
)
@pytest.mark.parametrize("io", ["uint8", "float32"])
def test_between_the_enlarged_image_and_its_restoration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fit: Fit, upscale: int, kernel: str, io: str
) -> None:
    monkeypatch.setattr("elir_deploy.runtime.resampling._BAND_PIXELS", 1000)
    path = make_bundle(tmp_path / "b", upscale=upscale, kernel=kernel, gain=0.5, bias=0.2, io=io)
    image = picture(17, 40)
    enlarged = EnlargedPicture(image, upscale, kernel).block(0, 0, 17 * upscale, 40 * upscale)
    with Restorer(path, "onnxruntime", fit=fit) as restore:
        full = restore(image)
        for strength in (1, 0.7, 0.25, 0.0):
            mixed = restore(image, strength=strength)
            np.testing.assert_array_equal(mixed, blend(enlarged, full, strength))
        assert (mixed == enlarged).all()
        assert (full != enlarged).any()
        if upscale == 1:
            assert mixed.tobytes() == image.tobytes()
            assert not np.shares_memory(mixed, image)
        for wrong in (-0.1, 1.1, math.nan):
            with pytest.raises(UsageError, match="strength is"):
                restore(image, strength=wrong)
            with pytest.raises(UsageError, match="strength is"):
                restore.map([image], strength=wrong)


def test_map_of_batches(tmp_path: Path) -> None:
    path = make_bundle(tmp_path / "b", gain=0.5, shapes=[{"batch": 3, "height": 32, "width": 32}])
    images = [picture(side, 32) for side in (32, 32, 31, 32, 80, 32)]
    with Restorer(path, "onnxruntime") as restore:
        for strength in (0.0, 0.3, 1.0):
            expected = [restore(image, strength=strength) for image in images]
            for mixed, alone in zip(restore.map(images, strength=strength), expected, strict=True):
                np.testing.assert_array_equal(mixed, alone)


def test_what_is_not_mixed_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At 0 the model does not run, at 1 the image is not enlarged again; refusals stay."""
    path = make_bundle(tmp_path / "b", faces=True)
    with Restorer(path, "onnxruntime", fit="tile", force=True) as restore:
        monkeypatch.setattr(restore.session, "run", lambda: pytest.fail("the model ran"))
        assert (restore(picture(40, 50), strength=0) == picture(40, 50)).all()
    with Restorer(path, "onnxruntime", fit="resize") as restore:
        blocks = []
        block = EnlargedPicture.block
        monkeypatch.setattr(EnlargedPicture, "block", lambda *a: blocks.append(a[3:]) or block(*a))
        restore(picture(32, 32))
        assert blocks == [(32, 32)]
    with Restorer(path, "onnxruntime", fit="tile") as restore, pytest.raises(UsageError):
        restore(picture(40, 50), strength=0)
