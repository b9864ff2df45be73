"""Updates a second and peak memory of training, batch 1, on this machine.

    python benchmarks/training_speed.py PHOTOS docs/results/training-speed.md [--task bfr ...]

Each task and number format runs in a process of its own, from random weights, by the paper's method
(``tiny`` with the settings of ``denoise``); the first two updates are not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from elir_deploy.bench.device import describe_device
from elir_deploy.checkpoints import load_checkpoint, save_checkpoint
from elir_deploy.output_files import write_text
from elir_deploy.progress import no_progress
from elir_deploy.tasks import TASKS
from elir_deploy.text import pipes
from elir_deploy.training.options import RunOptions
from elir_deploy.training.run import train
from elir_deploy.training.settings import settings_for

WARMUP, UPDATES = 2, 6
FORMATS = {"fp32": "32-true", "bf16": "bf16-mixed"}


def measure(photos: Path, task_name: str, precision: str) -> dict[str, Any]:
    """Runs in the child process."""
    times: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = load_checkpoint("random", task_name)
        autoencoder = Path(folder) / "autoencoder.safetensors"
        save_checkpoint(autoencoder, checkpoint.model, checkpoint.task)
        del checkpoint
        settings = replace(
            settings_for("denoise" if task_name == "tiny" else task_name),
            iterations=WARMUP + UPDATES,
            batch_size=1,
            flow_iterations=0,
        )
        options = RunOptions(
            images=photos,
            output=Path(folder) / "run",
            task=TASKS[task_name],
            settings=settings,
            autoencoder=autoencoder,
            precision=FORMATS[precision],
            accelerator="cpu",
            report_every=1,
            preview_every=0,
            save_seconds=1e9,
        )
        train(options, no_progress, print, lambda report: times.append(time.perf_counter()))
    return {
        "updates_s": UPDATES / (times[WARMUP + UPDATES - 1] - times[WARMUP - 1]),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("photos", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--task", action="append", choices=list(TASKS))
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(measure(arguments.photos, *arguments.child)))
        return
    rows = []
    for task_name in arguments.task or ("tiny", "bfr"):
        for precision in FORMATS:
            command = [sys.executable, __file__, str(arguments.photos), str(arguments.output)]
            ended = subprocess.run(
                [*command, "--child", task_name, precision],
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            )
            found = json.loads(ended.stdout.splitlines()[-1])
            side = TASKS[task_name].image_size
            rows.append(
                [
                    task_name,
                    f"{side}x{side}",
                    precision,
                    f"{found['updates_s']:.2f}",
                    f"{found['peak_mib'] / 1024:.1f}",
                ]
            )
            print(rows[-1], flush=True)
    cpu = describe_device().cpu
    text = (
        "# Speed of training\n\n"
        "Batch 1, the paper's method (`tiny` with the settings of `denoise`), "
        f"{os.cpu_count()} cores of {cpu.model}, PyTorch {torch.__version__}; mean of {UPDATES} "
        f"updates after {WARMUP}. Memory is the peak of the process that trains; the one that "
        "prepares images comes on top.\n\n"
        + pipes(["task", "images", "format", "updates/s", "peak GiB"], rows)
        + "\n"
    )
    write_text(arguments.output, text)


if __name__ == "__main__":
    main()
