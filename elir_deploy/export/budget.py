"""Choice of the blocks that are quantised, so that the restored image stays within a budget.

Each block is quantised alone and the error of the image measured. Blocks are then kept in floating
point, those with the largest error for what they save first, until the whole graph, measured
again on every calibration image, is inside the budget. Nothing is extrapolated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto

from elir_deploy.errors import QualityError
from elir_deploy.export.calibration import CalibrationImage
from elir_deploy.export.graphs import cut
from elir_deploy.export.pixels import Feeder, from_network
from elir_deploy.export.precision import open_session, shapes_of
from elir_deploy.export.quantization import CHANNEL_AXIS, conv_layers
from elir_deploy.pixels import db_from_json, decibels, finite_or_none, psnr_db
from elir_deploy.progress import ProgressCallback, no_progress
from elir_deploy.runtime.manifest import QuantizationQuality
from elir_deploy.scopes import (
    DECODED,
    ENCODER,
    STAGE_SCOPES,
    STAGE_TENSORS,
    Outline,
    stage_of,
)

__all__ = [
    "Block",
    "Budget",
    "Judge",
    "Selection",
    "Sensitivity",
    "blocks_of",
    "measure_sensitivities",
    "select_blocks",
]

#: Images that each block alone is measured on: its error decides the order alone, and the whole
#: graph is then measured on all.
SENSITIVITY_IMAGES = 2
#: PSNR of identical images in a mean of differences, which would be infinite.
_IDENTICAL_DB = 100.0
#: Blocks kept at first that are tried in int8 once more; each takes a run on every image.
RETRIED_BLOCKS = 6
#: Share of a budget that calibration images may use up: others differ.
CAUTION = 0.9


@dataclass(frozen=True)
class Block:
    """Layers that are quantised together or not at all.

    Attributes:
        name: scope of its module.
        layers: convolutions in it.
        macs: multiply-accumulates of the convolutions, over all Euler steps.
        saving: what quantising it saves: multiply-accumulates in INT8, bytes of weights in w8.
    """

    name: str
    layers: frozenset[str]
    macs: int
    saving: float

    @property
    def stage(self) -> str:
        stage = stage_of(self.name)
        assert stage is not None, self.name
        return stage


@dataclass(frozen=True)
class Sensitivity:
    """Error of the restored image with one block alone quantised.

    Attributes:
        block: that is quantised.
        mse: mean squared error against the float32 image, in units of [0, 1].
    """

    block: Block
    mse: float

    @property
    def psnr_db(self) -> float:
        return decibels(self.mse)


@dataclass(frozen=True)
class Budget:
    """Limits of what a precision may cost.

    Attributes:
        precision: its name, for messages.
        drop_db: loss of PSNR to the truth; None: no limit.
        floor_db: least PSNR of each image against float32.
    """

    precision: str
    drop_db: float | None
    floor_db: float

    def allows(self, quality: QuantizationQuality) -> bool:
        """Whether ``quality`` leaves a share of the budget for other images."""
        faithful = db_from_json(quality.fidelity_db) >= self.floor_db + decibels(CAUTION)
        if self.drop_db is None or quality.psnr_drop_db is None:
            return faithful
        return faithful and quality.psnr_drop_db <= CAUTION * self.drop_db


@dataclass(frozen=True)
class Selection:
    """Blocks chosen within a budget.

    Attributes:
        kept: blocks that stay in floating point.
        quality: measured with them kept.
        everything: measured with none kept.
    """

    kept: tuple[Block, ...]
    quality: QuantizationQuality
    everything: QuantizationQuality


def blocks_of(model: ModelProto, outline: Outline) -> list[Block]:
    """The blocks that may be quantised, in graph order.

    Args:
        model: a float32 graph with inferred types.
        outline: of the static graph that it is of; the RGB ends are in no block and stay in higher
            precision.
    """
    shapes = shapes_of(model)
    layers: dict[str, set[str]] = {}
    macs: dict[str, int] = {}
    for layer, nodes in conv_layers(model).items():
        name = outline.block_of(layer)
        if name is None:
            continue
        layers.setdefault(name, set()).add(layer)
        shape = shapes[nodes[0].input[1]]
        for node in nodes:
            axis = 1 - CHANNEL_AXIS[node.op_type]
            # Of a transposed convolution each input pixel meets every tap.
            pixels = node.output[0] if node.op_type == "Conv" else node.input[0]
            outputs = math.prod(shapes[pixels][2:]) * shape[1 - axis]
            macs[name] = macs.get(name, 0) + outputs * math.prod(shape[2:]) * shape[axis]
    return [
        Block(name, frozenset(members), macs[name], macs[name]) for name, members in layers.items()
    ]


class Judge:
    """Measures quantised graphs against the float32 one on calibration images.

    Args:
        model: the fused float32 graph.
        images: at least one.
        feeder: makes the graph's inputs.
    """

    def __init__(
        self,
        model: ModelProto,
        images: Sequence[CalibrationImage],
        feeder: Feeder,
        progress: ProgressCallback = no_progress,
    ) -> None:
        self.images = images
        self._feeder = feeder
        self._model = model
        self._progress = progress
        session = open_session(model)
        self._exact = []
        for done, image in enumerate(images):
            progress("running float32", done, len(images))
            self._exact.append(self._run(session, image))

    def _run(self, session: Any, image: CalibrationImage) -> NDArray[np.uint8]:
        return from_network(session.run(None, self._feeder(image.image))[0])

    def measure(self, model: ModelProto, what: str = "measuring") -> QuantizationQuality:
        """Quality of a quantised graph's results."""
        session = open_session(model)
        drops, fidelities = [], []
        for done, (image, exact) in enumerate(zip(self.images, self._exact, strict=True)):
            self._progress(what, done, len(self.images))
            output = self._run(session, image)
            fidelities.append(psnr_db(output, exact))
            if image.truth is not None:
                drops.append(
                    _capped_psnr_db(exact, image.truth) - _capped_psnr_db(output, image.truth)
                )
        drop = float(np.mean(drops)) if drops else None
        return QuantizationQuality(drop, finite_or_none(min(fidelities)))


def measure_sensitivities(
    model: ModelProto,
    blocks: Sequence[Block],
    quantize: Callable[[Collection[Block]], ModelProto],
    images: Sequence[CalibrationImage],
    feeder: Feeder,
    progress: ProgressCallback = no_progress,
) -> list[Sensitivity]:
    """Quantise each block alone and measure the restored image, in the order of ``blocks``.

    Only what stands behind the beginning of a block's stage runs again; what is before it is exact
    and computed once.

    Args:
        model: the fused float32 graph that ``quantize`` quantises.
        blocks: to be measured.
        quantize: the graph with only those blocks in int8.
        images: the first few are used.
        feeder: makes the graph's inputs.
    """
    images = images[:SENSITIVITY_IMAGES]
    inputs, exact = _run_to_stages(model, [feeder(image.image) for image in images])
    sensitivities = []
    for done, block in enumerate(blocks):
        progress("measuring what each block costs", done, len(blocks))
        start = STAGE_TENSORS[block.stage][0]
        part = cut(onnx.utils.Extractor(quantize([block])), start, DECODED)
        names = [value.name for value in part.graph.input]
        session = open_session(part)
        errors = []
        for values, expected in zip(inputs, exact, strict=True):
            decoded = session.run(None, {name: values[name] for name in names})[0]
            errors.append(np.mean((_clipped(decoded) - expected) ** 2))
        sensitivities.append(Sensitivity(block, float(np.mean(errors))))
    progress("measuring what each block costs", len(blocks), len(blocks))
    return sensitivities


def _clipped(image: NDArray[np.float32]) -> NDArray[np.float32]:
    return image.clip(0, 1)


def _run_to_stages(
    model: ModelProto, feeds: Sequence[dict[str, NDArray[Any]]]
) -> tuple[list[dict[str, NDArray[Any]]], list[NDArray[np.float32]]]:
    """Inputs of all stages, and the clipped image, of the exact graph, for each feed."""
    probe = ModelProto()
    probe.CopyFrom(model)
    starts = [STAGE_TENSORS[stage][0] for stage in STAGE_SCOPES if stage != ENCODER]
    known = {value.name: value for value in (*model.graph.value_info, *model.graph.output)}
    del probe.graph.output[:]
    probe.graph.output.extend(known[name] for name in (*starts, DECODED))
    session = open_session(probe, in_graph_order=True)
    inputs, exact = [], []
    for feed in feeds:
        *values, end = session.run(None, feed)
        inputs.append({**feed, **dict(zip(starts, values, strict=True))})
        exact.append(_clipped(end))
    return inputs, exact


def select_blocks(
    sensitivities: Sequence[Sensitivity],
    quantize: Callable[[Collection[Block]], ModelProto],
    judge: Judge,
    budget: Budget,
) -> Selection:
    """Keep as little as possible in floating point so that ``budget`` holds on every image.

    Args:
        sensitivities: of all blocks.
        quantize: gives the graph with only those blocks in int8.
        judge: measures it.
        budget: must hold on every image.

    Raises:
        QualityError: it does not hold even with every block kept; the message names the best that
            was measured, and the worst block.
    """
    # By error for the time saved, the worst first.
    ranked = sorted(sensitivities, key=lambda s: s.mse / s.block.saving, reverse=True)

    def measure_with(kept: Collection[Block]) -> QuantizationQuality:
        in_int8 = [s.block for s in sensitivities if s.block not in kept]
        what = f"measuring {budget.precision} with {len(kept)} of {len(sensitivities)} blocks kept"
        return judge.measure(quantize(in_int8), what)

    everything = measure_with([])
    if budget.allows(everything):
        return Selection((), everything, everything)
    best = everything
    # Doubled from an eighth on: few graphs need more, and each try takes a run on every image.
    fails, count = 0, max(1, len(ranked) // 8)
    while not budget.allows(quality := measure_with([s.block for s in ranked[:count]])):
        best = max(best, quality, key=lambda q: db_from_json(q.fidelity_db))
        if count == len(ranked):
            raise QualityError(_describe_miss(budget, best, sensitivities))
        fails, count = count, min(2 * count, len(ranked))
    while count - fails > 1:  # each block kept helps: the fewest from the top by bisection
        middle = (fails + count) // 2
        between = measure_with([s.block for s in ranked[:middle]])
        if budget.allows(between):
            count, quality = middle, between
        else:
            fails = middle
    kept = [s.block for s in ranked[:count]]
    if len(kept) > 1:
        kept, quality = _retry_in_int8(kept, quality, measure_with, budget)
    return Selection(tuple(kept), quality, everything)


def _retry_in_int8(
    kept: list[Block],
    quality: QuantizationQuality,
    measure_with: Callable[[Collection[Block]], QuantizationQuality],
    budget: Budget,
) -> tuple[list[Block], QuantizationQuality]:
    """Retry the blocks that save most in int8: the last one kept may have freed enough for them."""
    for block in sorted(kept, key=lambda p: p.saving, reverse=True)[:RETRIED_BLOCKS]:
        fewer = [other for other in kept if other is not block]
        with_fewer = measure_with(fewer)
        if budget.allows(with_fewer):
            kept, quality = fewer, with_fewer
    return kept, quality


def _describe_miss(
    budget: Budget, best: QuantizationQuality, sensitivities: Sequence[Sensitivity]
) -> str:
    required = f"at least {budget.floor_db:g} dB against float32"
    reached = f"{db_from_json(best.fidelity_db):.1f} dB"
    if budget.drop_db is not None and best.psnr_drop_db is not None:
        required = f"a drop of at most {budget.drop_db:g} dB, and {required}"
        reached = f"a drop of {best.psnr_drop_db:.3f} dB and {reached}"
    worst = max(sensitivities, key=lambda s: s.mse, default=None)
    culprit = f"; worst block: {worst.block.name} ({worst.psnr_db:.1f} dB alone)" if worst else ""
    return (
        f"{budget.precision} misses its budget on the calibration images: expected {required}, "
        f"the best is {reached}{culprit}; allow more with --max-psnr-drop, or use fp16"
    )


def _capped_psnr_db(image: NDArray[np.uint8], reference: NDArray[np.uint8]) -> float:
    return min(psnr_db(image, reference), _IDENTICAL_DB)
