"""Peak rates of devices, and their sources.

For GPUs they follow from published hardware: streaming multiprocessors (SMs), clock, and operations
per SM and clock. For this machine's CPU they are measured.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

__all__ = ["CPU", "DEVICES", "Device", "measure_cpu"]

#: Name of this machine's CPU, whose rates :func:`measure_cpu` measures.
CPU = "cpu"


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
#: SM; those of GeForce cards take twice the time where float16 products are summed in float32,
#: which is the rate here. Orin's Ampere has 128 cores and 4 tensor cores. TF32 is not counted: it
#: is off in all that runs here.
_TURING_GEFORCE = {"fp32": 2 * 64, "fp16": 512, "int8": 2048}
_ORIN = {"fp32": 2 * 128, "fp16": 2048, "int8": 4096}

_TURING_PAPER = (
    "NVIDIA Turing GPU Architecture whitepaper (WP-09183-001), reference board: 68 SMs, 1545 MHz "
    "boost, 13.4 TFLOPS FP32, 53.8 FP16 tensor TFLOPS with FP32 accumulation (107.6 with FP16), "
    "215.2 INT8 tensor TOPS, 616 GB/s"
)
_AGX_BRIEF = (
    "NVIDIA Jetson AGX Orin Series technical brief (v1.2): {} INT8 tensor TOPS of the GPU with "
    "sparsity, twice the dense rate here, {} CUDA cores at {} MHz, 204.8 GB/s; the DLAs left out"
)
_NX_SHEET = (
    "NVIDIA Jetson Orin NX Series data sheet: {} INT8 TOPS with sparsity, {} of them the DLAs', "
    "which are left out; 1024 CUDA cores at {} MHz, 102.4 GB/s"
)
_NANO_SHEET = (
    "NVIDIA Jetson Orin Nano Series data sheet: {} dense INT8 TOPS, {} CUDA cores at 625 MHz, "
    "{} GB/s"
)
_SUPER_BLOG = (
    "NVIDIA technical blog, 'JetPack 6.2 Brings Super Mode to Jetson Orin Nano and Jetson Orin NX "
    "Modules' (2025): {} INT8 TOPS with sparsity, GPU at {} MHz, {} GB/s"
)


#: Title, operations of an SM per clock, SMs, clock in MHz, bandwidth in GB/s, source.
_GPUS: dict[str, tuple[str, Mapping[str, int], int, int, float, str]] = {
    "rtx2080ti": ("GeForce RTX 2080 Ti", _TURING_GEFORCE, 68, 1545, 616, _TURING_PAPER),
    "orin-nano-4gb": (
        *("Jetson Orin Nano 4GB", _ORIN, 4, 625, 34),
        _NANO_SHEET.format(10, 512, 34),
    ),
    "orin-nano-8gb": (
        *("Jetson Orin Nano 8GB", _ORIN, 8, 625, 68),
        _NANO_SHEET.format(20, 1024, 68),
    ),
    "orin-nano-4gb-super": (
        *("Jetson Orin Nano 4GB Super", _ORIN, 4, 1020, 51),
        _SUPER_BLOG.format(34, 1020, 51),
    ),
    "orin-nano-8gb-super": (
        *("Jetson Orin Nano 8GB Super", _ORIN, 8, 1020, 102),
        _SUPER_BLOG.format(67, 1020, 102),
    ),
    "orin-nx-8gb": ("Jetson Orin NX 8GB", _ORIN, 8, 765, 102.4, _NX_SHEET.format(70, 20, 765)),
    "orin-nx-16gb": ("Jetson Orin NX 16GB", _ORIN, 8, 918, 102.4, _NX_SHEET.format(100, 40, 918)),
    "orin-nx-8gb-super": (
        *("Jetson Orin NX 8GB Super", _ORIN, 8, 1173, 102.4),
        _SUPER_BLOG.format("117 (40 of them the DLA's)", 1173, 102.4),
    ),
    "orin-nx-16gb-super": (
        *("Jetson Orin NX 16GB Super", _ORIN, 8, 1173, 102.4),
        _SUPER_BLOG.format("157 (80 of them the DLAs')", 1173, 102.4),
    ),
    "agx-orin-32gb": (
        *("Jetson AGX Orin 32GB", _ORIN, 14, 930, 204.8),
        _AGX_BRIEF.format(108, 1792, 930),
    ),
    "agx-orin-64gb": (
        *("Jetson AGX Orin 64GB", _ORIN, 16, 1300, 204.8),
        _AGX_BRIEF.format(170, 2048, 1300),
    ),
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


def measure_cpu(
    cores: int, model: str, *, side: int = 3072, megabytes: int = 256, repeats: int = 5
) -> Device:
    """The roofline of this machine's CPU: its fastest float32 product and its fastest copy.

    Only float32: numpy has no faster product of smaller types. Takes two to three seconds.

    Args:
        cores: that copy at the same time.
        model: name of the processor.
        side: of the square matrices multiplied.
        megabytes: of the array copied, well above what caches hold.
        repeats: timed runs of each after one to warm up; the fastest counts.
    """
    rng = np.random.default_rng(0)
    left, right = rng.random((2, side, side), dtype=np.float32)
    product = np.empty_like(left)
    multiply = _fastest(lambda: np.matmul(left, right, out=product), repeats)

    pieces = np.ones((cores, megabytes * 2**20 // 4 // cores), dtype=np.float32)
    copies = np.empty_like(pieces)
    with ThreadPoolExecutor(cores) as pool:  # numpy copies without the interpreter lock

        def copy_all() -> None:
            list(pool.map(np.copyto, copies, pieces))

        copy = _fastest(copy_all, repeats)
    return Device(
        CPU,
        f"{model}, {cores} cores",
        {"fp32": 2 * side**3 / multiply},
        2 * pieces.nbytes / copy,
        0.0,
        f"measured here: numpy, float32 product of {side}x{side}, copy of {megabytes} MiB",
    )


def _fastest(run: Callable[[], object], repeats: int) -> float:
    """Seconds of the fastest of ``repeats`` runs, after one to warm up."""
    run()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds)
