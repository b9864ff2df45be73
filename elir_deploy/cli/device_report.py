"""``elir-bench --device-report``: everything about a device in one file, whatever fails.

Each step is a process of its own (:mod:`~elir_deploy.cli.device_step`), so that a library may crash
in it. The file is replaced before every step: it is there even if the machine goes down.
"""

from __future__ import annotations

import multiprocessing
import os
import secrets
import shutil
import signal
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from functools import partial
from itertools import product
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from elir_deploy.bench.anonymous import Anonymizer
from elir_deploy.bench.device_report import (
    DeviceFile,
    DeviceReport,
    Machine,
    Status,
    Step,
    device_report_text,
    write_device_report,
)
from elir_deploy.bench.protocols import BenchProtocol
from elir_deploy.bench.report_types import Report, RunnerRow
from elir_deploy.bench.runners import BackendPrecision
from elir_deploy.bench.runs import BenchOptions, open_bundles
from elir_deploy.cli.device_step import take_step
from elir_deploy.cli.shell import progress, tell
from elir_deploy.errors import ElirError, OutputError, UsageError
from elir_deploy.interrupts import Interruption, deferred_interrupts
from elir_deploy.output_files import check_writable, locked
from elir_deploy.progress import ProgressCallback, no_progress
from elir_deploy.runtime.backends import BACKENDS, NAMES_DEVICES, Backend, backend_named
from elir_deploy.runtime.bundle import Bundle
from elir_deploy.runtime.manifest import RUN_PRECISIONS
from elir_deploy.runtime.manifest_file import MANIFEST_NAME

__all__ = ["report_device"]

_STEP = take_step
_NOTHING_RUNS = "nothing on this machine can run the bundle"
#: Bytes that are kept of a log's beginning, and of its end.
_HALF_LOG = 2**19
#: Bytes that are kept free for the last writing, whatever engines take.
_RESERVE = 4 * 2**20


def report_device(
    bundles: Sequence[str],
    out: Path,
    plans: Sequence[BenchProtocol],
    backends: Sequence[str] | None,
    precisions: Sequence[str] | None,
    options: Mapping[str, Any],
) -> None:
    """Write the zip file ``out``, and print what it says.

    Args:
        bundles: one, by folder or ``tiny``.
        out: the file.
        plans: what to measure by, in order.
        backends, precisions: the only ones to try; None: all that there are.
        options: ``threads``, ``seed`` and ``device``: 0, or the name of a device of OpenVINO.

    Raises:
        UsageError: there are several bundles, this one has no such precision, the file's name does
            not end in ``.zip``, or a backend's devices have no names.
        OutputError: the file cannot be written.
        KeyboardInterrupt, SystemExit: after the file with what was done until then was written.
    """
    if len(bundles) > 1:
        raise UsageError(f"--device-report takes one bundle, not {len(bundles)}")
    if out.suffix != ".zip":
        raise UsageError(f"--device-report {out}: expected a name ending in .zip")
    check_writable(out)
    (bundle,) = open_bundles(bundles, BenchOptions(plans[0], precisions=precisions))
    run = _DeviceRun(bundle, out, options, _backends(backends, options["device"]))
    stopped: BaseException | None = None
    with progress() as run.show:
        try:
            with ExitStack() as stack:
                run.take_steps(stack, plans, precisions or RUN_PRECISIONS)
            run.complete = True
        except BaseException as error:  # raised below
            stopped = error
            if isinstance(error, OutputError) and not run.written:
                raise
            if isinstance(error, Exception):
                run.add_failure("elir-bench", error)
    with deferred_interrupts():
        try:
            run.write()
        finally:
            print(run.text())
        failed = sum(step.status == "failed" for step in run.steps)
        nothing = any(_NOTHING_RUNS in (step.reason or "") for step in run.steps)
        tell(
            f"{out}: {failed} of {len(run.steps)} steps failed"
            f"{f'; {_NOTHING_RUNS}' if nothing else ''}; please send us this file"
        )
    if stopped is not None:
        raise stopped


def _backends(names: Sequence[str] | None, device: int | str) -> list[Backend]:
    """Those called ``names``; None: that ``auto`` may choose, or whose devices have names."""
    if names is None:
        automatic = [name for name, backend in BACKENDS.items() if backend.automatic]
        names = [NAMES_DEVICES] if isinstance(device, str) else automatic
    return [backend_named(name, device) for name in BACKENDS if name in names]


@dataclass
class _DeviceRun:
    """A device report in progress.

    Attributes:
        bundle: that is measured: a copy with the engines, if there is space for it.
        options: of the runners.
        backends: to be tried.
        complete: whether every step was tried.
        written: whether there is a file.
    """

    bundle: Bundle
    out: Path
    options: Mapping[str, Any]
    backends: Sequence[Backend]
    show: ProgressCallback = no_progress
    complete: bool = False
    written: bool = False
    steps: list[Step] = field(default_factory=list)
    #: By the kind of a step and what it is about.
    _results: dict[tuple[str, str], Any] = field(default_factory=dict)
    _logs: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        path, folder = self.bundle.path, str(self.out.absolute().parent)
        places = {folder: "<out>", str(path): "<bundle>", str(path.absolute()): "<bundle>"}
        self._anonymizer = Anonymizer(places)
        # Once, so that what is printed is what the file says.
        self._created = datetime.now(timezone.utc).isoformat(timespec="seconds")

    def take_steps(
        self, stack: ExitStack, plans: Sequence[BenchProtocol], precisions: Sequence[str]
    ) -> None:
        """Take all steps; a copy of the bundle is removed when ``stack`` is closed."""
        self._take("machine")
        usable = [backend for backend in self.backends if self._obstacle(backend) is None]
        kinds = [backend.name for backend in usable if backend.kind != "onnx"]
        if kinds and self._copy(stack):
            for kind, each in product(kinds, self.bundle.manifest.precisions):
                if each in precisions:
                    runner = BackendPrecision(kind, each)
                    self._take("build", runner, runner=runner)
            self.bundle = Bundle.open(self.bundle.path)
        where = {name: self.options[name] for name in ("threads", "device")}
        for backend, precision in product(usable, precisions):
            # Whether engines fit is a question to their library, which may crash.
            if precision in Backend.held_precisions(backend, self.bundle):
                runner = BackendPrecision(backend.name, precision)
                self._take("check", runner, runner=runner, **where)
        rows = self._checked()
        # Between its turns a GPU would cool down while the processor restores.
        rows = [row for row in rows if not row.on_cpu] or rows
        if not rows:
            reasons = (
                f"{backend.name}: "
                f"{self._obstacle(backend) or 'no file of the bundle fits, or a step failed'}"
                for backend in self.backends
            )
            reason = f"{_NOTHING_RUNS}: {'; '.join(reasons)}"
            self.steps.append(Step("check", "failed", 0.0, reason))
        for plan in plans if rows else ():
            runners = [BackendPrecision(row.backend, row.precision) for row in rows]
            self._take(
                *("measure", plan.name), protocol=asdict(plan), runners=runners, **self.options
            )

    def _obstacle(self, backend: Backend) -> str | None:
        """Why a backend cannot be used, where the machine could be looked at."""
        machine = self._machine
        return None if machine is None else machine.backends.get(backend.name)

    @property
    def _machine(self) -> Machine | None:
        return self._results.get(("machine", ""))

    def _copy(self, stack: ExitStack) -> bool:
        """Copy the bundle, by hard links where there are any; whether that worked."""

        def new_folder() -> Path:
            folder = self.out.absolute().parent / f".elir-{secrets.token_hex(8)}.part"
            folder.mkdir()
            return folder

        try:
            folder = stack.enter_context(locked(new_folder))
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            (folder / "reserve").write_bytes(os.urandom(_RESERVE))
            for file in (MANIFEST_NAME, *(entry.file for entry in self.bundle.manifest.files())):
                (folder / "bundle" / file).parent.mkdir(parents=True, exist_ok=True)
                _link(self.bundle.path / file, folder / "bundle" / file)
            self.bundle = Bundle.open(folder / "bundle")
        except (OSError, ElirError) as error:
            self.add_failure("copy the bundle", error)
            return False
        return True

    def _take(self, kind: str, subject: object = "", **options: Any) -> None:
        """Take a step in a process of its own.

        Args:
            kind: of :mod:`~elir_deploy.cli.device_step`.
            subject: what it is about, for its name.
            options: of the step.

        Raises:
            OutputError: the file cannot be written, and never was.
            KeyboardInterrupt, SystemExit: after what the process had until then was kept.
        """
        name, log = f"{kind} {subject}".strip(), f"logs/{len(self.steps):02}.txt"
        if kind != "machine":
            options["bundle"] = self.bundle.path.absolute()
        began, outcome = time.monotonic(), _Outcome()
        self.steps.append(Step(name, "running"))
        with deferred_interrupts() as stop:
            try:
                self.write()
            except OutputError as error:
                if not self.written:
                    raise
                tell(f"warning: {error}")
            try:
                outcome = _run({"step": kind, **options}, partial(self._show, name), stop)
            except Exception as error:  # noqa: BLE001  # of the system, which may lack memory
                outcome.error = (f"{type(error).__name__}: {error}", traceback.format_exc())
            status: Status = "done" if outcome.error[0] is None else "failed"
            if stop.signal is not None:  # the traceback says where, and there is no other reason
                status, outcome.error = "interrupted", (None, outcome.error[1])
            if outcome.result is not None:
                self._results[kind, str(subject)] = outcome.result
            self._logs[log] = outcome.log.decode("utf-8", "replace")
            self.steps[-1] = Step(name, status, time.monotonic() - began, *outcome.error, log)

    def _show(self, name: str, what: str, done: int, total: int) -> None:
        self.show(f"{name}: {what}", done, total)

    def add_failure(self, name: str, error: Exception) -> None:
        """Add a step of this process, which failed."""
        reason = f"{type(error).__name__}: {error}"
        self.steps.append(Step(name, "failed", 0.0, reason, traceback.format_exc()))

    def text(self) -> str:
        """What the file says, as it says it."""
        return self._anonymizer.text(device_report_text(self._file()))

    def write(self) -> None:
        """Write the file.

        Raises:
            OutputError: it cannot be written.
        """
        write_device_report(self.out, self._file(), self._logs, self._anonymizer)
        self.written = True

    def _file(self) -> DeviceFile:
        manifest = self.bundle.manifest
        height, width = manifest.input_size
        report = DeviceReport(
            schema_version=1,
            kind="elir-device-report",
            created=self._created,
            complete=self.complete,
            bundle=f"{manifest.model.task}, {width}x{height}",
            machine=self._machine,
            checks=self._checked(),
            steps=self.steps,
        )
        measured = {f"{plan}.json": one for plan, one in self._reports("measure").items()}
        return DeviceFile(report, measured)

    def _checked(self) -> list[RunnerRow]:
        return [row for report in self._reports("check").values() for row in report.runners]

    def _reports(self, kind: str) -> dict[str, Report]:
        """Of the steps of a kind that measured something, by what they are about."""
        return {
            subject: report
            for (its_kind, subject), report in self._results.items()
            if its_kind == kind and any(row.image for row in report.runners)
        }


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or another user's file
        shutil.copy2(source, target)


@dataclass
class _Outcome:
    """What came of a step's process.

    Attributes:
        error: reason and traceback, where there are any.
        log: what was printed; of much, the beginning and the end.
    """

    result: Any = None
    error: tuple[str | None, str | None] = (None, None)
    log: bytes = b""


def _run(options: dict[str, Any], show: ProgressCallback, stop: Interruption) -> _Outcome:
    """Take a step in a process; an interruption is passed on to it, an exception kills it."""
    context, outcome, told = multiprocessing.get_context("spawn"), _Outcome(), False
    (messages, to_messages), (log, to_log) = context.Pipe(False), context.Pipe(False)
    process = context.Process(target=_STEP, args=(to_messages, to_log, options), daemon=True)
    try:
        process.start()
        to_messages.close()
        to_log.close()
        ends = [messages, log]
        # A process that the step started may hold the ends open.
        while ends and ((ready := wait(ends, 0.2)) or process.is_alive()):
            if stop.signal is not None and not told:
                told = True
                tell("stopping; Ctrl-C again ends this step at once")
                assert process.pid is not None
                os.kill(process.pid, signal.SIGINT)
            for end in ready:
                try:
                    if end is messages:
                        kind, value = messages.recv()
                        show(*value) if kind == "progress" else setattr(outcome, kind, value)
                    elif data := os.read(log.fileno(), 2**16):
                        whole = outcome.log + data
                        much = len(whole) > 2 * _HALF_LOG
                        outcome.log = whole[:_HALF_LOG] + whole[-_HALF_LOG:] if much else whole
                    else:
                        ends.remove(log)
                except (EOFError, OSError):  # noqa: PERF203  # of the one that ends
                    ends = [each for each in ends if each is not end]
        process.join()
    finally:
        if process.is_alive():
            process.kill()
    if process.exitcode and outcome.error[0] is None:
        code = process.exitcode
        name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        outcome.error = (f"its process ended with {name}", None)
    return outcome
