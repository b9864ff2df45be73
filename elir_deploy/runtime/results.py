"""What became of the jobs of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from elir_deploy.runtime.job import Job

__all__ = ["Outcome", "Result"]


@dataclass(frozen=True)
class Result:
    """What became of a job.

    Attributes:
        job: the job.
        failure: the reason why it failed; None: it did not.
        warning: what the user may not expect of the result: the image differs from the model's
            training data, or lost some of its bits; None: nothing.
        seconds: time for reading, restoring and writing, without waiting for other images; of
            images restored together, each has its share.
        faces: as events have them; None: none were looked for.
        frames: of a film, the number of pictures restored; None: it is an image.
        partial: of a film that failed, the file with what was restored until then.
    """

    job: Job
    failure: str | None = None
    warning: str | None = None
    seconds: float = 0.0
    faces: Sequence[Mapping[str, Any]] | None = None
    frames: int | None = None
    partial: Path | None = None

    @property
    def output(self) -> str | None:
        """The file that was written, as users see it; None: there is none."""
        if self.failure is None:
            return self.job.output_name
        return None if self.partial is None else str(self.partial)


@dataclass
class Outcome:
    """The results of all jobs.

    Attributes:
        restored: successful jobs.
        failures: failed jobs, with the reason.
        seconds: total time, including reading and writing.
        faces: number of faces restored in the restored jobs; None: none were looked for.
        frames: number of pictures of films, restored in all jobs; None: they are images.
    """

    restored: list[Job] = field(default_factory=list)
    failures: list[tuple[Job, str]] = field(default_factory=list)
    seconds: float = 0.0
    faces: int | None = None
    frames: int | None = None

    @property
    def jobs_done(self) -> int:
        """Jobs that were restored or failed."""
        return len(self.restored) + len(self.failures)

    def add(self, result: Result) -> None:
        """Count a result."""
        if result.frames is not None:
            self.frames = (self.frames or 0) + result.frames
        if result.failure is not None:
            self.failures.append((result.job, result.failure))
            return
        self.restored.append(result.job)
        if result.faces is not None:
            self.faces = (self.faces or 0) + sum(face["restored"] for face in result.faces)
