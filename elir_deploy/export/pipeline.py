"""A checkpoint in, a verified bundle out.

Every step returns what it makes: static graph, graphs by stage, graphs by precision, verdicts,
bundle, engines.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from msgspec.structs import replace
from onnx import ModelProto

from elir_deploy.checkpoints import Checkpoint
from elir_deploy.errors import QualityError
from elir_deploy.export.bundle import BundleWriter, staged_bundle
from elir_deploy.export.calibration import (
    CalibrationImage,
    calibration_images,
    packaged_images,
)
from elir_deploy.export.conversion import PrecisionGraphs, convert_graphs
from elir_deploy.export.convolutions import convolution_precisions
from elir_deploy.export.graphs import fuse_stages, serialized
from elir_deploy.export.int8 import RECIPE_NAME, Int8Report, Recipe, calibrate, holds_recipe
from elir_deploy.export.manifest import graph_metadata, make_manifest, version_of
from elir_deploy.export.onnx import export_stages
from elir_deploy.export.options import (
    ExportOptions,
    Settings,
    check_options,
    file_precisions,
    verified_precisions,
)
from elir_deploy.export.references import Reference, compute_references, compute_synthetic
from elir_deploy.export.tensorrt.builder import BuildOptions
from elir_deploy.export.tensorrt.engines import engine_specs, make_engines, with_engine
from elir_deploy.export.verification import FLOORS_DB, LOST, verify_bundle
from elir_deploy.progress import ProgressCallback, no_progress
from elir_deploy.runtime.manifest import (
    Artifact,
    Manifest,
    Quantization,
    StageEntry,
    Verification,
    file_precision,
)
from elir_deploy.runtime.manifest import Reference as ReferenceEntry
from elir_deploy.runtime.tensorrt_engine import load_library
from elir_deploy.scopes import FUSED, Outline
from elir_deploy.static_graph import StaticElir, build_static_graph
from elir_deploy.targets import RTX

__all__ = ["ExportOptions", "ExportReport", "export_bundle"]

#: Random weights are for speed: their reduced precisions are measured but need not pass.
ALWAYS_ENFORCED = "fp32"


WarningCallback = Callable[[str], None]


@dataclass(frozen=True)
class ExportReport:
    """What an export made.

    Attributes:
        folder: the bundle.
        manifest: its manifest.
        verification: of each precision, also of those below their floor.
        failures: why precisions, or their engines, were left out of the bundle, by precision.
        int8: what was measured to make INT8; None where there is none.
    """

    folder: Path
    manifest: Manifest
    verification: Mapping[str, Verification]
    failures: Mapping[str, str]
    int8: Int8Report | None = None


def export_bundle(
    checkpoint: Checkpoint,
    destination: Path,
    options: ExportOptions | None = None,
    progress: ProgressCallback = no_progress,
    warn: WarningCallback = lambda text: None,
) -> ExportReport:
    """Export, verify and write a bundle of the precisions that reach their floor.

    Nothing is left behind when it fails.

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
        QualityError: every precision stays below its floor; the message names the worst part.
        MissingDependencyError: onnxruntime, which verifies, or a library that builds engines is
            not installed.
        UnavailableError: that library cannot build an engine.
    """
    options = options or ExportOptions()
    check_options(options, destination)
    settings = Settings.resolve(checkpoint, options)
    images = _calibration_images(checkpoint, options, settings.image_size, warn)
    stored = None if images or "int8" not in options.precisions else _stored_recipe(options, warn)
    with staged_bundle(destination, overwrite=options.overwrite) as writer:
        static = _static_graph(checkpoint, options, settings, progress)
        graphs = export_stages(static, options.opset, progress)
        fused = fuse_stages(graphs)
        if options.stages == "fused":
            graphs = {FUSED: fused}
        references = compute_references(
            checkpoint.model,
            checkpoint.task,
            image_size=settings.image_size,
            steps=settings.steps,
            noise=settings.noise,
            progress=progress,
        )
        recipe, int8, failures = None, None, {}
        if "int8" in options.precisions:
            try:
                recipe, int8 = _int8_recipe(
                    fused, static.outline, checkpoint, options, images, stored, progress, warn
                )
            except QualityError as error:
                failures["int8"] = str(error)
        precisions = [p for p in file_precisions(options.precisions) if p not in failures]
        _require(precisions, failures)
        converted = convert_graphs(graphs, options, references, recipe, precisions, progress)
        stages, kept = _write_stages(writer, converted, checkpoint, settings, progress)
        draft = make_manifest(
            checkpoint,
            options,
            settings,
            graphs,
            stages,
            _write_references(writer, references),
            None if recipe is None else _write_recipe(writer, recipe),
        )
        writer.write_manifest(draft)
        verdicts = _verified(writer, checkpoint, settings, references, kept, options, progress)
        failures |= _failures(
            verdicts, random=checkpoint.random, forced=options.floor_db is not None
        )
        passed = _passed(writer, draft, verdicts, failures)
        manifest, engine_failures = _with_engines(writer, passed, options, progress, warn)
        failures |= engine_failures
        writer.write_manifest(manifest)
    return ExportReport(destination, manifest, verdicts, failures, int8)


def _static_graph(
    checkpoint: Checkpoint, options: ExportOptions, settings: Settings, say: ProgressCallback
) -> StaticElir:
    say("building the static graph", 0, 0)
    return build_static_graph(
        checkpoint.model,
        image_size=settings.image_size,
        steps=settings.steps,
        noise=settings.noise,
        io=options.io,
        rewrites=options.rewrites,
    )


# INT8 ---------------------------------------------------------------------------------------------


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
    outline: Outline,
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
    recipe, report = calibrate(fused, outline, images, options.io, options.int8, enforced, say)
    if not recipe.layers and options.int8.smallest_layer:
        warn(
            f"no convolution is INT8: those that may be have fewer than "
            f"{options.int8.smallest_layer} weights, or cost too much (--int8-smallest-layer)"
        )
    return recipe, report


def _write_recipe(writer: BundleWriter, recipe: Recipe) -> Quantization:
    file = writer.add(RECIPE_NAME, recipe.to_json())
    return recipe.manifest_entry(file)


# Files ------------------------------------------------------------------------------------------


def _write_stages(
    writer: BundleWriter,
    converted: Iterable[tuple[str, PrecisionGraphs]],
    checkpoint: Checkpoint,
    settings: Settings,
    say: ProgressCallback,
) -> tuple[list[StageEntry], dict[str, tuple[str, ...]]]:
    """Write every graph; the entries of the stages, and what each precision keeps in float."""
    artifacts: dict[str, list[Artifact]] = {}
    ends: dict[str, tuple[list[str], str]] = {}
    kept = {}
    for precision, made in converted:
        say(f"writing {precision}", 0, 0)
        kept[precision] = made.kept
        for stage, graph in made.graphs.items():
            metadata = graph_metadata(checkpoint, settings, stage, precision)
            file = writer.add(f"{stage}.{precision}.onnx", serialized(graph, metadata))
            entry = Artifact(
                file=file.file,
                sha256=file.sha256,
                bytes=file.bytes,
                kind="onnx",
                precision=precision,  # type: ignore[arg-type]  # one of the options' choices
                target=None,
                tool="torch",
                tool_version=version_of("torch"),
                graph_convolutions=convolution_precisions(graph),
            )
            artifacts.setdefault(stage, []).append(entry)
            ends[stage] = [end.name for end in graph.graph.input], graph.graph.output[0].name
    entries = [
        StageEntry(stage, *ends[stage], artifacts[stage])  # type: ignore[arg-type]
        for stage in artifacts
    ]
    return entries, kept


def _write_references(
    writer: BundleWriter, references: Sequence[Reference]
) -> list[ReferenceEntry]:
    return [
        ReferenceEntry(
            reference.name,
            writer.add_png(f"reference/{reference.name}.input.png", reference.image),
            writer.add_png(f"reference/{reference.name}.output.png", reference.restored),
        )
        for reference in references
    ]


# Verdicts ---------------------------------------------------------------------------------------


def _verified(
    writer: BundleWriter,
    checkpoint: Checkpoint,
    settings: Settings,
    references: Sequence[Reference],
    kept: Mapping[str, tuple[str, ...]],
    options: ExportOptions,
    say: ProgressCallback,
) -> dict[str, Verification]:
    """What every precision reaches, and what it keeps in floating point."""
    floors = {
        precision: FLOORS_DB[precision] if options.floor_db is None else options.floor_db
        for precision in verified_precisions(options.precisions)
        if file_precision(precision) in kept
    }
    # The pictures of random weights mean nothing, so there is nothing that they could lose.
    synthetic = (
        []
        if checkpoint.random
        else compute_synthetic(
            checkpoint.model,
            checkpoint.task,
            image_size=settings.image_size,
            steps=settings.steps,
            noise=settings.noise,
            progress=say,
        )
    )
    pictures = [*references, *synthetic]
    found = verify_bundle(writer.folder, pictures, list(floors), floors, say)
    return {
        precision: replace(verdict, kept_float32=list(kept.get(precision, ())))
        for precision, verdict in found.items()
    }


def _failures(
    verdicts: Mapping[str, Verification], *, random: bool, forced: bool
) -> dict[str, str]:
    """The precisions that are not good enough, each with the reason."""
    failures = {}
    for precision, verdict in verdicts.items():
        lost = LOST in verdict.boundaries.values()
        spared = random and not forced and not lost and precision != ALWAYS_ENFORCED
        if not verdict.passed and not spared:
            failures[precision] = _shortfall(precision, verdict, lost=lost)
    return failures


def _shortfall(precision: str, verdict: Verification, *, lost: bool) -> str:
    part = verdict.worst_part
    alone = verdict.parts.get(part) if part else None
    reached = (
        "gives numbers that are not finite"
        if lost or verdict.psnr_db is None
        else f"reaches {verdict.psnr_db:.1f} dB"
    )
    return (
        f"{precision} {reached} against float32 PyTorch, expected {verdict.floor_db:g} dB; "
        f"worst part: {part}" + (f" ({alone:.1f} dB alone)" if alone is not None else "")
    )


def _passed(
    writer: BundleWriter,
    draft: Manifest,
    verdicts: Mapping[str, Verification],
    failures: Mapping[str, str],
) -> Manifest:
    """The manifest of what passed; the files of other precisions are removed.

    A precision without files of its own (bf16) stays as a verdict, which keeps it from running
    unasked.

    Raises:
        QualityError: no file passed.
    """
    failed = {p for p in failures if p == file_precision(p)}
    passed = [precision for precision in draft.precisions if precision not in failed]
    _require(passed, failures)
    for artifact in draft.artifacts:
        if artifact.precision in failed:
            writer.remove(artifact.file)
    quantization = draft.quantization
    if quantization is not None and "int8" in failed:
        writer.remove(quantization.file)
        quantization = None
    return replace(
        draft,
        stages=[
            replace(stage, artifacts=[a for a in stage.artifacts if a.precision not in failed])
            for stage in draft.stages
        ],
        precisions=passed,
        verification={p: v for p, v in verdicts.items() if file_precision(p) in passed},
        quantization=quantization,
    )


def _require(precisions: Sequence[str], failures: Mapping[str, str]) -> None:
    if not precisions:
        raise QualityError(". ".join((*failures.values(), "No bundle was written")))


# Engines ----------------------------------------------------------------------------------------


def _with_engines(
    writer: BundleWriter,
    manifest: Manifest,
    options: ExportOptions,
    say: ProgressCallback,
    warn: WarningCallback,
) -> tuple[Manifest, dict[str, str]]:
    """The manifest with the engines of what was verified, where any are built here.

    Engines that are not of their precision are left out, with all others of it, and named.
    """
    orders = engine_specs(options.targets)
    failures: dict[str, str] = {}
    if not orders:
        return manifest, failures
    library = load_library(RTX, "build engines")
    # INT8 last: its engines are compared with those in FP16.
    for precision in sorted(manifest.precisions, key=lambda p: p == "int8"):
        made = make_engines(
            library,
            manifest,
            [precision],
            orders,
            lambda artifact: (writer.folder / artifact.file).read_bytes(),
            BuildOptions(),
            say,
            warn,
        )
        try:
            engines = list(made)
        except QualityError as error:
            failures[f"{precision} engines"] = str(error)
            continue
        for engine in engines:
            file = writer.add(engine.file, engine.built.content)
            manifest = with_engine(manifest, engine, file)
    return manifest, failures
