"""``elir-export``: a checkpoint to a verified bundle."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from elir_deploy.cli.imports import require_packages
from elir_deploy.cli.shell import DebugOption, VersionOption, progress, run_command, tell
from elir_deploy.errors import QualityError
from elir_deploy.pixels import db_from_json
from elir_deploy.runtime.backends import why_only_asked
from elir_deploy.tables import aligned
from elir_deploy.targets import targets_named
from elir_deploy.tasks import TASKS

if TYPE_CHECKING:
    from elir_deploy.export.int8 import Int8Report
    from elir_deploy.export.pipeline import ExportReport


Stages = Literal["fused", "split"]
Io = Literal["uint8", "float32"]
Normalization = Literal["measured", "float32", "float16"]
Rest = Literal["float32", "float16"]


def export(
    checkpoint: Annotated[
        str,
        typer.Argument(
            help="A weights file (.pth, .ckpt, .safetensors), a released name such as elir_bfr, "
            "'tiny' (the model in this package), or 'random' (for speed only)."
        ),
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="The bundle's folder; made whole or not at all.")
    ],
    task: Annotated[
        str | None,
        typer.Option(help=f"One of {', '.join(TASKS)}; read off the file where it can be."),
    ] = None,
    precision: Annotated[
        list[str] | None,
        typer.Option(help="fp32, fp16 or int8; repeat for several. [default: fp32 and fp16]"),
    ] = None,
    stages: Annotated[
        Stages,
        typer.Option(help="One graph, or encoder, estimator, flow and decoder one by one."),
    ] = "fused",
    target: Annotated[
        list[str] | None,
        typer.Option(
            help="A device to build engines for, such as rtx2080ti, sm86 or jetpack6.2; repeat for "
            "several. Engines for RTX GPUs are built here, without one; a Jetson builds its own "
            "from this bundle with elir-build."
        ),
    ] = None,
    io: Annotated[
        Io | None,
        typer.Option(
            help="uint8: NHWC RGB bytes in and out; float32: NCHW in [0, 1]. "
            "[default: uint8, but float32 for jetpack6.0]"
        ),
    ] = None,
    image_size: Annotated[
        int | None, typer.Option(help="Side of the square image in pixels. [default: the task's]")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Euler steps M. [default: the task's]")] = None,
    sigma_s: Annotated[
        float | None,
        typer.Option(help="Noise added to the coarse latent; 0: none. [default: the task's]"),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the noise, which is baked into the graph.")] = 0,
    calibration: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Clean images for INT8, degraded here as the task does it; or a bundle whose "
            "calibration is used again. [default: the package's photographs]",
        ),
    ] = None,
    calibration_images: Annotated[
        int, typer.Option(help="How many, spread evenly over the folder.", min=1)
    ] = 16,
    calibration_degraded: Annotated[
        bool,
        typer.Option(
            "--calibration-degraded",
            help="The images are degraded already: nothing is done to them.",
        ),
    ] = False,
    max_psnr_drop: Annotated[
        float,
        typer.Option(
            metavar="DB",
            help="What INT8 may lose against the truth on the calibration images; blocks that cost "
            "more stay in floating point. Degraded images have no truth: the floor alone counts.",
        ),
    ] = 0.3,
    int8_smallest_layer: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=0,
            help="Convolutions of fewer than N weights stay in floating point; 0 quantises all. "
            "RTX 20 engines compute INT8 in float16: there it is for size alone, and each "
            "activation scale costs about 0.1 MB, which small layers never win back. "
            "[default: 0, but 150000 where all targets are such GPUs]",
        ),
    ] = None,
    int8_fallback: Annotated[
        Rest | None,
        typer.Option(
            help="What INT8 graphs compute in elsewhere. "
            "[default: float32, which suits CPUs; float16 with --target, but for jetpack6.0]"
        ),
    ] = None,
    sensitivity_plot: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Also draw what each block costs in INT8 (.png, .svg or .pdf)."
        ),
    ] = None,
    floor_psnr: Annotated[
        float | None,
        typer.Option(
            metavar="DB",
            help="Least PSNR against float32 PyTorch. "
            "[default: 60 for fp32, 45 for fp16, 35 for bf16 and int8]",
        ),
    ] = None,
    opset: Annotated[
        int | None,
        typer.Option(
            help="Of the ONNX graphs; 21 and above need TensorRT 10.9. "
            "[default: 18, or what the targets take]"
        ),
    ] = None,
    fp16_normalization: Annotated[
        Normalization,
        typer.Option(
            help="Whether normalisation inside float16 graphs is float32: where a measurement "
            "says that it must, always, or never."
        ),
    ] = "measured",
    rewrites: Annotated[
        bool, typer.Option(help="Apply the exact rewrites (see docs/decisions.md).")
    ] = True,
    overwrite: Annotated[bool, typer.Option(help="Replace a bundle that is there.")] = False,
    debug: DebugOption = False,
    version: VersionOption = False,
) -> None:
    """Turn a checkpoint into a bundle, verified against float32 PyTorch on real images.

    The network's linear blocks are collapsed, its Euler steps unrolled with their noise fixed, and
    each precision is run in a process of its own; one below its floor is left out (exit 3).

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
    from elir_deploy.export.int8 import Int8Options
    from elir_deploy.export.options import DEFAULT_PRECISIONS, ExportOptions, check_options
    from elir_deploy.export.pipeline import export_bundle
    from elir_deploy.export.sensitivity_plot import check_plot
    from elir_deploy.static_graph import Rewrites

    options = ExportOptions.for_targets(
        targets_named(target or ()),
        precisions=tuple(dict.fromkeys(precision or DEFAULT_PRECISIONS)),
        stages=stages,
        io=io,
        image_size=image_size,
        steps=steps,
        sigma_s=sigma_s,
        seed=seed,
        floor_db=floor_psnr,
        opset=opset,
        float16_normalization=fp16_normalization,
        rewrites=Rewrites() if rewrites else Rewrites.none(),
        int8=Int8Options(max_psnr_drop_db=max_psnr_drop),
        int8_smallest_layer=int8_smallest_layer,
        int8_fallback=int8_fallback,
        calibration=calibration,
        calibration_images=calibration_images,
        calibration_degraded=calibration_degraded,
        overwrite=overwrite,
    )
    check_options(options, output)
    if sensitivity_plot is not None:
        require_packages(("matplotlib",), "eval", "draw sensitivities")
        check_plot(sensitivity_plot, options.precisions)
    with progress() as say:
        loaded = load_checkpoint(checkpoint, task, seed=seed, progress=say)
        report = export_bundle(loaded, output, options, say, lambda text: tell(f"warning: {text}"))
    _print_report(report)
    if sensitivity_plot is not None and report.int8 is not None:
        _draw(report.int8, sensitivity_plot)
    if report.failures:
        written = ", ".join(report.manifest.precisions)
        raise QualityError(
            f"{'. '.join(report.failures.values())}. {output} holds the rest: {written}"
        )


def _print_report(report: ExportReport) -> None:
    manifest = report.manifest
    model, source, shape = manifest.model, manifest.source, manifest.shapes[0]
    print(
        f"{report.folder}: {model.task}, {shape.width}x{shape.height}, M = {model.steps}, "
        f"sigma_s = {model.sigma_s:g}, {model.parameters / 1e6:.1f} M parameters, "
        f"from {source.name}"
    )
    if source.random:
        print("random weights: good for measuring speed; its pictures mean nothing")
    for artifact in manifest.artifacts:
        print(f"  {artifact.file:30} {artifact.bytes / 1e6:8.1f} MB")
    for target in manifest.targets:
        if target.engines == "build on the device":
            print(f"  {target.name}: build its engines on the device: elir-build FOLDER --device")
    if report.int8 is not None and report.int8.sensitivities:
        _print_int8(report.int8)
    print("against float32 PyTorch, worst of the reference images:")
    for name, found in report.verification.items():
        psnr = db_from_json(found.psnr_db)
        verdict = "ok" if found.passed else "BELOW ITS FLOOR"
        print(
            f"  {name}  PSNR {psnr:6.2f} dB (floor {found.floor_db:g})  "
            f"max error {found.max_error:.4f}  mean {found.mean_error:.1e}  {verdict}"
        )
        for line in found.kept_float32:
            kept = "floating point" if name == "int8" else "float32"
            print(f"        kept in {kept}: {line}")
        if found.passed and (reason := why_only_asked(name, found)):
            print(f"        runs only where it is named: {reason}")
        if not found.passed:
            print(f"        worst part: {found.worst_part}", file=sys.stderr)


def _print_int8(report: Int8Report) -> None:
    """What each part costs and saves, and what was decided."""
    assert report.quality is not None
    assert report.everything is not None
    saving = sum(s.block.saving for s in report.sensitivities)
    rows = [
        [
            s.block.name,
            f"{s.psnr_db:.1f}",
            f"{100 * s.block.saving / saving:.1f}",
            "kept" if s.block.name in report.kept else "int8",
        ]
        for s in report.sensitivities
    ]
    print("INT8, each block alone, on calibration images:")
    print(aligned(["block", "PSNR dB to float32", "time saved %", ""], rows))
    for what, quality in (("all blocks", report.everything), ("as chosen", report.quality)):
        drop = "" if quality.drop_db is None else f"loses {quality.drop_db:.3f} dB to the truth, "
        print(f"INT8, {what}: {drop}worst image {quality.fidelity_db:.1f} dB to float32")


def _draw(report: Int8Report, path: Path) -> None:
    from elir_deploy.export.sensitivity_plot import draw_sensitivities, why_nothing_to_draw

    reason = why_nothing_to_draw(report)
    if reason is not None:
        tell(f"warning: {path} is not drawn: {reason}")
        return
    draw_sensitivities(report, path)
    print(f"what each block costs: {path}")


def main() -> None:
    run_command(export)


if __name__ == "__main__":
    main()
