"""A build of minutes in a library that asks nobody meanwhile, which Ctrl-C and SIGTERM end."""

from __future__ import annotations

import atexit
import os
import sys
import threading
from collections.abc import Callable
from typing import Any

from elir_deploy.interrupts import Interruption, raise_interruption

__all__ = ["built_aside"]

#: Seconds between two looks for Ctrl-C, where the library does not ask for it.
_LOOKS_EVERY = 0.1


def built_aside(build: Callable[[], Any], interrupted: Interruption) -> Any:
    """What ``build`` returns, of a library that asks nobody while it builds: TensorRT 8.6.

    It builds in a thread, which is left to itself when the build is interrupted, and ends with the
    process.
    """
    made: list[Any] = []
    failure: list[BaseException] = []

    def work() -> None:
        try:
            made.append(build())
        except BaseException as error:  # noqa: BLE001  # raised below
            failure.append(error)

    worker = threading.Thread(target=work, name="elir-build", daemon=True)
    worker.start()
    while worker.is_alive() and interrupted.signal is None:
        worker.join(_LOOKS_EVERY)
    if interrupted.signal is not None and worker.is_alive():
        # What the library holds must not be taken apart under it.
        atexit.register(_exit_beside, worker, 128 + interrupted.signal)
        raise_interruption(interrupted.signal)
    if failure:
        raise failure[0]
    return made[0]


def _exit_beside(worker: threading.Thread, code: int) -> None:
    if worker.is_alive():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
