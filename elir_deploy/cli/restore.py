"""``elir-restore``: restore image files with a bundle."""

from __future__ import annotations

import enum
import warnings
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from elir_deploy.cli.choices import Precision
from elir_deploy.cli.shell import DebugOption, VersionOption, progress, run_command, tell
from elir_deploy.errors import UsageError
from elir_deploy.output_files import STANDARD_OUTPUT, is_standard_output
from elir_deploy.runtime.backends import BACKENDS
from elir_deploy.runtime.bundle import Bundle
from elir_deploy.runtime.events import EventLog
from elir_deploy.runtime.files import Outcome, Result, restore_files
from elir_deploy.runtime.images import OUTPUT_FORMATS, STANDARD_INPUT, Quality
from elir_deploy.runtime.jobs import Plan, check_events_file, plan_jobs
from elir_deploy.runtime.restorer import Restorer
from elir_deploy.runtime.strength import rounded_strength

EXIT_SOME_FAILED = 2
#: Failures that are repeated at the end.
_REPEATED = 20


class Fit(str, enum.Enum):
    resize = "resize"
    tile = "tile"


class Mode(str, enum.Enum):
    latency = "latency"
    throughput = "throughput"


class Format(str, enum.Enum):
    png = "png"
    jpg = "jpg"
    webp = "webp"
    tif = "tif"
    avif = "avif"
    same = "same"


class Existing(str, enum.Enum):
    error = "error"
    skip = "skip"
    overwrite = "overwrite"


# Its length is that of the options, which Typer reads from the signature.
def restore(
    bundle: Annotated[
        str,
        typer.Argument(
            metavar="BUNDLE", help="A folder written by elir-export, or 'tiny' (included)."
        ),
    ],
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT...", help="Image files, folders of images, or - for standard input."
        ),
    ],
    output: Annotated[
        str,
        typer.Option(
            "-o",
            "--output",
            metavar="FOLDER|FILE",
            help="Folder for the results, created if needed. With one input: also a file such as "
            "name.png, or - for standard output.",
        ),
    ],
    backend: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help=f"auto, {', '.join(BACKENDS)}. elir-inspect shows which of them can run here.",
        ),
    ] = "auto",
    precision: Annotated[
        Precision | None,
        typer.Option(
            help="Precision to run in; bf16 uses the fp32 files. [default: the fastest that the "
            "bundle allows by default]"
        ),
    ] = None,
    fit: Annotated[
        Fit | None,
        typer.Option(
            help="How to process images that do not have the model's size: 'resize' them, or split "
            "them into overlapping tiles ('tile'). [default: resize for face tasks, else tile]"
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Allow a face model to run in tiles.")
    ] = False,
    tile_overlap: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="PIXELS",
            help="Width over which tiles are blended. [default: an eighth of a tile]",
        ),
    ] = None,
    sigma_s: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Standard deviation of the noise: less is closer to the truth on average, more is "
            "sharper. For bundles exported with --noise field. [default: the bundle's]",
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Seed of the noise, for bundles exported with --noise field. [default: the "
            "bundle's]",
        ),
    ] = None,
    strength: Annotated[
        float,
        typer.Option(
            metavar="0-1",
            help="How much of the restoration is kept: 0 gives the input back, enlarged where the "
            "task enlarges.",
        ),
    ] = 1.0,
    existing: Annotated[
        Existing,
        typer.Option(
            help="What happens if results exist. 'skip' goes on where an earlier run ended, "
            "however it ended, and tries its failures again."
        ),
    ] = Existing.error,
    format: Annotated[
        Format | None,
        typer.Option(
            help="Format of the results; 'same' keeps that of the input if it can be written. "
            "[default: that of -o if it is a file, else png]"
        ),
    ] = None,
    quality: Annotated[
        str | None,
        typer.Option(
            metavar="1-100|lossless",
            help="Quality of results in a format that loses some. 'lossless' loses nothing, which "
            "JPEG cannot do. [default: 95]",
        ),
    ] = None,
    bits: Annotated[
        int | None,
        typer.Option(
            metavar="8|16",
            help="Bits of results; 16 for bundles exported with --io float32, in PNG and TIFF. "
            "[default: those of the input, where bundle and format have them]",
        ),
    ] = None,
    suffix: Annotated[
        str,
        typer.Option(
            metavar="TEXT", help="Append this to the names of results: '-x' gives photo-x.png."
        ),
    ] = "",
    recursive: Annotated[
        bool, typer.Option("--recursive", "-r", help="Include subfolders.")
    ] = False,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads for the model. [default: all cores]")
    ] = None,
    device: Annotated[
        int, typer.Option(min=0, metavar="N", help="Number of the GPU, if there are several.")
    ] = 0,
    mode: Annotated[
        Mode,
        typer.Option(
            help="'throughput' restores several images at the same time if that is faster on the "
            "backend; it takes more memory."
        ),
    ] = Mode.latency,
    compare: Annotated[
        bool,
        typer.Option(
            "--compare", help="Also write NAME.compare.png: input and result side by side."
        ),
    ] = False,
    events: Annotated[
        str | None,
        typer.Option(
            metavar="FILE.jsonl",
            help="Also write what became of each input, as one JSON object a line; - is standard "
            "output.",
        ),
    ] = None,
    debug: DebugOption = False,
    version: VersionOption = False,
) -> None:
    """Restore images with a bundle.

    Results have the names of their inputs and are PNG files, unless --format is given. Folders keep
    their structure. If a file fails, the others are still restored, and the exit code is 2; with
    --existing skip, the same command then tries only the failed ones again.

    Examples:

    * `elir-restore bfr portrait.jpg -o restored --compare`
    * `elir-restore denoise album/ --recursive --format same --existing skip -o restored`
    * `elir-restore tiny photo.jpg -o better.webp --quality lossless`
    * `curl ... | elir-restore tiny - -o - > restored.png`
    """
    # Pillow warns about some damaged files; anything that matters is an error.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    opened = Bundle.open(bundle)
    if opened.manifest.source.random:
        tell(
            "warning: this bundle has random weights, which are for measuring speed: its results "
            "are meaningless"
        )
    strength = rounded_strength(strength)  # wrong ones are refused before anything is written
    plan = plan_jobs(
        [_path(text) for text in inputs],
        _path(output),
        format=format.value if format else None,
        recursive=recursive,
        existing=existing.value,
        compare=compare,
        suffix=suffix,
    )
    encoding = _quality(quality, plan)
    with _Report(plan, events) as report, ExitStack() as stack:
        restorer = None
        if plan.jobs:
            restorer = _opened(
                opened,
                backend,
                precision=precision.value if precision else None,
                fit=fit.value if fit else None,
                force=force,
                threads=threads,
                device=device,
                mode=mode.value,
                sigma_s=sigma_s,
                seed=seed,
                tile_overlap=tile_overlap,
            )
            stack.enter_context(restorer)
            on_progress = stack.enter_context(progress(show_time_left=True))
            report.outcome = restore_files(
                restorer,
                plan.jobs,
                strength=strength,
                bits=bits,
                quality=encoding,
                on_result=report.result,
                on_progress=on_progress,
            )
    report.print_summary(restorer)
    if report.outcome.failures:
        raise typer.Exit(EXIT_SOME_FAILED)


def _path(text: str) -> Path:
    """The path of a file or folder, or ``-``, which ``./-`` is not."""
    path = Path(text)
    return path if text == STANDARD_INPUT or str(path) != STANDARD_INPUT else path.absolute()


def _quality(text: str | None, plan: Plan) -> Quality:
    if text is None:
        return None
    if text != "lossless" and not (text.isdecimal() and 1 <= int(text) <= 100):
        raise UsageError(f"--quality is {text!r}, expected 1 to 100, or lossless")
    quality: Quality = "lossless" if text == "lossless" else int(text)
    formats = [OUTPUT_FORMATS[job.format] for job in (*plan.jobs, *plan.skipped)]
    for format in formats:
        format.options(quality)
    if quality != "lossless" and all(format.lossy is None for format in formats):
        raise UsageError(
            f"--quality is {quality}, and {formats[0].name} is always lossless: leave it out, or "
            "write --format jpg or webp"
        )
    return quality


def _opened(bundle: Bundle, backend: str, **options: Any) -> Restorer:
    """Open a restorer and say what it is, with its warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", RuntimeWarning)
        restorer = Restorer(bundle, backend, **options)
    for warning in caught:
        tell(f"warning: {warning.message}")
    tell(str(restorer))
    return restorer


class _Report:
    """What is said of a run: on the screen, and as events."""

    def __init__(self, plan: Plan, events: str | None) -> None:
        self._plan = plan
        self.outcome = Outcome()
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
            self._events = EventLog(events, plan)

    def __enter__(self) -> _Report:
        if self._events is not None:
            self._events.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        if self._events is not None:
            self._events.__exit__(*error)

    def result(self, result: Result) -> None:
        """Tell what went wrong with an image, and write its event."""
        if result.warning is not None:
            tell(f"warning: {_with_path(result.job.source, result.warning)}")
        if result.failure is not None:
            tell(f"failed: {_with_path(result.job.source, result.failure)}")
        if self._events is not None:
            self._events.result(result)

    def print_summary(self, restorer: Restorer | None) -> None:
        """Counts, failures, and what the user may not expect of the plan."""
        outcome, plan = self.outcome, self._plan
        if outcome.failures and len(plan.jobs) > 1:  # a single one was the last line
            tell("failed images:")
            for job, reason in outcome.failures[:_REPEATED]:
                tell(f"  {_with_path(job.source, reason)}")
            if len(outcome.failures) > _REPEATED:
                tell(f"  and {len(outcome.failures) - _REPEATED} more")
        parts = [f"{len(outcome.restored)} restored"]
        if plan.skipped:
            parts.append(f"{len(plan.skipped)} skipped")
        if outcome.failures:
            parts.append(f"{len(outcome.failures)} failed")
        if outcome.restored:
            parts.append(f"{outcome.seconds / len(outcome.restored):.2g} s/image")
        if restorer is not None:
            number = restorer.concurrency
            concurrency = f", {number} images at a time" if number > 1 else ""
            parts.append(f"backend {restorer.backend} {restorer.precision}{concurrency}")
        self._say(", ".join(parts))
        _print_remarks(plan)


def _with_path(path: Path, text: str) -> str:
    return text if text.startswith(str(path)) else f"{path}: {text}"


def _print_remarks(plan: Plan) -> None:
    """Results with unexpected names, and files that were not read."""
    if plan.renamed:
        names = ", ".join(job.target.name for job in plan.renamed[:3])
        more = " ..." if len(plan.renamed) > 3 else ""
        tell(f"some inputs differ only in their suffix, so their results keep it: {names}{more}")
    if plan.unread:
        hint = "; --recursive reads folders that are not links" if plan.unread.folders else ""
        tell(f"not read: {plan.unread}{hint}")


def main() -> None:
    run_command(restore)


if __name__ == "__main__":
    main()
