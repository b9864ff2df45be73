"""What an image costs in eager PyTorch on a CUDA device: what engines are compared with.

    python benchmarks/gpu_eager.py gpu-eager.md [--task bfr] [--runs 100]

Milliseconds are medians of single runs, from the image in the device's memory to the result there,
with the host waiting in between. Beside the kernels that the profiler saw stand those that the cost
model counts (elir-inspect --cost, docs/guide-benchmark.md). Random weights: speed does not depend
on their values.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from eager_kernels import eager_model_layers
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from elir_deploy.model import Elir
from elir_deploy.output_files import write_text
from elir_deploy.tasks import TASKS, TaskSpec
from elir_deploy.text import pipes

Runner = Callable[[], object]


def runner(task: TaskSpec, dtype: torch.dtype) -> Runner:
    """Restores one image."""
    model = Elir(task.architecture).eval().requires_grad_(False).to("cuda", dtype)
    side = task.image_size // task.architecture.latent_stride
    shape = (1, task.architecture.latent_channels, side, side)
    noise = torch.randn(shape, device="cuda", dtype=dtype)
    image = torch.rand(1, 3, task.image_size, task.image_size, device="cuda", dtype=dtype)

    @torch.inference_mode()
    def run() -> object:
        return model(image, task.steps, noise)

    return run


def kernels(run: Runner) -> int:
    """How many one run launches; copies and fillings by the driver do not count."""
    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as profiler:
        run()
        torch.cuda.synchronize()
    drivers_own = ("Memcpy", "Memset")
    return sum(
        event.device_type == DeviceType.CUDA and not event.name.startswith(drivers_own)
        for event in profiler.events()
    )


def milliseconds(run: Runner, runs: int) -> list[float]:
    """Of each run, in order."""
    made = []
    for number in range(runs + 10):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        run()
        torch.cuda.synchronize()
        if number >= 10:  # the first choose algorithms
            made.append(1e3 * (time.perf_counter() - begin))
    return made


def rows_of(task: TaskSpec, runs: int) -> list[list[str]]:
    """In float32, with TensorFloat-32 and in float16."""
    counted = len(
        eager_model_layers(task.architecture, image_size=task.image_size, steps=task.steps)
    )
    rows = []
    for name, dtype, tf32 in (
        ("float32", torch.float32, False),
        ("float32, TF32", torch.float32, True),
        ("float16", torch.float16, False),
    ):
        torch.backends.cudnn.allow_tf32 = tf32
        torch.backends.cuda.matmul.allow_tf32 = tf32
        run = runner(task, dtype)
        run()
        seen = kernels(run)
        times = milliseconds(run, runs)
        median = statistics.median(times)
        deciles = statistics.quantiles(times, n=10)
        rows.append(
            [
                f"{task.name}, {task.image_size}x{task.image_size}, M = {task.steps}",
                name,
                str(counted),
                str(seen),
                f"{median:.2f}",
                f"{deciles[0]:.2f} to {deciles[-1]:.2f}",
                f"{1e3 * median / seen:.1f}",
            ]
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path, help="the Markdown page")
    parser.add_argument("--task", action="append", choices=sorted(TASKS), help="default: all")
    parser.add_argument("--runs", type=int, default=100)
    options = parser.parse_args()
    rows = [row for name in options.task or TASKS for row in rows_of(TASKS[name], options.runs)]
    heading = ["network", "precision", "kernels counted", "launched", "ms", "10 to 90 %"]
    table = pipes([*heading, "us a kernel"], rows)
    device = torch.cuda.get_device_properties(0)
    place = (
        f"{device.name} (compute capability {device.major}.{device.minor}), "
        f"PyTorch {torch.__version__}, cuDNN {torch.backends.cudnn.version()}, "
        f"{options.runs} runs each, random weights"
    )
    print(table)
    write_text(options.output, f"# Eager PyTorch on a GPU\n\n{place}\n\n{table}\n")


if __name__ == "__main__":
    main()
