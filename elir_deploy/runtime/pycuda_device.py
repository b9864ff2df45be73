"""CUDA through pycuda."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elir_deploy.errors import UnavailableError
from elir_deploy.runtime.cuda_device import Device, check_number, driver_name

__all__ = ["PyCudaDevice"]


class PyCudaDevice(Device):
    """A device by pycuda's documented interface: https://documen.tician.de/pycuda/driver.html

    Its objects are stored here by address or handle until they are freed. It has no graph API.
    """

    captures = False

    def __init__(self, driver: Any, number: int) -> None:
        self._driver = driver
        self._objects: dict[int, Any] = {}
        with self._errors_of("init"):
            driver.init()
            check_number(number, driver.Device.count())
            device = driver.Device(number)
            major, minor = device.compute_capability()
            self.number = number
            self.name = device.name()
            self.capability = f"sm{major}{minor}"
            self.driver = driver_name(driver.get_driver_version())
            self._context = device.retain_primary_context()

    @contextmanager
    def _errors_of(self, call: str) -> Iterator[None]:
        try:
            yield
        except self._driver.Error as error:
            text = " ".join(str(error).split())
            raise UnavailableError(f"pycuda: {call} failed: {text}") from None

    @contextmanager
    def current(self) -> Iterator[None]:
        with self._errors_of("Context.push"):
            self._context.push()
        try:
            yield
        finally:
            with self._errors_of("Context.pop"):
                self._driver.Context.pop()

    def allocate(self, nbytes: int) -> int:
        with self._errors_of("mem_alloc"):
            allocation = self._driver.mem_alloc(nbytes)
        return self._store(int(allocation), allocation)

    def free(self, address: int) -> None:
        with self._errors_of("DeviceAllocation.free"):
            self._objects.pop(address).free()

    def pinned(self, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
        with self._errors_of("pagelocked_empty"):
            array: NDArray[Any] = self._driver.pagelocked_empty(shape, np.dtype(dtype))
        array[...] = 0
        return array

    def copy_in(self, address: int, array: NDArray[Any], stream: int) -> None:
        with self._errors_of("memcpy_htod_async"):
            self._driver.memcpy_htod_async(address, array, self._objects[stream])

    def copy_out(self, array: NDArray[Any], address: int, stream: int) -> None:
        with self._errors_of("memcpy_dtoh_async"):
            self._driver.memcpy_dtoh_async(array, address, self._objects[stream])

    def copy_rows(self, *arguments: int) -> None:
        raise _no_images()

    def memory_at(self, address: int) -> tuple[str, int]:
        raise _no_images()

    def wait_for(self, stream: int, other: int) -> None:
        raise _no_images()

    def is_capturing(self, stream: int) -> bool:
        raise _no_images()

    def create_stream(self) -> int:
        with self._errors_of("Stream"):
            stream = self._driver.Stream(1)  # CU_STREAM_NON_BLOCKING
        return self._store(int(stream.handle), stream)

    def destroy_stream(self, stream: int) -> None:
        del self._objects[stream]

    def synchronize(self, stream: int) -> None:
        with self._errors_of("Stream.synchronize"):
            self._objects[stream].synchronize()

    def create_event(self) -> int:
        flags = self._driver.event_flags
        with self._errors_of("Event"):
            event = self._driver.Event(flags.BLOCKING_SYNC | flags.DISABLE_TIMING)
        return self._store(id(event), event)

    def destroy_event(self, event: int) -> None:
        del self._objects[event]

    def record(self, event: int, stream: int) -> None:
        with self._errors_of("Event.record"):
            self._objects[event].record(self._objects[stream])

    def wait(self, event: int) -> None:
        with self._errors_of("Event.synchronize"):
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

    def _store(self, number: int, value: Any) -> int:
        self._objects[number] = value
        return number


def _no_images() -> UnavailableError:
    return UnavailableError("pycuda restores no images in CUDA memory: pip install cuda-python")
