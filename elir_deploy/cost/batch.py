"""A bundle whose ONNX graphs take several images in one run, for measuring."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import structs

from elir_deploy.cost.graphs import graph_artifact, read_graph
from elir_deploy.errors import UnavailableError
from elir_deploy.runtime.bundle import Bundle, file_sha256
from elir_deploy.runtime.manifest import Stage
from elir_deploy.runtime.tensors import TensorSpec

if TYPE_CHECKING:
    from onnx import ModelProto

__all__ = ["with_batch"]


def with_batch(bundle: Bundle, precision: str, batch: int, folder: Path) -> Bundle:
    """The same bundle for ``batch`` images in one run, with the same noise for each.

    Its sessions take arrays of that many images; a :class:`~elir_deploy.runtime.Restorer` does not.
    Its graphs are written to ``folder``, which must exist.

    Raises:
        UnavailableError: there are no ONNX files to change.
        BundleError: a file is damaged.
        MissingDependencyError: onnx is not installed.
    """

    def widened(spec: TensorSpec) -> TensorSpec:
        return replace(spec, shape=(batch, *spec.shape[1:]))

    stages = []
    for stage in bundle.stages:
        artifact = graph_artifact(stage, precision)
        if artifact is None:
            raise UnavailableError(
                f"{bundle.path} has no {precision} ONNX graph of {stage.name}, and an engine "
                "cannot take a batch it was not built for"
            )
        model = read_graph(bundle.checked_file(artifact.file))
        _widen(model, batch)
        path = folder / artifact.file
        path.write_bytes(model.SerializeToString())
        artifact = structs.replace(artifact, sha256=file_sha256(path), bytes=path.stat().st_size)
        stages.append(Stage(stage.name, widened(stage.input), widened(stage.output), (artifact,)))
    (shape,) = bundle.manifest.shapes
    # Without references and verification: these are not the files that were verified.
    manifest = structs.replace(
        bundle.manifest,
        references=[],
        quantization=None,
        shapes=[structs.replace(shape, batch=batch)],
    )
    return Bundle(folder, manifest, tuple(stages), temporary=True)


def _widen(model: ModelProto, batch: int) -> None:
    """Set the first dimension of both ends, and let every Reshape keep its input's."""
    from onnx import numpy_helper

    graph = model.graph
    for end in (*graph.input, *graph.output):
        end.type.tensor_type.shape.dim[0].dim_value = batch
    del graph.value_info[:]  # states the old shapes
    shapes = {node.input[1] for node in graph.node if node.op_type == "Reshape"}
    for tensor in graph.initializer:
        if tensor.name in shapes:
            shape = numpy_helper.to_array(tensor).copy()
            if shape[0] == 1:
                shape[0] = 0  # "as in the input"
                tensor.CopyFrom(numpy_helper.from_array(shape, tensor.name))
