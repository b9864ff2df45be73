from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, helper, numpy_helper

from elir_deploy.errors import ElirError
from elir_deploy.export.emulation import (
    LANES,
    HalfForms,
    emulate_bfloat16,
    emulate_float16,
    round_to_bfloat16,
)
from elir_deploy.export.float16 import to_float16
from elir_deploy.export.islands import Float16Plan, Reason
from tests.export.graphs import chain_of_products, instance_norm, run, small_model

half = np.float16


def half_sums(rows: np.ndarray) -> np.ndarray:
    """(sums, length) float16 -> (sums, 1): numpy's own float16 additions in the order modelled."""
    lanes = min(LANES, 1 << (rows.shape[1] - 1).bit_length())
    depth = -(-rows.shape[1] // lanes)
    padded = np.zeros((len(rows), depth * lanes), half)
    padded[:, : rows.shape[1]] = rows
    total = np.zeros((len(rows), lanes), half)
    for turn in range(depth):
        total = total + padded[:, turn * lanes : (turn + 1) * lanes]
    while total.shape[1] > 1:
        middle = total.shape[1] // 2
        total = total[:, :middle] + total[:, middle:]
    return total


def half_normalized(rows: np.ndarray, epsilon: float = 1e-5) -> np.ndarray:
    length = np.float32(rows.shape[1])
    mean = (half_sums(rows) / length).astype(half)
    variance = (half_sums(rows * rows) / length).astype(half) - mean * mean
    deviation = np.sqrt(variance + half(epsilon))
    return (rows - mean) * (half(1) / deviation)


def emulated(model: ModelProto) -> ModelProto:
    return emulate_float16(to_float16(model, Float16Plan()))


class TestFloat16:
    def test_every_operator_is_rounded(self) -> None:
        factors = [1.001, 3.0, 0.37]
        x = np.array([[0.1, 1.2345, -7.77, 1e-5]], np.float32)
        expected = x.astype(half)
        for factor in factors:
            expected = expected * half(factor)
        found = run(emulated(chain_of_products(factors)), x)
        np.testing.assert_array_equal(found, expected.astype(np.float32))

    def test_overflow_shows(self) -> None:
        found = run(emulated(chain_of_products([1000.0, 0.001])), np.full((1, 4), 100, np.float32))
        assert np.isinf(found).all()


class TestSums:
    @pytest.mark.parametrize("length", [5, 64, 100, 1000, 4096])
    def test_normalisation_sums_in_float16_to_the_bit(self, length: int) -> None:
        x = np.random.default_rng(length).normal(0.5, 2, (1, 3, length)).astype(np.float32)
        found = run(emulated(instance_norm(3, length)), x)
        expected = half_normalized(x[0].astype(half))
        np.testing.assert_array_equal(found[0], expected.astype(np.float32))

    def test_a_large_sum_of_squares_overflows(self) -> None:
        x = np.random.default_rng(0).normal(0, 2.5, (1, 1, 2**14)).astype(np.float32)
        exact = run(instance_norm(1, 2**14), x)
        assert 0.9 < exact.std() < 1.1
        assert not run(emulated(instance_norm(1, 2**14)), x).any()  # divided by infinity

    def test_a_long_sum_stalls(self) -> None:
        # float16 does not count beyond 2048 in ones: each lane gets 4096 of them, so that mean and
        # mean of squares are half of what they should be.
        length = 4096 * LANES
        x = np.full((1, 1, length), 2.0**-4, np.float32)
        assert not run(instance_norm(1, length), x).any()
        found = run(emulated(instance_norm(1, length)), x)
        assert found[0, 0, 0] == pytest.approx(2.0**-5 / (2.0**-10 + 1e-5) ** 0.5, rel=2e-3)

    def test_a_mean_far_from_zero_leaves_no_variance(self) -> None:
        x = np.random.default_rng(0).normal(4, 0.02, (1, 16, 1024)).astype(np.float32)
        assert np.isnan(run(emulated(instance_norm(16, 1024)), x)).any()

    def test_group_normalisation(self) -> None:
        rng = np.random.default_rng(0)
        weights = {
            "scale": rng.normal(1, 0.2, 8).astype(np.float32),
            "bias": rng.normal(0, 0.2, 8).astype(np.float32),
            "one": np.array([1], np.float32),
        }
        nodes = [
            helper.make_node("Mul", ["x", "one"], ["net.first"], name="net.first"),
            helper.make_node(
                "GroupNormalization",
                ["net.first", "scale", "bias"],
                ["net.norm"],
                name="net.norm",
                num_groups=4,
            ),
            helper.make_node("Mul", ["net.norm", "one"], ["y"], name="net.last"),
        ]
        shape = [2, 8, 5, 7]
        model = small_model(nodes, weights, shape, opset=21, between={"net.norm": shape})
        x = rng.normal(0.3, 1, (2, 8, 5, 7)).astype(np.float32)
        normal = half_normalized(x.astype(half).reshape(8, -1)).reshape(x.shape)
        affine = (array.astype(half)[:, None, None] for array in weights.values())
        expected = normal * next(affine) + next(affine)
        np.testing.assert_array_equal(run(emulated(model), x), expected.astype(np.float32))

    @pytest.mark.parametrize(("operator", "length"), [("ReduceMean", 1), ("LayerNormalization", 8)])
    def test_sums_of_another_kind_are_refused(self, operator: str, length: int) -> None:
        given = ["x", "scale"] if operator == "LayerNormalization" else ["x"]
        nodes = [helper.make_node(operator, given, ["y"], name="net.sum")]
        weights = {"scale": np.ones(8, np.float32)}
        model = small_model(nodes, weights, [1, 8], result=[1, length])
        with pytest.raises(ElirError, match=rf"net\.sum is a {operator}.*InstanceNormalization"):
            HalfForms(model)

    def test_an_island_sums_in_float32(self) -> None:
        x = np.random.default_rng(0).normal(20, 0.05, (1, 4, 1024)).astype(np.float32)
        plan = Float16Plan({"net.norm": Reason("asked", "normalisation")})
        found = run(emulate_float16(to_float16(instance_norm(4, 1024), plan)), x)
        exact = run(instance_norm(4, 1024), x.astype(half).astype(np.float32))
        np.testing.assert_allclose(found, exact, rtol=2e-3, atol=2e-3)


class TestBfloat16:
    def test_rounding_is_half_to_even(self) -> None:
        step = 2.0**-7
        values = [1 + step / 2, 1 + step * 3 / 2, 1 + step * 0.51, -1 - step / 2, 0, 1e-40]
        rounded = [1, 1 + 2 * step, 1 + step, -1, 0, 9.183550e-41]
        found = round_to_bfloat16(np.array(values, np.float32))
        np.testing.assert_array_equal(found, np.array(rounded, np.float32))

    def test_every_operator_and_weight_is_rounded(self) -> None:
        factors = [1.001, 3.3, 0.37]
        x = np.array([[0.1, 1.2345, -7.77, 1e-5]], np.float32)
        expected = x
        for factor in factors[:-1]:
            expected = round_to_bfloat16(expected * round_to_bfloat16(np.float32(factor)))
        expected = expected * round_to_bfloat16(np.float32(factors[-1]))
        found = run(emulate_bfloat16(chain_of_products(factors)), x)
        np.testing.assert_array_equal(found, expected)

    def test_the_error_of_a_picture_is_that_of_eight_bits(
        self, fused: ModelProto, pixels: np.ndarray
    ) -> None:
        exact = run(fused, pixels).astype(float)
        error = np.sqrt(np.mean((run(emulate_bfloat16(fused), pixels) - exact) ** 2))
        assert 0.1 < error < 8

    def test_the_ends_are_not_rounded(self, fused: ModelProto) -> None:
        model = emulate_bfloat16(fused)
        assert [*model.graph.input, *model.graph.output] == [
            *fused.graph.input,
            *fused.graph.output,
        ]
        rounded = {
            node.input[0].removesuffix(".exact")
            for node in model.graph.node
            if node.op_type == "Cast" and node.input[0].endswith(".exact")
        }
        tail = {node.name for node in fused.graph.node if node.name.startswith("image_output.")}
        assert not tail & rounded
        assert "encoder.layers.0.conv" in rounded

    def test_inputs_that_have_to_be_float32_stay(self, stages: dict[str, ModelProto]) -> None:
        before = stages["decoder"]
        after = {
            t.name: numpy_helper.to_array(t) for t in emulate_bfloat16(before).graph.initializer
        }
        exact = {t.name: numpy_helper.to_array(t) for t in before.graph.initializer}
        scales = {n.input[2] for n in before.graph.node if n.op_type == "Resize"}
        weights = {n.input[1] for n in before.graph.node if n.op_type == "Conv"}
        assert all(np.array_equal(after[name], exact[name]) for name in scales)
        assert not any(np.array_equal(after[name], exact[name]) for name in weights)

    def test_inputs_of_quantisers_are_not_rounded(self) -> None:
        weights = {
            "k": np.array([1.003], np.float32),
            "scale": np.array(0.0123, np.float32),
            "zero": np.array(0, np.int8),
            "w": np.array([3, -5], np.int8).reshape(2, 1, 1, 1),
            "w.scale": np.array([0.0101, 0.0303], np.float32),
            "w.zero": np.zeros(2, np.int8),
            "bias": np.array([0.2003, -0.1007], np.float32),
        }
        nodes = [
            helper.make_node("Mul", ["x", "k"], ["a.mul"], name="a.mul"),
            helper.make_node("Sigmoid", ["a.mul"], ["a.sigmoid"], name="a.sigmoid"),
            helper.make_node("QuantizeLinear", ["a.sigmoid", "scale", "zero"], ["q"], name="q"),
            helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["dq"], name="dq"),
            helper.make_node(
                "DequantizeLinear", ["w", "w.scale", "w.zero"], ["w.dq"], name="w.dq", axis=0
            ),
            helper.make_node("Conv", ["dq", "w.dq", "bias"], ["b.conv"], name="b.conv"),
            helper.make_node("Mul", ["b.conv", "k"], ["y"], name="b.mul"),
        ]
        model = small_model(nodes, weights, [1, 1, 4, 4], result=[1, 2, 4, 4])
        changed = emulate_bfloat16(model)
        rounded = {
            node.input[0].removesuffix(".exact")
            for node in changed.graph.node
            if node.op_type == "Cast"
        }
        assert {name for name in rounded if not name.endswith(".narrow")} == {"b.conv"}
        before = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
        after = {t.name: numpy_helper.to_array(t) for t in changed.graph.initializer}
        different = {name for name in before if not np.array_equal(before[name], after[name])}
        assert different == {"k"}
