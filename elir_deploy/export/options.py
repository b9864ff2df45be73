"""Options of an export, and their checks before the work."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from elir_deploy.checkpoints import Checkpoint
from elir_deploy.errors import MissingDependencyError, UsageError
from elir_deploy.export.block_choice import QuantizationOptions
from elir_deploy.export.bundle import check_destination
from elir_deploy.export.detectors import prepare_detector
from elir_deploy.export.islands import Normalization
from elir_deploy.export.onnx import DEFAULT_OPSET, check_opset
from elir_deploy.export.tensorrt.engines import check_engine_specs, engine_specs
from elir_deploy.runtime.manifest import RUN_PRECISIONS, Shape, file_precision
from elir_deploy.runtime.manifest_file import MAX_TENSOR_BYTES
from elir_deploy.runtime.noise import NoiseField
from elir_deploy.runtime.tensorrt_library import load_library
from elir_deploy.runtime.tiling import next_multiple
from elir_deploy.static_graph import (
    MAX_IMAGE_SIZE,
    Noise,
    Rewrites,
    check_size,
    fixed_noise,
    latent_shape,
)
from elir_deploy.targets import RTX, Target
from elir_deploy.tasks import Architecture

__all__ = [
    "DEFAULT_PRECISIONS",
    "EXPORTABLE",
    "NO_DETECTOR",
    "ExportOptions",
    "Settings",
    "check_options",
    "file_precisions",
    "image_size_named",
    "verified_precisions",
]

#: Precisions to choose from; bf16 has no file, and verifies one way to compute the fp32 one.
EXPORTABLE = RUN_PRECISIONS
DEFAULT_PRECISIONS = ("fp32", "fp16")
#: The choice of a bundle without a face detector.
NO_DETECTOR = "none"
#: Limit of the manifest.
MAX_BATCH = 1024


@dataclass(frozen=True)
class ExportOptions:
    """Options of an export; ``None`` stands for the task's value.

    Attributes:
        precisions: any of :data:`EXPORTABLE`.
        stages: ``fused`` for one graph, ``split`` for encoder, estimator, flow and decoder.
        io: ``uint8`` for NHWC RGB bytes, ``float32`` for NCHW in [0, 1], at both ends.
        image_sizes: (height, width) of the images in pixels; empty: the task's square.
        batch: the largest number of images in one run.
        steps: Euler steps M.
        noise: ``field`` for noise that is an input of the graph and belongs to the picture,
            ``baked`` for a constant of the graph; None: baked for face tasks, else field.
        sigma_s: standard deviation of the noise.
        seed: of the noise, and of random weights.
        floor_db: least PSNR against float32 PyTorch, for all precisions.
        opset: of the ONNX graphs.
        float16_normalization: normalisation inside float16 graphs is float32 where measurements
            require it (``measured``), always (``float32``), or where its range requires it
            (``float16``).
        rewrites: exact rewrites to apply.
        quantization: options of INT8 and w8.
        int8_fallback: what INT8 and w8 graphs compute in where they are not INT8: ``float32``, for
            CPUs, or ``float16`` with islands, for TensorRT.
        calibration: folder of images for INT8, or a bundle or file whose calibration is used
            again; None takes the package's photographs.
        calibration_images: number of images used of the folder.
        calibration_degraded: the images are already degraded.
        detector: the face detector: ``centerface``, ``yunet``, an ONNX file, or ``none``; None:
            CenterFace where the task restores faces of photographs and the package with it is
            installed, else none.
        targets: devices to build engines for, or ONNX files that theirs can be built from.
        overwrite: replace a bundle that is there.
    """

    precisions: tuple[str, ...] = DEFAULT_PRECISIONS
    stages: Literal["fused", "split"] = "fused"
    io: Literal["uint8", "float32"] = "uint8"
    image_sizes: tuple[tuple[int, int], ...] = ()
    batch: int = 1
    steps: int | None = None
    noise: Literal["baked", "field"] | None = None
    sigma_s: float | None = None
    seed: int = 0
    floor_db: float | None = None
    opset: int = DEFAULT_OPSET
    float16_normalization: Normalization = "measured"
    rewrites: Rewrites = field(default_factory=Rewrites)
    quantization: QuantizationOptions = field(default_factory=QuantizationOptions)
    int8_fallback: Literal["float32", "float16"] = "float32"
    calibration: Path | None = None
    calibration_images: int = 16
    calibration_degraded: bool = False
    detector: str | None = None
    targets: tuple[Target, ...] = ()
    overwrite: bool = False

    @classmethod
    def for_targets(
        cls,
        targets: tuple[Target, ...],
        *,
        io: Literal["uint8", "float32"] | None = None,
        opset: int | None = None,
        int8_fallback: Literal["float32", "float16"] | None = None,
        **others: Any,
    ) -> ExportOptions:
        """Options whose graphs all of ``targets`` accept; ``None`` lets the targets decide.

        Args:
            targets: devices that engines are for.
            io, opset, int8_fallback: as the attributes of these names.
            others: further attributes.
        """
        limits = [target.onnx for target in targets]
        takes_bytes = all(limit.uint8_io for limit in limits)
        takes_float16 = bool(limits) and all(limit.float16_beside_int8 for limit in limits)
        return cls(
            targets=targets,
            io=io or ("uint8" if takes_bytes else "float32"),
            opset=opset or min([DEFAULT_OPSET, *(limit.opset for limit in limits)]),
            int8_fallback=int8_fallback or ("float16" if takes_float16 else "float32"),
            **others,
        )


@dataclass(frozen=True)
class Settings:
    """The options with the task's values filled in."""

    shapes: tuple[Shape, ...]
    steps: int
    sigma_s: float
    noise: Noise

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of the graph that is exported, measured and converted: the first."""
        return self.shapes[0].graph_size

    @classmethod
    def resolve(cls, checkpoint: Checkpoint, options: ExportOptions) -> Settings:
        task = checkpoint.task
        sizes = options.image_sizes or ((task.image_size, task.image_size),)
        steps = task.steps if options.steps is None else options.steps
        arch = checkpoint.model.arch
        shapes = tuple(_shape_of(arch, *size, options) for size in dict.fromkeys(sizes))
        first = shapes[0].graph_size
        check_size(arch, first, steps)
        sigma_s = task.sigma_s if options.sigma_s is None else options.sigma_s
        if (options.noise or task.noise) == "field":
            return cls(shapes, steps, sigma_s, NoiseField(options.seed, sigma_s))
        if len(shapes) > 1:
            raise UsageError(
                f"baked noise is of one image size, but there are {len(shapes)}: use --noise field"
            )
        noise = fixed_noise(options.seed, sigma_s, latent_shape(checkpoint.model, first))
        return cls(shapes, steps, sigma_s, noise)


def image_size_named(text: str) -> tuple[int, int]:
    """(height, width) of an image size such as ``1280x720`` (width first) or ``512``.

    Raises:
        UsageError: it is none.
    """
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isascii() and side.isdecimal() for side in sides):
        raise UsageError(
            f"image size is {text!r}, expected pixels such as 512 or 1280x720 (width x height)"
        )
    return int(sides[-1]), int(sides[0])


def _shape_of(arch: Architecture, height: int, width: int, options: ExportOptions) -> Shape:
    """The shape of the manifest for images of a size, padded to what the network takes."""
    size = f"image size is {width}x{height}"
    if not (1 <= height <= MAX_IMAGE_SIZE and 1 <= width <= MAX_IMAGE_SIZE):
        raise UsageError(f"{size}, expected sides of 1 to {MAX_IMAGE_SIZE} pixels")
    multiple, batch = arch.image_multiple, options.batch
    padded_height, padded_width = (next_multiple(side, multiple) for side in (height, width))
    image_bytes = padded_height * padded_width * 3 * (1 if options.io == "uint8" else 4)
    if batch * image_bytes > MAX_TENSOR_BYTES:
        raise UsageError(
            f"{size}, and {batch} of them have more than {MAX_TENSOR_BYTES} bytes: "
            f"expected a batch of at most {MAX_TENSOR_BYTES // image_bytes}"
        )
    if (padded_height, padded_width) == (height, width):
        return Shape(batch, height, width)
    return Shape(batch, height, width, padded_height, padded_width)


def check_options(options: ExportOptions, destination: Path) -> None:
    """Check all that can be checked before a model is loaded.

    Raises:
        UsageError: an option that no model can be exported with.
        OutputError: the destination exists.
        MissingDependencyError: onnxruntime, which verifies, TensorRT-RTX, which builds for some
            targets, or the package with CenterFace is not installed.
        CheckpointError, DownloadError: there is no such face detector.
    """
    if not options.precisions:
        raise UsageError(f"no precision given: choose from {', '.join(EXPORTABLE)}")
    for precision in options.precisions:
        if precision not in EXPORTABLE:
            raise UsageError(
                f"unknown precision {precision!r}: choose from {', '.join(EXPORTABLE)}"
            )
    if options.floor_db is not None and not math.isfinite(options.floor_db):
        raise UsageError(f"the PSNR floor is {options.floor_db}, expected a number of dB")
    if options.calibration_images < 1:
        raise UsageError(f"{options.calibration_images} calibration images, expected at least 1")
    if not 1 <= options.batch <= MAX_BATCH:
        raise UsageError(f"batch is {options.batch}, expected 1 to {MAX_BATCH} images")
    drop = options.quantization.max_psnr_drop_db
    if drop is not None and not (math.isfinite(drop) and drop >= 0):
        raise UsageError(f"the largest PSNR drop is {drop}, expected a number of dB >= 0")
    if options.calibration is not None:
        if "int8" not in options.precisions:
            raise UsageError("calibration images are for INT8: add --precision int8")
        if not options.calibration.exists():
            raise UsageError(f"{options.calibration}: no such folder of calibration images")
    check_opset(options.opset)
    _check_targets(options)
    check_destination(destination, overwrite=options.overwrite)
    if options.detector not in (None, NO_DETECTOR):
        prepare_detector(options.detector, options.opset)
    try:
        import onnxruntime  # noqa: F401
    except ImportError:
        raise MissingDependencyError("onnxruntime", "cpu", "verify an export") from None


def _check_targets(options: ExportOptions) -> None:
    for target in options.targets:
        limits = target.onnx
        if options.io == "uint8" and not limits.uint8_io:
            raise UsageError(
                f"{target.name}: TensorRT {target.tensorrt} does not accept uint8 images: "
                "export with --io float32"
            )
        if options.opset > limits.opset:
            raise UsageError(
                f"{target.name}: TensorRT {target.tensorrt} does not accept opset {options.opset}, "
                f"expected at most {limits.opset}"
            )
    specs = engine_specs(options.targets)
    if specs:
        check_engine_specs(load_library(RTX, "build engines"), specs)


def file_precisions(precisions: tuple[str, ...]) -> list[str]:
    """Precisions of the files, in order."""
    return list(dict.fromkeys(file_precision(precision) for precision in precisions))


def verified_precisions(precisions: tuple[str, ...]) -> list[str]:
    """Precisions to verify: those of the files, and the chosen ones."""
    return list(dict.fromkeys((*file_precisions(precisions), *precisions)))
