"""``elir-export``: a checkpoint to a verified bundle.

:func:`export` is as long as it has options: each is declared once, in its signature.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from elir_deploy.cli.imports import require_packages
from elir_deploy.cli.shell import DebugOption, VersionOption, progress, run_command, tell
from elir_deploy.errors import QualityError
from elir_deploy.runtime.backends import reason_not_automatic
from elir_deploy.targets import DEVICE_TENSORRT, targets_named
from elir_deploy.tasks import TASKS
from elir_deploy.text import aligned

if TYPE_CHECKING:
    from elir_deploy.export.block_choice import QuantizationReport
    from elir_deploy.export.pipeline import ExportReport
    from elir_deploy.runtime.manifest import Verification


Stages = Literal["fused", "split"]
Io = Literal["uint8", "float32"]
Noise = Literal["baked", "field"]
Normalization = Literal["measured", "float32", "float16"]
Fallback = Literal["float32", "float16"]


# Long because Typer reads the options from the signature.
def export(
    checkpoint: Annotated[
        str,
        typer.Argument(
            help="A weights file (.pth, .ckpt, .safetensors), a released name such as elir_bfr, "
            "'tiny' (the model in this package), or 'random' (for speed only)."
        ),
    ],
    output: Annotated[
        Path,
        typer.Option("-o", "--output", help="Folder for the bundle, written only if complete."),
    ],
    task: Annotated[
        str | None,
        typer.Option(
            help=f"One of {', '.join(TASKS)}. [default: recognised from the file, where possible]"
        ),
    ] = None,
    precision: Annotated[
        list[str] | None,
        typer.Option(
            help="fp32, fp16, bf16, int8, or w8 (only the weights in 8 bits, for small files); "
            "repeat for several. [default: fp32 and fp16]"
        ),
    ] = None,
    stages: Annotated[
        Stages,
        typer.Option(help="One graph, or one each for encoder, estimator, flow and decoder."),
    ] = "fused",
    target: Annotated[
        list[str] | None,
        typer.Option(
            help="A device to build engines for, such as rtx2080ti, sm86 or jetpack6.2; repeat for "
            "several. Engines for RTX GPUs are built here and need no GPU; a Jetson builds its own "
            "from this bundle with elir-build."
        ),
    ] = None,
    detector: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE",
            help="The network that finds faces in whole photographs: centerface, yunet "
            "(downloaded), an ONNX file of either kind, or none. [default: centerface for bfr, if "
            "the extra faces is installed; else none]",
        ),
    ] = None,
    io: Annotated[
        Io | None,
        typer.Option(
            help="uint8: NHWC RGB bytes in and out; float32: NCHW in [0, 1]. "
            "[default: uint8; float32 for jetpack6.0]"
        ),
    ] = None,
    image_size: Annotated[
        list[str] | None,
        typer.Option(
            metavar="WIDTHxHEIGHT",
            help="Size of the images in pixels, such as 1280x720, or 512 for a square; repeat for "
            "several, for which weights are stored once. [default: the task's]",
        ),
    ] = None,
    batch: Annotated[int, typer.Option(help="Maximum number of images in one run.", min=1)] = 1,
    steps: Annotated[int | None, typer.Option(help="Euler steps M. [default: the task's]")] = None,
    noise: Annotated[
        Noise | None,
        typer.Option(
            help="field: the noise belongs to the picture, so that tiles agree, and sigma_s and "
            "seed can be chosen when restoring; baked: it is a constant of the graph. "
            "[default: baked for face tasks, else field]"
        ),
    ] = None,
    sigma_s: Annotated[
        float | None,
        typer.Option(
            help="Standard deviation of the noise added to the coarse latent; 0: none. "
            "[default: the task's]"
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the noise.")] = 0,
    calibration: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Folder of clean images for calibrating INT8, which the task's degradation is "
            "applied to; or a bundle whose calibration to reuse. "
            "[default: the package's photographs]",
        ),
    ] = None,
    calibration_images: Annotated[
        int, typer.Option(help="Number of images used, spread evenly over the folder.", min=1)
    ] = 16,
    calibration_degraded: Annotated[
        bool,
        typer.Option(
            "--calibration-degraded",
            help="The calibration images are already degraded.",
        ),
    ] = False,
    max_psnr_drop: Annotated[
        float,
        typer.Option(
            metavar="DB",
            help="Maximum loss of PSNR to the ground truth on the calibration images; blocks that "
            "cost more stay in floating point. With --calibration-degraded there is no ground "
            "truth, and only the floor applies.",
        ),
    ] = 0.3,
    int8_fallback: Annotated[
        Fallback | None,
        typer.Option(
            help="Data type of INT8 graphs where they are not INT8, and of w8. "
            "[default: float32, which suits CPUs; float16 with --target, except jetpack6.0]"
        ),
    ] = None,
    sensitivity_plot: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Also plot the cost of each block in INT8 (.png, .svg or .pdf)."
        ),
    ] = None,
    floor_psnr: Annotated[
        float | None,
        typer.Option(
            metavar="DB",
            help="Minimum PSNR against float32 PyTorch. "
            "[default: 60 for fp32, 45 for fp16, 35 for bf16, int8 and w8]",
        ),
    ] = None,
    opset: Annotated[
        int | None,
        typer.Option(
            help="Opset of the ONNX graphs; 21 and above need TensorRT 10.9. "
            "[default: 18, or the newest that all targets accept]"
        ),
    ] = None,
    fp16_normalization: Annotated[
        Normalization,
        typer.Option(
            help="Normalisation in float16 graphs: in float32 where measurements require it "
            "(measured), always (float32), or only where its range requires it (float16)."
        ),
    ] = "measured",
    rewrites: Annotated[
        bool, typer.Option(help="Apply the exact rewrites of the graph (docs/guide-export.md).")
    ] = True,
    overwrite: Annotated[bool, typer.Option(help="Replace an existing bundle.")] = False,
    debug: DebugOption = False,
    version: VersionOption = False,
) -> None:
    """Turn a checkpoint into a bundle, verified against float32 PyTorch on real images.

    Linear layers are collapsed and the Euler steps unrolled. Each precision is
    verified in a separate process; one below its floor is left out (exit 3).

    Examples:

    * `elir-export elir_bfr.pth -o bfr`
    * `elir-export elir_bfr.pth --precision fp32 --precision int8 --calibration faces/ -o bfr`
    * `elir-export model.ckpt --task denoise --stages split --precision fp16 -o denoise`
    * `elir-export elir_bfr.pth --precision fp16 --target rtx2080ti --target rtx4090 -o bfr`
    * `elir-export elir_bfr.pth --precision fp16 --target jetpack6.2 -o bfr`, then on the Jetson
      `elir-build bfr --device`
    """
    require_packages(("torch", "onnx", "onnxscript", "safetensors"), "export,cpu", "export")
    from elir_deploy.checkpoints import load_checkpoint
    from elir_deploy.export.block_choice import QuantizationOptions
    from elir_deploy.export.options import (
        DEFAULT_PRECISIONS,
        ExportOptions,
        check_options,
        image_size_named,
    )
    from elir_deploy.export.pipeline import export_bundle
    from elir_deploy.export.sensitivity_plot import check_plot
    from elir_deploy.static_graph import Rewrites

    options = ExportOptions.for_targets(
        targets_named(target or ()),
        precisions=tuple(dict.fromkeys(precision or DEFAULT_PRECISIONS)),
        stages=stages,
        io=io,
        detector=detector,
        image_sizes=tuple(image_size_named(text) for text in image_size or ()),
        batch=batch,
        steps=steps,
        noise=noise,
        sigma_s=sigma_s,
        seed=seed,
        floor_db=floor_psnr,
        opset=opset,
        float16_normalization=fp16_normalization,
        rewrites=Rewrites() if rewrites else Rewrites.none(),
        quantization=QuantizationOptions(max_psnr_drop_db=max_psnr_drop),
        int8_fallback=int8_fallback,
        calibration=calibration,
        calibration_images=calibration_images,
        calibration_degraded=calibration_degraded,
        overwrite=overwrite,
    )
    check_options(options, output)
    if sensitivity_plot is not None:
        require_packages(("matplotlib",), "eval", "plot sensitivities")
        check_plot(sensitivity_plot, options.precisions)
    with progress() as say:
        loaded = load_checkpoint(checkpoint, task, seed=seed, progress=say)
        report = export_bundle(loaded, output, options, say, lambda text: tell(f"warning: {text}"))
    _print_report(report)
    if sensitivity_plot is not None and "int8" in report.quantization:
        _plot(report.quantization["int8"], sensitivity_plot)
    if report.failures:
        written = ", ".join(report.manifest.precisions)
        raise QualityError(f"{'. '.join(report.failures.values())}. {output} has {written}")


def _print_report(report: ExportReport) -> None:
    manifest = report.manifest
    model, source = manifest.model, manifest.source
    sizes = ", ".join(f"{shape.width}x{shape.height}" for shape in manifest.shapes)
    if manifest.shapes[0].batch > 1:
        sizes += f" in batches to {manifest.shapes[0].batch}"
    print(
        f"{report.folder}: {model.task}, {sizes}, M = {model.steps}, "
        f"sigma_s = {model.sigma_s:g}, {model.parameters / 1e6:.1f} M parameters, "
        f"from {source.name}"
    )
    if source.random:
        print("random weights: for measuring speed only; the images mean nothing")
    for artifact in manifest.artifacts:
        print(f"  {artifact.file:30} {artifact.bytes / 1e6:8.1f} MB")
    if (detector := manifest.detector) is not None:
        print(f"face detector: {detector.name} ({detector.licence})")
        for artifact in detector.artifacts:
            print(f"  {artifact.file:30} {artifact.bytes / 1e6:8.1f} MB")
    for target in manifest.targets:
        if target.kind == DEVICE_TENSORRT:
            print(
                f"  {target.name}: build the engines on the device with elir-build FOLDER --device"
            )
    for precision, measured in report.quantization.items():
        if measured.sensitivities:
            _print_blocks(precision, measured)
    print("against float32 PyTorch, worst of the reference images:")
    for precision, result in report.verification.items():
        _print_verification(precision, result)


def _print_verification(precision: str, result: Verification) -> None:
    psnr = "identical" if result.psnr_db is None else f"{result.psnr_db:6.2f} dB"
    if not result.finite:
        psnr = "none"
    errors = (
        "not finite"
        if result.max_error is None
        else f"max error {result.max_error:.4f}  mean {result.mean_error:.1e}"
    )
    verdict = "ok" if result.passed else "BELOW ITS FLOOR"
    print(f"  {precision}  PSNR {psnr} (floor {result.floor_db:g})  {errors}  {verdict}")
    for line in result.kept_float32:
        kept = "floating point" if precision in ("int8", "w8") else "float32"
        print(f"        kept in {kept}: {line}")
    if result.passed and (reason := reason_not_automatic(precision, result)):
        print(f"        not used by default: {reason}")
    if not result.passed:
        print(f"        worst part: {result.worst_part}", file=sys.stderr)


def _print_blocks(precision: str, report: QuantizationReport) -> None:
    """Print the cost and saving of each block, and which blocks are quantised."""
    name, saved = ("INT8", "time") if precision == "int8" else (precision, "bytes")
    saving = sum(s.block.saving for s in report.sensitivities)
    rows = [
        [
            s.block.name,
            "identical" if block.psnr_db is None else f"{block.psnr_db:.1f}",
            f"{100 * s.block.saving / saving:.1f}",
            "kept" if block.kept else precision,
        ]
        for s, block in zip(report.sensitivities, report.figures.blocks, strict=True)
    ]
    print(f"{name}, each block alone, on calibration images:")
    print(aligned(["block", "PSNR dB to float32", f"{saved} saved %", ""], rows))
    everything, chosen = report.figures.everything_int8, report.figures.measured
    for what, quality in (("all blocks", everything), ("as chosen", chosen)):
        assert quality is not None  # measured together with the blocks
        lost = quality.psnr_drop_db
        drop = "" if lost is None else f"loses {lost:.3f} dB to the truth, "
        fidelity = quality.fidelity_db
        worst = "identical" if fidelity is None else f"{fidelity:.1f} dB"
        print(f"{name}, {what}: {drop}worst image {worst} to float32")


def _plot(report: QuantizationReport, path: Path) -> None:
    from elir_deploy.export.sensitivity_plot import draw_sensitivities, missing_sensitivities

    reason = missing_sensitivities(report)
    if reason is not None:
        tell(f"warning: {path} is not written: {reason}")
        return
    draw_sensitivities(report, path)
    print(f"cost of each block: {path}")


def main() -> None:
    run_command(export)


if __name__ == "__main__":
    main()
