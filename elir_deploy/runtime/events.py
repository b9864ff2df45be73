"""The events of ``elir-restore --events``: one JSON object a line, for programs that follow a run.

Of every input::

    {"event": "image", "input": "a.jpg", "output": "out/a.png", "status": "restored",
     "message": null, "seconds": 0.31}

``status`` is ``restored``, ``skipped`` or ``failed``; ``output`` is null for a failure, and the
``message`` its reason, or a warning. Events of films are called ``film``, and have ``frames``, the
number of pictures restored; ``output`` of one that ends early is the file with its beginning. Where
faces were looked for, there are also ``faces``, in pixels of the input as a person sees it::

    {"box": [x0, y0, x1, y1], "landmarks": [[x, y], …], "score": 0.9, "restored": false,
     "reason": "too small: …"}

The last line counts the inputs, also after an interruption::

    {"event": "summary", "restored": 1, "skipped": 0, "failed": 0, "ignored": {".xyz": 2}}
"""

from __future__ import annotations

import json
import sys
import threading
from collections import Counter
from contextlib import suppress
from types import TracebackType
from typing import Any

from elir_deploy.errors import OutputError
from elir_deploy.output_files import discard, is_standard_output, open_stream
from elir_deploy.runtime.jobs import Plan
from elir_deploy.runtime.results import Result

__all__ = ["EventLog"]


class EventLog:
    """Writes the events of a run; the ``with`` block ends with the summary.

    Args:
        path: file to write, ``-`` is standard output; an existing one is replaced.
        plan: the plan that is carried out.
        kind: of its inputs, ``image`` or ``film``.

    Raises:
        OutputError: the file cannot be written, here and in every method.
    """

    def __init__(self, path: str, plan: Plan, kind: str = "image") -> None:
        self._path = path
        self._kind = kind
        self._plan = plan
        self._counts = Counter[str]()
        self._lock = threading.Lock()
        self._stdout = is_standard_output(path)
        self._file = sys.stdout.buffer if self._stdout else open_stream(path)

    def __enter__(self) -> EventLog:
        for job in self._plan.skipped:
            self._input(Result(job, warning="a result already exists"), "skipped")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        ignored = Counter(path.suffix.lower() for path in self._plan.presumed_results)
        ignored.update({s: count for s, (count, _) in self._plan.unread.files.items()})
        counts = {status: self._counts[status] for status in ("restored", "skipped", "failed")}
        try:
            self._write({"event": "summary", **counts, "ignored": dict(sorted(ignored.items()))})
        except OutputError:
            if error is None:
                raise
        finally:
            if not self._stdout:
                with suppress(OSError):  # of what could not be written before
                    self._file.close()

    def result(self, result: Result) -> None:
        """Write the event of a job; may be called from any thread."""
        self._input(result, "restored" if result.failure is None else "failed")

    def _input(self, result: Result, status: str) -> None:
        event: dict[str, Any] = {
            "event": self._kind,
            "input": result.job.input_name,
            "output": result.output,
            "status": status,
            "message": result.failure or result.warning,
            "seconds": round(result.seconds, 4),
        }
        if result.faces is not None:
            event["faces"] = list(result.faces)
        if result.frames is not None:
            event["frames"] = result.frames
        self._write(event)

    def _write(self, event: dict[str, Any]) -> None:
        # ASCII, with escapes: file names need not be valid in any encoding.
        line = json.dumps(event).encode() + b"\n"
        with self._lock:
            try:
                self._file.write(line)
                self._file.flush()
                if event["event"] == self._kind:
                    self._counts[event["status"]] += 1
            except OSError as error:
                if self._stdout:
                    discard(sys.stdout)
                raise self._failure(error) from None

    def _failure(self, error: OSError) -> OutputError:
        return OutputError(f"the events cannot be written to {self._path}: {error.strerror}")
