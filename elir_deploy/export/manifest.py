"""The manifest of a bundle that is being exported."""

from __future__ import annotations

import importlib
import platform
from collections.abc import Iterable
from dataclasses import asdict

import torch
from onnx import ModelProto, TensorProto, ValueInfoProto

from elir_deploy import __version__
from elir_deploy.checkpoints import Checkpoint
from elir_deploy.export.options import ExportOptions, Settings
from elir_deploy.model.elir import Elir, count_parameters
from elir_deploy.runtime.manifest import (
    FORMAT_NAME,
    FORMAT_VERSION,
    RESIZE,
    BakedNoise,
    ExportSettings,
    Manifest,
    Model,
    Quantization,
    Reference,
    Shape,
    Source,
    StageEntry,
    TargetEntry,
    Tensor,
)
from elir_deploy.static_graph import NOISE_GENERATOR
from elir_deploy.targets import Target
from elir_deploy.tasks import Architecture

__all__ = ["graph_metadata", "make_manifest", "stage_tensors", "target_entries", "version_of"]

#: Packages whose versions decide the bytes or the verdict, by the module that knows its version:
#: onnxruntime comes from distributions of several names.
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
) -> Manifest:
    """The manifest before verification, which names every precision that ``stages`` have.

    Args:
        checkpoint, options, settings: what was exported, and how.
        graphs: float32 graphs by stage, which tell the tensors.
        stages: with their files.
        references, quantization: already written.
    """
    task = checkpoint.task
    size = settings.image_size
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
        source=_source(checkpoint),
        noise=BakedNoise(NOISE_GENERATOR, settings.noise.seed, settings.noise.sha256),
        shapes=[Shape(1, size, size)],
        tensors=stage_tensors(graphs.values(), size),
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
        targets=target_entries(options.targets),
    )


def stage_tensors(graphs: Iterable[ModelProto], image_size: int) -> dict[str, Tensor]:
    """What the graphs take and give, by name, where images are squares of ``image_size``."""
    ends = [end for graph in graphs for end in (*graph.graph.input, *graph.graph.output)]
    return {end.name: _tensor(end, image_size) for end in ends}


def _tensor(value: ValueInfoProto, image_size: int) -> Tensor:
    is_bytes = value.type.tensor_type.elem_type == TensorProto.UINT8
    _, *sides = (dim.dim_value for dim in value.type.tensor_type.shape.dim)
    height, channels = (sides[0], sides[2]) if is_bytes else (sides[1], sides[0])
    image = channels == 3 and height == image_size
    return Tensor(
        dtype="uint8" if is_bytes else "float32",
        layout="NHWC" if is_bytes else "NCHW",
        channels=channels,
        stride=image_size // height,
        range=((0, 255) if is_bytes else (0, 1)) if image else None,
    )


def target_entries(targets: Iterable[Target]) -> list[TargetEntry]:
    """What the manifest says of the devices that an export is for."""
    return [
        TargetEntry(
            name=target.name,
            kind=target.kind,
            capability=target.capability,
            engines="build on the device" if target.on_device else "built",
        )
        for target in targets
    ]


def graph_metadata(
    checkpoint: Checkpoint, settings: Settings, stage: str, precision: str
) -> dict[str, str]:
    """What an ONNX file says of its own origin."""
    return {
        "elir.task": checkpoint.task.name,
        "elir.stage": stage,
        "elir.precision": precision,
        "elir.steps": str(settings.steps),
        "elir.sigma_s": repr(settings.sigma_s),
        "elir.noise_sha256": settings.noise.sha256,
        "elir.source": checkpoint.name,
        "elir.source_sha256": checkpoint.sha256 or "random",
    }


def _source(checkpoint: Checkpoint) -> Source:
    return Source(checkpoint.name, checkpoint.sha256, checkpoint.random)


def version_of(module: str) -> str:
    """The version of an importable module."""
    return str(importlib.import_module(module).__version__)


def _collapsed_parameters(arch: Architecture) -> int:
    """Parameters of the collapsed network, whatever form the checkpoint has."""
    with torch.device("meta"):
        return count_parameters(Elir(arch))
