"""A bundle's ONNX graphs in other cuts, for measuring: one graph a step, several images at once.

Both give an ordinary opened bundle in a folder of its own, so that every backend runs it as it
runs the original. They need ``onnx``, and exist for ONNX files only: an engine cannot be cut.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import structs

from elir_deploy.bench.graph_cost import read_graph
from elir_deploy.errors import MissingDependencyError, UnavailableError, UsageError
from elir_deploy.runtime.bundle import Bundle, file_sha256
from elir_deploy.runtime.manifest import SPLIT_STAGES, Artifact, Stage, file_precision
from elir_deploy.runtime.tensors import TensorSpec
from elir_deploy.scopes import FLOW, boundaries, step_name

if TYPE_CHECKING:
    from onnx import ModelProto, ValueInfoProto

__all__ = ["by_step", "with_batch"]


def by_step(bundle: Bundle, precision: str, folder: Path) -> Bundle:
    """A split bundle whose flow is cut into its Euler steps: ``step 1`` to ``step M``.

    Args:
        bundle: with the stages encoder, estimator, flow and decoder.
        precision: to run it in.
        folder: that the new graphs go to; must exist.

    Raises:
        UsageError: it is not split.
        UnavailableError: its graphs cannot be cut.
        BundleError: a file is damaged.
        MissingDependencyError: onnx is not installed.
    """
    names = tuple(stage.name for stage in bundle.stages)
    if names != SPLIT_STAGES:
        raise UsageError(
            f"{bundle.path} is one graph: stages are timed in a bundle that was exported with "
            "--stages split, or in a checkpoint"
        )
    stages: list[Stage] = []
    for stage in bundle.stages:
        artifact = _graph(bundle, stage, precision)
        path = bundle.checked_file(artifact.file)
        if stage.name == FLOW and bundle.manifest.model.steps > 1:
            stages += _steps(stage, artifact, read_graph(path), folder, bundle.manifest.model.steps)
        else:
            target = folder / artifact.file
            target.write_bytes(path.read_bytes())
            stages.append(replace(stage, artifacts=(artifact,)))
    return _opened(bundle, folder, stages)


def with_batch(bundle: Bundle, precision: str, batch: int, folder: Path) -> Bundle:
    """The same bundle taking ``batch`` images at once.

    The noise is the same for every image of the batch. Its sessions take and give arrays with
    that many images; a :class:`~elir_deploy.runtime.Restorer` does not.

    Args:
        bundle: of any stages.
        precision: to run it in.
        batch: images at once.
        folder: that the new graphs go to; must exist.

    Raises:
        UnavailableError: there are no ONNX files to change.
        BundleError: a file is damaged.
        MissingDependencyError: onnx is not installed.
    """

    def widened(spec: TensorSpec) -> TensorSpec:
        return replace(spec, shape=(batch, *spec.shape[1:]))

    stages = []
    for stage in bundle.stages:
        artifact = _graph(bundle, stage, precision)
        model = read_graph(bundle.checked_file(artifact.file))
        _widen(model, batch)
        stages.append(
            Stage(
                stage.name,
                widened(stage.input),
                widened(stage.output),
                (_written(model, artifact, artifact.file, folder),),
            )
        )
    (shape,) = bundle.manifest.shapes
    shapes = [structs.replace(shape, batch=batch)]
    batched = structs.replace(bundle.manifest, shapes=shapes)
    return _opened(Bundle(bundle.path, batched), folder, stages)


def _graph(bundle: Bundle, stage: Stage, precision: str) -> Artifact:
    wanted = ("onnx", file_precision(precision), None)
    for artifact in stage.artifacts:
        if (artifact.kind, artifact.precision, artifact.target) == wanted:
            return artifact
    raise UnavailableError(
        f"{bundle.path} holds no {precision} ONNX graph of {stage.name}, and engines are not cut"
    )


def _opened(bundle: Bundle, folder: Path, stages: Sequence[Stage]) -> Bundle:
    # References and verification stay behind: the files are no longer the ones verified.
    manifest = structs.replace(bundle.manifest, references=[], quantization=None)
    return Bundle(folder, manifest, tuple(stages), temporary=True)


def _written(model: ModelProto, artifact: Artifact, name: str, folder: Path) -> Artifact:
    path = folder / name
    path.write_bytes(model.SerializeToString())
    size = path.stat().st_size
    return structs.replace(artifact, file=name, sha256=file_sha256(path), bytes=size)


# Steps ----------------------------------------------------------------------------------------


def _steps(
    flow: Stage, artifact: Artifact, model: ModelProto, folder: Path, steps: int
) -> Iterator[Stage]:
    """The flow's graph cut where a step ends: the new latent, which the next step begins with."""
    extract = _extractor(model)
    made = {name for node in model.graph.node for name in node.output}
    ends = [boundaries(steps)[step_name(step)].tensor for step in range(1, steps)]
    for step, end in enumerate(ends, 1):
        if end not in made:
            raise UnavailableError(f"the flow's graph does not make {end}, the end of step {step}")
    inputs = [flow.input.name, *ends]
    outputs = [*ends, flow.output.name]
    for step, (source, sink) in enumerate(zip(inputs, outputs, strict=True), 1):
        part = extract.extract_model([source], [sink])
        _hand_over_float32(part)
        name = f"step{step}.{artifact.precision}.onnx"
        yield Stage(
            f"step {step}",
            replace(flow.input, name=part.graph.input[0].name),
            replace(flow.output, name=part.graph.output[0].name),
            (_written(part, artifact, name, folder),),
        )


def _hand_over_float32(part: ModelProto) -> None:
    """Let both ends be float32, as between stages; a latent of float16 comes back as it was."""
    from onnx import TensorProto, helper

    graph = part.graph
    for end, is_input in ((graph.input[0], True), (graph.output[0], False)):
        inner, kind = end.name, end.type.tensor_type
        if kind.elem_type == TensorProto.FLOAT:
            continue
        end.name = f"{inner}.float32"
        if is_input:
            cast = helper.make_node("Cast", [end.name], [inner], end.name, to=kind.elem_type)
            graph.node.insert(0, cast)
        else:
            cast = helper.make_node("Cast", [inner], [end.name], end.name, to=TensorProto.FLOAT)
            graph.node.append(cast)
        kind.elem_type = TensorProto.FLOAT


def _extractor(model: ModelProto) -> Any:
    from onnx import shape_inference, utils

    return utils.Extractor(shape_inference.infer_shapes(model))


# Batch ----------------------------------------------------------------------------------------


def _widen(model: ModelProto, batch: int) -> None:
    """Set the first dimension of both ends, and let every Reshape keep the one it gets."""
    graph = model.graph
    for end in (*graph.input, *graph.output):
        _first_dimension(end).dim_value = batch
    del graph.value_info[:]  # states the old shapes
    numpy_helper = _numpy_helper()
    shapes = {node.input[1] for node in graph.node if node.op_type == "Reshape"}
    for tensor in graph.initializer:
        if tensor.name in shapes:
            wanted = numpy_helper.to_array(tensor).copy()
            if wanted[0] == 1:
                wanted[0] = 0  # "as in the input"
                tensor.CopyFrom(numpy_helper.from_array(wanted, tensor.name))


def _first_dimension(end: ValueInfoProto) -> Any:
    return end.type.tensor_type.shape.dim[0]


def _numpy_helper() -> Any:
    try:
        from onnx import numpy_helper
    except ModuleNotFoundError:
        raise MissingDependencyError("onnx", "export", "measure several images at once") from None
    return numpy_helper
