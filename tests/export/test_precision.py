from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from elir_deploy.export.precision import (
    FLOAT16_MAX,
    HEADROOM,
    Float16Plan,
    emulate_float16,
    layer_of,
    measure_ranges,
    open_session,
    plan_float16,
    to_float16,
)


def run(model: ModelProto, value: np.ndarray) -> np.ndarray:
    return open_session(model).run(None, {model.graph.input[0].name: value})[0]


def chain_of_products(factors: list[float]) -> ModelProto:
    """x times each factor in turn: layer0.step1.mul, layer1.step1.mul ..."""
    nodes, weights = [], []
    previous = "x"
    for i, factor in enumerate(factors):
        last = i == len(factors) - 1
        output = "y" if last else f"net.step1.layer{i}.mul"
        nodes.append(
            helper.make_node("Mul", [previous, f"k{i}"], [output], name=f"net.step1.layer{i}.mul")
        )
        weights.append(numpy_helper.from_array(np.array([factor], np.float32), f"k{i}"))
        previous = output
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    return onnx.shape_inference.infer_shapes(model)


def stored_types(model: ModelProto) -> dict[str, int]:
    return {tensor.name: tensor.data_type for tensor in model.graph.initializer}


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
        assert ranges["encoder.0.cast"] == 255


class TestPlan:
    def test_a_layer_that_would_overflow_is_kept_and_listed(self) -> None:
        model = chain_of_products([1000.0, 1000.0, 1e-6])
        ranges = measure_ranges(model, [{"x": np.full((1, 4), 1.5, np.float32)}])
        plan = plan_float16(model, ranges)
        assert plan.reasons == {
            "net.layer1.mul": "|net.layer1.mul| reaches 1.5e+06",
            "net.layer2.mul": "|net.layer1.mul| reaches 1.5e+06",
        }

    def test_headroom_for_images_never_seen(self) -> None:
        model = chain_of_products([1.0, 1.0])
        for peak, kept in ((FLOAT16_MAX / HEADROOM * 1.01, True), (15000.0, False)):
            ranges = measure_ranges(model, [{"x": np.full((1, 4), peak, np.float32)}])
            assert bool(plan_float16(model, ranges).reasons) is kept

    def test_a_range_that_is_not_finite_is_kept(self) -> None:
        model = chain_of_products([1.0])
        assert plan_float16(model, {"y": float("nan")}).reasons
        assert plan_float16(model, {"y": float("inf")}).reasons

    def test_layers_are_the_same_in_every_step(self) -> None:
        assert layer_of("flow.step3.vector_field.down.0.add") == "flow.vector_field.down.0.add"
        assert layer_of("encoder.1.layers.0.conv") == "encoder.1.layers.0.conv"


class TestConversion:
    def test_overflow_shows_in_emulation_and_the_plan_prevents_it(self) -> None:
        model = chain_of_products([1000.0, 0.001])
        x = np.full((1, 4), 100.0, np.float32)
        naive = to_float16(model, Float16Plan())
        assert np.isinf(run(emulate_float16(naive), x)).all()
        safe = to_float16(model, plan_float16(model, measure_ranges(model, [{"x": x}])))
        np.testing.assert_allclose(run(emulate_float16(safe), x), 100.0, rtol=1e-3)

    def test_emulation_rounds_after_every_operator(self) -> None:
        factors = [1.001, 3.0, 0.37]
        model = to_float16(chain_of_products(factors), Float16Plan())
        x = np.array([[0.1, 1.2345, -7.77, 1e-5]], np.float32)
        expected = x.astype(np.float16)
        for factor in factors:
            expected = expected * np.float16(factor)
        np.testing.assert_array_equal(run(emulate_float16(model), x), expected.astype(np.float32))

    def test_weights_are_half_and_islands_are_not(self, fused: ModelProto) -> None:
        half = to_float16(fused, Float16Plan())
        types = stored_types(half)
        convolutions = [node for node in half.graph.node if node.op_type.startswith("Conv")]
        assert convolutions
        assert all(types[n] == TensorProto.FLOAT16 for c in convolutions for n in c.input[1:])
        norms = [node for node in half.graph.node if node.op_type == "InstanceNormalization"]
        assert norms
        assert all(types[n] == TensorProto.FLOAT for c in norms for n in c.input[1:])
        assert half.ByteSize() < 0.6 * fused.ByteSize()

    def test_islands_can_be_switched_off(self, fused: ModelProto) -> None:
        half = to_float16(fused, Float16Plan(normalization=False))
        types = stored_types(half)
        norms = [node for node in half.graph.node if node.op_type == "InstanceNormalization"]
        assert all(types[n] == TensorProto.FLOAT16 for c in norms for n in c.input[1:])

    def test_no_tensor_is_cast_twice_to_one_type(self, fused: ModelProto) -> None:
        half = to_float16(fused, Float16Plan())
        casts = [
            (node.input[0], node.attribute[0].i)
            for node in half.graph.node
            if node.op_type == "Cast"
        ]
        assert len(set(casts)) == len(casts)

    def test_weights_stay_single(self, fused: ModelProto) -> None:
        half = to_float16(fused, Float16Plan())
        large = [t for t in half.graph.initializer if np.prod(t.dims) > 1000]
        assert len(large) == len([t for t in fused.graph.initializer if np.prod(t.dims) > 1000])

    @pytest.mark.parametrize("islands", [True, False])
    def test_the_picture_survives(
        self, fused: ModelProto, pixels: np.ndarray, islands: bool
    ) -> None:
        half = to_float16(fused, Float16Plan(normalization=islands))
        exact = run(fused, pixels).astype(float)
        for graph in (half, emulate_float16(half)):
            error = np.sqrt(np.mean((run(graph, pixels) - exact) ** 2))
            # 11 bits of mantissa over some 60 roundings: about a level of 255, not several.
            assert error < 1

    def test_split_stages_keep_their_float32_ends(
        self, stages: dict[str, ModelProto], pixels: np.ndarray
    ) -> None:
        value = pixels
        for graph in stages.values():
            half = to_float16(graph, Float16Plan())
            for before, after in zip(
                (*graph.graph.input, *graph.graph.output),
                (*half.graph.input, *half.graph.output),
                strict=True,
            ):
                assert before == after
            value = run(emulate_float16(half), value)
        assert value.dtype == np.uint8

    def test_resize_keeps_its_float32_scales(self, stages: dict[str, ModelProto]) -> None:
        half = to_float16(stages["decoder"], Float16Plan())
        types = stored_types(half)
        resizes = [node for node in half.graph.node if node.op_type == "Resize"]
        assert len(resizes) == 3
        assert all(types[node.input[2]] == TensorProto.FLOAT for node in resizes)
