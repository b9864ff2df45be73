"""Two reports of ``elir-bench``: which rows became faster or slower, and what else differs.

Latencies of real machines resemble their neighbours in time, are skewed by whatever else runs, and
differ between two runs of the same program by more than either scatters. Each decides a choice,
made by replaying recorded runs of the same program (``tests/data/latencies``):

- **The tenth percentile is compared.** Other programs only ever add time, so a low percentile moves
  least when nothing has changed: between consecutive runs on a busy machine by 2 to 3 % (standard
  deviation), the mean by 5 %, the median by 8 to 10 %. The minimum rests on one sample and was no
  steadier. What happens to the tail alone is not seen; the medians stand beside it.
- **Its error comes from batches.** A run is cut into six stretches of time; the scatter of their
  percentiles holds the correlation and the drift that a bootstrap of single samples leaves out.
  Student's t with Welch's degrees of freedom pays for there being only six.
- **An allowance for the run itself is added** (``run_to_run``), since no single run can show how
  much another would differ. Without it, a sixth of identical consecutive runs were called
  different.

With 4 % from run to run, as for a busy machine, 3.9 % of the 975 pairs of recorded runs are called
different although nothing was changed, and a slowdown of 25 % is found 9 times of 10, one of 5 % is
not. What limits it is the machine, not the number of images.

Where threads and other programs wanted more cores than there were, no allowance helps: the tenth
percentile of the same program moved by a quarter from run to run. Such files get no verdict.
"""

from __future__ import annotations

import math
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from elir_deploy.bench.report import SCHEMA_VERSION
from elir_deploy.errors import InputError, UsageError
from elir_deploy.runtime.strict_json import strict_json

__all__ = [
    "BUSY_RUN_TO_RUN",
    "FEWEST_SAMPLES",
    "IDLE_RUN_TO_RUN",
    "Change",
    "Comparison",
    "Difference",
    "Report",
    "compare_reports",
    "compare_series",
    "read_report",
]

#: Standard deviation of the logarithm of the tenth percentile between runs of the same thing: an
#: assumption for an idle machine, and what recorded runs on a busy one need.
IDLE_RUN_TO_RUN = 0.01
BUSY_RUN_TO_RUN = 0.04
#: Samples below which no interval is given: six batches of ten.
FEWEST_SAMPLES = 60

_BATCHES = 6
_QUANTILE = 0.1
_CONFIDENCE = 0.95
_Z = 1.959964
#: Cores busy with something else from which on a machine is not idle, as ``elir-bench`` warns.
_BUSY_CORES = 0.1
#: Cores wanted beyond those there are from which on a run says nothing. The recorded runs bear
#: 0.22, and at 0.31 they no longer do.
_OVERLOAD_CORES = 0.25
#: A report of a million images is about as large.
_MAX_BYTES = 128 * 2**20
#: What a sample may be, in seconds; outside, logarithms and ratios would overflow.
_MIN_SECONDS, _MAX_SECONDS = 1e-12, 1e6

#: What changes a latency besides the program: where it is in a report, and its name for people.
_CONDITIONS: tuple[tuple[tuple[str, ...], str], ...] = (
    (("protocol", "name"), "protocol"),
    (("protocol", "warmup"), "warm-up images"),
    (("protocol", "images"), "images"),
    (("protocol", "block"), "images in a turn"),
    (("protocol", "batch"), "batch"),
    (("threads",), "threads"),
    (("model", "task"), "task"),
    (("model", "image_size"), "image size"),
    (("model", "steps"), "steps"),
    (("model", "sigma_s"), "sigma_s"),
    (("model", "parameters"), "parameters"),
    (("model", "source"), "weights"),
    (("model", "source_sha256"), "SHA-256 of the weights"),
    (("model", "random_weights"), "random weights"),
    (("model", "stages"), "stages"),
    (("model", "versions"), "made with"),
    (("device", "machine"), "machine"),
    (("device", "cpu", "model"), "CPU"),
    (("device", "cpu", "architecture"), "CPU architecture"),
    (("device", "cpu", "usable_cores"), "usable cores"),
    (("device", "cpu", "instruction_sets"), "instruction sets"),
    (("device", "cpu", "governor"), "governor"),
    (("device", "cpu", "virtual_machine"), "virtual machine"),
    (("device", "memory", "total_bytes"), "memory in bytes"),
    (("device", "os"), "system"),
    (("device", "kernel"), "kernel"),
    (("device", "python"), "Python"),
    (("device", "elir_deploy"), "elir-deploy"),
    (("device", "libraries"), "library"),
    (("device", "environment"), "variable"),
)
#: Of each GPU; its clocks of the moment and its power state are left out.
_GPU_FIELDS = ("name", "driver_version", "clocks.max.sm", "power.limit")


@dataclass(frozen=True)
class Report:
    """One file of ``elir-bench``, checked as far as it is used.

    Attributes:
        path: of the file.
        values: all of it, plain JSON values.
        series: latencies in seconds, image to image, by row.
    """

    path: Path
    values: Mapping[str, Any]
    series: Mapping[str, NDArray[np.float64]]

    @property
    def busy(self) -> bool:
        """Whether other programs or other virtual machines disturbed it, or nobody knows."""
        cores = _at(self.values, ("device", "cores_busy_elsewhere"))
        if not isinstance(cores, dict):
            return True
        # Written so that a figure that is no number counts as busy.
        figures = [cores.get("other_programs"), cores.get("stolen")]
        return not all(_is_number(figure) and figure <= _BUSY_CORES for figure in figures)

    @property
    def overloaded(self) -> bool:
        """Whether its threads and all else wanted more cores than there are, as far as it says."""
        usable = _at(self.values, ("device", "cpu", "usable_cores"))
        figures = [
            _at(self.values, ("threads",)),
            _at(self.values, ("device", "cores_busy_elsewhere", "other_programs")),
            _at(self.values, ("device", "cores_busy_elsewhere", "stolen")),
        ]
        wanted = [figure for figure in figures if _is_number(figure)]
        return (
            _is_number(usable)
            and len(wanted) == len(figures)
            and sum(wanted) > usable + _OVERLOAD_CORES
        )


@dataclass(frozen=True)
class Difference:
    """Something besides the program that is not the same in both files.

    Attributes:
        what: such as ``threads``, or ``onnxruntime fp32: library``.
        before: in the first file; None where it does not say.
        after: in the second file.
    """

    what: str
    before: Any
    after: Any


@dataclass(frozen=True)
class Change:
    """One row of both files.

    Attributes:
        label: such as ``onnxruntime fp16``.
        verdict: of the second file: ``faster``, ``slower``, ``same`` or, with too few samples or
            on an overloaded machine, ``unknown``. ``same`` says that no difference was shown; see
            :attr:`within`.
        ratio: how many times as fast the second is: tenth percentile of the first over that of
            the second.
        low: lower end of the interval; None where the verdict is ``unknown``.
        high: upper end, likewise.
        median_ratio: likewise of the medians, without an interval.
        samples: in the first and the second file.
    """

    label: str
    verdict: str
    ratio: float
    low: float | None
    high: float | None
    median_ratio: float
    samples: tuple[int, int]

    @property
    def within(self) -> float | None:
        """Largest change that the interval leaves possible, as a fraction: 0.03 is 3 %."""
        if self.low is None or self.high is None:
            return None
        return max(abs(self.low - 1), abs(self.high - 1))


@dataclass(frozen=True)
class Comparison:
    """All that two files have in common, and what they have not.

    Attributes:
        changes: by row, in the order of the first file.
        differences: of the conditions they were measured under.
        only_before: rows that the second file lacks.
        only_after: rows that the first file lacks.
        remarks: other reasons for doubt, a line each.
        run_to_run: allowance that went into the intervals, as a fraction.
        confidence: of the intervals.
    """

    changes: tuple[Change, ...]
    differences: tuple[Difference, ...]
    only_before: tuple[str, ...]
    only_after: tuple[str, ...]
    remarks: tuple[str, ...]
    run_to_run: float
    confidence: float = _CONFIDENCE


def compare_series(
    label: str,
    before: Sequence[float] | NDArray[np.float64],
    after: Sequence[float] | NDArray[np.float64],
    *,
    run_to_run: float,
) -> Change:
    """Whether ``after`` is faster than ``before``, by the method above.

    Args:
        label: of the row.
        before: latencies in seconds, in the order they were taken, all above 0.
        after: likewise, of another run; not paired with ``before``.
        run_to_run: standard deviation of the logarithm between runs of the same thing, 0 or more.

    Raises:
        UsageError: a series is empty, or ``run_to_run`` is negative or no number.
    """
    if not (run_to_run >= 0 and math.isfinite(run_to_run)):
        raise UsageError(f"run-to-run variation is {run_to_run:g}, wanted 0 or more")
    first, second = (np.asarray(series, dtype=np.float64) for series in (before, after))
    if not first.size or not second.size:
        raise UsageError(f"{label}: no samples to compare: measure at least one image")
    shift = _log_percentile(first) - _log_percentile(second)
    medians = float(np.median(first) / np.median(second))
    samples = (first.size, second.size)
    if min(samples) < FEWEST_SAMPLES:
        return Change(label, "unknown", math.exp(shift), None, None, medians, samples)
    half = _half_width(_squared_error(first), _squared_error(second), run_to_run)
    verdict = "same" if abs(shift) <= half else "faster" if shift > 0 else "slower"
    return Change(
        label,
        verdict,
        math.exp(shift),
        math.exp(shift - half),
        math.exp(shift + half),
        medians,
        samples,
    )


def _log_percentile(series: NDArray[np.float64]) -> float:
    return math.log(float(np.quantile(series, _QUANTILE)))


def _squared_error(series: NDArray[np.float64]) -> float:
    """Squared standard error of the log percentile, from the scatter of batches in time."""
    found = [_log_percentile(batch) for batch in np.array_split(series, _BATCHES)]
    return float(np.var(found, ddof=1)) / _BATCHES


def _half_width(first: float, second: float, run_to_run: float) -> float:
    """Of the interval of the log ratio; both squared errors have ``_BATCHES - 1`` degrees."""
    within = first + second
    student = _Z
    if within:
        freedom = within**2 * (_BATCHES - 1) / (first**2 + second**2)
        student = _student(freedom)
    return math.sqrt(student**2 * within + _Z**2 * 2 * run_to_run**2)


def _student(freedom: float) -> float:
    """The 97.5th percentile of Student's t, to 0.005 from 5 degrees of freedom on.

    Cornish and Fisher's expansion about the normal distribution (Abramowitz and Stegun 26.7.5).
    """
    z = _Z
    return (
        z
        + (z**3 + z) / (4 * freedom)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3)
    )


def compare_reports(
    before: Report, after: Report, *, run_to_run: float | None = None
) -> Comparison:
    """Every row that both files hold, matched by its label.

    Args:
        before: measured first, or the one to compare with.
        after: that may be faster or slower.
        run_to_run: as of :func:`compare_series`; None: 1 % where both machines were idle, 4 % where
            one was busy, and no verdict where one was overloaded.

    Raises:
        InputError: they have no row in common.
        UsageError: ``run_to_run`` is negative.
    """
    common = [label for label in before.series if label in after.series]
    if not common:
        raise InputError(
            f"{before.path} and {after.path} have no row in common: "
            f"{_names(before.series)} against {_names(after.series)}"
        )
    trusted = run_to_run is not None or not (before.overloaded or after.overloaded)
    if run_to_run is None:
        run_to_run = BUSY_RUN_TO_RUN if before.busy or after.busy else IDLE_RUN_TO_RUN
    changes = [
        compare_series(label, before.series[label], after.series[label], run_to_run=run_to_run)
        for label in common
    ]
    if not trusted:
        changes = [replace(change, verdict="unknown", low=None, high=None) for change in changes]
    return Comparison(
        changes=tuple(changes),
        differences=(*_conditions(before, after), *_row_conditions(before, after, common)),
        only_before=tuple(label for label in before.series if label not in after.series),
        only_after=tuple(label for label in after.series if label not in before.series),
        remarks=tuple(_remarks(before, after, common)),
        run_to_run=run_to_run,
    )


def _names(series: Mapping[str, object]) -> str:
    shown = list(series)[:8]
    more = len(series) - len(shown)
    return ", ".join(_short(name) for name in shown) + (f" and {more} more" if more else "")


def _remarks(before: Report, after: Report, common: Sequence[str]) -> list[str]:
    lines = []
    for report in (before, after):
        if report.values.get("complete") is not True:
            lines.append(f"{report.path} was interrupted: not all images were measured")
        if report.overloaded:
            lines.append(
                f"{report.path} was measured while more cores were wanted than there are: no "
                "verdict, unless --run-to-run says how much runs differ; measure on an idle machine"
            )
        elif report.busy:
            lines.append(
                f"{report.path} was measured while others kept the machine busy, or it does not "
                "say: small differences cannot be told; measure on an idle machine"
            )
    if all(np.array_equal(before.series[label], after.series[label]) for label in common):
        lines.append("both files hold the same measurement")
    return lines


# What differs ---------------------------------------------------------------------------------


def _conditions(before: Report, after: Report) -> list[Difference]:
    found: list[Difference] = []
    for path, name in _CONDITIONS:
        found += _compared(name, _at(before.values, path), _at(after.values, path))
    first, second = _gpus(before), _gpus(after)
    if len(first) != len(second):
        found.append(Difference("GPUs", len(first), len(second)))
    for index, (one, other) in enumerate(zip(first, second, strict=False)):
        for field in _GPU_FIELDS:
            found += _compared(f"GPU {index} {field}", one.get(field), other.get(field))
    if set(before.series) != set(after.series):
        # Contenders that take turns empty each other's caches.
        found.append(Difference("rows measured together", list(before.series), list(after.series)))
    return found


def _row_conditions(before: Report, after: Report, common: Sequence[str]) -> list[Difference]:
    first, second = _rows(before), _rows(after)
    found: list[Difference] = []
    for label in common:
        one, other = first[label], second[label]
        for field in ("backend", "precision", "library", "weights"):
            found += _compared(f"{label}: {field}", one.get(field), other.get(field))
        hashes = (_hashes(one), _hashes(other))
        for file in dict.fromkeys([*hashes[0], *hashes[1]]):
            name = f"{label}: SHA-256 of {file}"
            found += _compared(name, hashes[0].get(file), hashes[1].get(file))
    return found


def _compared(name: str, before: Any, after: Any) -> list[Difference]:
    """None or one; of tables, one for each entry."""
    if isinstance(before, dict) and isinstance(after, dict):
        return [
            Difference(f"{name} {key}", before.get(key), after.get(key))
            for key in dict.fromkeys([*before, *after])
            if before.get(key) != after.get(key)
        ]
    return [] if before == after else [Difference(name, before, after)]


def _at(values: Any, path: Sequence[str]) -> Any:
    for name in path:
        values = values.get(name) if isinstance(values, dict) else None
    return values


def _gpus(report: Report) -> list[dict[str, Any]]:
    gpus = _at(report.values, ("device", "gpus"))
    return [gpu for gpu in gpus if isinstance(gpu, dict)] if isinstance(gpus, list) else []


def _rows(report: Report) -> dict[str, dict[str, Any]]:
    return {row["label"]: row for row in report.values["contenders"]}


def _hashes(row: Mapping[str, Any]) -> dict[str, Any]:
    artifacts = row.get("artifacts")
    items = artifacts if isinstance(artifacts, list) else []
    return {str(i.get("file")): i.get("sha256") for i in items if isinstance(i, dict)}


# Reading --------------------------------------------------------------------------------------


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
    except _UnfitError as reason:
        raise InputError(f"{path} {reason}") from None
    return Report(path, values, series)


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
        seen = _short(values.get("kind")) if isinstance(values, dict) else "no object"
        raise _UnfitError(f"is not a report of elir-bench: kind is {seen}, wanted 'elir-bench'")
    version = values.get("schema_version")
    if type(version) is not int or version < 1:
        raise _UnfitError(f"has schema_version {_short(version)}, wanted {SCHEMA_VERSION}")
    if version > SCHEMA_VERSION:
        raise _UnfitError(
            f"was made by a newer elir-deploy: schema_version {_short(version)}, and this one "
            f"reads {SCHEMA_VERSION}: upgrade elir-deploy"
        )


def _series(values: Mapping[str, Any]) -> dict[str, NDArray[np.float64]]:
    rows = values.get("contenders")
    if not isinstance(rows, list):
        raise _UnfitError(f"is damaged: contenders is {_short(rows)}, wanted a list")
    found: dict[str, NDArray[np.float64]] = {}
    for row in rows:
        label = row.get("label") if isinstance(row, dict) else None
        if not isinstance(label, str) or not label:
            raise _UnfitError(f"is damaged: a row has the label {_short(label)}, wanted a name")
        if label in found:
            raise _UnfitError(f"is damaged: the row {_short(label)} is there twice")
        found[label] = _samples(row, label)
    if not any(samples.size for samples in found.values()):
        raise _UnfitError(
            "holds no samples: the measurement was interrupted before the first image"
        )
    return {label: samples for label, samples in found.items() if samples.size}


def _samples(row: Mapping[str, Any], label: str) -> NDArray[np.float64]:
    """Empty where the row has none, as in a run interrupted before the first image."""
    if row.get("image", "") is None:
        return np.empty(0)
    samples = _at(row, ("image", "samples_s"))
    if not isinstance(samples, list):
        raise _UnfitError(f"is damaged: {_short(label)} has no image.samples_s")
    for sample in samples:
        # Checked as it is: an integer may be too large for a float.
        if not _is_number(sample) or not _MIN_SECONDS <= sample <= _MAX_SECONDS:
            raise _UnfitError(
                f"is damaged: {_short(label)} holds the sample {_short(sample)}, wanted seconds "
                "above 0"
            )
    return np.asarray(samples, dtype=np.float64)


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _short(value: object) -> str:
    """``value`` for a message; a hostile file does not fill the screen."""
    shown = ascii(value) if not isinstance(value, int) or abs(value) < 10**18 else "a huge number"
    return shown if len(shown) <= 60 else f"{shown[:57]}..."
