"""INT8 from calibration to graph: equalise, place, choose ranges, correct biases, stay in budget.

What was found is a recipe, plain JSON that travels in the bundle: it makes the same graph again
without the images.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from elir_deploy.errors import BundleError, UsageError
from elir_deploy.export.bias_correction import bias_corrections
from elir_deploy.export.budget import (
    Block,
    Budget,
    Judge,
    Quality,
    Sensitivity,
    blocks_of,
    measure_sensitivities,
    select_parts,
)
from elir_deploy.export.calibration import CalibrationImage, TensorStatistics, collect_statistics
from elir_deploy.export.equalization import channel_factors, equalize
from elir_deploy.export.pixels import to_network
from elir_deploy.export.quantization import Placement, activations, place, quantize_graph
from elir_deploy.pixels import finite_or_none
from elir_deploy.progress import ProgressCallback, no_progress
from elir_deploy.runtime.bundle import Bundle
from elir_deploy.runtime.manifest import File, Quantization
from elir_deploy.runtime.manifest_file import MANIFEST_NAME
from elir_deploy.scopes import FUSED, STAGE_TENSORS, Outline

__all__ = [
    "RECIPE_NAME",
    "Int8Options",
    "Int8Report",
    "Recipe",
    "calibrate",
    "graph_sha256",
    "holds_recipe",
]

#: Its file in a bundle.
RECIPE_NAME = "calibration.json"
RECIPE_FORMAT = "elir-int8-recipe"
RECIPE_VERSION = 3
#: A recipe is some hundred kilobytes.
MAX_RECIPE_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Int8Options:
    """How INT8 is made.

    Attributes:
        equalize: balance the channels first.
        correct_biases: take back the mean error of rounding.
        max_psnr_drop_db: budget of PSNR to the truth; None: the floor alone.
        smallest_layer: convolutions of fewer weights stay in floating point; 0: none because of
            that.
    """

    equalize: bool = True
    correct_biases: bool = True
    max_psnr_drop_db: float | None = 0.3
    smallest_layer: int = 0

    def __post_init__(self) -> None:
        if self.smallest_layer < 0:
            raise UsageError(
                f"the smallest layer in INT8 has {self.smallest_layer} weights, wanted 0 or more"
            )


@dataclass(frozen=True)
class Int8Report:
    """What was measured on the way; all of it is empty where nothing had to be chosen.

    Attributes:
        max_psnr_drop_db: the budget.
        quality: of the chosen graph on the calibration images.
        everything: of the graph with every block in INT8.
        sensitivities: of each block alone.
        kept: names of the blocks that stay in floating point.
    """

    max_psnr_drop_db: float | None = None
    quality: Quality | None = None
    everything: Quality | None = None
    sensitivities: tuple[Sensitivity, ...] = ()
    kept: tuple[str, ...] = ()

    def to_manifest(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "max_psnr_drop_db": self.max_psnr_drop_db,
            "measured": None if self.quality is None else self.quality.to_manifest(),
            "everything_int8": None if self.everything is None else self.everything.to_manifest(),
            "blocks": [
                {
                    "block": s.block.name,
                    "macs": s.block.macs,
                    "psnr_db": finite_or_none(round(s.psnr_db, 2)),
                    "kept": s.block.name in self.kept,
                }
                for s in self.sensitivities
            ],
        }


@dataclass(frozen=True)
class Recipe:
    """All that makes a float32 graph, or a stage of it, an INT8 one.

    Attributes:
        graph_sha256: of the fused float32 graph it is for.
        images: how many the ranges were chosen on.
        factors: tensor to the equalising factor of each channel.
        amax: scale name to the magnitude that becomes 127.
        corrections: node name to what its bias is corrected by.
        layers: convolutions in INT8.
        skips: residual additions that read INT8.
        measured: what the manifest says was measured with it (:meth:`Int8Report.to_manifest`).
        smallest_layer: convolutions of fewer weights are not among ``layers``.
    """

    graph_sha256: str
    images: int
    layers: frozenset[str]
    skips: frozenset[str]
    amax: Mapping[str, float]
    factors: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    corrections: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    measured: Mapping[str, Any] = field(default_factory=dict)
    smallest_layer: int = 0

    @property
    def kept(self) -> list[str]:
        """What stays in floating point: blocks by name, and all layers that are too small."""
        small = f"convolutions of fewer than {self.smallest_layer} weights"
        blocks = [block["block"] for block in self.measured["blocks"] if block["kept"]]
        return [small, *blocks] if self.smallest_layer else blocks

    def manifest_entry(self, file: File) -> Quantization:
        """What the manifest says of the recipe that was written as ``file``.

        Raises:
            BundleError: what a stored recipe says was measured is damaged.
        """
        entry = {
            **msgspec.to_builtins(file),
            "images": self.images,
            "smallest_layer": self.smallest_layer,
            **self.measured,
        }
        try:
            return msgspec.convert(entry, Quantization)
        except msgspec.ValidationError as error:
            raise BundleError(f"the stored calibration is damaged: {error}") from None

    def smallest_entry(self) -> dict[str, int]:
        """``smallest_layer`` as it is stored: only where there is one."""
        return {"smallest_layer": self.smallest_layer} if self.smallest_layer else {}

    def apply(self, model: ModelProto) -> ModelProto:
        """The fused float32 graph, or one stage of it, with its Q/DQ pairs."""
        equalized = equalize(model, self.factors)
        placement = place(equalized, self.layers, self.skips)
        return quantize_graph(equalized, placement, self.amax, self.corrections)

    def to_json(self) -> bytes:
        """As it is stored; the same recipe gives the same bytes."""
        values = {
            "format": RECIPE_FORMAT,
            "version": RECIPE_VERSION,
            "graph_sha256": self.graph_sha256,
            "images": self.images,
            **self.smallest_entry(),
            "layers": sorted(self.layers),
            "skips": sorted(self.skips),
            "amax": {name: float(str(np.float32(v))) for name, v in sorted(self.amax.items())},
            "factors": _lists(self.factors),
            "corrections": _lists(self.corrections),
            "measured": self.measured,
        }
        return (json.dumps(values, separators=(",", ":"), allow_nan=False) + "\n").encode()

    @classmethod
    def read(cls, path: Path) -> Recipe:
        """A stored recipe: the file, or the bundle that holds it.

        Raises:
            BundleError: it is none, or damaged.
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
                smallest_layer=_count(values.get("smallest_layer", 0)),
                layers=frozenset(map(str, values["layers"])),
                skips=frozenset(map(str, values["skips"])),
                amax={str(k): float(np.float32(v)) for k, v in values["amax"].items()},
                factors=_arrays(values["factors"]),
                corrections=_arrays(values["corrections"]),
                measured={key: values["measured"][key] for key in Int8Report().to_manifest()},
            )
        except OSError as error:
            raise BundleError(f"{file} cannot be read: {error.strerror}") from None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise BundleError(
                f"{file} is no calibration of elir-export ({error}): wanted a folder of images, "
                f"a bundle with INT8, or its {RECIPE_NAME}"
            ) from None

    def check_graph(self, fused: ModelProto) -> None:
        """Whether it is for this fused float32 graph.

        Raises:
            BundleError: it is not.
        """
        seen = graph_sha256(fused)
        if self.graph_sha256 != seen:
            raise BundleError(
                f"the calibration is of another graph ({self.graph_sha256[:12]}, this "
                f"one is {seen[:12]}): other weights, image size, steps, noise or versions; "
                "calibrate again with --calibration FOLDER"
            )


def holds_recipe(path: Path) -> bool:
    """Whether it is a bundle or a file, and so no folder of images."""
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


def _count(value: object) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} is no number of weights")
    return value


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no number")


def graph_sha256(model: ModelProto) -> str:
    """Of a graph's structure and weights."""
    return hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()


def calibrate(
    model: ModelProto,
    outline: Outline,
    images: Sequence[CalibrationImage],
    io: str,
    options: Int8Options,
    floor_db: float | None,
    progress: ProgressCallback = no_progress,
) -> tuple[Recipe, Int8Report]:
    """Find the recipe for a fused float32 graph.

    Args:
        model: the fused graph.
        outline: of the static graph that it is of.
        images: to calibrate and to measure on.
        io: format of the graph's image ends.
        options: how.
        floor_db: least PSNR against float32; None measures nothing and quantises everything, as
            for random weights, whose pictures mean nothing.
        progress: called with what is being done, and how far it is.

    Raises:
        QualityError: the budget cannot be met.
    """
    calibrated = _Calibrated(model, outline, images, io, options, progress)
    blocks = blocks_of(calibrated.model, outline, options.smallest_layer)
    if floor_db is None:
        return calibrated.recipe(blocks, Int8Report()), Int8Report()
    sensitivities = measure_sensitivities(
        calibrated.model, blocks, calibrated.quantized, images, io, progress
    )
    judge = Judge(model, images, io, progress)
    budget = Budget(options.max_psnr_drop_db, floor_db)
    selection = select_parts(sensitivities, calibrated.quantized, judge, budget)
    report = Int8Report(
        max_psnr_drop_db=options.max_psnr_drop_db,
        quality=selection.quality,
        everything=selection.everything,
        sensitivities=tuple(sensitivities),
        kept=tuple(block.name for block in selection.kept),
    )
    rest = [block for block in blocks if block not in selection.kept]
    return calibrated.recipe(rest, report), report


class _Calibrated:
    """A graph with its statistics, from which any choice of blocks is quantised."""

    def __init__(
        self,
        model: ModelProto,
        outline: Outline,
        images: Sequence[CalibrationImage],
        io: str,
        options: Int8Options,
        progress: ProgressCallback,
    ) -> None:
        self.options = options
        self.images = len(images)
        self.sha256 = graph_sha256(model)
        first = STAGE_TENSORS[FUSED][0]
        feeds = ({first: to_network(image.image, io)} for image in images)
        read = activations(model, outline.skip_blocks, options.smallest_layer)
        statistics = (
            collect_statistics(model, read, feeds, images=len(images), progress=progress)
            if read  # else every layer is too small
            else {}
        )
        self.factors = channel_factors(model, statistics) if options.equalize else {}
        self.model = equalize(model, self.factors)
        self.statistics: dict[str, TensorStatistics] = {
            name: found.scaled(self.factors[name]) if name in self.factors else found
            for name, found in statistics.items()
        }
        self.amax = {name: float(found.peak.max()) for name, found in self.statistics.items()}

    def _placed(self, blocks: Collection[Block]) -> tuple[Placement, dict[str, float]]:
        layers = {layer for block in blocks for layer in block.layers}
        skips = {skip for block in blocks for skip in block.skips}
        placement = place(self.model, layers, skips)
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

    def quantized(self, blocks: Collection[Block]) -> ModelProto:
        """The graph with these blocks in INT8."""
        placement, amax = self._placed(blocks)
        return quantize_graph(self.model, placement, amax, self._corrections(placement, amax))

    def recipe(self, blocks: Collection[Block], report: Int8Report) -> Recipe:
        """What makes :meth:`quantized` of the graph this was calibrated on."""
        placement, amax = self._placed(blocks)
        return Recipe(
            graph_sha256=self.sha256,
            images=self.images,
            smallest_layer=self.options.smallest_layer,
            layers=placement.layers,
            skips=frozenset(skip for block in blocks for skip in block.skips),
            amax=amax,
            factors=self.factors,
            corrections=self._corrections(placement, amax),
            measured=report.to_manifest(),
        )
