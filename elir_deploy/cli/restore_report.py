"""What ``elir-restore`` and ``elir-video`` say of a run: on the screen, and as events."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any

from elir_deploy.cli.shell import tell
from elir_deploy.errors import UsageError
from elir_deploy.output_files import STANDARD_OUTPUT, is_standard_output
from elir_deploy.runtime import Restorer
from elir_deploy.runtime.events import EventLog
from elir_deploy.runtime.jobs import Job, Plan, check_events_file
from elir_deploy.runtime.results import Outcome, Result

__all__ = ["RunReport"]

#: Failures that are repeated at the end.
_REPEATED = 20


class RunReport:
    """Tells results, and at the end the summary.

    Args:
        plan: what is done.
        events: where events are written; None: nowhere.
        kind: of the inputs, ``image`` or ``film``.

    Attributes:
        outcome: of the run, for the summary.

    Raises:
        UsageError: the events and a result would both be standard output, or the events would
            replace a file of the plan.
        OutputError: the events cannot be written.
    """

    def __init__(self, plan: Plan, events: str | None, kind: str = "image") -> None:
        self._plan, self._kind = plan, kind
        self.outcome = Outcome()
        self._counts = Counter[str]()
        self._lock = threading.Lock()  # images are read and written in different threads
        self._events: EventLog | None = None
        to_stdout = events is not None and is_standard_output(events)
        result_on_stdout = any(str(job.target) == STANDARD_OUTPUT for job in plan.jobs)
        if to_stdout and result_on_stdout:
            raise UsageError(
                "-o and --events are both standard output: write one of them to a file"
            )
        #: What others read there is not mixed with text.
        self._say = tell if to_stdout or result_on_stdout else print
        if events is not None:
            check_events_file(events, plan)
            self._events = EventLog(events, plan, kind)

    def __enter__(self) -> RunReport:
        if self._events is not None:
            self._events.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        interrupted = error[0] is not None and not issubclass(error[0], Exception)
        if interrupted or (error[0] is not None and self._counts):
            self._tell_rest()
        if self._events is not None:
            self._events.__exit__(*error)

    def result(self, result: Result) -> None:
        """Tell what went wrong with an image, and write its event."""
        with self._lock:
            self._counts["restored" if result.failure is None else "failed"] += 1
        if result.warning is not None:
            tell(f"warning: {_with_name(result.job, result.warning)}")
        if result.failure is not None:
            tell(f"failed: {_with_name(result.job, result.failure)}")
        if self._events is not None:
            self._events.result(result)

    def _tell_rest(self) -> None:
        """Counts of a run that ends early, and how to go on."""
        counts = Counter(skipped=len(self._plan.skipped)) + self._counts
        left = len(self._plan.jobs) - sum(self._counts.values())
        if len(self._plan.jobs) == 1 and not left:  # its failure says all
            return
        parts = [f"{counts[s]} {s}" for s in ("restored", "skipped", "failed") if counts[s]]
        tell(f"{', '.join([*parts, f'{left} left'])}: --existing skip restores the rest")

    def print_summary(self, restorer: Restorer | None) -> None:
        """Counts, failures, and what the user may not expect of the plan."""
        outcome, plan = self.outcome, self._plan
        if outcome.failures and len(plan.jobs) > 1:  # a single one was the last line
            tell(f"failed {self._kind}s:")
            for job, reason in outcome.failures[:_REPEATED]:
                tell(f"  {_with_name(job, reason)}")
            if len(outcome.failures) > _REPEATED:
                tell(f"  and {len(outcome.failures) - _REPEATED} more")
        parts = [f"{len(outcome.restored)} restored"]
        if plan.skipped:
            parts.append(f"{len(plan.skipped)} skipped")
        if outcome.failures:
            parts.append(f"{len(outcome.failures)} failed")
        if outcome.faces is not None:
            parts.append(f"{outcome.faces} face{'s' * (outcome.faces != 1)}")
        if outcome.frames:
            speed = outcome.frames / outcome.seconds
            parts.append(
                f"{outcome.frames} frame{'s' * (outcome.frames != 1)}, {speed:.3g} frames/s"
            )
        elif outcome.restored:
            parts.append(f"{outcome.seconds / len(outcome.restored):.2g} s/{self._kind}")
        if restorer is not None:
            number = restorer.concurrency
            concurrency = f", {number} images at a time" if number > 1 else ""
            parts.append(f"backend {restorer.backend} {restorer.precision}{concurrency}")
        self._say(", ".join(parts))
        _print_remarks(plan)


def _with_name(job: Job, text: str) -> str:
    return text if text.startswith(job.input_name) else f"{job.input_name}: {text}"


def _print_remarks(plan: Plan) -> None:
    """Results with unexpected names, and files that were not read."""
    if plan.renamed:
        names = ", ".join(job.target.name for job in plan.renamed[:3])
        more = " ..." if len(plan.renamed) > 3 else ""
        tell(f"some inputs differ only in their suffix, so their results keep it: {names}{more}")
    outdated = [job for job in plan.skipped if job.outdated]
    if outdated:
        what = "1 result is" if len(outdated) == 1 else f"{len(outdated)} results are"
        tell(
            f"skipped, but {what} older than the input (such as {outdated[0].target}): delete what "
            "is to be restored again"
        )
    if plan.presumed_results:
        count = len(plan.presumed_results)
        what = "1 file" if count == 1 else f"{count} files"
        tell(
            f"not restored: {what} presumed to be earlier results by their names "
            f"(such as {plan.presumed_results[0]})"
        )
    if plan.unread:
        hint = "; --recursive reads folders that are not links" if plan.unread.folders else ""
        tell(f"not read: {plan.unread}{hint}")
