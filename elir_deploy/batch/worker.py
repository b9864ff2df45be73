"""One worker: an opened bundle that restores the jobs it gets, in a process of its own."""

from __future__ import annotations

import os
import queue
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from elir_deploy.batch.places import LocalJob, RemoteJob
from elir_deploy.errors import OutputError
from elir_deploy.photo.choices import Choices, file_restorer, open_pictures
from elir_deploy.runtime.files import restore_files
from elir_deploy.runtime.images import Quality
from elir_deploy.runtime.jobs import Job
from elir_deploy.runtime.results import Result

__all__ = ["Worker", "WorkerOptions"]


@dataclass(frozen=True)
class WorkerOptions:
    """What every worker restores with.

    Attributes:
        bundle, background: folders of bundles, or ``tiny``.
        options: those of :class:`~elir_deploy.photo.choices.Choices`.
        folder: the working folder, with the same bundles and pictures on every machine.
        strength, bits, quality: as for :func:`~elir_deploy.runtime.files.restore_files`.
        copies: where a worker keeps copies of pictures of URLs; None: in its temporary folder.
    """

    bundle: str
    background: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    folder: str = "."
    strength: float = 1.0
    bits: int | None = None
    quality: Quality = None
    copies: str | None = None


class Worker:
    """Restores jobs with one opened bundle."""

    def __init__(self, options: WorkerOptions) -> None:
        self._options = options
        with suppress(FileNotFoundError):  # on another machine; only relative paths need it
            os.chdir(options.folder)
        choices = Choices.opened(options.bundle, options.background, **options.options)
        opened = open_pictures(choices, ExitStack())  # closed with the process
        self._files = file_restorer(choices, opened)
        self._name = str(opened)

    def name(self) -> str:
        """What runs: task, backend, precision and threads."""
        return self._name

    def restore(self, jobs: Sequence[Job]) -> Iterator[Result]:
        """Restore ``jobs``; their results follow as they are ready, in any order.

        Raises:
            DiskFullError, DeviceLostError: no further image can be restored.
        """
        results: queue.SimpleQueue[Result | BaseException | None] = queue.SimpleQueue()

        def run() -> None:
            try:
                with ExitStack() as stack:
                    self._restore(self._at_hand(jobs, stack), results.put)
                results.put(None)
            except BaseException as error:  # noqa: BLE001  # the caller's
                results.put(error)

        thread = threading.Thread(target=run, name="elir-batch")
        thread.start()
        while (result := results.get()) is not None:
            if isinstance(result, BaseException):
                raise result
            yield result
        thread.join()

    def _at_hand(self, jobs: Sequence[Job], stack: ExitStack) -> list[Job]:
        """Jobs with files on this machine; copies of others are deleted at the end of ``stack``."""
        if not any(isinstance(job, RemoteJob) for job in jobs):
            return list(jobs)
        made = tempfile.TemporaryDirectory(prefix="elir-batch-", dir=self._options.copies)
        folder = Path(stack.enter_context(made))
        return [LocalJob.of(job, folder) if isinstance(job, RemoteJob) else job for job in jobs]

    def _restore(self, jobs: Sequence[Job], tell: Callable[[Result], None]) -> None:
        def finish(result: Result) -> None:
            job, failure = result.job, result.failure
            if isinstance(job, LocalJob):
                if failure is None:
                    try:
                        job.send()
                    except OutputError as error:
                        failure = str(error)
                else:
                    failure = failure.replace(str(job.source), job.remote.input_name)
                result = replace(result, job=job.remote, failure=failure)
            tell(result)

        options = self._options
        restore_files(
            self._files,
            jobs,
            strength=options.strength,
            bits=options.bits,
            quality=options.quality,
            on_result=finish,
        )
