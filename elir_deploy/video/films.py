"""Restoring several films, one after another."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from elir_deploy.errors import DeviceLostError, DiskFullError, ElirError
from elir_deploy.interrupts import deferred_interrupts
from elir_deploy.progress import ProgressCallback, no_progress
from elir_deploy.runtime.jobs import Job
from elir_deploy.runtime.results import Outcome, Result
from elir_deploy.video.encoding import Encoding
from elir_deploy.video.film import open_film
from elir_deploy.video.frames import FrameRestorer
from elir_deploy.video.library import clock
from elir_deploy.video.reading import Span
from elir_deploy.video.restoring import RestoredFilm, restore_film

__all__ = ["restore_films"]


def restore_films(
    restorer: FrameRestorer,
    jobs: Sequence[Job],
    encodings: Mapping[str, Encoding],
    *,
    span: Span | None = None,
    on_result: Callable[[Result], None],
    on_progress: ProgressCallback = no_progress,
) -> Outcome:
    """Restore the films of ``jobs``.

    Ctrl-C or SIGTERM ends the film that is being restored after its current picture, and what was
    restored until then stays; a second one drops it.

    Args:
        restorer: of pictures.
        jobs: of :func:`~elir_deploy.video.jobs.plan_films`.
        encodings: by the suffix of the result.
        span: the part of each film that is restored; None: all.
        on_result: called when a film is done, failed or interrupted.
        on_progress: called after each picture.

    Raises:
        DiskFullError, DeviceLostError: no further film can be restored.
        KeyboardInterrupt, SystemExit: interrupted.
    """
    outcome, started = Outcome(frames=0), time.perf_counter()
    for job in jobs:
        begun = time.perf_counter()
        with deferred_interrupts() as interruption:
            try:
                restored = restore_film(
                    open_film(job.source),
                    job.target,
                    restorer,
                    encodings[job.target.suffix.lower()],
                    span=span,
                    on_progress=on_progress,
                    interrupted=lambda: interruption.signal is not None,
                )
            except (DiskFullError, DeviceLostError) as error:
                on_result(Result(job, str(error), seconds=time.perf_counter() - begun, frames=0))
                raise
            except (ElirError, MemoryError) as error:
                reason = str(error) if isinstance(error, ElirError) else "not enough memory"
                result = Result(job, reason, seconds=time.perf_counter() - begun, frames=0)
            else:
                result = _result(job, restored)
            outcome.add(result)
            outcome.seconds = time.perf_counter() - started
            on_result(result)
    return outcome


def _result(job: Job, restored: RestoredFilm) -> Result:
    failure, why = None, restored.why_early
    if restored.interrupted or why is not None:
        reason = "interrupted" if restored.interrupted else f"the film ends early: {why}"
        failure = f"{reason}; restored up to {clock(restored.until)}, in {restored.path}"
    return Result(
        job,
        failure,
        "; ".join(restored.remarks) or None,
        restored.seconds,
        frames=restored.frames,
        partial=None if failure is None else restored.path,
    )
