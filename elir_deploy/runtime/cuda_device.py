"""The interface to a CUDA device, and helpers that its implementations share."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from elir_deploy.errors import UnavailableError

__all__ = ["Device", "check_number", "driver_name", "release"]

#: Version of NVIDIA's kernel module for PCs; Jetsons do not have it.
_KERNEL_MODULE = Path("/sys/module/nvidia/version")


class Device(ABC):
    """A CUDA device. Except for :meth:`current`, methods need it to be current in the thread.

    Attributes:
        number: CUDA's number of the device.
        name: the manufacturer's name.
        capability: compute capability, such as ``sm75``.
        driver: version of the driver, and the newest CUDA version that it supports.
        captures: whether streams can be captured as graphs.
    """

    number: int
    name: str
    capability: str
    driver: str
    captures: bool

    @abstractmethod
    def current(self) -> AbstractContextManager[None]:
        """Make the device current in this thread, and restore the previous one afterwards."""

    # Memory ---------------------------------------------------------------------------------

    @abstractmethod
    def allocate(self, nbytes: int) -> int:
        """Allocate device memory; returns its address."""

    @abstractmethod
    def free(self, address: int) -> None: ...

    @abstractmethod
    def pinned(self, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
        """Allocate a zeroed array in page-locked host memory.

        It is freed with the last reference to the array or to a view of it.
        """

    @abstractmethod
    def copy_in(self, address: int, array: NDArray[Any], stream: int) -> None:
        """Queue a copy of a whole pinned array to the device."""

    @abstractmethod
    def copy_out(self, array: NDArray[Any], address: int, stream: int) -> None:
        """Queue a copy from the device to a whole pinned array."""

    @abstractmethod
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
        """Queue a copy of ``height`` rows of ``width`` bytes within the device's memory.

        Args:
            sink, source: addresses.
            sink_pitch, source_pitch: bytes from one row to the next.
        """

    @abstractmethod
    def memory_at(self, address: int) -> tuple[str, int]:
        """What memory an address is in, and of which device.

        The first is ``device``, ``managed``, ``page-locked host``, or ``host`` for any that CUDA
        does not know.
        """

    # Streams and events ---------------------------------------------------------------------

    @abstractmethod
    def create_stream(self) -> int:
        """Create a stream that does not wait for the default stream; returns its handle."""

    @abstractmethod
    def destroy_stream(self, stream: int) -> None: ...

    @abstractmethod
    def synchronize(self, stream: int) -> None:
        """Busy-wait until all queued work is done."""

    @abstractmethod
    def wait_for(self, stream: int, other: int) -> None:
        """Let ``stream`` wait for what is queued in ``other``, a stream of any library."""

    @abstractmethod
    def is_capturing(self, stream: int) -> bool:
        """Whether work that is queued is recorded as a graph, and not executed."""

    @abstractmethod
    def create_event(self) -> int:
        """Create an event that threads sleep on; returns its handle."""

    @abstractmethod
    def destroy_event(self, event: int) -> None: ...

    @abstractmethod
    def record(self, event: int, stream: int) -> None:
        """Record the work queued so far in the event."""

    @abstractmethod
    def wait(self, event: int) -> None:
        """Sleep until the recorded work is done."""

    # Graphs ---------------------------------------------------------------------------------

    @abstractmethod
    def begin_capture(self, stream: int) -> None:
        """Record what this thread queues from now on, instead of executing it."""

    @abstractmethod
    def end_capture(self, stream: int) -> int:
        """Create an executable graph of the recorded work; returns its handle.

        The capture ends even if this fails.
        """

    @abstractmethod
    def abandon_capture(self, stream: int) -> None:
        """Discard the recorded work. Never fails."""

    @abstractmethod
    def launch(self, graph: int, stream: int) -> None: ...

    @abstractmethod
    def destroy_graph(self, graph: int) -> None: ...


def release(version: int) -> tuple[int, int]:
    """Major and minor version from CUDA's number, such as 12040."""
    return version // 1000, version % 1000 // 10


def driver_name(version: int) -> str:
    text = "CUDA {}.{}".format(*release(version))
    with contextlib.suppress(OSError):
        text = f"{_KERNEL_MODULE.read_text('ascii', 'replace').strip()}, {text}"
    return text


def check_number(number: int, count: int) -> None:
    if not 0 <= number < count:
        raise UnavailableError(
            f"no CUDA device {number}: the driver has {count}; check nvidia-smi and "
            "CUDA_VISIBLE_DEVICES"
        )
