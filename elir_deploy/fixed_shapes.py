"""An ONNX graph of several shapes as one of a single shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx
from onnx import ModelProto

__all__ = ["fixed"]


def fixed(model: ModelProto, sides: Mapping[str, Sequence[int]]) -> ModelProto:
    """The graph for one shape, with the shapes of all tensors.

    Args:
        model: whose inputs may have free dimensions.
        sides: input name to the shape of its array.
    """
    stated = ModelProto()
    stated.CopyFrom(model)
    for value in stated.graph.input:
        for dim, side in zip(value.type.tensor_type.shape.dim, sides[value.name], strict=True):
            dim.dim_value = side
    for value in stated.graph.output:
        value.type.tensor_type.ClearField("shape")
    del stated.graph.value_info[:]
    inferred = onnx.shape_inference.infer_shapes(
        _without_groups(stated), check_type=True, strict_mode=True, data_prop=True
    )
    stated.graph.value_info.extend(inferred.graph.value_info)
    for value, known in zip(stated.graph.output, inferred.graph.output, strict=True):
        value.CopyFrom(known)
    return stated


def _without_groups(model: ModelProto) -> ModelProto:
    """The same shapes without GroupNormalization, whose result onnx does not infer."""
    plain = ModelProto()
    plain.CopyFrom(model)
    for node in plain.graph.node:
        if node.op_type == "GroupNormalization":
            node.op_type = "Identity"
            del node.input[1:], node.attribute[:]
    return plain
