"""``elir-compare``: what became faster or slower between two measurements."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from elir_deploy.bench.comparison import (
    BUSY_RUN_TO_RUN,
    FEWEST_RUNS,
    FEWEST_SAMPLES,
    RUN_TO_RUN,
    VIRTUAL_RUN_TO_RUN,
    Change,
    Comparison,
    compare_runs,
)
from elir_deploy.bench.report_differences import Difference
from elir_deploy.bench.report_file import read_runs
from elir_deploy.cli.shell import DebugOption, VersionOption, run_command
from elir_deploy.text import aligned, printable, printable_values

_HEADER = ("runner", "verdict", "speedup", "95 % interval", "by medians", "runs", "samples")
_LONGEST_VALUE = 60


def compare(
    before: Annotated[
        Path,
        typer.Argument(
            metavar="A.json|A.zip",
            help="Baseline: a file written by elir-bench --json or --device-report, or a folder of "
            "such files from repeated runs.",
        ),
    ],
    after: Annotated[
        Path,
        typer.Argument(
            metavar="B.json|B.zip",
            help="Measurement to compare with the baseline: a file or a folder.",
        ),
    ],
    run_to_run: Annotated[
        float | None,
        typer.Option(
            metavar="PERCENT",
            min=0,
            max=100,
            help="Variation between runs of the same program on your machine (standard deviation); "
            f"used with fewer than {FEWEST_RUNS} runs per side. "
            f"[default: {RUN_TO_RUN:.1%}; {BUSY_RUN_TO_RUN:.0%} under other load, "
            f"{VIRTUAL_RUN_TO_RUN:.0%} on a virtual machine without the yardstick]",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object instead of a table.")
    ] = False,
    debug: DebugOption = False,
    version: VersionOption = False,
) -> None:
    """Compare two measurements: is each runner faster in B than in A, slower or the same?

    A ratio above 1 is faster. Latencies are relative to the yardstick, a fixed computation that
    elir-bench times between turns, so it does not matter if the machine is slower today. With
    one file per side, a change of 12 % is nearly always detected on a shared machine; to detect
    5 %, give folders of five runs each, measured alternately.
    'same within 3 %' means that no difference was detected, but there may be one of up to 3 %.
    'unknown' means that there are too few images, or that the machine was overloaded.
    A warning lists settings and versions that differ: device, power mode, clock limits, threads,
    driver, weights. 'quality differs' means that PSNR against float32 PyTorch changed by 1 dB or
    more, or is missing in one file.

    The exit code is 0 for any verdict, and 2 if the files cannot be compared.

    Examples:

    * `elir-bench bfr --json before.json`, change something, `elir-bench bfr --json after.json`
    * `elir-compare before.json after.json`
    * `elir-compare before/ after/ --json`
    """
    allowance = None if run_to_run is None else run_to_run / 100
    comparison = compare_runs(read_runs(before), read_runs(after), run_to_run=allowance)
    if as_json:
        print(json.dumps(_as_json(before, after, comparison), indent=1, allow_nan=False))
    else:
        print("\n".join(_lines(before, after, comparison)))


def _as_json(before: Path, after: Path, comparison: Comparison) -> dict[str, Any]:
    return {
        "kind": "elir-compare",
        "schema_version": 2,
        "before": str(before),
        "after": str(after),
        **asdict(comparison),
        "changes": [{**asdict(change), "within": change.within} for change in comparison.changes],
    }


def _lines(before: Path, after: Path, comparison: Comparison) -> list[str]:
    rows = [_row(change) for change in comparison.changes]
    lines = [
        printable(f"{after} against {before}; above 1 is faster"),
        "",
        aligned(_HEADER, printable_values([list(row) for row in rows])),
        "",
        *dict.fromkeys(f"compared: {change.method}" for change in comparison.changes),
    ]
    if any(min(change.samples) < FEWEST_SAMPLES for change in comparison.changes):
        lines.append(f"unknown: a verdict needs {FEWEST_SAMPLES} images in both files")
    lines += [f"only in {before}: {label}" for label in comparison.only_before]
    lines += [f"only in {after}: {label}" for label in comparison.only_after]
    lines += [f"warning: {_describe(difference)}" for difference in comparison.differences]
    lines += [f"warning: {remark}" for remark in comparison.remarks]
    return [*lines[:3], *map(printable, lines[3:])]


def _row(change: Change) -> tuple[str, ...]:
    verdict, interval = change.verdict, "-"
    if change.low is not None and change.high is not None:
        interval = f"[{change.low:.3f}, {change.high:.3f}]"
    if change.verdict == "same" and change.within is not None:
        verdict = f"same within {change.within * 100:.2g} %"
    if change.quality_differs:
        verdict += ", quality differs"
    return (
        change.label,
        verdict,
        f"{change.ratio:.3f}",
        interval,
        f"{change.median_ratio:.3f}",
        " / ".join(map(str, change.runs)),
        " / ".join(map(str, change.samples)),
    )


def _describe(difference: Difference) -> str:
    return f"{difference.what} differs: {_value(difference.before)} -> {_value(difference.after)}"


def _value(value: Any) -> str:
    if value is None:
        return "none"
    shown = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return shown if len(shown) <= _LONGEST_VALUE else f"{shown[:_LONGEST_VALUE]}..."


def main() -> None:
    run_command(compare)


if __name__ == "__main__":
    main()
