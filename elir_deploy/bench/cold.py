"""The first minute of an application: what loading takes, and the first picture, in a new process.

In the benchmark's own process libraries are imported and caches are warm long before the second
runner loads, and its memory is everybody's. So each is started alone:
``python -m elir_deploy.bench.cold BUNDLE BACKEND PRECISION THREADS BEGAN`` prints one line of JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from elir_deploy.errors import UnavailableError

__all__ = ["ColdStart", "start_cold"]

_SECONDS_AT_MOST = 600
#: Of the image's random bytes.
_SEED = 0


@dataclass(frozen=True)
class ColdStart:
    """A new process from the call that starts it to its first picture.

    Attributes:
        import_s: starting Python and importing the runtime, which reports call the start.
        load_s: opening the bundle on the backend; hashes, compiling and caches are inside.
        first_result_s: of the first picture, of random bytes.
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


def start_cold(
    bundle: Path, backend: str, precision: str, *, threads: int | None, temporary: bool = False
) -> ColdStart:
    """Measure one start. The file system's cache, and the backend's own, are as they are found.

    Args:
        bundle: its folder.
        backend: name of the backend.
        precision: to run in.
        threads: CPU threads of the session.
        temporary: of the bundle nothing compiled is kept, so loading it compiles it.

    Raises:
        UnavailableError: the process failed; with the last line it printed.
    """
    command = [sys.executable, "-m", "elir_deploy.bench.cold"]
    arguments = [str(bundle), backend, precision, str(threads or 0)]
    # The clock that counts from the machine's start, so that both processes read the same.
    began = str(time.monotonic_ns())
    try:
        done = subprocess.run(
            [*command, *arguments, began],
            env=os.environ | ({"ELIR_CACHE_LIMIT": "0"} if temporary else {}),
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
    import numpy as np

    from elir_deploy.runtime import Bundle, Restorer

    imported = time.monotonic_ns()
    folder, backend, precision, threads, began = arguments
    bundle = Bundle.open(folder)
    with Restorer(bundle, backend, precision=precision, threads=int(threads) or None) as restore:
        loaded = time.monotonic_ns()
        side = bundle.manifest.image_size // bundle.manifest.model.upscale
        image = np.random.default_rng(_SEED).integers(0, 256, (side, side, 3), np.uint8)
        ready = time.monotonic_ns()
        restore(image)
        done = time.monotonic_ns()
        # Not before: it is no part of what an application loads.
        from elir_deploy.bench.sensors import process

        found = ColdStart(
            import_s=(imported - int(began)) / 1e9,
            load_s=(loaded - imported) / 1e9,
            first_result_s=(done - ready) / 1e9,
            peak_rss_bytes=process.peak_host_bytes(),
            device_bytes=process.device_bytes(),
        )
    print(json.dumps(asdict(found)))


if __name__ == "__main__":
    main(sys.argv[1:])
