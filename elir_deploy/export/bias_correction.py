"""Bias corrections that remove the mean error of rounding.

Rounding a weight shifts its convolution's output by the weight's error times the input's mean,
and clipping an activation shifts it once more. Both are constants that the bias can absorb (Nagel
et al., ICCV 2019, Section 4.2). They are computed from the float32 graph's statistics, for each
convolution by itself: the errors of earlier layers are corrected there.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, numpy_helper

from elir_deploy.export.calibration import TensorStatistics
from elir_deploy.export.quantization import (
    CHANNEL_AXIS,
    INT8_MAX,
    Placement,
    activation_scale,
    conv_layers,
    quantized_convolutions,
    rounded_weight,
)

__all__ = ["bias_corrections", "weight_bias_corrections"]


def bias_corrections(
    model: ModelProto,
    placement: Placement,
    amax: Mapping[str, float],
    statistics: Mapping[str, TensorStatistics],
) -> dict[str, NDArray[np.float32]]:
    """Corrections of the bias of every quantised convolution, (C_out,) by node name.

    Args:
        model: the float32 graph.
        placement: of the Q/DQ pairs.
        amax: scale name to the magnitude that becomes 127.
        statistics: of every tensor of ``placement.groups``.
    """
    producers = {name: node for node in model.graph.node for name in node.output}
    weights = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    rounded = {}

    def means(name: str, read: str | None) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean of each channel, exact and as the quantised graph has it."""
        if read is not None:
            scale = activation_scale(amax[placement.groups[read]])
            tensor = statistics[read]
            levels = np.rint(tensor.samples / scale).clip(-INT8_MAX, INT8_MAX)
            shift = (levels * scale - tensor.samples).mean(axis=1, dtype=np.float64)
            return tensor.mean, tensor.mean + shift
        node = producers[name]  # Concat or Resize, whose inputs are quantised in its place
        inputs = node.input if node.op_type == "Concat" else node.input[:1]
        parts = [means(part, placement.reads.get((node.name, i))) for i, part in enumerate(inputs)]
        exact, approximate = zip(*parts, strict=True)
        return np.concatenate(exact), np.concatenate(approximate)

    corrections = {}
    for node in quantized_convolutions(model, placement):
        weight = weights[node.input[1]]
        axis = CHANNEL_AXIS[node.op_type]
        if node.input[1] not in rounded:
            rounded[node.input[1]] = rounded_weight(weight, axis)
        exact, approximate = means(node.input[0], placement.reads.get((node.name, 0)))
        difference = _response(node, weight, exact) - _response(
            node, rounded[node.input[1]], approximate
        )
        corrections[node.name] = difference.astype(np.float32)
    return corrections


def weight_bias_corrections(
    model: ModelProto, layers: Collection[str], statistics: Mapping[str, TensorStatistics]
) -> dict[str, NDArray[np.float32]]:
    """The same where only the weights of ``layers`` are quantised.

    Args:
        model: the float32 graph.
        layers: keys of :func:`~.quantization.conv_layers`.
        statistics: of every tensor that these convolutions read.
    """
    weights = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    errors: dict[str, NDArray[np.float32]] = {}
    corrections = {}
    for layer, nodes in conv_layers(model).items():
        for node in nodes if layer in layers else ():
            name, axis = node.input[1], CHANNEL_AXIS[node.op_type]
            if name not in errors:
                errors[name] = weights[name] - rounded_weight(weights[name], axis)
            mean = statistics[node.input[0]].mean
            corrections[node.name] = _response(node, errors[name], mean).astype(np.float32)
    return corrections


def _response(
    node: NodeProto, weight: NDArray[np.float32], mean: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Mean output, without bias, for an input with these channel means, ignoring borders."""
    taps = weight.sum(axis=(2, 3), dtype=np.float64)
    response: NDArray[np.float64]
    if node.op_type == "Conv":
        response = taps @ mean
        return response
    # Of the taps of a transposed convolution, each output pixel meets one in stride * stride.
    strides = next(a.ints for a in node.attribute if a.name == "strides")
    response = mean @ taps / np.prod(strides)
    return response
