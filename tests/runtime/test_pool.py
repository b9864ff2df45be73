"""Sessions lent to threads."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import threading, time
from types import SimpleNamespace
from elir_deploy.runtime.pool import Pool

pool = Pool([SimpleNamespace(session=None)])
running = threading.Event()

def work():
    for number in (1, 2):
        pool.take()
        running.set()
        time.sleep(0.5)
        print(f"run {number} ended", flush=True)
        pool.give_back()

threading.Thread(target=work, daemon=True).start()
running.wait()
"""


def test_a_run_ends_before_the_process() -> None:
    """OpenVINO aborts a process that ends while a daemon thread is inside it."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (0, "run 1 ended\n"), done.stderr
