"""A worker that dies of certain pictures. Ray's processes import it by name."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence

from elir_deploy.batch.worker import Worker
from elir_deploy.runtime.jobs import Job
from elir_deploy.runtime.results import Result


class MortalWorker(Worker):
    def restore(self, jobs: Sequence[Job]) -> Iterator[Result]:
        for job in jobs:
            if job.source.name.startswith("poison"):
                os.kill(os.getpid(), signal.SIGKILL)
            yield from super().restore([job])
