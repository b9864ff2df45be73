"""``elir-restore``: image files through a bundle."""

from __future__ import annotations

import enum
import warnings
from pathlib import Path
from typing import Annotated

import typer

from elir_deploy.cli.choices import Precision
from elir_deploy.cli.shell import DebugOption, VersionOption, progress, run_command, tell
from elir_deploy.runtime.backends import BACKENDS
from elir_deploy.runtime.bundle import Bundle
from elir_deploy.runtime.files import Job, Outcome, Plan, plan_jobs, restore_files
from elir_deploy.runtime.restorer import Restorer

EXIT_SOME_FAILED = 2


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
    same = "same"


def restore(
    bundle: Annotated[
        str,
        typer.Argument(
            metavar="BUNDLE", help="A folder made by elir-export, or 'tiny' (the one inside)."
        ),
    ],
    inputs: Annotated[
        list[Path], typer.Argument(metavar="INPUT...", help="Image files and folders of them.")
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Folder for the results; made if needed.")
    ],
    backend: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help=f"auto, {', '.join(BACKENDS)}; elir-inspect tells which can run here.",
        ),
    ] = "auto",
    precision: Annotated[
        Precision | None,
        typer.Option(
            help="bf16 runs the fp32 files. [default: the fastest that loses little on every "
            "picture of the bundle's verification]"
        ),
    ] = None,
    fit: Annotated[
        Fit | None,
        typer.Option(
            help="Bring images of another size to the model's: 'resize' the whole, or run it on "
            "overlapping 'tile's. [default: resize for face tasks, tile for the others]"
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Let a face model run in tiles all the same.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace results that are there.")
    ] = False,
    format: Annotated[
        Format, typer.Option(help="Of the results; 'same': as the input where that can be.")
    ] = Format.png,
    recursive: Annotated[
        bool, typer.Option("--recursive", "-r", help="Also the folders inside a folder.")
    ] = False,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads for the model. [default: all cores]")
    ] = None,
    mode: Annotated[
        Mode,
        typer.Option(
            help="'throughput' restores several images at once where the backend gains by it, "
            "which takes more memory."
        ),
    ] = Mode.latency,
    compare: Annotated[
        bool,
        typer.Option("--compare", help="Also write input and result side by side: *.compare.png."),
    ] = False,
    debug: DebugOption = False,
    version: VersionOption = False,
) -> None:
    """Restore images with a bundle.

    Results keep the names of their inputs, as PNG unless --format says otherwise. A file that
    fails is reported and the rest goes on; the exit code is then 2.

    Examples:

    * `elir-restore bfr portrait.jpg -o restored --compare`
    * `elir-restore denoise album/ --recursive --format same --mode throughput -o restored`
    """
    # A damaged file can make Pillow warn; what matters comes as an error.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    opened = Bundle.open(bundle)
    if opened.manifest.source.random:
        tell(
            "warning: the weights of this bundle are random, for speed only: no image it makes "
            "means anything"
        )
    plan = plan_jobs(
        inputs,
        output,
        format=format.value,
        recursive=recursive,
        overwrite=overwrite,
        compare=compare,
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", RuntimeWarning)
        restorer = Restorer(
            opened,
            backend,
            precision=precision.value if precision else None,
            fit=fit.value if fit else None,
            force=force,
            threads=threads,
            mode=mode.value,
        )
    for warning in caught:
        tell(f"warning: {warning.message}")
    tell(str(restorer))
    with restorer, progress() as report:
        outcome = restore_files(
            restorer,
            plan.jobs,
            on_failure=_report_failure,
            on_input_warning=_report_input_warning,
            on_progress=report,
        )
    _summarise(outcome, restorer)
    _mention(plan)
    if outcome.failures:
        raise typer.Exit(EXIT_SOME_FAILED)


def _report_failure(job: Job, reason: str) -> None:
    tell(f"failed: {_named(job.source, reason)}")


def _report_input_warning(job: Job, doubt: str) -> None:
    tell(f"warning: {_named(job.source, doubt)}")


def _named(path: Path, text: str) -> str:
    return text if text.startswith(str(path)) else f"{path}: {text}"


def _summarise(outcome: Outcome, restorer: Restorer) -> None:
    if outcome.failures:
        tell("failed in the end:")
        for job, reason in outcome.failures:
            tell(f"  {_named(job.source, reason)}")
    parts = [f"{len(outcome.restored)} restored"]
    if outcome.failures:
        parts.append(f"{len(outcome.failures)} failed")
    if outcome.restored:
        parts.append(f"{outcome.seconds / len(outcome.restored):.2g} s/image")
    concurrency = f", {restorer.concurrency} at once" if restorer.concurrency > 1 else ""
    parts.append(f"backend {restorer.backend} {restorer.precision}{concurrency}")
    print(", ".join(parts))


def _mention(plan: Plan) -> None:
    """What the user may not expect of the names and the folders given."""
    if plan.renamed:
        names = ", ".join(job.target.name for job in plan.renamed[:3])
        more = " ..." if len(plan.renamed) > 3 else ""
        tell(f"several inputs have one name but for the suffix, which stays: {names}{more}")
    if plan.unread:
        hint = ", which --recursive looks into unless they are links" if plan.unread.folders else ""
        tell(f"not read: {plan.unread}{hint}")


def main() -> None:
    run_command(restore)


if __name__ == "__main__":
    main()
