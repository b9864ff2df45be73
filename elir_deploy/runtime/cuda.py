"""CUDA, as much of it as a session needs, through cuda-python or, where only that is there, pycuda.

A :class:`Device` hands out addresses and handles as integers, which is what TensorRT takes. Every
call that fails raises an UnavailableError that names the call and CUDA's error. All memory is of
the device's primary context, which TensorRT and PyTorch use too.
"""

# CUDA's own names.
# ruff: noqa: N802, N803, N815

from __future__ import annotations

import contextlib
import ctypes
import importlib
import math
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol, SupportsInt, cast

import numpy as np
from numpy.typing import NDArray

from elir_deploy.errors import MissingDependencyError, UnavailableError

__all__ = ["Device", "device_capabilities", "open_device"]

#: Its version, where the kernel module is NVIDIA's for PCs; Jetsons have none.
_KERNEL_MODULE = Path("/sys/module/nvidia/version")
_INSUFFICIENT_DRIVER = 35  # cudaErrorInsufficientDriver
_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR


class Device(ABC):
    """One CUDA device. Its methods but :meth:`current` want it to be current in the thread.

    Attributes:
        number: CUDA's.
        name: the maker's.
        capability: compute capability, such as ``sm75``.
        driver: version of the driver, and the newest CUDA it serves.
        captures: whether streams can be captured as graphs.
    """

    number: int
    name: str
    capability: str
    driver: str
    captures: bool

    @abstractmethod
    def current(self) -> AbstractContextManager[None]:
        """Makes the device this thread's, inside; what was before is put back."""

    # Memory ---------------------------------------------------------------------------------

    @abstractmethod
    def allocate(self, nbytes: int) -> int:
        """Memory of the device; returns its address."""

    @abstractmethod
    def free(self, address: int) -> None: ...

    @abstractmethod
    def pinned(self, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
        """A zeroed array in memory of the host that the device copies from and to by itself.

        The memory goes with the last reference to the array, or to a view of it.
        """

    @abstractmethod
    def copy_in(self, address: int, array: NDArray[Any], stream: int) -> None:
        """Queue a copy of all of a pinned array to the device."""

    @abstractmethod
    def copy_out(self, array: NDArray[Any], address: int, stream: int) -> None:
        """Queue a copy from the device that fills a pinned array."""

    # Streams and events ---------------------------------------------------------------------

    @abstractmethod
    def create_stream(self) -> int:
        """One that does not wait for the default stream; returns its handle."""

    @abstractmethod
    def destroy_stream(self, stream: int) -> None: ...

    @abstractmethod
    def synchronize(self, stream: int) -> None:
        """Wait until all that was queued is done, looking for it all the time."""

    @abstractmethod
    def create_event(self) -> int:
        """One that a thread sleeps on; returns its handle."""

    @abstractmethod
    def destroy_event(self, event: int) -> None: ...

    @abstractmethod
    def record(self, event: int, stream: int) -> None:
        """Let the event be what was queued last."""

    @abstractmethod
    def wait(self, event: int) -> None:
        """Sleep until what was recorded is done."""

    # Graphs ---------------------------------------------------------------------------------

    @abstractmethod
    def begin_capture(self, stream: int) -> None:
        """Note what this thread queues from now on, instead of doing it."""

    @abstractmethod
    def end_capture(self, stream: int) -> int:
        """A graph of what was noted, ready to be launched; returns its handle.

        The stream is as before :meth:`begin_capture`, also where this fails.
        """

    @abstractmethod
    def abandon_capture(self, stream: int) -> None:
        """Forget what was noted. Never fails."""

    @abstractmethod
    def launch(self, graph: int, stream: int) -> None: ...

    @abstractmethod
    def destroy_graph(self, graph: int) -> None: ...


def open_device(number: int, extra: str) -> Device:
    """A device, through the library that is installed.

    Args:
        number: CUDA's.
        extra: of this project, that brings cuda-python.

    Raises:
        MissingDependencyError: neither cuda-python nor pycuda is installed.
        UnavailableError: there is no such device, or CUDA does not start.
    """
    runtime = _cuda_python()
    if runtime is not None:
        return _CudaPythonDevice(runtime, number)
    try:
        driver = importlib.import_module("pycuda.driver")
    except ModuleNotFoundError:
        raise MissingDependencyError("cuda-python", extra, "use a GPU") from None
    except ImportError as error:
        raise UnavailableError(f"pycuda cannot be imported: {error}") from None
    return _PyCudaDevice(driver, number)


def device_capabilities() -> tuple[str, ...]:
    """Compute capability of every device, such as ``sm75``, asking the driver alone.

    Empty where there is no driver, or it does not answer.
    """
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return ()
    count = ctypes.c_int()
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return ()
    found = []
    for number in range(count.value):
        device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
        if (
            driver.cuDeviceGet(ctypes.byref(device), number)
            or driver.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, device)
            or driver.cuDeviceGetAttribute(ctypes.byref(minor), _MINOR, device)
        ):
            return ()
        found.append(f"sm{major.value}{minor.value}")
    return tuple(found)


def _release(version: int) -> tuple[int, int]:
    """Major and minor number of a version as CUDA counts, such as 12040."""
    return version // 1000, version % 1000 // 10


def _driver_name(version: int) -> str:
    text = "CUDA {}.{}".format(*_release(version))
    with contextlib.suppress(OSError):
        text = f"{_KERNEL_MODULE.read_text('ascii', 'replace').strip()}, {text}"
    return text


def _check_number(number: int, count: int) -> None:
    if not 0 <= number < count:
        raise UnavailableError(
            f"there is no CUDA device {number}: the driver finds {count}; see "
            "nvidia-smi and CUDA_VISIBLE_DEVICES"
        )


class _Pinned:
    """Owner of page-locked memory, in the form that NumPy makes an array of."""

    def __init__(self, address: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.__array_interface__ = {
            "shape": shape,
            "typestr": dtype.str,
            "data": (address, False),
            "version": 3,
        }


# cuda-python ------------------------------------------------------------------------------------


class CudaRuntime(Protocol):
    """What is used of ``cuda.bindings.runtime``, which has no types of its own.

    Every function returns CUDA's error code, then what the C function writes to its pointers.
    Handles are objects that ``int`` takes; integers are taken in their place.
    """

    cudaMemcpyKind: Any
    cudaStreamCaptureMode: Any
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
    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[Any, SupportsInt]: ...
    def cudaStreamDestroy(self, stream: int) -> tuple[Any]: ...
    def cudaStreamSynchronize(self, stream: int) -> tuple[Any]: ...
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


def _cuda_python() -> CudaRuntime | None:
    try:
        # Not found: of cuda, a folder that several packages share, or of anything in it.
        with contextlib.suppress(ModuleNotFoundError):
            return cast(CudaRuntime, importlib.import_module("cuda.bindings.runtime"))
        with contextlib.suppress(ModuleNotFoundError):  # its name up to 12.6
            return cast(CudaRuntime, importlib.import_module("cuda.cudart"))
    except ImportError as error:
        raise UnavailableError(f"cuda-python cannot be imported: {error}") from None
    return None


class _CudaPythonDevice(Device):
    captures = True

    def __init__(self, runtime: CudaRuntime, number: int) -> None:
        self._cuda = runtime
        try:
            count = self._device_count()
        except RuntimeError as error:  # of the versions that load the driver at the first call
            raise UnavailableError(f"the CUDA driver does not start: {error}") from None
        _check_number(number, count)
        self.number = number
        _, properties = self._checked(
            "cudaGetDeviceProperties", runtime.cudaGetDeviceProperties(number)
        )
        name = properties.name
        self.name = (name.decode("utf-8", "replace") if isinstance(name, bytes) else name).strip(
            "\0"
        )
        self.capability = f"sm{properties.major}{properties.minor}"
        _, version = self._checked("cudaDriverGetVersion", runtime.cudaDriverGetVersion())
        self.driver = _driver_name(version)

    def _device_count(self) -> int:
        """The first call, which fails where the driver is older than cuda-python."""
        cuda = self._cuda
        failed, count = cuda.cudaGetDeviceCount()
        if not int(failed):
            return count
        reason = self._described("cudaGetDeviceCount", failed)
        _, driver = cuda.cudaDriverGetVersion()
        _, wanted = cuda.cudaRuntimeGetVersion()
        if not driver:
            raise UnavailableError(f"{reason}: install NVIDIA's driver")
        if int(failed) != _INSUFFICIENT_DRIVER:
            raise UnavailableError(f"{reason}: see nvidia-smi")
        major, minor = _release(driver)
        old = (
            f"{reason}: the driver serves CUDA {major}.{minor}, and cuda-python is "
            f"made for {'{}.{}'.format(*_release(wanted))}: update the driver"
        )
        raise UnavailableError(f"{old}, or pip install 'cuda-python<{major}.{minor + 1}'")

    def _described(self, call: str, error: Any) -> str:
        _, name = self._cuda.cudaGetErrorName(error)
        _, text = self._cuda.cudaGetErrorString(error)
        return f"{call} failed with {name.decode()} ({text.decode()})"

    def _checked(self, call: str, result: tuple[Any, ...]) -> Any:
        if int(result[0]):
            raise UnavailableError(self._described(call, result[0]))
        return result

    @contextmanager
    def current(self) -> Iterator[None]:
        cuda = self._cuda
        _, before = self._checked("cudaGetDevice", cuda.cudaGetDevice())
        if before == self.number:
            yield
            return
        self._checked("cudaSetDevice", cuda.cudaSetDevice(self.number))
        try:
            yield
        finally:
            self._checked("cudaSetDevice", cuda.cudaSetDevice(before))

    def allocate(self, nbytes: int) -> int:
        _, address = self._checked("cudaMalloc", self._cuda.cudaMalloc(nbytes))
        return int(address)

    def free(self, address: int) -> None:
        self._checked("cudaFree", self._cuda.cudaFree(address))

    def pinned(self, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
        cuda = self._cuda
        kind = np.dtype(dtype)
        # Portable: pinned for every context, so that it does not matter where it is freed.
        result = cuda.cudaHostAlloc(math.prod(shape) * kind.itemsize, cuda.cudaHostAllocPortable)
        _, address = self._checked("cudaHostAlloc", result)
        owner = _Pinned(int(address), shape, kind)
        # Not at exit, when a thread may still be using it: the process gives it back anyway.
        weakref.finalize(owner, _ignored, cuda.cudaFreeHost, int(address)).atexit = False
        array: NDArray[Any] = np.asarray(owner)
        array[...] = 0
        return array

    def copy_in(self, address: int, array: NDArray[Any], stream: int) -> None:
        cuda = self._cuda
        kind = cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        result = cuda.cudaMemcpyAsync(address, array.ctypes.data, array.nbytes, kind, stream)
        self._checked("cudaMemcpyAsync", result)

    def copy_out(self, array: NDArray[Any], address: int, stream: int) -> None:
        cuda = self._cuda
        kind = cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        result = cuda.cudaMemcpyAsync(array.ctypes.data, address, array.nbytes, kind, stream)
        self._checked("cudaMemcpyAsync", result)

    def create_stream(self) -> int:
        cuda = self._cuda
        result = cuda.cudaStreamCreateWithFlags(cuda.cudaStreamNonBlocking)
        return int(self._checked("cudaStreamCreateWithFlags", result)[1])

    def destroy_stream(self, stream: int) -> None:
        self._checked("cudaStreamDestroy", self._cuda.cudaStreamDestroy(stream))

    def synchronize(self, stream: int) -> None:
        self._checked("cudaStreamSynchronize", self._cuda.cudaStreamSynchronize(stream))

    def create_event(self) -> int:
        cuda = self._cuda
        flags = cuda.cudaEventBlockingSync | cuda.cudaEventDisableTiming
        result = cuda.cudaEventCreateWithFlags(flags)
        return int(self._checked("cudaEventCreateWithFlags", result)[1])

    def destroy_event(self, event: int) -> None:
        self._checked("cudaEventDestroy", self._cuda.cudaEventDestroy(event))

    def record(self, event: int, stream: int) -> None:
        self._checked("cudaEventRecord", self._cuda.cudaEventRecord(event, stream))

    def wait(self, event: int) -> None:
        self._checked("cudaEventSynchronize", self._cuda.cudaEventSynchronize(event))

    def begin_capture(self, stream: int) -> None:
        # Of this thread alone: another session may allocate, or wait, in the meantime.
        mode = self._cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._checked("cudaStreamBeginCapture", self._cuda.cudaStreamBeginCapture(stream, mode))

    def end_capture(self, stream: int) -> int:
        cuda = self._cuda
        _, graph = self._checked("cudaStreamEndCapture", cuda.cudaStreamEndCapture(stream))
        try:
            result = cuda.cudaGraphInstantiateWithFlags(int(graph), 0)
            return int(self._checked("cudaGraphInstantiateWithFlags", result)[1])
        finally:
            _ignored(cuda.cudaGraphDestroy, int(graph))

    def abandon_capture(self, stream: int) -> None:
        cuda = self._cuda
        error, graph = cuda.cudaStreamEndCapture(stream)
        if not int(error) and int(graph):
            _ignored(cuda.cudaGraphDestroy, int(graph))
        cuda.cudaGetLastError()  # or the next call that asks would take it for its own

    def launch(self, graph: int, stream: int) -> None:
        self._checked("cudaGraphLaunch", self._cuda.cudaGraphLaunch(graph, stream))

    def destroy_graph(self, graph: int) -> None:
        self._checked("cudaGraphExecDestroy", self._cuda.cudaGraphExecDestroy(graph))


def _ignored(release: Callable[[int], object], handle: int) -> None:
    """Give something back where nobody could do anything about a failure."""
    release(handle)


# pycuda -----------------------------------------------------------------------------------------


class _PyCudaDevice(Device):
    """By pycuda's documented interface: https://documen.tician.de/pycuda/driver.html

    What it hands out are objects, which are kept here by address or handle until they are freed.
    It has no functions for graphs.
    """

    captures = False

    def __init__(self, driver: Any, number: int) -> None:
        self._driver = driver
        self._objects: dict[int, Any] = {}
        with self._translated("init"):
            driver.init()
            _check_number(number, driver.Device.count())
            device = driver.Device(number)
            major, minor = device.compute_capability()
            self.number = number
            self.name = device.name()
            self.capability = f"sm{major}{minor}"
            self.driver = _driver_name(driver.get_driver_version())
            self._context = device.retain_primary_context()

    @contextmanager
    def _translated(self, call: str) -> Iterator[None]:
        try:
            yield
        except self._driver.Error as error:
            text = " ".join(str(error).split())
            raise UnavailableError(f"pycuda: {call} failed: {text}") from None

    @contextmanager
    def current(self) -> Iterator[None]:
        with self._translated("Context.push"):
            self._context.push()
        try:
            yield
        finally:
            with self._translated("Context.pop"):
                self._driver.Context.pop()

    def allocate(self, nbytes: int) -> int:
        with self._translated("mem_alloc"):
            allocation = self._driver.mem_alloc(nbytes)
        return self._kept(int(allocation), allocation)

    def free(self, address: int) -> None:
        with self._translated("DeviceAllocation.free"):
            self._objects.pop(address).free()

    def pinned(self, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
        with self._translated("pagelocked_empty"):
            array: NDArray[Any] = self._driver.pagelocked_empty(shape, np.dtype(dtype))
        array[...] = 0
        return array

    def copy_in(self, address: int, array: NDArray[Any], stream: int) -> None:
        with self._translated("memcpy_htod_async"):
            self._driver.memcpy_htod_async(address, array, self._objects[stream])

    def copy_out(self, array: NDArray[Any], address: int, stream: int) -> None:
        with self._translated("memcpy_dtoh_async"):
            self._driver.memcpy_dtoh_async(array, address, self._objects[stream])

    def create_stream(self) -> int:
        with self._translated("Stream"):
            stream = self._driver.Stream(1)  # CU_STREAM_NON_BLOCKING
        return self._kept(int(stream.handle), stream)

    def destroy_stream(self, stream: int) -> None:
        del self._objects[stream]

    def synchronize(self, stream: int) -> None:
        with self._translated("Stream.synchronize"):
            self._objects[stream].synchronize()

    def create_event(self) -> int:
        flags = self._driver.event_flags
        with self._translated("Event"):
            event = self._driver.Event(flags.BLOCKING_SYNC | flags.DISABLE_TIMING)
        return self._kept(id(event), event)

    def destroy_event(self, event: int) -> None:
        del self._objects[event]

    def record(self, event: int, stream: int) -> None:
        with self._translated("Event.record"):
            self._objects[event].record(self._objects[stream])

    def wait(self, event: int) -> None:
        with self._translated("Event.synchronize"):
            self._objects[event].synchronize()

    def begin_capture(self, stream: int) -> None:
        raise UnavailableError("pycuda cannot capture graphs: pip install cuda-python")

    def end_capture(self, stream: int) -> int:
        raise UnavailableError("pycuda cannot capture graphs: pip install cuda-python")

    def abandon_capture(self, stream: int) -> None:
        pass

    def launch(self, graph: int, stream: int) -> None:
        raise UnavailableError("pycuda cannot launch graphs: pip install cuda-python")

    def destroy_graph(self, graph: int) -> None:
        pass

    def _kept(self, number: int, value: Any) -> int:
        self._objects[number] = value
        return number
