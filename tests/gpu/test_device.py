"""Buffers, streams, graphs and errors on a real device, with PyTorch in TensorRT's place.

What it asks of the device, the tests in ``tests/runtime`` ask of a stand-in.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from elir_deploy.errors import UnavailableError
from elir_deploy.runtime.cuda import Device, device_capabilities, open_device
from elir_deploy.runtime.cuda_session import CudaSession, CudaStage
from elir_deploy.runtime.manifest import Shape
from elir_deploy.runtime.tensors import TensorSpec

torch = pytest.importorskip("torch")

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

SIDE = 256
SHAPE = (1, SIDE, SIDE, 3)
BYTES = SIDE * SIDE * 3


class _Address:
    """Memory of the device, in the form that PyTorch makes a tensor of."""

    def __init__(self, address: int) -> None:
        self.__cuda_array_interface__ = {
            "shape": SHAPE,
            "typestr": "|u1",
            "data": (address, False),
            "version": 3,
        }


class XorStage(CudaStage):
    """Flips bits, by a kernel of PyTorch's that allocates nothing."""

    def __init__(self, number: int, bits: int) -> None:
        names = (f"t{number}", f"t{number + 1}")
        self.input, self.output = (TensorSpec(name, "uint8", SHAPE, "NHWC") for name in names)
        self._bits = bits
        self._ends: tuple[Any, ...] = ()

    def bind(self, addresses: Mapping[str, int], stream: int) -> None:
        self._ends = tuple(
            torch.as_tensor(_Address(addresses[end.name]), device="cuda")
            for end in (self.input, self.output)
        )

    def enqueue(self, stream: int) -> None:
        source, sink = self._ends
        with torch.cuda.stream(torch.cuda.ExternalStream(stream)):
            torch.bitwise_xor(source, self._bits, out=sink)

    def uncapturable(self, stream: int) -> str | None:
        return None

    def close(self) -> None:
        self._ends = ()


class CrashingStage(XorStage):
    """Has a kernel find that zero is not true."""

    def bind(self, addresses: Mapping[str, int], stream: int) -> None:
        self._zero = torch.zeros((), device="cuda")
        torch.cuda.synchronize()

    def enqueue(self, stream: int) -> None:
        with torch.cuda.stream(torch.cuda.ExternalStream(stream)):
            torch._assert_async(self._zero)


@pytest.fixture
def device() -> Device:
    return open_device(0, "tensorrt-rtx")


def make(device: Device, **options: Any) -> CudaSession:
    def stages(shape: Shape) -> list[CudaStage]:
        return [XorStage(0, 0x0F), XorStage(1, 0x3C)]

    return CudaSession(device, Shape(1, SIDE, SIDE), stages, **options)


def check_run(session: CudaSession, seed: int) -> None:
    rng = np.random.default_rng(seed)
    session.input[...] = rng.integers(0, 256, SHAPE, np.uint8)
    session.run()
    np.testing.assert_array_equal(session.output, session.input ^ 0x33)


def test_what_the_device_is(device: Device) -> None:
    major, minor = torch.cuda.get_device_capability(0)
    assert device.capability == f"sm{major}{minor}" == device_capabilities()[0]
    assert device.name == torch.cuda.get_device_name(0)
    print(f"{device.name}, {device.capability}, driver {device.driver}")
    with pytest.raises(UnavailableError, match="no CUDA device 99"):
        open_device(99, "x")


def test_copies(device: Device) -> None:
    rng = np.random.default_rng(0)
    with device.current():
        source = device.pinned((BYTES,), "uint8")
        sink = device.pinned((BYTES,), "uint8")
        address, stream = device.allocate(BYTES), device.create_stream()
        event = device.create_event()
        for _ in range(3):
            source[...] = rng.integers(0, 256, BYTES, np.uint8)
            device.copy_in(address, source, stream)
            device.copy_out(sink, address, stream)
            device.record(event, stream)
            device.wait(event)
            np.testing.assert_array_equal(source, sink)
        device.destroy_event(event)
        device.destroy_stream(stream)
        device.free(address)


@pytest.mark.parametrize("sleeping", [False, True])
def test_a_session_is_captured(device: Device, sleeping: bool) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of a capture that fails
        with make(device, sleeping=sleeping) as session:
            for seed in range(10):
                check_run(session, seed)
            assert session._selected.whole.graph is not None


def test_two_sessions_in_threads(device: Device) -> None:
    sessions = [make(device, sleeping=True) for _ in range(2)]
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for seed in range(50):
                check_run(sessions[number], 1000 * number + seed)
        except BaseException as error:  # noqa: BLE001  # or the thread would keep it
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for session in sessions:
        session.close()
    assert failures == []


def test_nothing_is_left_behind(device: Device) -> None:
    make(device).close()
    torch.cuda.empty_cache()
    before, _ = torch.cuda.mem_get_info()
    for _ in range(100):
        with make(device) as session:
            for seed in range(3):
                check_run(session, seed)
    after, _ = torch.cuda.mem_get_info()
    assert before - after < 50 * BYTES, "300 buffers of this size were allocated"


def test_out_of_memory_is_an_error_and_no_more(device: Device) -> None:
    with make(device) as session:
        check_run(session, 0)
        wanted = "cudaMalloc failed with cudaErrorMemoryAllocation"
        with device.current(), pytest.raises(UnavailableError, match=wanted):
            device.allocate(1 << 50)
        for seed in range(3):
            check_run(session, seed)


def test_a_kernel_that_crashes_loses_the_device() -> None:
    """In a process of its own, whose context it takes along."""
    code = (
        "from elir_deploy.errors import UnavailableError\n"
        "from tests.gpu.test_device import CrashingStage, CudaSession, Shape, open_device\n"
        "stages = [CrashingStage(0, 1)]\n"
        "session = CudaSession(open_device(0, 'x'), Shape(1, 256, 256), lambda shape: stages)\n"
        "for _ in range(2):\n"
        "    try:\n"
        "        session.run()\n"
        "    except UnavailableError as error:\n"
        "        print(error)\n"
        "session.close()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    first, second = done.stdout.splitlines()
    assert "cudaErrorAssert" in first, done.stderr
    assert "no longer responds" in first
    assert second.endswith("start a new process")
