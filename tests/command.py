"""Commands run in the process of the tests, where PyTorch and the exporter are loaded already.

What a process adds, its start, its signals and its exit code, is tested with processes.
"""

from __future__ import annotations

import contextlib
import io
import signal
import sys
from collections.abc import Callable
from subprocess import CompletedProcess


def run_here(main: Callable[[], object], *arguments: object) -> CompletedProcess[str]:
    """The ``main`` of a command with these arguments; gives what a process would have given."""
    command = ["elir", *map(str, arguments)]
    out, err = io.StringIO(), io.StringIO()
    argv, handler = sys.argv, signal.getsignal(signal.SIGTERM)
    sys.argv = command
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
    except SystemExit as ended:
        code = ended.code
    else:
        code = 0
    finally:
        sys.argv = argv
        signal.signal(signal.SIGTERM, handler)
    assert code is None or isinstance(code, int), code
    return CompletedProcess(command, code or 0, out.getvalue(), err.getvalue())
