"""The manifest of a bundle, but for what is found while it is made."""

from __future__ import annotations

import importlib
import platform
from dataclasses import asdict
from typing import Any

import torch
from onnx import TensorProto, ValueInfoProto

from elir_deploy import __version__
from elir_deploy.checkpoints import Checkpoint
from elir_deploy.export.graphs import FUSED, STAGE_TENSORS
from elir_deploy.export.options import ExportOptions, Settings, file_precisions
from elir_deploy.model.elir import Elir, count_parameters
from elir_deploy.runtime.bundle import FORMAT_NAME, FORMAT_VERSION
from elir_deploy.static_graph import NOISE_GENERATOR, StaticElir
from elir_deploy.tasks import Architecture

__all__ = ["begin_manifest", "graph_metadata", "tensor_entry", "version_of"]

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


def tensor_entry(value: ValueInfoProto) -> dict[str, Any]:
    tensor = value.type.tensor_type
    is_bytes = tensor.elem_type == TensorProto.UINT8
    return {
        "name": value.name,
        "dtype": "uint8" if is_bytes else "float32",
        "shape": [dim.dim_value for dim in tensor.shape.dim],
        "layout": "NHWC" if is_bytes else "NCHW",
    }


def graph_metadata(manifest: dict[str, Any], stage: str, precision: str) -> dict[str, str]:
    model = manifest["model"]
    return {
        "elir.task": model["task"],
        "elir.stage": stage,
        "elir.precision": precision,
        "elir.steps": str(model["steps"]),
        "elir.sigma_s": repr(model["sigma_s"]),
        "elir.noise_sha256": model["noise"]["sha256"],
        "elir.source": manifest["source"]["name"],
        "elir.source_sha256": manifest["source"]["sha256"] or "random",
    }


def begin_manifest(
    checkpoint: Checkpoint, options: ExportOptions, settings: Settings, static: StaticElir
) -> dict[str, Any]:
    """All but stages, references and verification."""
    task = checkpoint.task
    size = settings.image_size
    is_bytes = options.io == "uint8"
    image = {
        "dtype": options.io,
        "layout": "NHWC" if is_bytes else "NCHW",
        "shape": [1, size, size, 3] if is_bytes else [1, 3, size, size],
        "range": [0, 255] if is_bytes else [0, 1],
        "color": "RGB",
    }
    first, last = STAGE_TENSORS[FUSED]
    return {
        "format": FORMAT_NAME,
        "format_version": FORMAT_VERSION,
        "model": {
            "task": task.name,
            "image_size": size,
            "steps": settings.steps,
            "sigma_s": settings.sigma_s,
            "upscale": task.upscale,
            "upscale_kernel": task.upscale_kernel,
            "faces": task.faces,
            "parameters": _collapsed_parameters(checkpoint.model.arch),
            "architecture": checkpoint.model.arch.to_dict(),
            "noise": {
                "seed": settings.noise.seed,
                "generator": NOISE_GENERATOR,
                "sha256": settings.noise.sha256,
            },
        },
        "source": {
            "name": checkpoint.name,
            "sha256": checkpoint.sha256,
            "random": checkpoint.random,
        },
        "input": {"name": first, **image},
        "output": {"name": last, **image},
        "resize": {
            "kernel": "bicubic",
            "a": -0.5,
            "antialias": True,
            "rounding": "Pillow: coefficients in 22-bit fixed point, rows first, then columns, "
            "each pass rounded half up to uint8",
        },
        "precisions": file_precisions(options.precisions),
        "export": {
            "opset": options.opset,
            "float16_normalization": options.float16_normalization,
            "int8_rest": options.int8_rest,
            "rewrites": asdict(options.rewrites),
        },
        "stages": [],
        "verification": {},
        "references": [],
        "versions": {
            "elir-deploy": __version__,
            "python": platform.python_version(),
            **{name: version_of(module) for name, module in _RECORDED_MODULES.items()},
        },
    }


def version_of(module: str) -> str:
    return str(importlib.import_module(module).__version__)


def _collapsed_parameters(arch: Architecture) -> int:
    """Parameters of the collapsed network, whatever form the checkpoint has."""
    with torch.device("meta"):
        return count_parameters(Elir(arch))
