"""Images that are on the device already: PyTorch's tensors and, where it is installed, CuPy's
arrays. What is asked of the driver here, tests in ``tests/runtime`` ask of a stand-in.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from elir_deploy.errors import ImageError, UsageError
from elir_deploy.runtime import Restorer
from elir_deploy.runtime.backends import BACKENDS
from elir_deploy.runtime.bundle import Bundle
from elir_deploy.runtime.cuda import open_device
from elir_deploy.runtime.device_arrays import borrow, pixels_of
from elir_deploy.runtime.tiling import mirrored
from tests.gpu.conftest import KINDS, SOURCE, copies_of

torch = pytest.importorskip("torch")

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def check_copies(names: list[str]) -> None:
    assert names
    assert not [name for name in names if "HtoD" in name or "DtoH" in name], names


# Without a library that runs bundles --------------------------------------------------------------


def test_a_session_of_pytorch_stages() -> None:
    """Every call of CUDA that device images add, with a session whose stages are PyTorch's."""
    from tests.gpu.test_device import SIDE, make

    device = open_device(0, "x")
    rng = np.random.default_rng(0)
    height, width = SIDE - 7, SIDE - 20  # what is missing is mirrored
    with warnings.catch_warnings(), make(device) as session:
        warnings.simplefilter("error")  # of a capture that fails
        for number in range(5):
            pixels = rng.integers(0, 256, (height, width, 3), np.uint8)
            image = torch.zeros((height, width + 9 * number, 3), dtype=torch.uint8, device="cuda")
            image = image[:, :width]
            result = torch.zeros_like(image)
            stream = torch.cuda.Stream()
            with torch.cuda.stream(stream), device.current():
                torch.cuda._sleep(50_000_000)
                image.copy_(torch.from_numpy(pixels).pin_memory(), non_blocking=True)
                source, sink = (borrow(each, device, session.stream) for each in (image, result))
                ends = pixels_of(source, device), pixels_of(sink, device)
                session.run_images(*ends, None)
            np.testing.assert_array_equal(result.cpu().numpy(), pixels ^ 0x33)
            whole = pixels[mirrored(height, SIDE)[:, None], mirrored(width, SIDE)]
            session_input = session._selected.stages[0]._ends[0]  # type: ignore[attr-defined]
            np.testing.assert_array_equal(session_input[0].cpu().numpy(), whole)
        assert session._selected.stages_alone.graph is not None


def test_where_memory_is() -> None:
    device = open_device(0, "x")
    with device.current():
        on_gpu = torch.zeros(1000, dtype=torch.uint8, device="cuda")
        assert device.memory_at(on_gpu.data_ptr() + 999) == ("device", 0)
        pinned = torch.zeros(1000, dtype=torch.uint8).pin_memory()
        assert device.memory_at(pinned.data_ptr())[0] == "page-locked host"
        assert device.memory_at(np.zeros(1000).ctypes.data)[0] == "host"
        stream = device.create_stream()
        device.wait_for(stream, 1)
        assert not device.is_capturing(stream)
        device.begin_capture(stream)
        assert device.is_capturing(stream)
        device.abandon_capture(stream)
        device.destroy_stream(stream)


# With bundles -------------------------------------------------------------------------------------


@pytest.fixture(params=[*KINDS, "onnxruntime-cuda"])
def restore(
    request: pytest.FixtureRequest, with_engines: Callable[[str], Bundle]
) -> Iterator[Restorer]:
    """On engines, and on ONNX Runtime."""
    if request.param in KINDS:
        bundle = with_engines(request.param)
    else:
        reason = BACKENDS[request.param].available()
        if reason is not None:
            pytest.skip(reason)
        bundle = Bundle.open(SOURCE)
    with Restorer(bundle, request.param, precision="fp16") as restorer:
        yield restorer


def picture(restore: Restorer) -> np.ndarray:
    shape = restore.bundle.manifest.shapes[0]
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (shape.height, shape.width, 3), np.uint8)


def close(actual: Any, expected: np.ndarray) -> bool:
    """Some of cuDNN's kernels sum in no fixed order: a value on the edge of a level may change."""
    difference = np.abs(actual.cpu().numpy().astype(int) - expected)
    return bool(difference.max() <= 1 and np.count_nonzero(difference) < difference.size / 1000)


def test_tensors_of_pytorch(restore: Restorer) -> None:
    pixels = picture(restore)
    expected = restore.run_pixels(pixels)
    on_gpu = torch.from_numpy(pixels).cuda()
    for stream in (torch.cuda.default_stream(), torch.cuda.Stream(), torch.cuda.Stream()):
        torch.cuda.synchronize()
        with torch.cuda.stream(stream):
            torch.cuda._sleep(50_000_000)
            image = on_gpu.clone()
            result = restore.run_pixels(image)
            check_copies(copies_of(functools.partial(restore.run_pixels, image)))
            assert type(result) is type(image)
            assert (result.device, result.dtype) == (image.device, image.dtype)
            assert close(result, expected)


def test_batches(restore: Restorer) -> None:
    pixels = picture(restore)
    batch = torch.from_numpy(np.stack([pixels, pixels[::-1]])).cuda()
    expected = restore.run_pixels(np.stack([pixels, pixels[::-1]]))
    for index, result in enumerate(restore.run_pixels(batch)):
        assert close(result, expected[index])


def test_arrays_of_cupy(restore: Restorer) -> None:
    cupy = pytest.importorskip("cupy")
    pixels = picture(restore)
    expected = restore.run_pixels(pixels)
    for stream in (cupy.cuda.Stream.null, cupy.cuda.Stream(non_blocking=True)):
        with stream:
            result = restore.run_pixels(cupy.asarray(pixels))
            assert isinstance(result, cupy.ndarray)
            assert close(torch.as_tensor(result, device="cuda"), expected)


def test_misuse(restore: Restorer) -> None:
    pixels = picture(restore)
    good = torch.from_numpy(pixels).cuda()
    for wrong in (
        *(good.permute(2, 0, 1), good.float(), good[1:], good.cpu(), good.cpu().pin_memory()),
        good.permute(1, 0, 2),
    ):
        with pytest.raises(ImageError):
            restore.run_pixels(wrong)
    if torch.cuda.device_count() > 1:
        with pytest.raises(ImageError, match="is on CUDA device 1, expected device 0"):
            restore.run_pixels(good.to("cuda:1"))
    restore.run_pixels(good)


def test_a_caller_that_captures(restore: Restorer) -> None:
    image = torch.from_numpy(picture(restore)).cuda()
    restore.run_pixels(image)
    graph = torch.cuda.CUDAGraph()
    # PyTorch's error is about the capture, which our stream has joined.
    with pytest.raises((UsageError, RuntimeError)), torch.cuda.graph(graph):
        restore.run_pixels(image)
    del graph
    restore.run_pixels(image)


def test_nothing_is_left_behind(restore: Restorer) -> None:
    image = torch.from_numpy(picture(restore)).cuda()
    for _ in range(3):
        restore.run_pixels(image)
    torch.cuda.synchronize()
    before, _ = torch.cuda.mem_get_info()
    for _ in range(200):
        restore.run_pixels(image)
    after, _ = torch.cuda.mem_get_info()
    assert before - after < 20 * image.numel(), "200 results were allocated"
