"""16 bits in, 16 bits out, with bundles that take and give floats."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import features

from elir_deploy.errors import ImageError, UsageError
from elir_deploy.runtime import Fit, Restorer, blend
from elir_deploy.runtime.files import restore_files
from elir_deploy.runtime.images import enlarge_alpha, read_image, write_image
from elir_deploy.runtime.jobs import plan_jobs
from elir_deploy.runtime.resampling import EnlargedPicture, resize_into, resize_to
from elir_deploy.runtime.transparency import without_transparency
from tests.bundles import make_bundle
from tests.runtime.file_writers import tiff

RNG = np.random.default_rng(16)
NEEDS_AVIF = pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")


def noise(height: int, width: int) -> np.ndarray:
    return RNG.integers(0, 65536, (height, width, 3)).astype(np.uint16)


@pytest.fixture(scope="module")
def identity(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bundles") / "b", io="float32", size=64)


@pytest.mark.parametrize("stages", ["fused", "split"])
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_a_ramp_keeps_its_levels(tmp_path: Path, backend: str, stages: str) -> None:
    """All 65,536, in tiles."""
    pytest.importorskip(backend)
    bundle = make_bundle(tmp_path / "b", io="float32", size=64, stages=stages)
    ramp = np.arange(65536, dtype=np.uint16).reshape(256, 256, 1).repeat(3, axis=2)
    for suffix in ("png", "tif"):
        for grey in (False, True):
            source = tmp_path / f"a.{suffix}"
            write_image(source, ramp, grey=grey)
            with Restorer(bundle, backend, precision="fp32") as restorer:
                assert restorer.bits == 16
                plan = plan_jobs([source], tmp_path / f"b.{suffix}", existing="overwrite")
                outcome = restore_files(restorer, plan.jobs)
            assert not outcome.failures
            restored = read_image(tmp_path / f"b.{suffix}", deep=True)
            assert restored.grey == grey
            assert len(np.unique(restored.pixels)) == 65536 > 4000
            np.testing.assert_array_equal(restored.pixels, ramp)


@pytest.mark.parametrize(
    ("fit", "upscale", "kernel"),
    [("tile", 1, "none"), ("resize", 1, "none"), ("tile", 4, "bicubic"), ("tile", 8, "nearest")],
)
def test_as_8_bits_only_finer(tmp_path: Path, fit: Fit, upscale: int, kernel: str) -> None:
    """The same geometry: of 8-bit values the results differ by rounding alone."""
    bundle = make_bundle(
        tmp_path / "b", io="float32", gain=0.5, bias=0.2, upscale=upscale, kernel=kernel
    )
    coarse = RNG.integers(0, 256, (30, 41, 3)).astype(np.uint8)
    with Restorer(bundle, "onnxruntime", fit=fit) as restore:
        fine = restore(coarse * np.uint16(257))
        assert fine.dtype == np.uint16
        assert fine.shape == (30 * upscale, 41 * upscale, 3)
        # Of a resize there and back and a blend, each rounded.
        assert np.abs(fine / 257 - restore(coarse)).max() < 2.5
        if fit == "resize" or kernel == "bicubic":
            assert len(np.unique(fine)) > 1000
        several = list(restore.map([coarse, coarse * np.uint16(257), coarse]))
        np.testing.assert_array_equal(several[1], fine)
        np.testing.assert_array_equal(several[2], restore(coarse))


def test_16_bits_are_refused_by_bundles_of_8(tmp_path: Path) -> None:
    with Restorer(make_bundle(tmp_path / "b"), "onnxruntime") as restore:
        assert restore.bits == 8
        with pytest.raises(ImageError, match=r"is uint16, expected uint8 .*--io float32"):
            restore(noise(32, 32))
        with pytest.raises(ImageError, match="is uint16"):
            next(restore.map([noise(32, 32)]))


def test_floats_are_no_pictures(identity: Path) -> None:
    with Restorer(identity, "onnxruntime") as restore:
        for dtype in (np.float32, np.int16, np.uint32):
            with pytest.raises(ImageError, match="expected uint8 or uint16"):
                restore(noise(32, 32).astype(dtype))


def test_strength(identity: Path) -> None:
    image = noise(100, 70)
    with Restorer(identity, "onnxruntime") as restore:
        np.testing.assert_array_equal(restore(image, strength=0), image)
        np.testing.assert_array_equal(restore(image, strength=0.3), blend(image, image, 0.3))


def test_resizing_has_pillows_weights() -> None:
    """Of values that need no rounding, and by the sums of 8 bits."""
    pixels = RNG.integers(0, 256, (37, 23, 3)).astype(np.uint8)
    for size in ((37, 60), (5, 23), (64, 9), (37, 23), (1, 1), (100, 300)):
        deep = np.empty((*size, 3), np.uint16)
        shallow = np.empty((*size, 3), np.uint8)
        resize_into(pixels, shallow)
        resize_into(pixels * np.uint16(257), deep)
        # The first pass is rounded to 8 bits or to 16.
        assert np.abs(deep / 257 - shallow).max() <= 1.7
        picture = EnlargedPicture(pixels * np.uint16(257), 1, "none")
        assert resize_to(picture, *size).dtype == np.uint16
    for height, width in ((37, 50), (11, 23)):  # one pass
        deep = np.empty((height, width, 3), np.uint16)
        shallow = np.empty((height, width, 3), np.uint8)
        resize_into(pixels.astype(np.uint16), deep)
        resize_into(pixels, shallow)
        np.testing.assert_array_equal(np.minimum(deep, 255), shallow)


def test_a_block_of_an_enlarged_picture() -> None:
    image = noise(19, 21)
    picture = EnlargedPicture(image, 4, "bicubic")
    whole = picture.block(0, 0, picture.height, picture.width)
    np.testing.assert_array_equal(picture.block(5, 9, 50, 33), whole[5:55, 9:42])


def test_transparency(identity: Path, tmp_path: Path) -> None:
    pixels, alpha = noise(50, 60), noise(50, 60)[:, :, 0]
    alpha[:10], alpha[10:20] = 0, 65535
    seen = without_transparency(pixels, alpha)
    assert seen.dtype == np.uint16
    np.testing.assert_array_equal(seen[10:20], pixels[10:20])
    coarse = without_transparency((pixels >> 8).astype(np.uint8), (alpha >> 8).astype(np.uint8))
    assert np.abs(seen / 257 - coarse).mean() < 3
    source, sink = tmp_path / "a.png", tmp_path / "b.png"
    write_image(source, pixels, alpha=alpha)
    with Restorer(identity, "onnxruntime") as restorer:
        assert not restore_files(restorer, plan_jobs([source], sink).jobs).failures
        restored = read_image(sink, deep=True)
        np.testing.assert_array_equal(restored.alpha, alpha)
        np.testing.assert_array_equal(restored.pixels, seen)
        plan = plan_jobs([source], sink, existing="overwrite")
        assert not restore_files(restorer, plan.jobs, strength=0).failures
    np.testing.assert_array_equal(read_image(sink, deep=True).pixels, pixels)
    assert enlarge_alpha(alpha, 2).dtype == np.uint16


@pytest.mark.parametrize(
    ("io", "source", "bits", "target", "stored", "said"),
    [
        ("float32", 16, None, "png", 16, None),
        ("float32", 8, None, "png", 8, None),
        ("float32", 8, 16, "png", 16, None),
        ("float32", 16, 8, "tif", 8, None),
        ("float32", 16, None, "jpg", 8, None),
        ("float32", 16, None, "webp", 8, None),
        pytest.param("float32", 16, None, "avif", 8, None, marks=NEEDS_AVIF),
        ("uint8", 16, None, "png", 8, "reduced to 8 bits: a bundle exported with --io"),
        ("uint8", 16, 8, "png", 8, None),
        ("uint8", 8, None, "tif", 8, None),
    ],
)
def test_bits_of_results(
    tmp_path: Path,
    io: str,
    source: int,
    bits: int | None,
    target: str,
    stored: int,
    said: str | None,
) -> None:
    bundle = make_bundle(tmp_path / "b", io=io, gain=0.9)
    pixels = noise(40, 50)
    write_image(tmp_path / "a.png", pixels if source == 16 else (pixels >> 8).astype(np.uint8))
    results: list = []
    with Restorer(bundle, "onnxruntime") as restorer:
        plan = plan_jobs([tmp_path / "a.png"], tmp_path / f"c.{target}", compare=True)
        outcome = restore_files(restorer, plan.jobs, bits=bits, on_result=results.append)
    assert not outcome.failures
    loaded = read_image(tmp_path / f"c.{target}", deep=True)
    assert 8 * loaded.pixels.itemsize == stored
    assert (results[0].warning or "").startswith(said or "")
    assert (results[0].warning is None) == (said is None)


@pytest.mark.parametrize("io", ["float32", "uint8"])
def test_a_file_of_which_8_bits_are_read(tmp_path: Path, io: str) -> None:
    """Another bundle would not help, and is not named."""
    identity = make_bundle(tmp_path / "bundle", io=io)
    (tmp_path / "a.tif").write_bytes(tiff(noise(40, 50), 16, 2, planes=True))
    results: list = []
    with Restorer(identity, "onnxruntime") as restorer:
        plan = plan_jobs([tmp_path / "a.tif"], tmp_path / "b.png")
        restore_files(restorer, plan.jobs, on_result=results.append)
    assert results[0].warning == (
        "reduced to 8 bits, which are all that is read of this kind of file"
    )
    assert read_image(tmp_path / "b.png", deep=True).pixels.dtype == np.uint8


def test_bits_that_cannot_be_had(tmp_path: Path, identity: Path) -> None:
    write_image(tmp_path / "a.png", noise(40, 50))
    coarse = make_bundle(tmp_path / "b")
    for bundle, bits, target, reason in (
        (coarse, 16, "x.png", "results have 8 here: a bundle exported with --io float32"),
        (identity, 16, "x.jpg", "JPEG stores 8: PNG and TIFF store 16"),
        (identity, 12, "x.png", "bits is 12, expected 8 or 16"),
    ):
        plan = plan_jobs([tmp_path / "a.png"], tmp_path / target)
        with (
            Restorer(bundle, "onnxruntime") as restorer,
            pytest.raises(UsageError, match=reason),
        ):
            restore_files(restorer, plan.jobs, bits=bits)
