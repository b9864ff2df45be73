"""CUDA, as far as a session needs it, through cuda-python or else pycuda.

A :class:`Device` hands out addresses and handles as integers, which TensorRT takes. Every call that
fails raises an UnavailableError with the name of the call and CUDA's error. All memory belongs to
the device's primary context, which TensorRT and PyTorch use too.
"""

from __future__ import annotations

import ctypes
import importlib

from elir_deploy.errors import MissingDependencyError, UnavailableError
from elir_deploy.operating_system import CUDA_DRIVER
from elir_deploy.runtime.cuda_device import Device
from elir_deploy.runtime.cuda_python import CudaPythonDevice, import_cuda_python
from elir_deploy.runtime.pycuda_device import PyCudaDevice

__all__ = ["Device", "device_capabilities", "open_device"]

_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR


def open_device(number: int, extra: str) -> Device:
    """Open a device through the installed library.

    Args:
        number: CUDA's number of the device.
        extra: the extra of this project that installs cuda-python.

    Raises:
        MissingDependencyError: neither cuda-python nor pycuda is installed.
        UnavailableError: there is no such device, or CUDA does not start.
    """
    runtime = import_cuda_python()
    if runtime is not None:
        return CudaPythonDevice(runtime, number)
    try:
        driver = importlib.import_module("pycuda.driver")
    except ModuleNotFoundError:
        raise MissingDependencyError("cuda-python", extra, "use a GPU") from None
    except ImportError as error:
        raise UnavailableError(f"pycuda cannot be imported: {error}") from None
    return PyCudaDevice(driver, number)


def device_capabilities() -> tuple[str, ...]:
    """Compute capability of every device, such as ``sm75``, from the driver alone.

    Empty if there is no driver, or if it fails.
    """
    try:
        driver = ctypes.CDLL(CUDA_DRIVER)
    except OSError:
        return ()
    count = ctypes.c_int()
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return ()
    capabilities = []
    for number in range(count.value):
        device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
        if (
            driver.cuDeviceGet(ctypes.byref(device), number)
            or driver.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, device)
            or driver.cuDeviceGetAttribute(ctypes.byref(minor), _MINOR, device)
        ):
            return ()
        capabilities.append(f"sm{major.value}{minor.value}")
    return tuple(capabilities)
