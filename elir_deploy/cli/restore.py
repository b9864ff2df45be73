"""``elir-restore``: restore image files with a bundle."""

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


# Its length is that of the options, which Typer reads from the signature.
def restore(
    bundle: Annotated[
        str,
        typer.Argument(
            metavar="BUNDLE", help="A folder written by elir-export, or 'tiny' (included)."
        ),
    ],
    inputs: Annotated[
        list[Path], typer.Argument(metavar="INPUT...", help="Image files, or folders of images.")
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Folder for the results; created if needed.")
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
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace existing results.")
    ] = False,
    format: Annotated[
        Format,
        typer.Option(
            help="Format of the results; 'same' keeps that of the input if it can be written."
        ),
    ] = Format.png,
    recursive: Annotated[
        bool, typer.Option("--recursive", "-r", help="Include subfolders.")
    ] = False,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads for the model. [default: all cores]")
    ] = None,
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
    debug: DebugOption = False,
    version: VersionOption = False,
) -> None:
    """Restore images with a bundle.

    Results have the names of their inputs and are PNG files, unless --format is given. If a file
    fails, the others are still restored, and the exit code is 2.

    Examples:

    * `elir-restore bfr portrait.jpg -o restored --compare`
    * `elir-restore denoise album/ --recursive --format same --mode throughput -o restored`
    """
    # Pillow warns about some damaged files; anything that matters is an error.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    opened = Bundle.open(bundle)
    if opened.manifest.source.random:
        tell(
            "warning: this bundle has random weights, which are for measuring speed: its results "
            "are meaningless"
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
            sigma_s=sigma_s,
            seed=seed,
            tile_overlap=tile_overlap,
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
    _print_summary(outcome, restorer)
    _print_remarks(plan)
    if outcome.failures:
        raise typer.Exit(EXIT_SOME_FAILED)


def _report_failure(job: Job, reason: str) -> None:
    tell(f"failed: {_with_path(job.source, reason)}")


def _report_input_warning(job: Job, warning: str) -> None:
    tell(f"warning: {_with_path(job.source, warning)}")


def _with_path(path: Path, text: str) -> str:
    return text if text.startswith(str(path)) else f"{path}: {text}"


def _print_summary(outcome: Outcome, restorer: Restorer) -> None:
    if outcome.failures:
        tell("failed images:")
        for job, reason in outcome.failures:
            tell(f"  {_with_path(job.source, reason)}")
    parts = [f"{len(outcome.restored)} restored"]
    if outcome.failures:
        parts.append(f"{len(outcome.failures)} failed")
    if outcome.restored:
        parts.append(f"{outcome.seconds / len(outcome.restored):.2g} s/image")
    concurrency = f", {restorer.concurrency} images at a time" if restorer.concurrency > 1 else ""
    parts.append(f"backend {restorer.backend} {restorer.precision}{concurrency}")
    print(", ".join(parts))


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
