"""The C++ runtime's pixels are the Python runtime's, on OpenVINO where it is installed."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from elir_deploy.errors import BundleError, UnavailableError
from elir_deploy.runtime import Restorer
from tests.bundles import make_bundle, read_manifest, write_manifest
from tests.emulation import restores_squares
from tests.runtime_cpp.conftest import RUNTIME, Library

BACKEND = "openvino" if importlib.util.find_spec("openvino") else "onnxruntime"


def picture(height: int, width: int) -> NDArray[np.uint8]:
    """A smooth pattern with noise."""
    y, x = np.mgrid[:height, :width]
    waves = 127 + 90 * np.sin(np.stack([y / 9 + x / 31, x / 13, (x + y) / 17], axis=-1))
    noise = np.random.RandomState(0).normal(0, 20, (height, width, 3))
    return np.clip(waves + noise, 0, 255).astype(np.uint8)


def assert_same(
    library: Library, bundle: str | Path, path: Path, image: NDArray[np.uint8], **options
) -> None:
    fits = {"resize": 1, "tile": 2}
    with Restorer(bundle, BACKEND, **options) as python:
        expected = python.restore(image)
    params = {key: fits[value] if key == "fit" else value for key, value in options.items()}
    with library.open(path, backend=BACKEND, **params) as cpp:
        actual = cpp.restore(image)
        again = cpp.restore(image)
    assert np.array_equal(actual, expected)
    assert np.array_equal(again, expected)


@restores_squares
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8"])
@pytest.mark.parametrize("size", [(256, 256), (300, 400)])
def test_the_packaged_bundle(
    library: Library, tiny: Path, precision: str, size: tuple[int, int]
) -> None:
    pytest.importorskip("openvino")
    if precision == "bf16":
        with Restorer("tiny", "openvino", precision="fp32"):
            pass
        from elir_deploy.runtime.backends import backend_named

        reason = backend_named("openvino").unsupported("bf16")
        if reason:
            pytest.skip(reason)
    assert_same(library, "tiny", tiny, picture(*size), precision=precision)


@pytest.mark.parametrize("fit", ["resize", "tile"])
@pytest.mark.parametrize("size", [(100, 37), (64, 64), (20, 200)])
@pytest.mark.parametrize(("upscale", "kernel"), [(1, "none"), (4, "bicubic"), (8, "nearest")])
@pytest.mark.parametrize("io", ["uint8", "float32"])
def test_any_size(
    tmp_path: Path,
    library: Library,
    fit: str,
    size: tuple[int, int],
    upscale: int,
    kernel: str,
    io: str,
) -> None:
    """With simple graphs, to compare the geometry."""
    bundle = make_bundle(
        tmp_path / "b", size=64, io=io, upscale=upscale, kernel=kernel, gain=1.3, bias=-0.1
    )
    assert_same(library, bundle, bundle, picture(*size), fit=fit, precision="fp32")


@pytest.mark.parametrize("strength", [0.0, 0.25, 0.7019, 1.0])
@pytest.mark.parametrize(("upscale", "kernel"), [(1, "none"), (4, "bicubic"), (8, "nearest")])
@pytest.mark.parametrize("io", ["uint8", "float32"])
def test_strength(
    tmp_path: Path, library: Library, strength: float, upscale: int, kernel: str, io: str
) -> None:
    bundle = make_bundle(
        tmp_path / "b", size=64, io=io, upscale=upscale, kernel=kernel, gain=0.5, bias=0.3
    )
    images = [picture(*size) for size in ((64, 64), (13, 20), (100, 37), (8, 8))]
    for fit in ("resize", "tile"):
        with Restorer(bundle, BACKEND, precision="fp32", fit=fit) as python:
            expected = list(python.map(images, strength=strength))
        params = {"backend": BACKEND, "precision": "fp32", "fit": library.binding.FITS[fit]}
        with library.open(bundle, strength=strength, **params) as cpp:
            actual = [*cpp.restore_batch(images), *map(cpp.restore, images)]
        for one, other in zip(actual, [*expected, *expected], strict=True):
            np.testing.assert_array_equal(one, other)
        if strength == 0 and upscale == 1:
            assert all((one == image).all() for one, image in zip(actual, images, strict=False))


SQUARE = {"batch": 3, "height": 64, "width": 64}
WIDE = {"batch": 2, "height": 40, "width": 90, "padded_height": 48, "padded_width": 96}


@pytest.mark.parametrize("io", ["uint8", "float32"])
@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_shapes_batches_and_noise(tmp_path: Path, library: Library, backend: str, io: str) -> None:
    """Single images, padded ones, tiles, and images that are restored together."""
    if backend not in library.loaded.elir_backends().decode().split(", "):
        pytest.skip(f"this libelir was built without {backend}")
    bundle = make_bundle(tmp_path / "b", io=io, stride=8, shapes=[SQUARE, WIDE], gain=0.8)
    sizes = [(64, 64), (64, 64), (60, 33), (64, 64), (40, 90), (33, 77), (211, 170), (40, 300)]
    images = [picture(*size) for size in sizes]
    for options in ({}, {"seed": 2**32 - 1, "sigma_s": 0.11, "tile_overlap": 21}):
        with Restorer(bundle, backend, precision="fp32", **options) as python:
            expected = list(python.map(images))
            alone = [python.restore(image) for image in images]
        with library.open(bundle, backend=backend, precision="fp32", **options) as cpp:
            actual = [*cpp.restore_batch(images), *map(cpp.restore, images)]
        for one, other in zip(actual, [*expected, *alone], strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("stride", [4, 16])
@pytest.mark.parametrize(
    ("backend", "error", "reason"),
    [
        ("onnxruntime", BundleError, "its graphs do not fit its manifest"),
        ("openvino", UnavailableError, "openvino cannot run"),
    ],
)
def test_noise_of_another_stride_is_refused_when_opened(
    tmp_path: Path, library: Library, backend: str, error: type[Exception], reason: str, stride: int
) -> None:
    pytest.importorskip(backend)
    shapes = [SQUARE, WIDE]
    bundle = make_bundle(tmp_path / "b", stride=8, shapes=shapes)
    manifest = read_manifest(bundle)
    manifest["tensors"]["noise"]["stride"] = stride
    write_manifest(bundle, manifest)
    with pytest.raises(error, match=reason):
        Restorer(bundle, backend, precision="fp32")
    if backend in library.loaded.elir_backends().decode().split(", "):
        with pytest.raises(library.binding.ElirError, match=reason):
            library.open(bundle, backend=backend, precision="fp32")


@pytest.mark.parametrize("stages", ["fused", "split"])
def test_noise_of_stages(tmp_path: Path, library: Library, stages: str) -> None:
    bundle = make_bundle(tmp_path / "b", size=64, stages=stages, stride=8)
    assert_same(library, bundle, bundle, picture(130, 70), precision="fp32", fit="tile")
    assert_same(library, bundle, bundle, picture(130, 70), precision="fp32", fit="resize")


def test_split(tmp_path: Path, library: Library) -> None:
    bundle = make_bundle(tmp_path / "b", size=64, stages="split", gain=0.7, bias=0.1)
    assert_same(library, bundle, bundle, picture(90, 80), precision="fp32")


@pytest.mark.slow
@pytest.mark.parametrize("stages", ["fused", "split"])
def test_full_size(
    tmp_path: Path,
    library: Library,
    monkeypatch: pytest.MonkeyPatch,
    stages: Literal["fused", "split"],
) -> None:
    from elir_deploy.checkpoints import load_checkpoint
    from elir_deploy.export import pipeline

    bundle = tmp_path / "b"
    # Slow, and tested elsewhere.
    monkeypatch.setattr(pipeline, "verify_bundle", lambda *_: {})
    options = pipeline.ExportOptions(precisions=("fp32",), stages=stages)
    pipeline.export_bundle(load_checkpoint("random", "bsr"), bundle, options)
    with Restorer(bundle, BACKEND) as python:
        side, upscale = python.bundle.manifest.image_size, python.bundle.manifest.model.upscale
    for height, width in ((side, side), (600, 400)):
        image = picture(height // upscale, width // upscale)
        assert_same(library, bundle, bundle, image, precision="fp32")


@pytest.mark.parametrize(
    ("precision", "width"), [("fp32", 256), pytest.param("int8", 300, marks=restores_squares)]
)
def test_onnxruntime(library: Library, tiny: Path, precision: str, width: int) -> None:
    if "onnxruntime" not in library.loaded.elir_backends().decode().split(", "):
        pytest.skip("this libelir was built without ONNX Runtime")
    image = picture(256, width)
    with Restorer("tiny", "onnxruntime", precision=precision) as python:
        expected = python.restore(image)
    with library.open(tiny, backend="onnxruntime", precision=precision) as cpp:
        assert np.array_equal(cpp.restore(image), expected)


def test_strides(tmp_path: Path, library: Library) -> None:
    bundle = make_bundle(tmp_path / "b", size=64)
    whole = picture(90, 80)
    with library.open(bundle, backend=BACKEND) as cpp:
        part = cpp.restore(whole[:, 5:70])
        assert np.array_equal(part, cpp.restore(np.ascontiguousarray(whole[:, 5:70])))


@pytest.mark.parametrize("mode", ["latency", "throughput"])
def test_batches(tmp_path: Path, library: Library, mode: str) -> None:
    bundle = make_bundle(tmp_path / "b", size=64, gain=1.3, bias=-0.1)
    images = [picture(height, 80 + height) for height in (64, 40, 90, 130, 64, 33, 100)]
    with Restorer(bundle, BACKEND, precision="fp32") as python:
        expected = [python.restore(image) for image in images]
    number = library.binding.MODES[mode]
    with library.open(bundle, backend=BACKEND, precision="fp32", mode=number) as cpp:
        for actual, output in zip(cpp.restore_batch(images), expected, strict=True):
            np.testing.assert_array_equal(actual, output)


@pytest.mark.parametrize("bundle", os.environ.get("ELIR_BUNDLES", "").split(":"))
def test_bundles_of_the_environment(library: Library, bundle: str) -> None:
    """ELIR_BUNDLES: more folders, such as exports of full size, separated by a colon."""
    if not bundle:
        pytest.skip("ELIR_BUNDLES names no bundle")
    with Restorer(bundle, BACKEND) as python:
        info, precision = python.bundle.manifest.model, python.precision
    for height, width in ((info.image_size, info.image_size), (200, 300)):
        image = picture(height // info.upscale, width // info.upscale)
        assert_same(library, bundle, Path(bundle), image, precision=precision)


@restores_squares
def test_the_example_runs(tmp_path: Path, tiny: Path) -> None:
    output = tmp_path / "restored.png"
    source = tiny / "reference" / "chelsea.input.png"
    example = RUNTIME / "examples" / "elir_ctypes.py"
    command = [sys.executable, example, os.environ["ELIR_LIBRARY"], tiny, source, output]
    subprocess.run(command, check=True)
    with Restorer("tiny") as python:  # automatic precision in both
        expected = python.restore(np.array(Image.open(source)))
    assert np.array_equal(np.array(Image.open(output)), expected)
