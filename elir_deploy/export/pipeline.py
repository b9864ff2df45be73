"""A checkpoint in, a verified bundle out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnx import ModelProto

from elir_deploy.checkpoints import Checkpoint
from elir_deploy.errors import QualityError
from elir_deploy.export.bundle import BundleWriter, staged_bundle
from elir_deploy.export.calibration import (
    CalibrationImage,
    calibration_images,
    packaged_images,
)
from elir_deploy.export.equalization import equalize
from elir_deploy.export.float16 import to_float16
from elir_deploy.export.graphs import FUSED, fuse_stages, set_metadata
from elir_deploy.export.int8 import (
    RECIPE_NAME,
    Int8Report,
    Recipe,
    calibrate,
    holds_recipe,
)
from elir_deploy.export.islands import (
    Float16Plan,
    extreme_images,
    gather_evidence,
    plan_float16,
    stage_feeds,
)
from elir_deploy.export.manifest import begin_manifest, graph_metadata, tensor_entry, version_of
from elir_deploy.export.onnx import export_stages
from elir_deploy.export.options import (
    ExportOptions,
    Settings,
    check_options,
    file_precisions,
    verified_precisions,
)
from elir_deploy.export.pixels import to_network
from elir_deploy.export.references import Reference, compute_references
from elir_deploy.export.tensorrt.builder import BuildOptions
from elir_deploy.export.tensorrt.engines import make_engines, orders_for
from elir_deploy.export.verification import FLOORS_DB, LOST, PrecisionReport, verify_bundle
from elir_deploy.runtime.bundle import validate_manifest
from elir_deploy.runtime.tensorrt_engine import load_library
from elir_deploy.static_graph import build_static_graph
from elir_deploy.targets import RTX

__all__ = ["ExportOptions", "ExportReport", "export_bundle"]

#: Random weights are for speed: their reduced precisions are measured but need not pass.
ALWAYS_ENFORCED = "fp32"


ProgressCallback = Callable[[str, int, int], None]
WarningCallback = Callable[[str], None]


@dataclass(frozen=True)
class ExportReport:
    """What an export made.

    Attributes:
        folder: the bundle.
        manifest: its manifest.
        verification: of each precision.
        int8: what was measured to make INT8; None where there is none.
    """

    folder: Path
    manifest: dict[str, Any]
    verification: dict[str, PrecisionReport]
    int8: Int8Report | None = None


def export_bundle(
    checkpoint: Checkpoint,
    destination: Path,
    options: ExportOptions | None = None,
    progress: ProgressCallback | None = None,
    warn: WarningCallback = lambda text: None,
) -> ExportReport:
    """Export, verify and write a bundle; nothing is left behind when it fails.

    Args:
        checkpoint: a loaded model and where it came from.
        destination: the bundle's folder; made, or replaced if it is a bundle and
            ``options.overwrite`` is set.
        options: defaults are the released model's own numbers.
        progress: called with what is being done, and how far it is where that is known.
        warn: called with doubts about the calibration images.

    Raises:
        UsageError: options the model cannot be exported with, or calibration images that cannot
            be used.
        BundleError: a calibration to be used again is damaged, or of another model.
        OutputError: the destination cannot be written.
        QualityError: a precision stays below its floor; the message names the worst part. Or an
            engine is not of the precision that it should be.
        MissingDependencyError: onnxruntime, which verifies, or a library that builds engines is
            not installed.
        UnavailableError: that library cannot build an engine.
    """
    options = options or ExportOptions()
    say = progress or (lambda what, done, total: None)
    check_options(options, destination)
    settings = Settings.resolve(checkpoint, options)
    images = _calibration_images(checkpoint, options, settings.image_size, warn)
    stored = None if images or "int8" not in options.precisions else _stored_recipe(options, warn)
    with staged_bundle(destination, overwrite=options.overwrite) as writer:
        say("building the static graph", 0, 0)
        static = build_static_graph(
            checkpoint.model,
            image_size=settings.image_size,
            steps=settings.steps,
            noise=settings.noise,
            io=options.io,
            rewrites=options.rewrites,
        )
        graphs = export_stages(static, options.opset, say)
        fused = fuse_stages(graphs)
        if options.stages == "fused":
            graphs = {FUSED: fused}
        references = compute_references(
            checkpoint.model,
            checkpoint.task,
            image_size=settings.image_size,
            steps=settings.steps,
            noise=settings.noise,
            progress=say,
        )
        manifest = begin_manifest(checkpoint, options, settings, static)
        manifest["references"] = [
            writer.add_reference(reference.name, reference.image, reference.restored)
            for reference in references
        ]
        recipe, int8 = None, None
        if "int8" in options.precisions:
            recipe, int8 = _int8_recipe(fused, checkpoint, options, images, stored, say, warn)
            _add_recipe(writer, manifest, recipe)
        kept = _write_graphs(writer, graphs, manifest, options, references, recipe, say)
        if recipe is not None:
            kept["int8"] += recipe.kept
        writer.write_manifest(manifest)
        floors = {
            precision: FLOORS_DB[precision] if options.floor_db is None else options.floor_db
            for precision in verified_precisions(options.precisions)
        }
        reports = verify_bundle(writer.folder, references, list(floors), floors, say)
        for precision, report in reports.items():
            report.kept_float32 = kept[precision]
        manifest["verification"] = {p: report.to_manifest() for p, report in reports.items()}
        writer.write_manifest(manifest)
        _enforce_floors(reports, random=checkpoint.random, forced=options.floor_db is not None)
        if options.targets:
            _build_engines(writer, manifest, options, say, warn)
            writer.write_manifest(manifest)
    return ExportReport(destination, manifest, reports, int8)


def _write_graphs(
    writer: BundleWriter,
    graphs: dict[str, ModelProto],
    manifest: dict[str, Any],
    options: ExportOptions,
    references: list[Reference],
    recipe: Recipe | None,
    say: ProgressCallback,
) -> dict[str, list[str]]:
    """Write every stage in every precision; returns the layers kept in float32 by precision."""
    kept: dict[str, list[str]] = {
        precision: [] for precision in verified_precisions(options.precisions)
    }
    plans = _float16_plans(graphs, options, references, say) if "fp16" in kept else {}
    int8_plans = {}
    if recipe is not None and options.int8_rest == "float16":
        equalized = {stage: equalize(graph, recipe.factors) for stage, graph in graphs.items()}
        int8_plans = _float16_plans(equalized, options, references, say)
    for done, (stage, graph) in enumerate(graphs.items()):
        artifacts: list[dict[str, Any]] = []
        entry = {
            "name": stage,
            "input": tensor_entry(graph.graph.input[0]),
            "output": tensor_entry(graph.graph.output[0]),
            "artifacts": artifacts,
        }
        for precision in file_precisions(options.precisions):
            say(f"writing {precision}", done, len(graphs))
            converted = graph
            if precision == "fp16":
                converted = to_float16(graph, plans[stage])
                kept[precision] += plans[stage].summary()
            elif precision == "int8":
                assert recipe is not None
                converted = recipe.apply(graph)
                if stage in int8_plans:
                    converted = to_float16(converted, int8_plans[stage])
                    kept[precision] += int8_plans[stage].summary()
            set_metadata(converted, graph_metadata(manifest, stage, precision))
            artifacts.append(
                writer.add_artifact(
                    f"{stage}.{precision}.onnx",
                    converted.SerializeToString(deterministic=True),
                    kind="onnx",
                    precision=precision,
                    tool="torch",
                    tool_version=version_of("torch"),
                )
            )
        manifest["stages"].append(entry)
    return kept


def _calibration_images(
    checkpoint: Checkpoint, options: ExportOptions, image_size: int, warn: WarningCallback
) -> list[CalibrationImage]:
    """What INT8 is calibrated with; none where there is no INT8, or a calibration to use again."""
    source = options.calibration
    if "int8" not in options.precisions or (source is not None and holds_recipe(source)):
        return []
    if source is not None:
        return calibration_images(
            source,
            checkpoint.task,
            image_size,
            count=options.calibration_images,
            degraded=options.calibration_degraded,
            warn=warn,
        )
    images = packaged_images(checkpoint.task, image_size)
    warn(
        f"calibrating INT8 with the package's {len(images)} photographs: give --calibration "
        "FOLDER with images like those to come"
    )
    return images


def _stored_recipe(options: ExportOptions, warn: WarningCallback) -> Recipe:
    assert options.calibration is not None
    recipe, wanted = Recipe.read(options.calibration), options.int8.smallest_layer
    if wanted and recipe.smallest_layer != wanted:
        warn(
            f"the calibration used again has INT8 from {recipe.smallest_layer} weights of a "
            f"convolution on, and not from {wanted}: calibrate again with --calibration FOLDER"
        )
    return recipe


def _int8_recipe(
    fused: ModelProto,
    checkpoint: Checkpoint,
    options: ExportOptions,
    images: list[CalibrationImage],
    stored: Recipe | None,
    say: ProgressCallback,
    warn: WarningCallback,
) -> tuple[Recipe, Int8Report]:
    """The calibration that was asked for: made now, or made before."""
    if stored is not None:
        stored.check_graph(fused)
        return stored, Int8Report()
    # The pictures of random weights mean nothing: there is no quality to keep.
    floor = FLOORS_DB["int8"] if options.floor_db is None else options.floor_db
    enforced = None if checkpoint.random and options.floor_db is None else floor
    recipe, report = calibrate(fused, images, options.io, options.int8, enforced, say)
    if not recipe.layers and options.int8.smallest_layer:
        warn(
            f"no convolution is INT8: those that may be have fewer than "
            f"{options.int8.smallest_layer} weights, or cost too much (--int8-smallest-layer)"
        )
    return recipe, report


def _add_recipe(writer: BundleWriter, manifest: dict[str, Any], recipe: Recipe) -> None:
    manifest["quantization"] = {
        **writer.add_file(RECIPE_NAME, recipe.to_json()),
        "method": recipe.method,
        "images": recipe.images,
        "per_step": recipe.per_step,
        **recipe.smallest_entry(),
        **recipe.measured,
    }


def _float16_plans(
    graphs: dict[str, ModelProto],
    options: ExportOptions,
    references: list[Reference],
    say: ProgressCallback,
) -> dict[str, Float16Plan]:
    """What float16 would do is measured on the references, and on images like no photograph."""
    side = references[0].image.shape[0]
    pixels = [reference.image for reference in references]
    pixels += extreme_images(side).values()
    feeds = stage_feeds(graphs, [to_network(image, options.io) for image in pixels])
    plans = {}
    for done, (stage, graph) in enumerate(graphs.items()):
        say("measuring what float16 would do", done, len(graphs))
        evidence = gather_evidence(graph, feeds[stage])
        plans[stage] = plan_float16(graph, evidence, normalization=options.float16_normalization)
    return plans


def _build_engines(
    writer: BundleWriter,
    manifest: dict[str, Any],
    options: ExportOptions,
    say: ProgressCallback,
    warn: WarningCallback,
) -> None:
    """Engines of what was verified; for devices that build their own, a note."""
    manifest["targets"] = [
        {
            "name": target.name,
            "kind": target.kind,
            "capability": target.capability,
            "engines": "build on the device" if target.on_device else "built",
        }
        for target in options.targets
    ]
    orders = orders_for(options.targets, joint=options.joint_engine)
    if not orders:
        return
    made = make_engines(
        load_library(RTX, "build engines"),
        validate_manifest(manifest),
        file_precisions(options.precisions),
        orders,
        lambda artifact: (writer.folder / artifact.file).read_bytes(),
        BuildOptions(),
        say,
        warn,
    )
    entries = {stage["name"]: stage["artifacts"] for stage in manifest["stages"]}
    for engine in made:
        file, content = engine.file, engine.built.content
        entry = writer.add_artifact(file, content, **engine.origin)
        entries[engine.stage].append(entry | engine.notes)


def _enforce_floors(reports: dict[str, PrecisionReport], *, random: bool, forced: bool) -> None:
    for precision, report in reports.items():
        lost = LOST in report.boundaries.values()
        spared = random and not forced and not lost and precision != ALWAYS_ENFORCED
        if report.passed or spared:
            continue
        part = report.worst_part
        own = report.parts.get(part) if part else None
        reached = (
            "gives numbers that are not finite"
            if lost or report.psnr_db is None
            else f"reaches {report.psnr_db:.1f} dB"
        )
        raise QualityError(
            f"{precision} {reached} against float32 PyTorch, wanted {report.floor_db:g} dB; "
            f"worst part: {part}"
            + (f" ({own:.1f} dB alone)" if own is not None else "")
            + ". No bundle was written"
        )
