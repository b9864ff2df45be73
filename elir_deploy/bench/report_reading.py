"""Files of ``elir-bench`` read back. They may come from anybody: every value used is checked."""

from __future__ import annotations

import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from elir_deploy.bench.protocols import PROTOCOLS
from elir_deploy.bench.report import BUSY_CORES, SCHEMA_VERSION
from elir_deploy.errors import InputError
from elir_deploy.runtime.strict_json import strict_json

__all__ = ["Report", "at_path", "is_number", "read_report", "read_runs", "shortened"]

#: Cores wanted beyond those there are from which on a run says nothing. The recorded runs bear
#: 0.22, and at 0.31 they no longer do.
_OVERLOAD_CORES = 0.25
#: A report of a million images is about as large.
_MAX_BYTES = 128 * 2**20
#: What a sample may be, in seconds; outside, logarithms and ratios would overflow.
_MIN_SECONDS, _MAX_SECONDS = 1e-12, 1e6
#: Runs of one side, and so the files of a folder.
_MOST_RUNS = 1000
#: Protocols that time no single images in turns.
_WITHOUT_SERIES = ("throughput", "soak")


@dataclass(frozen=True)
class Report:
    """One file of ``elir-bench``, checked as far as it is used.

    Attributes:
        path: of the file.
        values: all of it, plain JSON values.
        series: latencies in seconds, image to image, by row.
        yardsticks: what the yardstick took next to each of them, by row; rows without one are
            not in it.
    """

    path: Path
    values: Mapping[str, Any]
    series: Mapping[str, NDArray[np.float64]]
    yardsticks: Mapping[str, NDArray[np.float64]]

    @property
    def rows(self) -> dict[str, Mapping[str, Any]]:
        """What the file says of each row, by its label."""
        return {row["label"]: row for row in self.values["runners"]}

    @property
    def busy(self) -> bool:
        """Whether other programs or other virtual machines disturbed it, or nobody knows."""
        cores = at_path(self.values, ("device", "cores_busy_elsewhere"))
        if not isinstance(cores, dict):
            return True
        # Written so that a figure that is no number counts as busy.
        figures = [cores.get("other_programs"), cores.get("stolen")]
        return not all(is_number(figure) and figure <= BUSY_CORES for figure in figures)

    @property
    def overloaded(self) -> bool:
        """Whether its threads and all else wanted more cores than there are, as far as it says."""
        usable = at_path(self.values, ("device", "cpu", "usable_cores"))
        figures = [
            at_path(self.values, ("threads",)),
            at_path(self.values, ("device", "cores_busy_elsewhere", "other_programs")),
            at_path(self.values, ("device", "cores_busy_elsewhere", "stolen")),
        ]
        wanted = [figure for figure in figures if is_number(figure)]
        return (
            is_number(usable)
            and len(wanted) == len(figures)
            and sum(wanted) > usable + _OVERLOAD_CORES
        )


def read_report(path: str | Path) -> Report:
    """Read what ``elir-bench --json`` wrote. The file may come from anybody.

    Raises:
        InputError: it cannot be read, is damaged, or is something else.
    """
    path = Path(path)
    try:
        values = _parse(_read(path))
        _check_kind(values)
        series = _series(values)
        yardsticks = _yardsticks(values, series)
    except _UnfitError as reason:
        raise InputError(f"{path} {reason}") from None
    return Report(path, values, series, yardsticks)


def read_runs(path: str | Path) -> list[Report]:
    """One file, or all files ``*.json`` of a folder: several runs of the same thing.

    Raises:
        InputError: a file is none, or the folder holds none.
    """
    path = Path(path)
    if not path.is_dir():
        return [read_report(path)]
    try:
        files = sorted(path.glob("*.json"))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from None
    if not files:
        raise InputError(f"{path} is a folder without *.json: give what elir-bench --json wrote")
    if len(files) > _MOST_RUNS:
        raise InputError(f"{path} holds {len(files)} files, wanted at most {_MOST_RUNS} runs")
    return [read_report(file) for file in files]


class _UnfitError(Exception):
    """Why a file is no report, completing its name to a sentence."""


def _read(path: Path) -> bytes:
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would be waited on for ever
            raise _UnfitError("is not a file: give the JSON that elir-bench --json wrote")
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a name with a null byte
        raise _UnfitError(f"cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if len(data) > _MAX_BYTES:
        raise _UnfitError(
            f"is larger than {_MAX_BYTES // 2**20} MiB, so not a report of elir-bench"
        )
    return data


def _parse(data: bytes) -> Any:
    try:
        return strict_json(data)
    except UnicodeDecodeError as error:
        raise _UnfitError(f"is damaged: not UTF-8 at byte {error.start}") from None
    except RecursionError:
        raise _UnfitError("is damaged: nested too deeply") from None
    except ValueError as error:  # JSONDecodeError is one
        raise _UnfitError(f"is no JSON or cut off: {str(error)[:200]}") from None


def _check_kind(values: Any) -> None:
    if not isinstance(values, dict) or values.get("kind") != "elir-bench":
        seen = shortened(values.get("kind")) if isinstance(values, dict) else "no object"
        raise _UnfitError(f"is not a report of elir-bench: kind is {seen}, wanted 'elir-bench'")
    version = values.get("schema_version")
    if type(version) is not int or version < 1:
        raise _UnfitError(f"has schema_version {shortened(version)}, wanted {SCHEMA_VERSION}")
    if version > SCHEMA_VERSION:
        raise _UnfitError(
            f"was made by a newer elir-deploy: schema_version {shortened(version)}, and this one "
            f"reads {SCHEMA_VERSION}: upgrade elir-deploy"
        )


def _series(values: Mapping[str, Any]) -> dict[str, NDArray[np.float64]]:
    rows = values.get("runners")
    if not isinstance(rows, list):
        raise _UnfitError(f"is damaged: runners is {shortened(rows)}, wanted a list")
    found: dict[str, NDArray[np.float64]] = {}
    for row in rows:
        label = row.get("label") if isinstance(row, dict) else None
        if not isinstance(label, str) or not label:
            raise _UnfitError(f"is damaged: a row has the label {shortened(label)}, wanted a name")
        if label in found:
            raise _UnfitError(f"is damaged: the row {shortened(label)} is there twice")
        found[label] = _samples(row, label)
    if not any(samples.size for samples in found.values()):
        protocol = at_path(values, ("protocol", "name"))
        if protocol in _WITHOUT_SERIES:
            others = ", ".join(name for name in PROTOCOLS if name not in _WITHOUT_SERIES)
            raise _UnfitError(
                f"is of protocol {protocol}, which times no images one by one in turns: what can "
                f"be compared are files of {others}"
            )
        raise _UnfitError(
            "holds no samples: the measurement was interrupted before the first image"
        )
    return {label: samples for label, samples in found.items() if samples.size}


def _samples(row: Mapping[str, Any], label: str) -> NDArray[np.float64]:
    """Empty where the row has none, as in a run interrupted before the first image."""
    if row.get("image", "") is None:
        return np.empty(0)
    samples = at_path(row, ("image", "samples_s"))
    if not isinstance(samples, list):
        raise _UnfitError(f"is damaged: {shortened(label)} has no image.samples_s")
    return _checked(samples, label)


def _checked(samples: Sequence[Any], label: str) -> NDArray[np.float64]:
    for sample in samples:
        # Checked as it is: an integer may be too large for a float.
        if not is_number(sample) or not _MIN_SECONDS <= sample <= _MAX_SECONDS:
            raise _UnfitError(
                f"is damaged: {shortened(label)} holds the sample {shortened(sample)}, "
                "wanted seconds above 0"
            )
    return np.asarray(samples, dtype=np.float64)


def _yardsticks(
    values: Mapping[str, Any], series: Mapping[str, NDArray[np.float64]]
) -> dict[str, NDArray[np.float64]]:
    found: dict[str, NDArray[np.float64]] = {}
    for row in values["runners"]:
        label, times = row["label"], row.get("yardstick_s")
        if label not in series or times is None:
            continue
        if not isinstance(times, list) or len(times) != series[label].size:
            raise _UnfitError(
                f"is damaged: the yardstick of {shortened(label)} is not a list of "
                f"{series[label].size} times"
            )
        found[label] = _checked(times, label)
    return found


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether a value of a file is a number, and not ``true``."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def at_path(values: Any, path: Sequence[str]) -> Any:
    """The value at the end of a path of keys; None where it breaks off."""
    for name in path:
        values = values.get(name) if isinstance(values, dict) else None
    return values


def shortened(value: object) -> str:
    """``value`` for a message; a hostile file does not fill the screen."""
    shown = ascii(value) if not isinstance(value, int) or abs(value) < 10**18 else "a huge number"
    return shown if len(shown) <= 60 else f"{shown[:57]}..."
