"""``elir-bench``: how fast bundles are, in every way this machine can run them."""

from __future__ import annotations

import enum
import os
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
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
from elir_deploy.bench.runs import BenchOptions, Run, open_bundles
from elir_deploy.cli.choices import Precision, device_of
from elir_deploy.cli.device_report import report_device
from elir_deploy.cli.options import DeviceOption
from elir_deploy.cli.shell import DebugOption, VersionOption, progress, run_command, tell
from elir_deploy.errors import OutputError, UsageError
from elir_deploy.interrupts import deferred_interrupts
from elir_deploy.output_files import check_writable, is_standard_output, write_text
from elir_deploy.runtime.backends import BACKENDS

#: Pictures in a page: two of 512x512 are a megabyte for each runner.
_PICTURES = 2

_MEASURE = "What to measure"
_DURATION = "How long"
_OUTPUT = "Output"

Protocol = enum.Enum("Protocol", {name: name for name in PROTOCOLS}, type=str)  # type: ignore[misc]
_DEFAULT = Protocol("paper")


# Long because Typer reads the options from the signature.
def bench(
    bundle: Annotated[
        list[str],
        typer.Argument(
            metavar="BUNDLE",
            help="Folders written by elir-export, or 'tiny' (included). Several are "
            "measured side by side.",
        ),
    ],
    protocol: Annotated[
        Protocol,
        typer.Option(
            help="; ".join(f"{p.name}: {p.title}" for p in PROTOCOLS.values()),
            rich_help_panel=_MEASURE,
        ),
    ] = _DEFAULT,
    backend: Annotated[
        list[str] | None,
        typer.Option(
            help=f"One of {', '.join(BACKENDS)}, or a peer that does not use this project: "
            + "; ".join(f"{name}: {peer.summary}" for name, peer in peers.PEERS.items())
            + f". Repeat for several. [default: {peers.TORCH}, and the backends that `auto` would "
            "choose from for the bundle]",
            rich_help_panel=_MEASURE,
        ),
    ] = None,
    named_peers: Annotated[
        list[str] | None,
        typer.Option(
            "--peers",
            metavar="NAMES",
            help=f"Also measure, separated by commas: {', '.join(peers.PEERS)}; '{peers.ALL}' of "
            f"them, where compiling takes minutes; '{peers.PAPER}': for bfr and bsr, the models "
            "that the paper compares with, with random weights (extra 'paper'); "
            f"'{peers.CODEFORMER}', whose licence is non-commercial.",
            rich_help_panel=_MEASURE,
        ),
    ] = None,
    precision: Annotated[
        list[Precision] | None,
        typer.Option(
            help="Repeat for several; bf16 runs the fp32 files. "
            "[default: all that the bundle has and the backend runs]",
            rich_help_panel=_MEASURE,
        ),
    ] = None,
    device: DeviceOption = None,
    checkpoint: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|NAME",
            help="The checkpoint that the bundle was exported from (its SHA-256 is checked), to "
            "give peers the same weights. [default: random weights, which are as fast]",
            rich_help_panel=_MEASURE,
        ),
    ] = None,
    callers: Annotated[
        list[int] | None,
        typer.Option(
            min=1,
            help="Threads that share a restorer, for --protocol throughput; repeat for several. "
            "[default: 1 2]",
            rich_help_panel=_MEASURE,
        ),
    ] = None,
    batch: Annotated[
        list[int] | None,
        typer.Option(
            min=2,
            help="Images per run, for --protocol throughput, up to the bundle's largest batch; "
            "repeat for several. [default: the largest, if it is above 1]",
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
        int, typer.Option(min=0, help="Seed of the random images.", rich_help_panel=_MEASURE)
    ] = 0,
    cold: Annotated[
        bool,
        typer.Option(
            help="Also start each runner of a bundle in a new process, to measure the time to "
            "load, the time to the first image and peak memory.",
            rich_help_panel=_MEASURE,
        ),
    ] = True,
    images: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Number of images to measure. [default: 200 for paper, else as many as needed]",
            rich_help_panel=_DURATION,
        ),
    ] = None,
    warmup: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Number of warm-up images. [default: 10 for paper, else until the latencies "
            "settle]",
            rich_help_panel=_DURATION,
        ),
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option(
            min=0.1,
            help="Minimum time for each runner; for throughput, time for each load. "
            "[default: 10; 5 for throughput, 600 for soak]",
            rich_help_panel=_DURATION,
        ),
    ] = None,
    at_most: Annotated[
        float | None,
        typer.Option(
            min=1,
            metavar="SECONDS",
            help="Time after which the run ends in any case. [default: 300, or ten times "
            "--seconds if that is more]",
            rich_help_panel=_DURATION,
        ),
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(
            min=0.1,
            max=50,
            metavar="PERCENT",
            help="Required precision of every median: half the width of its 95 % interval. "
            "[default: 2]",
            rich_help_panel=_DURATION,
        ),
    ] = None,
    json: Annotated[
        Path | None,
        typer.Option(
            help="Write the report with all samples to this file; '-' writes it to standard "
            "output, and the tables to standard error.",
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
    device_report: Annotated[
        Path | None,
        typer.Option(
            metavar="OUT.zip",
            help="Instead: look at this machine, build engines, check and measure every backend "
            "and precision by the protocols latency and paper, and write all of it to this file, "
            "with logs and every failure, and without names and paths. With --device and a name, "
            "of that device of OpenVINO; of NVIDIA's GPUs, the first. Show it with elir-inspect.",
            rich_help_panel=_OUTPUT,
        ),
    ] = None,
    debug: DebugOption = False,
    version: VersionOption = False,
) -> None:
    """Measure bundles at batch 1 on random images, several backends side by side.

    The runners take turns of a few images, so that drift of the machine affects all alike; speeds
    are compared image by image, with a confidence interval. FPS is from 8-bit image to 8-bit image;
    the backend's share of the time and the agreement with PyTorch are listed beside it. After
    Ctrl-C, what was measured is still reported.

    Examples:

    * `elir-bench bfr --json bfr.json --report bfr.html`
    * `elir-bench bfr --protocol latency --backend openvino --backend onnxruntime --tolerance 1`
    * `elir-bench bfr --precision fp32 --peers all`
    * `elir-bench bfr --precision fp32 --peers paper`
    * `elir-bench bfr --device GPU.1`
    * `elir-bench bfr-1 bfr-3 bfr-5 --protocol steps`
    * `elir-bench bfr --protocol soak --backend openvino --precision int8 --seconds 3600`
    * `elir-bench bfr --device-report device.zip`
    """
    reports = report or []
    _check_outputs(json, reports)
    until: dict[str, Any] = {"seconds": seconds, "at_most": at_most, "tolerance": tolerance}
    numbers: dict[str, Any] = {"images": images, "warmup": warmup, **until}
    precisions = list(dict.fromkeys(p.value for p in precision)) if precision else None
    place = device_of(device)
    shared: dict[str, Any] = {"threads": threads or usable_cores(), "seed": seed, "device": place}
    if device_report is not None:
        others = (json, report, checkpoint, callers, batch, named_peers)
        foreign = [name for name in backend or () if name not in BACKENDS]
        if any(others) or foreign or protocol is not _DEFAULT or not cold:
            raise UsageError(
                "--device-report takes no peers, and of the other options only "
                "--backend, --precision, --device, --threads, --seed and those of how long"
            )
        if place and isinstance(place, int):
            raise UsageError(
                f"--device-report measures the first GPU, not --device {device}: set "
                f"CUDA_VISIBLE_DEVICES={device} to make it the first"
            )
        counts = {"images": images, "warmup": warmup}
        plans = (
            _with_numbers(PROTOCOLS["latency"], **until),
            _with_numbers(PROTOCOLS["paper"], **dict.fromkeys(until), **counts),
        )
        _check_options(plans[0], **until)
        report_device(bundle, device_report, plans, backend, precisions, shared)
        return
    plan = _with_numbers(PROTOCOLS[protocol.value], **numbers)
    _check_options(plan, **numbers, callers=callers, batch=batch)
    if checkpoint is not None and plan.bundles_alone:
        raise UsageError(
            f"--checkpoint is for peers, which do not take part in --protocol {plan.name}"
        )
    options = BenchOptions(
        plan,
        *peers.runners_named(backend, named_peers),
        precisions=precisions,
        cold=cold,
        pictures=_PICTURES if any(path.suffix == ".html" for path in reports) else 0,
        callers=tuple(dict.fromkeys(callers or (1, 2))),
        batches=tuple(dict.fromkeys(batch or ())),
        **shared,
    )
    _measure(bundle, options, checkpoint=checkpoint, json=json, reports=reports)


def _measure(
    bundles: list[str],
    options: BenchOptions,
    *,
    checkpoint: str | None,
    json: Path | None,
    reports: list[Path],
) -> None:
    """Measure, write and print; an error that ends a run early is raised after that."""
    with ExitStack() as outer:
        with ExitStack() as stack:
            show = stack.enter_context(progress())
            run = Run(open_bundles(bundles, options), options)
            if checkpoint is not None:
                run.checkpoint = peers.load_checkpoint_of(run.bundle, checkpoint, show)
            # An error before the first image leaves older results as they are; one behind it is
            # raised once the new ones are safe.
            stopped = run.measure_to_report(show, tell)
            assert run.conditions is not None
            # Measuring took minutes, the rest takes seconds.
            outer.enter_context(deferred_interrupts())
            values = build_report(run.results, run.bundle, run.conditions)
        try:
            _write(values, run, json, reports)
        finally:
            aside = json is not None and is_standard_output(json)
            print(text(values), file=sys.stderr if aside else sys.stdout)
    if stopped is not None:
        raise stopped


def _with_numbers(
    protocol: BenchProtocol,
    *,
    seconds: float | None,
    at_most: float | None,
    tolerance: float | None,
    **others: int | None,
) -> BenchProtocol:
    """The protocol with the numbers of the command line; ``tolerance`` is in per cent."""
    if seconds is not None and at_most is None:
        # Seconds are for each runner, and there may be ten.
        at_most = max(protocol.at_most_s, 10 * seconds)
    numbers = {
        "seconds": seconds,
        "at_most_s": at_most,
        "tolerance": None if tolerance is None else tolerance / 100,
        **others,
    }
    changes: dict[str, Any] = {k: v for k, v in numbers.items() if v is not None}
    return replace(protocol, **changes)


def _check_options(plan: BenchProtocol, **options: Any) -> None:
    """Raise :class:`UsageError` for options that the run would ignore."""
    names = [name for name, value in options.items() if value is not None]
    for name in names:
        option = "--" + name.replace("_", "-")
        if name not in plan.accepts:
            protocols = ", ".join(p.name for p in PROTOCOLS.values() if name in p.accepts)
            raise UsageError(
                f"{option} cannot be used with --protocol {plan.name}, only with {protocols}"
            )
        if plan.images is not None and name in ("seconds", "at_most", "tolerance"):
            raise UsageError(
                f"{option} cannot be used with a fixed number of images ({plan.images}): choose "
                "--protocol latency without --images"
            )
    if None not in (options["seconds"], options["at_most"]) and plan.at_most_s < plan.seconds:
        raise UsageError(
            f"--at-most {plan.at_most_s:g} ends the run before --seconds {plan.seconds:g}"
        )


def _check_outputs(json: Path | None, reports: list[Path]) -> None:
    for path in reports:
        if path.suffix not in (".html", ".md"):
            raise UsageError(f"--report {path}: expected a name ending in .html or .md")
    paths = [*reports, *([json] if json is not None else [])]
    for path in paths:
        check_writable(path)
    places = [os.path.realpath(path) for path in paths]
    for place in places:
        if places.count(place) > 1:
            raise UsageError(f"{place} is named for two outputs: choose different names")
    if any(path.suffix == ".html" for path in reports):
        html_report.import_jinja()


def _write(values: Report, run: Run, json: Path | None, reports: list[Path]) -> None:
    """Write every file that can be written, the quickest first.

    Raises:
        OutputError: one of them cannot be written.
    """
    outputs: list[tuple[Path, Callable[[], str]]] = []
    if json is not None:
        outputs.append((json, partial(to_json, values)))
    for path in sorted(reports, key=lambda path: path.suffix == ".html"):
        if path.suffix == ".md":
            outputs.append((path, partial(markdown, values)))
        else:
            outputs.append((path, partial(html_report.html, values, run.results.pictures)))
    failed: OutputError | None = None
    for path, content in outputs:
        try:
            write_text(path, content())
        except OutputError as error:  # noqa: PERF203  # the others are written all the same
            failed = failed or error
    if failed is not None:
        raise failed


def main() -> None:
    run_command(bench)


if __name__ == "__main__":
    main()
