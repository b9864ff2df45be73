"""One step of a device report, in a process of its own, so that a crash ends this step alone."""

from __future__ import annotations

import faulthandler
import logging
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import asdict, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from msgspec import structs

from elir_deploy.bench.device import describe_device
from elir_deploy.bench.device_report import Machine, without_file_name
from elir_deploy.bench.protocols import PROTOCOLS, BenchProtocol
from elir_deploy.bench.report import build_report
from elir_deploy.bench.report_types import Report
from elir_deploy.bench.runners import BackendPrecision, BundleRunner
from elir_deploy.bench.runs import BenchOptions, Run
from elir_deploy.bench.sensors.nvml import Nvml
from elir_deploy.bench.sensors.state import read_state
from elir_deploy.cli.build import device_specs, target_specs
from elir_deploy.cli.shell import tell
from elir_deploy.errors import ElirError, QualityError, UnavailableError
from elir_deploy.export.tensorrt.builder import BuildOptions
from elir_deploy.export.tensorrt.existing import add_engines, check_parser
from elir_deploy.progress import ProgressCallback
from elir_deploy.runtime.backends import BACKENDS
from elir_deploy.runtime.bundle import Bundle
from elir_deploy.runtime.cuda import device_capabilities
from elir_deploy.runtime.manifest import file_precision
from elir_deploy.runtime.tensorrt_library import library_log, load_library
from elir_deploy.targets import DEVICE_TENSORRT, RTX, EngineKind

#: What they print goes to the log; none tells a name or number of this one machine.
_COMMANDS = (
    "cat /etc/nv_tegra_release /proc/driver/nvidia/version /proc/meminfo",
    "nvidia-smi -q -d MEMORY,TEMPERATURE,POWER,CLOCK,PERFORMANCE",
    "nvpmodel -q",
    "lscpu",
    "dpkg-query -W nvidia-jetpack nvidia-l4t-core libnvinfer* libcudnn*",
)


def _machine(show: ProgressCallback) -> Iterator[Machine]:
    """Look at the machine."""
    show("looking", 0, 0)
    for command in _COMMANDS:
        with suppress(OSError, subprocess.TimeoutExpired):
            done = subprocess.run(command.split(), capture_output=True, timeout=30, check=False)
            _log(f"{command}:\n{done.stdout.decode('utf-8', 'replace')}")
    device, sensors = describe_device(), read_state(Nvml())
    machine = Machine(device, sensors, list(device_capabilities()), backends={})
    yield machine
    for name, backend in BACKENDS.items():  # an import may crash: what was seen until then is kept
        try:
            reason = backend.available()
        except Exception as error:  # noqa: BLE001  # of a library that is not well
            reason = f"{type(error).__name__}: {error}"
            _log(traceback.format_exc())
        if reason is not None:
            _log(f"{name} cannot be used: {reason}")
        machine = structs.replace(machine, backends={**machine.backends, name: reason})
        yield machine


def _build(show: ProgressCallback, bundle: Path, runner: BackendPrecision) -> None:
    """Build the engines of a precision for this GPU, unless the bundle has them."""
    kind, precision = runner
    opened, backend = Bundle.open(bundle), BACKENDS[kind]
    artifacts = [a for a in opened.manifest.artifacts if (a.kind, a.precision) == (kind, precision)]
    if sum(backend.incompatibility(a) is None for a in artifacts) >= len(opened.stages):
        return
    capabilities = device_capabilities()[:1]
    if not capabilities:
        raise UnavailableError("no device to build for: the driver reports none")
    library, specs = device_specs() if kind == DEVICE_TENSORRT else target_specs([*capabilities])
    check_parser(opened, library)
    added = add_engines(opened, library, specs, [precision], BuildOptions(), show, tell)
    for engine in added.engines:  # its size, and its kernels by precision, even if none can run
        _log(str(engine))


def _check(
    show: ProgressCallback,
    bundle: Path,
    runner: BackendPrecision,
    threads: int,
    device: int | str,
) -> Iterator[Report]:
    """Load a runner alone, and compare its pictures with float32 PyTorch's."""
    opened, precision = Bundle.open(bundle), runner.precision
    one = asdict(replace(PROTOCOLS["paper"], warmup=0, images=1))
    where: dict[str, Any] = {"threads": threads, "device": device}
    try:
        (report,) = _measure(show, bundle, one, [runner], **where, cold=True)
    except UnavailableError:
        # The measurement keeps the message of an error alone: once more, for its traceback.
        BundleRunner(opened, *runner, **where).fidelity(opened)
        raise
    yield report
    (row,), verified = report.runners, opened.manifest.verification
    result = verified.get(precision) or verified.get(file_precision(precision))
    psnr = row.fidelity.psnr_db if row.fidelity else None
    if psnr is not None and result is not None and result.passed and psnr < result.floor_db:
        raise QualityError(
            f"it reaches {psnr:.1f} dB against float32 PyTorch, expected {result.floor_db:g}"
        )


def _measure(
    show: ProgressCallback,
    bundle: Path,
    protocol: dict[str, Any],
    runners: list[BackendPrecision],
    *,
    cold: bool = False,
    **options: Any,
) -> Iterator[Report]:
    """Measure some runners."""
    plan = BenchProtocol(**protocol)
    bench = BenchOptions(plan, peers=(), runners=runners, cold=cold, **options)
    run = Run([Bundle.open(bundle)], bench)
    stopped = run.measure_to_report(show, tell)
    assert run.conditions is not None
    yield without_file_name(build_report(run.results, run.bundle, run.conditions))
    if stopped is not None:
        raise stopped


_STEPS: dict[str, Callable[..., Iterator[Any] | None]] = {
    "machine": _machine,
    "build": _build,
    "check": _check,
    "measure": _measure,
}


def take_step(messages: Connection, log: Connection, options: dict[str, Any]) -> None:
    """Take the step called ``options["step"]`` with the other options, in a new process.

    Args:
        messages: gets pairs: of ``progress`` with the arguments of a callback, ``result``, or
            ``error`` with reason and traceback.
        log: gets what the process and its libraries print.
    """
    if sys.platform != "win32":
        os.setsid()  # or Ctrl-C would reach it twice
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for stream in (1, 2):
        os.dup2(log.fileno(), stream)
    faulthandler.enable()
    logger = logging.getLogger("elir_deploy")  # tells why a library cannot be imported
    logger.setLevel(logging.DEBUG)
    logger.addHandler(logging.StreamHandler())
    take_here(messages.send, options)


def take_here(send: Callable[[tuple[str, Any]], None], options: dict[str, Any]) -> None:
    """Take a step in this process; ``send`` is called with the messages."""

    def show(*state: Any) -> None:
        send(("progress", state))

    try:
        with ExitStack() as stack:
            for kind in _libraries(options):
                _log_messages(kind, stack)
            step = _STEPS[options.pop("step")]
            for result in step(show, **options) or ():
                send(("result", result))
    except BaseException as error:  # noqa: BLE001  # all of them are for the report
        reason = str(error) if isinstance(error, ElirError) else f"{type(error).__name__}: {error}"
        send(("error", (reason, traceback.format_exc())))


def _libraries(options: dict[str, Any]) -> list[EngineKind]:
    """The engine libraries that a step is about: importing another may crash it."""
    runners = [options["runner"]] if "runner" in options else options.get("runners", ())
    names = {runner.backend for runner in runners}
    return [kind for kind in (DEVICE_TENSORRT, RTX) if kind in names]


def _log(text: str) -> None:
    sys.stderr.write(f"{text.rstrip()}\n")


def _log_messages(kind: EngineKind, stack: ExitStack) -> None:
    """Log what a library says, but for how it decided."""
    try:
        library = load_library(kind)
    except UnavailableError:
        return
    verbose = library.module.ILogger.VERBOSE

    def log(severity: Any, text: str) -> None:
        if severity != verbose:
            _log(f"{library} [{severity}] {text}")

    stack.enter_context(library_log(library).listening(log))
