"""Memory of a process, on the host and on NVIDIA GPUs."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from elir_deploy.bench.sensors.files import ROOT, Tree, whole
from elir_deploy.bench.sensors.nvml import Nvml, import_pynvml

__all__ = ["device_bytes", "peak_host_bytes", "rss_bytes"]


def rss_bytes(root: Path = ROOT) -> int | None:
    """Memory of this process that is resident now, shared pages included."""
    return _from_status(root, "VmRSS")


def peak_host_bytes(root: Path = ROOT) -> int | None:
    """The most it was since the process began: all libraries' together, none can be told apart."""
    return _from_status(root, "VmHWM")


def device_bytes(load: Callable[[], Any] = import_pynvml) -> int | None:
    """Memory of all NVIDIA GPUs that this process holds, the CUDA context's some 100 MB included.

    Args:
        load: gives the NVML module.

    Returns:
        None where NVML is missing or does not know the process: before it uses a GPU, and in
        containers where it has another number outside.
    """
    with Nvml(load) as nvml:
        held = [nvml.process_bytes(handle, os.getpid()) for handle in nvml.handles]
    known = [count for count in held if count is not None]
    return sum(known) if known else None


def _from_status(root: Path, name: str) -> int | None:
    for line in (Tree(root).text("proc/self/status") or "").splitlines():
        label, _, value = line.partition(":")
        if label == name:
            number, _, unit = value.strip().partition(" ")
            count = whole(number)
            return count * 1024 if count is not None and unit == "kB" else None
    return None
