"""Peak rates of devices, and their sources.

For GPUs they follow from published hardware: streaming multiprocessors (SMs), clock, and operations
per SM and clock. For this machine's CPU they are measured.
"""

from __future__ import annotations

import time
import timeit
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

__all__ = ["CPU", "DEVICES", "Device", "measure_cpu"]

#: Name of this machine's CPU, whose rates :func:`measure_cpu` measures.
CPU = "cpu"
#: Side of the matrices that :func:`measure_cpu` multiplies, size of the array that it copies (well
#: above what caches hold), and timed runs of each.
_SIDE, _MEGABYTES, _REPEATS = 3072, 256, 5


@dataclass(frozen=True)
class Device:
    """One device's roofline.

    Attributes:
        name: as in ``elir-inspect --cost``.
        title: the device's full name.
        peaks: operations per second by precision of a matrix product (``fp32``, ``fp16``,
            ``int8``), a multiply-accumulate being 2. ``fp32`` is the rate of the general-purpose
            cores, which also do everything outside matrix products.
        bandwidth: bytes per second to and from memory.
        launch_seconds: least time between the starts of two kernels.
        source: of the numbers.
    """

    name: str
    title: str
    peaks: Mapping[str, float]
    bandwidth: float
    launch_seconds: float
    source: str


#: A stream of kernels of 2.9 us each takes 3.8 us a kernel, because the host cannot launch them
#: faster. Measured by NVIDIA on a V100 (A. Gray, "Getting Started with CUDA Graphs", 2019,
#: developer.nvidia.com/blog/cuda-graphs). A Jetson's host is slower; no figure is published.
CUDA_LAUNCH_SECONDS = 3.8e-6

#: Operations of one SM a clock; dense matrices. Turing has 64 float32 cores and 8 tensor cores an
#: SM, Ampere 128 and 4. Tensor cores of GeForce cards take twice the time where float16 products
#: are summed in float32, which is the rate here. TF32 is not counted: it is off in all that runs
#: here.
_TURING_GEFORCE = {"fp32": 2 * 64, "fp16": 512, "int8": 2048}
_AMPERE_GEFORCE = {"fp32": 2 * 128, "fp16": 512, "int8": 2048}
_ORIN = {"fp32": 2 * 128, "fp16": 2048, "int8": 4096}

_TURING_PAPER = (
    "NVIDIA Turing GPU Architecture whitepaper (WP-09183-001), reference board: 68 SMs, 1545 MHz "
    "boost, 13.4 TFLOPS FP32, 53.8 FP16 tensor TFLOPS with FP32 accumulation (107.6 with FP16), "
    "215.2 INT8 tensor TOPS, 616 GB/s"
)
_AMPERE_PAPER = (
    "NVIDIA Ampere GA102 GPU Architecture whitepaper (V2.0), appendix A: 82 SMs, 1695 MHz boost, "
    "35.6 TFLOPS FP32, 71 FP16 tensor TFLOPS with FP32 accumulation (142 with FP16), 284 INT8 "
    "tensor TOPS, 936 GB/s"
)
_AGX = "NVIDIA Jetson AGX Orin Series technical brief (v1.2), without the DLAs"
_NX = "NVIDIA Jetson Orin NX Series data sheet, without the DLAs"
_NANO = "NVIDIA Jetson Orin Nano Series data sheet"
_SUPER = (
    "NVIDIA technical blog, 'JetPack 6.2 Brings Super Mode to Jetson Orin Nano and Jetson Orin NX "
    "Modules' (2025), without the DLAs"
)

#: Title, operations of an SM per clock, SMs, clock in MHz, bandwidth in GB/s, source.
_GPUS: dict[str, tuple[str, Mapping[str, int], int, int, float, str]] = {
    "rtx2080ti": ("GeForce RTX 2080 Ti", _TURING_GEFORCE, 68, 1545, 616, _TURING_PAPER),
    "rtx3090": ("GeForce RTX 3090", _AMPERE_GEFORCE, 82, 1695, 936, _AMPERE_PAPER),
    "orin-nano-4gb": ("Jetson Orin Nano 4GB", _ORIN, 4, 625, 34, _NANO),
    "orin-nano-8gb": ("Jetson Orin Nano 8GB", _ORIN, 8, 625, 68, _NANO),
    "orin-nano-4gb-super": ("Jetson Orin Nano 4GB Super", _ORIN, 4, 1020, 51, _SUPER),
    "orin-nano-8gb-super": ("Jetson Orin Nano 8GB Super", _ORIN, 8, 1020, 102, _SUPER),
    "orin-nx-8gb": ("Jetson Orin NX 8GB", _ORIN, 8, 765, 102.4, _NX),
    "orin-nx-16gb": ("Jetson Orin NX 16GB", _ORIN, 8, 918, 102.4, _NX),
    "orin-nx-8gb-super": ("Jetson Orin NX 8GB Super", _ORIN, 8, 1173, 102.4, _SUPER),
    "orin-nx-16gb-super": ("Jetson Orin NX 16GB Super", _ORIN, 8, 1173, 102.4, _SUPER),
    "agx-orin-32gb": ("Jetson AGX Orin 32GB", _ORIN, 14, 930, 204.8, _AGX),
    "agx-orin-64gb": ("Jetson AGX Orin 64GB", _ORIN, 16, 1300, 204.8, _AGX),
}
#: By name, without this machine's CPU.
DEVICES: dict[str, Device] = {
    name: Device(
        name,
        title,
        {precision: rate * sms * megahertz * 1e6 for precision, rate in per_clock.items()},
        gigabytes * 1e9,
        CUDA_LAUNCH_SECONDS,
        source,
    )
    for name, (title, per_clock, sms, megahertz, gigabytes, source) in _GPUS.items()
}


def measure_cpu(cores: int, model: str) -> Device:
    """The roofline of this machine's CPU: its fastest float32 product and its fastest copy.

    Only float32: numpy has no faster product of smaller types. Takes two to three seconds.

    Args:
        cores: that copy at the same time.
        model: name of the processor.
    """
    rng = np.random.default_rng(0)
    left, right = rng.random((2, _SIDE, _SIDE), dtype=np.float32)
    product = np.empty_like(left)
    multiply = _fastest(lambda: np.matmul(left, right, out=product))

    pieces = np.ones((cores, _MEGABYTES * 2**20 // 4 // cores), dtype=np.float32)
    copies = np.empty_like(pieces)
    with ThreadPoolExecutor(cores) as pool:  # numpy copies without the interpreter lock
        copy = _fastest(lambda: list(pool.map(np.copyto, copies, pieces)))
    return Device(
        CPU,
        f"{model}, {cores} cores",
        {"fp32": 2 * _SIDE**3 / multiply},
        2 * pieces.nbytes / copy,
        0.0,
        f"measured here: numpy, float32 product of {_SIDE}x{_SIDE}, copy of {_MEGABYTES} MiB",
    )


def _fastest(run: Callable[[], object]) -> float:
    """Seconds of the fastest run, after one to warm up."""
    run()
    return min(timeit.repeat(run, timer=time.perf_counter, number=1, repeat=_REPEATS))
