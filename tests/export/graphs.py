"""Small graphs, and running one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from elir_deploy.export.precision import Probe, largest_magnitudes, open_session, watch_ranges


def run(model: ModelProto, value: np.ndarray) -> Any:
    """The first output for a value of the only input."""
    return open_session(model).run(None, {model.graph.input[0].name: value})[0]


def with_opset(model: ModelProto, opset: int) -> ModelProto:
    """The same nodes under another opset, for operators that mean the same in both."""
    changed = ModelProto()
    changed.CopyFrom(model)
    del changed.opset_import[:]
    changed.opset_import.append(helper.make_opsetid("", opset))
    changed.ir_version = helper.find_min_ir_version_for(list(changed.opset_import))
    return changed


def small_model(
    nodes: list[NodeProto],
    weights: dict[str, np.ndarray],
    shape: list[int],
    *,
    opset: int = 18,
    result: list[int] | None = None,
    between: dict[str, list[int]] | None = None,
) -> ModelProto:
    """A float32 graph from ``x`` to ``y``, with types: inferred, or given in ``between``."""
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [
            helper.make_tensor_value_info(
                "y", TensorProto.FLOAT, shape if result is None else result
            )
        ],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
        value_info=[
            helper.make_tensor_value_info(name, TensorProto.FLOAT, dims)
            for name, dims in (between or {}).items()
        ],
    )
    model = helper.make_model(graph)
    return onnx.shape_inference.infer_shapes(with_opset(model, opset), strict_mode=True)


def chain_of_products(factors: list[float]) -> ModelProto:
    """x times each factor in turn; the layers are net.layer0.mul, net.layer1.mul ..."""
    names = [f"net.step1.layer{i}.mul" for i in range(len(factors))]
    tensors = ["x", *names[:-1], "y"]
    nodes = [
        helper.make_node("Mul", [tensors[i], f"k{i}"], [tensors[i + 1]], name=name)
        for i, name in enumerate(names)
    ]
    weights = {f"k{i}": np.array([factor], np.float32) for i, factor in enumerate(factors)}
    return small_model(nodes, weights, [1, 4])


def instance_norm(channels: int, length: int, *, gain: float = 1.0) -> ModelProto:
    """x times a gain, normalised per channel, times 1 and plus 0."""
    weights = {
        "gain": np.array([gain], np.float32),
        "scale": np.ones(channels, np.float32),
        "bias": np.zeros(channels, np.float32),
    }
    nodes = [
        helper.make_node("Mul", ["x", "gain"], ["net.mul"], name="net.mul"),
        helper.make_node(
            "InstanceNormalization",
            ["net.mul", "scale", "bias"],
            ["net.norm"],
            name="net.norm",
            epsilon=1e-5,
        ),
        helper.make_node("Mul", ["net.norm", "one"], ["y"], name="net.last"),
    ]
    weights["one"] = np.array([1], np.float32)
    return small_model(nodes, weights, [1, channels, length])


def measure_ranges(
    model: ModelProto, inputs: Sequence[Mapping[str, np.ndarray]]
) -> dict[str, float]:
    """Largest magnitude of every float32 tensor of a graph over some inputs, weights included.

    What is not a number is passed over by the reductions: the inputs must be known to give none.

    Args:
        model: a float32 graph with inferred types.
        inputs: name to array, one mapping per run.
    """
    probe = Probe(model)
    watch_ranges(probe)
    return largest_magnitudes(model, list(probe.run(inputs)))
