"""ONNX Runtime's CUDA provider on the device at hand, where onnxruntime-gpu is there."""

from __future__ import annotations

import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from elir_deploy.errors import UnavailableError
from elir_deploy.pixels import psnr_db
from elir_deploy.runtime import Restorer
from elir_deploy.runtime.backends import BACKENDS
from elir_deploy.runtime.backends.onnxruntime import load_cuda_libraries
from elir_deploy.runtime.bundle import Bundle
from tests.gpu.conftest import SOURCE

BACKEND = "onnxruntime-cuda"
_REASON = BACKENDS[BACKEND].available()

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(_REASON is not None, reason=str(_REASON))]


@pytest.fixture(params=["fp32", "fp16", "int8"])
def precision(request: pytest.FixtureRequest) -> str:
    if request.param not in Bundle.open(SOURCE).manifest.precisions:
        pytest.skip(f"{SOURCE} has no {request.param}")
    return str(request.param)


def test_the_quality_is_what_was_verified(precision: str) -> None:
    bundle = Bundle.open(SOURCE)
    verified = bundle.manifest.verification[precision]
    assert verified.psnr_db is not None
    worst = np.inf
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with Restorer(bundle, BACKEND, precision=precision) as restore:
            for _name, image, expected in bundle.reference_images():
                worst = min(worst, psnr_db(restore.run_pixels(image), expected))
    print(f"{precision}: {worst:.2f} dB, verified with {verified.psnr_db:.2f} dB")
    # Kernels differ by a little; float32 in TF32 would lose tens of decibels.
    assert worst >= max(verified.floor_db, min(verified.psnr_db, 80) - 3)


def test_chosen_by_itself() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of a backend that failed before
        with Restorer(SOURCE) as restore:
            assert restore.backend in (BACKEND, "tensorrt", "tensorrt-rtx")


def test_float32_is_computed_in_float32(tmp_path: Path) -> None:
    """A convolution by itself, against float64; TF32 shows that it would be seen."""
    onnx = pytest.importorskip("onnx")
    torch = pytest.importorskip("torch")
    ort = pytest.importorskip("onnxruntime")
    load_cuda_libraries(ort)
    rng = np.random.default_rng(0)
    image = rng.standard_normal((1, 64, 64, 64)).astype(np.float32)
    weight = rng.standard_normal((64, 64, 3, 3)).astype(np.float32)
    tensor = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])],
        "convolution",
        [tensor("x", onnx.TensorProto.FLOAT, image.shape)],
        [tensor("y", onnx.TensorProto.FLOAT, image.shape)],
        [onnx.numpy_helper.from_array(weight, "w")],
    )
    model = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=8
    )
    exact = torch.nn.functional.conv2d(
        torch.from_numpy(image).double(), torch.from_numpy(weight).double(), padding=1
    ).numpy()

    def error(**options: str) -> float:
        backend: Any = BACKENDS[BACKEND]
        ((name, own),) = backend.providers("fp32", 0, None)
        session = ort.InferenceSession(
            model.SerializeToString(), providers=[(name, own | options)], enable_fallback=0
        )
        assert session.get_providers()[0] == name
        (result,) = session.run(None, {"x": image})
        return float(np.linalg.norm(result - exact) / np.linalg.norm(exact))

    ours, tf32 = error(), error(use_tf32="1")
    print(f"relative error {ours:.1e}, in TF32 {tf32:.1e}")
    assert ours < 5e-6
    if torch.cuda.get_device_capability(0) >= (8, 0):
        assert tf32 > 1e-4


def test_a_run_is_repeated_to_a_level(precision: str) -> None:
    """Some of cuDNN's kernels sum in no fixed order: a value on the edge of a level may change."""
    _name, image, _expected = next(iter(Bundle.open(SOURCE).reference_images()))
    with Restorer(SOURCE, BACKEND, precision=precision) as restore:
        first = restore.run_pixels(image).copy()
        for _ in range(5):
            changed = np.abs(restore.run_pixels(image).astype(int) - first)
            assert changed.max() <= 1
            assert np.count_nonzero(changed) < changed.size / 1000


def test_two_sessions_at_once() -> None:
    """Also, a session runs in another thread than the one that opened it."""
    rng = np.random.default_rng(0)
    side = Bundle.open(SOURCE).manifest.image_size
    images = [rng.integers(0, 256, (side, side, 3), np.uint8) for _ in range(20)]
    restorers = [Restorer(SOURCE, BACKEND, precision="fp16") for _ in range(2)]
    expected = [restorers[0].run_pixels(image).copy() for image in images]
    results: list[Any] = [None, None]

    def work(number: int) -> None:
        results[number] = [restorers[number].run_pixels(image).copy() for image in images]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for restorer in restorers:
        restorer.close()
    for result in results:
        np.testing.assert_array_equal(result, expected)


def test_every_shape_and_batch(tmp_path: Path) -> None:
    """On the device's memory, with noise between the stages."""
    pytest.importorskip("onnx")
    from tests.bundles import make_bundle

    shapes = [
        {"batch": 4, "height": 32, "width": 48},
        {"batch": 2, "height": 60, "width": 100, "padded_height": 64, "padded_width": 104},
    ]
    path = make_bundle(tmp_path / "b", stages="split", stride=8, shapes=shapes, gain=0.5)
    rng = np.random.default_rng(0)
    with (
        Restorer(path, BACKEND, precision="fp32") as restore,
        Restorer(path, "onnxruntime", precision="fp32") as reference,
    ):
        for _ in range(2):
            for shape in restore.bundle.manifest.shapes:
                size = (shape.graph_height, shape.graph_width, 3)
                for batch in range(1, shape.batch + 1):
                    values = rng.integers(0, 256, (batch, *size), np.uint8)
                    difference = restore.run(values).astype(int) - reference.run(values)
                    assert abs(difference).max() <= 1
        image = rng.integers(0, 256, (150, 203, 3), np.uint8)
        assert abs(restore(image).astype(int) - reference(image)).max() <= 1


def test_nothing_is_left_behind() -> None:
    torch = pytest.importorskip("torch")
    image = np.zeros((Bundle.open(SOURCE).manifest.image_size,) * 2 + (3,), np.uint8)

    def cycle() -> None:
        with Restorer(SOURCE, BACKEND, precision="fp16") as restore:
            restore.run_pixels(image)

    for _ in range(2):  # what the driver keeps for later
        cycle()
    before, _ = torch.cuda.mem_get_info()
    for _ in range(5):
        cycle()
    after, _ = torch.cuda.mem_get_info()
    assert before - after < 50 << 20


def test_a_device_that_is_not_there() -> None:
    with pytest.raises(UnavailableError, match="no CUDA device 99"):
        Restorer(SOURCE, BACKEND, precision="fp32", device=99)
    Restorer(SOURCE, BACKEND, precision="fp32").close()  # the others are as good as before
