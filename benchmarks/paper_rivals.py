"""How fast bfr and bsr are beside the models that the paper compares them with.

    python benchmarks/paper_rivals.py docs/results/paper-rivals.md [--images 10] [--peers paper]

Exports both with random weights in float32, and measures them with ``elir-bench --peers paper`` in
eager PyTorch and on the backends of this machine. Needs the extras ``export``, ``cpu`` and
``paper``.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from elir_deploy.bench.device import usable_cores
from elir_deploy.bench.peers import TORCH, named_peers
from elir_deploy.bench.protocols import BenchProtocol
from elir_deploy.bench.report import build_report
from elir_deploy.bench.report_text import heading, remarks, tables
from elir_deploy.bench.report_types import Report
from elir_deploy.bench.runs import BenchOptions, Run, open_bundles
from elir_deploy.output_files import write_text
from elir_deploy.text import in_markdown, pipes

TASKS = "bfr", "bsr"
#: Parts of a report that the page leaves out.
_OMITTED_TABLES = {"Latency in ms"}
_OMITTED_REMARKS = ("cannot be monitored", "no energy", "no PSNR", "convolutions", "not measured: ")

INTRODUCTION = """\
# The paper's rivals

What the paper's models, and those that it compares them with in Table 1, take on this machine's
CPU: float32 (bfloat16 where a row says so), batch 1, in turns of two images. All weights are
random: the speeds are those of the released weights, the pictures mean nothing. The rivals, whose
networks are spandrel's, and ELIR's first row run in eager PyTorch, as the paper measured all of
them on an NVIDIA RTX 2080 Ti. A CPU is no GPU: where the ratios differ, this page does not show
that the paper's are wrong.

Measured with `{command}`."""


def measured(task: str, folder: Path, images: int, names: list[str]) -> Report:
    bundle = folder / task
    export = [sys.executable, "-m", "elir_deploy.cli.export", "random", "--task", task]
    subprocess.run([*export, "--precision", "fp32", "-o", str(bundle)], check=True)
    _, rivals = named_peers(names)
    # An image takes seconds, so that turns of two are long enough.
    protocol = BenchProtocol("paper", "", warmup=1, images=images, block=2)
    options = BenchOptions(
        protocol, peers=(TORCH,), rivals=rivals, threads=usable_cores(), cold=False
    )
    run = Run(open_bundles([str(bundle)], options), options)

    def show(what: str, done: int, total: int) -> None:
        print(f"{task}: {what} {done}/{total}", file=sys.stderr, flush=True)

    run.measure(show)
    assert run.conditions is not None
    return build_report(run.results, run.bundle, run.conditions)


def section(report: Report) -> Iterator[str]:
    first, *details = heading(report)
    yield f"## {in_markdown(first)}"
    versions = sorted({each for row in report.runners for each in row.library.split(", ")})
    warnings = [f"warning: {line}" for line in report.warnings]
    lines = [*details, ", ".join(versions), *warnings]
    yield "\n".join(f"- {in_markdown(line)}" for line in lines)
    for table in tables(report):
        if table.title not in _OMITTED_TABLES:
            yield f"{table.title}:"
            yield pipes(table.header, table.rows)
    lines = [line for line in remarks(report) if not line.startswith(_OMITTED_REMARKS)]
    yield "\n".join(f"- {in_markdown(line)}" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--images", type=int, default=10)
    parser.add_argument("--peers", default="paper")
    options = parser.parse_args()
    command = f"python {' '.join(['benchmarks/paper_rivals.py', *sys.argv[1:]])}"
    parts = [INTRODUCTION.format(command=command)]
    with tempfile.TemporaryDirectory() as folder:
        for task in TASKS:
            before = os.getloadavg()[0]
            report = measured(task, Path(folder), options.images, [options.peers])
            print(f"{task}: load {before:.1f} before, {os.getloadavg()[0]:.1f} after")
            parts += section(report)
    write_text(options.output, "\n\n".join(parts) + "\n")


if __name__ == "__main__":
    main()
