"""``elir-build``: engines for an existing bundle.

:func:`build` is as long as it has options: each is declared once, in its signature.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from elir_deploy.cli.shell import DebugOption, VersionOption, progress, run_command, tell
from elir_deploy.errors import (
    MissingDependencyError,
    QualityError,
    UnavailableError,
    UsageError,
)
from elir_deploy.export.tensorrt.builder import BuildOptions
from elir_deploy.export.tensorrt.engines import (
    DETECTOR,
    EngineSpec,
    check_engine_specs,
    engine_specs,
)
from elir_deploy.export.tensorrt.existing import (
    AddedEngine,
    AddedEngines,
    add_engines,
    check_parser,
    default_precisions,
    measure_engine,
)
from elir_deploy.runtime.backends.base import missing_cuda_device
from elir_deploy.runtime.bundle import Bundle
from elir_deploy.runtime.cuda import device_capabilities
from elir_deploy.runtime.manifest import PRECISIONS
from elir_deploy.runtime.tensorrt_library import Library, load_library
from elir_deploy.targets import DEVICE_TENSORRT, RTX, targets_named


# Long because Typer reads the options from the signature.
def build(
    bundle: Annotated[
        str, typer.Argument(metavar="BUNDLE", help="A folder written by elir-export.")
    ],
    target: Annotated[
        list[str] | None,
        typer.Option(
            help="An RTX GPU to build for, such as rtx2080ti or sm89; repeat for several. "
            "Its TensorRT-RTX engines are built on this machine and need no GPU here."
        ),
    ] = None,
    device: Annotated[
        bool,
        typer.Option("--device", help="Build for this machine's GPU with its TensorRT."),
    ] = False,
    precision: Annotated[
        list[str] | None,
        typer.Option(
            help=f"One of {', '.join(PRECISIONS)}; repeat for several. "
            "[default: the bundle's reduced precisions that passed verification]"
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            help="Folder for a copy of the bundle with the engines. [default: the bundle itself]",
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="With -o: replace an existing bundle.")] = False,
    workspace: Annotated[
        int | None,
        typer.Option(
            metavar="MIB",
            min=1,
            help="Maximum scratch memory of one kernel; lower it on boards with little memory. "
            "[default: all that the device has]",
        ),
    ] = None,
    version_compatible: Annotated[
        bool,
        typer.Option(
            "--version-compatible",
            help="With --device: build engines that later TensorRT releases can run, too; they are "
            "larger and slower.",
        ),
    ] = False,
    hardware_compatible: Annotated[
        bool,
        typer.Option(
            "--hardware-compatible",
            help="With --device: build engines that other GPUs of the same compute capability "
            "(before TensorRT 10.9: Ampere and newer) can run, too; they are slower.",
        ),
    ] = False,
    debug: DebugOption = False,
    version: VersionOption = False,
) -> None:
    """Build TensorRT engines from a bundle's ONNX files and add them to it.

    Runs on a Jetson: it needs TensorRT or TensorRT-RTX and NumPy, but neither torch nor onnx.
    Each engine must compute in its precision and reach that precision's floor on the bundle's
    reference pictures; an engine that does not is left out and named (exit 3). With --target,
    engines are run only if this machine can run them. With --device they must run (else exit 4),
    unless cuda-python is missing.

    Examples:

    * `elir-build bfr --device`, on a Jetson or any machine with TensorRT
    * `elir-build bfr --target rtx2080ti --target rtx4090 --precision fp16`, on any x86 machine
    """
    if device == bool(target):
        raise UsageError("give --device for the GPU of this machine, or --target for others")
    if not device and (version_compatible or hardware_compatible):
        raise UsageError(
            "--version-compatible and --hardware-compatible need --device: TensorRT-RTX has neither"
        )
    if overwrite and output is None:
        raise UsageError("--overwrite needs -o FOLDER")
    opened = Bundle.open(bundle)
    precisions = _checked_precisions(opened, precision)
    library, specs = device_specs() if device else target_specs(target or [])
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
            specs,
            precisions,
            options,
            say,
            lambda text: tell(f"warning: {text}"),
            output=output,
            overwrite=overwrite,
        )
    folder = output or opened.path
    _print_engines(folder, library, added.engines)
    failures = [*added.failures.values(), *_measure(folder, library, added, device=device)]
    if failures:
        raise QualityError(". ".join(failures))


def _checked_precisions(bundle: Bundle, precisions: list[str] | None) -> tuple[str, ...]:
    chosen = tuple(dict.fromkeys(precisions or default_precisions(bundle)))
    for name in chosen:
        if name not in bundle.manifest.precisions:
            present = ", ".join(bundle.manifest.precisions)
            reason = f"has no {name}" if name in PRECISIONS else f"unknown precision {name!r}"
            raise UsageError(f"{bundle.path}: {reason}: choose from {present}")
    return chosen


def device_specs() -> tuple[Library, list[EngineSpec]]:
    """TensorRT, and the engines to build for this machine's first GPU.

    Raises:
        UnavailableError: either is missing.
    """
    library = load_library(DEVICE_TENSORRT, "build engines")
    reason = missing_cuda_device()
    capabilities = device_capabilities()
    if reason is not None or not capabilities:
        raise UnavailableError(f"no device to build for: {reason or 'the driver reports none'}")
    capability = capabilities[0]
    tell(f"building for {capability} with {library}")
    return library, [EngineSpec(DEVICE_TENSORRT, capability, PRECISIONS)]


def target_specs(names: list[str]) -> tuple[Library, list[EngineSpec]]:
    """TensorRT-RTX, and the engines to build for GPUs by name, such as ``sm75``.

    Raises:
        UnavailableError: TensorRT-RTX is missing.
        UsageError: it does not build for one of them.
    """
    targets = targets_named(names)
    for target in targets:
        if target.on_device:
            raise UsageError(
                f"{target.name} builds its own engines: run elir-build BUNDLE --device there"
            )
    library = load_library(RTX, "build engines")
    specs = engine_specs(targets)
    check_engine_specs(library, specs)
    return library, specs


def _print_engines(folder: Path, library: Library, engines: Sequence[AddedEngine]) -> None:
    count = "1 engine" if len(engines) == 1 else f"{len(engines)} engines"
    print(f"{folder}: {count} by {library}")
    for engine in engines:
        counts = engine.convolutions or {}
        shown = ", ".join(f"{count} in {name}" for name, count in counts.items() if count)
        print(
            f"  {engine.file:34} {engine.bytes / 1e6:8.1f} MB  {engine.seconds:6.1f} s  "
            f"convolutions: {shown or 'not known'}"
        )


def _measure(folder: Path, library: Library, added: AddedEngines, *, device: bool) -> list[str]:
    """Run the new engines on the references; returns why some were removed.

    Raises:
        UnavailableError: some were built for this machine, which cannot run them.
    """
    failures, unavailable = [], []
    for precision in dict.fromkeys(e.precision for e in added.engines if e.stage != DETECTOR):
        try:
            quality = measure_engine(folder, library.kind, precision)
        except UnavailableError as error:
            # An engine for this machine runs here, unless the package that runs it is missing.
            if device and not isinstance(error, MissingDependencyError):
                unavailable.append(f"{precision} engines do not run: {error}")
            else:
                print(f"  {precision}  not run here: {error}")
            continue
        psnr = "identical" if math.isinf(quality.psnr_db) else f"{quality.psnr_db:.2f} dB"
        print(f"  {precision}  PSNR {psnr} against float32 PyTorch, floor {quality.floor_db:g}")
        if not quality.passed:
            failures.append(
                f"{precision} engines reach {psnr} against float32 PyTorch, expected "
                f"{quality.floor_db:g} dB: they were removed from {folder}"
            )
    if unavailable:
        for failure in (*added.failures.values(), *failures):
            tell(f"error: {failure}")
        raise UnavailableError(". ".join(unavailable))
    return failures


def main() -> None:
    run_command(build)


if __name__ == "__main__":
    main()
