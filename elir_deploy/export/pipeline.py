"""A checkpoint in, a verified bundle out."""

from __future__ import annotations

import importlib
import math
import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from onnx import ModelProto, TensorProto, ValueInfoProto

from elir_deploy import __version__
from elir_deploy.checkpoints import Checkpoint
from elir_deploy.errors import MissingDependencyError, QualityError, UsageError
from elir_deploy.export.bundle import BundleWriter, check_destination, staged_bundle
from elir_deploy.export.calibration import (
    CalibrationImage,
    calibration_images,
    packaged_images,
)
from elir_deploy.export.equalization import equalize
from elir_deploy.export.float16 import to_float16
from elir_deploy.export.graphs import FUSED, STAGE_TENSORS, fuse_stages, set_metadata
from elir_deploy.export.int8 import (
    RECIPE_NAME,
    Int8Options,
    Int8Report,
    Recipe,
    calibrate,
    holds_recipe,
)
from elir_deploy.export.islands import (
    Float16Plan,
    Normalization,
    extreme_images,
    gather_evidence,
    plan_float16,
    stage_feeds,
)
from elir_deploy.export.onnx import DEFAULT_OPSET, check_opset, export_stages
from elir_deploy.export.pixels import to_network
from elir_deploy.export.references import Reference, compute_references
from elir_deploy.export.verification import FLOORS_DB, LOST, PrecisionReport, verify_bundle
from elir_deploy.model.elir import Elir, count_parameters
from elir_deploy.runtime.bundle import FORMAT_NAME, FORMAT_VERSION, file_precision
from elir_deploy.static_graph import (
    NOISE_GENERATOR,
    FixedNoise,
    Rewrites,
    StaticElir,
    build_static_graph,
    check_size,
    fixed_noise,
    latent_shape,
)
from elir_deploy.tasks import Architecture

__all__ = [
    "DEFAULT_PRECISIONS",
    "EXPORTABLE",
    "ExportOptions",
    "ExportReport",
    "check_options",
    "export_bundle",
]

#: What can be asked for; bf16 makes no file, but verifies what a backend may do with fp32's.
EXPORTABLE = ("fp32", "fp16", "bf16", "int8")
DEFAULT_PRECISIONS = ("fp32", "fp16")
#: Random weights are for speed: their reduced precisions are measured but need not pass.
ALWAYS_ENFORCED = "fp32"

#: Packages whose versions decide the bytes or the verdict, by the module that knows its version:
#: onnxruntime comes from distributions of several names.
_RECORDED_MODULES = {
    "torch": "torch",
    "onnx": "onnx",
    "onnxscript": "onnxscript",
    "onnxruntime": "onnxruntime",
    "numpy": "numpy",
    "pillow": "PIL",
}

ProgressCallback = Callable[[str, int, int], None]
WarningCallback = Callable[[str], None]


@dataclass(frozen=True)
class ExportOptions:
    """How a checkpoint is exported; ``None`` takes the task's own value.

    Attributes:
        precisions: any of :data:`EXPORTABLE`.
        stages: ``fused`` for one graph, ``split`` for encoder, estimator, flow and decoder.
        io: ``uint8`` for NHWC RGB bytes, ``float32`` for NCHW in [0, 1], at both ends.
        image_size: side of the square image in pixels.
        steps: Euler steps M.
        sigma_s: standard deviation of the fixed noise.
        seed: of the noise, and of random weights.
        floor_db: least PSNR against float32 PyTorch, for all precisions.
        opset: of the ONNX graphs.
        float16_normalization: what sums over feature maps is float32 inside float16 graphs where
            it is ``measured`` to be needed, always (``float32``) or never (``float16``).
        rewrites: exact rewrites to apply.
        int8: how INT8 is made.
        int8_rest: what INT8 graphs compute in elsewhere: ``float32``, which CPUs take, or
            ``float16`` with its own islands, for TensorRT.
        calibration: folder of images for INT8, or a bundle or file whose calibration is used
            again; None takes the package's photographs.
        calibration_images: taken from the folder.
        calibration_degraded: they are low-quality images already, not to be degraded.
        overwrite: replace a bundle that is there.
    """

    precisions: tuple[str, ...] = DEFAULT_PRECISIONS
    stages: Literal["fused", "split"] = "fused"
    io: Literal["uint8", "float32"] = "uint8"
    image_size: int | None = None
    steps: int | None = None
    sigma_s: float | None = None
    seed: int = 0
    floor_db: float | None = None
    opset: int = DEFAULT_OPSET
    float16_normalization: Normalization = "measured"
    rewrites: Rewrites = field(default_factory=Rewrites)
    int8: Int8Options = field(default_factory=Int8Options)
    int8_rest: Literal["float32", "float16"] = "float32"
    calibration: Path | None = None
    calibration_images: int = 16
    calibration_degraded: bool = False
    overwrite: bool = False


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
        QualityError: a precision stays below its floor; the message names the worst part.
        MissingDependencyError: onnxruntime, which verifies, is not installed.
    """
    options = options or ExportOptions()
    say = progress or (lambda what, done, total: None)
    check_options(options, destination)
    settings = _Settings.resolve(checkpoint, options)
    images = _calibration_images(checkpoint, options, settings.image_size, warn)
    stored = None if images or "int8" not in options.precisions else _stored_recipe(options)
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
        manifest = _manifest(checkpoint, options, settings, static)
        manifest["references"] = [
            writer.add_reference(reference.name, reference.image, reference.restored)
            for reference in references
        ]
        recipe, int8 = None, None
        if "int8" in options.precisions:
            recipe, int8 = _int8_recipe(fused, checkpoint, options, images, stored, say)
            _add_recipe(writer, manifest, recipe)
        kept = _write_graphs(writer, graphs, manifest, options, references, recipe, say)
        if recipe is not None:
            kept["int8"] += recipe.kept
        writer.write_manifest(manifest)
        floors = {
            precision: FLOORS_DB[precision] if options.floor_db is None else options.floor_db
            for precision in _verified(options.precisions)
        }
        reports = verify_bundle(writer.folder, references, list(floors), floors, say)
        for precision, report in reports.items():
            report.kept_float32 = kept[precision]
        manifest["verification"] = {p: report.to_manifest() for p, report in reports.items()}
        writer.write_manifest(manifest)
        _enforce_floors(reports, random=checkpoint.random, forced=options.floor_db is not None)
    return ExportReport(destination, manifest, reports, int8)


@dataclass(frozen=True)
class _Settings:
    """The options with the task's values filled in."""

    image_size: int
    steps: int
    sigma_s: float
    noise: FixedNoise

    @classmethod
    def resolve(cls, checkpoint: Checkpoint, options: ExportOptions) -> _Settings:
        task = checkpoint.task
        image_size = task.image_size if options.image_size is None else options.image_size
        steps = task.steps if options.steps is None else options.steps
        check_size(checkpoint.model.arch, image_size, steps)
        sigma_s = task.sigma_s if options.sigma_s is None else options.sigma_s
        return cls(
            image_size=image_size,
            steps=steps,
            sigma_s=sigma_s,
            noise=fixed_noise(options.seed, sigma_s, latent_shape(checkpoint.model, image_size)),
        )


def check_options(options: ExportOptions, destination: Path) -> None:
    """Refuse what can be refused before a model is loaded.

    Raises:
        UsageError: an option that no model can be exported with.
        OutputError: the destination is taken.
        MissingDependencyError: onnxruntime, which verifies, is not installed.
    """
    if not options.precisions:
        raise UsageError(f"no precision given: choose from {', '.join(EXPORTABLE)}")
    for precision in options.precisions:
        if precision not in EXPORTABLE:
            raise UsageError(f"no precision {precision!r}: choose from {', '.join(EXPORTABLE)}")
    if options.floor_db is not None and not math.isfinite(options.floor_db):
        raise UsageError(f"the PSNR floor is {options.floor_db}, wanted a number of dB")
    if options.calibration_images < 1:
        raise UsageError(f"{options.calibration_images} calibration images, wanted at least 1")
    drop = options.int8.max_psnr_drop_db
    if drop is not None and not (math.isfinite(drop) and drop >= 0):
        raise UsageError(f"the PSNR drop allowed is {drop}, wanted a number of dB >= 0")
    if options.calibration is not None:
        if "int8" not in options.precisions:
            raise UsageError("calibration images are for INT8: add --precision int8")
        if not options.calibration.exists():
            raise UsageError(f"{options.calibration}: no such folder of calibration images")
    check_opset(options.opset)
    check_destination(destination, overwrite=options.overwrite)
    try:
        import onnxruntime  # noqa: F401
    except ImportError:
        raise MissingDependencyError("onnxruntime", "cpu", "verify an export") from None


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
    kept: dict[str, list[str]] = {precision: [] for precision in _verified(options.precisions)}
    plans = _float16_plans(graphs, options, references, say) if "fp16" in kept else {}
    int8_plans = {}
    if recipe is not None and options.int8_rest == "float16":
        equalized = {stage: equalize(graph, recipe.factors) for stage, graph in graphs.items()}
        int8_plans = _float16_plans(equalized, options, references, say)
    for done, (stage, graph) in enumerate(graphs.items()):
        artifacts: list[dict[str, Any]] = []
        entry = {
            "name": stage,
            "input": _tensor_entry(graph.graph.input[0]),
            "output": _tensor_entry(graph.graph.output[0]),
            "artifacts": artifacts,
        }
        for precision in _with_files(options.precisions):
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
            set_metadata(converted, _graph_metadata(manifest, stage, precision))
            artifacts.append(
                writer.add_artifact(
                    f"{stage}.{precision}.onnx",
                    converted.SerializeToString(deterministic=True),
                    kind="onnx",
                    precision=precision,
                    tool="torch",
                    tool_version=_version_of("torch"),
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


def _stored_recipe(options: ExportOptions) -> Recipe:
    assert options.calibration is not None
    return Recipe.read(options.calibration)


def _int8_recipe(
    fused: ModelProto,
    checkpoint: Checkpoint,
    options: ExportOptions,
    images: list[CalibrationImage],
    stored: Recipe | None,
    say: ProgressCallback,
) -> tuple[Recipe, Int8Report]:
    """The calibration that was asked for: made now, or made before."""
    if stored is not None:
        stored.check_graph(fused)
        return stored, Int8Report()
    # The pictures of random weights mean nothing: there is no quality to keep.
    floor = FLOORS_DB["int8"] if options.floor_db is None else options.floor_db
    enforced = None if checkpoint.random and options.floor_db is None else floor
    return calibrate(fused, images, options.io, options.int8, enforced, say)


def _add_recipe(writer: BundleWriter, manifest: dict[str, Any], recipe: Recipe) -> None:
    manifest["quantization"] = {
        **writer.add_file(RECIPE_NAME, recipe.to_json()),
        "method": recipe.method,
        "images": recipe.images,
        "per_step": recipe.per_step,
        **recipe.measured,
    }


def _with_files(precisions: tuple[str, ...]) -> list[str]:
    """Those of which there are files, in the order asked for."""
    return list(dict.fromkeys(file_precision(precision) for precision in precisions))


def _verified(precisions: tuple[str, ...]) -> list[str]:
    """Those asked for and those of which there are files because of it."""
    return list(dict.fromkeys((*_with_files(precisions), *precisions)))


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


def _tensor_entry(value: ValueInfoProto) -> dict[str, Any]:
    tensor = value.type.tensor_type
    is_bytes = tensor.elem_type == TensorProto.UINT8
    return {
        "name": value.name,
        "dtype": "uint8" if is_bytes else "float32",
        "shape": [dim.dim_value for dim in tensor.shape.dim],
        "layout": "NHWC" if is_bytes else "NCHW",
    }


def _graph_metadata(manifest: dict[str, Any], stage: str, precision: str) -> dict[str, str]:
    model = manifest["model"]
    return {
        "elir.task": model["task"],
        "elir.stage": stage,
        "elir.precision": precision,
        "elir.steps": str(model["steps"]),
        "elir.sigma_s": repr(model["sigma_s"]),
        "elir.noise_sha256": model["noise"]["sha256"],
        "elir.source": manifest["source"]["name"],
        "elir.source_sha256": manifest["source"]["sha256"] or "random",
    }


def _manifest(
    checkpoint: Checkpoint, options: ExportOptions, settings: _Settings, static: StaticElir
) -> dict[str, Any]:
    """All but stages, references and verification."""
    task = checkpoint.task
    size = settings.image_size
    is_bytes = options.io == "uint8"
    image = {
        "dtype": options.io,
        "layout": "NHWC" if is_bytes else "NCHW",
        "shape": [1, size, size, 3] if is_bytes else [1, 3, size, size],
        "range": [0, 255] if is_bytes else [0, 1],
        "color": "RGB",
    }
    first, last = STAGE_TENSORS[FUSED]
    return {
        "format": FORMAT_NAME,
        "format_version": FORMAT_VERSION,
        "model": {
            "task": task.name,
            "image_size": size,
            "steps": settings.steps,
            "sigma_s": settings.sigma_s,
            "upscale": task.upscale,
            "upscale_kernel": task.upscale_kernel,
            "faces": task.faces,
            "parameters": _collapsed_parameters(checkpoint.model.arch),
            "architecture": checkpoint.model.arch.to_dict(),
            "noise": {
                "seed": settings.noise.seed,
                "generator": NOISE_GENERATOR,
                "sha256": settings.noise.sha256,
            },
        },
        "source": {
            "name": checkpoint.name,
            "sha256": checkpoint.sha256,
            "random": checkpoint.random,
        },
        "input": {"name": first, **image},
        "output": {"name": last, **image},
        "resize": {
            "kernel": "bicubic",
            "a": -0.5,
            "antialias": True,
            "rounding": "Pillow: coefficients in 22-bit fixed point, rows first, then columns, "
            "each pass rounded half up to uint8",
        },
        "precisions": _with_files(options.precisions),
        "export": {
            "opset": options.opset,
            "float16_normalization": options.float16_normalization,
            "int8_rest": options.int8_rest,
            "rewrites": asdict(options.rewrites),
        },
        "stages": [],
        "verification": {},
        "references": [],
        "versions": {
            "elir-deploy": __version__,
            "python": platform.python_version(),
            **{name: _version_of(module) for name, module in _RECORDED_MODULES.items()},
        },
    }


def _version_of(module: str) -> str:
    return str(importlib.import_module(module).__version__)


def _collapsed_parameters(arch: Architecture) -> int:
    """Parameters of the collapsed network, whatever form the checkpoint has."""
    with torch.device("meta"):
        return count_parameters(Elir(arch))


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
