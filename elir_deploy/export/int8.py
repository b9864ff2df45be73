"""INT8 from calibration to graph: equalise, place, choose ranges, correct biases, stay in budget.

The result is a recipe, plain JSON in the bundle, from which the same graph is made again without
the images.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from elir_deploy.errors import BundleError
from elir_deploy.export.bias_correction import bias_corrections
from elir_deploy.export.block_choice import (
    NOT_MEASURED,
    QuantizationFigures,
    QuantizationOptions,
    QuantizationReport,
    choose_blocks,
)
from elir_deploy.export.budget import Block, Budget, blocks_of
from elir_deploy.export.calibration import CalibrationImage, TensorStatistics, collect_statistics
from elir_deploy.export.equalization import channel_factors, equalize
from elir_deploy.export.pixels import Feeder
from elir_deploy.export.quantization import Placement, activations, place, quantize_graph
from elir_deploy.progress import ProgressCallback, no_progress
from elir_deploy.runtime.bundle import Bundle
from elir_deploy.runtime.manifest import File, Quantization
from elir_deploy.runtime.manifest_file import MANIFEST_NAME
from elir_deploy.scopes import Outline

__all__ = [
    "RECIPE_NAME",
    "Recipe",
    "calibrate",
    "graph_sha256",
    "holds_recipe",
]

#: The recipe's file in a bundle.
RECIPE_NAME = "calibration.json"
RECIPE_FORMAT = "elir-int8-recipe"
RECIPE_VERSION = 4
#: A recipe is some hundred kilobytes.
MAX_RECIPE_BYTES = 64 * 2**20
#: Errors of reading what is not a recipe.
_DAMAGED = (
    *(ValueError, KeyError, TypeError, AttributeError, RecursionError),
    msgspec.ValidationError,
)


@dataclass(frozen=True)
class Recipe:
    """All that turns a float32 graph, or a stage of it, into an INT8 one.

    Attributes:
        graph_sha256: of the fused float32 graph it is for.
        images: number of images that the ranges come from.
        layers: convolutions in INT8.
        amax: scale name to the magnitude that becomes 127.
        factors: tensor to the equalising factor of each channel.
        corrections: node name to the correction of its bias.
        figures: that were measured with it.
    """

    graph_sha256: str
    images: int
    layers: frozenset[str]
    amax: Mapping[str, float]
    factors: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    corrections: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    figures: QuantizationFigures = NOT_MEASURED

    def manifest_entry(self, file: File) -> Quantization:
        """The manifest's entry for the recipe that was written as ``file``."""
        return Quantization(
            **msgspec.structs.asdict(file),
            **msgspec.structs.asdict(self.figures),
            images=self.images,
        )

    def apply(self, model: ModelProto) -> ModelProto:
        """The fused float32 graph, or one stage of it, with its Q/DQ pairs."""
        equalized = equalize(model, self.factors)
        placement = place(equalized, self.layers)
        return quantize_graph(equalized, placement, self.amax, self.corrections)

    def to_json(self) -> bytes:
        """The stored form; the same recipe gives the same bytes."""
        values = {
            "format": RECIPE_FORMAT,
            "version": RECIPE_VERSION,
            "graph_sha256": self.graph_sha256,
            "images": self.images,
            "layers": sorted(self.layers),
            "amax": {name: float(str(np.float32(v))) for name, v in sorted(self.amax.items())},
            "factors": _lists(self.factors),
            "corrections": _lists(self.corrections),
            "measured": msgspec.to_builtins(self.figures),
        }
        return (json.dumps(values, separators=(",", ":"), allow_nan=False) + "\n").encode()

    @classmethod
    def read(cls, path: Path) -> Recipe:
        """A stored recipe: the file, or the bundle that holds it.

        Raises:
            BundleError: it is not one, or damaged.
        """
        file = Bundle.open(path).checked_file(RECIPE_NAME) if path.is_dir() else path
        try:
            if file.stat().st_size > MAX_RECIPE_BYTES:
                raise ValueError("it is too large")
            values = json.loads(file.read_bytes(), parse_constant=_no_constant)
            if values["format"] != RECIPE_FORMAT or values["version"] != RECIPE_VERSION:
                raise ValueError("it is of another format or version")
            return cls(
                graph_sha256=str(values["graph_sha256"]),
                images=int(values["images"]),
                layers=frozenset(map(str, values["layers"])),
                amax={str(k): float(np.float32(v)) for k, v in values["amax"].items()},
                factors=_arrays(values["factors"]),
                corrections=_arrays(values["corrections"]),
                figures=msgspec.convert(values["measured"], QuantizationFigures),
            )
        except OSError as error:
            raise BundleError(f"{file} cannot be read: {error.strerror}") from None
        except _DAMAGED as error:
            raise BundleError(
                f"{file} is not a calibration of elir-export ({error}): expected a folder of "
                f"images, a bundle with INT8, or its {RECIPE_NAME}"
            ) from None

    def check_graph(self, fused: ModelProto) -> None:
        """Check that the recipe is for this fused float32 graph.

        Raises:
            BundleError: it is for another.
        """
        expected = graph_sha256(fused)
        if self.graph_sha256 != expected:
            raise BundleError(
                f"the calibration is for another graph ({self.graph_sha256[:12]}, expected "
                f"{expected[:12]}): other weights, image size, steps, noise or versions; calibrate "
                "again with --calibration FOLDER"
            )


def holds_recipe(path: Path) -> bool:
    """Whether it is a bundle or a file, not a folder of images."""
    return path.is_file() or (path / MANIFEST_NAME).is_file()


def _lists(arrays: Mapping[str, NDArray[np.float32]]) -> dict[str, list[float]]:
    # The shortest decimals that give the same float32 again.
    return {name: [float(str(v)) for v in arrays[name]] for name in sorted(arrays)}


def _arrays(lists: Mapping[str, Sequence[float]]) -> dict[str, NDArray[np.float32]]:
    arrays = {str(name): np.asarray(values, np.float32) for name, values in lists.items()}
    for name, array in arrays.items():
        if array.ndim != 1 or not np.isfinite(array).all():
            raise ValueError(f"the values of {name} are not finite numbers")
    return arrays


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number")


def graph_sha256(model: ModelProto) -> str:
    """Hash of a graph's structure and weights."""
    return hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()


def calibrate(
    model: ModelProto,
    outline: Outline,
    images: Sequence[CalibrationImage],
    feeder: Feeder,
    options: QuantizationOptions,
    floor_db: float | None,
    progress: ProgressCallback = no_progress,
) -> tuple[Recipe, QuantizationReport]:
    """Find the recipe for a fused float32 graph.

    Args:
        model: the fused graph.
        outline: of its static graph.
        images: to calibrate and to measure on.
        feeder: makes the graph's inputs.
        options: of INT8.
        floor_db: least PSNR against float32; None measures nothing and quantises everything, as
            for random weights, whose images mean nothing.
        progress: called with the state of the work.

    Raises:
        QualityError: the budget cannot be met.
    """
    calibrated = _Calibrated(model, outline, images, feeder, options, progress)
    blocks = blocks_of(calibrated.model, outline)
    budget = None if floor_db is None else Budget("INT8", options.max_psnr_drop_db, floor_db)
    chosen, report = choose_blocks(
        model, calibrated.model, blocks, calibrated.quantize, images, feeder, budget, progress
    )
    return calibrated.recipe(chosen, report.figures), report


class _Calibrated:
    """A graph with its statistics, for quantising any choice of blocks."""

    def __init__(
        self,
        model: ModelProto,
        outline: Outline,
        images: Sequence[CalibrationImage],
        feeder: Feeder,
        options: QuantizationOptions,
        progress: ProgressCallback,
    ) -> None:
        self.options = options
        self.images = len(images)
        self.sha256 = graph_sha256(model)
        feeds = (feeder(image.image) for image in images)
        tensors = activations(model)
        statistics = collect_statistics(
            model, tensors, feeds, images=len(images), progress=progress
        )
        self.factors = channel_factors(model, statistics) if options.equalize else {}
        self.model = equalize(model, self.factors)
        self.statistics: dict[str, TensorStatistics] = {
            name: measured.scaled(self.factors[name]) if name in self.factors else measured
            for name, measured in statistics.items()
        }
        self.amax = {name: float(s.peak.max()) for name, s in self.statistics.items()}

    def _place_blocks(self, blocks: Collection[Block]) -> tuple[Placement, dict[str, float]]:
        layers = {layer for block in blocks for layer in block.layers}
        placement = place(self.model, layers)
        amax: dict[str, float] = {}
        for tensor, group in placement.groups.items():
            # No tensor is clipped.
            amax[group] = max(amax.get(group, 0.0), self.amax[tensor])
        return placement, amax

    def _corrections(
        self, placement: Placement, amax: Mapping[str, float]
    ) -> dict[str, NDArray[np.float32]]:
        if not self.options.correct_biases:
            return {}
        return bias_corrections(self.model, placement, amax, self.statistics)

    def quantize(self, blocks: Collection[Block]) -> ModelProto:
        """The graph with these blocks in INT8."""
        placement, amax = self._place_blocks(blocks)
        return quantize_graph(self.model, placement, amax, self._corrections(placement, amax))

    def recipe(self, blocks: Collection[Block], figures: QuantizationFigures) -> Recipe:
        """The recipe that turns the graph into the graph that :meth:`quantize` gives."""
        placement, amax = self._place_blocks(blocks)
        return Recipe(
            graph_sha256=self.sha256,
            images=self.images,
            layers=placement.layers,
            amax=amax,
            factors=self.factors,
            corrections=self._corrections(placement, amax),
            figures=figures,
        )
