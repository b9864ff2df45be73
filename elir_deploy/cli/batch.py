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
from elir_deploy.cli.choices import Precision
from elir_deploy.cli.options import Existing, Faces, Scale
from elir_deploy.cli.restore import EXIT_SOME_FAILED, Format, image_quality
from elir_deploy.cli.restore_report import RunReport
from elir_deploy.cli.shell import DebugOption, VersionOption, progress, run_command, tell
from elir_deploy.errors import UsageError
from elir_deploy.runtime.backends import backend_named
from elir_deploy.runtime.bundle import Bundle
from elir_deploy.runtime.detector_graph import detector_of
from elir_deploy.runtime.jobs import Naming
from elir_deploy.runtime.results import Outcome, Result
from elir_deploy.runtime.strength import rounded_strength


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
            help="A folder written by elir-export, at the same path on every machine, or 'tiny' "
            "(included)."
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
    backend: Annotated[
        str, typer.Option(help="Backend of the workers, as for elir-restore.")
    ] = "auto",
    precision: Annotated[
        Precision | None, typer.Option(help="Precision. [default: the fastest automatic one]")
    ] = None,
    faces: Annotated[
        Faces | None,
        typer.Option(
            help="Restore faces in photographs, for bundles with a face detector: which ones, as "
            "for elir-restore. [default: auto with a detector]"
        ),
    ] = None,
    background: Annotated[
        str | None,
        typer.Option(
            metavar="BUNDLE", help="Of photographs: a bundle for the rest of the picture."
        ),
    ] = None,
    scale: Annotated[
        Scale | None, typer.Option(help="Of photographs: 1, 2 or 4 times the size.")
    ] = None,
    strength: Annotated[
        float, typer.Option(help="From 0, the image itself, to 1, its restoration.")
    ] = 1.0,
    recursive: Annotated[bool, typer.Option("--recursive", help="Include subfolders.")] = False,
    format: Annotated[Format, typer.Option(help="Format of the results.")] = Format.png,
    quality: Annotated[
        str | None, typer.Option(help="1 to 100, or lossless, as for elir-restore.")
    ] = None,
    suffix: Annotated[str, typer.Option(help="Appended to the names of results.")] = "",
    existing: Annotated[
        Existing,
        typer.Option(help="Results that exist: 'skip' continues an earlier run."),
    ] = Existing.error,
    events: Annotated[
        str | None,
        typer.Option(metavar="FILE.jsonl", help="Events as of elir-restore; '-': standard output."),
    ] = None,
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
    opened = Bundle.open(bundle)
    choice = faces.value if faces else None
    if opened.manifest.detector is not None and choice is None:
        choice = "auto"
    if choice is None and (background or scale):
        raise UsageError("--background and --scale are for photographs: add --faces")
    if choice == "aligned" and not (background or scale):
        choice = None  # an aligned face is restored as a whole
    if choice is not None:
        detector_of(opened)
    if background is not None:
        Bundle.open(background)
    if backend != "auto":
        backend_named(backend)
    naming = Naming(format.value, suffix)
    plan = plan_batch(source, destination, naming, existing=existing.value, recursive=recursive)
    options = WorkerOptions(
        bundle=bundle,
        folder=os.getcwd(),
        backend=backend,
        precision=precision.value if precision else None,
        threads=threads,
        faces=choice,
        background=background,
        scale=int(scale.value) if scale else 1,
        strength=rounded_strength(strength),
        quality=image_quality(quality, plan),
    )
    outcome = Outcome()
    with RunReport(plan, events) as report:
        if plan.jobs:
            started = time.perf_counter()
            with ExitStack() as stack:
                # After the cluster's end, which kills workers that are writing.
                stack.callback(remove_leftovers, plan.jobs)
                say = stack.enter_context(progress(show_time_left=True))
                cluster = stack.enter_context(open_cluster(options, ray, workers))
                for name, count in Counter(cluster.names).items():
                    tell(f"{count} worker{'s' * (count > 1)} of {name}")

                def finish(result: Result) -> None:
                    report.result(result)
                    outcome.add(result)
                    say("restoring", outcome.jobs_done, len(plan.jobs))

                say("restoring", 0, len(plan.jobs))
                cluster.restore(plan.jobs, finish)
            outcome.seconds = time.perf_counter() - started
        report.outcome = outcome
    report.print_summary(None)
    if outcome.failures or plan.unread.closed:
        raise typer.Exit(EXIT_SOME_FAILED)


def main() -> None:
    run_command(batch)


if __name__ == "__main__":
    main()
