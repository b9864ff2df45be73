"""Arrays in the memory of the stand-in GPU, as of libraries like PyTorch and CuPy."""

from __future__ import annotations

import ctypes
import itertools
import math
import sys
import types
import weakref
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from elir_deploy.runtime.device_arrays import _Tensor
from tests.runtime.stand_in_cuda import StandInGpu

LIBRARY = "stand_in_library"
_CODES = {"u": 1, "f": 2}


class ManagedTensor(ctypes.Structure):
    """``DLManagedTensor``; nobody calls the deleter."""

    _fields_ = (
        ("tensor", _Tensor),
        ("context", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
    )


class Array:
    """Memory of a device with the strides of ``pitch``, or without gaps.

    Attributes:
        stream: the caller's, which work is queued on.
        asked: the streams that DLPack was asked to order this one before.
    """

    stream: int = 0
    asked: list[int]

    def __init__(
        self,
        gpu: StandInGpu,
        shape: tuple[int, ...],
        *,
        dtype: str = "uint8",
        pitch: int = 0,
        strides: tuple[int, ...] = (),
        device: int = 0,
        fill: int = 0,
    ) -> None:
        self.gpu, self.shape, self.dtype = gpu, shape, np.dtype(dtype)
        self.strides = strides or self._strides(pitch)
        self.device = device
        before, gpu.current = gpu.current, device
        nbytes = math.prod(shape[: len(shape) - 2]) * max(pitch, math.prod(shape[-2:]))
        error, self.address = gpu.cuda.cudaMalloc(nbytes * self.dtype.itemsize)
        assert not error
        gpu.current = before
        gpu.device_memory[self.address][1][:] = bytes([fill]) * nbytes * self.dtype.itemsize
        self.asked = []
        weakref.finalize(self, gpu.device_memory.pop, self.address)

    def _strides(self, pitch: int) -> tuple[int, ...]:
        """In bytes."""
        sizes = list(itertools.accumulate(self.shape[:0:-1], int.__mul__, initial=1))
        if pitch and len(self.shape) >= 3:
            sizes[2:] = [pitch * size // sizes[2] for size in sizes[2:]]
        return tuple(size * self.dtype.itemsize for size in reversed(sizes))

    def values(self) -> NDArray[np.uint8]:
        """A view in NumPy of the device's memory."""
        memory = self.gpu.device_memory[self.address][1]
        flat = np.frombuffer(memory, np.uint8)
        return np.lib.stride_tricks.as_strided(flat, self.shape, self.strides)

    def write(self, values: NDArray[np.uint8]) -> Array:
        self.values()[...] = values
        return self


class DlpackArray(Array):
    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, self.device

    def __dlpack__(self, *, stream: int | None = None) -> Any:
        assert stream is not None
        self.asked.append(stream)
        if self.stream:
            order(self.gpu, stream, self.stream)
        itemsize = self.dtype.itemsize
        shape = (ctypes.c_int64 * len(self.shape))(*self.shape)
        strides = (ctypes.c_int64 * len(self.shape))(*(s // itemsize for s in self.strides))
        pointer = ctypes.POINTER(ctypes.c_int64)
        self.managed = ManagedTensor(
            _Tensor(
                *(self.address - 16, 2, self.device, len(self.shape)),
                *(_CODES[self.dtype.kind], 8 * itemsize, 1),
                *(ctypes.cast(shape, pointer), ctypes.cast(strides, pointer), 16),
            )
        )
        new = ctypes.pythonapi.PyCapsule_New
        new.restype = ctypes.py_object
        new.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
        return new(ctypes.addressof(self.managed), b"dltensor", None)


class InterfaceArray(Array):
    """``version``: 3 has the caller's stream."""

    version = 3

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        compact = self.strides == self._strides(0)
        interface: dict[str, Any] = {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.address, False),
            "strides": None if compact else self.strides,
            "version": self.version,
        }
        if self.version == 3:
            interface["stream"] = self.stream or None
        return interface


ARRAYS = (DlpackArray, InterfaceArray)


def order(gpu: StandInGpu, stream: int, before: int) -> None:
    """Let ``stream`` wait for another one, as a library does."""
    cuda = gpu.cuda
    _, event = cuda.cudaEventCreateWithFlags(1)
    cuda.cudaEventRecord(event, before)
    cuda.cudaStreamWaitEvent(stream, event, 0)
    cuda.cudaEventDestroy(event)


def install(patch: pytest.MonkeyPatch) -> None:
    """Let the arrays be of a library with ``empty_like``, which is imported."""

    def empty_like(array: Array) -> Array:
        result = type(array)(array.gpu, array.shape, dtype=str(array.dtype), device=array.device)
        result.stream = array.stream
        return result

    for kind in ARRAYS:
        patch.setattr(kind, "__module__", LIBRARY + ".arrays")
    patch.setitem(sys.modules, LIBRARY, types.SimpleNamespace(empty_like=empty_like))  # type: ignore[arg-type]
