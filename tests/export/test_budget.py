from __future__ import annotations

import math
from collections.abc import Collection

import pytest
from onnx import ModelProto, numpy_helper

from elir_deploy.errors import QualityError
from elir_deploy.export.budget import (
    Block,
    Budget,
    Judge,
    Sensitivity,
    blocks_of,
    measure_sensitivities,
    select_blocks,
)
from elir_deploy.export.calibration import CalibrationImage, packaged_images
from elir_deploy.export.quantization import conv_layers, place, quantize_graph
from elir_deploy.runtime.manifest import QuantizationQuality
from elir_deploy.scopes import Outline
from elir_deploy.tasks import TASKS
from tests.export.conftest import BYTES, SIZE, STEPS


def quantize(model: ModelProto, blocks: Collection[Block], peak: float = 4.0) -> ModelProto:
    layers = {layer for block in blocks for layer in block.layers}
    placement = place(model, layers)
    return quantize_graph(model, placement, dict.fromkeys(placement.groups.values(), peak))


@pytest.fixture(scope="module")
def images() -> list[CalibrationImage]:
    return packaged_images(TASKS["tiny"], SIZE)


class TestBlocks:
    def test_they_are_everything_but_the_rgb_ends(
        self, fused: ModelProto, outline: Outline
    ) -> None:
        blocks = blocks_of(fused, outline)
        layers = [layer for block in blocks for layer in block.layers]
        assert len(layers) == len(set(layers))
        rgb = set(conv_layers(fused)) - set(layers)
        weights = {t.name: t.dims for t in fused.graph.initializer}
        shapes = [weights[conv_layers(fused)[layer][0].input[1]] for layer in rgb]
        assert sorted((shape[0], shape[1]) for shape in shapes) == [(3, 16), (16, 3)]

    def test_operations_are_counted_over_all_steps(
        self, fused: ModelProto, outline: Outline
    ) -> None:
        blocks = {block.name: block for block in blocks_of(fused, outline)}
        # 1x1 convolution of 16 latent channels to 32 at an eighth of the side.
        pixels = (SIZE // 8) ** 2
        assert blocks["flow.vector_field.first_proj"].macs == STEPS * pixels * 16 * 32
        # Three 3x3 convolutions of 16 channels at full size.
        assert blocks["encoder.layers.1"].macs == 3 * SIZE * SIZE * 16 * 16 * 9

    def test_a_transposed_convolution_is_counted_by_its_input(
        self, fused: ModelProto, outline: Outline
    ) -> None:
        weights = {t.name: numpy_helper.to_array(t).shape for t in fused.graph.initializer}
        (layer,) = [n for n, nodes in conv_layers(fused).items() if "up.0.upsample" in n]
        node = conv_layers(fused)[layer][0]
        into, out = weights[node.input[1]][:2]
        sizes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim]
                 for v in fused.graph.value_info}  # fmt: skip
        (_, _, height, width), (_, _, tall, wide) = sizes[node.input[0]], sizes[node.output[0]]
        assert (tall, wide) == (2 * height, 2 * width)
        by_output = tall * wide * into * out * 4  # of 16 taps, 4 meet an output pixel
        blocks = {block.name: block for block in blocks_of(fused, outline)}
        alone = blocks["flow.vector_field.up.0"]
        assert layer in alone.layers
        others = sum(
            math.prod(sizes[n.output[0]][2:]) * math.prod(weights[n.input[1]])
            for name in alone.layers - {layer}
            for n in conv_layers(fused)[name]
        )
        assert alone.macs == STEPS * by_output + others


class TestMeasuring:
    def test_the_float32_graph_loses_nothing(
        self, fused: ModelProto, outline: Outline, images: list[CalibrationImage]
    ) -> None:
        assert Judge(fused, images, BYTES).measure(fused) == QuantizationQuality(0.0, None)

    def test_quality_is_psnr_to_truth_and_to_float32(
        self, fused: ModelProto, outline: Outline, images: list[CalibrationImage]
    ) -> None:
        found = Judge(fused, images, BYTES).measure(quantize(fused, blocks_of(fused, outline)))
        assert found.psnr_drop_db is not None
        assert found.fidelity_db is not None
        assert 10 < found.fidelity_db < 60
        blind = [CalibrationImage(i.name, i.image, None) for i in images]
        assert Judge(fused, blind, BYTES).measure(fused).psnr_drop_db is None

    def test_a_block_alone_is_measured_as_if_the_whole_graph_ran(
        self, fused: ModelProto, outline: Outline, images: list[CalibrationImage]
    ) -> None:
        blocks = [
            p for p in blocks_of(fused, outline) if p.name.startswith(("decoder.layers.2", "flow"))
        ]
        found = measure_sensitivities(
            fused, blocks, lambda chosen: quantize(fused, chosen, 64.0), images, BYTES
        )
        assert [s.block for s in found] == blocks
        judge = Judge(fused, images[:2], BYTES)
        for sensitivity in found:
            whole = judge.measure(quantize(fused, [sensitivity.block], 64.0)).fidelity_db
            if sensitivity.psnr_db < 50:  # else 8 bits hide it
                assert sensitivity.psnr_db == pytest.approx(whole, abs=3)
        assert any(s.psnr_db < 50 for s in found)


class FakeJudge(Judge):
    """Errors of the blocks in int8 add up; graphs are lists of blocks."""

    def __init__(self, mse: dict[str, float]) -> None:
        self.mse = mse
        self.asked: list[int] = []

    def measure(self, model: object, what: str = "") -> QuantizationQuality:  # type: ignore[override]
        assert isinstance(model, list)
        self.asked.append(len(model))
        total = sum(self.mse[block.name] for block in model)
        return QuantizationQuality(total / 1e-3, -10 * math.log10(total) if total else None)


def fake_sensitivities(
    mse: list[float], savings: list[float]
) -> tuple[list[Sensitivity], FakeJudge]:
    blocks = [Block(f"p{k}", frozenset([f"p{k}"]), 1, saving) for k, saving in enumerate(savings)]
    found = [Sensitivity(block, value) for block, value in zip(blocks, mse, strict=True)]
    return found, FakeJudge({s.block.name: s.mse for s in found})


def chosen(found: list[Sensitivity], judge: FakeJudge, budget: Budget) -> set[str]:
    selection = select_blocks(found, lambda blocks: list(blocks), judge, budget)  # type: ignore[arg-type, return-value]
    kept = {block.name for block in selection.kept}
    rest = [s.block for s in found if s.block.name not in kept]
    assert selection.quality == judge.measure(rest)
    assert budget.allows(selection.quality)
    return kept


class TestSelection:
    def test_nothing_is_kept_where_the_budget_holds_already(self) -> None:
        found, judge = fake_sensitivities([1e-6] * 5, [1] * 5)
        assert chosen(found, judge, Budget("INT8", 0.3, 35)) == set()
        assert judge.asked[0] == 5

    def test_only_the_worst_block_is_kept(self) -> None:
        found, judge = fake_sensitivities([1e-6] * 20 + [5e-4] + [1e-6] * 20, [1] * 41)
        assert chosen(found, judge, Budget("INT8", 0.3, 35)) == {"p20"}

    def test_of_two_equal_errors_the_block_that_saves_less_is_kept(self) -> None:
        found, judge = fake_sensitivities([2e-4, 2e-4, 1e-6], [100, 1, 1])
        assert chosen(found, judge, Budget("INT8", 0.3, 30)) == {"p1"}

    def test_the_floor_counts_where_there_is_no_truth(self) -> None:
        found, judge = fake_sensitivities([1e-3, 1e-5], [1, 1])
        assert chosen(found, judge, Budget("INT8", None, 35)) == {"p0"}

    def test_a_block_kept_needlessly_returns_to_int8(self) -> None:
        # The ranking keeps the cheap p0 first, but p1 alone would have done.
        found, judge = fake_sensitivities([5e-5, 3e-4], [0.01, 1])
        assert chosen(found, judge, Budget("INT8", 0.3, 30)) == {"p1"}

    def test_a_budget_that_cannot_be_met_names_the_best_and_the_worst_block(self) -> None:
        class Stubborn(FakeJudge):
            def measure(self, model: object, what: str = "") -> QuantizationQuality:  # type: ignore[override]
                return QuantizationQuality(0.5, 33.25)

        found, _ = fake_sensitivities([1e-4] * 6 + [1e-3] + [1e-4] * 2, [1] * 9)
        expected = r"a drop of 0\.500 dB and 33\.2 dB; worst block: p6 \(30\.0 dB alone\)"
        with pytest.raises(QualityError, match=expected):
            chosen(found, Stubborn({}), Budget("INT8", 0.3, 35))

    def test_some_of_the_budget_is_left_for_other_images(self) -> None:
        budget = Budget("INT8", 0.3, 35)
        assert not budget.allows(QuantizationQuality(0.29, 50))
        assert not budget.allows(QuantizationQuality(0.1, 35.1))
        assert budget.allows(QuantizationQuality(0.26, 36))
        assert budget.allows(QuantizationQuality(0.0, None)), "identical"


def test_blocks_are_hashable_and_have_unique_names(fused: ModelProto, outline: Outline) -> None:
    blocks = blocks_of(fused, outline)
    assert len({block.name for block in blocks}) == len(set(blocks)) == len(blocks)
    assert min(block.saving for block in blocks) > 0
