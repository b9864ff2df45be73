"""Precisions of a graph's convolutions, which its engine is compared with."""

from __future__ import annotations

from collections import Counter

from onnx import ModelProto, TensorProto, helper

__all__ = ["convolution_precisions"]

_NAMES: dict[int | None, str] = {TensorProto.FLOAT: "fp32", TensorProto.FLOAT16: "fp16"}
_MULTIPLYING = frozenset({"Conv", "ConvTranspose", "MatMul", "Gemm"})
_PASSING = frozenset({"Cast", "Concat"})


def convolution_precisions(model: ModelProto) -> dict[str, int]:
    """Number of a graph's convolutions and matrix products that read int8, fp16 and fp32.

    The graph's types count, whatever a parser makes of them. A convolution is int8 if all its
    factors were dequantised, and since then at most cast or concatenated.
    """
    types: dict[str, int] = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    dequantized = set[str]()
    counts: Counter[str] = Counter()
    for node in model.graph.node:
        passes = node.op_type in _PASSING and dequantized.issuperset(node.input)
        if passes or node.op_type == "DequantizeLinear":
            dequantized.update(node.output)
        if node.op_type == "DequantizeLinear" and node.input[1] in types:
            types[node.output[0]] = types[node.input[1]]  # its scale's
        elif node.op_type == "Cast":
            types[node.output[0]] = helper.get_node_attr_value(node, "to")
        if node.op_type in _MULTIPLYING:
            factors = node.input[:2]  # a bias may be the third
            kind = next((types[name] for name in factors[::-1] if name in types), None)
            counts["int8" if dequantized.issuperset(factors) else _NAMES.get(kind, "other")] += 1
    return {precision: counts[precision] for precision in ("int8", "fp16", "fp32")}
