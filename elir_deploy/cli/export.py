"""``elir-export``: a checkpoint to a verified bundle."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from elir_deploy.cli.imports import require_packages
from elir_deploy.cli.shell import DebugOption, VersionOption, progress, run_command
from elir_deploy.tasks import TASKS

if TYPE_CHECKING:
    from elir_deploy.export.pipeline import ExportReport


Stages = Literal["fused", "split"]
Io = Literal["uint8", "float32"]
Upsampling = Literal["resize", "transposed"]


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
        typer.Option(help="fp32 or fp16; repeat for several. [default: both]"),
    ] = None,
    stages: Annotated[
        Stages,
        typer.Option(help="One graph, or encoder, estimator, flow and decoder one by one."),
    ] = "fused",
    io: Annotated[
        Io, typer.Option(help="uint8: NHWC RGB bytes in and out; float32: NCHW in [0, 1].")
    ] = "uint8",
    image_size: Annotated[
        int | None, typer.Option(help="Side of the square image in pixels. [default: the task's]")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Euler steps M. [default: the task's]")] = None,
    sigma_s: Annotated[
        float | None,
        typer.Option(help="Noise added to the coarse latent; 0: none. [default: the task's]"),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the noise, which is baked into the graph.")] = 0,
    floor_psnr: Annotated[
        float | None,
        typer.Option(
            metavar="DB",
            help="Least PSNR against float32 PyTorch. [default: 60 for fp32, 45 for fp16]",
        ),
    ] = None,
    opset: Annotated[
        int | None,
        typer.Option(help="Of the ONNX graphs; 21 and above need TensorRT 10.9. [default: 18]"),
    ] = None,
    fp16_islands: Annotated[
        bool, typer.Option(help="Keep normalisation in float32 inside float16 graphs.")
    ] = True,
    upsampling: Annotated[
        Upsampling,
        typer.Option(help="How the decoder's upsampling is written; both are exact."),
    ] = "resize",
    rewrites: Annotated[
        bool, typer.Option(help="Apply the other exact rewrites (see docs/decisions.md).")
    ] = True,
    overwrite: Annotated[bool, typer.Option(help="Replace a bundle that is there.")] = False,
    debug: DebugOption = False,
    version: VersionOption = False,
) -> None:
    """Turn a checkpoint into a bundle, verified against float32 PyTorch on real images.

    The network's linear blocks are collapsed, its Euler steps unrolled with their noise fixed, and
    each precision is run in a process of its own; one below its floor fails the export (exit 3).

    Examples:

    * `elir-export elir_bfr.pth -o bfr`
    * `elir-export model.ckpt --task denoise --stages split --precision fp16 -o denoise`
    """
    require_packages(("torch", "onnx", "onnxscript", "safetensors"), "export,cpu", "export")
    from elir_deploy.checkpoints import load_checkpoint
    from elir_deploy.export.onnx import DEFAULT_OPSET
    from elir_deploy.export.pipeline import EXPORTABLE, ExportOptions, check_options, export_bundle
    from elir_deploy.static_graph import Rewrites

    options = ExportOptions(
        precisions=tuple(dict.fromkeys(precision or EXPORTABLE)),
        stages=stages,
        io=io,
        image_size=image_size,
        steps=steps,
        sigma_s=sigma_s,
        seed=seed,
        floor_db=floor_psnr,
        opset=DEFAULT_OPSET if opset is None else opset,
        float16_islands=fp16_islands,
        rewrites=replace(Rewrites() if rewrites else Rewrites.none(), upsample=upsampling),
        overwrite=overwrite,
    )
    check_options(options, output)
    with progress() as say:
        loaded = load_checkpoint(checkpoint, task, seed=seed, progress=say)
        report = export_bundle(loaded, output, options, say)
    _print_report(report)


def _print_report(report: ExportReport) -> None:
    model, source = report.manifest["model"], report.manifest["source"]
    print(
        f"{report.folder}: {model['task']}, {model['image_size']}x{model['image_size']}, "
        f"M = {model['steps']}, sigma_s = {model['sigma_s']:g}, "
        f"{model['parameters'] / 1e6:.1f} M parameters, from {source['name']}"
    )
    if source["random"]:
        print("random weights: good for measuring speed; its pictures mean nothing")
    for stage in report.manifest["stages"]:
        for artifact in stage["artifacts"]:
            print(f"  {artifact['file']:24} {artifact['bytes'] / 1e6:8.1f} MB")
    print("against float32 PyTorch, worst of the reference images:")
    for name, found in report.verification.items():
        psnr = math.inf if found.psnr_db is None else found.psnr_db
        verdict = "ok" if found.passed else "BELOW ITS FLOOR"
        print(
            f"  {name}  PSNR {psnr:6.2f} dB (floor {found.floor_db:g})  "
            f"max error {found.max_error:.4f}  mean {found.mean_error:.1e}  {verdict}"
        )
        for line in found.kept_float32:
            print(f"        kept in float32: {line}")
        if not found.passed:
            print(f"        worst part: {found.worst_part}", file=sys.stderr)


def main() -> None:
    run_command(export)


if __name__ == "__main__":
    main()
