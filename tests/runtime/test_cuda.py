"""The narrow interface to CUDA, on a stand-in for it, by each of the libraries that bring it."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from elir_deploy.errors import MissingDependencyError, UnavailableError
from elir_deploy.runtime import cuda, cuda_device
from elir_deploy.runtime.cuda import Device, device_capabilities, open_device
from tests.runtime.stand_in_cuda import StandInGpu, cudaError_t

LIBRARIES = ("cuda.bindings.runtime", "cuda.cudart", "pycuda.driver")


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> StandInGpu:
    return StandInGpu().install(monkeypatch)


def start(gpu: StandInGpu, patch: pytest.MonkeyPatch, library: str, number: int = 0) -> Device:
    gpu.install(patch, library=library)
    return open_device(number, "tensorrt-rtx")


@pytest.mark.parametrize("library", LIBRARIES)
def test_what_a_device_is(monkeypatch: pytest.MonkeyPatch, library: str, tmp_path: Path) -> None:
    version = tmp_path / "version"
    version.write_text("550.54.14\n")
    monkeypatch.setattr(cuda_device, "_KERNEL_MODULE", version)
    device = start(StandInGpu(((8, 6), (12, 0))), monkeypatch, library, 1)
    assert (device.number, device.name, device.capability) == (1, "Stand-in GPU", "sm120")
    assert device.driver == "550.54.14, CUDA 12.4"
    monkeypatch.setattr(cuda_device, "_KERNEL_MODULE", tmp_path / "none")
    assert open_device(0, "x").driver == "CUDA 12.4"
    for number in (-1, 2):
        with pytest.raises(UnavailableError, match=f"no CUDA device {number}: the driver has 2"):
            open_device(number, "x")


@pytest.mark.parametrize("library", LIBRARIES)
def test_memory_streams_and_copies(monkeypatch: pytest.MonkeyPatch, library: str) -> None:
    gpu = StandInGpu()
    device = start(gpu, monkeypatch, library)
    with device.current():
        source = device.pinned((1, 4, 5, 3), "float32")
        sink = device.pinned((1, 4, 5, 3), "float32")
        assert not source.any()
        assert source.dtype == np.float32
        source[...] = np.arange(60).reshape(source.shape)
        address, stream = device.allocate(240), device.create_stream()
        device.copy_in(address, source, stream)
        device.copy_out(sink, address, stream)
        assert not sink.any(), "a copy is only queued"
        event = device.create_event()
        device.record(event, stream)
        device.wait(event)
        np.testing.assert_array_equal(sink, source)
        device.synchronize(stream)
        device.destroy_event(event)
        device.destroy_stream(stream)
        device.free(address)
        kept = source[0, 1]
        del source, sink
        assert gpu.leaked == {"pinned memory": 1}, "which a view still needs"
        assert kept[0, 0] == 15
        del kept
    assert gpu.leaked == {}
    assert gpu.violations == []


@pytest.mark.parametrize("library", LIBRARIES)
def test_the_device_is_current_inside_and_the_other_one_outside(
    monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    gpu = StandInGpu(((8, 6), (8, 6)))
    device = start(gpu, monkeypatch, library, 1)
    assert gpu.current == 0
    with contextlib.suppress(KeyError), device.current():
        assert gpu.current == 1
        raise KeyError
    assert gpu.current == 0


def test_a_graph(gpu: StandInGpu) -> None:
    device = open_device(0, "x")
    source, sink = device.pinned((8,), "uint8"), device.pinned((8,), "uint8")
    address, stream = device.allocate(8), device.create_stream()
    device.begin_capture(stream)
    device.copy_in(address, source, stream)
    device.copy_out(sink, address, stream)
    graph = device.end_capture(stream)
    device.synchronize(stream)
    assert gpu.copies["host to device"] == 0, "captured is not done"
    for value in (3, 4):
        source[...] = value
        device.launch(graph, stream)
        device.synchronize(stream)
        assert (sink == value).all()
    device.destroy_graph(graph)
    assert not gpu.graphs
    assert not gpu.executables
    assert gpu.violations == []


def test_a_capture_that_fails_or_is_given_up_leaves_the_stream_as_it_was(gpu: StandInGpu) -> None:
    device = open_device(0, "x")
    stream = device.create_stream()
    gpu.refuse_capture = True
    device.begin_capture(stream)
    with pytest.raises(UnavailableError, match="cudaStreamEndCapture failed with cudaErrorStreamC"):
        device.end_capture(stream)
    gpu.refuse_capture = False
    device.begin_capture(stream)
    device.abandon_capture(stream)
    device.abandon_capture(stream)
    assert not gpu.graphs
    device.destroy_graph(_captured(device, stream))
    device.begin_capture(stream)
    gpu.fail_at = len(gpu.calls) + 1
    with pytest.raises(UnavailableError, match="cudaGraphInstantiateWithFlags failed"):
        device.end_capture(stream)
    assert not gpu.graphs
    device.destroy_stream(stream)
    assert gpu.violations == []


def _captured(device: Device, stream: int) -> int:
    device.begin_capture(stream)
    return device.end_capture(stream)


def test_pycuda_has_no_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    device = start(StandInGpu(), monkeypatch, "pycuda.driver")
    assert not device.captures
    for call in (device.begin_capture, device.end_capture, lambda n: device.launch(n, n)):
        with pytest.raises(UnavailableError, match=r"pycuda cannot .*: pip install cuda-python"):
            call(0)
    device.abandon_capture(0)
    device.destroy_graph(0)


@pytest.mark.parametrize("library", LIBRARIES)
def test_an_error_has_cudas_name(monkeypatch: pytest.MonkeyPatch, library: str) -> None:
    gpu = StandInGpu()
    device = start(gpu, monkeypatch, library)
    for call in (
        lambda: device.allocate(1),
        lambda: device.pinned((1,), "uint8"),
        device.create_stream,
        device.create_event,
    ):
        gpu.fail_at = len(gpu.calls)
        with pytest.raises(UnavailableError, match=r"failed.*cudaErrorMemoryAllocation") as caught:
            call()
        assert caught.value.exit_code == 4
    assert gpu.leaked == {}


# What is not there --------------------------------------------------------------------------------


def test_neither_library(monkeypatch: pytest.MonkeyPatch) -> None:
    StandInGpu().install(monkeypatch, library=None)
    with pytest.raises(MissingDependencyError) as caught:
        open_device(0, "tensorrt-rtx")
    assert str(caught.value) == (
        "cuda-python is needed to use a GPU and is not installed: "
        "pip install 'elir-deploy[tensorrt-rtx]'"
    )


@pytest.mark.parametrize(("library", "name"), [(LIBRARIES[0], "cuda-python"), (LIBRARIES[2],) * 2])
def test_a_library_that_does_not_import(
    monkeypatch: pytest.MonkeyPatch, library: str, name: str
) -> None:
    StandInGpu().install(monkeypatch, library=None)
    whole = cuda.importlib.import_module

    def partial(expected: str) -> Any:
        if expected == library:
            raise ImportError("libfoo.so.1")
        return whole(expected)

    monkeypatch.setattr(cuda.importlib, "import_module", partial)
    with pytest.raises(UnavailableError, match=rf"{name[:6]}.* cannot be imported: libfoo"):
        open_device(0, "x")


def test_an_old_driver(gpu: StandInGpu) -> None:
    gpu.cuda.driver_version = 11080
    with pytest.raises(
        UnavailableError,
        match=r"cudaErrorInsufficientDriver .*: the driver supports CUDA 11\.8, and "
        r"cuda-python needs 12\.9: update the driver, or pip install 'cuda-python<11\.9'",
    ):
        open_device(0, "x")
    gpu.cuda.driver_version = 0
    with pytest.raises(UnavailableError, match=r"InsufficientDriver .*: install NVIDIA's driver"):
        open_device(0, "x")


def test_no_device(gpu: StandInGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    none = cudaError_t.cudaErrorNoDevice, None
    monkeypatch.setattr(gpu.cuda, "cudaGetDeviceCount", lambda: none, raising=False)
    with pytest.raises(UnavailableError, match=r"cudaErrorNoDevice .*: check nvidia-smi"):
        open_device(0, "x")

    def absent() -> None:  # as up to 12.6
        raise RuntimeError("Failed to dlopen libcuda.so.1")

    monkeypatch.setattr(gpu.cuda, "cudaGetDeviceCount", absent, raising=False)
    with pytest.raises(UnavailableError, match="does not start: Failed to dlopen libcuda"):
        open_device(0, "x")


def test_capabilities_are_the_drivers(monkeypatch: pytest.MonkeyPatch) -> None:
    class Driver:
        capabilities = ((7, 5), (12, 0))
        status = 0

        def cuInit(self, flags: int) -> int:  # noqa: N802
            return self.status

        def cuDeviceGetCount(self, count: Any) -> int:  # noqa: N802
            count._obj.value = len(self.capabilities)
            return 0

        def cuDeviceGet(self, device: Any, number: int) -> int:  # noqa: N802
            device._obj.value = number
            return 0

        def cuDeviceGetAttribute(self, value: Any, attribute: int, device: Any) -> int:  # noqa: N802
            value._obj.value = self.capabilities[device.value][{75: 0, 76: 1}[attribute]]
            return 0

    driver = Driver()
    monkeypatch.setattr(cuda.ctypes, "CDLL", lambda name: driver)
    assert device_capabilities() == ("sm75", "sm120")
    driver.status = 100
    assert device_capabilities() == ()
    driver.status = 0
    monkeypatch.setattr(driver, "cuDeviceGet", lambda device, number: 1, raising=False)
    assert device_capabilities() == ()

    def absent(name: str) -> None:
        raise OSError

    monkeypatch.setattr(cuda.ctypes, "CDLL", absent)
    assert device_capabilities() == ()


def test_the_stand_ins_are_what_is_imported(gpu: StandInGpu) -> None:
    assert sys.modules["cuda.bindings.runtime"] is gpu.cuda
