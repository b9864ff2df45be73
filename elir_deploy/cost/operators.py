"""Multiply-accumulates and other operations of single ONNX operators, from shapes.

The operators are those that an export may contain (:mod:`elir_deploy.runtime.onnx_rules`).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from elir_deploy.errors import BundleError

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

__all__ = [
    *("CONVERSIONS", "COPIES", "ELEMENTWISE", "NORMALIZATIONS", "PRODUCTS", "VIEWS", "Tensors"),
    *("operations", "resize_taps"),
]

CONVERSIONS = {"Cast", "QuantizeLinear", "DequantizeLinear"}
ELEMENTWISE = CONVERSIONS | {"Add", "Clip", "Div", "Mul", "Relu", "Round", "Sigmoid", "Tanh"}
COPIES = {"Concat", "Resize", "Transpose"}
PRODUCTS = {"Conv", "ConvTranspose"}
#: They move nothing.
VIEWS = {"Reshape", "Shape"}
NORMALIZATIONS = {"InstanceNormalization", "GroupNormalization"}
#: FLOPs an element: the sum and the sum of squared differences (4), the difference and its scaling
#: (2), weight and bias (2). The statistics are one pass over the input, their use another.
_NORMALIZATION_FLOPS = 8
#: Source pixels that one output pixel of a two-dimensional Resize weighs.
_RESIZE_TAPS = {"nearest": 0, "linear": 4, "cubic": 16}


class Tensors:
    """Shapes and types of a graph's tensors."""

    def __init__(self, model: ModelProto) -> None:
        import onnx

        graph = model.graph
        self.outputs = {value.name for value in graph.output}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._types: dict[str, int] = {}
        for value in (*graph.input, *graph.value_info, *graph.output):
            tensor = value.type.tensor_type
            self._types[value.name] = tensor.elem_type
            if tensor.HasField("shape") and all(d.HasField("dim_value") for d in tensor.shape.dim):
                self._shapes[value.name] = tuple(dim.dim_value for dim in tensor.shape.dim)
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
        if name not in self._shapes:
            raise BundleError(
                f"the shape of tensor {name!r} is not fixed; a cost needs a graph of one size"
            )
        return self._shapes[name]

    def count(self, name: str) -> int:
        """Numbers in a tensor."""
        return math.prod(self.shape(name))

    def itemsize(self, name: str) -> int:
        """Bytes of each number in a tensor."""
        return int(self._numpy_type(self._types[name]).itemsize)

    def nbytes(self, name: str) -> int:
        """Bytes of a tensor."""
        return self.count(name) * self.itemsize(name)

    def store_as(self, name: str, like: str) -> None:
        """Give one tensor the type of another."""
        self._types[name] = self._types[like]

    def type_name(self, name: str) -> str:
        """ONNX's name of a tensor's type, such as ``FLOAT16``."""
        return str(self._type_name(self._types[name]))


def operations(node: NodeProto, tensors: Tensors) -> tuple[int, int]:
    """MACs of a node's matrix product, and its other FLOPs: 1 per element and operator.

    Raises:
        BundleError: the operator is unknown.
    """
    operator, count = node.op_type, tensors.count(node.output[0])
    if operator in PRODUCTS:
        # Conv: each output sums over the window and the channels of its group; padding counts as
        # input. ConvTranspose: each input goes to the window and the channels of its group; cropped
        # outputs count.
        window = math.prod(tensors.shape(node.input[1])[1:])
        biased = len(node.input) > 2 and bool(node.input[2])
        products = count if operator == "Conv" else tensors.count(node.input[0])
        return products * window, count * biased
    if operator in ELEMENTWISE:
        return 0, count
    if operator in COPIES:
        return 0, 2 * resize_taps(node) * count
    if operator in NORMALIZATIONS:
        return 0, _NORMALIZATION_FLOPS * count
    raise BundleError(f"{node.name or node.output[0]}: the cost of operator {operator} is unknown")


def resize_taps(node: NodeProto) -> int:
    """Source pixels that an output pixel weighs; 0 where pixels are only moved."""
    if node.op_type != "Resize":
        return 0
    modes = [attribute.s.decode() for attribute in node.attribute if attribute.name == "mode"]
    return _RESIZE_TAPS[modes[0] if modes else "nearest"]
