"""Static graph to ONNX, a stage at a time.

The fused graph is the concatenation of the four (see ``graphs``), so that both forms compute the
same numbers. Nodes carry the names of the modules they come from
(``flow.step2.vector_field.down.0.residual.block1.norm.reshape``, see ``scopes``), which is what
reports, precision lists and TensorRT's layer listings show.
"""

from __future__ import annotations

import contextlib
import logging
import re
import warnings
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

import torch

from elir_deploy.errors import ElirError, UsageError
from elir_deploy.export.graphs import finish_graph, is_default_domain
from elir_deploy.export.quantization import conv_layers
from elir_deploy.progress import ProgressCallback, no_progress
from elir_deploy.runtime.manifest import NOISE_TENSOR
from elir_deploy.runtime.onnx_rules import OPSETS
from elir_deploy.scopes import (
    STAGE_SCOPES,
    STAGE_TENSORS,
    Outline,
    boundaries,
    in_scope,
    in_step,
    node_name,
    step_scope,
)
from elir_deploy.static_graph import StaticElir

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

__all__ = ["DEFAULT_OPSET", "check_opset", "export_stage", "export_stages"]

#: TensorRT 10 parses it and 8.6 needs 17; 21 would need 10.9 for its GroupNormalization.
DEFAULT_OPSET = 18
#: The oldest that the exporter writes natively; one below that is reached from it.
EXPORTER_OPSET = 18

#: Operators that opset 18 changed, and attributes it added to Resize.
CHANGED_SINCE_17 = {"Split", "ReduceMax", "ReduceMin", "ReduceMean", "Pad", "BitwiseAnd", "Col2Im"}
RESIZE_ATTRIBUTES_SINCE_18 = {"antialias", "keep_aspect_ratio_policy"}


def export_stages(
    static: StaticElir,
    opset: int = DEFAULT_OPSET,
    progress: ProgressCallback = no_progress,
) -> dict[str, ModelProto]:
    """Each stage as a checked ONNX model, in order.

    Weights exist once in a graph whatever the number of steps is. The bytes depend on the model
    and the versions of torch and onnx only.

    Raises:
        UsageError: an opset the exporter cannot write.
        ElirError: the graphs are not what ``static.outline`` says.
    """
    models = {}
    for done, name in enumerate(static.stages):
        progress("exporting to ONNX", done, len(static.stages))
        models[name] = export_stage(static, name, opset)
    return models


def export_stage(static: StaticElir, name: str, opset: int = DEFAULT_OPSET) -> ModelProto:
    """One stage as :func:`export_stages` exports it."""
    check_opset(opset)
    examples = static.example_inputs()[name]
    first, output = STAGE_TENSORS[name]
    inputs = [first, NOISE_TENSOR][: len(examples)]
    model = _export_module(static.stages[name], examples, inputs, output, opset)
    _name_after_modules(model, name, static.outline, set(static.stages[name].state_dict()))
    static.outline.check(name, conv_layers(model))
    return finish_graph(model)


def check_opset(opset: int) -> None:
    """Raise :class:`UsageError` for an opset the exporter cannot write."""
    if opset not in OPSETS:
        raise UsageError(f"opset is {opset}, expected {OPSETS.start} to {OPSETS.stop - 1}")


def _export_module(
    module: torch.nn.Module,
    examples: tuple[torch.Tensor, ...],
    inputs: list[str],
    output: str,
    opset: int,
) -> ModelProto:
    with _quiet_exporter():
        program = torch.onnx.export(
            module,
            examples,
            dynamo=True,
            opset_version=max(opset, EXPORTER_OPSET),
            input_names=inputs,
            output_names=[output],
            verbose=False,
        )
    assert program is not None
    model: ModelProto = program.model_proto
    if opset < EXPORTER_OPSET:
        model = _lower_opset(model, opset)
    return model


def _lower_opset(model: ModelProto, opset: int) -> ModelProto:
    """The same graph under an older opset.

    Opset 18 changed operators this network does not use, and gave Resize attributes that are at
    their defaults here; onnx's own converter does not go down that step.
    """
    for node in model.graph.node:
        if node.op_type in CHANGED_SINCE_17:
            raise UsageError(f"{node.op_type} differs in opset {opset}, expected opset 18 or newer")
        if node.op_type == "Resize":
            kept = [a for a in node.attribute if a.name not in RESIZE_ATTRIBUTES_SINCE_18]
            del node.attribute[:]
            node.attribute.extend(kept)
    for entry in model.opset_import:
        if is_default_domain(entry):
            entry.version = opset
    return model


@contextlib.contextmanager
def _quiet_exporter() -> Iterator[None]:
    """The exporter logs about absent torchvision operators and warns about its own internals."""
    loggers = [logging.getLogger("torch.onnx"), logging.getLogger("onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _scopes(node: NodeProto, stage: str) -> list[str]:
    """The modules a node was traced in, outermost first, from the exporter's metadata."""
    *_, last = STAGE_SCOPES[stage]
    if node.op_type == "Identity" and not node.metadata_props:
        return [last]  # the only node of a stage whose modules do nothing
    scopes: list[str] = []
    for entry in node.metadata_props:
        if entry.key == "pkg.torch.onnx.name_scopes":  # of the whole, of modules, and an fx node
            scopes = [scope for scope in re.findall(r"'([^']*)'", entry.value)[:-1] if scope]
    if not scopes or not any(in_scope(scopes[0], scope) for scope in STAGE_SCOPES[stage]):
        origin = scopes[-1] if scopes else "no module"
        raise ElirError(
            f"a {node.op_type} of the exported {stage} comes from {origin}, expected a module of "
            f"{' or '.join(STAGE_SCOPES[stage])}: export with another version of torch"
        )
    return scopes


def _name_after_modules(
    model: ModelProto, stage: str, outline: Outline, parameters: Collection[str]
) -> None:
    """Name nodes, their outputs and the initializers after their modules.

    Args:
        model: from the exporter.
        stage: that it is of.
        outline: of the static graph.
        parameters: and buffers, which have their names already.
    """
    graph = model.graph
    renamed = {
        tensor.name: f"{stage}.{tensor.name}"
        for tensor in graph.initializer
        if tensor.name not in parameters
    }
    steps = [step_scope(step) for step in range(1, outline.steps + 1)]
    counts: dict[str, int] = {}
    ends: dict[str, str] = {}
    for node in graph.node:
        scopes = _scopes(node, stage)
        (*_, scope), step = scopes, next((scope for scope in scopes if scope in steps), None)
        name = node_name(in_step(scope, step) if step else scope, node.op_type)
        counts[name] = counts.get(name, 0) + 1
        node.name = name if counts[name] == 1 else f"{name}.{counts[name]}"
        for i, output in enumerate(node.output):
            renamed[output] = node.name if i == 0 else f"{node.name}.out{i}"
        ends.update(dict.fromkeys(scopes, node.output[0]))
    for boundary in boundaries(outline.steps).values():
        if any(in_scope(boundary.scope, scope) for scope in STAGE_SCOPES[stage]):
            if boundary.scope not in ends:
                raise ElirError(f"the exported {stage} has no node of {boundary.scope}")
            renamed[ends[boundary.scope]] = boundary.tensor
    for value in (*graph.input, *graph.output):
        renamed[value.name] = value.name
    for item in (*graph.initializer, *graph.value_info):
        item.name = renamed.get(item.name, item.name)
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
    graph.name = stage
