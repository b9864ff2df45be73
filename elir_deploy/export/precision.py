"""Helpers of all reduced precisions: shapes, sessions and ranges of a float32 graph."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from elir_deploy.errors import MissingDependencyError
from elir_deploy.scopes import IMAGE_OUTPUT, in_scope

__all__ = [
    "Probe",
    "in_image_tail",
    "largest_magnitudes",
    "open_session",
    "shapes_of",
    "watch_ranges",
]


def in_image_tail(node: NodeProto) -> bool:
    """Whether a node only brings the decoded image to its format.

    Those stay float32: scaling to 0..255 in few bits would round twice.
    """
    return in_scope(node.name, IMAGE_OUTPUT)


def shapes_of(model: ModelProto) -> dict[str, list[int]]:
    """Shape of every tensor that has one in the graph, weights included."""
    graph = model.graph
    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.value_info, *graph.output)
    }
    shapes.update((tensor.name, list(tensor.dims)) for tensor in graph.initializer)
    return shapes


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


class Probe:
    """A graph that also outputs numbers about its tensors.

    They are computed in the graph, directly after the tensor: all tensors at once would not fit in
    memory.

    Args:
        model: a float32 graph with inferred types.
    """

    def __init__(self, model: ModelProto) -> None:
        self.model = model
        self._behind: dict[str, list[NodeProto]] = {}
        self._constants: list[TensorProto] = []
        self._numbers: list[str] = []

    def watch(
        self,
        node: NodeProto,
        added: Iterable[NodeProto],
        numbers: Iterable[str],
        constants: Iterable[TensorProto] = (),
    ) -> None:
        """Insert nodes after ``node``.

        Args:
            node: of the model.
            added: the nodes.
            numbers: float32 tensors without axes that they make.
            constants: what they read.
        """
        self._behind.setdefault(node.output[0], []).extend(added)
        self._numbers.extend(numbers)
        self._constants.extend(constants)

    def run(self, inputs: Sequence[Mapping[str, np.ndarray]]) -> Iterator[dict[str, float]]:
        """The numbers by name, for each of ``inputs`` (tensor name to array)."""
        probe = ModelProto()
        probe.CopyFrom(self.model)
        del probe.graph.node[:]
        for node in self.model.graph.node:
            probe.graph.node.append(node)
            probe.graph.node.extend(self._behind.get(node.output[0], []))
        probe.graph.initializer.extend(self._constants)
        del probe.graph.output[:]
        probe.graph.output.extend(
            helper.make_tensor_value_info(name, TensorProto.FLOAT, []) for name in self._numbers
        )
        session = open_session(probe, in_graph_order=True)
        for feed in inputs:
            values = session.run(None, dict(feed))
            yield {name: float(v) for name, v in zip(self._numbers, values, strict=True)}


#: Reductions that give the range of a tensor.
EXTREMES = ("ReduceMax", "ReduceMin")


def watch_ranges(probe: Probe) -> None:
    """Let ``probe`` output the extremes of every float32 tensor that a node outputs."""
    floats = _float_tensors(probe.model)
    for node in probe.model.graph.node:
        for name in floats.intersection(node.output):
            for reduction in EXTREMES:
                extreme = f"{name}.{reduction}"
                reduce = helper.make_node(reduction, [name], [extreme], keepdims=0)
                probe.watch(node, [reduce], [extreme])


def _float_tensors(model: ModelProto) -> set[str]:
    graph = model.graph
    outputs = {name for node in graph.node for name in node.output}
    return outputs & {
        value.name
        for value in (*graph.value_info, *graph.output)
        if value.type.tensor_type.elem_type == TensorProto.FLOAT
    }


def largest_magnitudes(model: ModelProto, runs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Largest magnitude of every float32 tensor, weights included.

    Args:
        model: that the probe of :func:`watch_ranges` was on.
        runs: numbers of the probe, for each input.
    """
    ranges = {
        tensor.name: float(np.abs(numpy_helper.to_array(tensor)).max(initial=0.0))
        for tensor in model.graph.initializer
        if tensor.data_type == TensorProto.FLOAT
    }
    for name in _float_tensors(model):
        extremes = [numbers[f"{name}.{which}"] for numbers in runs for which in EXTREMES]
        ranges[name] = float(np.abs(extremes).max(initial=0.0))  # not a number, if one is
    return ranges
