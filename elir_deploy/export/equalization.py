"""Equalisation of channels: an exact rewrite that makes a graph easier to quantise.

Between convolutions joined by ReLU, residual additions and nearest upsampling only, a channel may
be divided by any positive number where it is written and multiplied by it where it is read:
these operators commute with a positive factor. Activations have one scale per tensor, which wants
channels of like magnitude; weights have one per output channel, which wants input channels of like
magnitude. Nagel et al. (Data-Free Quantization Through Weight Equalization and Bias Correction,
ICCV 2019) split the balance in half. Here the activations get all of it: theirs is the larger
error, and a sum over many input channels tolerates an uneven weight (measured in
docs/decisions.md). In this network that reaches the autoencoder's blocks; SiLU and normalisation
stand in the way elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, numpy_helper

from elir_deploy.export.calibration import TensorStatistics

__all__ = ["channel_factors", "equalize", "weight_factors", "weight_levelling_factors"]

#: Operators that commute with a positive factor per channel.
HOMOGENEOUS = frozenset({"Relu", "Add", "Resize"})
#: Limit of factors and their inverses: a channel that is weak on calibration images may be strong
#: on others.
LIMIT = 8.0
#: Channels below this share of their tensor's largest are silent and left as they are.
SILENT = 1e-3


@dataclass
class _ChannelGroup:
    """Tensors whose channels must be scaled alike, and the convolutions at their ends."""

    tensors: set[str] = field(default_factory=set)
    writers: list[NodeProto] = field(default_factory=list)
    readers: list[NodeProto] = field(default_factory=list)
    fixed: bool = False


def channel_factors(
    model: ModelProto, statistics: Mapping[str, TensorStatistics]
) -> dict[str, NDArray[np.float32]]:
    """The factor on each channel of every tensor that can be equalised, (C,).

    Args:
        model: a float32 graph.
        statistics: of every tensor that a convolution reads, at least.
    """
    factors: dict[str, NDArray[np.float32]] = {}
    for group in _channel_groups(model):
        read = {node.input[0] for node in group.readers}
        read |= {name for name in group.tensors if name in statistics}
        amax = [statistics[name].peak for name in sorted(read) if name in statistics]
        if not amax:
            continue
        levelling = _levelling(np.max(amax, axis=0))
        factors.update(dict.fromkeys(group.tensors, levelling))
    return factors


def weight_levelling_factors(model: ModelProto) -> dict[str, NDArray[np.float32]]:
    """As :func:`channel_factors`, but the weights that read a channel are brought to one magnitude.

    Where only weights are quantised, with a scale for each output channel, uneven input channels
    are what costs precision. No statistics are needed.
    """
    weights = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    factors: dict[str, NDArray[np.float32]] = {}
    for group in _channel_groups(model):
        peaks = [np.abs(weights[node.input[1]]).max(axis=(0, 2, 3)) for node in group.readers]
        factor = np.reciprocal(_levelling(np.max(peaks, axis=0)))
        factors.update(dict.fromkeys(group.tensors, factor))
    return factors


def _levelling(amax: NDArray[np.float32]) -> NDArray[np.float32]:
    """Factors that bring channels of these amax, (C,), to one magnitude."""
    active = amax > SILENT * amax.max()
    exponents = np.zeros(len(amax))
    if active.any():
        exponents[active] = -np.log2(amax[active])
        exponents[active] -= exponents[active].mean()
    limit = np.log2(LIMIT)
    factors: NDArray[np.float32] = np.exp2(exponents.clip(-limit, limit)).astype(np.float32)
    return factors


def equalize(model: ModelProto, factors: Mapping[str, NDArray[np.float32]]) -> ModelProto:
    """The graph, or a stage of it, with the factors moved into its weights and biases."""
    equalized = ModelProto()
    equalized.CopyFrom(model)
    scales = weight_factors(model, factors)
    for tensor in equalized.graph.initializer:
        if tensor.name in scales:
            scaled = numpy_helper.to_array(tensor) * scales[tensor.name]
            tensor.CopyFrom(numpy_helper.from_array(scaled.astype(np.float32), tensor.name))
    return equalized


def weight_factors(
    model: ModelProto, factors: Mapping[str, NDArray[np.float32]]
) -> dict[str, NDArray[np.float32]]:
    """What each weight and bias of the graph's convolutions is multiplied by."""
    scales: dict[str, NDArray[np.float32]] = {}
    for node in model.graph.node:
        if node.op_type != "Conv":
            continue
        weight, *bias = node.input[1:]
        read, written = factors.get(node.input[0]), factors.get(node.output[0])
        scale = np.ones((1, 1, 1, 1), np.float32)
        if read is not None:
            scale = scale / read[None, :, None, None]
        if written is not None:
            scale = scale * written[:, None, None, None]
            scales.update(dict.fromkeys(bias, written))
        if read is not None or written is not None:
            scales[weight] = scale
    return scales


def _channel_groups(model: ModelProto) -> list[_ChannelGroup]:
    """The spaces that may be scaled, in graph order."""
    graph = model.graph
    constants = {tensor.name for tensor in graph.initializer}
    group_of: dict[str, _ChannelGroup] = {}

    def group(name: str) -> _ChannelGroup:
        joined = group_of.setdefault(name, _ChannelGroup())
        joined.tensors.add(name)
        return joined

    def join(first: _ChannelGroup, second: _ChannelGroup) -> None:
        if first is second:
            return
        for name in second.tensors:
            group_of[name] = first
        first.tensors |= second.tensors
        first.writers += second.writers
        first.readers += second.readers
        first.fixed |= second.fixed

    uses: dict[str, int] = {}
    for node in graph.node:
        for name in node.input:
            uses[name] = uses.get(name, 0) + 1
    for value in (*graph.input, *graph.output):
        group(value.name).fixed = True
    for node in graph.node:
        inputs = [name for name in node.input if name]
        values = [name for name in inputs if name not in constants]
        if node.op_type == "Conv" and uses[node.input[1]] == 1:
            group(node.input[0]).readers.append(node)
            group(node.output[0]).writers.append(node)
        elif node.op_type in HOMOGENEOUS and (node.op_type == "Resize" or values == inputs):
            for name in values:
                join(group(node.output[0]), group(name))
        else:
            for name in (*values, *node.output):
                group(name).fixed = True
    distinct = {id(group): group for group in group_of.values()}
    return [s for s in distinct.values() if not s.fixed and s.readers and s.writers]
