"""Emulation of float16 and bfloat16 hardware by float32 graphs.

Every operator computes in float32 and its result is rounded: onnxruntime's float16 on a CPU skips
most roundings and hides overflows. Convolutions accumulate in float32, as matrix units do; the plan
of a float16 graph makes sure that kernels which do not cannot overflow. Sums over a whole feature
map may be in either type: TensorRT 10 uses float32 for normalisation, TensorRT 11 and others the
input's type. In float16 graphs they are therefore emulated in float16 (:class:`HalfForms`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from elir_deploy.errors import ElirError
from elir_deploy.export.precision import in_image_tail, shapes_of

__all__ = [
    "FIXED_FLOAT32_INPUTS",
    "LANES",
    "NORMALIZATIONS",
    "QUANTIZATION",
    "HalfForms",
    "NodeSequence",
    "emulate_bfloat16",
    "emulate_float16",
    "round_to_bfloat16",
]

#: Inputs that are float32 by the operator's definition, whatever the data is.
FIXED_FLOAT32_INPUTS = {"Resize": (1, 2)}
#: Partial sums that a kernel keeps side by side, as two warps of a GPU or a vector unit do.
LANES = 64
NORMALIZATIONS = frozenset({"InstanceNormalization", "GroupNormalization"})
#: Alternatives that an exporter might write, which are not modelled here.
OTHER_SUMS = frozenset(
    {"LayerNormalization", "ReduceMean", "ReduceSum", "ReduceSumSquare", "ReduceL2"}
)
#: The operators between 8-bit and floating-point numbers.
QUANTIZATION = frozenset({"QuantizeLinear", "DequantizeLinear"})
#: Operators that backends fuse with the quantisation after them.
FUSED = frozenset({"Relu", "Sigmoid", "Mul", "Add", "Reshape"})


class NodeSequence:
    """A sequence of float32 nodes with unique names.

    Args:
        prefix: of the names; unique.
    """

    def __init__(self, prefix: str) -> None:
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []
        self._prefix = prefix

    def exact(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Add a node whose result is not rounded; returns its output."""
        name = f"{self._prefix}.{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], **attributes))
        return name

    def half(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """An operation in float16."""
        return self.rounded(self.exact(operator, *inputs, **attributes), TensorProto.FLOAT16)

    def rounded(self, name: str, kind: int) -> str:
        """A round trip through a narrower type."""
        narrow = self.exact("Cast", name, to=int(kind))
        return self.exact("Cast", narrow, to=int(TensorProto.FLOAT))

    def constant(self, values: Any) -> str:
        name = f"{self._prefix}.constant{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def reshape(self, name: str, shape: Sequence[int]) -> str:
        return self.exact("Reshape", name, self.constant(np.array(shape, np.int64)))

    def name_last(self, name: str) -> str:
        """Give the output of the last node another name; nothing reads it yet."""
        self.nodes[-1].output[0] = name
        return name


class HalfForms:
    """A graph's normalisations as nodes that also sum in float16.

    The model is that of a kernel which reads its input once: it sums x and x·x, each product and
    each partial sum rounded to float16, in :data:`LANES` lanes that are then added pairwise; the
    variance is the mean of squares less the square of the mean. Sums overflow to infinity, long
    ones stall, and where the mean is large against the deviation the variance may be negative.

    Args:
        model: a graph with inferred shapes.

    Raises:
        ElirError: it sums over feature maps by an operator that is not modelled.
    """

    def __init__(self, model: ModelProto) -> None:
        self.shapes = shapes_of(model)
        for node in model.graph.node:
            if node.op_type in OTHER_SUMS:
                raise ElirError(
                    f"{node.name} is a {node.op_type}, whose float16 sums are not emulated; "
                    f"expected {' or '.join(sorted(NORMALIZATIONS))}: export with another "
                    "version of torch"
                )

    @staticmethod
    def has(node: NodeProto) -> bool:
        """Whether ``node`` sums over a feature map."""
        return node.op_type in NORMALIZATIONS

    def of(self, node: NodeProto, source: str, target: str) -> NodeSequence:
        """What computes ``node`` in float16.

        Args:
            node: of the graph.
            source: float32 tensor with float16's numbers in place of the node's first input.
            target: name of the result, likewise.
        """
        sequence = NodeSequence(f"{target}.half")
        count, length = self._matrix(node)
        rows = self.rows(node, source, sequence)
        numbers = sequence.constant(np.float32(length))
        # As float16 holds it: 1e-5 is among its smallest numbers.
        epsilon = sequence.constant(np.float32(np.float16(_attribute(node, "epsilon", 1e-5))))
        mean = sequence.half("Div", _sum(rows, count, length, sequence), numbers)
        squares = _sum(sequence.half("Mul", rows, rows), count, length, sequence)
        variance = sequence.half(
            "Sub", sequence.half("Div", squares, numbers), sequence.half("Mul", mean, mean)
        )
        deviation = sequence.half("Sqrt", sequence.half("Add", variance, epsilon))
        centred = sequence.half("Sub", rows, mean)
        normal = sequence.half("Mul", centred, sequence.half("Reciprocal", deviation))
        shape = self.shapes[node.input[0]]
        result = sequence.reshape(normal, shape)
        affine = [1, shape[1], *[1] * (len(shape) - 2)]
        for operator, name in zip(("Mul", "Add"), node.input[1:], strict=True):
            result = sequence.half(operator, result, sequence.reshape(name, affine))
        sequence.name_last(target)
        return sequence

    def rows(self, node: NodeProto, source: str, sequence: NodeSequence) -> str:
        """``source`` as a matrix whose rows are what ``node`` sums."""
        return sequence.reshape(source, self._matrix(node))

    def _matrix(self, node: NodeProto) -> tuple[int, int]:
        shape = self.shapes[node.input[0]]
        groups = shape[1]
        if node.op_type == "GroupNormalization":
            groups = _attribute(node, "num_groups", 1)
        count = shape[0] * groups
        return count, math.prod(shape) // count


def _sum(rows: str, count: int, length: int, sequence: NodeSequence) -> str:
    """Sums of the rows of a matrix, (count, 1), every partial sum in float16."""
    lanes = min(LANES, 1 << (length - 1).bit_length())
    depth = -(-length // lanes)
    if depth * lanes > length:
        padding = sequence.constant(np.array([0, 0, 0, depth * lanes - length], np.int64))
        rows = sequence.exact("Pad", rows, padding)
    turns = sequence.exact(
        "Transpose", sequence.reshape(rows, [count, depth, lanes]), perm=[1, 0, 2]
    )
    zero = sequence.constant(np.zeros((count, lanes), np.float32))
    partial = sequence.exact("Scan", zero, turns, body=_addition_body(), num_scan_inputs=1)
    while lanes > 1:
        lanes //= 2
        first, second = (
            sequence.exact("Slice", partial, *(sequence.constant([at]) for at in (start, end, 1)))
            for start, end in ((0, lanes), (lanes, 2 * lanes))
        )
        partial = sequence.half("Add", first, second)
    return partial


def _addition_body() -> GraphProto:
    """One turn of a sum in float16: what came before and the next number of each lane."""
    sequence = NodeSequence("turn")
    total = sequence.half("Add", "before", "next")
    before, following, after = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        for name in ("before", "next", total)
    )
    return helper.make_graph(sequence.nodes, "turn", [before, following], [after])


def _attribute(node: NodeProto, name: str, default: Any) -> Any:
    for attribute in node.attribute:
        if attribute.name == name:
            return helper.get_attribute_value(attribute)
    return default


def emulate_float16(model: ModelProto) -> ModelProto:
    """A float32 graph that computes what a float16 graph does in true half arithmetic.

    Overflow to infinity included. Sums over a feature map are float16 where their input is, see
    :class:`HalfForms`. Q/DQ pairs compute in float32, as they do in the graph. Tensors keep their
    names.

    Args:
        model: as :func:`elir_deploy.export.float16.to_float16` makes it.
    """
    emulated = ModelProto()
    emulated.CopyFrom(model)
    graph = emulated.graph
    forms = HalfForms(model)
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
        if forms.has(node) and node.output[0] in half:
            sequence = forms.of(node, node.input[0], node.output[0])
            graph.node.extend(sequence.nodes)
            graph.initializer.extend(sequence.constants)
        else:
            graph.node.extend(_round_outputs(node, half, TensorProto.FLOAT16))
    for value in graph.value_info:
        if value.name in half:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    return emulated


def _round_outputs(node: NodeProto, rounded: set[str], kind: int) -> Iterator[NodeProto]:
    """The node, and a round trip through a narrower type behind each output that is ``rounded``."""
    names = [name for name in node.output if name in rounded]
    for i, name in enumerate(node.output):
        if name in rounded:
            node.output[i] = f"{name}.exact"
    yield node
    for name in names:
        narrow = f"{name}.narrow"
        yield helper.make_node("Cast", [f"{name}.exact"], [narrow], to=int(kind))
        yield helper.make_node("Cast", [narrow], [name], to=int(TensorProto.FLOAT))


def round_to_bfloat16(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Finite float32 numbers rounded half to even to bfloat16's, which are float32's upper half."""
    bits = values.astype(np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000
    return rounded.astype(np.uint32).view(np.float32)


def emulate_bfloat16(model: ModelProto) -> ModelProto:
    """A float32 graph that computes what a backend does with a float32 graph in bfloat16.

    Weights are rounded, and every operator's result, but for the image's way out with what it
    reads; sums are float32. In graphs with Q/DQ pairs, int8 multiplies as it is: what is
    dequantised is not rounded, nor a quantised convolution's bias, nor what is on its way to be
    quantised. OpenVINO's bf16 hint does so. Tensors keep their names.

    Args:
        model: a float32 graph with inferred types, with Q/DQ pairs or without.
    """
    emulated = ModelProto()
    emulated.CopyFrom(model)
    graph = emulated.graph
    floats = {
        value.name
        for value in graph.value_info
        if value.type.tensor_type.elem_type == TensorProto.FLOAT
    }
    exact = _exact_in_bfloat16(graph)
    for i, tensor in enumerate(graph.initializer):
        if tensor.data_type == TensorProto.FLOAT and tensor.name not in exact:
            rounded = round_to_bfloat16(numpy_helper.to_array(tensor))
            graph.initializer[i].CopyFrom(numpy_helper.from_array(rounded, tensor.name))
    nodes = list(graph.node)
    del graph.node[:]
    for node in nodes:
        graph.node.extend(_round_outputs(node, floats - exact, TensorProto.BFLOAT16))
    return emulated


def _exact_in_bfloat16(graph: GraphProto) -> set[str]:
    """Tensors that are not rounded."""
    exact: set[str] = set()
    dequantized: set[str] = set()
    readers: dict[str, list[NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
        if in_image_tail(node):
            exact.update((*node.input, *node.output))
        if node.op_type in QUANTIZATION:
            exact.update((*node.input[1:], *node.output))
            dequantized.update(node.output)
        elif len(node.input) > 1 and node.input[1] in dequantized:
            exact.update(node.input[2:])
        exact.update(node.input[i] for i in FIXED_FLOAT32_INPUTS.get(node.op_type, ()))
    for node in reversed(graph.node):
        following = readers.get(node.output[0], [])
        if following and all(
            reader.op_type == "QuantizeLinear"
            or (reader.op_type in FUSED and reader.output[0] in exact)
            for reader in following
        ):
            exact.add(node.output[0])
    return exact
