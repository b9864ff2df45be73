"""w8: int8 weights, floating-point activations, inside the budget of the restored picture."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, numpy_helper

from elir_deploy.errors import QualityError
from elir_deploy.export.block_choice import QuantizationOptions, QuantizationReport
from elir_deploy.export.budget import Judge, blocks_of
from elir_deploy.export.calibration import CalibrationImage, packaged_images
from elir_deploy.export.convolutions import convolution_precisions
from elir_deploy.export.equalization import equalize, weight_levelling_factors
from elir_deploy.export.w8 import WeightRecipe, choose_weights
from elir_deploy.scopes import Outline
from elir_deploy.tasks import TASKS
from tests.export.conftest import BYTES, SIZE


@pytest.fixture(scope="module")
def images() -> list[CalibrationImage]:
    return packaged_images(TASKS["tiny"], SIZE)


@pytest.fixture(scope="module")
def every(fused: ModelProto, outline: Outline, images: list[CalibrationImage]) -> WeightRecipe:
    """Every weight, as for random weights."""
    recipe, report = choose_weights(fused, outline, images, BYTES, QuantizationOptions(), None)
    assert report == QuantizationReport()
    return recipe


def test_only_weights_are_rounded(fused: ModelProto, outline: Outline, every: WeightRecipe) -> None:
    graph = every.apply(fused).graph
    operators = Counter(node.op_type for node in graph.node)
    assert "QuantizeLinear" not in operators
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    producers = {name: node for node in graph.node for name in node.output}
    convolutions = [n for n in graph.node if n.op_type in ("Conv", "ConvTranspose")]
    dequantised = [n.input[1] for n in convolutions if n.input[1] in producers]
    ends = [n for n in convolutions if n.input[1] not in producers]
    assert len(ends) == 2, "the RGB ends stay in floating point"
    # A weight that several steps use is stored once.
    assert operators["DequantizeLinear"] == len(set(dequantised)) < len(dequantised)
    equalized = {
        t.name: numpy_helper.to_array(t) for t in equalize(fused, every.factors).graph.initializer
    }
    for name in set(dequantised):
        weight, scale, zero = (tensors[i] for i in producers[name].input)
        assert weight.data_type == TensorProto.INT8
        assert not numpy_helper.to_array(zero).any()
        axis = producers[name].attribute[0].i
        shape = [-1 if i == axis else 1 for i in range(4)]
        steps = numpy_helper.to_array(scale).reshape(shape)
        rounded = numpy_helper.to_array(weight) * steps
        error = np.abs(rounded - equalized[name.removesuffix(".dequantized")])
        assert (error <= steps / 2 * (1 + 1e-5)).all()


def test_it_computes_in_float(fused: ModelProto, every: WeightRecipe) -> None:
    counts = convolution_precisions(every.apply(fused))
    assert counts["int8"] == counts["fp16"] == 0
    assert counts == convolution_precisions(fused)


def test_levelled_weights_are_an_exact_rewrite(
    fused: ModelProto, images: list[CalibrationImage]
) -> None:
    factors = weight_levelling_factors(fused)
    assert factors
    quality = Judge(fused, images, BYTES).measure(equalize(fused, factors))
    # Rounding of float32 may move a value that lies half-way between two levels.
    assert quality.fidelity_db is None or quality.fidelity_db > 60


def test_corrections_help(
    fused: ModelProto, outline: Outline, images: list[CalibrationImage], every: WeightRecipe
) -> None:
    """In the mean: the error of every channel's mean is what corrections take away."""
    options = QuantizationOptions(correct_biases=False)
    plain, _ = choose_weights(fused, outline, images, BYTES, options, None)
    assert not plain.corrections
    assert set(every.corrections) == {
        node.name
        for node in every.apply(fused).graph.node
        if node.op_type in ("Conv", "ConvTranspose") and node.input[1].endswith(".dequantized")
    }
    judge = Judge(fused, images, BYTES)
    corrected, uncorrected = (judge.measure(r.apply(fused)).fidelity_db for r in (every, plain))
    assert corrected is not None
    assert uncorrected is not None
    assert corrected > uncorrected


def test_the_budget_chooses_blocks(
    fused: ModelProto, outline: Outline, images: list[CalibrationImage], every: WeightRecipe
) -> None:
    judge = Judge(fused, images, BYTES)
    of_all = judge.measure(every.apply(fused)).fidelity_db
    assert of_all is not None
    floor = of_all + 1.5  # some blocks must stay
    options = QuantizationOptions(max_psnr_drop_db=None)
    recipe, report = choose_weights(fused, outline, images, BYTES, options, floor)
    assert recipe.kept
    assert recipe.layers < every.layers
    assert all(" dB)" in text for text in recipe.kept)
    kept = [block.block for block in report.figures.blocks if block.kept]
    assert [text.split(" (")[0] for text in recipe.kept] == kept
    assert [b.block for b in report.figures.blocks] == [
        block.name for block in blocks_of(fused, outline) if block.layers
    ]
    quality = judge.measure(recipe.apply(fused)).fidelity_db
    assert quality is not None
    assert quality >= floor


def test_an_impossible_budget(
    fused: ModelProto, outline: Outline, images: list[CalibrationImage]
) -> None:
    options = QuantizationOptions(max_psnr_drop_db=-1.0)  # better than float32
    with pytest.raises(QualityError, match="w8 misses its budget"):
        choose_weights(fused, outline, images, BYTES, options, 35.0)
