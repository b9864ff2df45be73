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
from elir_deploy.bench.report_reading import read_runs
from elir_deploy.cli.shell import DebugOption, VersionOption, run_command
from elir_deploy.printable import printable, printable_values
from elir_deploy.tables import aligned

_HEADER = ("row", "verdict", "times as fast", "95 % interval", "by medians", "runs", "samples")
_LONGEST_VALUE = 60


def compare(
    before: Annotated[
        Path,
        typer.Argument(
            metavar="A.json",
            help="Written by elir-bench --json, or a folder of such files, several runs of the "
            "same thing: what to compare with.",
        ),
    ],
    after: Annotated[
        Path, typer.Argument(metavar="B.json", help="Likewise: what may be faster or slower.")
    ],
    run_to_run: Annotated[
        float | None,
        typer.Option(
            metavar="PERCENT",
            min=0,
            max=100,
            help="How much two runs of the same thing differ on your machine (standard deviation), "
            f"where a side has fewer than {FEWEST_RUNS}. "
            f"[default: {RUN_TO_RUN:.1%}; {BUSY_RUN_TO_RUN:.0%} where other programs ran, "
            f"{VIRTUAL_RUN_TO_RUN:.0%} on a virtual machine without the yardstick]",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object instead of a table.")
    ] = False,
    debug: DebugOption = False,
    version: VersionOption = False,
) -> None:
    """Say for each row of two measurements whether B is faster, slower or the same as A.

    A ratio above 1 is faster. Latencies are taken relative to the yardstick, a fixed piece of work
    that elir-bench times next to them, so that a machine that is slower today does not count. With
    one file on each side a change of 12 % is found nearly always on a shared machine; to find one
    of 5 %, give folders of five runs each, taken in turns.
    'same within 3 %' means that no difference was shown, and that one of up to 3 % may be there.
    'unknown' takes more images, or a machine that is not overloaded.
    Settings and versions that differ between the files are warned of: device, power mode, clock
    limits, threads, driver, weights. 'quality differs' beside a verdict says that the two do not
    restore alike: PSNR to float32 PyTorch moved by 1 dB or more, or is missing in one.

    The exit code is 0 whatever the verdicts are, and 2 where the files cannot be compared.

    Examples:

    * `elir-bench bfr --json before.json`, change something, `elir-bench bfr --json after.json`
    * `elir-compare before.json after.json`
    * `elir-compare before/ after/ --json`
    """
    allowance = None if run_to_run is None else run_to_run / 100
    found = compare_runs(read_runs(before), read_runs(after), run_to_run=allowance)
    if as_json:
        print(json.dumps(_as_json(before, after, found), indent=1, allow_nan=False))
    else:
        print("\n".join(_lines(before, after, found)))


def _as_json(before: Path, after: Path, found: Comparison) -> dict[str, Any]:
    return {
        "kind": "elir-compare",
        "schema_version": 2,
        "before": str(before),
        "after": str(after),
        **asdict(found),
        "changes": [{**asdict(change), "within": change.within} for change in found.changes],
    }


def _lines(before: Path, after: Path, found: Comparison) -> list[str]:
    rows = [_row(change) for change in found.changes]
    lines = [
        printable(f"{after} against {before}; above 1 is faster"),
        "",
        aligned(_HEADER, printable_values([list(row) for row in rows])),
        "",
        *dict.fromkeys(f"compared: {change.method}" for change in found.changes),
    ]
    if any(min(change.samples) < FEWEST_SAMPLES for change in found.changes):
        lines.append(f"unknown: a verdict takes {FEWEST_SAMPLES} images in both files")
    lines += [f"only in {before}: {label}" for label in found.only_before]
    lines += [f"only in {after}: {label}" for label in found.only_after]
    lines += [f"warning: {_told(difference)}" for difference in found.differences]
    lines += [f"warning: {remark}" for remark in found.remarks]
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


def _told(difference: Difference) -> str:
    return f"{difference.what} differs: {_value(difference.before)} -> {_value(difference.after)}"


def _value(value: Any) -> str:
    if value is None:
        return "not stated"
    shown = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return shown if len(shown) <= _LONGEST_VALUE else f"{shown[:_LONGEST_VALUE]}..."


def main() -> None:
    run_command(compare)


if __name__ == "__main__":
    main()
