"""TensorRT-RTX engines of every task, built ahead of time: seconds, size, what they compute in.

    python benchmarks/engines.py docs/results/engines.md [--task bfr tiny] [--target sm75]

No GPU is needed, and none runs the engines. The packaged weights for ``tiny``, random ones for the
other tasks: sizes do not depend on their values, and of the layers only where float16 must be
avoided does, which is said in the table. Every engine of a fused graph in float16 or w8 is built
twice and compared byte by byte. Beside each stands what the cost model predicts of an RTX 2080 Ti
(sm75) or an RTX 3090 (sm86).
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, ValueInfoProto
from rewrites import environment

from elir_deploy.checkpoints import load_checkpoint
from elir_deploy.cost.devices import DEVICES
from elir_deploy.cost.graphs import graph_layers
from elir_deploy.cost.roofline import predict
from elir_deploy.export.block_choice import QuantizationOptions
from elir_deploy.export.calibration import packaged_images
from elir_deploy.export.equalization import equalize
from elir_deploy.export.float16 import to_float16
from elir_deploy.export.graphs import fuse_stages
from elir_deploy.export.int8 import Recipe, calibrate
from elir_deploy.export.islands import (
    Float16Plan,
    Normalization,
    extreme_images,
    gather_evidence,
    plan_float16,
    stage_feeds,
)
from elir_deploy.export.onnx import export_stages
from elir_deploy.export.pixels import Feeder
from elir_deploy.export.tensorrt.builder import BuildOptions, BuiltEngine, build_engine
from elir_deploy.export.tensorrt.profiles import StageEnds
from elir_deploy.export.w8 import WeightRecipe, choose_weights
from elir_deploy.model import Elir
from elir_deploy.output_files import write_text
from elir_deploy.progress import no_progress
from elir_deploy.runtime.manifest import Stage
from elir_deploy.runtime.tensorrt_library import load_library
from elir_deploy.runtime.tensors import TensorSpec
from elir_deploy.scopes import FUSED
from elir_deploy.static_graph import build_static_graph, fixed_noise, latent_shape
from elir_deploy.targets import RTX
from elir_deploy.tasks import TASKS, TaskSpec
from elir_deploy.text import pipes

Graphs = dict[str, ModelProto]
Images = Sequence[dict[str, NDArray[Any]]]
BYTES = Feeder("uint8")
HEADER = [
    *("task", "graphs", "precision", "ONNX MB", "engine MB", "kernels", "int8", "fp16", "fp32"),
    *("predicted ms", "s to build", "twice the same"),
]


@dataclass(frozen=True)
class Case:
    """What is built of a task: the graphs of one precision."""

    form: str
    precision: str
    words: str
    graphs: Graphs


def stage_of(name: str, model: ModelProto) -> Stage:
    def spec(value: ValueInfoProto) -> TensorSpec:
        tensor = value.type.tensor_type
        is_bytes = tensor.elem_type == TensorProto.UINT8
        batch, *sides = (dim.dim_value for dim in tensor.shape.dim)
        dtype, layout = ("uint8", "NHWC") if is_bytes else ("float32", "NCHW")
        return TensorSpec(value.name, dtype, (batch, sides[0], sides[1], sides[2]), layout)

    first, *others = map(spec, model.graph.input)
    return Stage(name, first, spec(model.graph.output[0]), (), next(iter(others), None))


def float16_images(task: TaskSpec, trained: bool, feeder: Feeder = BYTES) -> Images:
    """What an export measures float16 on; of random weights, that mean nothing, one will do."""
    side = task.image_size
    pixels = [photograph.image for photograph in packaged_images(task, side)]
    chosen = [*pixels, *extreme_images(side, side).values()] if trained else pixels[:1]
    return [feeder(image) for image in chosen]


def plans(graphs: Graphs, images: Images, normalization: Normalization) -> dict[str, Float16Plan]:
    feeds = stage_feeds(graphs, images)
    return {
        stage: plan_float16(
            graph, gather_evidence(graph, feeds[stage]), normalization=normalization
        )
        for stage, graph in graphs.items()
    }


def mixed(graphs: Graphs, recipe: Recipe | WeightRecipe, images: Images) -> Graphs:
    """Quantised, and float16 elsewhere."""
    equalized = {stage: equalize(graph, recipe.factors) for stage, graph in graphs.items()}
    chosen = plans(equalized, images, "measured")
    return {stage: to_float16(recipe.apply(graphs[stage]), chosen[stage]) for stage in graphs}


def cases(task: TaskSpec, precisions: Collection[str]) -> Iterator[Case]:
    torch.manual_seed(0)
    trained = task.name == "tiny"
    model = load_checkpoint("tiny").model if trained else Elir(task.architecture).eval()
    noise = fixed_noise(0, task.sigma_s, latent_shape(model, task.image_size))
    static = build_static_graph(model, image_size=task.image_size, steps=task.steps, noise=noise)
    split = export_stages(static)
    fused = {FUSED: fuse_stages(split)}
    images, pixels = packaged_images(task, task.image_size)[:1], float16_images(task, trained)

    def halves(graphs: Graphs, normalization: Normalization) -> Graphs:
        chosen = plans(graphs, pixels, normalization)
        return {stage: to_float16(graph, chosen[stage]) for stage, graph in graphs.items()}

    def quantized(search: Callable[..., Any]) -> Any:
        return search(fused[FUSED], static.outline, images, BYTES, QuantizationOptions(), None)[0]

    if "fp16" in precisions:
        yield Case("fused", "fp16", "fp16", halves(fused, "measured"))
        yield Case("fused", "fp16", "fp16, no float32 sums", halves(fused, "float16"))
        yield Case("split", "fp16", "fp16", halves(split, "measured"))
    for precision, search in (("int8", calibrate), ("w8", choose_weights)):
        if precision in precisions:
            recipe = quantized(search)
            yield Case("fused", precision, precision, mixed(fused, recipe, pixels))
            yield Case("split", precision, precision, mixed(split, recipe, pixels))


def build(case: Case, target: str) -> list[tuple[bytes, BuiltEngine]]:
    library = load_library(RTX)
    built = []
    for name, model in case.graphs.items():
        content = model.SerializeToString(deterministic=True)
        ends, options = StageEnds([stage_of(name, model)]), BuildOptions(target)
        engine = build_engine(library, content, ends, case.precision, options, no_progress)
        built.append((content, engine))
    return built


#: A card of each compute capability, for predictions.
CARDS = {"sm75": "rtx2080ti", "sm86": "rtx3090"}


def predicted_ms(case: Case, target: str, engines: Sequence[BuiltEngine]) -> str:
    """By the cost model; where the engine computes INT8 in float16, at that rate."""
    layers = [layer for name, graph in case.graphs.items() for layer in graph_layers(graph, name)]
    if not any((engine.convolutions or {}).get("int8") for engine in engines):
        layers = [replace(x, precision="fp16") if x.precision == "int8" else x for x in layers]
    return f"{predict(layers, DEVICES[CARDS[target]]).seconds * 1e3:.2f}"


def row(task: TaskSpec, case: Case, target: str) -> list[str]:
    built = build(case, target)
    engines = [engine for _, engine in built]
    same = ""
    if case.form == "fused" and case.words in ("fp16", "w8"):
        again = [engine.content for _, engine in build(case, target)]
        same = "yes" if again == [engine.content for engine in engines] else "NO"
    counts = [
        sum((e.convolutions or {}).get(p, 0) for e in engines) for p in ("int8", "fp16", "fp32")
    ]
    return [
        task.name,
        case.form,
        case.words,
        f"{sum(len(content) for content, _ in built) / 1e6:.1f}",
        f"{sum(len(engine.content) for engine in engines) / 1e6:.1f}",
        f"{sum(engine.layers for engine in engines)}",
        *map(str, counts),
        predicted_ms(case, target, engines),
        f"{sum(engine.seconds for engine in engines):.0f}",
        same,
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("output", type=Path)
    parser.add_argument("--task", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--target", nargs="+", default=list(CARDS), choices=list(CARDS))
    parser.add_argument("--precision", nargs="+", default=["fp16", "int8", "w8"])
    arguments = parser.parse_args()
    version = load_library(RTX).version
    parts = [
        "# Engines built ahead of time",
        "Made by `python benchmarks/engines.py docs/results/engines.md`; nothing ran them, no GPU "
        "was there. Random weights but for tiny. int8, fp16 and fp32 are numbers of kernels that "
        "convolve, by what they read, as the builder lists them. Milliseconds are predicted by the "
        "cost model, at the vendor's peaks, for "
        + " and ".join(f"a {DEVICES[card].title} ({target})" for target, card in CARDS.items())
        + "; INT8 that the engine computes in float16, at that rate. w8 is for size. "
        f"Load average at the start: {os.getloadavg()[0]:.0f} on {os.cpu_count()} cores.",
        f"tensorrt-rtx {version}; {environment()}",
    ]
    rows: dict[str, list[list[str]]] = {target: [] for target in arguments.target}
    for name in arguments.task:
        for case in cases(TASKS[name], arguments.precision):
            for target in rows:
                rows[target].append(row(TASKS[name], case, target))
                print(target, *rows[target][-1], flush=True)
        tables = [f"## {target}\n\n{pipes(HEADER, found)}" for target, found in rows.items()]
        write_text(arguments.output, "\n\n".join([*parts, *tables]) + "\n")


if __name__ == "__main__":
    main()
