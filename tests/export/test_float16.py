from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto

from elir_deploy.export.emulation import emulate_float16
from elir_deploy.export.float16 import to_float16
from elir_deploy.export.islands import (
    Evidence,
    Float16Plan,
    Reason,
    gather_evidence,
    plan_float16,
)
from elir_deploy.export.quantization import (
    conv_layers,
    place,
    quantize_graph,
)
from elir_deploy.scopes import Outline, layer_of
from tests.export.graphs import chain_of_products, measure_ranges, run

FLOAT, HALF, INT8 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT8
PAIR = ("QuantizeLinear", "DequantizeLinear")


def stored_types(model: ModelProto) -> dict[str, int]:
    return {tensor.name: tensor.data_type for tensor in model.graph.initializer}


def types_of(model: ModelProto) -> dict[str, int]:
    """Type of every tensor, as ONNX itself infers it from inputs and weights."""
    bare = ModelProto()
    bare.CopyFrom(model)
    del bare.graph.value_info[:]
    graph = onnx.shape_inference.infer_shapes(bare, check_type=True, strict_mode=True).graph
    values = (*graph.input, *graph.value_info, *graph.output)
    return {v.name: v.type.tensor_type.elem_type for v in values} | stored_types(model)


def norms_kept(model: ModelProto) -> Float16Plan:
    return plan_float16(model, Evidence({}), normalization="float32")


class TestConversion:
    def test_the_plan_prevents_overflow(self) -> None:
        model = chain_of_products([1000.0, 0.001])
        x = np.full((1, 4), 100.0, np.float32)
        assert np.isinf(run(emulate_float16(to_float16(model, Float16Plan())), x)).all()
        safe = to_float16(model, plan_float16(model, gather_evidence(model, [{"x": x}])))
        np.testing.assert_allclose(run(emulate_float16(safe), x), 100.0, rtol=1e-3)

    def test_weights_are_half_and_islands_are_not(self, fused: ModelProto) -> None:
        half = to_float16(fused, norms_kept(fused))
        types = stored_types(half)
        convolutions = [node for node in half.graph.node if node.op_type.startswith("Conv")]
        assert convolutions
        assert all(types[n] == HALF for c in convolutions for n in c.input[1:])
        norms = [node for node in half.graph.node if node.op_type == "InstanceNormalization"]
        assert norms
        assert all(types[n] == FLOAT for c in norms for n in c.input[1:])
        assert half.ByteSize() < 0.6 * fused.ByteSize()

    def test_no_island_where_there_is_no_reason(self, fused: ModelProto) -> None:
        half = to_float16(fused, Float16Plan())
        types = stored_types(half)
        norms = [node for node in half.graph.node if node.op_type == "InstanceNormalization"]
        assert all(types[n] == HALF for c in norms for n in c.input[1:])
        casts = [node.name for node in half.graph.node if node.op_type == "Cast"]
        assert casts == ["image_input.cast", "decoded.to_fp32", "image_output.cast"]

    def test_no_tensor_is_cast_twice_to_one_type(self, fused: ModelProto) -> None:
        half = to_float16(fused, norms_kept(fused))
        casts = [
            (node.input[0], node.attribute[0].i)
            for node in half.graph.node
            if node.op_type == "Cast"
        ]
        assert len(set(casts)) == len(casts)

    def test_weights_stay_single(self, fused: ModelProto) -> None:
        half = to_float16(fused, norms_kept(fused))
        large = [t for t in half.graph.initializer if np.prod(t.dims) > 1000]
        assert len(large) == len([t for t in fused.graph.initializer if np.prod(t.dims) > 1000])

    @pytest.mark.parametrize("islands", [True, False])
    def test_the_picture_survives(
        self, fused: ModelProto, pixels: np.ndarray, islands: bool
    ) -> None:
        half = to_float16(fused, norms_kept(fused) if islands else Float16Plan())
        exact = run(fused, pixels).astype(float)
        for graph in (half, emulate_float16(half)):
            # 11 bits of mantissa over some 60 roundings: about a level of 255, not several.
            assert root_mean_square(run(graph, pixels) - exact) < 1

    def test_split_stages_keep_their_float32_ends(
        self, stages: dict[str, ModelProto], pixels: np.ndarray
    ) -> None:
        value = pixels
        for graph in stages.values():
            half = to_float16(graph, norms_kept(graph))
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
        assert all(types[node.input[2]] == FLOAT for node in resizes)


@pytest.fixture(scope="module")
def quantized(fused: ModelProto, outline: Outline, pixels: np.ndarray) -> ModelProto:
    """Every convolution but those next to RGB in int8."""
    layers = {layer for layer in conv_layers(fused) if outline.block_of(layer)}
    placement = place(fused, layers)
    ranges = measure_ranges(fused, [{"image": pixels}])
    amax: dict[str, float] = {}
    for tensor, group in placement.groups.items():
        amax[group] = max(amax.get(group, 0.0), ranges[tensor])
    return quantize_graph(fused, placement, amax)


def root_mean_square(error: np.ndarray) -> float:
    return float(np.sqrt(np.mean(error.astype(float) ** 2)))


def pairs(model: ModelProto) -> list[Any]:
    return [node for node in model.graph.node if node.op_type in PAIR]


@pytest.fixture(scope="module")
def mixed(quantized: ModelProto) -> ModelProto:
    """The graph in int8 and float16."""
    return to_float16(quantized, norms_kept(quantized))


class TestQuantized:
    def test_pairs_stand_between_casts(self, quantized: ModelProto, mixed: ModelProto) -> None:
        types = types_of(mixed)
        readers = {name: node for node in mixed.graph.node for name in node.input}
        kinds = Counter(node.op_type for node in pairs(mixed))
        assert kinds == Counter(node.op_type for node in pairs(quantized))
        for node in pairs(mixed):
            assert types[node.input[1]] == FLOAT
            if node.op_type == "QuantizeLinear":
                assert types[node.input[0]] == FLOAT
            else:
                assert types[node.output[0]] == FLOAT
                assert readers[node.output[0]].op_type == "Cast"

    def test_each_tensor_has_the_type_its_readers_want(self, mixed: ModelProto) -> None:
        types = types_of(mixed)
        stated = {v.name: v.type.tensor_type.elem_type for v in mixed.graph.value_info}
        assert all(types[name] == kind for name, kind in stated.items())
        for node in mixed.graph.node:
            if node.op_type in ("Conv", "ConvTranspose"):
                assert {types[name] for name in (*node.input, *node.output)} == {HALF}
            if node.op_type == "InstanceNormalization":
                assert {types[name] for name in (*node.input, *node.output)} == {FLOAT}

    def test_weights_are_stored_once(self, quantized: ModelProto, mixed: ModelProto) -> None:
        before = {t.name: t for t in quantized.graph.initializer if t.data_type == INT8}
        after = {t.name: t for t in mixed.graph.initializer if t.data_type == INT8}
        assert before == after
        names = [t.name for t in mixed.graph.initializer]
        assert len(names) == len(set(names))
        dequantized = Counter(n.input[0] for n in pairs(mixed) if n.input[0] in after)
        assert set(dequantized.values()) == {1}
        stored = sum(len(t.raw_data) for t in mixed.graph.initializer)
        assert stored < sum(len(t.raw_data) for t in quantized.graph.initializer)

    def test_an_island_reads_and_is_read_as_float32(self, quantized: ModelProto) -> None:
        layer = layer_of("flow.step1.vector_field.middle.0.conv")
        plan = Float16Plan({layer: Reason("range", "convolution", 1e6, layer)})
        half = to_float16(quantized, plan)
        types = types_of(half)
        nodes = [node for node in half.graph.node if layer_of(node.name) == layer]
        assert len(nodes) == 2
        for node in nodes:
            assert {types[name] for name in (*node.input, *node.output)} == {FLOAT}
        weight = next(node for node in pairs(half) if node.output[0] == nodes[0].input[1])
        assert types[weight.input[1]] == types[weight.output[0]] == FLOAT

    def test_the_picture_is_that_of_the_float32_graph(
        self, quantized: ModelProto, mixed: ModelProto, fused: ModelProto, pixels: np.ndarray
    ) -> None:
        exact = run(fused, pixels).astype(float)
        int8 = root_mean_square(run(quantized, pixels) - exact)
        for graph in (mixed, emulate_float16(mixed)):
            # float16 tips some int8 values over, so the two differ by about what int8 costs.
            assert root_mean_square(run(graph, pixels) - exact) < 1.25 * int8 + 0.25

    def test_openvino_runs_it(
        self, quantized: ModelProto, mixed: ModelProto, pixels: np.ndarray
    ) -> None:
        openvino = pytest.importorskip("openvino")
        core = openvino.Core()
        float32 = {"INFERENCE_PRECISION_HINT": "f32"}

        def restored(model: ModelProto) -> np.ndarray:
            read = core.read_model(model.SerializeToString())
            return np.array(core.compile_model(read, "CPU", float32)(pixels)[0], float)

        exact = run(quantized, pixels).astype(float)
        own = root_mean_square(restored(quantized) - exact)
        assert root_mean_square(restored(mixed) - exact) < 1.5 * own + 0.5
