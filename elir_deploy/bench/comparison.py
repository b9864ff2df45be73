"""Measurements of before and after: which rows became faster or slower, and what else differs.

Two runs of the same program on the same machine differ by more than either scatters: on a shared
machine that nobody used, the tenth percentile of the latencies moved by 12 % (standard deviation)
between runs of a minute. Four choices deal with that; each was made on recorded runs of the same
program (``tests/data/latencies``, 21 quiet runs of two rows), replayed as pairs:

- **Latencies are divided by the yardstick** (:mod:`elir_deploy.bench.yardstick`), a fixed matrix
  product that was timed next to them. What is common to both cancels: 1.8 % is left of those 12.
- **Of every turn the fastest image counts**, and of the turns the median. Other programs only ever
  add time, and a neighbour that comes and goes disturbs some turns more than others.
- **Several runs on each side decide by their own scatter** (Welch's t-test), from three runs on.
  Nothing is assumed then. With five runs of 45 s on each side, 4.8 % of 800 replayed pairs of the
  same program are called different, as wanted, and a change of 5 % is found in 98 % of them; of
  bare tenth percentiles in 8 %.
- **One run on each side needs an assumption** on how much another would differ (``run_to_run``),
  since no single run can show it: 4.5 % of 420 pairs are called different then, and a change of
  12 % is found in 91 %.

All rates are of those recordings, and the allowances (:data:`RUN_TO_RUN` and its like) were chosen
so that on them about 5 % of pairs of the same program are called different: they describe the
recordings and prove nothing about another machine. Where it matters, measure one's own
(``run_to_run``) or give three runs a side, which need no such figure.

Without a yardstick in both files (a GPU's rows have none) the tenth percentile is compared.
Where threads and other programs wanted more cores than there were, nothing helps: such files get
no verdict.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from elir_deploy.bench.report_differences import Difference, differences, quality_differs
from elir_deploy.bench.report_reading import Report, at_path, shortened
from elir_deploy.bench.statistics import student_95
from elir_deploy.errors import InputError, UsageError

__all__ = [
    "BUSY_RUN_TO_RUN",
    "FEWEST_RUNS",
    "FEWEST_SAMPLES",
    "RUN_TO_RUN",
    "VIRTUAL_RUN_TO_RUN",
    "Change",
    "Comparison",
    "Level",
    "compare_levels",
    "compare_runs",
    "level",
]

#: Standard deviation of the logarithm between runs of the same thing, where there is one run on a
#: side: what recorded runs need against the yardstick, or without it on a machine that is not
#: shared; on a busy one; and without a yardstick on one that is shared with other virtual machines.
#: Chosen on the recordings that the tests replay, so the tests show no more than that they fit.
RUN_TO_RUN = 0.01
BUSY_RUN_TO_RUN = 0.04
VIRTUAL_RUN_TO_RUN = 0.12
#: Runs on each side from which on their own scatter decides.
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
        squared_error: squared standard error of that, from the scatter within the run.
        median_s: median latency in seconds.
        samples: behind it.
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
        verdict: of the second side: ``faster``, ``slower``, ``same`` or, with too few samples or
            on an overloaded machine, ``unknown``. ``same`` says that no difference was shown; see
            :attr:`within`.
        ratio: how many times as fast the second is.
        low: lower end of the interval; None where the verdict is ``unknown``.
        high: upper end, likewise.
        median_ratio: of the bare medians, without an interval.
        samples: on the first and the second side.
        runs: likewise.
        method: what was compared, and where the interval comes from.
        quality_differs: whether the sides agree differently with float32 PyTorch, so that they
            are not the same work.
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
    """All that two sides have in common, and what they have not.

    Attributes:
        changes: by row, in the order of the first file.
        differences: of the conditions they were measured under.
        only_before: rows that the second side lacks.
        only_after: rows that the first side lacks.
        remarks: other reasons for doubt, a line each.
        confidence: of the intervals.
    """

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
        samples: latencies in seconds, in the order they were taken, all above 0.
        yardstick: what the yardstick took next to each; None: the bare tenth percentile.
        block: images that were taken in a row.

    Raises:
        UsageError: there are no samples.
    """
    times = np.asarray(samples, dtype=np.float64)
    if not times.size:
        raise UsageError("no samples to compare: measure at least one image")
    if yardstick is None:
        return _with_error(times, lambda part: float(np.quantile(part, _QUANTILE)), times)
    units = np.asarray(yardstick, dtype=np.float64)
    whole = max(1, times.size // block)
    turns = [
        float(turn.min() / unit.min())
        for turn, unit in zip(
            np.array_split(times, whole), np.array_split(units, whole), strict=True
        )
    ]
    return _with_error(np.asarray(turns), lambda part: float(np.median(part)), times)


def _with_error(
    values: NDArray[np.float64],
    typical: Callable[[NDArray[np.float64]], float],
    times: NDArray[np.float64],
) -> Level:
    """The error is from the scatter of six stretches of time, which holds drift and correlation."""
    parts = [part for part in np.array_split(values, _BATCHES) if part.size]
    found = [math.log(typical(part)) for part in parts]
    error = float(np.var(found, ddof=1)) / len(found) if len(found) > 1 else 0.0
    return Level(math.log(typical(values)), error, float(np.median(times)), times.size)


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
        before: one for each run.
        after: likewise.
        run_to_run: standard deviation of the logarithm between runs of the same thing, 0 or more;
            used where a side has fewer than :data:`FEWEST_RUNS`.
        unit: what the levels are, for people.

    Raises:
        UsageError: a side is empty, or ``run_to_run`` is negative or no number.
    """
    if not (run_to_run >= 0 and math.isfinite(run_to_run)):
        raise UsageError(f"run-to-run variation is {run_to_run:g}, wanted 0 or more")
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
        half = _by_runs(first, second)
        method = f"{unit}; interval from the scatter of {runs[0]} and {runs[1]} runs"
    else:
        half = _by_allowance(before, after, run_to_run)
        method = f"{unit}; interval allows {run_to_run:.2%} from run to run"
    verdict = "same" if abs(shift) <= half else "faster" if shift > 0 else "slower"
    return replace(
        change,
        verdict=verdict,
        low=math.exp(shift - half),
        high=math.exp(shift + half),
        method=method,
    )


def _by_runs(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Half of Welch's interval of the difference of means."""
    errors = [float(side.var(ddof=1)) / side.size for side in (first, second)]
    total = sum(errors)
    if not total:
        return 0.0
    sizes = (first.size, second.size)
    freedom = total**2 / sum(e**2 / (n - 1) for e, n in zip(errors, sizes, strict=True))
    return student_95(freedom) * math.sqrt(total)


def _by_allowance(before: Sequence[Level], after: Sequence[Level], run_to_run: float) -> float:
    within = [sum(one.squared_error for one in side) / len(side) ** 2 for side in (before, after)]
    total = sum(within)
    student = _Z
    if total:
        freedoms = [(_BATCHES - 1) * len(side) for side in (before, after)]
        student = student_95(
            total**2 / sum(e**2 / n for e, n in zip(within, freedoms, strict=True))
        )
    between = run_to_run**2 * (1 / len(before) + 1 / len(after))
    return math.sqrt(student**2 * total + _Z**2 * between)


def compare_runs(
    before: Sequence[Report], after: Sequence[Report], *, run_to_run: float | None = None
) -> Comparison:
    """Every row that both sides hold, matched by its label.

    Runs on a busy machine are left out where three of the same side remain without them.

    Args:
        before: runs to compare with.
        after: that may be faster or slower.
        run_to_run: as of :func:`compare_levels`; None: 1 %, 4 % where a machine was busy, 12 %
            for a virtual one without a yardstick, and no verdict where one was overloaded.

    Raises:
        InputError: they have no row in common.
        UsageError: a side is empty, or ``run_to_run`` is negative.
    """
    if not before or not after:
        raise UsageError("no runs to compare")
    rows = [_in_all(side) for side in (before, after)]
    common = [label for label in rows[0] if label in rows[1]]
    if not common:
        raise InputError(
            f"{_paths(before)} and {_paths(after)} have no row in common: "
            f"{_names(rows[0])} against {_names(rows[1])}"
        )
    remarks = list(_remarks(before, after, common))
    (before, left_out), (after, more) = _quiet(before), _quiet(after)
    remarks += left_out + more
    trusted = run_to_run is not None or not any(run.overloaded for run in [*before, *after])
    changes = [_change(label, before, after, run_to_run) for label in common]
    if not trusted:
        changes = [replace(change, verdict="unknown", low=None, high=None) for change in changes]
    return Comparison(
        changes=tuple(changes),
        differences=tuple(differences(before[0], after[0], common)),
        only_before=tuple(label for label in rows[0] if label not in rows[1]),
        only_after=tuple(label for label in rows[1] if label not in rows[0]),
        remarks=tuple(remarks),
    )


def _change(
    label: str, before: Sequence[Report], after: Sequence[Report], run_to_run: float | None
) -> Change:
    runs = [*before, *after]
    kinds = [at_path(run.values, ("yardstick",)) for run in runs]
    measured = all(label in run.yardsticks for run in runs) and all(k == kinds[0] for k in kinds)

    def levels(side: Sequence[Report]) -> list[Level]:
        return [
            level(
                run.series[label],
                run.yardsticks[label] if measured else None,
                block=_block(run.values),
            )
            for run in side
        ]

    allowance = RUN_TO_RUN
    if any(run.busy for run in runs):
        allowance = BUSY_RUN_TO_RUN
    if not measured and any(_virtual(run) for run in runs):
        allowance = VIRTUAL_RUN_TO_RUN
    change = compare_levels(
        label,
        levels(before),
        levels(after),
        run_to_run=allowance if run_to_run is None else run_to_run,
        unit="fastest of each turn over the yardstick" if measured else "tenth percentile",
    )
    rows = [run.rows[label] for run in runs]
    return replace(change, quality_differs=any(quality_differs(rows[0], row) for row in rows))


def _virtual(run: Report) -> bool:
    return at_path(run.values, ("device", "cpu", "virtual_machine")) is True


def _block(values: Mapping[str, object]) -> int:
    block = at_path(values, ("protocol", "block"))
    return block if type(block) is int and 0 < block <= 1000 else _BLOCK


def _in_all(side: Sequence[Report]) -> list[str]:
    """Rows that every run of a side has, in the order of the first."""
    return [label for label in side[0].series if all(label in run.series for run in side)]


def _quiet(side: Sequence[Report]) -> tuple[Sequence[Report], list[str]]:
    """The runs to use, and a remark on those left out."""
    quiet = [run for run in side if not run.busy]
    if len(quiet) < FEWEST_RUNS or len(quiet) == len(side):
        return side, []
    names = ", ".join(str(run.path) for run in side if run.busy)
    return quiet, [f"left out, since others kept the machine busy: {names}"]


def _names(labels: Sequence[str]) -> str:
    more = len(labels) - 8
    return ", ".join(map(shortened, labels[:8])) + (f" and {more} more" if more > 0 else "")


def _paths(side: Sequence[Report]) -> str:
    return str(side[0].path if len(side) == 1 else side[0].path.parent)


def _remarks(before: Sequence[Report], after: Sequence[Report], common: Sequence[str]) -> list[str]:
    lines = []
    for report in [*before, *after]:
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
    for side in (before, after):
        lines += [f"{_paths(side)}: not all runs were made alike: {what.what} differs"
                  for run in side[1:] for what in differences(side[0], run, common)]  # fmt: skip
    if all(np.array_equal(before[0].series[label], after[0].series[label]) for label in common):
        lines.append("both files hold the same measurement")
    return list(dict.fromkeys(lines))
