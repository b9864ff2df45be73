"""What a quantised ONNX graph is made of."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from elir_deploy.export.quantization import CHANNEL_AXIS


@dataclass(frozen=True)
class Form:
    """What a graph is made of.

    Attributes:
        nodes: operators.
        activations: quantised tensors by type; a zero-point other than 0 is told.
        biases: those of quantised convolutions by type.
        weights_mb: size of the convolutions' weights.
        copies: their number over the float graph's.
        scales: distinct scales of activations.
    """

    nodes: int
    activations: str
    biases: str
    weights_mb: float
    copies: float
    scales: int

    @classmethod
    def of(cls, model: ModelProto, exact: ModelProto) -> Form:
        stored = {tensor.name: tensor for tensor in model.graph.initializer}
        quantizers = [
            node
            for node in model.graph.node
            if node.op_type == "QuantizeLinear" and node.input[0] not in stored
        ]
        kinds = Counter(_zero_point(node, stored) for node in quantizers)
        scales = {float(numpy_helper.to_array(stored[node.input[1]])) for node in quantizers}
        return cls(
            nodes=len(model.graph.node),
            activations=", ".join(f"{count} {kind}" for kind, count in kinds.most_common()),
            biases=_bias_types(model),
            weights_mb=sum(weight.nbytes for weight in _weights(model)) / 1e6,
            copies=_elements(_weights(model)) / _elements(_weights(exact)),
            scales=len(scales),
        )


def _zero_point(node: NodeProto, stored: dict[str, TensorProto]) -> str:
    if len(node.input) < 3:
        return "uint8"
    zero = numpy_helper.to_array(stored[node.input[2]])
    return f"{zero.dtype}{' asymmetric' if zero.any() else ''}"


def convolutions(model: ModelProto) -> list[NodeProto]:
    return [node for node in model.graph.node if node.op_type in CHANNEL_AXIS]


def _origins(model: ModelProto) -> dict[str, str]:
    """What each quantised or dequantised tensor is made from."""
    origins: dict[str, str] = {}
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            origins[node.output[0]] = origins.get(node.input[0], node.input[0])
    return origins


def _weights(model: ModelProto) -> list[NDArray[Any]]:
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    origins = _origins(model)
    names = {origins.get(node.input[1], node.input[1]) for node in convolutions(model)}
    return [numpy_helper.to_array(stored[name]) for name in names]


def _elements(arrays: list[NDArray[Any]]) -> int:
    return sum(array.size for array in arrays)


def _bias_types(model: ModelProto) -> str:
    kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    origins = _origins(model)
    biases = [
        origins.get(node.input[2], node.input[2])
        for node in convolutions(model)
        if len(node.input) > 2 and node.input[1] in origins
    ]
    found = {TensorProto.DataType.Name(kinds[name]).lower() for name in biases}
    return ", ".join(sorted(found))
