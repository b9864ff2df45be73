"""A service in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager


class Running:
    def __init__(self, process: subprocess.Popen[str], url: str) -> None:
        self.process = process
        self.url = url


@contextmanager
def running(*arguments: object, **environment: str) -> Iterator[Running]:
    """``elir-serve`` with these arguments, on a free port of loopback."""
    process = subprocess.Popen(
        [sys.executable, "-m", "elir_deploy.cli.serve", *map(str, arguments), "--port", "0"],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
    )
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert url, f"elir-serve ended with {process.wait()}"
        yield Running(process, url)
    finally:
        process.terminate()
        try:
            process.wait(60)
        finally:
            process.kill()
