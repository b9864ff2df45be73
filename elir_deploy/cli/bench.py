"""``elir-bench``: how fast a model is, in every way this machine can run it."""

from __future__ import annotations

import dataclasses
import enum
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from elir_deploy.atomic import write_text
from elir_deploy.bench import peers
from elir_deploy.bench.contenders import Contender, Fidelity, Unavailable, open_restorers
from elir_deploy.bench.device import CpuMeter, describe_device, usable_cores
from elir_deploy.bench.protocols import PROTOCOLS, Measurement
from elir_deploy.bench.report import (
    build_report,
    check_writable,
    markdown,
    text,
    to_json,
)
from elir_deploy.cli.choices import Precision
from elir_deploy.cli.shell import DebugOption, VersionOption, progress, run_command
from elir_deploy.cli.terminal import printable_values
from elir_deploy.errors import ElirError, MissingDependencyError, UnavailableError, UsageError
from elir_deploy.runtime import Bundle
from elir_deploy.runtime.backends import BACKENDS, backend_named
from elir_deploy.runtime.bundle import RUN_PRECISIONS, file_precision
from elir_deploy.tasks import TASKS, task_named

if TYPE_CHECKING:
    from elir_deploy.checkpoints import Checkpoint


class Protocol(str, enum.Enum):
    paper = "paper"


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
        Protocol, typer.Option(help="; ".join(f"{p.name}: {p.title}" for p in PROTOCOLS.values()))
    ] = Protocol.paper,
    backend: Annotated[
        list[str] | None,
        typer.Option(
            help=f"{peers.TORCH} or one of {', '.join(BACKENDS)}; repeat for several. "
            f"[default: {peers.TORCH}, and those that `auto` would choose from for the bundle]"
        ),
    ] = None,
    precision: Annotated[
        list[Precision] | None,
        typer.Option(
            help=f"Repeat for several; {peers.TORCH} is always fp32, and bf16 runs the fp32 files. "
            "[default: all that bundle and backend have]"
        ),
    ] = None,
    images: Annotated[
        int | None, typer.Option(min=1, help="Images measured. [default: the protocol's]")
    ] = None,
    warmup: Annotated[
        int | None, typer.Option(min=0, help="Images before those. [default: the protocol's]")
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(min=1, help="CPU threads of every contender. [default: all usable cores]"),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(help=f"One of {', '.join(TASKS)}; needed where a checkpoint does not tell."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the random images.")] = 0,
    json: Annotated[
        Path | None, typer.Option(help="Write everything, all samples included, to this file.")
    ] = None,
    report: Annotated[
        Path | None, typer.Option(metavar="F.md", help="Write the tables as Markdown.")
    ] = None,
    debug: DebugOption = False,
    version: VersionOption = False,
) -> None:
    """Measure a model at batch 1 on random images, several backends side by side.

    The contenders take turns of a few images, so that drift of the machine hits all alike; speeds
    are compared image by image, with a confidence interval. The figure is from 8-bit image to 8-bit
    image; what the backend alone took stands beside it, and so does the agreement with PyTorch.
    Ctrl-C keeps what was measured.

    Examples:

    * `elir-bench bfr --json bfr.json`
    * `elir-bench random --task bfr --precision fp32 --backend torch --backend onnxruntime`
    """
    for path in (json, report):
        if path is not None:
            check_writable(path)
    if report is not None and report.suffix != ".md":
        raise UsageError(f"--report {report}: wanted a name that ends in .md")
    if task is not None:
        task_named(task)
    for name in backend or ():
        _check_backend(name)
    plan = dataclasses.replace(PROTOCOLS[protocol.value])
    if images is not None:
        plan = dataclasses.replace(plan, images=images)
    if warmup is not None:
        plan = dataclasses.replace(plan, warmup=warmup)
    threads = threads or usable_cores()
    backends = list(dict.fromkeys(backend)) if backend else None
    precisions = list(dict.fromkeys(p.value for p in precision)) if precision else None

    with ExitStack() as stack:
        say = stack.enter_context(progress())
        bundle, checkpoint = _open_model(model, task, precisions, stack, say)
        _check_precisions(bundle, precisions)
        contenders, unavailable = _open_contenders(
            bundle, checkpoint, backends, precisions, threads, say
        )
        for contender in contenders:
            stack.callback(contender.close)
        contenders, fidelities = _compare(contenders, bundle, unavailable, say)
        side = bundle.info.model.image_size // bundle.info.model.upscale
        measurement = Measurement(contenders, plan, (side, side, 3), seed=seed)
        device = describe_device()
        meter, began = CpuMeter(), time.monotonic()
        stopped: BaseException | None = None
        try:
            measurement.run(say)
        except (KeyboardInterrupt, SystemExit, ElirError) as error:
            stopped = error  # raised again once what was measured is safe
        if stopped is not None and not measurement.begun:
            raise stopped  # an older result stays as it is
        written = build_report(
            measurement,
            contenders,
            fidelities,
            unavailable,
            bundle,
            device,
            seed=seed,
            threads=threads,
            cores_elsewhere=meter.cores_elsewhere(time.monotonic() - began),
        )
        if json is not None:
            write_text(json, to_json(written))
        if report is not None:
            write_text(report, markdown(written))
    print(text(printable_values(written)))
    if stopped is not None:
        raise stopped


def _check_backend(name: str) -> None:
    if name != peers.TORCH:
        try:
            backend_named(name)
        except UsageError:
            raise UsageError(
                f"no backend {name!r}: choose from {peers.TORCH}, {', '.join(BACKENDS)}"
            ) from None


def _check_precisions(bundle: Bundle, precisions: list[str] | None) -> None:
    held = bundle.info.precisions
    for precision in precisions or ():
        if file_precision(precision) not in held:
            choices = [p for p in RUN_PRECISIONS if file_precision(p) in held]
            raise UsageError(
                f"{bundle.path} holds no {file_precision(precision)} files: "
                f"choose from {', '.join(choices)}"
            )


def _open_model(
    model: str,
    task: str | None,
    precisions: list[str] | None,
    stack: ExitStack,
    say: Callable[[str, int, int], None],
) -> tuple[Bundle, Checkpoint | None]:
    """The bundle to measure, and the checkpoint it was made from if that is what was given."""
    if Path(model).is_dir() or model == "tiny":
        bundle = Bundle.open(model)
        held = bundle.info.model.task
        if task not in (None, held):
            raise UsageError(f"{model} is for task {held}, not {task}: leave out --task")
        return bundle, None
    try:
        checkpoint = peers.load(model, task, say)
    except MissingDependencyError as error:
        raise UnavailableError(
            f"{model} is no bundle's folder; taken as a checkpoint it needs {error.package}: "
            f"pip install 'elir-deploy[{error.extra}]'"
        ) from None
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="elir-bench-"))
    return peers.export_to_bundle(checkpoint, Path(folder) / "bundle", precisions, say), checkpoint


def _open_contenders(
    bundle: Bundle,
    checkpoint: Checkpoint | None,
    backends: list[str] | None,
    precisions: list[str] | None,
    threads: int,
    say: Callable[[str, int, int], None],
) -> tuple[list[Contender], list[Unavailable]]:
    """PyTorch first, where it takes part: the others are compared with the first."""
    contenders: list[Contender] = []
    missing: list[Unavailable] = []
    say("loading", 0, 0)
    if backends is None or peers.TORCH in backends:
        reason = peers.torch_missing()
        if reason is None:
            contenders.append(peers.torch_peer(bundle, checkpoint, threads=threads))
        else:
            missing.append(Unavailable(peers.TORCH, reason))
    others = None if backends is None else [name for name in backends if name != peers.TORCH]
    opened, absent = open_restorers(bundle, others, precisions, threads=threads)
    contenders += opened
    missing += absent
    _require_any(contenders, missing)
    return contenders, missing


def _compare(
    contenders: list[Contender],
    bundle: Bundle,
    unavailable: list[Unavailable],
    say: Callable[[str, int, int], None],
) -> tuple[list[Contender], dict[str, Fidelity]]:
    """Agreement with the references by label; one that cannot run at all becomes unavailable."""
    fidelities: dict[str, Fidelity] = {}
    for done, contender in enumerate(contenders):
        say("comparing with PyTorch's results", done, len(contenders))
        try:
            fidelities[contender.label] = contender.fidelity(bundle)
        except UnavailableError as error:
            unavailable.append(Unavailable(contender.label, str(error)))
    running = [contender for contender in contenders if contender.label in fidelities]
    _require_any(running, unavailable)
    return running, fidelities


def _require_any(contenders: list[Contender], unavailable: list[Unavailable]) -> None:
    if not contenders:
        reasons = "; ".join(f"{item.label}: {item.reason}" for item in unavailable)
        raise UnavailableError(f"nothing can be measured here: {reasons}")


def main() -> None:
    run_command(bench)


if __name__ == "__main__":
    main()
