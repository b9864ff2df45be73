"""float16 graphs with float32 islands, and their arithmetic on a machine without float16.

A float32 graph is converted operator by operator: weights and activations become float16 but
inside islands, where casts lead in and out. Normalisation is an island because its statistics sum
over thousands of values, where float16 loses the picture; operators whose inputs or outputs come
near float16's largest number on real images are islands too, each with its reason.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from elir_deploy.errors import MissingDependencyError
from elir_deploy.export.graphs import IMAGE_END

__all__ = [
    "FLOAT16_MAX",
    "HEADROOM",
    "Float16Plan",
    "emulate_float16",
    "layer_of",
    "measure_ranges",
    "open_session",
    "plan_float16",
    "to_float16",
]

FLOAT16_MAX = 65504.0
#: A tensor within this factor of the limit stays float32: the images of a customer are not ours.
HEADROOM = 4.0
#: Operators that average over a whole feature map.
NORMALIZATIONS = frozenset(
    {
        "InstanceNormalization",
        "GroupNormalization",
        "LayerNormalization",
        "ReduceMean",
        "ReduceSum",
        "ReduceSumSquare",
        "ReduceL2",
    }
)
#: The last part of an image's way out: scaling to 0..255 in float16 would round twice.
IMAGE_TAIL = IMAGE_END.rsplit(".", 1)[0] + "."
#: Inputs that are float32 by the operator's definition, whatever the data is.
FIXED_FLOAT32_INPUTS = {"Resize": (1, 2)}


@dataclass(frozen=True)
class Float16Plan:
    """Which layers of a graph stay float32, and why.

    Attributes:
        reasons: layer name (see :func:`layer_of`) to the reason, for layers kept because of
            their range.
        normalization: whether normalisation is an island.
    """

    reasons: Mapping[str, str] = field(default_factory=dict)
    normalization: bool = True

    def keeps(self, node: NodeProto) -> bool:
        """Whether ``node`` computes in float32."""
        if node.name.startswith(IMAGE_TAIL) or layer_of(node.name) in self.reasons:
            return True
        return self.normalization and node.op_type in NORMALIZATIONS


def layer_of(node_name: str) -> str:
    """A node's name without its Euler step: what all steps share, weights included."""
    return re.sub(r"\.step\d+\.", ".", node_name)


def open_session(model: ModelProto, *, in_graph_order: bool = False) -> Any:
    """An onnxruntime CPU session on a model in memory.

    Args:
        model: below 2 GB.
        in_graph_order: run the nodes as they stand in the graph, so that a tensor read early is
            freed early.

    Raises:
        MissingDependencyError: onnxruntime is not installed.
    """
    try:
        import onnxruntime
    except ImportError:
        raise MissingDependencyError("onnxruntime", "cpu", "verify an export") from None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if in_graph_order:
        options.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def float_values(model: ModelProto) -> list[str]:
    """Names of the float32 tensors that nodes produce."""
    types = {
        value.name: value.type.tensor_type.elem_type
        for value in (*model.graph.value_info, *model.graph.output)
    }
    return [
        name
        for node in model.graph.node
        for name in node.output
        if types.get(name) == TensorProto.FLOAT
    ]


def measure_ranges(
    model: ModelProto, inputs: Sequence[Mapping[str, np.ndarray]]
) -> dict[str, float]:
    """Largest magnitude of every float32 tensor of a graph over some inputs, weights included.

    What is not a number is passed over by the reductions: the inputs must be known to give none.

    Args:
        model: a float32 graph with inferred types.
        inputs: name to array, one mapping per run.
    """
    ranges = {
        tensor.name: float(np.abs(numpy_helper.to_array(tensor)).max(initial=0.0))
        for tensor in model.graph.initializer
        if tensor.data_type == TensorProto.FLOAT
    }
    watched = float_values(model)
    probe = ModelProto()
    probe.CopyFrom(model)
    del probe.graph.node[:]
    for node in model.graph.node:
        probe.graph.node.append(node)
        for name in set(node.output).intersection(watched):
            # Extremes are taken inside the graph, at once: all tensors would not fit in memory.
            for reduction in ("ReduceMax", "ReduceMin"):
                extreme = f"{name}.{reduction}"
                probe.graph.node.append(helper.make_node(reduction, [name], [extreme], keepdims=0))
    extremes = [(name, f"{name}.ReduceMax", f"{name}.ReduceMin") for name in watched]
    del probe.graph.output[:]
    probe.graph.output.extend(
        helper.make_tensor_value_info(output, TensorProto.FLOAT, [])
        for _, *outputs in extremes
        for output in outputs
    )
    session = open_session(probe, in_graph_order=True)
    for feed in inputs:
        found = iter(session.run(None, dict(feed)))
        for name, *_ in extremes:
            peak = np.maximum(np.abs(next(found)), np.abs(next(found)))
            ranges[name] = max(ranges.get(name, 0.0), float(peak))
    return ranges


def plan_float16(
    model: ModelProto, ranges: Mapping[str, float], *, normalization: bool = True
) -> Float16Plan:
    """Keep every layer float32 that reads or writes a tensor too large for float16.

    A range that is not finite counts as too large.
    """
    limit = FLOAT16_MAX / HEADROOM
    reasons: dict[str, str] = {}
    for node in model.graph.node:
        for name in (*node.input, *node.output):
            peak = ranges.get(name, 0.0)
            if not peak <= limit:
                reasons.setdefault(layer_of(node.name), f"|{layer_of(name)}| reaches {peak:.4g}")
    return Float16Plan(reasons, normalization)


def to_float16(model: ModelProto, plan: Float16Plan) -> ModelProto:
    """The graph in float16 but for the plan's islands; its inputs and outputs keep their types.

    A weight used by several Euler steps stays one initializer: a plan keeps layers, not nodes.
    """
    half = ModelProto()
    half.CopyFrom(model)
    graph = half.graph
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


class _Conversion:
    """State of one pass over a graph in order: which type each tensor has by now."""

    def __init__(self, graph: onnx.GraphProto, plan: Float16Plan) -> None:
        self.plan = plan
        self.weights = {tensor.name: tensor for tensor in graph.initializer}
        self.converted: dict[tuple[str, int], TensorProto] = {}
        self.used: set[str] = set()
        self.types = {value.name: value.type.tensor_type.elem_type for value in graph.input}
        self.floats = {
            value.name
            for value in (*graph.input, *graph.value_info, *graph.output)
            if value.type.tensor_type.elem_type == TensorProto.FLOAT
        }
        self.casts: dict[tuple[str, int], str] = {}
        self.outputs = {value.name for value in graph.output}

    def convert(self, node: NodeProto) -> list[NodeProto]:
        """The node in its new type between the casts it needs."""
        kind = TensorProto.FLOAT if self.plan.keeps(node) else TensorProto.FLOAT16
        fixed = FIXED_FLOAT32_INPUTS.get(node.op_type, ())
        casts: list[NodeProto] = []
        new = NodeProto()
        new.CopyFrom(node)
        for i, name in enumerate(node.input):
            wanted = TensorProto.FLOAT if i in fixed else kind
            new.input[i] = self._read(name, wanted, casts)
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
            if kind == TensorProto.FLOAT16:
                array = array.astype(np.float16)
            self.converted[key] = numpy_helper.from_array(array, new_name)
        return self.converted[key].name

    def update_types(self, graph: onnx.GraphProto) -> None:
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
    return "fp16" if kind == TensorProto.FLOAT16 else "fp32"


def emulate_float16(model: ModelProto) -> ModelProto:
    """A float32 graph that computes what a float16 graph does in true half arithmetic.

    Every operator computes in float32 and its result is rounded to float16 and back, overflow to
    infinity included: what hardware with float32 accumulation gives. onnxruntime's own float16 on
    a CPU skips most roundings and hides overflows. Tensors keep their names.
    """
    emulated = ModelProto()
    emulated.CopyFrom(model)
    graph = emulated.graph
    half = {
        value.name
        for value in graph.value_info
        if value.type.tensor_type.elem_type == TensorProto.FLOAT16
    }
    for i, tensor in enumerate(graph.initializer):
        if tensor.data_type == TensorProto.FLOAT16:
            widened = numpy_helper.to_array(tensor).astype(np.float32)
            graph.initializer[i].CopyFrom(numpy_helper.from_array(widened, tensor.name))
    nodes = list(graph.node)
    del graph.node[:]
    for node in nodes:
        if node.op_type == "Cast" and node.attribute[0].i == TensorProto.FLOAT16:
            node.attribute[0].i = TensorProto.FLOAT
        rounded = [name for name in node.output if name in half]
        for i, name in enumerate(node.output):
            if name in half:
                node.output[i] = f"{name}.exact"
        graph.node.append(node)
        for name in rounded:
            exact, rounded_name = f"{name}.exact", f"{name}.half"
            graph.node.extend(
                [
                    helper.make_node("Cast", [exact], [rounded_name], to=int(TensorProto.FLOAT16)),
                    helper.make_node("Cast", [rounded_name], [name], to=int(TensorProto.FLOAT)),
                ]
            )
    for value in graph.value_info:
        if value.name in half:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    return emulated
