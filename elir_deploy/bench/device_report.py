"""A device report: a zip file with ``report.json``, the reports of its measurements as ``elir-bench
--json`` writes them, ``report.txt`` to read, and ``logs`` of the steps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import msgspec
from msgspec.structs import replace

from elir_deploy.bench.anonymous import Anonymizer
from elir_deploy.bench.device import Device
from elir_deploy.bench.device_archive import read_archive, write_archive
from elir_deploy.bench.report_file import decode, read_bytes, to_json
from elir_deploy.bench.report_text import counts, digits, psnr_cell
from elir_deploy.bench.report_text import text as report_text
from elir_deploy.bench.report_types import Record, Report, RunnerRow
from elir_deploy.bench.sensors.state import State
from elir_deploy.bench.statistics import Amount
from elir_deploy.errors import InputError
from elir_deploy.tasks import TASKS
from elir_deploy.text import aligned, printable

__all__ = ["DeviceFile", "DeviceReport", "Machine", "Status", "Step", "device_report_text"]
__all__ += ["read_device_report", "without_file_name", "write_device_report"]

#: File names of checkpoints, without their suffix, that are no secret.
_PUBLIC_CHECKPOINTS = ("random", "tiny", *(spec.released_name for spec in TASKS.values()))

Status = Literal["running", "done", "failed", "interrupted"]


class Step(Record, frozen=True):
    """One step; ``running`` where it, or the machine, was killed.

    Attributes:
        reason: why it failed, with the ``traceback`` where there is one.
        log: the file in the archive with what its process printed.
    """

    name: str
    status: Status
    seconds: Amount = 0.0
    reason: str | None = None
    traceback: str | None = None
    log: str | None = None


class Machine(Record, frozen=True):
    """The idle machine; of each backend, why it cannot be used, or None."""

    device: Device
    sensors: State
    capabilities: list[str]
    backends: dict[str, str | None]


class DeviceReport(Record, frozen=True):
    """All but the measurements.

    Attributes:
        created: when the run began, in UTC.
        complete: whether every step was tried.
        checks: runners that were loaded alone and compared with float32 PyTorch.
    """

    schema_version: Literal[1]
    kind: Literal["elir-device-report"]
    created: str
    complete: bool
    bundle: str
    machine: Machine | None
    checks: list[RunnerRow]
    steps: list[Step]


@dataclass(frozen=True)
class DeviceFile:
    """A device report with its measurements by file name, and why others cannot be read."""

    report: DeviceReport
    measurements: Mapping[str, Report]
    unreadable: Mapping[str, str] = field(default_factory=dict)


def without_file_name(report: Report) -> Report:
    """``report`` without the name of the checkpoint's file, unless everybody has the checkpoint."""
    name = report.bundle.source.name
    if Path(name).stem in _PUBLIC_CHECKPOINTS:
        return report
    source = replace(report.bundle.source, name="<checkpoint>")
    rows = [
        replace(row, weights="<checkpoint>") if row.weights == name else row
        for row in report.runners
    ]
    return replace(report, bundle=replace(report.bundle, source=source), runners=rows)


def write_device_report(
    path: Path, file: DeviceFile, logs: Mapping[str, str], anonymizer: Anonymizer
) -> None:
    """Write the zip file, without what is personal.

    Raises:
        OutputError: it cannot be written; what was there stays.
    """
    entries = {"report.txt": device_report_text(file), **logs}
    entries = {name: anonymizer.text(text) for name, text in entries.items()}
    for name, report in {"report.json": file.report, **file.measurements}.items():
        entries[name] = to_json(anonymizer.values(msgspec.to_builtins(report)))
    write_archive(path, entries)


def read_device_report(path: Path) -> DeviceFile:
    """Read the zip file, which may come from anybody.

    Raises:
        InputError: it, or its ``report.json``, cannot be read, is damaged, of another version, or
            something else.
    """
    entries = read_archive(path, read_bytes(path))
    report = decode(path, entries.pop("report.json"), DeviceReport)
    measurements, unreadable = {}, {}
    for name, entry in entries.items():
        try:
            measurements[name] = decode(path / name, entry, Report)
        except InputError as error:  # noqa: PERF203  # the rest is worth reading
            unreadable[name] = str(error)
    return DeviceFile(report, measurements, unreadable)


def device_report_text(file: DeviceFile) -> str:
    """For a terminal: no text in the report steers it."""
    report = file.report
    checks = [tuple(map(printable, _check(row))) for row in report.checks]
    steps = [(printable(s.name), digits(s.seconds, 3), s.status) for s in report.steps]
    lines = [*_heading(report), *(f"{s.name}: {s.reason}" for s in report.steps if s.reason)]
    blocks = ["\n".join(map(printable, lines))]
    if checks:
        header = ("runner", "PSNR dB", "load s", "peak MiB", "GPU MiB", "convolutions")
        blocks.append(f"Checks\n{aligned(header, checks)}")
    blocks.append(f"Steps\n{aligned(('step', 's', 'status'), steps)}")
    blocks += [f"{name}\n{report_text(one)}" for name, one in file.measurements.items()]
    blocks += map(printable, file.unreadable.values())
    return "\n\n".join(blocks)


def _heading(report: DeviceReport) -> Iterator[str]:
    state = "" if report.complete else ", which did not come to its end"
    yield f"device report of {report.bundle}, {report.created}{state}"
    if report.machine is None:
        return
    device = report.machine.device
    yield f"{device.machine or device.cpu.model}; {device.os}; kernel {device.kernel}"
    for gpu in device.gpus:
        yield f"GPU: {gpu.get('name')}, driver {gpu.get('driver_version')}"
    yield f"compute capabilities: {', '.join(report.machine.capabilities) or 'none'}"
    versions = {"python": device.python, "elir-deploy": device.elir_deploy, **device.libraries}
    yield ", ".join(f"{name} {version}" for name, version in versions.items())
    for name, reason in report.machine.backends.items():
        if reason:
            yield f"{name} cannot be used: {reason}"


def _check(row: RunnerRow) -> Iterator[str]:
    yield from (row.label, psnr_cell(row.fidelity) or "-")
    yield digits(row.cold.load_s, 3) if row.cold else "-"
    for count in (row.cold.peak_rss_bytes, row.cold.device_bytes) if row.cold else (None, None):
        yield "-" if count is None else f"{count / 2**20:.0f}"
    yield counts(row.arithmetic or {}) or "-"
