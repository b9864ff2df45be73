"""Which blocks a reduced precision quantises: all of them, or as many as its budget allows."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import msgspec
from onnx import ModelProto

from elir_deploy.export.budget import (
    Block,
    Budget,
    Judge,
    Sensitivity,
    measure_sensitivities,
    select_blocks,
)
from elir_deploy.export.calibration import CalibrationImage
from elir_deploy.export.pixels import Feeder
from elir_deploy.pixels import finite_or_none
from elir_deploy.progress import ProgressCallback
from elir_deploy.runtime.manifest import BlockSensitivity, QuantizationQuality

__all__ = [
    "NOT_MEASURED",
    "QuantizationFigures",
    "QuantizationOptions",
    "QuantizationReport",
    "choose_blocks",
]


@dataclass(frozen=True)
class QuantizationOptions:
    """Options for INT8 and w8.

    Attributes:
        equalize: balance the channels first.
        correct_biases: take back the mean error of rounding.
        max_psnr_drop_db: budget of PSNR to the truth; None: the floor alone.
    """

    equalize: bool = True
    correct_biases: bool = True
    max_psnr_drop_db: float | None = 0.3


class QuantizationFigures(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Measured figures of INT8 or w8; the manifest's ``quantization`` has those of INT8."""

    max_psnr_drop_db: float | None
    measured: QuantizationQuality | None
    everything_int8: QuantizationQuality | None
    blocks: list[BlockSensitivity]

    @property
    def kept(self) -> list[str]:
        """Names of the blocks that stay in floating point."""
        return [block.block for block in self.blocks if block.kept]


#: Where nothing had to be chosen.
NOT_MEASURED = QuantizationFigures(None, None, None, [])


@dataclass(frozen=True)
class QuantizationReport:
    """Measurements on the way to INT8 or w8; empty where nothing had to be chosen.

    Attributes:
        figures: of the whole network; those of INT8 as the bundle records them.
        sensitivities: of each block alone, in the order of ``figures.blocks``.
    """

    figures: QuantizationFigures = NOT_MEASURED
    sensitivities: tuple[Sensitivity, ...] = ()


def choose_blocks(
    exact: ModelProto,
    model: ModelProto,
    blocks: Sequence[Block],
    quantize: Callable[[Collection[Block]], ModelProto],
    images: Sequence[CalibrationImage],
    feeder: Feeder,
    budget: Budget | None,
    progress: ProgressCallback,
) -> tuple[list[Block], QuantizationReport]:
    """The blocks to quantise, in order, and what was measured.

    Args:
        exact: the fused float32 graph.
        model: the one that ``quantize`` starts from, such as ``exact`` with its channels equalised.
        blocks: that may be quantised.
        quantize: the graph with only those blocks quantised.
        images: to measure on.
        feeder: makes the graph's inputs.
        budget: None measures nothing and chooses every block, as for random weights, whose images
            mean nothing.
        progress: called with the state of the work.

    Raises:
        QualityError: the budget cannot be met.
    """
    if budget is None:
        return list(blocks), QuantizationReport()
    sensitivities = measure_sensitivities(model, blocks, quantize, images, feeder, progress)
    judge = Judge(exact, images, feeder, progress)
    selection = select_blocks(sensitivities, quantize, judge, budget)
    figures = QuantizationFigures(
        budget.drop_db,
        _rounded(selection.quality),
        _rounded(selection.everything),
        [
            BlockSensitivity(
                block=s.block.name,
                macs=s.block.macs,
                psnr_db=finite_or_none(round(s.psnr_db, 2)),
                kept=s.block in selection.kept,
            )
            for s in sensitivities
        ],
    )
    chosen = [block for block in blocks if block not in selection.kept]
    return chosen, QuantizationReport(figures, tuple(sensitivities))


def _rounded(quality: QuantizationQuality) -> QuantizationQuality:
    drop, fidelity = quality.psnr_drop_db, quality.fidelity_db
    return QuantizationQuality(
        None if drop is None else round(drop, 4), None if fidelity is None else round(fidelity, 2)
    )
