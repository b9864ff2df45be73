"""Which runners became faster or slower between two measurements, and what else differs.

Each choice was made on recorded runs of the same program (``tests/data/latencies``):

- Latencies are divided by the yardstick, a fixed matrix product timed next to them. Without one in
  both files (a GPU's rows have none) the tenth percentile is compared.
- Of every turn the fastest image counts, and of the turns the median: other load only adds time.
- From three runs a side on, their own scatter decides (Welch's t-test).
- One run a side needs an assumption about another (``run_to_run``). The defaults fit those
  recordings and prove nothing about another machine.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from textwrap import shorten

import numpy as np
from numpy.typing import NDArray

from elir_deploy.bench.report_differences import Difference, differences, quality_differs
from elir_deploy.bench.report_file import RecordedRun
from elir_deploy.bench.statistics import student_95
from elir_deploy.errors import InputError, UsageError

__all__ = [
    *("BUSY_RUN_TO_RUN", "FEWEST_RUNS", "FEWEST_SAMPLES", "RUN_TO_RUN", "VIRTUAL_RUN_TO_RUN"),
    *("Change", "Comparison", "Level", "compare_levels", "compare_runs", "level"),
]

#: Standard deviation of the logarithm between runs of the same program, with one run a side: on a
#: machine that is not shared, or with a yardstick; on a busy one; on a virtual one without.
RUN_TO_RUN = 0.01
BUSY_RUN_TO_RUN = 0.04
VIRTUAL_RUN_TO_RUN = 0.12
#: Runs on each side from which on their scatter decides.
FEWEST_RUNS = 3
#: Samples below which no interval is given: six batches of ten.
FEWEST_SAMPLES = 60

_BATCHES = 6
_QUANTILE = 0.1
_CONFIDENCE = 0.95
_Z = 1.959964
#: Images in a turn, where a file does not say.
_BLOCK = 5


@dataclass(frozen=True)
class Level:
    """How slow one row of one run is.

    Attributes:
        log: logarithm of the latency, in seconds or in units of the yardstick.
        squared_error: squared standard error of ``log``, from the scatter within the run.
    """

    log: float
    squared_error: float
    median_s: float
    samples: int


@dataclass(frozen=True)
class Change:
    """One row of both sides.

    Attributes:
        label: such as ``onnxruntime fp16``.
        verdict: ``faster``, ``slower``, ``same`` (no difference shown, see :attr:`within`) or, with
            too few samples or on an overloaded machine, ``unknown``.
        ratio: how many times as fast the second side is; no interval if ``unknown``.
        median_ratio: of the bare medians, without an interval.
        method: what was compared, and where the interval comes from.
    """

    label: str
    verdict: str
    ratio: float
    low: float | None
    high: float | None
    median_ratio: float
    samples: tuple[int, int]
    runs: tuple[int, int]
    method: str
    quality_differs: bool = False

    @property
    def within(self) -> float | None:
        """Largest change that the interval leaves possible, as a fraction: 0.03 is 3 %."""
        if self.low is None or self.high is None:
            return None
        return max(abs(self.low - 1), abs(self.high - 1))


@dataclass(frozen=True)
class Comparison:
    """Changes of the rows that both sides have, differing conditions, and reasons for caution."""

    changes: tuple[Change, ...]
    differences: tuple[Difference, ...]
    only_before: tuple[str, ...]
    only_after: tuple[str, ...]
    remarks: tuple[str, ...]
    confidence: float = _CONFIDENCE


def level(
    samples: Sequence[float] | NDArray[np.float64],
    yardstick: Sequence[float] | NDArray[np.float64] | None = None,
    *,
    block: int = _BLOCK,
) -> Level:
    """How slow a row is.

    Args:
        samples: latencies in seconds, in the order of measurement, all above 0.
        yardstick: what the yardstick took next to each; None: the bare tenth percentile.
        block: images in a turn.

    Raises:
        UsageError: there are no samples.
    """
    values = times = np.asarray(samples, dtype=np.float64)
    if not times.size:
        raise UsageError("no samples to compare: measure at least one image")
    quantile = _QUANTILE
    if yardstick is not None:
        sides = (np.array_split(side, max(1, times.size // block)) for side in (times, yardstick))
        values = np.array([np.min(turn) / np.min(unit) for turn, unit in zip(*sides, strict=True)])
        quantile = 0.5
    # The scatter of six stretches of time holds drift and correlation.
    parts = [part for part in np.array_split(values, _BATCHES) if part.size]
    logs = [math.log(np.quantile(part, quantile)) for part in parts]
    error = float(np.var(logs, ddof=1)) / len(logs) if len(logs) > 1 else 0.0
    whole = math.log(np.quantile(values, quantile))
    return Level(whole, error, float(np.median(times)), times.size)


def compare_levels(
    label: str,
    before: Sequence[Level],
    after: Sequence[Level],
    *,
    run_to_run: float,
    unit: str = "tenth percentile",
) -> Change:
    """Whether ``after`` is faster than ``before``, by the method above.

    Args:
        label: of the row.
        before: one for each run, as ``after``.
        run_to_run: standard deviation of the logarithm between runs of the same thing, 0 or more;
            used where a side has fewer than :data:`FEWEST_RUNS`.
        unit: what the levels are, for people.

    Raises:
        UsageError: a side is empty, or ``run_to_run`` is negative or no number.
    """
    if not (run_to_run >= 0 and math.isfinite(run_to_run)):
        raise UsageError(f"run-to-run variation is {run_to_run:g}, expected 0 or more")
    sides = (before, after)
    if not all(sides):
        raise UsageError(f"{label}: no runs to compare")
    first, second = (np.array([one.log for one in side]) for side in sides)
    shift = float(first.mean() - second.mean())
    medians = [float(np.median([one.median_s for one in side])) for side in sides]
    samples = (sum(one.samples for one in before), sum(one.samples for one in after))
    runs = (len(before), len(after))
    change = Change(
        label, "unknown", math.exp(shift), None, None, medians[0] / medians[1], samples, runs, ""
    )
    if min(one.samples for side in sides for one in side) < FEWEST_SAMPLES:
        return replace(change, method=f"{unit}; too few samples")
    if min(runs) >= FEWEST_RUNS:
        errors = [float(side.var(ddof=1)) / side.size for side in (first, second)]
        half = _student(errors, (first.size - 1, second.size - 1)) * math.sqrt(sum(errors))
        method = f"{unit}; interval from the scatter of {runs[0]} and {runs[1]} runs"
    else:
        errors = [sum(one.squared_error for one in side) / len(side) ** 2 for side in sides]
        student = _student(errors, [(_BATCHES - 1) * count for count in runs])
        between = run_to_run**2 * sum(1 / count for count in runs)
        half = math.sqrt(student**2 * sum(errors) + _Z**2 * between)
        method = f"{unit}; interval allows {run_to_run:.2%} from run to run"
    verdict = "same" if abs(shift) <= half else "faster" if shift > 0 else "slower"
    return replace(
        change,
        verdict=verdict,
        low=math.exp(shift - half),
        high=math.exp(shift + half),
        method=method,
    )


def _student(errors: Sequence[float], freedoms: Sequence[int]) -> float:
    """Quantile for the sum of squared standard errors with these degrees of freedom (Welch)."""
    if not sum(errors):
        return 0.0
    return student_95(
        sum(errors) ** 2 / sum(e**2 / n for e, n in zip(errors, freedoms, strict=True))
    )


def compare_runs(
    before: Sequence[RecordedRun], after: Sequence[RecordedRun], *, run_to_run: float | None = None
) -> Comparison:
    """Every row that both sides hold, matched by its label.

    Runs on a busy machine are left out where three of the same side remain without them.

    Args:
        before: runs to compare with.
        after: runs that may be faster or slower.
        run_to_run: as of :func:`compare_levels`; None: 1 %, 4 % where a machine was busy, 12 %
            for a virtual one without a yardstick, and no verdict where one was overloaded.

    Raises:
        InputError: they have no runner in common.
        UsageError: a side is empty, or ``run_to_run`` is negative.
    """
    if not before or not after:
        raise UsageError("no runs to compare")
    rows = [_common_rows(side) for side in (before, after)]
    common = [label for label in rows[0] if label in rows[1]]
    if not common:
        raise InputError(
            f"{_paths(before)} and {_paths(after)} have no runner in common: "
            + " against ".join(shorten(", ".join(map(ascii, labels)), 500) for labels in rows)
        )
    remarks = list(_remarks(before, after, common))
    (before, left_out), (after, more) = _without_busy(before), _without_busy(after)
    remarks += left_out + more
    changes = [_change(label, before, after, run_to_run) for label in common]
    if run_to_run is None and any(run.overloaded for run in [*before, *after]):
        changes = [replace(change, verdict="unknown", low=None, high=None) for change in changes]
    return Comparison(
        changes=tuple(changes),
        differences=tuple(differences(before[0], after[0], common)),
        only_before=tuple(label for label in rows[0] if label not in rows[1]),
        only_after=tuple(label for label in rows[1] if label not in rows[0]),
        remarks=tuple(remarks),
    )


def _change(
    label: str,
    before: Sequence[RecordedRun],
    after: Sequence[RecordedRun],
    run_to_run: float | None,
) -> Change:
    runs = [*before, *after]
    rows = [run.rows[label] for run in runs]
    kinds = [run.report.yardstick for run in runs]
    relative = all(row.yardstick_s for row in rows) and all(kind == kinds[0] for kind in kinds)
    if run_to_run is None:
        run_to_run = BUSY_RUN_TO_RUN if any(run.busy for run in runs) else RUN_TO_RUN
        if not relative and any(run.report.device.cpu.virtual_machine for run in runs):
            run_to_run = VIRTUAL_RUN_TO_RUN
    levels = [
        level(
            row.image.samples_s if row.image else (),
            row.yardstick_s if relative else None,
            block=run.report.protocol.block or _BLOCK,
        )
        for run, row in zip(runs, rows, strict=True)
    ]
    change = compare_levels(
        *(label, levels[: len(before)], levels[len(before) :]),
        run_to_run=run_to_run,
        unit="fastest of each turn over the yardstick" if relative else "tenth percentile",
    )
    return replace(change, quality_differs=any(quality_differs(rows[0], row) for row in rows))


def _common_rows(side: Sequence[RecordedRun]) -> list[str]:
    """Runners that every run of a side has, in the order of the first."""
    return [label for label in side[0].rows if all(label in run.rows for run in side)]


def _without_busy(side: Sequence[RecordedRun]) -> tuple[Sequence[RecordedRun], list[str]]:
    """The runs to use, and a remark on those left out."""
    quiet = [run for run in side if not run.busy]
    if len(quiet) < FEWEST_RUNS or len(quiet) == len(side):
        return side, []
    names = ", ".join(str(run.path) for run in side if run.busy)
    return quiet, [f"left out because other load kept the machine busy: {names}"]


def _paths(side: Sequence[RecordedRun]) -> str:
    return str(side[0].path if len(side) == 1 else side[0].path.parent)


def _remarks(
    before: Sequence[RecordedRun], after: Sequence[RecordedRun], common: Sequence[str]
) -> list[str]:
    lines = []
    for run in [*before, *after]:
        if not run.report.complete:
            lines.append(f"{run.path} was interrupted: not all images were measured")
        if run.overloaded:
            lines.append(
                f"{run.path} was measured on an overloaded machine: no verdict without "
                "--run-to-run; measure on an idle machine"
            )
        elif run.busy:
            lines.append(
                f"{run.path} was measured on a busy machine, or does not record its load: small "
                "differences cannot be detected; measure on an idle machine"
            )
    for side in (before, after):
        for run in side[1:]:
            names = [difference.what for difference in differences(side[0], run, common)]
            lines += [f"{_paths(side)}: runs differ in {name}" for name in names]
    if all(before[0].rows[label].image == after[0].rows[label].image for label in common):
        lines.append("both files contain the same measurement")
    return list(dict.fromkeys(lines))
