"""A GPU to test against where there is none: it records every call and can let any of them fail.

:class:`StandInGpu` is a small model of CUDA as sessions use it. Work that is queued is done when
somebody waits for it, and not before, as on a GPU that is busy; memory of the device is no memory
of the host; streams can be captured. What a real GPU would not forgive (memory freed under a
running copy, a call for another device's stream, a wait inside a capture) is noted in
``violations``.

Three libraries stand on it: ``gpu.cuda``, with the functions of ``cuda.bindings.runtime``;
``gpu.pycuda``; and ``gpu.tensorrt(kind)``. ``test_stand_ins.py`` holds their signatures against
those of the real ones.
"""

# CUDA's own names.
# ruff: noqa: N801, N802, N803, N815

from __future__ import annotations

import ctypes
import enum
import functools
import itertools
import json
import math
import sys
import threading
import types
import weakref
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import pytest

from elir_deploy.runtime.backends import tensorrt as backend

VERSIONS = {"tensorrt": "10.13.3.9", "tensorrt-rtx": "1.7.1.116"}
_NUMBERS = itertools.count()


class cudaError_t(enum.IntEnum):
    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorMemoryAllocation = 2
    cudaErrorInsufficientDriver = 35
    cudaErrorNoDevice = 100
    cudaErrorInvalidDevice = 101
    cudaErrorInvalidResourceHandle = 400
    cudaErrorIllegalState = 401
    cudaErrorIllegalAddress = 700
    cudaErrorStreamCaptureUnsupported = 900
    cudaErrorStreamCaptureInvalidated = 901


class cudaMemcpyKind(enum.IntEnum):
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2
    cudaMemcpyDeviceToDevice = 3


class cudaMemoryType(enum.IntEnum):
    cudaMemoryTypeUnregistered = 0
    cudaMemoryTypeHost = 1
    cudaMemoryTypeDevice = 2
    cudaMemoryTypeManaged = 3


class cudaStreamCaptureStatus(enum.IntEnum):
    cudaStreamCaptureStatusNone = 0
    cudaStreamCaptureStatusActive = 1


class cudaStreamCaptureMode(enum.IntEnum):
    cudaStreamCaptureModeGlobal = 0
    cudaStreamCaptureModeThreadLocal = 1


class Handle:
    """As cuda-python hands them out: not an integer, but int() takes it."""

    def __init__(self, value: int) -> None:
        self._value = value

    def __int__(self) -> int:
        return self._value


@dataclass
class Work:
    """Something queued: what it is, the memory it touches, and what it does."""

    name: str
    touches: tuple[int, ...]
    action: Callable[[], None]


@dataclass
class Stream:
    device: int
    pending: list[Work] = field(default_factory=list)
    capture: list[Work] | None = None
    capturing_thread: int = 0
    invalidated: bool = False


class StandInGpu:
    """One or more devices.

    Attributes:
        calls: names of all functions called, in order; those of TensorRT begin with ``trt.``.
        fail_at: index into ``calls`` of the one to fail.
        failed: the name of the one that did.
        sticky: whether every CUDA call fails after that one, as where a kernel crashed.
        violations: what a real GPU would not forgive.
    """

    def __init__(self, capabilities: tuple[tuple[int, int], ...] = ((8, 6),)) -> None:
        self.capabilities = capabilities
        self.calls: list[str] = []
        self.fail_at: int | None = None
        self.failed: str | None = None
        self.sticky = False
        self.dead: cudaError_t | None = None
        self.violations: list[str] = []
        self.device_memory: dict[int, tuple[int, Any]] = {}
        self.pinned: dict[int, Any] = {}
        self.streams: dict[int, Stream] = {}
        self.events: dict[int, tuple[int, int | None]] = {}
        self.graphs: dict[int, list[Work]] = {}
        self.executables: dict[int, list[Work]] = {}
        self.objects: dict[int, str] = {}  # of TensorRT, that hold memory
        self.copies: Counter[str] = Counter()  # that were done, by direction
        self.refuse_capture = False
        self._next = 0x7000_0000_0000
        self._lock = threading.RLock()
        self._threads = threading.local()
        self.cuda = _CudaRuntime(self)

    # What tests ask ---------------------------------------------------------------------------

    @property
    def leaked(self) -> dict[str, int]:
        """What is still held, by kind."""
        kinds = {
            "device memory": self.device_memory,
            "pinned memory": self.pinned,
            "streams": self.streams,
            "events": self.events,
            "graphs": self.graphs,
            "executables": self.executables,
            "objects": self.objects,
        }
        return {kind: len(held) for kind, held in kinds.items() if held}

    def count(self, name: str) -> int:
        return self.calls.count(name)

    # What the libraries use -------------------------------------------------------------------

    @property
    def current(self) -> int:
        return getattr(self._threads, "device", 0)

    @current.setter
    def current(self, device: int) -> None:
        self._threads.device = device

    def address(self, nbytes: int = 256) -> int:
        with self._lock:
            address = self._next
            self._next += -(-nbytes // 256) * 256
            return address

    def enter(self, name: str) -> bool:
        """Record a call; whether it is to fail."""
        with self._lock:
            self.calls.append(name)
            if self.fail_at == len(self.calls) - 1:
                self.failed = name
                if self.sticky:
                    self.dead = cudaError_t.cudaErrorIllegalAddress
                return True
        return False

    def violate(self, text: str) -> None:
        self.violations.append(text)

    def check_device(self, what: str, device: int) -> None:
        if device != self.current:
            self.violate(f"{what} of device {device} used while {self.current} is current")

    def queue(self, stream: int, work: Work) -> None:
        found = self.streams[stream]
        self.check_device(f"stream ({work.name})", found.device)
        if found.capture is not None:
            found.capture.append(work)
        else:
            found.pending.append(work)

    def finish(self, stream: int) -> None:
        with self._lock:
            pending, self.streams[stream].pending = self.streams[stream].pending, []
            for work in pending:
                work.action()

    def capturing(self) -> bool:
        """Whether this thread is: calls that wait or allocate then end the capture."""
        with self._lock:
            mine = [
                stream
                for stream in self.streams.values()
                if stream.capture is not None and stream.capturing_thread == threading.get_ident()
            ]
            for stream in mine:
                stream.invalidated = True
            return bool(mine)

    def check_idle(self, what: str, address: int) -> None:
        queued = {"queued": [stream.pending for stream in self.streams.values()]}
        for where, lists in (queued | {"in a graph": list(self.executables.values())}).items():
            for work in (work for listed in lists for work in listed if address in work.touches):
                self.violate(f"{what} given back while {work.name} is {where}")

    def allocation(self, address: int) -> tuple[int, int, Any] | None:
        """Where the allocation of the device begins that an address is in, its device and bytes."""
        for begin, (device, memory) in self.device_memory.items():
            if begin <= address < begin + len(memory):
                return begin, device, memory
        return None

    def device_view(self, address: int, nbytes: int) -> Any:
        """Bytes within an allocation of the device."""
        found = self.allocation(address)
        if found is None or address + nbytes > found[0] + len(found[2]):
            self.violate(f"the device reads or writes {address:#x}, which is not allocated")
            return memoryview(bytearray(nbytes))
        return memoryview(found[2])[address - found[0] :][:nbytes]

    def device_array(self, address: int, nbytes: int) -> Any:
        held = self.device_memory.get(address)
        if held is None:
            self.violate(f"the device reads or writes {address:#x}, which is not allocated")
            return bytearray(nbytes)
        return held[1]

    def host_bytes(self, address: int, nbytes: int) -> Any:
        held = self.pinned.get(address)
        if held is None:
            self.violate(f"a copy from or to {address:#x}, which is not pinned")
            return (ctypes.c_uint8 * nbytes)()
        return held

    def install(
        self,
        patch: pytest.MonkeyPatch,
        *kinds: str,
        library: str | None = "cuda.bindings.runtime",
        version: str | None = None,
    ) -> StandInGpu:
        """Let ``import`` find the stand-ins of these libraries, and of ``library``, and no others.

        Args:
            kinds: ``tensorrt``, ``tensorrt-rtx`` or both.
            library: name that the driver is imported under; None: there is none.
            version: of the libraries called ``kinds``; None: the one in ``VERSIONS``.
        """
        found = {"pycuda.driver": self.pycuda, "cuda.cudart": self.cuda}
        found["cuda.bindings.runtime"] = self.cuda
        for name, module in found.items():
            patch.setitem(sys.modules, name, module if name == library else None)
        names = {"tensorrt": "tensorrt", "tensorrt_rtx": "tensorrt-rtx"}
        patch.setitem(sys.modules, "tensorrt_rtx_bindings", None)
        for name, kind in names.items():
            module = self.tensorrt(kind, version or VERSIONS[kind]) if kind in kinds else None
            patch.setitem(sys.modules, name, module)
        capabilities = tuple(f"sm{major}{minor}" for major, minor in self.capabilities)
        patch.setattr(backend, "missing_cuda_device", lambda: None)
        patch.setattr(backend, "device_capabilities", lambda: capabilities)
        return self

    def tensorrt(self, kind: str = "tensorrt-rtx", version: str = VERSIONS["tensorrt-rtx"]) -> Any:
        """The module of one of the two libraries."""
        return _tensorrt(self, kind, version)

    @property
    def pycuda(self) -> Any:
        return _pycuda(self)


# cuda-python --------------------------------------------------------------------------------------


class _CudaRuntime:
    """The functions of ``cuda.bindings.runtime`` that are used, with their parameters."""

    cudaError_t = cudaError_t
    cudaMemcpyKind = cudaMemcpyKind
    cudaMemoryType = cudaMemoryType
    cudaStreamCaptureStatus = cudaStreamCaptureStatus
    cudaStreamCaptureMode = cudaStreamCaptureMode
    cudaStreamNonBlocking = 1
    cudaEventBlockingSync = 1
    cudaEventDisableTiming = 2
    cudaHostAllocPortable = 1

    def __init__(self, gpu: StandInGpu) -> None:
        self._gpu = gpu
        self.driver_version = 12040
        self.runtime_version = 12090

    def _error(self, name: str, *, in_capture: bool = True) -> cudaError_t:
        """What the call returns: an error where one is due."""
        gpu = self._gpu
        failing = gpu.enter(name)
        if gpu.dead is not None:
            return gpu.dead
        if failing:
            return cudaError_t.cudaErrorMemoryAllocation
        if not in_capture and gpu.capturing():
            return cudaError_t.cudaErrorStreamCaptureUnsupported
        return cudaError_t.cudaSuccess

    def cudaGetErrorName(self, error):
        return cudaError_t.cudaSuccess, error.name.encode()

    def cudaGetErrorString(self, error):
        return cudaError_t.cudaSuccess, b"words for it"

    def cudaGetLastError(self):
        self._gpu.calls.append("cudaGetLastError")
        return (cudaError_t.cudaSuccess,)

    def cudaDriverGetVersion(self):
        return cudaError_t.cudaSuccess, self.driver_version

    def cudaRuntimeGetVersion(self):
        return cudaError_t.cudaSuccess, self.runtime_version

    def cudaGetDeviceCount(self):
        if self.driver_version // 1000 < self.runtime_version // 1000:
            return cudaError_t.cudaErrorInsufficientDriver, None
        error = self._error("cudaGetDeviceCount")
        return error, None if error else len(self._gpu.capabilities)

    def cudaGetDeviceProperties(self, device):
        error = self._error("cudaGetDeviceProperties")
        major, minor = self._gpu.capabilities[device]
        properties = types.SimpleNamespace(name=b"Stand-in GPU", major=major, minor=minor)
        return error, None if error else properties

    def cudaGetDevice(self):
        # This one needs no device, and answers when there is none left.
        failing = self._gpu.enter("cudaGetDevice")
        error = cudaError_t.cudaErrorMemoryAllocation if failing else cudaError_t.cudaSuccess
        return error, None if error else self._gpu.current

    def cudaSetDevice(self, device):
        error = self._error("cudaSetDevice")
        if not error:
            self._gpu.current = device
        return (error,)

    def cudaMalloc(self, size):
        gpu = self._gpu
        error = self._error("cudaMalloc", in_capture=False)
        if error:
            return error, None
        address = gpu.address(size)
        gpu.device_memory[address] = (gpu.current, bytearray(size))
        return error, address

    def cudaFree(self, devPtr):
        gpu = self._gpu
        error = self._error("cudaFree", in_capture=False)
        if error:
            return (error,)
        if devPtr not in gpu.device_memory:
            gpu.violate("cudaFree of what is not allocated")
            return (cudaError_t.cudaErrorInvalidValue,)
        gpu.check_idle("device memory", devPtr)
        gpu.check_device("memory", gpu.device_memory.pop(devPtr)[0])
        return (error,)

    def cudaHostAlloc(self, size, flags):
        gpu = self._gpu
        error = self._error("cudaHostAlloc", in_capture=False)
        if error:
            return error, None
        memory = (ctypes.c_uint8 * size)(*[0xA5] * size)  # it is not zeroed
        address = ctypes.addressof(memory)
        gpu.pinned[address] = memory
        return error, address

    def cudaFreeHost(self, ptr):
        gpu = self._gpu
        error = self._error("cudaFreeHost", in_capture=False)
        if error:
            return (error,)
        gpu.check_idle("pinned memory", ptr)
        if gpu.pinned.pop(ptr, None) is None:
            gpu.violate("cudaFreeHost of what is not allocated")
        return (error,)

    def cudaMemcpyAsync(self, dst, src, count, kind, stream):
        gpu = self._gpu
        error = self._error("cudaMemcpyAsync")
        if error:
            return (error,)

        if kind == cudaMemcpyKind.cudaMemcpyHostToDevice:

            def copy() -> None:
                gpu.copies["host to device"] += 1
                gpu.device_array(dst, count)[:count] = bytes(gpu.host_bytes(src, count))[:count]
        else:

            def copy() -> None:
                gpu.copies["device to host"] += 1
                host = gpu.host_bytes(dst, count)
                host[:count] = list(gpu.device_array(src, count)[:count])

        gpu.queue(int(stream), Work(kind.name, (dst, src), copy))
        return (error,)

    def cudaMemcpy2DAsync(self, dst, dpitch, src, spitch, width, height, kind, stream):
        gpu = self._gpu
        error = self._error("cudaMemcpy2DAsync")
        if error:
            return (error,)
        if min(dpitch, spitch) < width:
            return (cudaError_t.cudaErrorInvalidValue,)
        if kind != cudaMemcpyKind.cudaMemcpyDeviceToDevice:
            gpu.violate("rows that are not copied within the device")

        def copy() -> None:
            gpu.copies["within the device"] += 1
            for row in range(height):
                source = gpu.device_view(src + row * spitch, width)
                gpu.device_view(dst + row * dpitch, width)[:] = bytes(source)

        begins = [found[0] for found in map(gpu.allocation, (dst, src)) if found is not None]
        gpu.queue(int(stream), Work(kind.name, tuple(begins), copy))
        return (error,)

    def cudaPointerGetAttributes(self, ptr):
        gpu = self._gpu
        error = self._error("cudaPointerGetAttributes")
        if error:
            return error, None
        found = gpu.allocation(ptr)
        pinned = any(begin <= ptr < begin + len(held) for begin, held in gpu.pinned.items())
        kind = cudaMemoryType.cudaMemoryTypeHost if pinned else cudaMemoryType(2 * bool(found))
        return error, types.SimpleNamespace(type=kind, device=found[1] if found else -1)

    def cudaStreamCreateWithFlags(self, flags):
        gpu = self._gpu
        error = self._error("cudaStreamCreateWithFlags", in_capture=False)
        if error:
            return error, None
        handle = gpu.address()
        gpu.streams[handle] = Stream(gpu.current)
        if flags != self.cudaStreamNonBlocking:
            gpu.violate("a stream that waits for the default stream")
        return error, Handle(handle)

    def cudaStreamDestroy(self, stream):
        gpu = self._gpu
        error = self._error("cudaStreamDestroy")
        if error:
            return (error,)
        found = gpu.streams.pop(int(stream))
        if found.pending or found.capture is not None:
            gpu.violate("a stream destroyed with work in it")
        return (error,)

    def cudaStreamSynchronize(self, stream):
        error = self._error("cudaStreamSynchronize", in_capture=False)
        if not error:
            self._gpu.finish(int(stream))
        return (error,)

    def cudaEventCreateWithFlags(self, flags):
        gpu = self._gpu
        error = self._error("cudaEventCreateWithFlags", in_capture=False)
        if error:
            return error, None
        handle = gpu.address()
        gpu.events[handle] = (gpu.current, None)
        if not flags & self.cudaEventBlockingSync:
            gpu.violate("an event that is waited for without sleep")
        return error, Handle(handle)

    def cudaEventDestroy(self, event):
        error = self._error("cudaEventDestroy")
        if not error:
            del self._gpu.events[int(event)]
        return (error,)

    def cudaEventRecord(self, event, stream):
        gpu = self._gpu
        error = self._error("cudaEventRecord")
        if not error:
            gpu.events[int(event)] = (gpu.events[int(event)][0], int(stream))
        return (error,)

    def cudaStreamWaitEvent(self, stream, event, flags):
        gpu = self._gpu
        error = self._error("cudaStreamWaitEvent")
        if not error:
            _, other = gpu.events[int(event)]
            gpu.queue(int(stream), Work("wait", (), functools.partial(gpu.finish, other)))
            if gpu.streams[int(other)].capture is not None:  # it joins the capture
                gpu.streams[int(stream)].capture = []
        return (error,)

    def cudaStreamIsCapturing(self, stream):
        error = self._error("cudaStreamIsCapturing")
        capturing = self._gpu.streams[int(stream)].capture is not None
        return error, None if error else cudaStreamCaptureStatus(capturing)

    def cudaEventSynchronize(self, event):
        gpu = self._gpu
        error = self._error("cudaEventSynchronize", in_capture=False)
        if not error:
            stream = gpu.events[int(event)][1]
            if stream is None:
                gpu.violate("an event waited for that nobody recorded")
            else:
                gpu.finish(stream)
        return (error,)

    def cudaStreamBeginCapture(self, stream, mode):
        gpu = self._gpu
        error = self._error("cudaStreamBeginCapture")
        if error:
            return (error,)
        found = gpu.streams[int(stream)]
        if found.capture is not None:
            gpu.violate("a capture inside a capture")
            return (cudaError_t.cudaErrorIllegalState,)
        if mode != cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal:
            gpu.violate("a capture that other threads disturb")
        found.capture, found.capturing_thread = [], threading.get_ident()
        found.invalidated = gpu.refuse_capture
        return (error,)

    def cudaStreamEndCapture(self, stream):
        gpu = self._gpu
        found = gpu.streams[int(stream)]
        work, found.capture = found.capture, None
        error = self._error("cudaStreamEndCapture")
        if error:
            return error, None
        if work is None:
            return cudaError_t.cudaErrorIllegalState, None
        if found.invalidated:
            return cudaError_t.cudaErrorStreamCaptureInvalidated, None
        handle = gpu.address()
        gpu.graphs[handle] = work
        return error, Handle(handle)

    def cudaGraphInstantiateWithFlags(self, graph, flags):
        gpu = self._gpu
        error = self._error("cudaGraphInstantiateWithFlags")
        if error:
            return error, None
        handle = gpu.address()
        gpu.executables[handle] = gpu.graphs[int(graph)]
        return error, Handle(handle)

    def cudaGraphDestroy(self, graph):
        error = self._error("cudaGraphDestroy")
        if not error:
            del self._gpu.graphs[int(graph)]
        return (error,)

    def cudaGraphLaunch(self, graphExec, stream):
        gpu = self._gpu
        error = self._error("cudaGraphLaunch")
        if not error:
            for work in gpu.executables[int(graphExec)]:
                gpu.queue(int(stream), work)
        return (error,)

    def cudaGraphExecDestroy(self, graphExec):
        gpu = self._gpu
        error = self._error("cudaGraphExecDestroy")
        if error:
            return (error,)
        work = gpu.executables.pop(int(graphExec))
        if any(item in stream.pending for stream in gpu.streams.values() for item in work):
            gpu.violate("a graph destroyed while it runs")
        return (error,)


# pycuda -------------------------------------------------------------------------------------------


def _pycuda(gpu: StandInGpu) -> Any:
    """``pycuda.driver``: objects that give their memory back when they go."""
    cuda = gpu.cuda

    class Error(Exception):
        pass

    def checked(result: tuple[Any, ...]) -> Any:
        if result[0]:
            raise Error(f"call failed: {result[0].name}")
        return result[1] if len(result) > 1 else None

    class Owner:
        def __init__(self, handle: Any, release: Callable[[int], Any]) -> None:
            self.handle = int(handle)
            self._finalizer = weakref.finalize(self, release, int(handle))

    class DeviceAllocation(Owner):
        def __init__(self, nbytes: int) -> None:
            super().__init__(checked(cuda.cudaMalloc(nbytes)), cuda.cudaFree)

        def __int__(self) -> int:
            return self.handle

        def free(self) -> None:
            self._finalizer.detach()
            checked(cuda.cudaFree(self.handle))

    class Stream(Owner):
        def __init__(self, flags: int = 0) -> None:
            super().__init__(checked(cuda.cudaStreamCreateWithFlags(flags)), cuda.cudaStreamDestroy)

        def synchronize(self) -> None:
            checked(cuda.cudaStreamSynchronize(self.handle))

    class Event(Owner):
        def __init__(self, flags: int = 0) -> None:
            super().__init__(checked(cuda.cudaEventCreateWithFlags(flags)), cuda.cudaEventDestroy)

        def record(self, stream: Stream | None = None) -> Event:
            assert stream is not None
            checked(cuda.cudaEventRecord(self.handle, stream.handle))
            return self

        def synchronize(self) -> Event:
            checked(cuda.cudaEventSynchronize(self.handle))
            return self

    class Pinned:
        def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
            address = checked(cuda.cudaHostAlloc(math.prod(shape) * dtype.itemsize, 0))
            self.__array_interface__ = {
                "shape": shape,
                "typestr": dtype.str,
                "data": (address, False),
                "version": 3,
            }
            weakref.finalize(self, cuda.cudaFreeHost, address)

    def pagelocked_empty(
        shape: tuple[int, ...], dtype: np.dtype[Any], order: str = "C", mem_flags: int = 0
    ) -> Any:
        return np.asarray(Pinned(shape, dtype))

    def memcpy_htod_async(dest: int, src: Any, stream: Stream | None = None) -> None:
        assert stream is not None
        kind = cudaMemcpyKind.cudaMemcpyHostToDevice
        checked(cuda.cudaMemcpyAsync(dest, src.ctypes.data, src.nbytes, kind, stream.handle))

    def memcpy_dtoh_async(dest: Any, src: int, stream: Stream | None = None) -> None:
        assert stream is not None
        kind = cudaMemcpyKind.cudaMemcpyDeviceToHost
        checked(cuda.cudaMemcpyAsync(dest.ctypes.data, src, dest.nbytes, kind, stream.handle))

    contexts: list[int] = []

    class Context:
        def __init__(self, device: int) -> None:
            self.device = device

        def push(self) -> None:
            contexts.append(gpu.current)
            gpu.current = self.device

        @staticmethod
        def pop() -> None:
            gpu.current = contexts.pop()

    class Device:
        def __init__(self, number: int) -> None:
            self._number = number

        @staticmethod
        def count() -> int:
            return len(gpu.capabilities)

        def name(self) -> str:
            return "Stand-in GPU"

        def compute_capability(self) -> tuple[int, int]:
            return gpu.capabilities[self._number]

        def retain_primary_context(self) -> Context:
            return Context(self._number)

    return types.SimpleNamespace(
        Error=Error,
        init=lambda flags=0: None,
        get_driver_version=lambda: cuda.driver_version,
        Device=Device,
        Context=Context,
        Stream=Stream,
        Event=Event,
        event_flags=types.SimpleNamespace(BLOCKING_SYNC=1, DISABLE_TIMING=2),
        mem_alloc=DeviceAllocation,
        pagelocked_empty=pagelocked_empty,
        memcpy_htod_async=memcpy_htod_async,
        memcpy_dtoh_async=memcpy_dtoh_async,
    )


# TensorRT -----------------------------------------------------------------------------------------


class DataType(enum.Enum):
    FLOAT = 0
    HALF = 1
    UINT8 = 5


class TensorIOMode(enum.Enum):
    NONE = 0
    INPUT = 1
    OUTPUT = 2


class TensorFormat(enum.Enum):
    LINEAR = 0
    CHW32 = 5


class TensorLocation(enum.Enum):
    DEVICE = 0
    HOST = 1


class EngineValidity(enum.IntEnum):
    VALID = 0
    SUBOPTIMAL = 1
    INVALID = 2


class EngineInvalidityDiagnostics(enum.IntEnum):
    VERSION_MISMATCH = 1
    UNSUPPORTED_CC = 2
    OLD_CUDA_DRIVER = 4
    OLD_CUDA_RUNTIME = 8
    INSUFFICIENT_GPU_MEMORY = 16
    MALFORMED_ENGINE = 32
    CUDA_ERROR = 64


class CudaGraphStrategy(enum.Enum):
    DISABLED = 0
    WHOLE_GRAPH_CAPTURE = 1


class Dims:
    """Like TensorRT's: a length and items, and no more."""

    def __init__(self, shape):
        self._shape = shape

    def __len__(self):
        return len(self._shape)

    def __getitem__(self, index):
        return self._shape[index]


def engine_bytes(
    *ends: dict[str, Any],
    gain: float = 1.0,
    bias: float = 0.0,
    profiles: list[dict[str, list[list[int]]]] | None = None,
) -> bytes:
    """An engine for the stand-in, which computes ``gain * x + bias`` of 8-bit or float values.

    ``ends`` are input, perhaps noise, and output. The first value of an image's noise is added to
    all of the image. ``profiles`` have the smallest, best and largest shape of each input.
    """
    made = {"stand-in engine": 1, "ends": ends, "gain": gain, "bias": bias, "profiles": profiles}
    return json.dumps(made).encode()


def detector_engine(graph: bytes, *sizes: tuple[int, int], **more: Any) -> bytes:
    """An engine that computes what ONNX Runtime computes of ``graph``, a detector's.

    Args:
        graph: of one input.
        sizes: heights and widths of the profiles.
        more: replaces entries.
    """
    model = onnx.load_from_string(graph)

    def end(value: Any) -> dict[str, Any]:
        sides = [side.dim_value or -1 for side in value.type.tensor_type.shape.dim]
        return {"name": value.name, "dtype": "float32", "shape": sides}

    ends = [*map(end, model.graph.input), *map(end, model.graph.output)]
    profiles = [{ends[0]["name"]: [[1, 3, *size]] * 3} for size in sizes]
    made = {"stand-in engine": 1, "ends": ends, "profiles": profiles, "graph": graph.hex()}
    return json.dumps(made | more).encode()


def _run_graph(graph: str, inputs: dict[str, Any]) -> dict[str, Any]:
    """On ONNX Runtime, of a graph in hexadecimal."""
    session = _graph_session(graph)
    names = [node.name for node in session.get_outputs()]
    floats = {name: value.astype(np.float32) for name, value in inputs.items()}
    return dict(zip(names, session.run(names, floats), strict=True))


@functools.lru_cache(2)
def _graph_session(graph: str) -> Any:
    ort = pytest.importorskip("onnxruntime")
    return ort.InferenceSession(bytes.fromhex(graph), providers=["CPUExecutionProvider"])


def _tensorrt(gpu: StandInGpu, kind: str, version: str) -> Any:
    rtx = kind == "tensorrt-rtx"
    loggers: list[Any] = []

    class ILogger:
        INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

        def __init__(self) -> None:
            pass

        def log(self, severity, msg):
            raise NotImplementedError

    class Owner:
        """Something that holds memory of the device until it goes."""

        def __init__(self, what: str) -> None:
            gpu.check_device(what, gpu.current)
            gpu.objects[id(self)] = what
            weakref.finalize(self, gone, what, id(self))

    def gone(what: str, number: int) -> None:
        gpu.check_idle(what, number)
        gpu.objects.pop(number)

    class Runtime:
        def __init__(self, logger):
            if gpu.enter("trt.Runtime"):
                raise TypeError("pybind11::init(): factory function returned nullptr")
            loggers.append(logger)
            self._logger = loggers[0]  # the real one, too, keeps to the first for much it says
            self.engine_host_code_allowed = False

        def get_engine_validity(self, buffer):
            if gpu.enter("trt.get_engine_validity"):
                return EngineValidity.INVALID, 64
            if not buffer[:].startswith(b'{"stand-in engine"'):
                return EngineValidity.INVALID, 32
            return EngineValidity.VALID, 0

        def deserialize_cuda_engine(self, serialized_engine):
            if gpu.enter("trt.deserialize_cuda_engine"):
                self._logger.log(ILogger.ERROR, "[a.cpp::f::1] Error Code 1: Cuda Runtime (oom)")
                return None
            try:
                made = json.loads(bytes(serialized_engine[:]))
            except ValueError:
                self._logger.log(ILogger.INFO, "Loaded engine size: 0 MiB")
                self._logger.log(
                    ILogger.ERROR, "Error Code 1: Serialization (magicTag failed. In f at /a.cpp:9)"
                )
                return None
            if made.get("host code") and not self.engine_host_code_allowed:
                self._logger.log(ILogger.ERROR, "host code is not allowed")
                return None
            return ICudaEngine(made, self)

    class ICudaEngine(Owner):
        def __init__(self, made, runtime) -> None:
            super().__init__("engine")
            self._made = made
            self._runtime = runtime
            self.num_io_tensors = len(made["ends"])
            self.num_optimization_profiles = len(made.get("profiles") or [0])

        def get_tensor_name(self, index):
            return self._made["ends"][index]["name"]

        def _end(self, name):
            (found,) = [end for end in self._made["ends"] if end["name"] == name]
            return found

        def get_tensor_mode(self, name):
            names = [end["name"] for end in self._made["ends"]]
            outputs = names[1:] if "graph" in self._made else names[-1:]
            return TensorIOMode.OUTPUT if name in outputs else TensorIOMode.INPUT

        def get_tensor_profile_shape(self, name, profile_index):
            return [Dims(shape) for shape in self._made["profiles"][profile_index][name]]

        def get_tensor_dtype(self, name):
            return {"uint8": DataType.UINT8, "float32": DataType.FLOAT, "float16": DataType.HALF}[
                self._end(name)["dtype"]
            ]

        def get_tensor_shape(self, name):
            return Dims(self._end(name)["shape"])

        def get_tensor_format(self, name):
            return TensorFormat[self._end(name).get("format", "LINEAR")]

        def get_tensor_location(self, name):
            return TensorLocation[self._end(name).get("location", "DEVICE")]

        def create_runtime_config(self):
            return None if gpu.enter("trt.create_runtime_config") else IRuntimeConfig()

        def create_execution_context(self, runtime_config=None):
            if gpu.enter("trt.create_execution_context"):
                return None
            return IExecutionContext(self, runtime_config)

    class IExecutionContext(Owner):
        def __init__(self, engine, config) -> None:
            super().__init__("context")
            self._engine = engine
            self._config = config
            self._addresses: dict[str, int] = {}
            # TensorRT 8.6 gives one to the first context alone.
            self._profile = None if engine._made.get("profiles") else 0
            self._shapes: dict[str, tuple[int, ...]] = {}

        def set_optimization_profile_async(self, profile_index, stream_handle):
            if gpu.enter("trt.set_optimization_profile_async"):
                return False
            self._profile, self._shapes = profile_index, {}
            return 0 <= profile_index < self._engine.num_optimization_profiles

        def set_input_shape(self, name, shape):
            if gpu.enter("trt.set_input_shape") or self._profile is None:
                return False
            least, _, most = self._engine._made["profiles"][self._profile][name]
            self._shapes[name] = tuple(shape)
            sides = zip(least, shape, most, strict=True)
            return all(low <= side <= high for low, side, high in sides)

        def get_tensor_shape(self, name):
            """Of an output, after the shape of the input."""
            gpu.enter("trt.get_tensor_shape")
            (picture,) = self._shapes.items()
            values = _run_graph(self._engine._made["graph"], {picture[0]: np.zeros(picture[1])})
            return Dims(values[name].shape)

        def set_tensor_address(self, name, memory):
            if gpu.enter("trt.set_tensor_address"):
                return False
            self._addresses[name] = memory
            return True

        def is_stream_capturable(self, stream):
            return not gpu.enter("trt.is_stream_capturable")

        def execute_async_v3(self, stream_handle):
            if gpu.enter("trt.execute_async_v3"):
                self._engine._runtime._logger.log(ILogger.ERROR, "enqueue went wrong")
                return False
            made = self._engine._made
            if self._config is not None and self._config.cache is not None:
                self._config.cache.content = b"kernels of " + json.dumps(made["ends"]).encode()
            if "graph" in made:
                return self._execute_graph(made, stream_handle)
            source, *noises, sink = made["ends"]
            read, written = self._addresses[source["name"]], self._addresses[sink["name"]]
            noise = [self._addresses[end["name"]] for end in noises]
            inputs = {end["name"]: end["shape"] for end in (source, *noises)}
            if -1 in source["shape"] and self._shapes.keys() != inputs.keys():
                gpu.violations.append("inputs without a shape")
            batch = {**inputs, **self._shapes}[source["name"]][0]

            def compute() -> None:
                values = np.frombuffer(gpu.device_array(read, 0), source["dtype"])
                scale = {"uint8": 255, "float32": 1}
                result = values / scale[source["dtype"]] * made["gain"] + made["bias"]
                for address in noise:
                    added = np.frombuffer(gpu.device_array(address, 0), np.float32)
                    result = result.reshape(batch, -1) + added.reshape(batch, -1)[:, :1]
                result = np.clip(result, 0, 1) * scale[sink["dtype"]]
                if sink["dtype"] == "uint8":
                    result = np.rint(result)
                target = gpu.device_array(written, 0)
                target[:] = result.astype(sink["dtype"]).tobytes()

            gpu.queue(stream_handle, Work("compute", (read, *noise, written, id(self)), compute))
            return True

        def _execute_graph(self, made, stream_handle):
            source, *sinks = (end["name"] for end in made["ends"])
            addresses, shape = dict(self._addresses), self._shapes[source]

            def compute() -> None:
                values = np.frombuffer(gpu.device_array(addresses[source], 0), np.float32)
                results = _run_graph(made["graph"], {source: values.reshape(shape)})
                for name in sinks:
                    gpu.device_array(addresses[name], 0)[:] = results[name].tobytes()

            gpu.queue(stream_handle, Work("compute", (*addresses.values(), id(self)), compute))
            return True

    class IRuntimeConfig:
        cuda_graph_strategy = CudaGraphStrategy.DISABLED
        cache = None

        def create_runtime_cache(self):
            return None if gpu.enter("trt.create_runtime_cache") else IRuntimeCache()

        def set_runtime_cache(self, cache):
            if gpu.enter("trt.set_runtime_cache"):
                return False
            self.cache = cache
            return True

    class IRuntimeCache:
        content = b""

        def deserialize(self, blob):
            if gpu.enter("trt.cache.deserialize"):
                return False
            if not blob.startswith(b"kernels"):
                return False
            self.content = blob
            return True

        def serialize(self):
            return None if gpu.enter("trt.cache.serialize") else self.content

    classes: dict[str, Any] = {
        "ILogger": ILogger,
        "Runtime": Runtime,
        "ICudaEngine": ICudaEngine,
        "IExecutionContext": IExecutionContext,
        "DataType": DataType,
        "TensorIOMode": TensorIOMode,
        "TensorFormat": TensorFormat,
        "TensorLocation": TensorLocation,
        "Dims": Dims,
    }
    if rtx:
        classes |= {
            "IRuntimeConfig": IRuntimeConfig,
            "IRuntimeCache": IRuntimeCache,
            "EngineValidity": EngineValidity,
            "EngineInvalidityDiagnostics": EngineInvalidityDiagnostics,
            "CudaGraphStrategy": CudaGraphStrategy,
        }
    else:
        del Runtime.get_engine_validity, ICudaEngine.create_runtime_config
        del IExecutionContext.is_stream_capturable
    name = f"{kind}, stand-in {next(_NUMBERS)}"
    return types.SimpleNamespace(__name__=name, __version__=version, **classes)
