"""Arrays of other libraries in a GPU's memory, such as PyTorch's tensors and CuPy's arrays.

They describe themselves by DLPack (https://dmlc.github.io/dlpack) or
``__cuda_array_interface__`` (https://numba.readthedocs.io/en/stable/cuda/cuda_array_interface.html),
so that no such library is imported here. DLPack is preferred: the library then lets our stream wait
for what the caller has queued.
"""

from __future__ import annotations

import ctypes
import operator
import sys
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn, Protocol

import numpy as np

from elir_deploy.errors import ImageError, UnavailableError, UsageError
from elir_deploy.runtime.cuda import Device

__all__ = [
    "Borrowed",
    "DeviceArray",
    "DevicePixels",
    "borrow",
    "empty_like",
    "is_device_array",
    "pixels_of",
]

#: DLPack's numbers of CUDA's memory, its own and managed.
_CUDA, _CUDA_MANAGED = 2, 13
_DLPACK_KINDS = {0: "int", 1: "uint", 2: "float", 4: "bfloat", 5: "complex", 6: "bool"}
_LEGACY_STREAM = 1  # the number of CUDA's default stream in __cuda_array_interface__


class DeviceArray(Protocol):
    """An array in a GPU's memory, with DLPack or ``__cuda_array_interface__``."""

    @property
    def shape(self) -> Any: ...


class DevicePixels(NamedTuple):
    """An image in a GPU's memory: rows of (width, 3) bytes.

    Attributes:
        address: of the first byte.
        pitch: bytes from one row to the next.
        height, width: in pixels.
    """

    address: int
    pitch: int
    height: int
    width: int


@dataclass(frozen=True)
class Borrowed:
    """An array's memory, valid as long as this object.

    Attributes:
        kind: the array's type, for messages.
        dtype: type of the values, such as ``uint8``.
        shape: of the array.
        strides: in bytes.
        address: of the first value.
        owner: keeps the memory.
    """

    kind: str
    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    address: int
    owner: object


def is_device_array(value: object) -> bool:
    """Whether ``value`` says that it is in the memory of a CUDA device."""
    if isinstance(value, (np.ndarray, type)):
        return False
    where = _dlpack_device(value)
    if where is not None:
        return where[0] in (_CUDA, _CUDA_MANAGED)
    return hasattr(value, "__cuda_array_interface__")


def borrow(array: Any, device: Device, stream: int) -> Borrowed:
    """Get at an array's memory; ``stream`` waits for the work that the caller has queued.

    Args:
        array: for which :func:`is_device_array` holds.
        device: where it must be; current in this thread.
        stream: of the device.

    Raises:
        ImageError: it is on another device, or its library refuses.
        UnavailableError: the device failed.
        UsageError: the caller captures a CUDA graph.
    """
    kind = type(array).__name__
    where = _dlpack_device(array)
    if where is None:
        borrowed = _by_interface(array, kind, device, stream)
    else:
        if where[1] != device.number:
            _refuse_device(where[1], device)
        try:
            capsule = array.__dlpack__(stream=stream)
        except Exception as error:  # noqa: BLE001  # of any library
            raise ImageError(
                f"the {kind} cannot be read through DLPack ({error}): pass image.detach() or a copy"
            ) from None
        borrowed = _by_capsule(capsule, kind)
    _refuse_capture(device, stream)  # which ours joins where the caller's is not known before
    return borrowed


def _refuse_capture(device: Device, stream: int) -> None:
    if device.is_capturing(stream):
        raise UsageError(
            "the caller's stream is being captured as a CUDA graph, expected one that executes its "
            "work: restore before or after the capture"
        )


def pixels_of(borrowed: Borrowed, device: Device) -> list[DevicePixels]:
    """The images of an array that is (H, W, 3) or (n, H, W, 3).

    Raises:
        ImageError: the bytes of a row are not contiguous, or not in the device's memory.
    """
    *_, height, width, _ = borrowed.shape
    pitch = borrowed.strides[-3] if height > 1 else 3 * width
    if borrowed.strides[-2:] != (3, 1) or pitch < 3 * width:
        raise ImageError(
            f"the {borrowed.kind} has strides of {borrowed.strides} bytes, expected rows of "
            f"contiguous pixels, ({3 * width}, 3, 1): pass .contiguous() or cupy.ascontiguousarray"
        )
    several = len(borrowed.shape) == 4
    starts = range(borrowed.shape[0]) if several else range(1)
    apart = borrowed.strides[0] if several else 0
    images = [DevicePixels(borrowed.address + i * apart, pitch, height, width) for i in starts]
    for image in images:
        for byte in (image.address, image.address + pitch * (height - 1) + 3 * width - 1):
            _check_place(byte, borrowed.kind, device)
    return images


def empty_like(array: Any) -> Any:
    """A new array like this one, of its library and on its device.

    Raises:
        ImageError: its library has no ``empty_like``.
        UnavailableError: it fails, as without memory.
    """
    kind = type(array)
    for base in kind.__mro__:
        library = sys.modules.get(base.__module__.partition(".")[0])
        function = getattr(library, "empty_like", None)
        if function is None:
            continue
        try:
            return function(array)
        except Exception as error:  # noqa: BLE001  # of any library
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UnavailableError(f"no {kind.__name__} for the result: {reason}") from None
    raise ImageError(
        f"{kind.__module__} has no empty_like, with which to create a {kind.__name__} for the "
        "result: pass torch.as_tensor(image) or cupy.asarray(image), which copy nothing"
    )


def _refuse_device(number: int, device: Device) -> NoReturn:
    raise ImageError(
        f"the image is on CUDA device {number}, expected device {device.number}, the Restorer's: "
        f"copy it there, or open the bundle with device={number}"
    )


def _check_place(address: int, kind: str, device: Device) -> None:
    memory, number = device.memory_at(address)
    if memory not in ("device", "managed"):
        raise ImageError(
            f"the {kind} is in {memory} memory, expected that of CUDA device {device.number}: "
            "pass a NumPy array"
        )
    if memory == "device" and number != device.number:
        _refuse_device(number, device)


# __cuda_array_interface__ -----------------------------------------------------------------------


def _by_interface(array: Any, kind: str, device: Device, stream: int) -> Borrowed:
    interface = array.__cuda_array_interface__
    try:
        shape = tuple(operator.index(side) for side in interface["shape"])
        dtype = np.dtype(interface["typestr"])
        strides = interface.get("strides")
        strides = _compact(shape, dtype.itemsize) if strides is None else tuple(strides)
        pointer = operator.index(interface["data"][0])
        # Up to version 2 it has no stream: the default one stands for all.
        caller = interface.get("stream", _LEGACY_STREAM)
        caller = None if caller is None else operator.index(caller)
        if interface.get("mask") is not None:
            raise ValueError("it has a mask")
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise ImageError(f"the {kind} has no valid __cuda_array_interface__: {error}") from None
    if caller is not None:
        _refuse_capture(device, caller)
        device.wait_for(stream, caller)
    return Borrowed(kind, str(dtype), shape, strides, pointer, array)


def _compact(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """Strides in bytes without gaps."""
    strides = [itemsize]
    for side in shape[:0:-1]:
        strides.insert(0, strides[0] * side)
    return tuple(strides[: len(shape)])


# DLPack -----------------------------------------------------------------------------------------


class _Tensor(ctypes.Structure):
    """``DLTensor``, the first member of ``DLManagedTensor``."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


def _dlpack_device(array: object) -> tuple[int, int] | None:
    ask = getattr(array, "__dlpack_device__", None)
    if ask is None:
        return None
    try:
        kind, number = ask()
    except Exception:  # noqa: BLE001  # of any library, for what has no memory
        return None
    return int(kind), int(number)


def _by_capsule(capsule: object, kind: str) -> Borrowed:
    """Read a capsule. It is not taken over: its destructor gives the tensor back."""
    read = ctypes.pythonapi.PyCapsule_GetPointer
    read.restype, read.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    try:
        tensor = _Tensor.from_address(read(capsule, b"dltensor"))
    except ValueError as error:
        raise ImageError(f"the {kind} has no DLPack capsule of version 0: {error}") from None
    shape = tuple(tensor.shape[i] for i in range(tensor.ndim))
    itemsize = tensor.bits * tensor.lanes // 8
    strides = _compact(shape, itemsize)
    if tensor.strides:
        strides = tuple(tensor.strides[i] * itemsize for i in range(tensor.ndim))
    dtype = f"{_DLPACK_KINDS.get(tensor.code, 'unknown ')}{tensor.bits}"
    if tensor.lanes > 1:
        dtype += f" x {tensor.lanes}"
    address = (tensor.data or 0) + tensor.byte_offset
    return Borrowed(kind, dtype, shape, strides, address, capsule)
