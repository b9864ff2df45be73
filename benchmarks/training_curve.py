"""The curves of elir-train runs as one picture, from their logs.

python benchmarks/training_curve.py RUN [RUN ...] docs/results/tiny-training/curve.png
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from elir_deploy.output_files import replacing

#: Columns that are drawn, where a log has them.
LOSSES = ("loss", "estimator", "flow")
STAGES = ("linear-autoencoder", "autoencoder", "restoration", "flow")
#: Updates a drawn value is the median of.
WINDOW = 9


def column(rows: list[dict[str, str]], name: str) -> np.ndarray:
    return np.array([float(row[name]) for row in rows])


def smoothed(values: np.ndarray) -> np.ndarray:
    padded = np.pad(values, WINDOW // 2, mode="edge")
    return np.median(np.lib.stride_tricks.sliding_window_view(padded, WINDOW), axis=-1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("output", type=Path)
    arguments = parser.parse_args()
    logs = [
        log
        for run in arguments.runs
        for stage in STAGES
        if (log := run / f"log-{stage}.csv").exists()
    ]
    figure = Figure(figsize=(4 * len(logs), 3.5), layout="constrained")
    FigureCanvasAgg(figure)
    for log, axes in zip(logs, np.atleast_1d(figure.subplots(1, len(logs))), strict=True):
        with log.open(newline="") as file:
            rows = list(csv.DictReader(file))
        for name in LOSSES:
            if name in rows[0]:
                axes.semilogy(column(rows, "update"), smoothed(column(rows, name)), label=name)
        axes.set_title(log.stem.removeprefix("log-").replace("-", " "))
        axes.set_xlabel("updates")
        axes.legend()
    with replacing(arguments.output) as file:
        figure.savefig(file, format="png", dpi=90)


if __name__ == "__main__":
    main()
