"""A checkpoint in, a verified bundle out.

Every step returns a value: static graph, graphs by stage, graphs by precision, verification,
bundle, engines.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from msgspec.structs import replace

from elir_deploy.checkpoints import Checkpoint
from elir_deploy.errors import QualityError
from elir_deploy.export.block_choice import QuantizationReport
from elir_deploy.export.bundle import BundleWriter, staged_bundle
from elir_deploy.export.bundled_detector import choose_detector, write_detector
from elir_deploy.export.conversion import convert_graphs
from elir_deploy.export.detectors import PreparedDetector
from elir_deploy.export.graphs import fuse_stages
from elir_deploy.export.manifest import (
    make_manifest,
    write_recipe,
    write_references,
    write_stages,
)
from elir_deploy.export.onnx import export_stages
from elir_deploy.export.options import (
    ExportOptions,
    Settings,
    check_options,
    file_precisions,
    verified_precisions,
)
from elir_deploy.export.pixels import Feeder
from elir_deploy.export.recipes import Calibration, find_recipes, prepare_calibration
from elir_deploy.export.references import Reference, compute_references
from elir_deploy.export.shapes import largest
from elir_deploy.export.tensorrt.builder import BuildOptions
from elir_deploy.export.tensorrt.engines import (
    EngineFailure,
    engine_specs,
    make_engines,
    with_engine,
)
from elir_deploy.export.verification import FLOORS_DB, verify_bundle
from elir_deploy.progress import ProgressCallback, WarningCallback, no_progress, no_warning
from elir_deploy.runtime.manifest import Manifest, Verification, file_precision
from elir_deploy.runtime.noise import NoiseField
from elir_deploy.runtime.tensorrt_library import load_library
from elir_deploy.scopes import FUSED
from elir_deploy.static_graph import StaticElir, build_static_graph
from elir_deploy.targets import RTX

__all__ = ["ExportOptions", "ExportReport", "export_bundle"]

#: Random weights are for speed: their reduced precisions are measured but need not pass.
ALWAYS_ENFORCED = "fp32"


@dataclass(frozen=True)
class ExportReport:
    """Result of an export.

    Attributes:
        folder: the bundle.
        manifest: its manifest.
        verification: of each precision, also of those below their floor.
        failures: why precisions, or their engines, are not in the bundle, by what is missing.
        quantization: measurements of INT8 and w8, by precision; a stored calibration has none.
    """

    folder: Path
    manifest: Manifest
    verification: Mapping[str, Verification]
    failures: Mapping[str, str]
    quantization: Mapping[str, QuantizationReport] = field(default_factory=dict)


def export_bundle(
    checkpoint: Checkpoint,
    destination: Path,
    options: ExportOptions | None = None,
    progress: ProgressCallback = no_progress,
    warn: WarningCallback = no_warning,
) -> ExportReport:
    """Export, verify and write a bundle of the precisions that reach their floor.

    Nothing is left behind when it fails.

    Args:
        checkpoint: a loaded model and its origin.
        destination: the bundle's folder; made, or replaced if it is a bundle and
            ``options.overwrite`` is set.
        options: None: those of the released model.
        progress: called with the step and its state.
        warn: called with warnings about calibration and engines.

    Raises:
        UsageError: options the model cannot be exported with, or calibration images that cannot
            be used.
        BundleError: a stored calibration is damaged, or of another model.
        CheckpointError, DownloadError: there is no such face detector.
        OutputError: the destination cannot be written.
        QualityError: every precision stays below its floor; the message names the worst part.
        MissingDependencyError: onnxruntime, which verifies, or a library that builds engines is
            not installed.
    """
    options = options or ExportOptions()
    check_options(options, destination)
    settings = Settings.resolve(checkpoint, options)
    detector = choose_detector(checkpoint.task, settings, options, warn)
    calibration = prepare_calibration(checkpoint, options, settings.image_size, warn)
    with staged_bundle(destination, overwrite=options.overwrite) as writer:
        return _Export(
            checkpoint, options, settings, detector, calibration, writer, progress, warn
        ).run(destination)


# The steps ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Export:
    """One export into a staged bundle."""

    checkpoint: Checkpoint
    options: ExportOptions
    settings: Settings
    detector: PreparedDetector | None
    calibration: Calibration
    writer: BundleWriter
    progress: ProgressCallback
    warn: WarningCallback

    def run(self, destination: Path) -> ExportReport:
        options = self.options
        static = self._static_graph()
        graphs = export_stages(static, options.opset, self.progress)
        fused = fuse_stages(graphs)
        if options.stages == "fused":
            graphs = {FUSED: fused}
        references = self._references()
        photographs = [reference for reference in references if not reference.synthetic]
        size = (*self.settings.image_size, 3)
        own_size = [reference for reference in photographs if reference.image.shape == size]
        feeder = self._feeder()
        recipes = find_recipes(
            fused,
            static.outline,
            self.calibration,
            self.checkpoint,
            options,
            feeder,
            self.progress,
        )
        failures = dict(recipes.failures)
        precisions = [p for p in file_precisions(options.precisions) if p not in failures]
        _check_any_left(precisions, failures)
        converted = convert_graphs(
            graphs, options, feeder, photographs, recipes, precisions, self.progress
        )
        stages, kept = write_stages(
            self.writer, converted, self.checkpoint, self.settings, self.progress
        )
        draft = make_manifest(
            self.checkpoint,
            options,
            self.settings,
            graphs,
            stages,
            write_references(self.writer, own_size),
            None if recipes.int8 is None else write_recipe(self.writer, recipes.int8),
            None if self.detector is None else write_detector(self.writer, self.detector),
        )
        self.writer.write_manifest(draft)
        results = self._verify(references, kept)
        failures |= self._failures(results)
        passed = self._keep_passed(draft, results, failures)
        manifest, engine_failures = _add_engines(
            self.writer, passed, options, self.progress, self.warn
        )
        failures |= engine_failures
        self.writer.write_manifest(manifest)
        return ExportReport(destination, manifest, results, failures, recipes.reports)

    def _static_graph(self) -> StaticElir:
        self.progress("building the static graph", 0, 0)
        return build_static_graph(
            self.checkpoint.model,
            image_size=self.settings.image_size,
            steps=self.settings.steps,
            noise=self.settings.noise,
            io=self.options.io,
            rewrites=self.options.rewrites,
        )

    def _feeder(self) -> Feeder:
        noise, arch = self.settings.noise, self.checkpoint.model.arch
        return Feeder(
            self.options.io,
            noise if isinstance(noise, NoiseField) else None,
            arch.latent_channels,
            arch.latent_stride,
        )

    def _references(self) -> list[Reference]:
        """Of the first shape, and then of the largest."""
        shape = largest(self.settings.shapes)
        sizes = [self.settings.image_size, shape.graph_size]
        return [
            reference
            for size in dict.fromkeys(sizes)
            for reference in compute_references(
                self.checkpoint.model,
                self.checkpoint.task,
                image_size=size,
                steps=self.settings.steps,
                noise=self.settings.noise,
                # Images of random weights mean nothing, so there is nothing that they could lose.
                synthetic=not self.checkpoint.random,
                progress=self.progress,
            )
        ]

    # Verification

    def _verify(
        self, references: Sequence[Reference], kept: Mapping[str, tuple[str, ...]]
    ) -> dict[str, Verification]:
        """Verification of every precision, with the layers it keeps in floating point."""
        floor_db = self.options.floor_db
        floors = {
            precision: FLOORS_DB[precision] if floor_db is None else floor_db
            for precision in verified_precisions(self.options.precisions)
            if file_precision(precision) in kept
        }
        results = verify_bundle(self.writer.folder, references, floors, self.progress)
        return {
            precision: replace(result, kept_float32=list(kept.get(precision, ())))
            for precision, result in results.items()
        }

    def _failures(self, results: Mapping[str, Verification]) -> dict[str, str]:
        """Why precisions are not good enough, by precision."""
        lenient = self.checkpoint.random and self.options.floor_db is None
        return {
            precision: _describe_shortfall(precision, result)
            for precision, result in results.items()
            if not result.passed
            and not (lenient and result.finite and precision != ALWAYS_ENFORCED)
        }

    def _keep_passed(
        self,
        draft: Manifest,
        results: Mapping[str, Verification],
        failures: Mapping[str, str],
    ) -> Manifest:
        """The manifest of the precisions that passed; the files of others are removed.

        The verification of a precision without files (bf16) stays, so that it is not automatic.

        Raises:
            QualityError: no file passed.
        """
        failed = {p for p in failures if p == file_precision(p)}
        passed = [precision for precision in draft.precisions if precision not in failed]
        _check_any_left(passed, failures)
        for artifact in draft.artifacts:
            if artifact.precision in failed:
                self.writer.remove(artifact.file)
        quantization = draft.quantization
        if quantization is not None and "int8" in failed:
            self.writer.remove(quantization.file)
            quantization = None
        return replace(
            draft,
            stages=[
                replace(stage, artifacts=[a for a in stage.artifacts if a.precision not in failed])
                for stage in draft.stages
            ],
            precisions=passed,
            verification={p: v for p, v in results.items() if file_precision(p) in passed},
            quantization=quantization,
        )


def _add_engines(
    writer: BundleWriter,
    manifest: Manifest,
    options: ExportOptions,
    progress: ProgressCallback,
    warn: WarningCallback,
) -> tuple[Manifest, dict[str, str]]:
    """The manifest with the engines that are built here, and why others are missing."""
    specs = engine_specs(options.targets)
    if not specs:
        return manifest, {}
    engines = make_engines(
        load_library(RTX, "build engines"),
        manifest,
        manifest.precisions,
        specs,
        lambda artifact: (writer.folder / artifact.file).read_bytes(),
        BuildOptions(),
        progress,
        warn,
    )
    failures: dict[str, str] = {}
    for engine in engines:
        if isinstance(engine, EngineFailure):
            failures[engine.name] = str(engine.error)
            continue
        file = writer.add(engine.file, engine.built.content)
        manifest = with_engine(manifest, engine, file)
    return manifest, failures


def _describe_shortfall(precision: str, result: Verification) -> str:
    part = result.worst_part
    alone = result.parts.get(part) if part else None
    reached = "is identical" if result.psnr_db is None else f"reaches {result.psnr_db:.1f} dB"
    return (
        f"{precision} {reached if result.finite else 'gives numbers that are not finite'} against "
        f"float32 PyTorch, expected {result.floor_db:g} dB; worst part: {part}"
        + (f" ({alone:.1f} dB alone)" if alone is not None else "")
    )


def _check_any_left(precisions: Sequence[str], failures: Mapping[str, str]) -> None:
    if not precisions:
        raise QualityError(". ".join((*failures.values(), "No bundle was written")))
