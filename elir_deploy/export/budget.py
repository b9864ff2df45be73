"""Which blocks of the network INT8 may have, so that the picture stays within a budget.

Each block alone is quantised and the result's error measured; blocks are then kept in higher
precision, those that cost the picture most for the time they save first, until the whole, measured
again on every calibration image, is inside the budget. Nothing is extrapolated: what decides is
always a measured picture.
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
from elir_deploy.export.pixels import from_network, to_network
from elir_deploy.export.precision import open_session, shapes_of
from elir_deploy.export.quantization import CHANNEL_AXIS, conv_layers, residual_additions
from elir_deploy.pixels import decibels, psnr_db
from elir_deploy.progress import ProgressCallback, no_progress
from elir_deploy.scopes import (
    DECODED,
    ENCODER,
    FUSED,
    STAGE_SCOPES,
    STAGE_TENSORS,
    Outline,
    stage_of,
)

__all__ = [
    "Block",
    "Budget",
    "Judge",
    "Quality",
    "Selection",
    "Sensitivity",
    "blocks_of",
    "measure_sensitivities",
    "select_parts",
]

#: int8 multiply-accumulates in the time in which one byte is moved, on an edge GPU (a Jetson Orin
#: NX: about 25e12 a second and 100e9 bytes); they make both savings one number.
MACS_PER_BYTE = 250
#: Images that each block alone is measured on.
SENSITIVITY_IMAGES = 2
#: The most that a PSNR counts, so that means can be taken where images are identical.
IDENTICAL_DB = 100.0
#: Blocks kept at first that are tried in int8 once more.
RETRIED_BLOCKS = 6
#: The block of a budget that calibration images may use up: others differ.
CAUTION = 0.9


@dataclass(frozen=True)
class Block:
    """What is quantised together or not at all.

    Attributes:
        name: scope of its module, for a skip with a word behind it.
        layers: convolutions in it.
        skips: residual additions that would read int8.
        macs: multiply-accumulates of the convolutions, over all Euler steps.
        saving: time saved against float16, in int8 multiply-accumulates.
    """

    name: str
    layers: frozenset[str]
    skips: frozenset[str]
    macs: int
    saving: float

    @property
    def stage(self) -> str:
        found = stage_of(self.name)
        assert found is not None, self.name
        return found


@dataclass(frozen=True)
class Sensitivity:
    """What quantising one block alone does to the restored image.

    Attributes:
        block: which.
        mse: mean squared error against the float32 image, in units of [0, 1].
    """

    block: Block
    mse: float

    @property
    def psnr_db(self) -> float:
        return decibels(self.mse)


@dataclass(frozen=True)
class Quality:
    """What quantising does to 8-bit results over the calibration images.

    Attributes:
        drop_db: mean loss of PSNR to the truth; against float32 where there is no truth: None.
        fidelity_db: PSNR against float32's result, of the worst image.
    """

    drop_db: float | None
    fidelity_db: float

    def to_manifest(self) -> dict[str, float | None]:
        """As plain JSON values."""
        drop = None if self.drop_db is None else round(self.drop_db, 4)
        return {"psnr_drop_db": drop, "fidelity_db": round(self.fidelity_db, 2)}


@dataclass(frozen=True)
class Budget:
    """What INT8 may cost.

    Attributes:
        drop_db: of PSNR to the truth; None: no such limit.
        floor_db: least PSNR of each image against float32.
    """

    drop_db: float | None
    floor_db: float

    def allows(self, quality: Quality) -> bool:
        enough = quality.fidelity_db >= self.floor_db - 10 * math.log10(CAUTION)
        if self.drop_db is None or quality.drop_db is None:
            return enough
        return enough and quality.drop_db <= CAUTION * self.drop_db


@dataclass(frozen=True)
class Selection:
    """The outcome.

    Attributes:
        kept: blocks that stay in floating point.
        quality: measured with them kept.
        everything: measured with none kept.
    """

    kept: tuple[Block, ...]
    quality: Quality
    everything: Quality


def blocks_of(model: ModelProto, outline: Outline, smallest_layer: int = 0) -> list[Block]:
    """The blocks that may be quantised, in graph order; the skip of a block is a block of its own.

    Args:
        model: a float32 graph with inferred types.
        outline: of the static graph that it is of; the RGB ends are in no block and stay in higher
            precision.
        smallest_layer: convolutions of fewer weights are in none either.
    """
    shapes = shapes_of(model)
    layers: dict[str, set[str]] = {}
    macs: dict[str, int] = {}
    for layer, nodes in conv_layers(model, smallest_layer).items():
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
    blocks = [
        Block(name, frozenset(found), frozenset(), macs[name], macs[name])
        for name, found in layers.items()
    ]
    additions = set(residual_additions(model, outline.skip_blocks, smallest_layer))
    for node in model.graph.node:
        if node.name in additions:
            # float16 moves one byte more in each direction.
            moved = 2 * math.prod(shapes[node.output[0]])
            name = f"{outline.block_of(node.name)} skip"
            blocks.append(
                Block(name, frozenset(), frozenset([node.name]), 0, moved * MACS_PER_BYTE)
            )
    return blocks


class Judge:
    """Measures quantised graphs against the float32 one on calibration images.

    Args:
        model: the fused float32 graph.
        images: at least one.
        io: format of the graph's image ends.
    """

    def __init__(
        self,
        model: ModelProto,
        images: Sequence[CalibrationImage],
        io: str,
        progress: ProgressCallback = no_progress,
    ) -> None:
        self.images = images
        self._io = io
        self._model = model
        self._progress = progress
        session = open_session(model)
        self._exact = []
        for done, image in enumerate(images):
            progress("running float32", done, len(images))
            self._exact.append(self._run(session, image))

    def _run(self, session: Any, image: CalibrationImage) -> NDArray[np.uint8]:
        feed = {STAGE_TENSORS[FUSED][0]: to_network(image.image, self._io)}
        return from_network(session.run(None, feed)[0])

    def measure(self, model: ModelProto, what: str = "measuring INT8") -> Quality:
        """What a quantised graph does to the images."""
        session = open_session(model)
        drops, fidelities = [], []
        for done, (image, exact) in enumerate(zip(self.images, self._exact, strict=True)):
            self._progress(what, done, len(self.images))
            made = self._run(session, image)
            fidelities.append(_psnr(made, exact))
            if image.truth is not None:
                drops.append(_psnr(exact, image.truth) - _psnr(made, image.truth))
        drop = float(np.mean(drops)) if drops else None
        return Quality(drop, min(fidelities))


def measure_sensitivities(
    model: ModelProto,
    blocks: Sequence[Block],
    quantize: Callable[[Collection[Block]], ModelProto],
    images: Sequence[CalibrationImage],
    io: str,
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
        io: format of the graph's image ends.
    """
    images = images[:SENSITIVITY_IMAGES]
    inputs, exact = _boundaries(model, images, io)
    found = []
    for done, block in enumerate(blocks):
        progress("measuring what each block costs", done, len(blocks))
        start = STAGE_TENSORS[block.stage][0]
        cut = onnx.utils.Extractor(quantize([block])).extract_model([start], [DECODED])
        session = open_session(cut)
        errors = [
            np.mean((_clipped(session.run(None, {start: inputs[k][start]})[0]) - exact[k]) ** 2)
            for k in range(len(images))
        ]
        found.append(Sensitivity(block, float(np.mean(errors))))
    progress("measuring what each block costs", len(blocks), len(blocks))
    return found


def _clipped(image: NDArray[np.float32]) -> NDArray[np.float32]:
    return image.clip(0, 1)


def _boundaries(
    model: ModelProto, images: Sequence[CalibrationImage], io: str
) -> tuple[list[dict[str, NDArray[np.generic]]], list[NDArray[np.float32]]]:
    """Each stage's input, and the clipped image, of the exact graph, for each image."""
    probe = ModelProto()
    probe.CopyFrom(model)
    starts = [STAGE_TENSORS[stage][0] for stage in STAGE_SCOPES if stage != ENCODER]
    known = {value.name: value for value in (*model.graph.value_info, *model.graph.output)}
    del probe.graph.output[:]
    probe.graph.output.extend(known[name] for name in (*starts, DECODED))
    session = open_session(probe, in_graph_order=True)
    first = STAGE_TENSORS[FUSED][0]
    inputs, exact = [], []
    for image in images:
        fed = to_network(image.image, io)
        *values, end = session.run(None, {first: fed})
        inputs.append({first: fed, **dict(zip(starts, values, strict=True))})
        exact.append(_clipped(end))
    return inputs, exact


def select_parts(
    sensitivities: Sequence[Sensitivity],
    quantize: Callable[[Collection[Block]], ModelProto],
    judge: Judge,
    budget: Budget,
) -> Selection:
    """Keep as little as possible in floating point so that ``budget`` holds on every image.

    Args:
        sensitivities: of all blocks.
        quantize: the graph with only those blocks in int8.
        judge: measures it.
        budget: what must hold.

    Raises:
        QualityError: it does not hold even with every block kept; the message has what does.
    """
    # Those that cost the picture most for the time they save.
    ranked = sorted(sensitivities, key=lambda s: s.mse / s.block.saving, reverse=True)

    def measured(kept: Collection[Block]) -> Quality:
        rest = [s.block for s in sensitivities if s.block not in kept]
        what = f"measuring INT8 with {len(kept)} of {len(sensitivities)} blocks kept"
        return judge.measure(quantize(rest), what)

    everything = measured([])
    if budget.allows(everything):
        return Selection((), everything, everything)
    best = everything
    fails, count = 0, max(1, len(ranked) // 8)
    while not budget.allows(quality := measured([s.block for s in ranked[:count]])):
        best = max(best, quality, key=lambda q: q.fidelity_db)
        if count == len(ranked):
            raise QualityError(_missed(budget, best))
        fails, count = count, min(2 * count, len(ranked))
    while count - fails > 1:  # each block kept helps: the fewest from the top by bisection
        middle = (fails + count) // 2
        found = measured([s.block for s in ranked[:middle]])
        if budget.allows(found):
            count, quality = middle, found
        else:
            fails = middle
    kept = [s.block for s in ranked[:count]]
    if len(kept) > 1:
        kept, quality = _spared(kept, quality, measured, budget)
    return Selection(tuple(kept), quality, everything)


def _spared(
    kept: list[Block],
    quality: Quality,
    measured: Callable[[Collection[Block]], Quality],
    budget: Budget,
) -> tuple[list[Block], Quality]:
    """Try once more in int8 what saves most: the last block kept may have freed enough for it."""
    for block in sorted(kept, key=lambda p: p.saving, reverse=True)[:RETRIED_BLOCKS]:
        fewer = [other for other in kept if other is not block]
        found = measured(fewer)
        if budget.allows(found):
            kept, quality = fewer, found
    return kept, quality


def _missed(budget: Budget, best: Quality) -> str:
    wanted = f"at least {budget.floor_db:g} dB against float32"
    reached = f"{best.fidelity_db:.1f} dB"
    if budget.drop_db is not None and best.drop_db is not None:
        wanted = f"a drop of at most {budget.drop_db:g} dB, and {wanted}"
        reached = f"a drop of {best.drop_db:.3f} dB and {reached}"
    return (
        f"INT8 cannot be kept inside its budget ({wanted}) on the calibration images: the best is "
        f"{reached}; allow more with --max-psnr-drop, or take fp16"
    )


def _psnr(image: NDArray[np.uint8], reference: NDArray[np.uint8]) -> float:
    return min(psnr_db(image, reference), IDENTICAL_DB)
