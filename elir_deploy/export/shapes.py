"""Graphs for several shapes: the last step before a graph is written.

Everything is exported, measured and converted at fixed sizes. Only the dimensions at a graph's ends
and the Reshapes behind normalisation state a size; here they are freed. Where a graph of some
shapes is to be measured again, :func:`elir_deploy.fixed_shapes.fixed` states one shape.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import onnx
from onnx import GraphProto, ModelProto, NodeProto, ValueInfoProto, helper, numpy_helper

from elir_deploy.runtime.manifest import Shape
from elir_deploy.scopes import FUSED, STAGE_TENSORS, node_name

__all__ = ["for_shapes", "free_shapes", "largest"]


def largest(shapes: Iterable[Shape]) -> Shape:
    """The shape of most pixels; the first of several."""
    return max(shapes, key=lambda shape: shape.graph_height * shape.graph_width)


def for_shapes(model: ModelProto, shapes: Sequence[Shape]) -> ModelProto:
    """A graph for all ``shapes``, from one exported for the first of them with batch 1.

    If that is the only shape, ``model`` itself is returned.
    """
    batches, sizes = any(shape.batch > 1 for shape in shapes), len(shapes) > 1
    return free_shapes(model, batches=batches, sizes=sizes) if batches or sizes else model


def free_shapes(model: ModelProto, *, batches: bool = False, sizes: bool = True) -> ModelProto:
    """A graph for any batch, size or both, from one of a fixed size.

    The batch is then called ``batch``, height and width of the image ``height`` and ``width``;
    other dimensions that depend on these have no name. Inferred shapes are dropped.
    """
    freed = ModelProto()
    freed.CopyFrom(model)
    graph = freed.graph
    del graph.value_info[:]
    for end in (*graph.input, *graph.output):
        _free_end(end, batches=batches, sizes=sizes)
    if sizes:
        _keep_shapes(graph)
    else:
        _keep_batches(graph)
    onnx.checker.check_model(freed, full_check=True)
    return freed


def _free_end(end: ValueInfoProto, *, batches: bool, sizes: bool) -> None:
    tensor = end.type.tensor_type
    dims = tensor.shape.dim
    if batches:
        dims[0].dim_param = "batch"
    if sizes:
        named = end.name == STAGE_TENSORS[FUSED][0]
        first = 1 if tensor.elem_type == onnx.TensorProto.UINT8 else 2  # NHWC or NCHW
        for dim, name in zip(dims[first : first + 2], ("height", "width"), strict=True):
            dim.Clear()
            if named:
                dim.dim_param = name


def _keep_batches(graph: GraphProto) -> None:
    """Let every Reshape keep the batch of its input: 0 in its shape."""
    read = {node.input[1] for node in graph.node if node.op_type == "Reshape"}
    for tensor in graph.initializer:
        if tensor.name in read:
            shape = numpy_helper.to_array(tensor).copy()
            shape[0] = 0
            tensor.CopyFrom(numpy_helper.from_array(shape, tensor.name))


def _keep_shapes(graph: GraphProto) -> None:
    """Let the Reshape behind a normalisation take the shape in front of it."""
    producers: dict[str, NodeProto] = {}
    nodes = list(graph.node)
    del graph.node[:]
    for node in nodes:
        before = _undone_reshape(node, producers)
        if before is not None:
            shape = node_name(before.name.removesuffix(".reshape"), "Shape")
            graph.node.append(helper.make_node("Shape", before.input[:1], [shape], name=shape))
            node.input[1] = shape
        graph.node.append(node)
        producers.update(dict.fromkeys(node.output, node))
    used = {name for node in graph.node for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _undone_reshape(node: NodeProto, producers: Mapping[str, NodeProto]) -> NodeProto | None:
    """The Reshape that the Reshape ``node`` undoes; None: it undoes none."""
    if node.op_type != "Reshape":
        return None
    before = producers.get(node.input[0])
    while before is not None and before.op_type != "Reshape":
        if before.op_type not in ("InstanceNormalization", "Cast"):
            return None
        before = producers.get(before.input[0])
    return before
