"""The first minute of an application: what loading takes, and the first picture, in a new process.

In the benchmark's own process libraries are imported and caches are warm long before the second
contender loads, and its memory is everybody's. So each is started alone:
``python -m elir_deploy.bench.cold BUNDLE BACKEND PRECISION THREADS`` prints one line of JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from elir_deploy.errors import UnavailableError

__all__ = ["ColdStart", "start_cold"]

_SECONDS_AT_MOST = 600


@dataclass(frozen=True)
class ColdStart:
    """A new process from its first instruction to its first picture.

    Attributes:
        import_s: importing the runtime.
        load_s: opening the bundle on the backend; hashes, compiling and caches are inside.
        first_result_s: of the first picture.
        peak_rss_bytes: most memory that the process had until then; None where unknown.
        device_bytes: memory of NVIDIA's GPUs that it held then; None where it held none, or NVML
            does not tell: without the package, in most containers, on Jetson, whose GPU has no
            memory of its own.
    """

    import_s: float
    load_s: float
    first_result_s: float
    peak_rss_bytes: int | None
    device_bytes: int | None


def start_cold(bundle: Path, backend: str, precision: str, *, threads: int | None) -> ColdStart:
    """Measure one start. The file system's cache, and the backend's own, are as they are found.

    Args:
        bundle: its folder.
        backend: name of the backend.
        precision: to run in.
        threads: CPU threads of the session.

    Raises:
        UnavailableError: the process failed; with the last line it printed.
    """
    command = [sys.executable, "-m", "elir_deploy.bench.cold"]
    arguments = [str(bundle), backend, precision, str(threads or 0)]
    try:
        done = subprocess.run(
            [*command, *arguments],
            capture_output=True,
            text=True,
            timeout=_SECONDS_AT_MOST,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnavailableError(f"a new process could not be measured: {error}") from None
    lines = done.stdout.strip().splitlines()
    try:
        values: dict[str, Any] = json.loads(lines[-1])
        return ColdStart(**values)
    except (IndexError, ValueError, TypeError):
        said = (done.stderr.strip().splitlines() or ["nothing was said"])[-1]
        raise UnavailableError(
            f"a new process ended with {done.returncode}: {said[:300]}"
        ) from None


def main(arguments: list[str]) -> None:
    """In the new process."""
    began = time.perf_counter()
    import numpy as np

    from elir_deploy.runtime import Bundle, Restorer

    imported = time.perf_counter()
    folder, backend, precision, threads = arguments
    bundle = Bundle.open(folder)
    side = bundle.info.model.image_size // bundle.info.model.upscale
    with Restorer(bundle, backend, precision=precision, threads=int(threads) or None) as restore:
        loaded = time.perf_counter()
        restore(np.zeros((side, side, 3), np.uint8))
        done = time.perf_counter()
        device_bytes = held_on_devices()
    print(
        json.dumps(
            {
                "import_s": imported - began,
                "load_s": loaded - imported,
                "first_result_s": done - loaded,
                "peak_rss_bytes": _peak_rss_bytes(),
                "device_bytes": device_bytes,
            }
        )
    )


def held_on_devices(load: Callable[[], Any] | None = None) -> int | None:
    """Bytes that this process holds on all of NVIDIA's GPUs; None where none are known of.

    Args:
        load: gives the NVML module; None: the installed one.
    """
    from elir_deploy.bench.sensors.nvml import Nvml, import_pynvml

    with Nvml(load or import_pynvml) as nvml:
        held = [nvml.process_bytes(handle, os.getpid()) for handle in nvml.handles]
    known = [count for count in held if count is not None]
    return sum(known) if known else None


def _peak_rss_bytes() -> int | None:
    """Since the process began."""
    try:
        status = Path("/proc/self/status").read_text("ascii", "replace")
    except OSError:
        return None
    for line in status.splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return None


if __name__ == "__main__":
    main(sys.argv[1:])
