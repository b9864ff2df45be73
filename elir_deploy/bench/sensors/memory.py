"""Memory of a process, on the host and on NVIDIA GPUs."""

from __future__ import annotations

import os
from pathlib import Path

from elir_deploy.bench.sensors.files import ROOT, Tree, whole
from elir_deploy.bench.sensors.nvml import Nvml

__all__ = ["device_bytes", "peak_host_bytes", "reset_peak", "rss_bytes"]


def rss_bytes(root: Path = ROOT) -> int | None:
    """Memory of this process that is resident now, shared pages included."""
    return _from_status(root, "VmRSS")


def peak_host_bytes(root: Path = ROOT) -> int | None:
    """The most it was since the process began, or since :func:`reset_peak`.

    It is the whole process's: of several libraries loaded into one, none can be told apart, and
    what one allocator keeps for later counts on.
    """
    return _from_status(root, "VmHWM")


def reset_peak(root: Path = ROOT) -> bool:
    """Let the peak begin anew at what is resident now (Documentation/filesystems/proc.rst).

    Returns:
        False where the system does not allow it; the peak is then that of the whole process.
    """
    try:
        with (root / "proc/self/clear_refs").open("r+b", buffering=0) as file:
            file.write(b"5")
    except (OSError, ValueError):
        return False
    return True


def device_bytes(process: int | None = None, nvml: Nvml | None = None) -> int | None:
    """Memory of all NVIDIA GPUs that a process holds.

    The CUDA context, some hundred MB, is part of it.

    Args:
        process: its number; None: this one.
        nvml: a session to use; None: one is opened and closed.

    Returns:
        None where NVML is missing or does not know the process: before it uses a GPU, and in
        containers where it has another number outside.
    """
    process = os.getpid() if process is None else process
    if nvml is None:
        with Nvml() as session:
            return device_bytes(process, session)
    held = [nvml.process_bytes(handle, process) for handle in nvml.handles]
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
