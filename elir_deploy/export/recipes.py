"""How the quantised precisions of an export are made: calibrated, or taken from another bundle."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from onnx import ModelProto

from elir_deploy.checkpoints import Checkpoint
from elir_deploy.errors import QualityError
from elir_deploy.export.block_choice import QuantizationReport
from elir_deploy.export.calibration import CalibrationImage, calibration_images, packaged_images
from elir_deploy.export.int8 import Recipe, calibrate, holds_recipe
from elir_deploy.export.options import ExportOptions
from elir_deploy.export.pixels import Feeder
from elir_deploy.export.verification import FLOORS_DB
from elir_deploy.export.w8 import WeightRecipe, choose_weights
from elir_deploy.progress import ProgressCallback, WarningCallback
from elir_deploy.scopes import Outline

__all__ = ["Calibration", "Recipes", "find_recipes", "prepare_calibration"]

T = TypeVar("T")


@dataclass(frozen=True)
class Calibration:
    """What the quantised precisions are calibrated and measured with.

    Attributes:
        images: of the graphs' size; empty if no precision needs them.
        stored: an INT8 calibration that is used again.
    """

    images: Sequence[CalibrationImage] = ()
    stored: Recipe | None = None


@dataclass(frozen=True)
class Recipes:
    """The recipe of each quantised precision; None where it is not exported, or failed.

    Attributes:
        reports: the measurements by precision.
        failures: why a precision has no recipe.
    """

    int8: Recipe | None = None
    w8: WeightRecipe | None = None
    reports: Mapping[str, QuantizationReport] = field(default_factory=dict)
    failures: Mapping[str, str] = field(default_factory=dict)


def prepare_calibration(
    checkpoint: Checkpoint, options: ExportOptions, size: tuple[int, int], warn: WarningCallback
) -> Calibration:
    """Read the images, or the stored calibration, before the work.

    Args:
        checkpoint: to be exported.
        options: of the export.
        size: (height, width) of the graphs.
        warn: called with warnings about the images.

    Raises:
        UsageError: images that cannot be used.
        BundleError: the stored calibration is damaged.
    """
    if not {"int8", "w8"}.intersection(options.precisions):
        return Calibration()
    source, task, side = options.calibration, checkpoint.task, min(size)
    stored = None
    if source is not None and holds_recipe(source):
        stored, source = Recipe.read(source), None
    if source is not None:
        images = calibration_images(
            source,
            task,
            side,
            count=options.calibration_images,
            degraded=options.calibration_degraded,
            warn=warn,
        )
    elif stored is None or "w8" in options.precisions:
        images = packaged_images(task, side)
    else:
        images = []
    if "int8" in options.precisions and source is None and stored is None:
        warn(
            f"calibrating INT8 with the package's {len(images)} photographs: give --calibration "
            "FOLDER with images like those it will restore"
        )
    return Calibration([image.extended(size) for image in images], stored)


def find_recipes(
    fused: ModelProto,
    outline: Outline,
    calibration: Calibration,
    checkpoint: Checkpoint,
    options: ExportOptions,
    feeder: Feeder,
    progress: ProgressCallback,
) -> Recipes:
    """The recipes of the precisions that meet their budget, and why others do not.

    Raises:
        BundleError: the stored calibration is of another model.
    """
    reports: dict[str, QuantizationReport] = {}
    failures: dict[str, str] = {}

    def find(precision: str, search: Callable[..., tuple[T, QuantizationReport]]) -> T | None:
        if precision not in options.precisions:
            return None
        floor = FLOORS_DB[precision] if options.floor_db is None else options.floor_db
        # The images of random weights mean nothing: there is no quality to keep.
        enforced = None if checkpoint.random and options.floor_db is None else floor
        images, limits = calibration.images, options.quantization
        try:
            recipe, report = search(fused, outline, images, feeder, limits, enforced, progress)
        except QualityError as error:
            failures[precision] = str(error)
            return None
        reports[precision] = report
        return recipe

    int8 = calibration.stored
    if int8 is None:
        int8 = find("int8", calibrate)
    else:
        int8.check_graph(fused)
    return Recipes(int8, find("w8", choose_weights), reports, failures)
