"""Reports as JSON: written, read back (they may come from anybody), and their JSON Schema."""

from __future__ import annotations

import json
import stat
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar, get_args

import msgspec

from elir_deploy.bench.device_archive import BEGINNING, MEASUREMENTS, read_archive
from elir_deploy.bench.report_types import Record, Report, RunnerRow
from elir_deploy.bench.report_warnings import BUSY_CORES
from elir_deploy.errors import InputError
from elir_deploy.runtime.strict_json import describe_mismatch, schema_text, strict_json

__all__ = [
    "RecordedRun",
    "decode",
    "read_bytes",
    "read_report",
    "read_runs",
    "report_schema",
    "to_json",
]

Kind = TypeVar("Kind", bound=Record)

#: Cores needed beyond the usable ones above which a run cannot be compared: recorded runs can be at
#: 0.22, and no longer at 0.31.
_OVERLOAD_CORES = 0.25
#: About the size of a report of a million images.
_MAX_BYTES = 128 * 2**20
#: Runs of one side, and so the files of a folder.
_MAX_RUNS = 1000


@dataclass(frozen=True)
class RecordedRun:
    """A report read from a file."""

    path: Path
    report: Report

    @cached_property
    def rows(self) -> dict[str, RunnerRow]:
        """Runners that have samples, by label."""
        return {row.label: row for row in self.report.runners if row.image is not None}

    @property
    def busy(self) -> bool:
        """Whether other programs or virtual machines disturbed the run, or this is unknown."""
        cores = self.report.cores_busy_elsewhere
        return cores is None or max(cores.other_programs, cores.stolen) > BUSY_CORES

    @property
    def overloaded(self) -> bool:
        """Whether its threads and other load needed more cores than there are, if this is known."""
        cores, threads = self.report.cores_busy_elsewhere, self.report.threads
        if cores is None or threads is None:
            return False
        needed = threads + cores.other_programs + cores.stolen
        return needed > self.report.device.cpu.usable_cores + _OVERLOAD_CORES


def to_json(report: Any) -> str:
    """A report, or its plain values, as strict JSON: no NaN, no infinity."""
    return json.dumps(msgspec.to_builtins(report), indent=1, allow_nan=False) + "\n"


def report_schema() -> str:
    """The JSON Schema of a report, as ``report.schema.json`` has it: a definition a line."""
    schema = json.loads(schema_text(Report))
    lines = (f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in schema.pop("$defs").items())
    head = json.dumps(schema, indent=1).removesuffix("\n}")
    return head + ',\n "$defs": {\n' + ",\n".join(lines) + "\n }\n}\n"


def read_report(path: str | Path) -> RecordedRun:
    """Read what ``elir-bench --json`` wrote, or the first measurement of a device report.

    Raises:
        InputError: the file cannot be read, is damaged, of another version, or something else.
    """
    path = Path(path)
    data = read_bytes(path)
    if data.startswith(BEGINNING):
        entries = read_archive(path, data)
        measured = [entries[name] for name in MEASUREMENTS if name in entries]
        if not measured:
            raise InputError(f"{path} has nothing to compare: elir-inspect {path} shows why")
        data = measured[0]
    return RecordedRun(path, decode(path, data, Report))


def read_runs(path: str | Path) -> list[RecordedRun]:
    """Read one file, or all files ``*.json`` and ``*.zip`` of a folder: several runs of the same.

    Raises:
        InputError: a file is no report, or the folder holds none.
    """
    path = Path(path)
    if not path.is_dir():
        return [read_report(path)]
    try:
        files = sorted(file for kind in ("*.json", "*.zip") for file in path.glob(kind))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from None
    if not files:
        raise InputError(
            f"{path} has no *.json and no *.zip files: expected those of elir-bench --json, or "
            "device reports"
        )
    if len(files) > _MAX_RUNS:
        raise InputError(f"{path} has {len(files)} files, expected at most {_MAX_RUNS} runs")
    return [read_report(file) for file in files]


def read_bytes(path: Path) -> bytes:
    """The contents of a report's file, up to a limit.

    Raises:
        InputError: it cannot be read, or is larger than any report.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would be waited on for ever
            raise InputError(f"{path} is not a file: expected one written by elir-bench --json")
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a name with a null byte
        raise InputError(
            f"{path} cannot be read: {getattr(error, 'strerror', None) or error}"
        ) from None
    if len(data) > _MAX_BYTES:
        raise InputError(
            f"{path} is larger than {_MAX_BYTES // 2**20} MiB, so not a report of elir-bench"
        )
    return data


def decode(path: Path, data: bytes, of: type[Kind]) -> Kind:
    """A report of a class from its JSON; ``path`` is for messages.

    Raises:
        InputError: it is damaged, of another version, or something else.
    """
    try:
        values = strict_json(data)
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON, or cut off: {str(error)[:200]}") from None
    _check_kind(path, values, of)
    try:
        report = msgspec.convert(values, of)
    except msgspec.ValidationError as error:
        raise InputError(f"{path} is damaged: {describe_mismatch(str(error), values)}") from None
    if isinstance(report, Report):
        _check_consistency(path, report)
    return report


def _check_kind(path: Path, values: Any, of: type[Record]) -> None:
    types = {field.name: field.type for field in msgspec.structs.fields(of)}
    (kind,), (expected,) = get_args(types["kind"]), get_args(types["schema_version"])
    if not isinstance(values, dict) or values.get("kind") != kind:
        raise InputError(f'{path} is not a report of elir-bench: it has no "kind": "{kind}"')
    version = values.get("schema_version")
    if type(version) is not int or version < 1:
        raise InputError(f"{path} has no valid schema_version, expected {expected}")
    if version != expected:
        age, remedy = "an older", "measure again"
        if version > expected:
            age, remedy = "a newer", "upgrade elir-deploy"
        raise InputError(
            f"{path} is from {age} elir-deploy: schema_version is {version % 10**9}, expected "
            f"{expected}: {remedy}"
        )


def _check_consistency(path: Path, report: Report) -> None:
    labels = [row.label for row in report.runners]
    if len(set(labels)) < len(labels):
        raise InputError(f"{path} is damaged: two runners have the same label")
    for row in report.runners:
        count = len(row.image.samples_s) if row.image else 0
        if row.yardstick_s is not None and len(row.yardstick_s) != count:
            raise InputError(
                f"{path} is damaged: {row.label!a:.60} has {len(row.yardstick_s)} yardstick times, "
                f"expected {count}"
            )
    if all(row.image is None for row in report.runners):
        if report.protocol.block is None:
            raise InputError(
                f"{path} is of protocol {report.protocol.name!a:.60}, which does not time single "
                "images in turns: it cannot be compared"
            )
        raise InputError(
            f"{path} holds no samples: the measurement was interrupted before the first image"
        )
