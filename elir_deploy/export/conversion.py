"""Conversion of float32 graphs to every precision of an export."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray
from onnx import ModelProto

from elir_deploy.export.equalization import equalize
from elir_deploy.export.float16 import to_float16
from elir_deploy.export.int8 import Recipe
from elir_deploy.export.islands import (
    Float16Plan,
    extreme_images,
    gather_evidence,
    plan_float16,
    stage_feeds,
)
from elir_deploy.export.options import ExportOptions
from elir_deploy.export.pixels import Feeder
from elir_deploy.export.recipes import Recipes
from elir_deploy.export.references import Reference
from elir_deploy.export.shapes import free_shapes
from elir_deploy.export.w8 import WeightRecipe
from elir_deploy.fixed_shapes import fixed
from elir_deploy.progress import ProgressCallback

__all__ = ["PrecisionGraphs", "convert_graphs"]


@dataclass(frozen=True)
class PrecisionGraphs:
    """The network in one precision.

    Attributes:
        graphs: by stage, in order.
        kept: layers left in floating point, with the reason.
    """

    graphs: Mapping[str, ModelProto]
    kept: tuple[str, ...] = ()


def convert_graphs(
    graphs: Mapping[str, ModelProto],
    options: ExportOptions,
    feeder: Feeder,
    references: Sequence[Reference],
    recipes: Recipes,
    precisions: Sequence[str],
    progress: ProgressCallback,
) -> Iterator[tuple[str, PrecisionGraphs]]:
    """The graphs in each of ``precisions``, converted one precision at a time to save memory.

    Args:
        graphs: float32, by stage.
        options: of the export.
        feeder: makes the inputs of the graphs.
        references: images that float16 is measured on, those of the graphs' size first.
        recipes: of the precisions that need one.
        precisions: of the files, in order.
        progress: called with the state of the measurements.
    """

    inputs = _measured_inputs(references, feeder)

    def float16_plans(sources: Mapping[str, ModelProto]) -> dict[str, Float16Plan]:
        return _float16_plans(sources, options, inputs, progress)

    def fp32() -> PrecisionGraphs:
        return PrecisionGraphs(graphs)

    def fp16() -> PrecisionGraphs:
        plans = float16_plans(graphs)
        return PrecisionGraphs(
            {stage: to_float16(graph, plans[stage]) for stage, graph in graphs.items()},
            tuple(text for plan in plans.values() for text in plan.summary()),
        )

    def int8() -> PrecisionGraphs:
        assert recipes.int8 is not None
        return quantize(recipes.int8, recipes.int8.figures.kept)

    def w8() -> PrecisionGraphs:
        assert recipes.w8 is not None
        return quantize(recipes.w8, recipes.w8.kept)

    def quantize(recipe: Recipe | WeightRecipe, kept: Sequence[str]) -> PrecisionGraphs:
        """With the rest in the fallback dtype."""
        converted = {stage: recipe.apply(graph) for stage, graph in graphs.items()}
        if options.int8_fallback == "float32":
            return PrecisionGraphs(converted, tuple(kept))
        plans = float16_plans({s: equalize(g, recipe.factors) for s, g in graphs.items()})
        return PrecisionGraphs(
            {stage: to_float16(graph, plans[stage]) for stage, graph in converted.items()},
            (*(text for plan in plans.values() for text in plan.summary()), *kept),
        )

    conversions = {"fp32": fp32, "fp16": fp16, "int8": int8, "w8": w8}
    for precision in precisions:
        yield precision, conversions[precision]()


def _measured_inputs(
    references: Sequence[Reference], feeder: Feeder
) -> list[list[dict[str, NDArray[Any]]]]:
    """The references and extreme images of each size, as the network reads them."""
    sizes: dict[tuple[int, ...], list[dict[str, NDArray[Any]]]] = {}
    for reference in references:
        sizes.setdefault(reference.image.shape[:2], []).append(feeder(reference.image))
    for (height, width), feeds in sizes.items():
        feeds += (feeder(image) for image in extreme_images(height, width).values())
    return list(sizes.values())


def _float16_plans(
    graphs: Mapping[str, ModelProto],
    options: ExportOptions,
    inputs: Sequence[Sequence[Mapping[str, NDArray[Any]]]],
    progress: ProgressCallback,
) -> dict[str, Float16Plan]:
    """Plan float16 from measurements on inputs of the whole network.

    Args:
        graphs: float32, by stage.
        options: of the export.
        inputs: of each size, the graphs' own first: sums in normalisation grow with the size.
        progress: called before each stage.
    """
    first, *others = inputs
    feeds = stage_feeds(graphs, first)
    free = {stage: free_shapes(graph) for stage, graph in graphs.items()} if others else {}
    feeds_of_others = [stage_feeds(free, feed) for feed in others]
    plans = {}
    for done, (stage, graph) in enumerate(graphs.items()):
        progress("measuring float16", done, len(graphs))
        evidence = gather_evidence(graph, feeds[stage])
        for other in feeds_of_others:
            sides = {name: array.shape for name, array in other[stage][0].items()}
            evidence |= gather_evidence(fixed(free[stage], sides), other[stage])
        plans[stage] = plan_float16(graph, evidence, normalization=options.float16_normalization)
    return plans
