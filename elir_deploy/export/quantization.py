"""INT8 by explicit Q/DQ, in the form that TensorRT, OpenVINO and ONNX Runtime all take.

Every choice is the strictest of the three: symmetric int8 with zero-point 0 (TensorRT reads uint8
as int8, silently), one scale per activation tensor and one per output channel of a weight, float32
biases. Where a Q/DQ pair stands decides what a backend can run in 8 bits from end to end:

* on what a convolution reads; before a nearest upsampling rather than after it, which is a quarter
  of the bytes and the same numbers;
* on each input of a concatenation that only quantised convolutions read, all with one scale, so
  that it moves bytes; else on its output, for the one convolution that reads it.

Latents between the stages, normalisation, SiLU and both inputs of residual additions stay in
floating point: quantising the skips loses more quality than quantising all convolutions, and saves
no time that could be measured (docs/decisions.md).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from elir_deploy.scopes import layer_of

__all__ = [
    "Placement",
    "activation_scale",
    "activations",
    "conv_layers",
    "place",
    "quantize_graph",
    "quantize_weight",
    "quantized_convolutions",
    "rounded_weight",
]

#: Output channels' axis in the weights of the operators that are quantised.
CHANNEL_AXIS = {"Conv": 0, "ConvTranspose": 1}
#: Largest int8 used: -128 has no counterpart, and TensorRT's symmetric range leaves it out.
INT8_MAX = 127
#: Scales below this are those of a tensor of zeros, or denormal.
SMALLEST_SCALE = 2.0**-100


@dataclass(frozen=True)
class Placement:
    """Where the activations of a graph are quantised.

    Attributes:
        groups: tensor to be quantised -> name of the scale it uses; tensors of one
            concatenation share one, and so do the same tensors of all Euler steps.
        reads: (node name, input index) that reads the quantised tensor in place of the exact one.
        layers: the quantised convolutions (see :func:`layer_of`).
    """

    groups: dict[str, str]
    reads: dict[tuple[str, int], str]
    layers: frozenset[str]


def conv_layers(model: ModelProto) -> dict[str, list[NodeProto]]:
    """The graph's convolutions by layer, in graph order; a layer has a node for each Euler step."""
    weights = {tensor.name for tensor in model.graph.initializer}
    layers: dict[str, list[NodeProto]] = {}
    for node in model.graph.node:
        if node.op_type in CHANNEL_AXIS and node.input[1] in weights:
            layers.setdefault(layer_of(node.name), []).append(node)
    return layers


def activations(model: ModelProto) -> list[str]:
    """Every tensor that some choice of layers quantises, in graph order."""
    layers = conv_layers(model)
    tensors = set(place(model, layers).groups)
    # Where only some readers of a tensor are quantised, it is quantised, not its sources.
    tensors |= {node.input[0] for nodes in layers.values() for node in nodes}
    produced = [value.name for value in model.graph.input]
    produced += [name for node in model.graph.node for name in node.output]
    return [name for name in produced if name in tensors]


def place(model: ModelProto, layers: Collection[str]) -> Placement:
    """Decide which tensors are quantised so that the convolutions ``layers`` run in int8.

    Args:
        model: a float32 graph.
        layers: keys of :func:`conv_layers`.
    """
    return _Placer(model.graph, frozenset(layers)).place()


class _Placer:
    def __init__(self, graph: GraphProto, layers: frozenset[str]) -> None:
        self.graph = graph
        self.layers = layers
        self.producers = {name: node for node in graph.node for name in node.output}
        self.consumers: dict[str, list[NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self.consumers.setdefault(name, []).append(node)
        self.reads: dict[tuple[str, int], str] = {}
        self.parents: dict[str, str] = {}

    def place(self) -> Placement:
        for node in self.graph.node:
            if self._quantized(node):
                self._quantize_input(node, 0)
        self._share_over_steps()
        groups = {name: self._root(name) for name in self.parents}
        return Placement(groups, self.reads, self.layers)

    def _share_over_steps(self) -> None:
        """Use one scale for a layer's input at every step."""
        first: dict[tuple[str, int], str] = {}
        for (node, index), name in self.reads.items():
            self._join(first.setdefault((layer_of(node), index), name), name)

    def _quantized(self, node: NodeProto) -> bool:
        return node.op_type in CHANNEL_AXIS and layer_of(node.name) in self.layers

    def _only_for_quantized(self, name: str) -> bool:
        return all(self._quantized(node) for node in self.consumers[name])

    def _quantize_input(self, node: NodeProto, index: int) -> list[str]:
        """Let ``node`` read that input quantised; returns the quantised tensors."""
        name: str = node.input[index]
        producer = self.producers.get(name)
        if producer is not None and self._only_for_quantized(name):
            if producer.op_type == "Resize" and _is_nearest(producer):
                return self._quantize_input(producer, 0)
            if producer.op_type == "Concat":
                scales = [
                    scale
                    for i in range(len(producer.input))
                    for scale in self._quantize_input(producer, i)
                ]
                for scale in scales[1:]:
                    self._join(scales[0], scale)
                return scales
        self.reads[node.name, index] = name
        self.parents.setdefault(name, name)
        return [name]

    def _root(self, name: str) -> str:
        while self.parents[name] != name:
            name = self.parents[name]
        return name

    def _join(self, first: str, second: str) -> None:
        first, second = self._root(first), self._root(second)
        if first != second:
            self.parents[second] = first


def _is_nearest(node: NodeProto) -> bool:
    modes = [a.s for a in node.attribute if a.name == "mode"]
    return modes in ([], [b"nearest"])


def quantized_convolutions(model: ModelProto, placement: Placement) -> list[NodeProto]:
    """The convolutions that run in int8, in graph order."""
    return [
        node
        for node in model.graph.node
        if node.op_type in CHANNEL_AXIS and layer_of(node.name) in placement.layers
    ]


def activation_scale(peak: float) -> float:
    """Scale of an activation whose magnitude ``peak`` becomes 127."""
    return max(peak / INT8_MAX, SMALLEST_SCALE)


def quantize_weight(
    weight: NDArray[np.float32], axis: int
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Weights as int8 with one scale per output channel: ``weight`` is about ``values * scale``.

    Args:
        weight: of a convolution.
        axis: of the output channels.
    """
    others = tuple(i for i in range(weight.ndim) if i != axis)
    peak = np.abs(weight).max(axis=others, keepdims=True)
    scale = np.maximum(peak / np.float32(INT8_MAX), np.float32(SMALLEST_SCALE))
    values = np.rint(weight / scale).clip(-INT8_MAX, INT8_MAX).astype(np.int8)
    return values, scale.reshape(-1).astype(np.float32)


def rounded_weight(weight: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    """What :func:`quantize_weight` leaves of a weight, as float32."""
    values, scale = quantize_weight(weight, axis)
    return values * scale.reshape([-1 if i == axis else 1 for i in range(weight.ndim)])


def quantize_graph(
    model: ModelProto,
    placement: Placement,
    amax: Mapping[str, float],
    corrections: Mapping[str, NDArray[np.float32]] | None = None,
) -> ModelProto:
    """The graph with Q/DQ pairs where ``placement`` says.

    A weight used by several Euler steps stays one int8 initializer.

    Args:
        model: a float32 graph with inferred types.
        placement: for this graph.
        amax: scale name (``placement.groups``) to the magnitude that becomes 127.
        corrections: node name of a quantised convolution to what its bias is corrected by,
            (C_out,); nodes that share weights and bias share the mean of theirs.
    """
    quantized = ModelProto()
    quantized.CopyFrom(model)
    graph = quantized.graph
    biases = _corrected_biases(model, placement, corrections or {})
    rewriter = _Rewriter(graph, placement, amax, biases)
    nodes = list(graph.node)
    del graph.node[:]
    graph.node.extend(rewriter.quantize_inputs())
    for node in nodes:
        graph.node.extend(rewriter.convert(node))
    rewriter.finish()
    onnx.checker.check_model(quantized, full_check=True)
    return quantized


def _corrected_biases(
    model: ModelProto, placement: Placement, corrections: Mapping[str, NDArray[np.float32]]
) -> dict[str, tuple[str, NDArray[np.float32]]]:
    """Node name to the name and values of its new bias, for nodes with a correction."""
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    sharing: dict[tuple[str, str], list[NodeProto]] = {}
    for node in quantized_convolutions(model, placement):
        if node.name in corrections:
            bias = node.input[2] if len(node.input) > 2 else ""
            sharing.setdefault((node.input[1], bias), []).append(node)
    biases = {}
    for (weight, bias), nodes in sharing.items():
        stacked = np.stack([corrections[node.name] for node in nodes])
        values: NDArray[np.float64] = stacked.mean(axis=0, dtype=np.float64)
        if bias:
            values += numpy_helper.to_array(weights[bias])
        name = f"{bias or weight.removesuffix('.weight') + '.bias'}.corrected"
        biases.update({node.name: (name, values.astype(np.float32)) for node in nodes})
    return biases


class _Rewriter:
    """State of one pass over a graph in order."""

    def __init__(
        self,
        graph: GraphProto,
        placement: Placement,
        amax: Mapping[str, float],
        biases: Mapping[str, tuple[str, NDArray[np.float32]]],
    ) -> None:
        self.graph = graph
        self.placement = placement
        self.amax = amax
        self.biases = biases
        self.weights = {tensor.name: tensor for tensor in graph.initializer}
        self.added: dict[str, TensorProto] = {}
        self.shaped = {v.name: v for v in (*graph.input, *graph.output, *graph.value_info)}

    def quantize_inputs(self) -> Iterator[NodeProto]:
        for value in self.graph.input:
            yield from self._quantize(value.name)

    def convert(self, node: NodeProto) -> Iterator[NodeProto]:
        """The node with its inputs exchanged, after the weight's and before its output's pair."""
        new = NodeProto()
        new.CopyFrom(node)
        for i in range(len(node.input)):
            name = self.placement.reads.get((node.name, i))
            if name is not None:
                new.input[i] = f"{name}.dequantized"
        if node.op_type in CHANNEL_AXIS and layer_of(node.name) in self.placement.layers:
            yield from self._quantize_weight(node, new)
            self._replace_bias(new)
        yield new
        for name in node.output:
            yield from self._quantize(name)

    def _quantize(self, name: str) -> Iterator[NodeProto]:
        """The Q/DQ pair of a tensor, where it has one."""
        group = self.placement.groups.get(name)
        if group is None:
            return
        scale, zero = f"{group}.scale", "int8.zero_point"
        self._add(scale, np.asarray(activation_scale(self.amax[group]), np.float32))
        self._add(zero, np.asarray(0, np.int8))
        q, dq = f"{name}.quantized", f"{name}.dequantized"
        yield helper.make_node("QuantizeLinear", [name, scale, zero], [q], name=q)
        yield helper.make_node("DequantizeLinear", [q, scale, zero], [dq], name=dq)
        for added, kind in ((q, TensorProto.INT8), (dq, TensorProto.FLOAT)):
            entry = self.graph.value_info.add()
            entry.CopyFrom(self.shaped[name])
            entry.name = added
            entry.type.tensor_type.elem_type = kind

    def _quantize_weight(self, node: NodeProto, new: NodeProto) -> Iterator[NodeProto]:
        name = node.input[1]
        new.input[1] = dequantized = f"{name}.dequantized"
        if f"{name}.int8" in self.added:
            return
        axis = CHANNEL_AXIS[node.op_type]
        values, scale = quantize_weight(numpy_helper.to_array(self.weights[name]), axis)
        self._add(f"{name}.int8", values)
        self._add(f"{name}.scale", scale)
        self._add(f"{name}.zero_point", np.zeros(len(scale), np.int8))
        yield helper.make_node(
            "DequantizeLinear",
            [f"{name}.int8", f"{name}.scale", f"{name}.zero_point"],
            [dequantized],
            name=dequantized,
            axis=axis,
        )

    def _replace_bias(self, new: NodeProto) -> None:
        name, values = self.biases.get(new.name, ("", None))
        if values is None:
            return
        self._add(name, values)
        if len(new.input) > 2:
            new.input[2] = name
        else:
            new.input.append(name)

    def _add(self, name: str, array: NDArray[np.generic]) -> None:
        if name not in self.added:
            self.added[name] = numpy_helper.from_array(np.ascontiguousarray(array), name)
            if array.ndim == 0:  # ascontiguousarray makes it one-dimensional
                del self.added[name].dims[:]

    def finish(self) -> None:
        used = {name for node in self.graph.node for name in node.input}
        kept = [tensor for tensor in self.graph.initializer if tensor.name in used]
        del self.graph.initializer[:]
        self.graph.initializer.extend([*kept, *self.added.values()])
