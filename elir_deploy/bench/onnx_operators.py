"""What single ONNX operators compute: multiply-accumulates and other operations, from shapes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from elir_deploy.errors import BundleError

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

__all__ = [
    "CONVERSIONS",
    "COPIES",
    "ELEMENTWISE",
    "NORMALIZATIONS",
    "PRODUCTS",
    "VIEWS",
    "Tensors",
    "operations",
    "resize_taps",
]

VIEWS = {"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Dropout"}
CONVERSIONS = {"Cast", "QuantizeLinear", "DequantizeLinear"}
ELEMENTWISE = CONVERSIONS | {
    *("Abs", "Add", "Ceil", "Clip", "Cos", "Div", "Elu", "Erf", "Exp", "Floor", "Gelu"),
    *("HardSigmoid", "HardSwish", "LeakyRelu", "Log", "Max", "Min", "Mish", "Mul", "Neg", "Pow"),
    *("PRelu", "Reciprocal", "Relu", "Round", "Sigmoid", "Sin", "Softplus", "Sqrt", "Sub", "Tanh"),
    *("Where",),
}
COPIES = {
    *("Concat", "DepthToSpace", "Expand", "Gather", "Pad", "Resize", "Slice", "Split", "Tile"),
    *("Transpose",),
}
#: FLOPs an element: the sum and the sum of squared differences (4), the difference and its scaling
#: (2), weight and bias (2). The statistics are one pass over the input, their use another.
NORMALIZATIONS = {"InstanceNormalization": 8, "GroupNormalization": 8, "LayerNormalization": 8}
#: Operators on windows of the input: FLOPs for each number in a window.
_POOLS = {"MaxPool", "AveragePool"}
_REDUCTIONS = {"GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "ReduceSum", "ReduceMax"} | {
    *("ReduceMin", "ReduceSumSquare", "ReduceL2"),
}
#: Source pixels that one output pixel of a two-dimensional Resize weighs.
_RESIZE_TAPS = {"nearest": 0, "linear": 4, "cubic": 16}


class Tensors:
    """Shapes and types of a graph's tensors."""

    def __init__(self, model: ModelProto) -> None:
        import onnx

        graph = model.graph
        self.outputs = {value.name for value in graph.output}
        self._shapes: dict[str, tuple[int, ...] | None] = {}
        self._types: dict[str, int] = {}
        for value in (*graph.input, *graph.value_info, *graph.output):
            dims = value.type.tensor_type.shape.dim
            fixed = all(dim.HasField("dim_value") for dim in dims)
            known = fixed and value.type.tensor_type.HasField("shape")
            self._shapes[value.name] = tuple(dim.dim_value for dim in dims) if known else None
            self._types[value.name] = value.type.tensor_type.elem_type
        for tensor in graph.initializer:
            self._shapes[tensor.name] = tuple(tensor.dims)
            self._types[tensor.name] = tensor.data_type
        self._type_name = onnx.TensorProto.DataType.Name
        self._numpy_type = onnx.helper.tensor_dtype_to_np_dtype

    def shape(self, name: str) -> tuple[int, ...]:
        """Sides of a tensor.

        Raises:
            BundleError: they are not fixed.
        """
        shape = self._shapes.get(name)
        if shape is None:
            raise BundleError(
                f"the shape of tensor {name!r} is not fixed; a cost needs a graph of one size"
            )
        return shape

    def count(self, name: str) -> int:
        """Numbers in a tensor."""
        return math.prod(self.shape(name))

    def itemsize(self, name: str) -> int:
        """Bytes of each number in a tensor."""
        size: int = self._numpy_type(self._type(name)).itemsize
        return size

    def nbytes(self, name: str) -> int:
        """Bytes of a tensor."""
        return self.count(name) * self.itemsize(name)

    def store_as(self, name: str, like: str) -> None:
        """Let one tensor be of the type of another."""
        self._types[name] = self._type(like)

    def type_name(self, name: str) -> str:
        """As ONNX calls it, such as ``FLOAT16``."""
        known: str = self._type_name(self._type(name))
        return known

    def _type(self, name: str) -> int:
        kind = self._types.get(name, 0)
        if not kind:  # ONNX's UNDEFINED
            raise BundleError(f"the type of tensor {name!r} is not known")
        return kind


def operations(node: NodeProto, tensors: Tensors) -> tuple[int, int]:
    """MACs of a node's matrix product, and its other FLOPs: 1 for each element and operator.

    Raises:
        BundleError: the operator is not known.
    """
    operator = node.op_type
    name = node.name or node.output[0]
    if node.domain not in ("", "ai.onnx"):
        raise BundleError(f"{name}: the cost of {node.domain}.{operator} is not known")
    if operator in PRODUCTS:
        return PRODUCTS[operator](node, tensors)
    made = tensors.count(node.output[0])
    if operator in ELEMENTWISE:
        return 0, made
    if operator in COPIES:
        return 0, 2 * resize_taps(node) * made
    if operator in NORMALIZATIONS:
        return 0, NORMALIZATIONS[operator] * made
    if operator in _REDUCTIONS:
        return 0, tensors.count(node.input[0])
    if operator in _POOLS:
        return 0, made * math.prod(_attributes(node)["kernel_shape"])
    raise BundleError(f"{name}: the cost of operator {operator} is not known")


def _convolution(node: NodeProto, tensors: Tensors) -> tuple[int, int]:
    """Each output sums over the window and the channels of its group; padding counts as input."""
    made = tensors.count(node.output[0])
    return made * math.prod(tensors.shape(node.input[1])[1:]), made * _has_bias(node)


def _transposed_convolution(node: NodeProto, tensors: Tensors) -> tuple[int, int]:
    """Each input goes to the window and the channels of its group; cropped outputs count."""
    spread = math.prod(tensors.shape(node.input[1])[1:])
    return tensors.count(node.input[0]) * spread, tensors.count(node.output[0]) * _has_bias(node)


def _matrix_product(node: NodeProto, tensors: Tensors) -> tuple[int, int]:
    return tensors.count(node.output[0]) * tensors.shape(node.input[0])[-1], 0


def _general_product(node: NodeProto, tensors: Tensors) -> tuple[int, int]:
    rows, columns = tensors.shape(node.input[0])
    inner = rows if _attributes(node).get("transA") else columns
    made = tensors.count(node.output[0])
    return made * inner, made * _has_bias(node)


PRODUCTS: dict[str, Callable[[NodeProto, Tensors], tuple[int, int]]] = {
    "Conv": _convolution,
    "ConvTranspose": _transposed_convolution,
    "MatMul": _matrix_product,
    "Gemm": _general_product,
}


def resize_taps(node: NodeProto) -> int:
    """Pixels that each one made weighs; 0 where they are only moved."""
    if node.op_type != "Resize":
        return 0
    return _RESIZE_TAPS[_attributes(node).get("mode", b"nearest").decode()]


def _has_bias(node: NodeProto) -> bool:
    return len(node.input) > 2 and bool(node.input[2])


def _attributes(node: NodeProto) -> dict[str, Any]:
    import onnx

    return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
