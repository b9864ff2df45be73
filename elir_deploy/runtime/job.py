"""One input with the files that its result is written to, and what these may replace."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from elir_deploy.errors import OutputError, UsageError
from elir_deploy.operating_system import file_identity
from elir_deploy.output_files import STANDARD_OUTPUT, remove_parts
from elir_deploy.runtime.images import STANDARD_INPUT

__all__ = [
    *(
        "COMPARE",
        "Existing",
        "Job",
        "check_targets",
        "is_comparison",
        "is_stream",
        "prepare_folders",
    )
]

#: Values of ``--existing``: what happens to results that exist.
Existing = Literal["error", "skip", "overwrite"]
#: What the names of comparisons end in, before the suffix.
COMPARE = ".compare"


@dataclass(frozen=True)
class Job:
    """One image to restore.

    Attributes:
        source: the file to read; ``-`` is standard input.
        target: the file to write; ``-`` is standard output.
        compare: the file with input and result side by side; None: not written.
        suffix: of the format to write, where ``target`` has none.
    """

    source: Path
    target: Path
    compare: Path | None = None
    suffix: str | None = None

    def fetch(self) -> None:
        """Bring the input here, if it is elsewhere; an ElirError fails the job."""

    @property
    def input_name(self) -> str:
        """The input as users see it."""
        return str(self.source)

    @property
    def output_name(self) -> str:
        """The result as users see it."""
        return str(self.target)

    @property
    def format(self) -> str:
        """The suffix of the format to write, one of ``OUTPUT_FORMATS``."""
        return (self.suffix or self.target.suffix).lower()

    @property
    def targets(self) -> list[Path]:
        """The files that are written."""
        return [self.target] if self.compare is None else [self.target, self.compare]

    @property
    def done(self) -> bool:
        """Whether all files that it writes exist.

        Files are written atomically: an existing one is complete. An empty one is not a result.
        """
        return all(_content(path) for path in self.targets)

    @property
    def outdated(self) -> bool:
        """Whether the input was changed after the result was written."""
        with suppress(OSError):  # no file, such as standard input
            return self.source.stat().st_mtime > self.target.stat().st_mtime
        return False


def prepare_folders(jobs: Sequence[Job]) -> None:
    """Create the folders of the results, and remove what killed runs left there.

    Raises:
        OutputError: one cannot be created or written.
    """
    for folder in sorted({job.target.parent for job in jobs if not is_stream(job.target)}):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"the folder {folder} cannot be created: {error.strerror}") from None
        if not os.access(folder, os.W_OK | os.X_OK):
            raise OutputError(f"the folder {folder} is not writable")
        remove_parts(folder)


def check_targets(
    jobs: Sequence[Job],
    existing: Existing,
    presumed_results: Sequence[Path] = (),
    instead: str = "another output folder, or --suffix",
) -> None:
    """Check what the results would replace.

    Args:
        jobs: all that are planned.
        existing: what may happen to results that exist.
        presumed_results: pictures of the input folders that are presumed to be earlier results.
        instead: what keeps results away from their inputs.

    Raises:
        UsageError: two jobs have one result, or it would replace something that must stay.
    """
    sources = {file_identity(job.source): job.source for job in jobs if not is_stream(job.source)}
    # Comparisons are not originals, and a killed run leaves them without their results.
    kept = {
        file_identity(path)
        for path in presumed_results
        if not is_comparison(path) and _content(path)
    }
    planned: dict[str, Path] = {}
    for job in jobs:
        for target in job.targets:
            if is_stream(target):
                continue
            place = os.path.normcase(os.path.realpath(target))
            if place in planned:
                raise UsageError(
                    f"{planned[place]} and {job.source} would both become {target}: "
                    "restore them into different folders"
                )
            planned[place] = job.source
            source = sources.get(file_identity(target))
            if source is not None:
                raise UsageError(
                    f"the result {target} would replace the input {source}: choose {instead}"
                )
            # Path's methods raise an error for names that are too long; the picture fails later.
            if os.path.isdir(target):
                raise UsageError(f"the result {target} is a folder: move it away")
            if existing == "error" and os.path.isfile(target):
                raise UsageError(
                    f"{target} exists: use --existing skip to go on with the others, or "
                    "--existing overwrite to replace results"
                )
            if file_identity(target) in kept and not (existing == "skip" and job.done):
                raise UsageError(
                    f"the result {target} would replace a picture of an input folder, which may be "
                    f"an original: delete it, or choose {instead}"
                )


def _content(path: Path) -> bool:
    """Whether it is a file, and not an empty one."""
    return os.path.isfile(path) and os.path.getsize(path) > 0


def is_stream(path: Path) -> bool:
    """Whether it is standard input or output."""
    return str(path) in (STANDARD_INPUT, STANDARD_OUTPUT)


def is_comparison(path: Path) -> bool:
    """Whether it is called as a comparison is."""
    return path.name.endswith(f"{COMPARE}.png")
