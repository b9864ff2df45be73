"""Builds that take minutes without a callback, interrupted by Ctrl-C and SIGTERM."""

from __future__ import annotations

import atexit
import os
import sys
import threading
from collections.abc import Callable
from typing import Any

from elir_deploy.interrupts import Interruption, raise_interruption

__all__ = ["build_in_thread"]

#: Seconds between two checks for a signal.
_CHECK_INTERVAL = 0.1


def build_in_thread(build: Callable[[], Any], interrupted: Interruption) -> Any:
    """Result of ``build`` by a library without a progress callback: TensorRT 8.6.

    The thread is abandoned when the build is interrupted, and ends with the process.
    """
    results: list[Any] = []
    failure: list[BaseException] = []

    def work() -> None:
        try:
            results.append(build())
        except BaseException as error:  # noqa: BLE001  # raised below
            failure.append(error)

    worker = threading.Thread(target=work, name="elir-build", daemon=True)
    worker.start()
    while worker.is_alive() and interrupted.signal is None:
        worker.join(_CHECK_INTERVAL)
    if interrupted.signal is not None and worker.is_alive():
        # The library's objects must not be destroyed while it uses them.
        atexit.register(_exit_process, worker, 128 + interrupted.signal)
        raise_interruption(interrupted.signal)
    if failure:
        raise failure[0]
    return results[0]


def _exit_process(worker: threading.Thread, code: int) -> None:
    if worker.is_alive():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
