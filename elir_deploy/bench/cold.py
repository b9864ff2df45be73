"""The first minute of an application: what loading takes, and the first picture, in a new process.

In the benchmark's own process libraries are imported and caches are warm long before the second
contender loads, and its memory is everybody's. So each is started alone:
``python -m elir_deploy.bench.cold BUNDLE BACKEND PRECISION THREADS`` prints one line of JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
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
    """

    import_s: float
    load_s: float
    first_result_s: float
    peak_rss_bytes: int | None


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
    print(
        json.dumps(
            {
                "import_s": imported - began,
                "load_s": loaded - imported,
                "first_result_s": done - loaded,
                "peak_rss_bytes": _peak_rss_bytes(),
            }
        )
    )


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
