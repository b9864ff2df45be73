"""Why the figures of a report may be wrong, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterator

from elir_deploy.bench.report_types import Report, RunnerRow, SoakRow
from elir_deploy.bench.soak import lasting_step
from elir_deploy.bench.statistics import STEADY_VARIATION

__all__ = ["BUSY_CORES", "build_warnings"]

#: Average load by others, in cores, above which a measurement is unreliable.
BUSY_CORES = 0.1
#: Meters of energy do not resolve shorter stretches.
_METER_S = 1.0
#: Shorter soaks are not warned of.
_MIN_SOAK_S = 300.0
#: Growth that a soak is warned of, per hour and within the run; below it, allocators settle.
_LEAK_BYTES_PER_HOUR, _LEAK_BYTES = 4 * 2**20, 2**20
_REMEDY = (
    "close other programs, fix the clock rate (cpupower frequency-set -g performance), "
    "cool the device, and measure again"
)
_SHIFT_CAUSE = "the device throttled, or other load started or ended: check clocks and temperatures"


def build_warnings(report: Report) -> list[str]:
    """What makes a run invalid comes first: an interruption, other load, throttling."""
    return [
        *_interruption(report),
        *_disturbances(report),
        *_precision(report),
        *(line for row in report.runners for line in _behaviour(row)),
        *(line for soak in report.soak for line in _soak(soak)),
    ]


def _interruption(report: Report) -> Iterator[str]:
    if report.complete:
        return
    if report.soak:
        seconds = sum(window.seconds for soak in report.soak for window in soak.windows)
        yield f"interrupted after {seconds:.0f} s"
    elif report.throughput:
        yield f"interrupted after {len(report.throughput)} loads: the passes are not complete"
    else:
        done = max((len(row.started_s) for row in report.runners), default=0)
        planned = report.protocol.images
        yield f"interrupted after {done}" + (f" of {planned} images" if planned else " images")


def _disturbances(report: Report) -> Iterator[str]:
    cores = report.cores_busy_elsewhere
    others = (
        ("other programs", cores.other_programs if cores else 0.0),
        ("other virtual machines", cores.stolen if cores else 0.0),
    )
    for name, busy in others:
        if busy > BUSY_CORES:
            yield (
                f"results are unreliable: {name} kept {busy:.2f} cores busy, and background load "
                "affects backends differently; measure on an idle machine"
            )
    for cause in report.throttling:
        yield f"results are unreliable: during the run {cause}"
    for problem in report.energy.problems:
        yield f"energy figures are invalid: {problem}"
    block = report.protocol.block or 0
    short = [
        f"{row.label} {row.image.statistics.mean * block:.2g} s"
        for row in report.runners
        if row.energy and row.image and row.image.statistics.mean * block < _METER_S
    ]
    if short:
        yield (
            f"energy figures are rough: a turn should take {_METER_S:g} s, since energy meters "
            f"update slowly, and took: {', '.join(short)}"
        )


def _precision(report: Report) -> Iterator[str]:
    """Medians that are not known well, warm-ups that did not settle, and scatter."""
    protocol = report.protocol
    wide = [
        f"{row.label} " + ("unknown" if row.half_width is None else f"±{row.half_width:.1%}")
        for row in report.runners
        if row.image and row.stable is False
    ]
    if wide and report.complete:
        yield (
            f"after {protocol.at_most_s:g} s, medians were not known to within "
            f"{100 * (protocol.tolerance or 0):g}%: {', '.join(wide)}; {_REMEDY}, or raise "
            "--at-most"
        )
    unsettled = [row.label for row in report.runners if row.warmup and row.warmup.settled is False]
    if unsettled:
        yield f"latencies had not settled after the warm-up: {', '.join(unsettled)}; {_REMEDY}"
    every = [(row.image.statistics.variation, row.label) for row in report.runners if row.image]
    unsteady = [pair for pair in every if pair[0] > STEADY_VARIATION]
    if unsteady:
        most, label = max(unsteady)
        yield (
            f"the coefficient of variation exceeds {STEADY_VARIATION:.1%} for {len(unsteady)} of "
            f"{len(every)} runners, up to {most:.1%} ({label}); {_REMEDY}"
        )


def _behaviour(row: RunnerRow) -> Iterator[str]:
    """A level shift, else drift; and two speeds, which are no drift."""
    drift, shift, modes = row.drift, row.level_shift, row.two_speeds
    if shift is not None:
        change = max(shift.ratio, 1 / shift.ratio) - 1
        slower = "slower" if shift.ratio > 1 else "faster"
        yield f"{row.label} was {change:.0%} {slower} from image {shift.at} on: {_SHIFT_CAUSE}"
        return
    if drift is not None and abs(drift.value) > STEADY_VARIATION and drift.nonzero:
        yield (
            f"{row.label} became {_change(drift.value)} during the run: let the device reach its "
            "working temperature first"
        )
    if modes is not None:
        yield (
            f"{row.label} has two speeds, {modes.fast * 1e3:.4g} ms in {modes.share:.0%} of "
            f"the images and {modes.slow * 1e3:.4g} ms in the others, so its mean is misleading: "
            "pin the threads to cores of one kind (taskset), fix the clock, close other programs"
        )


def _soak(soak: SoakRow) -> Iterator[str]:
    """What the run itself showed, nothing extrapolated."""
    windows, drift, growth = soak.windows, soak.drift_percent, soak.rss_growth_bytes
    seconds = sum(window.seconds for window in windows)
    if seconds < _MIN_SOAK_S:
        return
    hours = seconds / 3600
    shift = lasting_step([window.p50_s for window in windows])
    if shift is not None:
        yield (
            f"{soak.label} was {_change(shift.ratio - 1)} from minute "
            f"{windows[shift.at].at_s / 60:.1f} on: {_SHIFT_CAUSE}"
        )
    elif drift is not None and abs(drift.value * hours) > 100 * STEADY_VARIATION and drift.nonzero:
        yield (
            f"{soak.label} became {_change(drift.value * hours / 100)} within "
            f"{seconds / 60:.0f} min ({drift.value:+.1f}% per hour)"
        )
    if (
        growth is not None
        and (growth.low or 0) > _LEAK_BYTES_PER_HOUR
        and growth.value * hours > _LEAK_BYTES
    ):
        yield (
            f"{soak.label}: memory grows by {growth.value / 2**20:.0f} MiB per hour, which is "
            "more than noise"
        )


def _change(slowdown: float) -> str:
    return f"{abs(slowdown):.1%} {'slower' if slowdown > 0 else 'faster'}"
