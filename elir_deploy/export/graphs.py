"""Steps common to all ONNX graphs: join, clean, check, stamp."""

from __future__ import annotations

from itertools import pairwise

import onnx
from onnx import ModelProto, compose, helper

from elir_deploy import __version__
from elir_deploy.errors import BundleError
from elir_deploy.runtime.onnx_check import check_onnx
from elir_deploy.scopes import FUSED, STAGE_TENSORS

__all__ = [
    "cut",
    "finish_graph",
    "fuse_stages",
    "is_default_domain",
    "serialized",
]

_DEFAULT_DOMAINS = ("", "ai.onnx")


def fuse_stages(stages: dict[str, ModelProto]) -> ModelProto:
    """The stages concatenated into one graph, image to image."""
    names = list(stages)
    fused = stages[names[0]]
    for before, after in pairwise(names):
        shared = STAGE_TENSORS[before][1]
        fused = compose.merge_models(fused, stages[after], io_map=[(shared, shared)])
    fused.graph.name = FUSED
    return finish_graph(fused)


def cut(extractor: onnx.utils.Extractor, start: str, end: str) -> ModelProto:
    """The part of a graph from one tensor to another, with those of its other inputs it reads."""
    others = [value.name for value in extractor.model.graph.input if value.name != start]
    part: ModelProto = extractor.extract_model([start, *others], [end])
    read = {name for node in part.graph.node for name in node.input}
    inputs = [value for value in part.graph.input if value.name in read]
    del part.graph.input[:]
    part.graph.input.extend(inputs)
    return part


def is_default_domain(entry: onnx.OperatorSetIdProto) -> bool:
    """Whether an import is of ONNX's standard operators."""
    return entry.domain in _DEFAULT_DOMAINS


def serialized(model: ModelProto, metadata: dict[str, str]) -> bytes:
    """The bytes of an ONNX file that carries ``metadata``; the model itself stays without.

    Raises:
        RuntimeError: the runtimes would refuse the file: ``runtime/onnx_rules.json`` does not list
            what the exporter writes.
    """
    helper.set_model_props(model, dict(sorted(metadata.items())))
    content: bytes = model.SerializeToString(deterministic=True)
    del model.metadata_props[:]
    try:
        check_onnx(content)
    except BundleError as error:
        raise RuntimeError(
            f"{model.graph.name}: the runtimes would refuse this graph: {error}"
        ) from error
    return content


def finish_graph(model: ModelProto) -> ModelProto:
    """Remove all metadata and unused entries, check the graph, and stamp it with the producer."""
    graph = model.graph
    # The exporter's metadata holds source lines with this machine's paths.
    values = (*graph.input, *graph.output, *graph.value_info)
    for item in (model, graph, *graph.node, *graph.initializer, *values):
        del item.metadata_props[:]
        item.doc_string = ""
    del model.functions[:]
    drop_unused(graph)
    opset = max(entry.version for entry in model.opset_import if is_default_domain(entry))
    del model.opset_import[:]
    model.opset_import.append(helper.make_opsetid("", opset))
    # The oldest file format the opset allows: old parsers refuse newer ones.
    model.ir_version = helper.find_min_ir_version_for(list(model.opset_import))
    model.producer_name = "elir-deploy"
    model.producer_version = __version__
    model.domain = ""
    onnx.checker.check_model(model, full_check=True)
    return model


def drop_unused(graph: onnx.GraphProto) -> None:
    used = {name for node in graph.node for name in node.input}
    used |= {value.name for value in graph.output}
    produced = {name for node in graph.node for name in node.output}
    known = [value for value in graph.value_info if value.name in produced]
    del graph.value_info[:]
    graph.value_info.extend(known)
    unused = [i for i, tensor in enumerate(graph.initializer) if tensor.name not in used]
    for i in reversed(unused):
        del graph.initializer[i]
