"""Models of a Triton repository: ``config.pbtxt`` and what it names, written from a bundle.

Where one graph is the whole model, one of Triton's own backends can run it. Everything else (noise
that is an input, split stages, pictures of any size, faces) takes Triton's python backend, which
runs :class:`~elir_deploy.runtime.Restorer` (:mod:`.triton_model`).
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from elir_deploy.errors import BundleError, UsageError
from elir_deploy.output_folders import FolderKind, output_errors, staged_folder
from elir_deploy.runtime.backends import automatic_precisions, reason_not_automatic
from elir_deploy.runtime.bundle import Bundle
from elir_deploy.runtime.manifest import Artifact, file_precision
from elir_deploy.runtime.tensors import TensorSpec
from elir_deploy.serve.pbtxt import Enum, Map, encode

__all__ = ["BACKEND_NAMES", "TritonBackend", "TritonOptions", "WrittenModel", "write_model"]

#: Triton's backends that can run a bundle, by the names that Triton has for them.
TritonBackend = Literal["onnxruntime", "openvino", "tensorrt", "python"]
BACKEND_NAMES: tuple[TritonBackend, ...] = get_args(TritonBackend)

_MODEL = FolderKind("a model", "config.pbtxt")
_VERSION = "1"
_TYPES = {"uint8": "TYPE_UINT8", "float32": "TYPE_FP32"}
_DEVICES = {"tensorrt": "KIND_GPU", "openvino": "KIND_CPU", "onnxruntime": "KIND_AUTO"}
_WARMUP = "warmup"


@dataclass(frozen=True)
class TritonOptions:
    """How a bundle becomes a model.

    Attributes:
        backend: one of :data:`BACKEND_NAMES`; None: ``python`` unless one graph is the whole model.
        precision: precision that runs; None: the backend's first automatic one.
        instances: copies of the model on each device.
        faces: for the python backend: restore faces in photographs, with this choice of
            :class:`~elir_deploy.photo.PhotoRestorer`; None: the picture as a whole.
    """

    backend: TritonBackend | None = None
    precision: str | None = None
    instances: int = 1
    faces: str | None = None


@dataclass(frozen=True)
class WrittenModel:
    """A model in the repository: its backend in Triton and its precision; None: chosen there."""

    backend: TritonBackend
    precision: str | None


def write_model(
    bundle: Bundle, repository: Path, name: str, options: TritonOptions, *, overwrite: bool
) -> WrittenModel:
    """Write the model ``name`` into ``repository``, whole or not at all.

    Raises:
        UsageError: an option is invalid, or the backend cannot run this bundle.
        BundleError: the bundle is damaged, or lacks the files of the backend.
        OutputError: there is such a model without ``overwrite``, or it cannot be written.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", name):
        raise UsageError(f"{name!r} is no name for a model: use letters, digits, '.', '-' and '_'")
    backend = _chosen_backend(bundle, options)
    if options.faces is not None and bundle.manifest.detector is None:
        raise UsageError(
            f"{bundle.path} has no face detector: export it with --detector, or leave out --faces"
        )
    destination = repository / name
    with (
        staged_folder(destination, _MODEL, overwrite=overwrite) as folder,
        output_errors(destination),
    ):
        (folder / _VERSION).mkdir()
        if backend == "python":
            precision, config = _write_python(bundle, folder, options)
        else:
            precision, config = _write_graph(bundle, folder, backend, options)
        config = {"name": name, "backend": backend, **config}
        (folder / "config.pbtxt").write_text(encode(config), "utf-8")
    return WrittenModel(backend, precision)


# The choice of a backend ----------------------------------------------------------------------


def _chosen_backend(bundle: Bundle, options: TritonOptions) -> TritonBackend:
    reason = _why_not_one_graph(bundle)
    if options.faces is not None:
        reason = reason or "faces are searched for in photographs"
    if options.backend is None:
        if reason is not None or options.precision == "bf16":
            return "python"
        kinds = {
            artifact.kind
            for artifact in bundle.manifest.artifacts
            if options.precision in (None, artifact.precision)
        }
        return "tensorrt" if "tensorrt" in kinds else "onnxruntime"
    if options.backend not in BACKEND_NAMES:
        raise UsageError(
            f"unknown backend {options.backend!r}: choose from {', '.join(BACKEND_NAMES)}"
        )
    if options.backend != "python" and reason is not None:
        raise UsageError(
            f"{bundle.path}: Triton's {options.backend} backend runs one graph alone, but "
            f"{reason}: use --backend python"
        )
    return options.backend


def _why_not_one_graph(bundle: Bundle) -> str | None:
    """Why a picture in and a picture out is more than one run of a graph; None: it is not."""
    manifest = bundle.manifest
    if len(manifest.stages) > 1:
        return f"this bundle has {len(manifest.stages)} stages"
    if len(manifest.stages[0].inputs) > 1:
        return "the noise is another input of the graph (--noise field)"
    if manifest.model.upscale > 1:
        return f"pictures are enlarged by {manifest.model.upscale} before the graph"
    if any(shape.graph_size != (shape.height, shape.width) for shape in manifest.shapes):
        return "pictures are padded to the size of the graph"
    return None


# A graph on one of Triton's own backends -------------------------------------------------------


def _write_graph(
    bundle: Bundle, folder: Path, backend: TritonBackend, options: TritonOptions
) -> tuple[str, dict[str, Any]]:
    kind = "tensorrt" if backend == "tensorrt" else "onnx"
    precision = options.precision or _first_automatic(bundle, backend, kind)
    files = [
        artifact
        for artifact in bundle.manifest.artifacts
        if artifact.kind == kind and artifact.precision == file_precision(precision)
    ]
    if not files or precision == "bf16":
        raise BundleError(f"{bundle.path} has no {precision} files for Triton's {backend} backend")
    names = _copy_artifacts(bundle, files, folder / _VERSION)
    manifest = bundle.manifest
    batch = max(shape.batch for shape in manifest.shapes)
    batched = manifest.dimensions(manifest.input.name)[0] is None
    config: dict[str, Any] = {
        "max_batch_size": batch if batched else 0,
        "input": [_tensor(manifest.input, batched=batched)],
        "output": [_tensor(manifest.output, batched=batched)],
        "default_model_filename": names[0],
        "instance_group": [{"count": options.instances, "kind": Enum(_DEVICES[backend])}],
        **_warmup(folder, manifest.input.name, _reference(bundle), batched=batched),
    }
    if len(names) > 1:
        config["cc_model_filenames"] = Map(
            (_capability(artifact), name) for artifact, name in zip(files, names, strict=True)
        )
    if batched:
        config["dynamic_batching"] = {"preferred_batch_size": [batch]}
    return precision, config


def _first_automatic(bundle: Bundle, backend: str, kind: str) -> str:
    """The precision that the runtime would choose on the backend, if there are files of it."""
    manifest = bundle.manifest
    held = {artifact.precision for artifact in manifest.artifacts if artifact.kind == kind}
    for precision in automatic_precisions(backend):
        refusal = reason_not_automatic(precision, manifest.verification.get(precision))
        if precision in held and refusal is None:
            return precision
    raise BundleError(
        f"{bundle.path} has no precision for Triton's {backend} backend that runs by default: "
        f"choose one with --precision, of {', '.join(sorted(held)) or 'none'}"
    )


def _copy_artifacts(bundle: Bundle, artifacts: list[Artifact], version: Path) -> list[str]:
    """Copy files under the names that Triton expects; returns the names."""
    names = []
    for artifact in artifacts:
        name = "model.onnx" if artifact.kind == "onnx" else f"model_{artifact.target}.plan"
        shutil.copyfile(bundle.checked_file(artifact.file), version / name)
        names.append(name)
    return names


def _capability(artifact: Artifact) -> str:
    digits = (artifact.target or "").removeprefix("sm")
    return f"{digits[:-1]}.{digits[-1]}"


def _tensor(spec: TensorSpec, *, batched: bool) -> dict[str, Any]:
    # Graphs with baked noise have one size.
    dims = list(spec.shape[1:] if batched else spec.shape)
    return {"name": spec.name, "data_type": Enum(_TYPES[spec.dtype]), "dims": dims}


def _reference(bundle: Bundle) -> NDArray[Any] | None:
    """The first reference picture as the graph takes it, without the batch; None: there is none."""
    spec = bundle.manifest.input
    for _, pixels, _ in bundle.reference_images():
        values = pixels if spec.dtype == "uint8" else np.float32(pixels) / 255
        return values if spec.layout == "NHWC" else values.transpose(2, 0, 1)
    return None


def _warmup(
    folder: Path, name: str, values: NDArray[Any] | None, *, batched: bool
) -> dict[str, Any]:
    """A request that runs before the model counts as ready, with ``values`` as its input."""
    if values is None:
        return {}
    (folder / _WARMUP).mkdir()
    (folder / _WARMUP / name).write_bytes(values.tobytes())
    tensor = {
        "data_type": Enum(_TYPES[values.dtype.name]),
        "dims": list(values.shape) if batched else [1, *values.shape],
        "input_data_file": name,
    }
    # A batch of 0 means that the tensor is the whole input.
    sample = {"name": "reference", "batch_size": int(batched), "inputs": Map({name: tensor})}
    return {"model_warmup": [sample]}


# The runtime on Triton's python backend --------------------------------------------------------


def _write_python(
    bundle: Bundle, folder: Path, options: TritonOptions
) -> tuple[str | None, dict[str, Any]]:
    manifest = bundle.manifest
    version = folder / _VERSION
    (version / "model.py").write_text(
        "from elir_deploy.serve.triton_model import TritonPythonModel\n", "utf-8"
    )
    copy = version / "bundle"
    for file in ("bundle.json", *(file.file for file in manifest.files())):
        source = bundle.path / file if file == "bundle.json" else bundle.checked_file(file)
        (copy / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, copy / file)
    picture = {"data_type": Enum("TYPE_UINT8"), "dims": [-1, -1, 3]}
    parameters = {"faces": options.faces, "precision": options.precision}
    batch = max(shape.batch for shape in manifest.shapes)
    scale = manifest.model.upscale
    # References are inputs of the network, after the enlargement.
    reference = next((p[::scale, ::scale] for _, p, _ in bundle.reference_images()), None)
    config: dict[str, Any] = {
        "max_batch_size": batch,
        "input": [{"name": manifest.input.name, **picture}],
        "output": [{"name": manifest.output.name, **picture}],
        "instance_group": [{"count": options.instances, "kind": Enum("KIND_AUTO")}],
        "parameters": Map(
            (key, {"string_value": value}) for key, value in parameters.items() if value is not None
        ),
        **_warmup(folder, manifest.input.name, reference, batched=True),
    }
    if batch > 1:
        config["dynamic_batching"] = {"preferred_batch_size": [batch]}
    return options.precision, config
