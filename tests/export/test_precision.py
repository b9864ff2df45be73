from __future__ import annotations

import numpy as np
from onnx import ModelProto, helper

from elir_deploy.export.precision import Probe, in_image_tail, shapes_of
from tests.export.graphs import chain_of_products, measure_ranges


def test_the_image_tail_is_what_follows_the_decoder(fused: ModelProto) -> None:
    tail = [node.op_type for node in fused.graph.node if in_image_tail(node)]
    assert tail == ["Clip", "Mul", "Round", "Transpose", "Cast"]


class TestProbe:
    def test_a_probe_outputs_numbers_of_tensors(self) -> None:
        model = chain_of_products([2.0, 5.0])
        first = model.graph.node[0]
        probe = Probe(model)
        total = helper.make_node("ReduceSum", [first.output[0]], ["total"], keepdims=0)
        probe.watch(first, [total], ["total"])
        inputs = [{"x": np.full((1, 4), v, np.float32)} for v in (1.0, 3.0)]
        assert list(probe.run(inputs)) == [{"total": 8.0}, {"total": 24.0}]
        assert [output.name for output in model.graph.output] == ["y"]

    def test_shapes_of_activations_and_weights(self, fused: ModelProto) -> None:
        shapes = shapes_of(fused)
        assert shapes["image"] == [1, 64, 64, 3]
        assert shapes["encoder.layers.0.weight"] == [16, 3, 3, 3]
        assert shapes["encoded"] == [1, 16, 8, 8]


class TestRanges:
    def test_every_tensor_is_measured_over_all_inputs(self) -> None:
        model = chain_of_products([-3.0, 10.0])
        inputs = [{"x": np.full((1, 4), v, np.float32)} for v in (1.0, -2.0, 0.5)]
        ranges = measure_ranges(model, inputs)
        assert ranges == {"k0": 3.0, "k1": 10.0, "net.step1.layer0.mul": 6.0, "y": 60.0}

    def test_a_real_graph_is_covered(self, fused: ModelProto, pixels: np.ndarray) -> None:
        ranges = measure_ranges(fused, [{"image": pixels}])
        produced = {name for node in fused.graph.node for name in node.output}
        assert produced - set(ranges) == {"restored"}
        assert ranges["image_input.cast"] == 255
