"""What a graph's convolutions compute in, by the types in the graph."""

from __future__ import annotations

import onnx
import pytest

from elir_deploy.export.convolutions import convolution_precisions
from elir_deploy.runtime.bundle import Bundle
from tests.export.tensorrt.graphs import convolutions


@pytest.mark.parametrize(
    ("precision", "expected"),
    [
        ("fp32", {"int8": 0, "fp16": 0, "fp32": 3}),
        ("fp16", {"int8": 0, "fp16": 3, "fp32": 0}),
        ("int8", {"int8": 1, "fp16": 2, "fp32": 0}),
    ],
)
def test_precisions_of_convolutions(precision: str, expected: dict[str, int]) -> None:
    assert convolution_precisions(convolutions(precision)) == expected


def test_dequantised_weights_alone_are_not_int8() -> None:
    model = convolutions("int8")
    (inner,) = [node for node in model.graph.node if node.name == "inner"]
    inner.input[0] = "relu"
    assert convolution_precisions(model) == {"int8": 0, "fp16": 3, "fp32": 0}


def test_dequantised_tensors_may_be_concatenated() -> None:
    model = convolutions("int8")
    (inner,) = [node for node in model.graph.node if node.name == "inner"]
    at = list(model.graph.node).index(inner)
    source = inner.input[0]
    model.graph.node.insert(at, onnx.helper.make_node("Concat", [source] * 2, ["both"], axis=1))
    inner.input[0] = "both"
    assert convolution_precisions(model)["int8"] == 1
    concat = model.graph.node[at]
    concat.input[1] = "relu"
    assert convolution_precisions(model)["int8"] == 0


def test_the_packaged_manifest_counts_the_convolutions_of_its_graphs() -> None:
    bundle = Bundle.open("tiny")
    for artifact in bundle.manifest.artifacts:
        counts = convolution_precisions(onnx.load(bundle.path / artifact.file))
        assert artifact.graph_convolutions == counts
