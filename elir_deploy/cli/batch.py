"""``elir-batch``: folders and buckets on many devices, with Ray."""

from __future__ import annotations

import os
import time
from collections import Counter
from contextlib import ExitStack
from typing import Annotated

import typer

from elir_deploy.batch.cluster import open_cluster
from elir_deploy.batch.places import plan_batch, remove_leftovers
from elir_deploy.batch.worker import WorkerOptions
from elir_deploy.cli.options import (
    BackendOption,
    BackgroundOption,
    BitsOption,
    EventsOption,
    Existing,
    ExistingOption,
    FacesOption,
    FitOption,
    ForceOption,
    LongSideOption,
    PrecisionOption,
    QualityOption,
    RecursiveOption,
    ScaleOption,
    SeedOption,
    SigmaOption,
    StrengthOption,
    SuffixOption,
    TileOverlapOption,
    chosen_strength,
    path_of,
)
from elir_deploy.cli.restore import EXIT_SOME_FAILED, Format, image_quality
from elir_deploy.cli.restore_report import RunReport
from elir_deploy.cli.restorers import choices_of
from elir_deploy.cli.shell import DebugOption, VersionOption, progress, run_command, tell
from elir_deploy.runtime.backends import backend_named
from elir_deploy.runtime.files import check_bits
from elir_deploy.runtime.jobs import Naming
from elir_deploy.runtime.results import Outcome, Result


# Its length is that of the options, which Typer reads from the signature.
def batch(
    source: Annotated[
        str,
        typer.Argument(help="A folder, or a URL that fsspec reads, such as s3://bucket/album."),
    ],
    destination: Annotated[
        str, typer.Argument(help="Folder or URL for the results, named as by elir-restore.")
    ],
    bundle: Annotated[
        str,
        typer.Option(
            metavar="BUNDLE",
            help="A folder written by elir-export, or 'tiny' (included).",
        ),
    ],
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="A Ray cluster to join, such as 'auto' or HOST:6379. [default: start Ray on this "
            "machine, on loopback]",
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Number of workers. [default: one for each GPU; without GPUs, one for each "
            "--threads cores]",
        ),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads of a worker. [default: 1 without GPUs]")
    ] = None,
    backend: BackendOption = "auto",
    precision: PrecisionOption = None,
    fit: FitOption = None,
    force: ForceOption = False,
    tile_overlap: TileOverlapOption = None,
    faces: FacesOption = None,
    background: BackgroundOption = None,
    scale: ScaleOption = None,
    long_side: LongSideOption = None,
    sigma_s: SigmaOption = None,
    seed: SeedOption = None,
    strength: StrengthOption = 1.0,
    recursive: RecursiveOption = False,
    format: Annotated[Format, typer.Option(help="Format of the results.")] = Format.png,
    quality: QualityOption = None,
    bits: BitsOption = None,
    suffix: SuffixOption = "",
    existing: ExistingOption = Existing.error,
    events: EventsOption = None,
    debug: DebugOption = False,
    version: VersionOption = False,
) -> None:
    """Restore a folder or bucket of images with many workers, on one machine or a Ray cluster.

    A worker that dies, or a machine that is lost, costs the images it was restoring: they run
    again in another one. An image whose worker died twice is reported and left out. The same
    command with --existing skip continues a run that was ended.

    Examples:

    * `elir-batch album restored --bundle bsr`
    * `elir-batch s3://photos/2019 s3://restored/2019 --bundle bfr --faces all --ray auto`
    """
    strength = chosen_strength(strength)
    for text in (source, destination, *([] if events is None else [events])):
        path_of(text)
    choices = choices_of(
        bundle,
        background,
        backend=backend,
        precision=precision,
        faces=faces,
        scale=scale,
        long_side=long_side,
        fit=fit,
        force=force,
        threads=threads,
        sigma_s=sigma_s,
        seed=seed,
        tile_overlap=tile_overlap,
    )
    choices.check()
    if backend != "auto":
        backend_named(backend)
    naming = Naming(format.value, suffix)
    plan = plan_batch(source, destination, naming, existing=existing.value, recursive=recursive)
    encoding = image_quality(quality, plan)
    check_bits(bits, (job.format for job in plan.jobs), *choices.bits)
    options = WorkerOptions(
        bundle, background, choices.options, os.getcwd(), strength, bits, encoding
    )
    outcome = Outcome()
    with RunReport(plan, events) as report:
        if plan.jobs:
            with ExitStack() as stack:
                # After the cluster's end, which kills workers that are writing.
                stack.callback(remove_leftovers, plan.jobs)
                say = stack.enter_context(progress(show_time_left=True, unit="pictures"))
                cluster = stack.enter_context(open_cluster(options, ray, workers, tell))
                for name, count in Counter(cluster.names).items():
                    tell(f"{count} worker{'s' * (count > 1)} of {name}")

                def finish(result: Result) -> None:
                    report.result(result)
                    outcome.add(result)
                    say("restoring", outcome.jobs_done, len(plan.jobs))

                say("restoring", 0, len(plan.jobs))
                started = time.perf_counter()
                cluster.restore(plan.jobs, finish)
                outcome.seconds = time.perf_counter() - started
        report.outcome = outcome
    report.print_summary(None)
    if outcome.failures or plan.unread.closed or plan.unread.unnamed:
        raise typer.Exit(EXIT_SOME_FAILED)


def main() -> None:
    run_command(batch)


if __name__ == "__main__":
    main()
