"""``elir-bench``: how fast a model is, in every way this machine can run it."""

from __future__ import annotations

import enum
import os
import sys
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from elir_deploy.bench import html_report, peers
from elir_deploy.bench.device import usable_cores
from elir_deploy.bench.protocols import PROTOCOLS, BenchProtocol
from elir_deploy.bench.report import build_report
from elir_deploy.bench.report_file import to_json
from elir_deploy.bench.report_text import markdown, text
from elir_deploy.bench.report_types import Report
from elir_deploy.bench.runs import BenchOptions, Run, open_model, with_numbers
from elir_deploy.cli.choices import Precision
from elir_deploy.cli.shell import DebugOption, VersionOption, progress, run_command, tell
from elir_deploy.errors import ElirError, OutputError, UsageError
from elir_deploy.interrupts import deferred_interrupts
from elir_deploy.output_files import check_writable, is_standard_output, write_text
from elir_deploy.runtime.backends import BACKENDS
from elir_deploy.tasks import TASKS, task_named

#: Pictures in a page: two of 512x512 are a megabyte for each runner.
_PICTURES = 2

_MEASURE = "What to measure"
_HOW = "How long"
_OUTPUT = "Output"


class Protocol(str, enum.Enum):
    paper = "paper"
    latency = "latency"
    throughput = "throughput"
    stages = "stages"
    steps = "steps"
    soak = "soak"


def bench(
    model: Annotated[
        str,
        typer.Argument(
            metavar="BUNDLE|CHECKPOINT",
            help="A bundle's folder, 'tiny', or a checkpoint as elir-export takes it, which is "
            "exported to a temporary bundle first.",
        ),
    ],
    protocol: Annotated[
        Protocol,
        typer.Option(
            help="; ".join(f"{p.name}: {p.title}" for p in PROTOCOLS.values()),
            rich_help_panel=_MEASURE,
        ),
    ] = Protocol.paper,
    backend: Annotated[
        list[str] | None,
        typer.Option(
            help=f"One of {', '.join(BACKENDS)}, or without this project: "
            + "; ".join(f"{name}: {peer.summary}" for name, peer in peers.PEERS.items())
            + f". Repeat for several. [default: {peers.TORCH}, and those that `auto` would choose "
            "from for the bundle]",
            rich_help_panel=_MEASURE,
        ),
    ] = None,
    all_peers: Annotated[
        bool,
        typer.Option(
            "--peers",
            help=f"Also measure {', '.join(peers.PEERS)}; compiling takes minutes.",
            rich_help_panel=_MEASURE,
        ),
    ] = False,
    precision: Annotated[
        list[Precision] | None,
        typer.Option(
            help="Repeat for several; bf16 runs the fp32 files. "
            "[default: all that bundle and backend have; fp32 for --protocol steps]",
            rich_help_panel=_MEASURE,
        ),
    ] = None,
    checkpoint: Annotated[
        str | None,
        typer.Option(
            metavar="CHECKPOINT",
            help="What the bundle was made from (checked by its hash), so that PyTorch has its "
            "weights and --protocol steps something to export.",
            rich_help_panel=_MEASURE,
        ),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            help=f"One of {', '.join(TASKS)}; needed where a checkpoint does not tell.",
            rich_help_panel=_MEASURE,
        ),
    ] = None,
    steps: Annotated[
        list[int] | None,
        typer.Option(
            min=1,
            help="Euler steps M for --protocol steps; repeat for several. [default: 1 2 3 5]",
            rich_help_panel=_MEASURE,
        ),
    ] = None,
    callers: Annotated[
        list[int] | None,
        typer.Option(
            min=1,
            help="Threads that share a restorer, for --protocol throughput. [default: 1 2]",
            rich_help_panel=_MEASURE,
        ),
    ] = None,
    batch: Annotated[
        list[int] | None,
        typer.Option(
            min=2,
            help="Images in one run, for --protocol throughput; ONNX files only. [default: 4]",
            rich_help_panel=_MEASURE,
        ),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="CPU threads of every runner. [default: all usable cores]",
            rich_help_panel=_MEASURE,
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, help="Of the random images.", rich_help_panel=_MEASURE)
    ] = 0,
    cold: Annotated[
        bool,
        typer.Option(
            help="Start every runner of the bundle in a new process too: time to load, time to "
            "the first image, peak memory.",
            rich_help_panel=_MEASURE,
        ),
    ] = True,
    images: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Images measured. [default: 200 for paper, else as many as it takes]",
            rich_help_panel=_HOW,
        ),
    ] = None,
    warmup: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Images before those. [default: 10 for paper, else until the latencies settle]",
            rich_help_panel=_HOW,
        ),
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option(
            min=0.1,
            help="At least, for each runner; of each load for throughput. "
            "[default: 10; 5 for throughput, 600 for soak]",
            rich_help_panel=_HOW,
        ),
    ] = None,
    at_most: Annotated[
        float | None,
        typer.Option(
            min=1,
            metavar="SECONDS",
            help="When to end in any case. [default: 300, or ten times --seconds where that is "
            "more]",
            rich_help_panel=_HOW,
        ),
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(
            min=0.1,
            max=50,
            metavar="PERCENT",
            help="How well every median is to be known (95 % interval). [default: 2]",
            rich_help_panel=_HOW,
        ),
    ] = None,
    json: Annotated[
        Path | None,
        typer.Option(
            help="Write everything, all samples included, to this file; - is standard output, and "
            "the text then goes to standard error.",
            rich_help_panel=_OUTPUT,
        ),
    ] = None,
    report: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="F.html|F.md",
            help="Write a page with charts and pictures, or the tables as Markdown; repeat for "
            "both.",
            rich_help_panel=_OUTPUT,
        ),
    ] = None,
    debug: DebugOption = False,
    version: VersionOption = False,
) -> None:
    """Measure a model at batch 1 on random images, several backends side by side.

    The runners take turns of a few images, so that drift of the machine hits all alike; speeds
    are compared image by image, with a confidence interval. The figure is from 8-bit image to 8-bit
    image; what the backend alone took stands beside it, and so does the agreement with PyTorch.
    Ctrl-C keeps what was measured.

    Examples:

    * `elir-bench bfr --json bfr.json --report bfr.html`
    * `elir-bench bfr --protocol latency --backend openvino --backend onnxruntime --tolerance 1`
    * `elir-bench random --task bfr --precision fp32 --peers`
    * `elir-bench tiny --protocol steps --steps 1 --steps 3 --steps 10`
    * `elir-bench bfr --protocol soak --backend openvino --precision int8 --seconds 3600`
    """
    reports = report or []
    _check_outputs(json, reports)
    if task is not None:
        task_named(task)
    numbers: dict[str, Any] = {
        "images": images,
        "warmup": warmup,
        "seconds": seconds,
        "at_most": at_most,
        "tolerance": tolerance,
    }
    plan = _plan(PROTOCOLS[protocol.value], **numbers)
    _check_options(plan, **numbers, steps=steps, callers=callers, batch=batch)
    options = BenchOptions(
        plan,
        **_runners(backend, all_peers),
        precisions=list(dict.fromkeys(p.value for p in precision)) if precision else None,
        threads=threads or usable_cores(),
        seed=seed,
        cold=cold,
        pictures=_PICTURES if any(path.suffix == ".html" for path in reports) else 0,
        callers=_distinct(callers, (1, 2)),
        batches=_distinct(batch, (4,)),
        steps=_distinct(steps, (1, 2, 3, 5)),
    )
    _measure(model, options, task=task, checkpoint=checkpoint, json=json, reports=reports)


def _measure(
    model: str,
    options: BenchOptions,
    *,
    task: str | None,
    checkpoint: str | None,
    json: Path | None,
    reports: list[Path],
) -> None:
    """Measure, write and print; what ends a run early is raised when that is done."""
    with ExitStack() as held:
        with ExitStack() as stack:
            say = stack.enter_context(progress())
            bundle, source = open_model(
                model, options, stack, task=task, checkpoint=checkpoint, say=say
            )
            run = Run(bundle, source, options)
            stopped: BaseException | None = None
            try:
                run.measure(say, tell)
            except (KeyboardInterrupt, SystemExit, ElirError) as error:
                stopped = error  # raised again once what was measured is safe
            if run.conditions is None or (stopped is not None and not run.begun):
                assert stopped is not None
                raise stopped  # an older result stays as it is
            # Measuring took minutes, what is left takes seconds.
            held.enter_context(deferred_interrupts())
            written = build_report(run.results, bundle, run.conditions)
        try:
            _write(written, run, json, reports)
        finally:
            aside = json is not None and is_standard_output(json)
            print(text(written), file=sys.stderr if aside else sys.stdout)
    if stopped is not None:
        raise stopped


def _plan(
    protocol: BenchProtocol,
    *,
    seconds: float | None,
    at_most: float | None,
    tolerance: float | None,
    **others: int | None,
) -> BenchProtocol:
    """The protocol with the numbers that were given; ``tolerance`` is in per cent."""
    if seconds is not None and at_most is None:
        # For each of the runners, and there may be ten.
        at_most = max(protocol.at_most_s, 10 * seconds)
    return with_numbers(
        protocol,
        seconds=seconds,
        at_most_s=at_most,
        tolerance=None if tolerance is None else tolerance / 100,
        **others,
    )


def _runners(named: list[str] | None, all_peers: bool) -> dict[str, Any]:
    """By default what the bundle has for this machine, and eager PyTorch."""
    for name in named or ():
        if name not in peers.PEERS and name not in BACKENDS:
            names = ", ".join([*peers.PEERS, *BACKENDS])
            raise UsageError(f"no backend {name!r}: choose from {names}")
    own: list[str] | None = None
    others = [peers.TORCH]
    if named is not None:
        own = [name for name in dict.fromkeys(named) if name not in peers.PEERS]
        others = [name for name in named if name in peers.PEERS]
    return {"backends": own, "peers": list(peers.PEERS) if all_peers else others}


def _distinct(numbers: list[int] | None, default: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(dict.fromkeys(numbers)) if numbers else default


#: Options that say how a run of a given number of images, or of seconds, does not end.
_NOT_BY_IMAGES = ("seconds", "at_most", "tolerance")
_NOT_BY_SECONDS = ("images", "warmup", "at_most", "tolerance")
_OF_ONE_PROTOCOL = {"steps": "steps", "callers": "throughput", "batch": "throughput"}


def _check_options(plan: BenchProtocol, **given: Any) -> None:
    """Nothing is given that would be ignored."""
    names = [name for name, value in given.items() if value is not None]
    for name, protocol in _OF_ONE_PROTOCOL.items():
        if name in names and plan.name != protocol:
            raise UsageError(f"--{name} goes with --protocol {protocol}, not {plan.name}")
    for name in names:
        option = "--" + name.replace("_", "-")
        if plan.name in ("throughput", "soak"):
            if name in _NOT_BY_SECONDS:
                raise UsageError(
                    f"{option} does not go with --protocol {plan.name}: give --seconds"
                )
        elif plan.images is not None and name in _NOT_BY_IMAGES:
            raise UsageError(
                f"{option} does not go with a number of images, here {plan.images}: choose "
                "--protocol latency without --images"
            )
    if None not in (given["seconds"], given["at_most"]) and given["at_most"] < given["seconds"]:
        raise UsageError(
            f"--at-most {given['at_most']:g} ends the run before --seconds {given['seconds']:g}"
        )


def _check_outputs(json: Path | None, reports: list[Path]) -> None:
    for path in reports:
        if path.suffix not in (".html", ".md"):
            raise UsageError(f"--report {path}: wanted a name that ends in .html or .md")
    paths = [*reports, *([json] if json is not None else [])]
    for path in paths:
        check_writable(path)
    places = [os.path.realpath(path) for path in paths]
    for place in places:
        if places.count(place) > 1:
            raise UsageError(f"{place} is named twice, and would hold the last one only")
    if any(path.suffix == ".html" for path in reports):
        html_report.check_installed()


def _write(written: Report, run: Run, json: Path | None, reports: list[Path]) -> None:
    """Every file that can be written, those that are made in no time first.

    Raises:
        OutputError: one of them cannot.
    """
    made: list[tuple[Path, Callable[[], str]]] = []
    if json is not None:
        made.append((json, partial(to_json, written)))
    for path in sorted(reports, key=lambda path: path.suffix == ".html"):
        if path.suffix == ".md":
            made.append((path, partial(markdown, written)))
        else:
            made.append((path, partial(html_report.html, written, run.results.pictures)))
    failed: OutputError | None = None
    for path, make in made:
        try:
            write_text(path, make())
        except OutputError as error:  # noqa: PERF203  # the others are written all the same
            failed = failed or error
    if failed is not None:
        raise failed


def main() -> None:
    run_command(bench)


if __name__ == "__main__":
    main()
