"""``elir-build``: engines for a bundle that is there already."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from elir_deploy.cli.shell import DebugOption, VersionOption, progress, run_command, tell
from elir_deploy.errors import MissingDependencyError, UnavailableError, UsageError
from elir_deploy.export.tensorrt.builder import BuildOptions
from elir_deploy.export.tensorrt.engines import EngineSpec, check_engine_specs, engine_specs
from elir_deploy.export.tensorrt.existing import (
    AddedEngine,
    add_engines,
    check_parser,
    default_precisions,
    measure_engines,
)
from elir_deploy.runtime.backends.base import missing_cuda_device
from elir_deploy.runtime.bundle import Bundle
from elir_deploy.runtime.cuda import device_capabilities
from elir_deploy.runtime.manifest import PRECISIONS
from elir_deploy.runtime.tensorrt_engine import Library, load_library
from elir_deploy.targets import DEVICE_TENSORRT, RTX, targets_named


def build(
    bundle: Annotated[str, typer.Argument(metavar="BUNDLE", help="A folder made by elir-export.")],
    target: Annotated[
        list[str] | None,
        typer.Option(
            help="An RTX GPU to build for, such as rtx2080ti or sm89, here and without one, by "
            "TensorRT-RTX; repeat for several."
        ),
    ] = None,
    device: Annotated[
        bool,
        typer.Option("--device", help="Build for the GPU of this machine, by its TensorRT."),
    ] = False,
    precision: Annotated[
        list[str] | None,
        typer.Option(
            help="fp32, fp16 or int8; repeat for several. "
            "[default: the reduced ones that the bundle holds and that passed]"
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Add the engines to a copy of the bundle there."),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option(help="With -o: replace a bundle that is there.")
    ] = False,
    workspace: Annotated[
        int | None,
        typer.Option(
            metavar="MIB",
            min=1,
            help="The most memory that one kernel may use beside its tensors; less lets a small "
            "board build. [default: what the device has]",
        ),
    ] = None,
    version_compatible: Annotated[
        bool,
        typer.Option(
            "--version-compatible",
            help="With --device: let later TensorRT releases run the engines; larger, and slower.",
        ),
    ] = False,
    hardware_compatible: Annotated[
        bool,
        typer.Option(
            "--hardware-compatible",
            help="With --device: let other GPUs of the same compute capability (before TensorRT "
            "10.9: Ampere and newer) run the engines; slower.",
        ),
    ] = False,
    debug: DebugOption = False,
    version: VersionOption = False,
) -> None:
    """Add TensorRT engines to a bundle, made from its ONNX files.

    Needs TensorRT or TensorRT-RTX and NumPy only: no torch, no onnx, so that it runs on a Jetson.
    Every engine is checked to compute in the precision that it was asked for (exit 3), and run on
    the bundle's own pictures: with --device always (exit 4 if it cannot be run, but for a missing
    cuda-python), with --target where this machine can.

    Examples:

    * `elir-build bfr --device`, on a Jetson or any machine with TensorRT
    * `elir-build bfr --target rtx2080ti --target rtx4090 --precision fp16`, on any x86 machine
    """
    if device == bool(target):
        raise UsageError("give --device for the GPU of this machine, or --target for others")
    if not device and (version_compatible or hardware_compatible):
        raise UsageError("TensorRT-RTX engines are compatible with neither: these are for --device")
    if overwrite and output is None:
        raise UsageError("--overwrite is for a bundle that is there at -o FOLDER: give it, too")
    opened = Bundle.open(bundle)
    precisions = tuple(dict.fromkeys(precision or default_precisions(opened)))
    for name in precisions:
        if name not in opened.manifest.precisions:
            held = ", ".join(opened.manifest.precisions)
            known = "holds no" if name in PRECISIONS else "there is no precision"
            raise UsageError(f"{opened.path}: {known} {name}: choose from {held}")
    library, orders = _for_device() if device else _for_targets(target or [])
    check_parser(opened, library)
    options = BuildOptions(
        workspace_mib=workspace,
        version_compatible=version_compatible,
        hardware_compatible=hardware_compatible,
    )
    with progress() as say:
        added = add_engines(
            opened,
            library,
            orders,
            precisions,
            options,
            say,
            lambda text: tell(f"warning: {text}"),
            output=output,
            overwrite=overwrite,
        )
    folder = output or opened.path
    _print_engines(folder, library, added)
    try:
        qualities = measure_engines(folder, library.kind, precisions)
    except UnavailableError as error:
        # What was built for this very machine runs here, unless what runs it is not installed.
        if device and not isinstance(error, MissingDependencyError):
            raise
        print(f"not run here: {error}")
        return
    for quality in qualities:
        psnr = "identical" if math.isinf(quality.psnr_db) else f"{quality.psnr_db:.2f} dB"
        print(
            f"  {quality.precision}  PSNR {psnr} against float32 PyTorch, "
            f"floor {quality.floor_db:g}"
        )


def _for_device() -> tuple[Library, list[EngineSpec]]:
    library = load_library(DEVICE_TENSORRT, "build engines")
    reason = missing_cuda_device()
    found = device_capabilities()
    if reason is not None or not found:
        raise UnavailableError(f"no device to build for: {reason or 'the driver tells of none'}")
    capability = found[0]
    tell(f"building for {capability} with {library}")
    return library, [EngineSpec(DEVICE_TENSORRT, capability, PRECISIONS)]


def _for_targets(names: list[str]) -> tuple[Library, list[EngineSpec]]:
    targets = targets_named(names)
    for target in targets:
        if target.on_device:
            raise UsageError(
                f"{target.name} builds its own engines: run elir-build BUNDLE --device there"
            )
    library = load_library(RTX, "build engines")
    orders = engine_specs(targets)
    check_engine_specs(library, orders)
    return library, orders


def _print_engines(folder: Path, library: Library, added: list[AddedEngine]) -> None:
    count = "1 engine" if len(added) == 1 else f"{len(added)} engines"
    print(f"{folder}: {count} by {library}")
    for engine in added:
        counts = engine.convolutions or {}
        told = ", ".join(f"{count} in {name}" for name, count in counts.items() if count)
        print(
            f"  {engine.file:34} {engine.bytes / 1e6:8.1f} MB  {engine.seconds:6.1f} s  "
            f"convolutions: {told or 'not told'}"
        )


def main() -> None:
    run_command(build)


if __name__ == "__main__":
    main()
