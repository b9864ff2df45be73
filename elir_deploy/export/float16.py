"""float32 graphs, with Q/DQ pairs or without, as float16 graphs with float32 islands.

A graph is converted operator by operator: weights and activations become float16 but inside the
islands of a plan, where casts lead in and out. Q/DQ pairs stay as they are between casts: backends
look through these, and onnxruntime miscomputes what has float16 scales (it multiplies two of them
to a bias's, below what float16 holds).
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from elir_deploy.export.emulation import FIXED_FLOAT32_INPUTS, QUANTIZATION
from elir_deploy.export.islands import Float16Plan

__all__ = ["to_float16"]

FLOAT16 = TensorProto.FLOAT16


def to_float16(model: ModelProto, plan: Float16Plan) -> ModelProto:
    """The graph in float16 but for the plan's islands; its inputs and outputs keep their types.

    A weight used by several Euler steps stays one initializer: a plan keeps layers, not nodes.

    Args:
        model: a float32 graph with inferred types, such as
            :func:`elir_deploy.export.quantization.quantize_graph` makes one with Q/DQ pairs.
        plan: for this graph, or for the float32 one that it was quantised from.
    """
    half = ModelProto()
    half.CopyFrom(model)
    graph = half.graph
    _give_types_to_dequantized(graph)
    conversion = _Conversion(graph, plan)
    nodes = list(graph.node)
    del graph.node[:]
    for node in nodes:
        graph.node.extend(conversion.convert(node))
    del graph.initializer[:]
    graph.initializer.extend(conversion.initializers())
    conversion.update_types(graph)
    onnx.checker.check_model(half, full_check=True)
    return half


def _give_types_to_dequantized(graph: GraphProto) -> None:
    """Weights have no entry among a graph's values, and so neither have dequantised ones."""
    typed = {value.name for value in graph.value_info}
    shapes = {tensor.name: tensor.dims for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and node.output[0] not in typed:
            shape = shapes[node.input[0]]
            graph.value_info.append(
                helper.make_tensor_value_info(node.output[0], TensorProto.FLOAT, shape)
            )


class _Conversion:
    """State of one pass over a graph in order: which type each tensor has by now."""

    def __init__(self, graph: GraphProto, plan: Float16Plan) -> None:
        self.plan = plan
        self.weights = {tensor.name: tensor for tensor in graph.initializer}
        self.converted: dict[tuple[str, int], TensorProto] = {}
        self.used: set[str] = set()
        self.types: dict[str, int] = {
            value.name: value.type.tensor_type.elem_type for value in graph.input
        }
        self.floats = {
            value.name
            for value in (*graph.input, *graph.value_info, *graph.output)
            if value.type.tensor_type.elem_type == TensorProto.FLOAT
        }
        self.casts: dict[tuple[str, int], str] = {}
        self.outputs = {value.name for value in graph.output}

    def convert(self, node: NodeProto) -> list[NodeProto]:
        """The node in its new type between the casts it needs."""
        kind = self._kind_of(node)
        fixed = FIXED_FLOAT32_INPUTS.get(node.op_type, ())
        casts: list[NodeProto] = []
        new = NodeProto()
        new.CopyFrom(node)
        for i, name in enumerate(node.input):
            new.input[i] = self._read(name, TensorProto.FLOAT if i in fixed else kind, casts)
        if node.op_type == "Cast":
            (attribute,) = new.attribute
            if attribute.i == TensorProto.FLOAT:
                attribute.i = kind
        after: list[NodeProto] = []
        for i, name in enumerate(node.output):
            if name in self.floats:
                self.types[name] = kind
                if name in self.outputs and kind == TensorProto.FLOAT16:
                    new.output[i] = f"{name}.fp16"
                    after.append(self._cast(f"{name}.fp16", name, TensorProto.FLOAT))
                    self.types[name] = TensorProto.FLOAT
                    self.casts[name, TensorProto.FLOAT16] = f"{name}.fp16"
        return [*casts, new, *after]

    def _kind_of(self, node: NodeProto) -> int:
        """The floating-point type that ``node`` computes in."""
        keeps = node.op_type in QUANTIZATION or self.plan.keeps(node)
        return TensorProto.FLOAT if keeps else FLOAT16

    @staticmethod
    def _cast(source: str, target: str, kind: int) -> NodeProto:
        return helper.make_node("Cast", [source], [target], name=target, to=int(kind))

    def _read(self, name: str, kind: int, casts: list[NodeProto]) -> str:
        """The name under which ``name`` is read as ``kind``; appends a cast where one is due."""
        if name in self.weights:
            return self._weight(name, kind)
        if name not in self.floats or self.types[name] == kind:
            return name
        key = (name, kind)
        if key not in self.casts:
            self.casts[key] = f"{name}.to_{_suffix(kind)}"
            casts.append(self._cast(name, self.casts[key], kind))
        return self.casts[key]

    def _weight(self, name: str, kind: int) -> str:
        tensor = self.weights[name]
        if tensor.data_type != TensorProto.FLOAT:
            kind = tensor.data_type
        key = (name, kind)
        if key not in self.converted:
            # Under its own name in the first type it is read as; a constant read as both is rare.
            new_name = f"{name}.{_suffix(kind)}" if name in self.used else name
            self.used.add(name)
            array = numpy_helper.to_array(tensor)
            if kind == FLOAT16:
                array = array.astype(np.float16)
            self.converted[key] = numpy_helper.from_array(array, new_name)
        return self.converted[key].name

    def update_types(self, graph: GraphProto) -> None:
        """Every tensor's new type, casts included; shapes have not changed."""
        shaped = {v.name: v for v in (*graph.input, *graph.output, *graph.value_info)}
        for value in graph.value_info:
            if value.name in self.floats:
                value.type.tensor_type.elem_type = self.types[value.name]
        for (name, kind), cast in self.casts.items():
            added = graph.value_info.add()
            added.CopyFrom(shaped[name])
            added.name = cast
            added.type.tensor_type.elem_type = kind

    def initializers(self) -> list[TensorProto]:
        """What nodes read, in the order of first use."""
        return list(self.converted.values())


def _suffix(kind: int) -> str:
    return "fp16" if kind == FLOAT16 else "fp32"
