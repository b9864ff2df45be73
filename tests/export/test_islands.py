from __future__ import annotations

import math

import numpy as np
import pytest
from onnx import ModelProto, helper

from elir_deploy.export.islands import (
    FLOAT16_MAX,
    HEADROOM,
    Evidence,
    Float16Plan,
    Reason,
    extreme_images,
    gather_evidence,
    plan_float16,
    stage_feeds,
)
from elir_deploy.scopes import layer_of
from tests.export.graphs import chain_of_products, instance_norm, measure_ranges, run, small_model


def noise(mean: float, deviation: float, channels: int, length: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {"x": rng.normal(mean, deviation, (1, channels, length)).astype(np.float32)}


class TestImages:
    def test_flat_and_chequered(self) -> None:
        images = extreme_images(40, 40)
        assert list(images) == ["black", "grey", "white", "chequered"]
        for image in images.values():
            assert (image.shape, image.dtype) == ((40, 40, 3), np.uint8)
        assert [image[0, 0, 0] for image in images.values()] == [0, 128, 255, 0]
        assert images["chequered"][0, 16, 2] == images["chequered"][16, 0, 2] == 255
        assert images["chequered"][16, 16, 0] == 0

    def test_every_stage_is_fed_the_output_of_the_one_before(
        self, stages: dict[str, ModelProto], fused: ModelProto, pixels: np.ndarray
    ) -> None:
        feeds = stage_feeds(stages, [{"image": pixels}, {"image": np.zeros_like(pixels)}])
        assert list(feeds) == list(stages)
        assert [len(found) for found in feeds.values()] == [2, 2, 2, 2]
        assert feeds["encoder"][0]["image"] is pixels
        restored = run(stages["decoder"], feeds["decoder"][0]["flowed"])
        assert np.abs(restored.astype(int) - run(fused, pixels)).max() <= 1


class TestEvidence:
    def test_ranges_are_those_measured_alone(self, fused: ModelProto, pixels: np.ndarray) -> None:
        inputs = [{"image": pixels}]
        assert gather_evidence(fused, inputs).amax == measure_ranges(fused, inputs)

    def test_inputs_are_ranges_too(self) -> None:
        model = chain_of_products([1e-3])
        evidence = gather_evidence(
            model, [{"x": np.full((1, 4), v, np.float32)} for v in (2e5, -3e5)]
        )
        assert evidence.amax["x"] == 3e5
        assert set(plan_float16(model, evidence).reasons) == {"net.layer0.mul"}

    def test_the_worst_of_all_inputs_counts(self) -> None:
        model = instance_norm(3, 256)
        small, large = noise(0, 1, 3, 256), noise(0, 4, 3, 256)
        evidence = gather_evidence(model, [small, large, small])
        squares = (large["x"].astype(np.float16).astype(float) ** 2).sum(axis=-1).max()
        assert evidence.sums["net.norm"] == pytest.approx(squares, rel=1e-5)
        alone = [gather_evidence(model, [feed]).error_db["net.norm"] for feed in (small, large)]
        assert evidence.error_db["net.norm"] == min(alone)
        assert 55 < min(alone) < 75

    def test_outputs_that_are_not_finite(self) -> None:
        model = instance_norm(16, 1024)
        assert gather_evidence(model, [noise(4, 0.02, 16, 1024)]).error_db["net.norm"] == -math.inf

    def test_an_overflow_leaves_nothing(self) -> None:
        evidence = gather_evidence(instance_norm(1, 2**14), [noise(0, 2.5, 1, 2**14)])
        assert evidence.sums["net.norm"] > FLOAT16_MAX
        assert evidence.error_db["net.norm"] < 1


class TestRange:
    def test_a_layer_that_would_overflow_is_kept_and_listed(self) -> None:
        model = chain_of_products([1000.0, 1000.0, 1e-6])
        evidence = gather_evidence(model, [{"x": np.full((1, 4), 1.5, np.float32)}])
        reasons = plan_float16(model, evidence).reasons
        assert {layer: str(reason) for layer, reason in reasons.items()} == {
            "net.layer1.mul": "|net.layer1.mul| reaches 1.5e+06",
            "net.layer2.mul": "|net.layer1.mul| reaches 1.5e+06",
        }

    def test_headroom_for_other_images(self) -> None:
        model = chain_of_products([1.0, 1.0])
        for peak, kept in ((FLOAT16_MAX / HEADROOM * 1.01, True), (15000.0, False)):
            evidence = Evidence({"x": peak})
            assert bool(plan_float16(model, evidence).reasons) is kept

    def test_a_range_that_is_not_finite_is_kept(self) -> None:
        model = chain_of_products([1.0])
        for peak in (math.nan, math.inf):
            assert plan_float16(model, Evidence({"y": peak})).reasons

    def test_partial_sums_of_a_convolution(self) -> None:
        rng = np.random.default_rng(0)
        weight = rng.choice([-60.0, 60.0], (1, 64, 3, 3)).astype(np.float32)
        convolution = helper.make_node("Conv", ["x", "w"], ["y"], name="net.conv")
        model = small_model([convolution], {"w": weight}, [1, 64, 3, 3], result=[1, 1, 1, 1])
        x = np.sign(weight) * rng.choice([-1, 1], weight.shape)
        (exact,) = run(model, x.astype(np.float32)).reshape(-1)
        assert abs(exact) < FLOAT16_MAX / HEADROOM
        for gain, kept in ((1.0, False), (2.0, True)):
            evidence = gather_evidence(model, [{"x": (gain * x).astype(np.float32)}])
            reasons = plan_float16(model, evidence).reasons
            assert bool(reasons) is kept
        assert str(reasons["net.conv"]) == (
            "partial sums may reach 6.91e+04; float16 ends at 65504"
        )


class TestNormalization:
    def plan(self, evidence: Evidence, mode: str = "measured") -> dict[str, str]:
        plan = plan_float16(instance_norm(1, 64), evidence, normalization=mode)
        return {layer: str(reason) for layer, reason in plan.reasons.items()}

    def test_layers_within_limits_are_float16(self) -> None:
        assert self.plan(Evidence({}, {"net.norm": 16000.0}, {"net.norm": 51.0})) == {}

    def test_the_reason_has_the_number(self) -> None:
        large = self.plan(Evidence({}, {"net.norm": 1.3e5}, {"net.norm": 6.0}))
        assert large == {
            "net.norm": "sums of squares reach 1.3e+05; the limit is 16376, 1/4 of float16's"
        }
        inexact = self.plan(Evidence({}, {"net.norm": 900.0}, {"net.norm": 21.4}))
        assert inexact == {"net.norm": "sums in float16 leave 21 dB; the limit is 50"}
        lost = self.plan(Evidence({}, {"net.norm": 900.0}, {"net.norm": -math.inf}))
        assert lost == {"net.norm": "sums in float16 are not finite"}

    def test_all_or_none_on_request(self) -> None:
        evidence = Evidence({}, {"net.norm": 1.3e5}, {"net.norm": 6.0})
        assert self.plan(Evidence({}), "float32") == {"net.norm": "as requested"}
        assert self.plan(evidence, "float16") == {}
        overflow = Evidence({"net.mul": 1e6})
        assert set(self.plan(overflow, "float16")) == {"net.mul", "net.norm"}

    def test_one_step_decides_for_all(self, fused: ModelProto) -> None:
        norms = [n.name for n in fused.graph.node if n.op_type == "InstanceNormalization"]
        second = next(name for name in norms if ".step2." in name)
        plan = plan_float16(fused, Evidence({}, {}, dict.fromkeys(norms, 60.0) | {second: 30}))
        assert set(plan.reasons) == {layer_of(second)}
        kept = [n.name for n in fused.graph.node if plan.keeps(n) and "image_output" not in n.name]
        assert kept == [second.replace("step2", "step1"), second]

    def test_the_worst_step_is_named(self, fused: ModelProto) -> None:
        first = next(n.name for n in fused.graph.node if n.op_type == "InstanceNormalization")
        second = first.replace("step1", "step2")
        for kind, evidence, worst in (
            ("error", Evidence({}, {}, {first: 40.0, second: 30.0}), 30.0),
            ("squares", Evidence({}, {first: 2e5, second: 3e5}, {first: 10.0}), 3e5),
            ("overflow", Evidence({}, {}, {first: 10.0, second: -math.inf}), 0.0),
        ):
            (reason,) = plan_float16(fused, evidence).reasons.values()
            assert (reason.kind, reason.value) == (kind, worst)

    def test_the_measured_plan_of_a_network(self, fused: ModelProto, pixels: np.ndarray) -> None:
        flat = [{"image": image[None]} for image in extreme_images(64, 64).values()]
        evidence = gather_evidence(fused, [{"image": pixels}, *flat])
        norms = [n for n in fused.graph.node if n.op_type == "InstanceNormalization"]
        assert set(evidence.sums) == set(evidence.error_db) == {n.name for n in norms}
        measured = plan_float16(fused, evidence).reasons
        everything = plan_float16(fused, evidence, normalization="float32").reasons
        assert set(everything) == {layer_of(n.name) for n in norms}
        assert set(measured) < set(everything)


class TestSummary:
    def test_a_line_for_each_kind_of_layer_and_reason(self) -> None:
        plan = Float16Plan(
            {
                "a.norm": Reason("error", "normalisation", 31.2),
                "b.norm": Reason("squares", "normalisation", 1.8e4),
                "c.norm": Reason("error", "normalisation", 14.1),
                "d.conv": Reason("range", "convolution", 3.2e5, "d"),
                "e.norm": Reason("squares", "normalisation", 1.3e5),
                "f.norm": Reason("overflow", "normalisation"),
                "g.mul": Reason("range", "other", 3.2e5, "d"),
            }
        )
        assert plan.summary() == [
            "convolution, 1 layer: values reach 3.2e+05; the limit is 16376, 1/4 of float16's",
            "normalisation, 2 layers: sums in float16 leave 14 to 31 dB; the limit is 50",
            "normalisation, 1 layer: sums in float16 are not finite",
            "normalisation, 2 layers: sums of squares reach 1.8e+04 to 1.3e+05; "
            "the limit is 16376, 1/4 of float16's",
            "other, 1 layer: values reach 3.2e+05; the limit is 16376, 1/4 of float16's",
        ]

    def test_no_islands_give_no_lines(self) -> None:
        assert Float16Plan().summary() == []
