"""What is exported is what the runtimes take."""

from __future__ import annotations

import onnx
import pytest
from onnx import ModelProto

from elir_deploy.errors import BundleError
from elir_deploy.export.float16 import to_float16
from elir_deploy.export.graphs import serialized
from elir_deploy.export.islands import Float16Plan
from elir_deploy.export.onnx import export_stage
from elir_deploy.export.quantization import conv_layers, place, quantize_graph
from elir_deploy.export.shapes import free_shapes
from elir_deploy.model import Elir
from elir_deploy.runtime.onnx_check import check_onnx
from elir_deploy.runtime.onnx_rules import OPERATORS, OPSETS
from elir_deploy.static_graph import FixedNoise, Rewrites, StaticElir, build_static_graph
from tests.export.conftest import SIZE


def test_every_operator_that_runtimes_accept_is_exported(
    static: StaticElir, fused: ModelProto
) -> None:
    flow = export_stage(static, "flow", 21)
    placement = place(fused, conv_layers(fused))
    quantized = quantize_graph(fused, placement, dict.fromkeys(placement.groups.values(), 1.0))
    half = to_float16(quantized, Float16Plan())
    written = set()
    for graph in (fused, flow, quantized, half, free_shapes(fused)):
        check_onnx(serialized(graph, {"elir.task": "tiny"}))
        written |= {node.op_type.encode() for node in graph.graph.node}
    of_detectors = {b"MaxPool"}
    assert written | of_detectors == OPERATORS


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("fold", [True, False])
def test_runtimes_accept_every_opset(
    model: Elir, noise: FixedNoise, opset: int, fold: bool
) -> None:
    """With a stage that normalises, and as little folded as can be."""
    rewrites = Rewrites() if fold else Rewrites.none()
    static = build_static_graph(model, image_size=SIZE, steps=1, noise=noise, rewrites=rewrites)
    flow = export_stage(static, "flow", opset)
    assert flow.opset_import[0].version == opset
    check_onnx(serialized(flow, {}))


def test_a_graph_that_runtimes_refuse_is_not_written(fused: ModelProto) -> None:
    other = ModelProto()
    other.CopyFrom(fused)
    other.graph.node[5].op_type = "Gelu"
    with pytest.raises(
        RuntimeError, match=r"fused: the runtimes would refuse this graph.*operator Gelu"
    ):
        serialized(other, {})
    with pytest.raises(RuntimeError, match="metadata called 'source'"):
        serialized(fused, {"source": "here"})
    assert not fused.metadata_props


def test_weights_in_a_file_beside_are_refused(fused: ModelProto, tmp_path) -> None:
    apart = ModelProto()
    apart.CopyFrom(fused)  # saving takes the weights out of what is saved
    onnx.save(apart, tmp_path / "a.onnx", save_as_external_data=True, size_threshold=0)
    with pytest.raises(BundleError, match="external_data"):
        check_onnx((tmp_path / "a.onnx").read_bytes())
