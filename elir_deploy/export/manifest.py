"""Manifest of a bundle that is being exported, and the files it names."""

from __future__ import annotations

import importlib
import platform
from collections.abc import Iterable, Sequence
from dataclasses import asdict

import torch
from msgspec import structs
from onnx import ModelProto, TensorProto, ValueInfoProto

from elir_deploy import __version__
from elir_deploy.checkpoints import Checkpoint
from elir_deploy.export.bundle import BundleWriter
from elir_deploy.export.conversion import PrecisionGraphs
from elir_deploy.export.convolutions import convolution_precisions
from elir_deploy.export.graphs import serialized
from elir_deploy.export.int8 import RECIPE_NAME, Recipe
from elir_deploy.export.options import ExportOptions, Settings
from elir_deploy.export.references import Reference as ExportReference
from elir_deploy.export.shapes import for_shapes
from elir_deploy.model.elir import Elir, count_parameters
from elir_deploy.progress import ProgressCallback
from elir_deploy.runtime.manifest import (
    FORMAT_NAME,
    FORMAT_VERSION,
    RESIZE,
    Artifact,
    BakedNoise,
    Detector,
    ExportSettings,
    FieldNoise,
    Manifest,
    Model,
    Quantization,
    Reference,
    Source,
    StageEntry,
    TargetEntry,
    Tensor,
)
from elir_deploy.runtime.noise import FIELD_GENERATOR, NoiseField
from elir_deploy.scopes import FUSED, STAGE_TENSORS
from elir_deploy.static_graph import NOISE_GENERATOR, Noise
from elir_deploy.tasks import Architecture

__all__ = [
    "make_manifest",
    "stage_tensors",
    "version_of",
    "write_recipe",
    "write_references",
    "write_stages",
]

#: Packages whose versions decide the bytes or the verification, and the module that has the
#: version: onnxruntime comes from distributions of several names.
_RECORDED_MODULES = {
    "torch": "torch",
    "onnx": "onnx",
    "onnxscript": "onnxscript",
    "onnxruntime": "onnxruntime",
    "numpy": "numpy",
    "pillow": "PIL",
}


def make_manifest(
    checkpoint: Checkpoint,
    options: ExportOptions,
    settings: Settings,
    graphs: dict[str, ModelProto],
    stages: list[StageEntry],
    references: list[Reference],
    quantization: Quantization | None,
    detector: Detector | None,
) -> Manifest:
    """The manifest before verification, with every precision of ``stages``.

    Args:
        checkpoint: that is exported.
        options, settings: of the export.
        graphs: float32 graphs of the first shape by stage, for the tensors at their ends.
        stages: with their files.
        references, quantization, detector: already written.
    """
    task = checkpoint.task
    precisions = dict.fromkeys(a.precision for stage in stages for a in stage.artifacts)
    return Manifest(
        format=FORMAT_NAME,
        format_version=FORMAT_VERSION,
        model=Model(
            task=task.name,
            steps=settings.steps,
            sigma_s=settings.sigma_s,
            upscale=task.upscale,
            upscale_kernel=task.upscale_kernel,
            faces=task.faces,
            parameters=_collapsed_parameters(checkpoint.model.arch),
            architecture=checkpoint.model.arch.to_dict(),
        ),
        source=Source(checkpoint.name, checkpoint.sha256, checkpoint.random),
        noise=_noise_entry(settings.noise),
        shapes=list(settings.shapes),
        tensors=stage_tensors(graphs.values(), settings.image_size[0]),
        stages=stages,
        resize=RESIZE,
        precisions=list(precisions),
        export=ExportSettings(
            opset=options.opset,
            float16_normalization=options.float16_normalization,
            int8_fallback=options.int8_fallback,
            rewrites=asdict(options.rewrites),
        ),
        verification={},
        references=references,
        versions={
            "elir-deploy": __version__,
            "python": platform.python_version(),
            **{name: version_of(module) for name, module in _RECORDED_MODULES.items()},
        },
        quantization=quantization,
        detector=detector,
        targets=[TargetEntry(t.name, t.kind, t.capability) for t in options.targets],
    )


def _noise_entry(noise: Noise) -> BakedNoise | FieldNoise:
    if isinstance(noise, NoiseField):
        return FieldNoise(FIELD_GENERATOR, noise.seed)
    return BakedNoise(NOISE_GENERATOR, noise.seed, noise.sha256)


def stage_tensors(graphs: Iterable[ModelProto], image_height: int) -> dict[str, Tensor]:
    """Inputs and outputs of the graphs by name; their images are ``image_height`` pixels high."""
    ends = [end for graph in graphs for end in (*graph.graph.input, *graph.graph.output)]
    return {end.name: _tensor(end, image_height) for end in ends}


def _tensor(value: ValueInfoProto, image_height: int) -> Tensor:
    is_bytes = value.type.tensor_type.elem_type == TensorProto.UINT8
    _, *sides = (dim.dim_value for dim in value.type.tensor_type.shape.dim)
    height, channels = (sides[0], sides[2]) if is_bytes else (sides[1], sides[0])
    image = value.name in STAGE_TENSORS[FUSED]
    return Tensor(
        dtype="uint8" if is_bytes else "float32",
        layout="NHWC" if is_bytes else "NCHW",
        channels=channels,
        stride=image_height // height,
        range=((0, 255) if is_bytes else (0, 1)) if image else None,
    )


def write_stages(
    writer: BundleWriter,
    converted: Iterable[tuple[str, PrecisionGraphs]],
    checkpoint: Checkpoint,
    settings: Settings,
    progress: ProgressCallback,
) -> tuple[list[StageEntry], dict[str, tuple[str, ...]]]:
    """Write every graph.

    Args:
        writer: of the bundle.
        converted: precision and graphs.
        checkpoint, settings: for the graphs' metadata.
        progress: called with each precision.

    Returns:
        The entries of the stages, and the layers that each precision keeps in floating point.
    """
    artifacts: dict[str, list[Artifact]] = {}
    ends: dict[str, tuple[list[str], str]] = {}
    kept = {}
    for precision, in_precision in converted:
        progress(f"writing {precision}", 0, 0)
        kept[precision] = in_precision.kept
        for stage, graph in in_precision.graphs.items():
            metadata = _graph_metadata(checkpoint, settings, stage, precision)
            content = serialized(for_shapes(graph, settings.shapes), metadata)
            file = writer.add(f"{stage}.{precision}.onnx", content)
            entry = Artifact(
                **structs.asdict(file),
                kind="onnx",
                precision=precision,  # type: ignore[arg-type]  # one of the options' choices
                target=None,
                tool="torch",
                tool_version=version_of("torch"),
                graph_convolutions=convolution_precisions(graph),
            )
            artifacts.setdefault(stage, []).append(entry)
            ends[stage] = [end.name for end in graph.graph.input], graph.graph.output[0].name
    entries = [
        StageEntry(stage, *ends[stage], artifacts[stage])  # type: ignore[arg-type]
        for stage in artifacts
    ]
    return entries, kept


def write_references(
    writer: BundleWriter, references: Sequence[ExportReference]
) -> list[Reference]:
    """Write the pictures of every reference; returns their entries."""
    return [
        Reference(
            reference.name,
            writer.add_png(f"reference/{reference.name}.input.png", reference.image),
            writer.add_png(f"reference/{reference.name}.output.png", reference.restored),
        )
        for reference in references
    ]


def write_recipe(writer: BundleWriter, recipe: Recipe) -> Quantization:
    """Write an INT8 calibration; returns its entry."""
    return recipe.manifest_entry(writer.add(RECIPE_NAME, recipe.to_json()))


def _graph_metadata(
    checkpoint: Checkpoint, settings: Settings, stage: str, precision: str
) -> dict[str, str]:
    """Metadata of an ONNX file: its origin."""
    noise = settings.noise
    values = {} if isinstance(noise, NoiseField) else {"elir.noise_sha256": noise.sha256}
    return {
        "elir.task": checkpoint.task.name,
        "elir.stage": stage,
        "elir.precision": precision,
        "elir.steps": str(settings.steps),
        "elir.sigma_s": repr(settings.sigma_s),
        **values,
        "elir.source": checkpoint.name,
        "elir.source_sha256": checkpoint.sha256 or "random",
    }


def version_of(module: str) -> str:
    """Version of an importable module."""
    return str(importlib.import_module(module).__version__)


def _collapsed_parameters(arch: Architecture) -> int:
    """Parameters of the collapsed network, whatever form the checkpoint has."""
    with torch.device("meta"):
        return count_parameters(Elir(arch))
