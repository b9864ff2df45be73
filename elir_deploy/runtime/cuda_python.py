"""CUDA through cuda-python."""

# CUDA's own names.
# ruff: noqa: N802, N803, N815

from __future__ import annotations

import contextlib
import importlib
import math
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, SupportsInt, cast

import numpy as np
from numpy.typing import NDArray

from elir_deploy.errors import UnavailableError
from elir_deploy.runtime.cuda_device import Device, check_number, driver_name, release

__all__ = ["CudaPythonDevice", "CudaRuntime", "import_cuda_python"]

_INSUFFICIENT_DRIVER = 35  # cudaErrorInsufficientDriver


class _Pinned:
    """Owner of page-locked memory, with NumPy's array interface."""

    def __init__(self, address: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.__array_interface__ = {
            "shape": shape,
            "typestr": dtype.str,
            "data": (address, False),
            "version": 3,
        }


class CudaRuntime(Protocol):
    """The functions in use of ``cuda.bindings.runtime``, which has no type annotations.

    Every function returns CUDA's error code, then the output parameters of the C function.
    Handles are objects that convert to ``int``, and integers are accepted instead.
    """

    cudaMemcpyKind: Any
    cudaMemoryType: Any
    cudaStreamCaptureMode: Any
    cudaStreamCaptureStatus: Any
    cudaStreamNonBlocking: int
    cudaEventBlockingSync: int
    cudaEventDisableTiming: int
    cudaHostAllocPortable: int

    def cudaGetErrorName(self, error: Any) -> tuple[Any, bytes]: ...
    def cudaGetErrorString(self, error: Any) -> tuple[Any, bytes]: ...
    def cudaGetLastError(self) -> tuple[Any]: ...
    def cudaDriverGetVersion(self) -> tuple[Any, int]: ...
    def cudaRuntimeGetVersion(self) -> tuple[Any, int]: ...
    def cudaGetDeviceCount(self) -> tuple[Any, int]: ...
    def cudaGetDeviceProperties(self, device: int) -> tuple[Any, Any]: ...
    def cudaGetDevice(self) -> tuple[Any, int]: ...
    def cudaSetDevice(self, device: int) -> tuple[Any]: ...
    def cudaMalloc(self, size: int) -> tuple[Any, int]: ...
    def cudaFree(self, devPtr: int) -> tuple[Any]: ...
    def cudaHostAlloc(self, size: int, flags: int) -> tuple[Any, int]: ...
    def cudaFreeHost(self, ptr: int) -> tuple[Any]: ...
    def cudaMemcpyAsync(
        self, dst: int, src: int, count: int, kind: Any, stream: int
    ) -> tuple[Any]: ...
    def cudaMemcpy2DAsync(
        self,
        dst: int,
        dpitch: int,
        src: int,
        spitch: int,
        width: int,
        height: int,
        kind: Any,
        stream: int,
    ) -> tuple[Any]: ...
    def cudaPointerGetAttributes(self, ptr: int) -> tuple[Any, Any]: ...
    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[Any, SupportsInt]: ...
    def cudaStreamDestroy(self, stream: int) -> tuple[Any]: ...
    def cudaStreamSynchronize(self, stream: int) -> tuple[Any]: ...
    def cudaStreamWaitEvent(self, stream: int, event: int, flags: int) -> tuple[Any]: ...
    def cudaStreamIsCapturing(self, stream: int) -> tuple[Any, Any]: ...
    def cudaEventCreateWithFlags(self, flags: int) -> tuple[Any, SupportsInt]: ...
    def cudaEventDestroy(self, event: int) -> tuple[Any]: ...
    def cudaEventRecord(self, event: int, stream: int) -> tuple[Any]: ...
    def cudaEventSynchronize(self, event: int) -> tuple[Any]: ...
    def cudaStreamBeginCapture(self, stream: int, mode: Any) -> tuple[Any]: ...
    def cudaStreamEndCapture(self, stream: int) -> tuple[Any, SupportsInt]: ...
    def cudaGraphInstantiateWithFlags(self, graph: int, flags: int) -> tuple[Any, SupportsInt]: ...
    def cudaGraphDestroy(self, graph: int) -> tuple[Any]: ...
    def cudaGraphLaunch(self, graphExec: int, stream: int) -> tuple[Any]: ...
    def cudaGraphExecDestroy(self, graphExec: int) -> tuple[Any]: ...


def import_cuda_python() -> CudaRuntime | None:
    try:
        # Also for cuda itself, a folder that several packages share.
        with contextlib.suppress(ModuleNotFoundError):
            return cast(CudaRuntime, importlib.import_module("cuda.bindings.runtime"))
        with contextlib.suppress(ModuleNotFoundError):  # its name up to 12.6
            return cast(CudaRuntime, importlib.import_module("cuda.cudart"))
    except ImportError as error:
        raise UnavailableError(f"cuda-python cannot be imported: {error}") from None
    return None


class CudaPythonDevice(Device):
    captures = True

    def __init__(self, runtime: CudaRuntime, number: int) -> None:
        self._cuda = runtime
        try:
            count = self._device_count()
        except RuntimeError as error:  # of versions that load the driver in the first call
            raise UnavailableError(f"the CUDA driver does not start: {error}") from None
        check_number(number, count)
        self.number = number
        _, properties = self._check(
            "cudaGetDeviceProperties", runtime.cudaGetDeviceProperties(number)
        )
        name = properties.name
        self.name = (name.decode("utf-8", "replace") if isinstance(name, bytes) else name).strip(
            "\0"
        )
        self.capability = f"sm{properties.major}{properties.minor}"
        _, version = self._check("cudaDriverGetVersion", runtime.cudaDriverGetVersion())
        self.driver = driver_name(version)

    def _device_count(self) -> int:
        """The first call, which fails if the driver is older than cuda-python."""
        cuda = self._cuda
        failed, count = cuda.cudaGetDeviceCount()
        if not int(failed):
            return count
        reason = self._describe("cudaGetDeviceCount", failed)
        _, driver = cuda.cudaDriverGetVersion()
        _, needed = cuda.cudaRuntimeGetVersion()
        if not driver:
            raise UnavailableError(f"{reason}: install NVIDIA's driver")
        if int(failed) != _INSUFFICIENT_DRIVER:
            raise UnavailableError(f"{reason}: check nvidia-smi")
        major, minor = release(driver)
        raise UnavailableError(
            f"{reason}: the driver supports CUDA {major}.{minor}, and cuda-python needs "
            f"{'{}.{}'.format(*release(needed))}: update the driver, or pip install "
            f"'cuda-python<{major}.{minor + 1}'"
        )

    def _describe(self, call: str, error: Any) -> str:
        _, name = self._cuda.cudaGetErrorName(error)
        _, text = self._cuda.cudaGetErrorString(error)
        return f"{call} failed with {name.decode()} ({text.decode()})"

    def _check(self, call: str, result: tuple[Any, ...]) -> Any:
        if int(result[0]):
            raise UnavailableError(self._describe(call, result[0]))
        return result

    @contextmanager
    def current(self) -> Iterator[None]:
        cuda = self._cuda
        _, before = self._check("cudaGetDevice", cuda.cudaGetDevice())
        if before == self.number:
            yield
            return
        self._check("cudaSetDevice", cuda.cudaSetDevice(self.number))
        try:
            yield
        finally:
            self._check("cudaSetDevice", cuda.cudaSetDevice(before))

    def allocate(self, nbytes: int) -> int:
        _, address = self._check("cudaMalloc", self._cuda.cudaMalloc(nbytes))
        return int(address)

    def free(self, address: int) -> None:
        self._check("cudaFree", self._cuda.cudaFree(address))

    def pinned(self, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
        cuda = self._cuda
        kind = np.dtype(dtype)
        # Portable: pinned for every context, so that any of them can free it.
        result = cuda.cudaHostAlloc(math.prod(shape) * kind.itemsize, cuda.cudaHostAllocPortable)
        _, address = self._check("cudaHostAlloc", result)
        owner = _Pinned(int(address), shape, kind)
        # Not at exit, when a thread may still be using it: it is freed with the process anyway.
        weakref.finalize(owner, _release_quietly, cuda.cudaFreeHost, int(address)).atexit = False
        array: NDArray[Any] = np.asarray(owner)
        array[...] = 0
        return array

    def copy_in(self, address: int, array: NDArray[Any], stream: int) -> None:
        cuda = self._cuda
        kind = cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        result = cuda.cudaMemcpyAsync(address, array.ctypes.data, array.nbytes, kind, stream)
        self._check("cudaMemcpyAsync", result)

    def copy_out(self, array: NDArray[Any], address: int, stream: int) -> None:
        cuda = self._cuda
        kind = cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        result = cuda.cudaMemcpyAsync(array.ctypes.data, address, array.nbytes, kind, stream)
        self._check("cudaMemcpyAsync", result)

    def copy_rows(
        self,
        sink: int,
        sink_pitch: int,
        source: int,
        source_pitch: int,
        width: int,
        height: int,
        stream: int,
    ) -> None:
        cuda = self._cuda
        kind = cuda.cudaMemcpyKind.cudaMemcpyDeviceToDevice
        result = cuda.cudaMemcpy2DAsync(
            sink, sink_pitch, source, source_pitch, width, height, kind, stream
        )
        self._check("cudaMemcpy2DAsync", result)

    def memory_at(self, address: int) -> tuple[str, int]:
        result = self._cuda.cudaPointerGetAttributes(address)
        _, place = self._check("cudaPointerGetAttributes", result)
        kinds = self._cuda.cudaMemoryType
        names = {
            int(kinds.cudaMemoryTypeDevice): "device",
            int(kinds.cudaMemoryTypeManaged): "managed",
            int(kinds.cudaMemoryTypeHost): "page-locked host",
        }
        return names.get(int(place.type), "host"), int(place.device)

    def create_stream(self) -> int:
        cuda = self._cuda
        result = cuda.cudaStreamCreateWithFlags(cuda.cudaStreamNonBlocking)
        return int(self._check("cudaStreamCreateWithFlags", result)[1])

    def destroy_stream(self, stream: int) -> None:
        self._check("cudaStreamDestroy", self._cuda.cudaStreamDestroy(stream))

    def synchronize(self, stream: int) -> None:
        self._check("cudaStreamSynchronize", self._cuda.cudaStreamSynchronize(stream))

    def wait_for(self, stream: int, other: int) -> None:
        event = self.create_event()
        try:
            self.record(event, other)
            result = self._cuda.cudaStreamWaitEvent(stream, event, 0)
            self._check("cudaStreamWaitEvent", result)
        finally:
            self.destroy_event(event)  # at once, or when it has happened

    def is_capturing(self, stream: int) -> bool:
        result = self._cuda.cudaStreamIsCapturing(stream)
        _, status = self._check("cudaStreamIsCapturing", result)
        none = self._cuda.cudaStreamCaptureStatus.cudaStreamCaptureStatusNone
        return int(status) != int(none)

    def create_event(self) -> int:
        cuda = self._cuda
        flags = cuda.cudaEventBlockingSync | cuda.cudaEventDisableTiming
        result = cuda.cudaEventCreateWithFlags(flags)
        return int(self._check("cudaEventCreateWithFlags", result)[1])

    def destroy_event(self, event: int) -> None:
        self._check("cudaEventDestroy", self._cuda.cudaEventDestroy(event))

    def record(self, event: int, stream: int) -> None:
        self._check("cudaEventRecord", self._cuda.cudaEventRecord(event, stream))

    def wait(self, event: int) -> None:
        self._check("cudaEventSynchronize", self._cuda.cudaEventSynchronize(event))

    def begin_capture(self, stream: int) -> None:
        # Thread-local, so that other sessions may allocate or wait meanwhile.
        mode = self._cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._check("cudaStreamBeginCapture", self._cuda.cudaStreamBeginCapture(stream, mode))

    def end_capture(self, stream: int) -> int:
        cuda = self._cuda
        _, graph = self._check("cudaStreamEndCapture", cuda.cudaStreamEndCapture(stream))
        try:
            result = cuda.cudaGraphInstantiateWithFlags(int(graph), 0)
            return int(self._check("cudaGraphInstantiateWithFlags", result)[1])
        finally:
            _release_quietly(cuda.cudaGraphDestroy, int(graph))

    def abandon_capture(self, stream: int) -> None:
        cuda = self._cuda
        error, graph = cuda.cudaStreamEndCapture(stream)
        if not int(error) and int(graph):
            _release_quietly(cuda.cudaGraphDestroy, int(graph))
        cuda.cudaGetLastError()  # resets the error

    def launch(self, graph: int, stream: int) -> None:
        self._check("cudaGraphLaunch", self._cuda.cudaGraphLaunch(graph, stream))

    def destroy_graph(self, graph: int) -> None:
        self._check("cudaGraphExecDestroy", self._cuda.cudaGraphExecDestroy(graph))


def _release_quietly(release: Callable[[int], object], handle: int) -> None:
    """Release a resource, ignoring errors."""
    release(handle)
