"""w8: weights in int8 with a scale for each output channel, activations in floating point.

For small files and engines. A convolution reads its weight through a DequantizeLinear; a weight
that several Euler steps use is stored once. Unlike INT8 it rounds no activation, so that it needs
no calibration images: the package's photographs measure what it costs, and the means of the
channels, which bias corrections need, depend little on the picture.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from elir_deploy.export.bias_correction import weight_bias_corrections
from elir_deploy.export.block_choice import (
    QuantizationOptions,
    QuantizationReport,
    choose_blocks,
)
from elir_deploy.export.budget import Block, Budget, blocks_of
from elir_deploy.export.calibration import CalibrationImage, TensorStatistics, collect_statistics
from elir_deploy.export.equalization import equalize, weight_levelling_factors
from elir_deploy.export.pixels import Feeder
from elir_deploy.export.quantization import Placement, conv_layers, quantize_graph
from elir_deploy.pixels import db_from_json
from elir_deploy.progress import ProgressCallback, no_progress
from elir_deploy.scopes import Outline

__all__ = ["WeightRecipe", "choose_weights"]


@dataclass(frozen=True)
class WeightRecipe:
    """All that turns a float32 graph, or a stage of it, into w8.

    Attributes:
        layers: convolutions whose weights are int8.
        factors: tensor to the equalising factor of each channel.
        corrections: node name to the correction of its bias.
        kept: blocks whose weights stay in floating point, with the reason.
    """

    layers: frozenset[str]
    factors: Mapping[str, NDArray[np.float32]]
    corrections: Mapping[str, NDArray[np.float32]]
    kept: tuple[str, ...] = ()

    def apply(self, model: ModelProto) -> ModelProto:
        """The fused float32 graph, or one stage of it, with int8 weights."""
        return _quantize_weights(equalize(model, self.factors), self.layers, self.corrections)


def choose_weights(
    model: ModelProto,
    outline: Outline,
    images: Sequence[CalibrationImage],
    feeder: Feeder,
    options: QuantizationOptions,
    floor_db: float | None,
    progress: ProgressCallback = no_progress,
) -> tuple[WeightRecipe, QuantizationReport]:
    """Find the recipe for a fused float32 graph.

    Args:
        model: the fused graph.
        outline: of its static graph.
        images: to measure on.
        feeder: makes the graph's inputs.
        options: of the quantisation.
        floor_db: least PSNR against float32; None measures nothing and quantises every weight, as
            for random weights, whose images mean nothing.
        progress: called with the state of the work.

    Raises:
        QualityError: the budget cannot be met.
    """
    factors = weight_levelling_factors(model) if options.equalize else {}
    equalized = equalize(model, factors)
    convolutions = conv_layers(equalized)
    corrections: Mapping[str, NDArray[np.float32]] = {}
    if options.correct_biases:
        statistics = _statistics(equalized, images, feeder, progress)
        corrections = weight_bias_corrections(equalized, convolutions, statistics)

    def recipe(blocks: Collection[Block], kept: Sequence[str] = ()) -> WeightRecipe:
        layers = frozenset(layer for block in blocks for layer in block.layers)
        names = {node.name for layer in layers for node in convolutions[layer]}
        chosen = {name: values for name, values in corrections.items() if name in names}
        return WeightRecipe(layers, factors, chosen, tuple(kept))

    def quantize(some: Collection[Block]) -> ModelProto:
        candidate = recipe(some)
        return _quantize_weights(equalized, candidate.layers, candidate.corrections)

    blocks = [_weigh_by_bytes(model, block) for block in blocks_of(model, outline) if block.layers]
    budget = None if floor_db is None else Budget("w8", options.max_psnr_drop_db, floor_db)
    chosen, report = choose_blocks(
        model,
        equalized,
        blocks,
        quantize,
        images,
        feeder,
        budget,
        progress,
    )
    kept = [
        f"{block.block} (alone {db_from_json(block.psnr_db):.1f} dB)"
        for block in report.figures.blocks
        if block.kept
    ]
    return recipe(chosen, kept), report


def _quantize_weights(
    model: ModelProto, layers: frozenset[str], corrections: Mapping[str, NDArray[np.float32]]
) -> ModelProto:
    return quantize_graph(model, Placement({}, {}, layers), {}, corrections)


def _statistics(
    model: ModelProto,
    images: Sequence[CalibrationImage],
    feeder: Feeder,
    progress: ProgressCallback,
) -> dict[str, TensorStatistics]:
    """Of every tensor that a convolution reads."""
    tensors = {node.input[0]: None for nodes in conv_layers(model).values() for node in nodes}
    feeds = (feeder(image.image) for image in images)
    return collect_statistics(model, list(tensors), feeds, images=len(images), progress=progress)


def _weigh_by_bytes(model: ModelProto, block: Block) -> Block:
    """The block with what it saves in bytes: one for each weight."""
    sizes = {tensor.name: math.prod(tensor.dims) for tensor in model.graph.initializer}
    layers = conv_layers(model)
    return replace(block, saving=sum(sizes[layers[layer][0].input[1]] for layer in block.layers))
