"""What each exact rewrite of the static graph is worth, per backend, in one run.

    python benchmarks/rewrites.py docs/results/rewrites.md [--task bfr] [--rounds 8]

Every variant is exported with random weights (speed does not depend on their values) and run on
onnxruntime and, where installed, OpenVINO in float32, bfloat16 and INT8 (every part, its other
operators in bfloat16 where the processor has it). Variants take turns, one run each, so that a
drifting clock hits all alike; figures are medians, ratios are of paired runs to the plain graph
(unrolled, nothing rewritten but the collapse).
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from onnx import ModelProto

from elir_deploy.export.block_choice import QuantizationOptions
from elir_deploy.export.calibration import packaged_images
from elir_deploy.export.graphs import fuse_stages
from elir_deploy.export.int8 import calibrate
from elir_deploy.export.onnx import export_stages
from elir_deploy.export.pixels import Feeder
from elir_deploy.model import Elir
from elir_deploy.output_files import write_text
from elir_deploy.runtime.backends.openvino import read_model
from elir_deploy.scopes import Outline
from elir_deploy.static_graph import Rewrites, build_static_graph, fixed_noise, latent_shape
from elir_deploy.tasks import TASKS, TaskSpec

PLAIN = replace(Rewrites.none(), collapse=True)
VARIANTS = {
    "plain": PLAIN,
    "+ time folded": replace(PLAIN, fold_time=True),
    "+ scalars folded": replace(PLAIN, fold_time=True, fold_scalars=True),
    "+ projection merged": Rewrites(),
}

Runner = Callable[[], Any]


def onnxruntime_runner(model: bytes, image: np.ndarray, threads: int) -> Runner:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"image": image})


def read(content: bytes) -> Any:
    """OpenVINO's model, as the runtime reads it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(content)
        return read_model(path)


def openvino_runner(model: bytes, image: np.ndarray, threads: int, precision: str) -> Runner:
    import openvino

    compiled = openvino.Core().compile_model(
        read(model),
        "CPU",
        {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": threads},
    )
    request = compiled.create_infer_request()
    return lambda: request.infer([image], share_inputs=True)


def open_runners(model: bytes, int8: bytes, image: np.ndarray, threads: int) -> dict[str, Runner]:
    runners = {"onnxruntime f32": onnxruntime_runner(model, image, threads)}
    try:
        import openvino
    except ImportError:
        print("OpenVINO is not installed: left out")
        return runners
    capabilities = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    rest = "bf16" if "BF16" in capabilities else "f32"
    runners["OpenVINO f32"] = openvino_runner(model, image, threads, "f32")
    if rest == "bf16":
        runners["OpenVINO bf16"] = openvino_runner(model, image, threads, rest)
    runners["OpenVINO INT8"] = openvino_runner(int8, image, threads, rest)
    return runners


def quantized(graph: ModelProto, outline: Outline, task: TaskSpec) -> bytes:
    """With every block in INT8; one image gives ranges enough for a measurement of speed."""
    images = packaged_images(task, task.image_size)[:1]
    recipe, _ = calibrate(graph, outline, images, Feeder("uint8"), QuantizationOptions(), None)
    return recipe.apply(graph).SerializeToString(deterministic=True)


def measure(task_name: str, rounds: int) -> str:
    task = TASKS[task_name]
    threads = len(os.sched_getaffinity(0))
    torch.manual_seed(0)
    model = Elir(task.architecture).eval()
    size = task.image_size
    noise = fixed_noise(0, task.sigma_s, latent_shape(model, size))
    image = np.random.default_rng(0).integers(0, 256, (1, size, size, 3), dtype=np.uint8)
    runners: dict[tuple[str, str], Runner] = {}
    sizes: dict[str, tuple[int, float]] = {}
    for name, rewrites in VARIANTS.items():
        print(f"exporting: {name}", flush=True)
        static = build_static_graph(
            model, image_size=size, steps=task.steps, noise=noise, rewrites=rewrites
        )
        graph = fuse_stages(export_stages(static))
        content = graph.SerializeToString(deterministic=True)
        sizes[name] = len(graph.graph.node), len(content) / 1e6
        int8 = quantized(graph, static.outline, task)
        for backend, runner in open_runners(content, int8, image, threads).items():
            runners[backend, name] = runner
    seconds: dict[tuple[str, str], list[float]] = {key: [] for key in runners}
    for round_number in range(rounds + 1):
        print(f"round {round_number} of {rounds}", flush=True)
        for key, runner in runners.items():
            begin = time.perf_counter()
            runner()
            if round_number:  # the first is the warm-up
                seconds[key].append(time.perf_counter() - begin)
    backends = list(dict.fromkeys(backend for backend, _ in runners))
    lines = [
        f"{task.name}, {size}x{size}, M = {task.steps}, random weights, {threads} threads, "
        f"{rounds} rounds; median seconds, and times the plain graph (median of paired ratios).",
        "",
        "| graph | nodes | MB | " + " | ".join(backends) + " |",
        "|---|---|---|" + "---|" * len(backends),
    ]
    for name, (nodes, megabytes) in sizes.items():
        cells = []
        for backend in backends:
            own, plain = seconds[backend, name], seconds[backend, "plain"]
            ratio = statistics.median(p / o for p, o in zip(plain, own, strict=True))
            cells.append(f"{statistics.median(own):.3f} ({ratio:.3f})")
        lines.append(f"| {name} | {nodes} | {megabytes:.1f} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def environment() -> str:
    packages = [
        f"{name} {metadata.version(name)}"
        for name in ("torch", "onnxruntime", "openvino", "onnx")
        if any(d.metadata["Name"] == name for d in metadata.distributions())
    ]
    model = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    return f"{model}; Python {platform.python_version()}; {', '.join(packages)}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("output", type=Path)
    parser.add_argument("--task", nargs="+", default=["bfr", "tiny"], choices=sorted(TASKS))
    parser.add_argument("--rounds", type=int, default=8)
    arguments = parser.parse_args()
    tables = []
    for task in arguments.task:
        tables.append(measure(task, arguments.rounds))
        print(tables[-1], flush=True)
    text = "\n\n".join(
        [
            "# The exact rewrites, measured",
            "Made by `python benchmarks/rewrites.py`. A ratio above 1 is faster than the plain "
            "graph. Each line adds to the one above.",
            environment(),
            *tables,
        ]
    )
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    write_text(arguments.output, text + "\n")


if __name__ == "__main__":
    main()
