"""Devices as data: how fast each can compute and move bytes at most, and who says so.

A roofline has two numbers, operations and bytes a second. For GPUs they follow from published
hardware: streaming multiprocessors (SMs), clock, and operations that one SM finishes a clock. For
the CPU at hand they are measured.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from elir_deploy.bench.device import describe_device, usable_cores
from elir_deploy.errors import UsageError

__all__ = ["CPU", "DEVICES", "Device", "device_named", "measure_cpu"]

#: What the CPU at hand is called; its numbers are measured by :func:`measure_cpu`.
CPU = "cpu"


@dataclass(frozen=True)
class Device:
    """One device's roofline.

    Attributes:
        name: what ``elir-inspect --cost`` takes.
        title: for people.
        peaks: precision of a matrix product (``fp32``, ``fp16``, ``int8``) to operations a second,
            a multiply-accumulate being 2. ``fp32`` is that of the general-purpose cores, which
            also do whatever is no matrix product.
        bandwidth: bytes a second to and from memory.
        launch_seconds: least time between the beginnings of two kernels, however small.
        source: where the numbers come from.
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


def _gpu(
    name: str,
    title: str,
    per_clock: Mapping[str, int],
    sms: int,
    megahertz: int,
    gigabytes: float,
    source: str,
) -> Device:
    peaks = {precision: rate * sms * megahertz * 1e6 for precision, rate in per_clock.items()}
    return Device(name, title, peaks, gigabytes * 1e9, CUDA_LAUNCH_SECONDS, source)


_TABLE = (
    _gpu("rtx2080ti", "GeForce RTX 2080 Ti", _TURING_GEFORCE, 68, 1545, 616, _TURING_PAPER),
    _gpu(
        *("orin-nano-4gb", "Jetson Orin Nano 4GB", _ORIN, 4, 625, 34),
        _NANO_SHEET.format(10, 512, 34),
    ),
    _gpu(
        *("orin-nano-8gb", "Jetson Orin Nano 8GB", _ORIN, 8, 625, 68),
        _NANO_SHEET.format(20, 1024, 68),
    ),
    _gpu(
        *("orin-nano-4gb-super", "Jetson Orin Nano 4GB Super", _ORIN, 4, 1020, 51),
        _SUPER_BLOG.format(34, 1020, 51),
    ),
    _gpu(
        *("orin-nano-8gb-super", "Jetson Orin Nano 8GB Super", _ORIN, 8, 1020, 102),
        _SUPER_BLOG.format(67, 1020, 102),
    ),
    _gpu(
        *("orin-nx-8gb", "Jetson Orin NX 8GB", _ORIN, 8, 765, 102.4),
        _NX_SHEET.format(70, 20, 765),
    ),
    _gpu(
        *("orin-nx-16gb", "Jetson Orin NX 16GB", _ORIN, 8, 918, 102.4),
        _NX_SHEET.format(100, 40, 918),
    ),
    _gpu(
        *("orin-nx-8gb-super", "Jetson Orin NX 8GB Super", _ORIN, 8, 1173, 102.4),
        _SUPER_BLOG.format("117 (40 of them the DLA's)", 1173, 102.4),
    ),
    _gpu(
        *("orin-nx-16gb-super", "Jetson Orin NX 16GB Super", _ORIN, 8, 1173, 102.4),
        _SUPER_BLOG.format("157 (80 of them the DLAs')", 1173, 102.4),
    ),
    _gpu(
        *("agx-orin-32gb", "Jetson AGX Orin 32GB", _ORIN, 14, 930, 204.8),
        _AGX_BRIEF.format(108, 1792, 930),
    ),
    _gpu(
        *("agx-orin-64gb", "Jetson AGX Orin 64GB", _ORIN, 16, 1300, 204.8),
        _AGX_BRIEF.format(170, 2048, 1300),
    ),
)
#: By name; the CPU at hand is not among them.
DEVICES: dict[str, Device] = {device.name: device for device in _TABLE}


def device_named(name: str) -> Device:
    """The device called ``name``; the CPU at hand is measured, which takes about two seconds.

    Raises:
        UsageError: there is none; the message lists those there are.
    """
    if name == CPU:
        return measure_cpu()
    try:
        return DEVICES[name]
    except KeyError:
        raise UsageError(f"no device {name!r}: choose one of {', '.join(DEVICES)}, {CPU}") from None


def measure_cpu(side: int = 3072, megabytes: int = 256, repeats: int = 5) -> Device:
    """The roofline of the CPU at hand: its fastest float32 product and its fastest copy.

    Only float32: numpy has no faster product of smaller types.

    Args:
        side: of the square matrices multiplied.
        megabytes: of the array copied, well above what caches hold.
        repeats: runs of each, after one that does not count; the fastest stands.
    """
    rng = np.random.default_rng(0)
    left, right = rng.random((2, side, side), dtype=np.float32)
    product = np.empty_like(left)
    multiply = _fastest(lambda: np.matmul(left, right, out=product), repeats)

    cores = usable_cores()
    pieces = np.ones((cores, megabytes * 2**20 // 4 // cores), dtype=np.float32)
    copies = np.empty_like(pieces)
    with ThreadPoolExecutor(cores) as pool:  # copying leaves the interpreter lock

        def copy_all() -> None:
            list(pool.map(np.copyto, copies, pieces))

        copy = _fastest(copy_all, repeats)
    model = describe_device()["cpu"]["model"] or "CPU"
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
    best = math.inf
    for number in range(repeats + 1):
        start = time.perf_counter()
        run()
        elapsed = time.perf_counter() - start
        if number:
            best = min(best, elapsed)
    return best
