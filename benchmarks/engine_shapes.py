"""Size of TensorRT-RTX engines by the number of shapes that they are for.

    python benchmarks/engine_shapes.py docs/results/engine-shapes.md [--task bfr tiny]

No GPU is needed, and none runs the engines. float16 for sm75; weights as in ``engines.py``. An
engine has one optimisation profile for each height and width, with any batch up to the largest.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch
from engines import float16_images, plans, stage_of
from rewrites import environment

from elir_deploy.checkpoints import load_checkpoint
from elir_deploy.export.float16 import to_float16
from elir_deploy.export.graphs import fuse_stages
from elir_deploy.export.onnx import export_stages
from elir_deploy.export.pixels import Feeder
from elir_deploy.export.shapes import for_shapes, free_shapes
from elir_deploy.export.tensorrt.builder import BuildOptions, build_engine
from elir_deploy.export.tensorrt.profiles import StageEnds
from elir_deploy.fixed_shapes import fixed
from elir_deploy.model import Elir
from elir_deploy.output_files import write_text
from elir_deploy.progress import no_progress
from elir_deploy.runtime.manifest import Shape, Stage
from elir_deploy.runtime.noise import NoiseField
from elir_deploy.runtime.tensorrt_library import load_library
from elir_deploy.scopes import FUSED
from elir_deploy.static_graph import build_static_graph, latent_shape
from elir_deploy.targets import RTX
from elir_deploy.tasks import TASKS, TaskSpec
from elir_deploy.text import pipes

HEADER = ["task", "shapes", "batch", "profiles", "ONNX MB", "engine MB", "kernels", "s to build"]
#: (height, width): those of each row begin with the task's own.
OTHERS = ((384, 640), (736, 1280))
TARGET = "sm75"


def shapes_of(task: TaskSpec) -> Iterator[list[Shape]]:
    side = task.image_size
    for batch in (1, 4, 8):
        yield [Shape(batch, side, side)]
    for count in (1, 2):
        yield [Shape(1, side, side), *(Shape(1, *size) for size in OTHERS[:count])]
    yield [Shape(8, side, side), *(Shape(8, *size) for size in OTHERS)]


def rows(task: TaskSpec) -> Iterator[list[str]]:
    torch.manual_seed(0)
    trained = task.name == "tiny"
    model = load_checkpoint("tiny").model if trained else Elir(task.architecture).eval()
    noise = NoiseField(0, task.sigma_s)
    static = build_static_graph(model, image_size=task.image_size, steps=task.steps, noise=noise)
    graph = fuse_stages(export_stages(static))
    channels = latent_shape(model, task.image_size)[1]
    feeder = Feeder("uint8", noise, channels)
    images = float16_images(task, trained, feeder)
    half = to_float16(graph, plans({FUSED: graph}, images, "measured")[FUSED])
    free = free_shapes(half, batches=True)

    def stage(shape: Shape) -> Stage:
        made = {"image": (shape.batch, shape.height, shape.width, 3)}
        made["noise"] = (shape.batch, channels, shape.height // 8, shape.width // 8)
        return stage_of(FUSED, fixed(free, made))

    for shapes in shapes_of(task):
        content = for_shapes(half, shapes).SerializeToString(deterministic=True)
        built = build_engine(
            load_library(RTX), content, StageEnds([stage(s) for s in shapes]), "fp16",
            BuildOptions(TARGET),
            no_progress,
        )  # fmt: skip
        sizes = ", ".join(f"{shape.width}x{shape.height}" for shape in shapes)
        batch = shapes[0].batch
        yield [
            *(task.name, sizes, f"1 to {batch}" if batch > 1 else "1"),
            "none" if len(shapes) == batch == 1 else f"{len(shapes)}",
            *(f"{len(content) / 1e6:.1f}", f"{len(built.content) / 1e6:.1f}"),
            *(f"{built.layers}", f"{built.seconds:.0f}"),
        ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("output", type=Path)
    parser.add_argument("--task", nargs="+", default=["bfr", "bsr", "tiny"], choices=list(TASKS))
    arguments = parser.parse_args()
    found: list[list[str]] = []
    for name in arguments.task:
        for row in rows(TASKS[name]):
            found.append(row)
            print(*row, flush=True)
    parts = [
        "# Engines by number of shapes",
        "Made by `python benchmarks/engine_shapes.py docs/results/engine-shapes.md`: float16 for "
        f"{TARGET}, noise as an input; nothing ran them, no GPU was there. Random weights but for "
        "tiny. A profile is one height and width, with any batch up to the largest.",
        f"tensorrt-rtx {load_library(RTX).version}; {environment()}",
        pipes(HEADER, found),
    ]
    write_text(arguments.output, "\n\n".join(parts) + "\n")


if __name__ == "__main__":
    main()
