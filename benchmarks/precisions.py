"""How fast each precision restores, against what a user would otherwise take, in one run.

    python benchmarks/precisions.py docs/results/precisions.md [--task bfr tiny] [--rounds 15]

Random weights for the full-size tasks (speed does not depend on their values), the packaged ones
for ``tiny``. All runners take turns, one run each; figures are medians, ratios of paired runs.
NNCF quantises the plain float32 export on its own terms: asymmetric activations, its own choice
of operators, OpenVINO's own format. Ours is the one symmetric ONNX graph that TensorRT takes too.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import torch
from onnx import ModelProto
from rewrites import environment, onnxruntime_runner, read

from elir_deploy.checkpoints import load_checkpoint
from elir_deploy.export.block_choice import QuantizationOptions
from elir_deploy.export.calibration import packaged_images
from elir_deploy.export.graphs import fuse_stages
from elir_deploy.export.int8 import calibrate
from elir_deploy.export.onnx import export_stages
from elir_deploy.export.pixels import Feeder, to_network
from elir_deploy.model import Elir
from elir_deploy.output_files import write_text
from elir_deploy.scopes import Outline
from elir_deploy.static_graph import build_static_graph, fixed_noise, latent_shape
from elir_deploy.tasks import TASKS, TaskSpec
from elir_deploy.text import pipes

Runner = Callable[[], Any]
EAGER, OURS, NNCF = "PyTorch eager float32", "INT8, this project", "INT8, NNCF on OpenVINO"


def compiled(model: Any, threads: int, hint: str, *, profile: bool = False) -> Any:
    settings = {
        "INFERENCE_PRECISION_HINT": hint,
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        "PERF_COUNT": "YES" if profile else "NO",
    }
    return openvino.Core().compile_model(model, "CPU", settings)


def openvino_runner(model: Any, threads: int, hint: str, image: np.ndarray) -> Runner:
    request = compiled(model, threads, hint).create_infer_request()
    return lambda: request.infer([image], share_inputs=True)


def nncf_model(content: bytes, images: list[np.ndarray]) -> Any | None:
    try:
        import nncf
    except ImportError:
        print("nncf is not installed: left out")
        return None
    return nncf.quantize(read(content), nncf.Dataset(images), preset=nncf.QuantizationPreset.MIXED)


def eager_runner(model: Elir, task: TaskSpec, noise: torch.Tensor, image: np.ndarray) -> Runner:
    x = torch.from_numpy(to_network(image[0], "float32"))

    @torch.inference_mode()
    def run() -> None:
        model(x, task.steps, noise)

    return run


def interleaved(runners: dict[str, Runner], rounds: int) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {name: [] for name in runners}
    for number in range(rounds + 2):
        print(f"round {number} of {rounds + 1}", flush=True)
        for name, run in runners.items():
            begin = time.perf_counter()
            run()
            if number > 1:  # two to warm up
                seconds[name].append(time.perf_counter() - begin)
    return seconds


def ratio(seconds: dict[str, list[float]], name: str, base: str) -> str:
    if base not in seconds:
        return ""
    found = [b / o for b, o in zip(seconds[base], seconds[name], strict=True)]
    return f"{statistics.median(found):.2f}"


Profile = dict[tuple[str, str], tuple[int, float]]


def profiled(model: Any, threads: int, hint: str, image: np.ndarray) -> Profile:
    """Nodes and milliseconds of a run by kind of operation and kernel."""
    request = compiled(model, threads, hint, profile=True).create_infer_request()
    spent: Counter[tuple[str, str]] = Counter()
    nodes: Counter[tuple[str, str]] = Counter()
    runs = 5
    for number in range(runs + 1):
        request.infer([image], share_inputs=True)
        for entry in request.get_profiling_info() if number else ():
            if entry.status == openvino.ProfilingInfo.Status.EXECUTED:
                kind = entry.node_type, entry.exec_type
                spent[kind] += 1e3 * entry.real_time.total_seconds() / runs
                nodes[kind] += 1
    return {kind: (nodes[kind] // runs, ms) for kind, ms in spent.items()}


def side_by_side(ours: Profile, theirs: Profile) -> str:
    """The twelve kernels that take the longest in either."""
    none = (0, 0.0)
    longest = sorted(
        {*ours, *theirs}, key=lambda kind: -max(ours.get(kind, none)[1], theirs.get(kind, none)[1])
    )
    rows = []
    for kind in longest[:12]:
        cells = [
            text
            for nodes, ms in (ours.get(kind, none), theirs.get(kind, none))
            for text in ((str(nodes), f"{ms:.1f}") if nodes else ("", ""))
        ]
        rows.append([f"{kind[0]} ({kind[1]})", *cells])
    totals = [
        text
        for profile in (ours, theirs)
        for text in ("", f"{sum(ms for _, ms in profile.values()):.1f}" if profile else "")
    ]
    header = ["operation (kernel)", "ours: nodes", "ms", "NNCF's: nodes", "ms"]
    return pipes(header, [*rows, ["all", *totals]])


def exported(task: TaskSpec) -> tuple[Elir, ModelProto, Outline, torch.Tensor]:
    if task.name == "tiny":
        model = load_checkpoint("tiny").model
    else:
        torch.manual_seed(0)
        model = Elir(task.architecture).eval()
    noise = fixed_noise(0, task.sigma_s, latent_shape(model, task.image_size))
    static = build_static_graph(model, image_size=task.image_size, steps=task.steps, noise=noise)
    return model, fuse_stages(export_stages(static)), static.outline, noise.values


def measure(task: TaskSpec, rounds: int) -> str:
    threads = len(os.sched_getaffinity(0))
    model, graph, outline, noise = exported(task)
    images = packaged_images(task, task.image_size)
    image = images[0].image[None]
    content = graph.SerializeToString(deterministic=True)
    floor = None if task.name != "tiny" else 35.0
    recipe, report = calibrate(
        graph, outline, images, Feeder("uint8"), QuantizationOptions(), floor
    )
    int8 = recipe.apply(graph).SerializeToString(deterministic=True)
    capable = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    hints = ("bf16", "f32") if capable else ("f32",)

    runners = {
        EAGER: eager_runner(model, task, noise, image),
        "onnxruntime float32": onnxruntime_runner(content, image, threads),
        f"{OURS}, onnxruntime": onnxruntime_runner(int8, image, threads),
        "OpenVINO float32": openvino_runner(read(content), threads, "f32", image),
    }
    if capable:
        runners["OpenVINO bf16"] = openvino_runner(read(content), threads, "bf16", image)
    theirs = nncf_model(content, [item.image[None] for item in images])
    rivals: dict[str, str] = {}
    for hint in hints:
        if theirs is not None:
            runners[f"{NNCF}, rest {hint}"] = openvino_runner(theirs, threads, hint, image)
            rivals[f"{OURS}, OpenVINO, rest {hint}"] = f"{NNCF}, rest {hint}"
        runners[f"{OURS}, OpenVINO, rest {hint}"] = openvino_runner(
            read(int8), threads, hint, image
        )
    seconds = interleaved(runners, rounds)
    rows = [
        [
            name,
            f"{statistics.median(own):.3f}",
            ratio(seconds, name, EAGER),
            ratio(seconds, name, rivals[name]) if name in rivals else "",
        ]
        for name, own in seconds.items()
    ]
    blocks = ", ".join(report.figures.kept)
    kept = f"; kept in floating point, as calibrated here: {blocks}" if blocks else ""
    weights = (
        "the packaged weights" if task.name == "tiny" else "random weights, every part in INT8"
    )
    return "\n\n".join(
        [
            f"## {task.name}, {task.image_size}x{task.image_size}, M = {task.steps}",
            f"{weights}, {threads} threads, {rounds} rounds. Files: float32 "
            f"{len(content) / 1e6:.1f} MB, INT8 {len(int8) / 1e6:.1f} MB{kept}.",
            pipes(["", "median s", "times eager", "times NNCF's"], rows),
            *profiles(int8, theirs, threads, hints, image),
        ]
    )


def profiles(
    int8: bytes, theirs: Any, threads: int, hints: Sequence[str], image: np.ndarray
) -> list[str]:
    sections = []
    for hint in hints:
        own = profiled(read(int8), threads, hint, image)
        other = {} if theirs is None else profiled(theirs, threads, hint, image)
        sections += [
            f"Where the time of an INT8 run goes on OpenVINO (rest {hint}), with its own profiler "
            "on, one after the other:",
            side_by_side(own, other),
        ]
    return sections


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("output", type=Path)
    parser.add_argument("--task", nargs="+", default=["bfr", "tiny"], choices=sorted(TASKS))
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    tables = []
    for name in arguments.task:
        tables.append(measure(TASKS[name], arguments.rounds))
        print(tables[-1], flush=True)
    head = (
        "# Precisions, measured\n\n"
        "Made by `python benchmarks/precisions.py`. Ratios above 1 are faster; they are medians of "
        f"paired runs.\n\n{environment()}"
    )
    write_text(arguments.output, "\n\n".join([head, *tables]) + "\n")


if __name__ == "__main__":
    main()
