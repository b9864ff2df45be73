"""The restorer: sizes, types, tiles, threads, map, and closing."""

from __future__ import annotations

import gc
import hashlib
import itertools
import json
import threading
import time
import tracemalloc
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from elir_deploy import runtime
from elir_deploy.errors import BundleError, ImageError, UnavailableError, UsageError
from elir_deploy.runtime import Bundle, Restorer
from elir_deploy.runtime.backends import BACKENDS, base
from tests.bundles import make_bundle, noise_pixels, read_manifest, write_manifest
from tests.sessions import ArraySession

SIZES = [(32, 32), (1, 1), (31, 33), (32, 1), (90, 130), (64, 33)]


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height * 1000 + width).integers(0, 256, (height, width, 3), "u1")


def resized(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """Along rows, then along columns."""
    bicubic = Image.Resampling.BICUBIC
    narrow = Image.fromarray(image).resize((width, image.shape[0]), bicubic)
    return np.asarray(narrow.resize((width, height), bicubic))


def test_public_names() -> None:
    assert all(hasattr(runtime, name) for name in runtime.__all__)


# Sizes and types --------------------------------------------------------------------------------


@pytest.mark.parametrize("io", ["uint8", "float32"])
@pytest.mark.parametrize("stages", ["fused", "split"])
def test_identity_at_any_size(tmp_path: Path, io: str, stages: str) -> None:
    path = make_bundle(tmp_path / "b", io=io, stages=stages)
    with Restorer(path, "onnxruntime", threads=1) as restore:
        assert (restore.backend, restore.precision, restore.fit) == ("onnxruntime", "fp32", "tile")
        assert restore.concurrency == 1
        for size in SIZES:
            image = noise(*size)
            before = image.copy()
            restored = restore(image)
            assert restored.dtype == np.uint8
            np.testing.assert_array_equal(restored, image)
            np.testing.assert_array_equal(image, before)
            assert not np.shares_memory(restored, image)


def test_float_and_uint8_bundles_round_alike(tmp_path: Path) -> None:
    """Half to even: with gain 0.5 every odd value lies between two."""
    image = np.arange(32 * 32 * 3, dtype=np.uint8).reshape(32, 32, 3)
    made = []
    for io in ("uint8", "float32"):
        path = make_bundle(tmp_path / io, io=io, gain=0.5)
        with Restorer(path, "onnxruntime") as restore:
            made.append(restore(image))
    np.testing.assert_array_equal(made[0], made[1])
    np.testing.assert_array_equal(made[0], np.rint(image * 0.5).astype(np.uint8))


def test_pixels_of_several_images_run_in_batches(tmp_path: Path) -> None:
    shapes = [{"batch": 3, "height": 32, "width": 32}]
    path = make_bundle(tmp_path / "b", shapes=shapes, gain=0.5)
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), np.uint8)
    with Restorer(path, "onnxruntime") as restore:
        together = restore.run_pixels(images)
        for image, restored in zip(images, together, strict=True):
            np.testing.assert_array_equal(restored, restore.run_pixels(image))
        with pytest.raises(ImageError, match="pixels are 30x32"):
            restore.run_pixels(images[:, :30])


def test_float_output_is_clipped_and_nan_is_black(bundle: Path, tmp_path: Path) -> None:
    with Restorer(make_bundle(tmp_path / "f", io="float32")) as restore:
        values = np.array([-1.0, 2.0, np.nan, np.inf, -np.inf, 0.5, 1.0], np.float32)
        session = restore.session
        session.run = lambda: np.copyto(session.output, np.resize(values, session.output.shape))
        restored = restore(noise(32, 32)).transpose(2, 0, 1).ravel()
    assert restored[:7].tolist() == [0, 255, 0, 255, 0, 128, 255]


@pytest.mark.parametrize("io", ["uint8", "float32"])
def test_pixels_at_the_models_scale(tmp_path: Path, io: str) -> None:
    path = make_bundle(tmp_path / "b", io=io, upscale=4, kernel="bicubic", gain=0.5)
    with Restorer(path, "onnxruntime") as restore:
        image = noise(32, 32)
        made = restore.run_pixels(image)
        np.testing.assert_array_equal(made, np.rint(image * 0.5).astype(np.uint8))
        for wrong in (noise(8, 8), image.astype(np.float32)):
            with pytest.raises(ImageError, match="expected"):
                restore.run_pixels(wrong)
        if io == "float32":
            session = restore.session
            session.run = lambda: session.output.fill(np.nan)  # type: ignore[method-assign]
            assert not restore.run_pixels(image).any()


@pytest.mark.parametrize(("factor", "kernel"), [(8, "nearest"), (4, "bicubic")])
@pytest.mark.parametrize("fit", ["tile", "resize"])
def test_enlarging(tmp_path: Path, factor: int, kernel: str, fit: runtime.Fit) -> None:
    path = make_bundle(tmp_path / "b", upscale=factor, kernel=kernel)
    pillow = {"nearest": Image.Resampling.NEAREST, "bicubic": Image.Resampling.BICUBIC}[kernel]
    with Restorer(path, fit=fit) as restore:
        for height, width in [(32 // factor, 32 // factor), (1, 1), (7, 3), (40, 25)]:
            image = noise(height, width)
            size = (width * factor, height * factor)
            large = np.asarray(Image.fromarray(image).resize(size, pillow))
            expected = large
            if fit == "resize" and size != (32, 32):
                expected = resized(resized(large, 32, 32), *size)
            np.testing.assert_array_equal(restore(image), expected)


def test_fit_resize(bundle: Path) -> None:
    with Restorer(bundle, fit="resize") as restore:
        for height, width in SIZES:
            image = noise(height, width)
            expected = image
            if (height, width) != (32, 32):
                expected = resized(resized(image, 32, 32), width, height)
            np.testing.assert_array_equal(restore(image), expected)


@pytest.mark.parametrize(
    "view",
    [
        lambda image: image[::-1, ::2],
        lambda image: image.swapaxes(0, 1),
        lambda image: image[:, :, ::-1],
        lambda image: np.broadcast_to(image[:1, :1], (40, 50, 3)),
    ],
)
@pytest.mark.parametrize("fit", ["tile", "resize"])
def test_any_memory_layout(bundle: Path, view, fit: runtime.Fit) -> None:
    image = view(noise(60, 70))
    image.flags.writeable = False
    with Restorer(bundle, fit=fit) as restore:
        np.testing.assert_array_equal(restore(image), restore(np.ascontiguousarray(image)))


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (noise(3, 3).tolist(), "a list, expected a NumPy array"),
        (Image.new("RGB", (3, 3)), "expected a NumPy array"),
        (noise(3, 3)[:, :, 0], r"shape \(3, 3\), expected \(H, W, 3\) RGB: repeat"),
        (np.zeros((3, 3, 4), np.uint8), "only the colours"),
        (np.zeros((3, 5, 5), np.uint8), "channels come last"),
        (np.zeros((1, 3, 3, 3), np.uint8), r"expected \(H, W, 3\)"),
        (np.zeros((3, 3, 3), np.float32), "float32, expected uint8"),
        (np.zeros((3, 3, 3), np.uint16), "uint16, expected uint8"),
        (np.zeros((0, 3, 3), np.uint8), "empty"),
        (np.zeros((3, 0, 3), np.uint8), "empty"),
    ],
)
def test_what_is_no_image(bundle: Path, image: object, reason: str) -> None:
    with Restorer(bundle) as restore, pytest.raises(ImageError, match=reason):
        restore(image)  # type: ignore[arg-type]


def test_a_result_larger_than_memory(tmp_path: Path) -> None:
    path = make_bundle(tmp_path / "b", upscale=16, kernel="nearest")
    huge = np.broadcast_to(np.zeros(3, np.uint8), (2**22, 2**22, 3))
    with Restorer(path) as restore, pytest.raises(ImageError, match="not enough memory"):
        restore(huge)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_no_memory_for_a_batch_is_an_unavailable_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    """Also where backend and precision are named, which tries nothing else."""
    pytest.importorskip(backend)
    path = make_bundle(tmp_path / "b", shapes=[{"batch": 4, "height": 32, "width": 48}])
    restore = Restorer(path, backend, precision="fp32")

    def full(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(base, "allocate", full)
    message = "not enough memory to run {} images of 48x32 together"
    with restore, pytest.raises(UnavailableError, match=message.format(2)):
        restore.run(np.zeros((2, 32, 48, 3), np.uint8))
    with pytest.raises(UnavailableError, match=message.format(1)):
        Restorer(path, backend, precision="fp32")


def test_arrays_that_onnxruntime_does_not_take_are_its_failure(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here, since they have another type than the graph's."""
    wrong = lambda spec: np.zeros(spec.shape, np.complex128)  # noqa: E731
    monkeypatch.setattr(base, "allocate", wrong)
    with pytest.raises(UnavailableError, match="onnxruntime failed"):
        Restorer(bundle, "onnxruntime", precision="fp32")


# Noise of the picture ----------------------------------------------------------------------------


def with_noise(image: np.ndarray, **noise: float) -> np.ndarray:
    added = noise_pixels(*image.shape[:2], 8, **noise)  # type: ignore[arg-type]
    values = image / np.float32(255) + added
    return np.rint(values.clip(0, 1) * np.float32(255)).astype(np.uint8)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("stages", ["fused", "split"])
@pytest.mark.parametrize("io", ["uint8", "float32"])
def test_noise_belongs_to_the_picture(tmp_path: Path, backend: str, stages: str, io: str) -> None:
    """One noise over all tiles: overlapping tiles get the same, or blending would show."""
    pytest.importorskip(backend)
    path = make_bundle(tmp_path / "b", size=64, stride=8, stages=stages, io=io)
    images = [np.full((*size, 3), 128, np.uint8) for size in ((64, 64), (20, 41), (150, 203))]
    with Restorer(path, backend, precision="fp32", threads=1) as restore:
        assert (restore.noise.seed, restore.noise.sigma_s) == (7, 0.025)
        for image, restored in zip(images, restore.map(images), strict=True):
            expected = with_noise(image).astype(int)
            assert expected.std() > 5
            assert abs(restored - expected).max() <= (backend == "openvino")
            np.testing.assert_array_equal(restore(image), restored)
        np.testing.assert_array_equal(restore.run_pixels(images[0]), restore(images[0]))


def test_another_noise(tmp_path: Path) -> None:
    path, image = make_bundle(tmp_path / "b", size=64, stride=8), np.full((70, 90, 3), 99, np.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the picture that is compared has the bundle's own noise
        for noise in ({"seed": 8}, {"sigma_s": 0.3}, {"seed": 2**32 - 1, "sigma_s": 0.0}):
            with Restorer(path, "onnxruntime", **noise) as restore:
                np.testing.assert_array_equal(restore(image), with_noise(image, **noise))
    for noise, reason in (
        ({"seed": 2**32}, "seed of the noise is 4294967296, expected 0 to 4294967295"),
        ({"sigma_s": -0.1}, "sigma_s is -0.1"),
        ({"sigma_s": float("nan")}, "sigma_s is nan"),
    ):
        with pytest.raises(UsageError, match=reason):
            Restorer(path, **noise)


def test_other_options_share_the_sessions(tmp_path: Path) -> None:
    path = make_bundle(tmp_path / "b", size=64, stride=8, slope=0.5)
    image = noise(70, 90)
    with Restorer(path, "onnxruntime", precision="fp32", seed=1, tile_overlap=4) as restore:
        before = restore(image)
        for options in (
            {"seed": 8},
            {"sigma_s": 0.3},
            {"fit": "resize"},
            {"tile_overlap": 0},
            {"tile_overlap": 0, "seed": 0, "sigma_s": 0.0},
        ):
            other = restore.with_options(**options)
            own = {"seed": 1, "tile_overlap": 4} | options
            with Restorer(path, "onnxruntime", precision="fp32", **own) as opened:
                np.testing.assert_array_equal(other(image), opened(image))
                assert (other(image) != before).any()
                np.testing.assert_array_equal(other.session.noise, opened.session.noise)
                assert other.fit == opened.fit
            assert other._pool is restore._pool
        np.testing.assert_array_equal(restore(image), before)
        own_noise = restore.session.noise.copy()
        assert (restore.with_options(seed=9).session.noise != own_noise).any()
        np.testing.assert_array_equal(restore.session.noise, own_noise)
        for wrong in ({"seed": -1}, {"sigma_s": -1.0}, {"fit": "crop"}, {"tile_overlap": 33}):
            with pytest.raises(UsageError):
                restore.with_options(**wrong)


def test_baked_noise_cannot_be_chosen(bundle: Path) -> None:
    for noise in ({"seed": 0}, {"sigma_s": 0.1}):
        with pytest.raises(UsageError, match=r"noise is baked into this bundle.*--noise field"):
            Restorer(bundle, **noise)
    with Restorer(bundle) as restore:
        assert restore.noise is None
        with pytest.raises(UsageError, match="noise is baked"):
            restore.with_options(seed=0)
        values = np.zeros((1, 32, 32, 3), np.uint8)
        with pytest.raises(ImageError, match="noise is baked into its graphs: do not pass"):
            restore.run(values, np.zeros((1, 3, 4, 4), np.float32))


def test_run_with_noise(tmp_path: Path) -> None:
    path = make_bundle(tmp_path / "b", size=64, stride=8)
    with Restorer(path, "onnxruntime") as restore:
        values = np.full((1, 64, 64, 3), 100, np.uint8)
        np.testing.assert_array_equal(restore.run(values)[0], with_noise(values[0]))
        noise = np.zeros((1, 3, 8, 8), np.float32)
        np.testing.assert_array_equal(restore.run(values, noise), values)
        for wrong in (noise[0], noise.astype(np.float64), noise[:, :2]):
            with pytest.raises(ImageError, match="expected noise: float32 1x3x8x8 NCHW"):
                restore.run(values, wrong)


@pytest.mark.parametrize("precision", [None, "fp32"])
def test_a_session_used_directly_has_the_noise_of_a_run(
    tmp_path: Path, precision: str | None
) -> None:
    """Whatever ran before: nothing, the accuracy check, or the tiles of a large picture."""
    path = make_bundle(tmp_path / "b", stride=8, shapes=SHAPES)
    with Restorer(path, "onnxruntime", precision=precision) as restore:
        for shape in restore.bundle.manifest.shapes:
            session = restore.session
            session.select(shape, 1)
            values = np.full(session.input.shape, 128, np.uint8)
            session.input[...] = values
            session.run()
            result = session.output.copy()
            assert result.std() > 1
            np.testing.assert_array_equal(result, restore.run(values))
            restore(noise(200, 200))
        assert restore.session.noise is not None
        restore.session.noise[...] = 0  # the caller's own stays
        restore.session.input[...] = 128
        restore.session.run()
        assert (restore.session.output == 128).all()


def test_the_overlap_of_tiles(tmp_path: Path) -> None:
    """A gradient that the model makes of each tile shows how wide the ramp is."""
    path, image = make_bundle(tmp_path / "b"), noise(32, 56)
    for overlap in (0, 16):
        with Restorer(path, "onnxruntime", tile_overlap=overlap) as restore:
            session, runs = restore.session, []

            def run(session=session, runs=runs) -> None:
                runs.append(len(runs))
                session.output[...] = 200 * (len(runs) % 2)

            session.run = run  # type: ignore[method-assign]
            row = restore(image)[0, :, 0].astype(int)
        assert len(runs) == (2 if overlap == 0 else 3)
        assert np.abs(np.diff(row)).max() == (200 if overlap == 0 else 13)
    for overlap in (-1, 17):
        with pytest.raises(UsageError, match=rf"tile_overlap is {overlap}, expected 0 to 16"):
            Restorer(path, tile_overlap=overlap)


# Shapes and batches ------------------------------------------------------------------------------

SHAPES = [
    {"batch": 4, "height": 32, "width": 48},
    {"batch": 2, "height": 60, "width": 100, "padded_height": 64, "padded_width": 104},
]
KINDS = {
    "batch": SHAPES[:1],
    "padded": [SHAPES[1] | {"batch": 1}],
    "shapes": [shape | {"batch": 1} for shape in SHAPES],
    "shapes and batches": SHAPES,
}


def count_runs(restore: Restorer) -> list[tuple[int, ...]]:
    """The shapes of the inputs of all runs from now on."""
    session, runs = restore.session, []
    run = session.run

    def counted() -> None:
        runs.append(session.input.shape)
        run()

    session.run = counted  # type: ignore[method-assign]
    return runs


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("stages", ["fused", "split"])
@pytest.mark.parametrize("kind", KINDS)
def test_any_shape(tmp_path: Path, backend: str, stages: str, kind: str) -> None:
    pytest.importorskip(backend)
    path = make_bundle(tmp_path / "b", stride=8, stages=stages, shapes=KINDS[kind])
    sizes = [(32, 48), (60, 100), (64, 104), (10, 9), (33, 50), (150, 203)]
    with Restorer(path, backend, precision="fp32", threads=1) as restore:
        for height, width in sizes:
            image = noise(height, width) // 2 + 64
            restored = restore(image).astype(int)
            difference = abs(restored - with_noise(image).astype(int))
            assert difference.max() <= (backend == "openvino")
            assert restored.shape == image.shape


@pytest.mark.parametrize("kind", KINDS)
def test_the_reference_has_the_size_of_the_first_shape(tmp_path: Path, kind: str) -> None:
    path = make_bundle(tmp_path / "b", stride=8, shapes=KINDS[kind])
    with Restorer(path, "onnxruntime") as restore:
        ((_, image, expected),) = restore.bundle.reference_images()
        np.testing.assert_array_equal(restore.run_pixels(image), expected)
        shape = KINDS[kind][0]
        small = np.ascontiguousarray(image[: shape["height"], : shape["width"]])
        np.testing.assert_array_equal(restore.run_pixels(small), restore(small))
        with pytest.raises(ImageError, match=r"pixels are 7x9, expected .*x.* .height x width"):
            restore.run_pixels(noise(7, 9))


@pytest.mark.usefixtures("batches")
def test_tiles_fill_batches(tmp_path: Path) -> None:
    image = noise(100, 150)
    results = []
    for batch in (1, 4):
        path = make_bundle(tmp_path / str(batch), stride=8, shapes=[SHAPES[0] | {"batch": batch}])
        with Restorer(path, "onnxruntime") as restore:
            runs = count_runs(restore)
            results.append(restore(image))
            assert [run[0] for run in runs] == ([1] * 16 if batch == 1 else [4] * 4)
            if batch > 1:
                runs.clear()
                restore(image[:, :120])
                assert [run[0] for run in runs] == [4, 4, 4]
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize(
    ("backend", "precision"),
    [("openvino", "fp32"), ("onnxruntime", "fp16"), ("onnxruntime", "int8")],
)
def test_images_run_one_by_one_where_a_batch_changes_bytes(
    tmp_path: Path, backend: str, precision: str
) -> None:
    """tests/runtime_cpp/test_exported.py has networks whose bytes would change."""
    pytest.importorskip(backend)
    shapes = SHAPES[:1]
    path = make_bundle(tmp_path / "b", stride=8, shapes=shapes, precisions=(precision,))
    with Restorer(path, backend, precision=precision) as restore:
        runs = count_runs(restore)
        restore(noise(90, 48))
        assert [run[0] for run in runs] == [1, 1, 1, 1]
        for restored in restore.map([noise(32, 48)] * 3):
            assert abs(restored.astype(int) - with_noise(noise(32, 48))).max() <= 1
        restore.run_pixels(np.stack([noise(32, 48)] * 3))
        assert [run[0] for run in runs[4:]] == [1] * 6


@pytest.mark.parametrize("stages", ["fused", "split"])
@pytest.mark.parametrize("stride", [4, 16])
def test_noise_of_another_stride_is_refused_when_opened(
    tmp_path: Path, stages: str, stride: int
) -> None:
    shapes = [{"batch": 1, "height": 32, "width": 48}, {"batch": 2, "height": 64, "width": 96}]
    path = make_bundle(tmp_path / "b", stride=8, stages=stages, shapes=shapes)
    with Restorer(path, "onnxruntime", precision="fp32"):
        pass
    manifest = read_manifest(path)
    manifest["tensors"]["noise"]["stride"] = stride
    write_manifest(path, manifest)
    with pytest.raises(BundleError, match="its graphs do not fit its manifest: onnxruntime failed"):
        Restorer(path, "onnxruntime", precision="fp32")


@pytest.mark.usefixtures("batches")
@pytest.mark.parametrize("fit", ["tile", "resize"])
def test_map_runs_together_what_waits(tmp_path: Path, fit: runtime.Fit) -> None:
    """Images of one run each and the same shape; a picture of tiles between runs alone."""
    path = make_bundle(tmp_path / "b", stride=8, shapes=SHAPES)
    sizes = [(32, 48)] * 6 + [(60, 100)] * 3 + [(5, 6), (32, 48), (200, 200), (31, 40)]
    images = [noise(*size) + np.uint8(i) for i, size in enumerate(sizes)]
    with Restorer(path, "onnxruntime", fit=fit) as restore:
        expected = [restore(image) for image in images]
        runs, go, read = count_runs(restore), threading.Event(), threading.Event()
        run = restore.session.run

        def gated() -> None:
            go.wait(10)
            run()

        def slowly() -> Iterator[np.ndarray]:
            for index, image in enumerate(images):
                yield image
                if index == 4:
                    read.set()

        restore.session.run = gated  # type: ignore[method-assign]
        results = restore.map(slowly())
        first = threading.Thread(target=lambda: (read.wait(10), time.sleep(0.05), go.set()))
        first.start()
        for restored, alone in zip(results, expected, strict=True):
            np.testing.assert_array_equal(restored, alone)
        first.join()
    assert sum(run[0] for run in runs) >= len(images)
    assert max(run[0] for run in runs if run[1] == 32) > 1
    assert max(run[0] for run in runs) <= 4


def test_map_of_batches_raises_in_order(tmp_path: Path) -> None:
    path = make_bundle(tmp_path / "b", stride=8, shapes=SHAPES)
    wrong = noise(32, 48)[:, :, 0]
    with Restorer(path, "onnxruntime") as restore:
        results = restore.map([noise(32, 48)] * 5 + [wrong] + [noise(32, 48)] * 3)
        for _ in range(5):
            np.testing.assert_array_equal(next(results), with_noise(noise(32, 48)))
        with pytest.raises(ImageError):
            next(results)


def test_map_of_batches_is_bounded(tmp_path: Path) -> None:
    path = make_bundle(tmp_path / "b", stride=8, shapes=SHAPES)
    drawn = [0]

    def images() -> Iterator[np.ndarray]:
        while True:
            drawn[0] += 1
            yield noise(32, 48)

    with Restorer(path, "onnxruntime") as restore:
        results = restore.map(images())
        for taken in range(1, 6):
            next(results)
            time.sleep(0.05)
            # Taken, two that wait after the model, a batch that was run, one that waits.
            assert drawn[0] <= taken + 2 + 4 + 4
        results.close()


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_selections_stay_as_they_are(tmp_path: Path, backend: str) -> None:
    """In the steady state, selecting, noise and runs allocate nothing that stays."""
    pytest.importorskip(backend)
    path = make_bundle(tmp_path / "b", stride=8, shapes=SHAPES)
    images = [noise(60, 100), noise(90, 130), noise(20, 20)]
    with Restorer(path, backend, precision="fp32", threads=1) as restore:
        session = restore.session
        for image in images * 3:
            restore(image)
        arrays = [id(s.input) for s in session._selections.values()]
        gc.collect()
        tracemalloc.start()
        try:
            for _ in range(10):
                for image in images:
                    restore(image)
            gc.collect()
            before = tracemalloc.get_traced_memory()[0]
            for _ in range(10):
                for image in images:
                    restore(image)
            gc.collect()
            after = tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()
        assert [id(s.input) for s in session._selections.values()] == arrays
    assert after - before < 20_000  # in 30 pictures, of whose tiles each has 4608 bytes


def test_run_takes_any_shape_and_batch(tmp_path: Path) -> None:
    path = make_bundle(tmp_path / "b", stride=8, shapes=SHAPES)
    with Restorer(path, "onnxruntime") as restore:
        for shape in ((3, 32, 48, 3), (2, 64, 104, 3), (1, 32, 48, 3)):
            values = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
            for made, image in zip(restore.run(values), values, strict=True):
                np.testing.assert_array_equal(made, with_noise(image))
            fields = np.zeros((shape[0], 3, shape[1] // 8, shape[2] // 8), np.float32)
            np.testing.assert_array_equal(restore.run(values, fields), values)
        for shape in ((5, 32, 48, 3), (3, 64, 104, 3), (1, 60, 100, 3), (0, 32, 48, 3)):
            with pytest.raises(ImageError, match="expected image: uint8 4x32x48x3 NHWC or image"):
                restore.run(np.zeros(shape, np.uint8))


# Faces ------------------------------------------------------------------------------------------


def test_a_face_model_is_not_run_in_tiles(tmp_path: Path) -> None:
    path = make_bundle(tmp_path / "b", faces=True)
    with Restorer(path) as restore:
        assert restore.fit == "resize"
        assert restore(noise(40, 50)).shape == (40, 50, 3)
        assert restore.input_warning(40, 40) is None
        assert "not square" in str(restore.input_warning(40, 50))
    with Restorer(path, fit="tile") as restore:
        np.testing.assert_array_equal(restore(noise(32, 32)), noise(32, 32))
        for size in [(40, 50), (20, 20)]:
            with pytest.raises(UsageError, match=r"aligned face crop.*--fit resize.*--force"):
                restore(noise(*size))
    with Restorer(path, fit="tile", force=True) as restore:
        np.testing.assert_array_equal(restore(noise(40, 50)), noise(40, 50))


# Arguments --------------------------------------------------------------------------------------


def test_bad_arguments(bundle: Path) -> None:
    with pytest.raises(UsageError, match="fit is 'stretch', expected one of resize, tile"):
        Restorer(bundle, fit="stretch")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="mode is 'fast', expected one of latency, throughput"):
        Restorer(bundle, mode="fast")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="threads is 0"):
        Restorer(bundle, threads=0)
    with pytest.raises(UsageError, match="unknown backend 'tpu'"):
        Restorer(bundle, "tpu")
    with pytest.raises(UsageError, match="no int8 files"):
        Restorer(bundle, precision="int8")
    with pytest.raises(BundleError, match="no such folder"):
        Restorer(bundle / "nothing")


def test_an_opened_bundle_will_do(bundle: Path) -> None:
    opened = Bundle.open(bundle)
    with Restorer(opened, "onnxruntime", precision="fp32") as restore:
        assert restore.bundle is opened
        assert restore.input_spec == opened.manifest.input


def test_a_damaged_graph_is_found_on_opening(bundle: Path) -> None:
    path = bundle / "fused.fp32.onnx"
    data = bytearray(path.read_bytes())
    data[50] ^= 1
    path.write_bytes(data)
    with pytest.raises(BundleError, match="is damaged"):
        Restorer(bundle)


def test_auto_goes_on_where_a_device_fails(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fallback of ``auto`` is said; that of a named backend is refused."""
    monkeypatch.setattr(type(BACKENDS["onnxruntime"]), "available", lambda self: None)
    reason = r"onnxruntime-cuda in fp32: .*; using (openvino|onnxruntime)"
    with pytest.warns(RuntimeWarning, match=reason):
        Restorer(bundle).close()
    with pytest.raises(UnavailableError):
        Restorer(bundle, "onnxruntime-cuda")


# The bare model ---------------------------------------------------------------------------------


def test_run(tmp_path: Path) -> None:
    with Restorer(make_bundle(tmp_path / "b", io="float32", gain=0.5)) as restore:
        values = np.random.default_rng(0).random((1, 3, 32, 32), np.float32)
        first = restore.run(values)
        second = restore.run(np.zeros_like(values))
        np.testing.assert_array_equal(first, values * np.float32(0.5))
        assert not second.any()
        for wrong in (values[0], values.astype(np.float64), values[:, :, ::2]):
            with pytest.raises(ImageError, match="expected image: float32 1x3x32x32 NCHW"):
                restore.run(wrong)


def test_closing(bundle: Path) -> None:
    restore = Restorer(bundle)
    restore.close()
    restore.close()
    for use in (
        lambda: restore(noise(5, 5)),
        lambda: restore.run(np.zeros((1, 32, 32, 3), np.uint8)),
        lambda: restore.session,
        lambda: list(restore.map([noise(5, 5)])),
    ):
        with pytest.raises(UsageError, match="this Restorer is closed"):
            use()


# Threads ----------------------------------------------------------------------------------------


def test_calls_from_many_threads(tmp_path: Path) -> None:
    path = make_bundle(tmp_path / "b", gain=0.5)
    images = [noise(20 + i, 60 - i) for i in range(12)]
    wrong = []
    with Restorer(path, "onnxruntime", threads=1) as restore:

        def work(number: int) -> None:
            wrong.extend(
                image.shape
                for image in images[number::2] * 5
                if not np.array_equal(restore(image), np.rint(image * 0.5).astype(np.uint8))
            )

        workers = [threading.Thread(target=work, args=(n % 2,)) for n in range(4)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    assert not wrong


def test_closing_while_another_thread_restores(bundle: Path) -> None:
    restore = Restorer(bundle, threads=1)
    errors: list[Exception] = []
    started = threading.Event()

    def work() -> None:
        try:
            while True:
                restore(noise(70, 70))
                started.set()
        except UsageError as error:
            errors.append(error)

    worker = threading.Thread(target=work)
    worker.start()
    started.wait(10)
    restore.close()
    worker.join(10)
    assert [str(error) for error in errors] == ["this Restorer is closed: open a new one"]


# map --------------------------------------------------------------------------------------------


def test_map_keeps_order_and_sizes(bundle: Path) -> None:
    images = [noise(1 + 7 * i, 50 - i) for i in range(20)]
    with Restorer(bundle) as restore:
        for image, restored in zip(images, restore.map(images), strict=True):
            np.testing.assert_array_equal(restored, image)
        assert list(restore.map([])) == []


def test_map_is_lazy_and_bounded(bundle: Path) -> None:
    drawn = [0]

    def images() -> Iterator[np.ndarray]:
        while True:
            drawn[0] += 1
            yield noise(8, 8)

    with Restorer(bundle) as restore:
        results = restore.map(images())
        assert drawn[0] == 0
        for taken in range(1, 4):
            next(results)
            time.sleep(0.1)
            # Taken, two restored, two drawn.
            assert drawn[0] <= taken + 4
        results.close()
        after = drawn[0]
        time.sleep(0.05)
        assert drawn[0] == after


def test_map_raises_in_order(bundle: Path) -> None:
    def images() -> Iterator[np.ndarray]:
        yield noise(8, 8)
        yield noise(9, 9)
        raise OSError("the camera is gone")

    with Restorer(bundle) as restore:
        results = restore.map(images())
        assert next(results).shape == (8, 8, 3)
        assert next(results).shape == (9, 9, 3)
        with pytest.raises(OSError, match="the camera is gone"):
            next(results)
        results = restore.map([noise(8, 8), noise(8, 8)[:, :, 0], noise(9, 9)])
        assert next(results).shape == (8, 8, 3)
        with pytest.raises(ImageError):
            next(results)
        with pytest.raises(StopIteration):
            next(results)
        np.testing.assert_array_equal(restore(noise(9, 9)), noise(9, 9))  # still usable


def test_map_leaves_no_threads(bundle: Path) -> None:
    def ours() -> list[threading.Thread]:
        return [t for t in threading.enumerate() if t.name == "elir-read-ahead"]

    with Restorer(bundle) as restore:
        before = len(ours())
        results = restore.map(noise(8, 8) for _ in itertools.count())
        next(results)
        assert len(ours()) == before + 2
        results.close()
        deadline = time.monotonic() + 5
        while len(ours()) > before and time.monotonic() < deadline:
            time.sleep(0.01)
        assert len(ours()) == before


# Several at once --------------------------------------------------------------------------------


class Halving(ArraySession):
    """Halves what it is given, once ``gate`` lets it."""

    def __init__(self, bundle: Bundle, gate: Callable[[], object]) -> None:
        super().__init__(bundle)
        self.gate = gate
        self.closed = False

    def run(self) -> None:
        assert not self.closed
        self.gate()
        np.floor_divide(self.input, 2, out=self.output)

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def open_wide(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Restorer]:
    """Opens a restorer with three sessions."""

    def call(gate: Callable[[], object] = lambda: None) -> Restorer:
        def open_several(self: object, bundle: Bundle, *_: object, **__: object) -> tuple:
            return tuple(Halving(bundle, gate) for _ in range(3))

        monkeypatch.setattr(type(BACKENDS["onnxruntime"]), "open_several", open_several)
        return Restorer(bundle, "onnxruntime", precision="fp32", mode="throughput")

    return call


def test_a_backend_without_gain_runs_one_at_a_time(bundle: Path) -> None:
    with Restorer(bundle, "onnxruntime", mode="throughput") as restore:
        assert restore.concurrency == 1
        np.testing.assert_array_equal(restore(noise(40, 50)), noise(40, 50))


def test_map_runs_concurrently_and_keeps_order(open_wide) -> None:
    together = threading.Barrier(3)  # breaks, unless three runs wait at it
    with open_wide(lambda: together.wait(10)) as restore:
        assert restore.concurrency == 3
        images = [noise(32, 32) + np.uint8(i) for i in range(9)]
        for image, restored in zip(images, restore.map(images), strict=True):
            np.testing.assert_array_equal(restored, image // 2)


def test_calls_from_threads_run_concurrently(open_wide) -> None:
    together = threading.Barrier(3)
    with open_wide(lambda: together.wait(10)) as restore, ThreadPoolExecutor(6) as pool:
        made = list(pool.map(restore, [noise(32, 32)] * 9))
    assert all(np.array_equal(image, noise(32, 32) // 2) for image in made)


def test_map_of_several_is_bounded(open_wide) -> None:
    drawn = [0]

    def images() -> Iterator[np.ndarray]:
        while True:
            drawn[0] += 1
            yield noise(32, 32)

    with open_wide() as restore:
        results = restore.map(images())
        for taken in range(1, 4):
            next(results)
            time.sleep(0.1)
            # Taken, two restored, three running or done, one between, two drawn.
            assert drawn[0] <= taken + 8
        results.close()
        after = drawn[0]
        time.sleep(0.05)
        assert drawn[0] == after


def test_map_of_several_raises_in_order(open_wide) -> None:
    with open_wide() as restore:
        results = restore.map([noise(32, 32), noise(9, 9), noise(8, 8)[:, :, 0], noise(9, 9)])
        assert [next(results).shape, next(results).shape] == [(32, 32, 3), (9, 9, 3)]
        with pytest.raises(ImageError):
            next(results)
        with pytest.raises(StopIteration):
            next(results)


def test_closing_waits_for_all_that_run(open_wide) -> None:
    running, go = threading.Semaphore(0), threading.Event()

    def gate() -> None:
        running.release()
        assert go.wait(10)

    restore = open_wide(gate)
    with ThreadPoolExecutor(4) as pool:
        results = [pool.submit(restore, noise(32, 32)) for _ in range(3)]
        for _ in range(3):
            assert running.acquire(timeout=10)
        closing = pool.submit(restore.close)
        time.sleep(0.05)
        assert not closing.done()
        go.set()
        closing.result(10)
    for result in results:
        np.testing.assert_array_equal(result.result(), noise(32, 32) // 2)
    with pytest.raises(UsageError, match="this Restorer is closed"):
        restore(noise(32, 32))


def test_closing_after_an_interruption_in_the_middle(bundle: Path) -> None:
    """A run that was left without giving its session back, as between two steps of Python."""
    with Restorer(bundle, "onnxruntime") as restore:
        restore._pool.take()
        assert restore(noise(32, 32)).shape == (32, 32, 3)
        restore._pool.take()
    with pytest.raises(UsageError, match="this Restorer is closed"):
        restore(noise(32, 32))


@pytest.fixture
def ruined(tmp_path: Path) -> Path:
    """A bundle whose int8 file computes something else than was verified."""
    folder = make_bundle(tmp_path / "ruined", precisions=("fp32", "int8"))
    other = make_bundle(tmp_path / "other", precisions=("int8",), gain=0.25)
    content = (other / "fused.int8.onnx").read_bytes()
    (folder / "fused.int8.onnx").write_bytes(content)
    manifest = json.loads((folder / "bundle.json").read_text())
    (entry,) = [a for a in manifest["stages"][0]["artifacts"] if a["precision"] == "int8"]
    entry["sha256"], entry["bytes"] = hashlib.sha256(content).hexdigest(), len(content)
    (folder / "bundle.json").write_text(json.dumps(manifest))
    return folder


def test_a_precision_that_this_machine_ruins_is_named(ruined: Path) -> None:
    with (
        pytest.warns(RuntimeWarning, match="onnxruntime in int8 is wrong on this machine: "),
        Restorer(ruined, "onnxruntime", precision="int8") as restore,
    ):
        assert restore.precision == "int8", "asked for: a warning, no more"


def test_auto_passes_over_a_precision_that_this_machine_ruins(ruined: Path) -> None:
    pytest.importorskip("openvino")
    message = "openvino in int8: wrong on this machine: .*; using openvino in fp32"
    with pytest.warns(RuntimeWarning, match=message), Restorer(ruined) as restore:
        assert (restore.backend, restore.precision) == ("openvino", "fp32")
    with pytest.raises(
        UnavailableError,
        match=r"no backend on .* can run .*openvino in int8: wrong .*onnxruntime in int8: wrong",
    ):
        Restorer(ruined, precision="int8")


def test_what_is_as_verified_is_taken_without_a_word(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    path = make_bundle(tmp_path / "b", precisions=("fp32", "int8"))
    with Restorer(path, "onnxruntime", precision="int8"):
        assert not recwarn.list
