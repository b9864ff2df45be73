"""A runner's first start: loading and the first picture, in a new process.

In the benchmark's process libraries are imported and caches warm long before the second runner
loads, and all share one memory. So each is started alone:
``python -m elir_deploy.bench.cold BUNDLE BACKEND PRECISION THREADS DEVICE START`` prints one line
of JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from elir_deploy.errors import UnavailableError

__all__ = ["ColdStart", "start_cold"]

_SECONDS_AT_MOST = 600
#: Seed of the image's random bytes.
_SEED = 0


@dataclass(frozen=True)
class ColdStart:
    """A new process from its start to its first picture.

    Attributes:
        import_s: starting Python and importing the runtime.
        load_s: opening the bundle on the backend, hashes, compiling and caches included.
        first_result_s: restoring the first picture, of random bytes.
        peak_rss_bytes: peak memory of the process until then; None where unknown.
        device_bytes: NVIDIA GPU memory of the process at that moment; None where it has none or
            NVML does not tell: without the package, in most containers, and on Jetson.
    """

    import_s: float
    load_s: float
    first_result_s: float
    peak_rss_bytes: int | None
    device_bytes: int | None


def start_cold(
    bundle: Path, backend: str, precision: str, *, threads: int | None, device: int | str = 0
) -> ColdStart:
    """Measure one start, with the caches of the file system and the backend as they are.

    Raises:
        UnavailableError: the process failed; with the last line it printed.
    """
    command = [sys.executable, "-m", "elir_deploy.bench.cold"]
    command += [str(bundle), backend, precision, str(threads or 0), json.dumps(device)]
    try:
        process = subprocess.run(
            # The clock that counts from the machine's boot, so that both processes read the same.
            [*command, str(time.monotonic_ns())],
            capture_output=True,
            text=True,
            timeout=_SECONDS_AT_MOST,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnavailableError(f"a new process could not be measured: {error}") from None
    try:
        return ColdStart(**json.loads(process.stdout.strip().splitlines()[-1]))
    except (IndexError, ValueError, TypeError):
        message = (process.stderr.strip().splitlines() or ["no message"])[-1]
        raise UnavailableError(
            f"a new process ended with {process.returncode}: {message[:300]}"
        ) from None


def main(arguments: list[str]) -> None:
    """Run in the new process."""
    import numpy as np

    from elir_deploy.runtime import Bundle, Restorer

    imported = time.monotonic_ns()
    folder, backend, precision, threads, device, start = arguments
    bundle = Bundle.open(folder)
    with Restorer(
        bundle,
        backend,
        precision=precision,
        threads=int(threads) or None,
        device=json.loads(device),
    ) as restore:
        loaded = time.monotonic_ns()
        size = (*bundle.manifest.input_size, 3)
        image = np.random.default_rng(_SEED).integers(0, 256, size, np.uint8)
        ready = time.monotonic_ns()
        restore(image)
        done = time.monotonic_ns()
        # Imported here: an application would not load it.
        from elir_deploy.bench.sensors import process

        result = ColdStart(
            import_s=(imported - int(start)) / 1e9,
            load_s=(loaded - imported) / 1e9,
            first_result_s=(done - ready) / 1e9,
            peak_rss_bytes=process.peak_host_bytes(),
            device_bytes=process.device_bytes(),
        )
    print(json.dumps(asdict(result)))


if __name__ == "__main__":
    main(sys.argv[1:])
