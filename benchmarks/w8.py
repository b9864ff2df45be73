"""Weights in 8 bits: what they cost in quality, on photographs, and in time.

    elir-export random --task bfr --precision fp32 --precision w8 -o bfr
    python benchmarks/w8.py PHOTOS docs/results/w8.md tiny bfr [--rounds 15]

Quality is that of the first bundle, on the middle square of each photograph, degraded as its task
says. Speed is of all bundles, w8 and float32 in turn on each backend, one thread.
"""

from __future__ import annotations

import argparse
import os
import statistics
from functools import partial
from pathlib import Path

import numpy as np
from noise_levels import photographs
from precisions import Runner, interleaved, ratio
from rewrites import environment

from elir_deploy.degradations import degrade
from elir_deploy.output_files import write_text
from elir_deploy.pixels import psnr_db
from elir_deploy.runtime import Bundle, Restorer
from elir_deploy.text import pipes

BACKENDS = ("onnxruntime", "openvino")


def quality(bundle: Bundle, photos: Path, limit: int) -> str:
    task = bundle.manifest.model.task
    with (
        Restorer(bundle, "openvino", precision="fp32") as exact,
        Restorer(bundle, "openvino", precision="w8") as rounded,
    ):
        before, loss, alike = [], [], []
        for number, truth in enumerate(photographs(photos, limit)):
            low = degrade(task, truth, np.random.default_rng(number))
            wide, narrow = exact(low), rounded(low)
            before.append(psnr_db(wide, truth))
            loss.append(before[-1] - psnr_db(narrow, truth))
            alike.append(psnr_db(narrow, wide))
    rows = [
        ("float32 to the truth, mean", f"{statistics.mean(before):.2f}"),
        ("lost by w8, mean", f"{statistics.mean(loss):.3f}"),
        ("lost by w8, most", f"{max(loss):.3f}"),
        ("w8 to float32, mean", f"{statistics.mean(alike):.1f}"),
        ("w8 to float32, least", f"{min(alike):.1f}"),
    ]
    kept = bundle.manifest.verification["w8"].kept_float32
    words = (
        "; ".join(kept) if kept else "none, since with all in 8 bits the loss is within the budget"
    )
    return (
        f"{len(loss)} photographs. Blocks whose weights stay in floating point: {words}.\n\n"
        + pipes(("", "dB"), rows)
    )


def speed(bundles: list[Bundle], rounds: int) -> str:
    rows = []
    for bundle in bundles:
        shape, task = bundle.manifest.shapes[0], bundle.manifest.model.task
        rng = np.random.default_rng(0)
        image = rng.integers(0, 256, (shape.height, shape.width, 3), np.uint8)
        runners: dict[str, Runner] = {
            f"{backend} {precision}": partial(
                Restorer(bundle, backend, precision=precision, threads=1), image
            )
            for backend in BACKENDS
            for precision in ("fp32", "w8")
        }
        seconds = interleaved(runners, rounds)
        for name, series in seconds.items():
            compared = ratio(seconds, name, f"{name.split()[0]} fp32")
            rows.append((task, name, f"{1e3 * statistics.median(series):.0f}", compared))
    return pipes(("task", "backend, precision", "median ms", "times float32's speed"), rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("photos", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("bundles", nargs="+", type=Bundle.open)
    parser.add_argument("--limit", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    report = _REPORT.format(
        environment=environment(),
        task=arguments.bundles[0].manifest.model.task,
        quality=quality(arguments.bundles[0], arguments.photos, arguments.limit),
        speed=speed(arguments.bundles, arguments.rounds),
        rounds=arguments.rounds,
        load=os.getloadavg()[0],
        cores=os.cpu_count(),
    )
    write_text(arguments.output, report)


_REPORT = """\
# Weights in 8 bits

Made by `benchmarks/w8.py`.
{environment}

## Quality of {task}

On photographs that the model was not trained on (for tiny: of BSDS500's train and test parts, every
tenth by name, the first of them), degraded as its task says; through OpenVINO.
{quality}

## Speed on the CPU

One thread; medians of {rounds} rounds, in which all take turns. Weights are made floating point
once, when a session opens. Load average at the end: {load:.0f} on {cores} cores.

{speed}
"""

if __name__ == "__main__":
    main()
