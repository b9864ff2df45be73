from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from elir_deploy.export.precision import open_session
from elir_deploy.export.quantization import (
    CHANNEL_AXIS,
    activations,
    conv_layers,
    place,
    quantize_graph,
    quantize_weight,
)
from elir_deploy.scopes import layer_of, stage_of


def constants(model: ModelProto) -> dict[str, np.ndarray]:
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


def producers(model: ModelProto) -> dict[str, NodeProto]:
    return {name: node for node in model.graph.node for name in node.output}


def quantized(model: ModelProto, peak: float = 4.0) -> ModelProto:
    placement = place(model, conv_layers(model))
    return quantize_graph(model, placement, dict.fromkeys(placement.groups.values(), peak))


@pytest.fixture(scope="module")
def int8(fused: ModelProto) -> ModelProto:
    return quantized(fused)


def lone_convolution(op_type: str, weight: np.ndarray, bias: np.ndarray | None) -> ModelProto:
    inputs = ["x", "net.conv.weight"] + (["net.conv.bias"] if bias is not None else [])
    transposed = op_type == "ConvTranspose"
    channels = weight.shape[0 if transposed else 1], weight.shape[1 if transposed else 0]
    attributes = {"strides": [2, 2], "pads": [1] * 4} if transposed else {"pads": [1] * 4}
    side = 16 if transposed else 8
    values = {"net.conv.weight": weight} | ({} if bias is None else {"net.conv.bias": bias})
    graph = helper.make_graph(
        [helper.make_node(op_type, inputs, ["y"], name="net.conv", **attributes)],
        "lone",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, channels[0], 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, channels[1], side, side])],
        [numpy_helper.from_array(array, name) for name, array in values.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


class TestWeights:
    def test_each_output_channel_has_its_own_scale(self) -> None:
        rng = np.random.default_rng(0)
        weight = rng.normal(size=(5, 3, 3, 3)).astype(np.float32)
        weight *= np.array([1, 1e-3, 1e3, 1, 0], np.float32).reshape(5, 1, 1, 1)
        for axis in (0, 1):
            rotated = np.ascontiguousarray(np.moveaxis(weight, 0, axis))
            values, scale = quantize_weight(rotated, axis)
            shape = [5 if i == axis else 1 for i in range(4)]
            error = np.abs(values * scale.reshape(shape) - rotated)
            assert values.dtype == np.int8
            assert (error <= scale.reshape(shape) * 0.5001).all()
            assert values.min() >= -127

    def test_a_channel_of_zeros_stays_zero(self) -> None:
        values, scale = quantize_weight(np.zeros((2, 1, 3, 3), np.float32), 0)
        assert not values.any()
        assert np.isfinite(scale).all()
        assert (scale > 0).all()


@pytest.mark.parametrize("op_type", ["Conv", "ConvTranspose"])
@pytest.mark.parametrize("has_bias", [True, False])
def test_one_convolution_computes_what_its_equation_says(op_type: str, has_bias: bool) -> None:
    rng = np.random.default_rng(1)
    size = 4 if op_type == "ConvTranspose" else 3
    shape = (6, 4, size, size) if op_type == "ConvTranspose" else (4, 6, size, size)
    weight = rng.normal(size=shape).astype(np.float32)
    bias = rng.normal(size=4).astype(np.float32) if has_bias else None
    model = lone_convolution(op_type, weight, bias)
    x = rng.normal(size=(1, 6, 8, 8)).astype(np.float32)
    shift = rng.normal(size=4).astype(np.float32)
    made = quantize_graph(model, place(model, ["net.conv"]), {"x": 2.0}, {"net.conv": shift})

    # The same by hand: rounded to the grid, clipped at 2, convolved in float32.
    step = np.float32(2.0 / 127)
    rounded = np.rint(x / step).clip(-128, 127) * step
    axis = CHANNEL_AXIS[op_type]
    others = tuple(i for i in range(4) if i != axis)
    grid = np.abs(weight).max(axis=others, keepdims=True) / 127
    exact = lone_convolution(
        op_type,
        (np.rint(weight / grid) * grid).astype(np.float32),
        shift if bias is None else bias + shift,
    )
    expected = open_session(exact).run(None, {"x": rounded})[0]
    np.testing.assert_allclose(open_session(made).run(None, {"x": x})[0], expected, atol=2e-5)


class TestWhatTensorRtNeeds:
    def test_every_activation_is_symmetric_int8_with_one_scale(self, int8: ModelProto) -> None:
        values = constants(int8)
        nodes = [n for n in int8.graph.node if n.op_type == "QuantizeLinear"]
        assert nodes
        for node in nodes:
            scale, zero = values[node.input[1]], values[node.input[2]]
            assert zero.dtype == np.int8, node.name
            assert zero.shape == scale.shape == ()
            assert zero == 0
            assert scale > 0

    def test_only_the_image_is_uint8(self, int8: ModelProto) -> None:
        inferred = onnx.shape_inference.infer_shapes(int8, strict_mode=True)
        unsigned = {
            value.name
            for value in (*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output)
            if value.type.tensor_type.elem_type == TensorProto.UINT8
        }
        assert unsigned == {"image", "restored"}
        assert not any(t.data_type == TensorProto.UINT8 for t in int8.graph.initializer)

    def test_every_convolution_reads_int8_and_a_float32_bias(self, int8: ModelProto) -> None:
        made, values = producers(int8), constants(int8)
        for node in int8.graph.node:
            if node.op_type not in CHANNEL_AXIS:
                continue
            weight = made[node.input[1]]
            assert weight.op_type == "DequantizeLinear", node.name
            stored, scale, zero = (values[name] for name in weight.input)
            (axis,) = (a.i for a in weight.attribute if a.name == "axis")
            assert axis == CHANNEL_AXIS[node.op_type]
            assert stored.dtype == zero.dtype == np.int8
            assert not zero.any()
            assert scale.shape == (stored.shape[axis],)
            if len(node.input) > 2:
                assert values[node.input[2]].dtype == np.float32

    def test_weights_are_stored_once_whatever_the_steps(
        self, int8: ModelProto, fused: ModelProto
    ) -> None:
        layers = conv_layers(fused)
        shared = [nodes for nodes in layers.values() if len(nodes) > 1]
        assert shared, "the graph has several Euler steps"
        stored = [t for t in int8.graph.initializer if t.name.endswith(".int8")]
        assert len(stored) == len(layers)
        left = [t.name for t in int8.graph.initializer if t.name.endswith(".weight")]
        assert not left


class TestPlacement:
    def test_parts_of_a_concatenation_share_a_scale(self, int8: ModelProto) -> None:
        made = producers(int8)
        seen = 0
        for node in int8.graph.node:
            if node.op_type == "Concat" and node.name.startswith("estimator."):
                seen += 1
                pairs = [made[name] for name in node.input]
                assert {pair.op_type for pair in pairs} == {"DequantizeLinear"}
                assert len({pair.input[1] for pair in pairs}) == 1
        assert seen

    def test_upsampling_moves_int8(self, int8: ModelProto) -> None:
        made = producers(int8)
        resizes = [node for node in int8.graph.node if node.op_type == "Resize"]
        assert resizes
        assert {made[node.input[0]].op_type for node in resizes} == {"DequantizeLinear"}

    def test_a_concatenation_that_normalisation_reads_stays_float(self, int8: ModelProto) -> None:
        made = producers(int8)
        for node in int8.graph.node:
            if node.op_type == "Concat" and node.name.startswith("flow."):
                assert all(made[name].op_type != "DequantizeLinear" for name in node.input)

    def test_residual_additions_are_in_floating_point(self, int8: ModelProto) -> None:
        made = producers(int8)
        relus = {n.input[0] for n in int8.graph.node if n.op_type == "Relu"}
        additions = [n for n in int8.graph.node if n.op_type == "Add" and n.output[0] in relus]
        assert additions
        for node in additions:
            assert made[node.input[0]].op_type == "Conv"
            assert made[node.input[1]].op_type != "DequantizeLinear"

    def test_layers_left_out_are_untouched(self, fused: ModelProto) -> None:
        chosen = [layer for layer in conv_layers(fused) if layer.startswith("decoder.")]
        placement = place(fused, chosen)
        made = quantize_graph(fused, placement, dict.fromkeys(placement.groups.values(), 1.0))
        before = {n.name: n for n in fused.graph.node}
        for node in made.graph.node:
            if node.name in before and not node.name.startswith("decoder."):
                assert node == before[node.name]

    def test_shared_scales_are_one_for_all_steps(self, fused: ModelProto) -> None:
        shared = place(fused, conv_layers(fused))
        read: dict[tuple[str, int], set[str]] = {}
        for (node, index), tensor in shared.reads.items():
            read.setdefault((layer_of(node), index), set()).add(shared.groups[tensor])
        assert {len(scales) for scales in read.values()} == {1}
        makers = producers(fused)
        of_flow = [t for t in shared.groups if stage_of(makers[t].name) == "flow"]
        assert len({shared.groups[t] for t in of_flow}) == len(of_flow) // 2

    def test_every_tensor_that_may_be_quantised_is_listed(self, fused: ModelProto) -> None:
        listed = set(activations(fused))
        layers = list(conv_layers(fused))
        for chosen in (layers, layers[::2], layers[1::3]):
            placement = place(fused, chosen)
            assert set(placement.groups) <= listed


class TestGraph:
    def test_stages_quantised_one_by_one_are_the_fused_graph(
        self,
        stages: dict[str, ModelProto],
        int8: ModelProto,
        pixels: np.ndarray,
    ) -> None:
        value = pixels
        for stage in stages.values():
            session = open_session(quantized(stage))
            (value,) = session.run(None, {stage.graph.input[0].name: value})
        np.testing.assert_array_equal(value, open_session(int8).run(None, {"image": pixels})[0])

    def test_it_stays_near_float32(
        self, fused: ModelProto, pixels: np.ndarray, int8: ModelProto
    ) -> None:
        exact, made = (
            open_session(m).run(None, {"image": pixels})[0].astype(float) for m in (fused, int8)
        )
        assert 0 < np.abs(made - exact).mean() < 16

    def test_two_runs_give_the_same_bytes(self, fused: ModelProto) -> None:
        first, second = (quantized(fused).SerializeToString(deterministic=True) for _ in range(2))
        assert first == second
