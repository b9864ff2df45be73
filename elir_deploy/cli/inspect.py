"""``elir-inspect``: show a bundle or the cache, and what can run on this machine."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from elir_deploy.bench.device import describe_device
from elir_deploy.bench.device_report import device_report_text, read_device_report
from elir_deploy.bench.report_file import to_json
from elir_deploy.cli.abilities import Ability, abilities_here
from elir_deploy.cli.cached import COMPILED, DOWNLOADS, manage_cache
from elir_deploy.cli.shell import DebugOption, VersionOption, run_command
from elir_deploy.cost.devices import CPU, DEVICES, Device, measure_cpu
from elir_deploy.cost.report import (
    ALL_DEVICES,
    PREDICTED,
    CostReport,
    build_cost_report,
    devices_named,
)
from elir_deploy.errors import BundleError, UsageError
from elir_deploy.runtime.backends import (
    BACKENDS,
    reason_not_automatic,
)
from elir_deploy.runtime.backends.onnxruntime import conflicting_packages
from elir_deploy.runtime.bundle import Bundle
from elir_deploy.runtime.manifest import (
    Artifact,
    BakedNoise,
    Detector,
    FieldNoise,
    Quantization,
    Shape,
    Verification,
)
from elir_deploy.text import printable


def inspect(
    bundle: Annotated[
        str | None,
        typer.Argument(
            metavar="BUNDLE",
            help="A folder written by elir-export, or 'tiny' (included); or the file of "
            "elir-bench --device-report.",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object instead of tables.")
    ] = False,
    cost: Annotated[
        list[str] | None,
        typer.Option(
            metavar="DEVICE",
            help="Also predict, from the ONNX graphs, the cost of each part and the speed on "
            f"DEVICE: {', '.join(DEVICES)}, '{CPU}' (this machine's, whose peak rates are measured "
            f"first) or '{ALL_DEVICES}' (every device listed); repeat for several. Needs the "
            "export extra.",
        ),
    ] = None,
    cache: Annotated[
        bool,
        typer.Option(
            "--cache",
            help="Show the cache folder instead: compiled models and downloads with sizes and "
            "ages, and the limit.",
        ),
    ] = False,
    clear_cache: Annotated[
        list[str] | None,
        typer.Option(
            metavar="WHAT",
            help=f"Remove files from the cache folder: '{COMPILED}' models (compiled again when "
            f"needed), a download by name, such as elir_bfr, or all '{DOWNLOADS}'; may be "
            "repeated.",
        ),
    ] = None,
    debug: DebugOption = False,
    version: VersionOption = False,
) -> None:
    """Show the contents of a bundle, check its files, and list what can run it on this machine.

    Examples:

    * `elir-inspect bfr`
    * `elir-inspect tiny --json`
    * `elir-inspect bfr --cost rtx2080ti --cost orin-nano-8gb-super`
    * `elir-inspect device.zip`
    * `elir-inspect --cache`
    * `elir-inspect --clear-cache compiled`
    """
    if cache or clear_cache:
        if bundle is not None:
            raise UsageError("--cache and --clear-cache do not take a BUNDLE: leave it out")
        manage_cache(cache, clear_cache or [], as_json, _table)
    elif bundle is None:
        raise UsageError("BUNDLE is missing: give its folder, 'tiny', or --cache")
    elif bundle.endswith(".zip") and not Path(bundle).is_dir():
        if cost:
            raise UsageError("--cost is of a bundle: give its folder, or 'tiny'")
        file = read_device_report(Path(bundle))
        print(to_json(msgspec.to_builtins(file)) if as_json else device_report_text(file))
    else:
        _inspect_bundle(bundle, as_json, cost or [])


def _inspect_bundle(bundle: str, as_json: bool, cost: Sequence[str]) -> None:
    opened = Bundle.open(bundle)
    damaged = opened.damaged_files()
    predicted = None
    if cost and not damaged:
        predicted = build_cost_report(opened, devices_named(cost, _measure_cpu))
    abilities = abilities_here(opened)
    conflict = conflicting_packages()
    if as_json:
        values = _as_json(opened, damaged, abilities, conflict)
        if predicted is not None:
            values["cost"] = predicted.to_json()
        print(json.dumps(values, indent=2))
    else:
        _show(opened, damaged, abilities)
        if predicted is not None:
            _show_cost(predicted)
        if conflict:
            print(f"warning: {conflict}", file=sys.stderr)
    if damaged:
        raise BundleError(next(iter(damaged.values())))


def _as_json(
    bundle: Bundle, damaged: dict[str, str], abilities: Sequence[Ability], conflict: str | None
) -> dict[str, Any]:
    return {
        "path": str(bundle.path),
        "manifest": msgspec.to_builtins(bundle.manifest),
        "damaged": damaged,
        "backends": [asdict(ability) for ability in abilities],
        "engines": _incompatibilities(bundle),
        "warnings": [conflict] if conflict else [],
    }


# Tables ---------------------------------------------------------------------------------------

Row = Sequence[str]


def _show(bundle: Bundle, damaged: dict[str, str], abilities: Sequence[Ability]) -> None:
    print(printable(str(bundle.path)))
    _table(None, _facts(bundle))
    _table(("stage", "file", "kind", "precision", "target", "size", "written by"), _files(bundle))
    _table(
        (
            *("precision", "PSNR", "floor", "verdict", "weakest part", "float32 layers"),
            *("max error", "runs by default"),
        ),
        [_verified(name, result) for name, result in bundle.manifest.verification.items()],
    )
    if not bundle.manifest.verification:
        print("verification: none recorded")
    _table(("backend", "runs here", "reason, and what to do"), [each.row for each in abilities])
    _table(("engine", "fits here", "reason"), _engines(bundle))
    count = len(bundle.manifest.files())
    print(
        printable(f"files: {len(damaged)} of {count} DAMAGED: {', '.join(damaged)}")
        if damaged
        else f"files: all {count} match the hashes in the manifest"
    )
    print(
        "Hashes detect damage, not tampering: an engine is executable code, so use only bundles "
        "from people you trust."
    )


def _measure_cpu() -> Device:
    cpu = describe_device().cpu
    return measure_cpu(cpu.usable_cores, cpu.model or "CPU")


def _show_cost(report: CostReport) -> None:
    """Costs in every precision, and the costliest layers on the first device."""
    print(f"\n{PREDICTED}")
    for precision in report.layers:
        _table(*report.parts_table(precision))
    first = report.predictions[0][1].device if report.predictions else None
    for precision, prediction in report.predictions:
        if prediction.device == first:
            _table(*report.costliest_table(precision, prediction))
    _table(*report.predictions_table())
    for reason in report.unavailable:
        print(printable(f"not predicted: {reason}"))
    for remark in report.remarks:
        print(remark)


def _facts(bundle: Bundle) -> list[Row]:
    info, model = bundle.manifest, bundle.manifest.model
    source = info.source.name or "unknown"
    if info.source.random:
        source += " (random weights, for measuring speed)"
    elif info.source.sha256:
        source += f" (sha256 {info.source.sha256})"
    enlarged = f", inputs are first enlarged x{model.upscale} ({model.upscale_kernel})"
    return [
        ("task", model.task + (", aligned faces only" if model.faces else "")),
        ("image", ", ".join(map(_shape, info.shapes)) + enlarged * (model.upscale > 1)),
        ("steps", f"{model.steps}, sigma_s {model.sigma_s:g}, {_noise(info.noise)}"),
        ("parameters", f"{model.parameters / 1e6:.1f} M"),
        ("source", source),
        ("input", str(info.input)),
        ("output", str(info.output)),
        *([("INT8", _quantization(info.quantization))] if info.quantization else []),
        *([("face detector", _detector(info.detector))] if info.detector else []),
        ("versions", ", ".join(f"{name} {v}" for name, v in sorted(info.versions.items()))),
    ]


def _noise(noise: BakedNoise | FieldNoise) -> str:
    kind = "baked into the graphs" if isinstance(noise, BakedNoise) else "of each picture"
    return f"noise {kind}, seed {noise.seed}"


def _shape(shape: Shape) -> str:
    batch = f", batches of up to {shape.batch}" if shape.batch > 1 else ""
    return f"{shape.width}x{shape.height}{batch}"


def _quantization(entry: Quantization) -> str:
    return f"calibrated on {entry.images} images"


def _detector(entry: Detector) -> str:
    return (
        f"{entry.name}, licence {entry.licence} ({entry.licence_file.file}), pictures shrunk to "
        f"{entry.long_side} pixels"
    )


def _files(bundle: Bundle) -> list[Row]:
    parts: list[tuple[str, list[Artifact]]] = [
        (stage.name, stage.artifacts) for stage in bundle.manifest.stages
    ]
    if bundle.manifest.detector is not None:
        parts.append(("detector", bundle.manifest.detector.artifacts))
    return [
        (
            name,
            artifact.file,
            artifact.kind,
            artifact.precision,
            artifact.target or "any",
            f"{artifact.bytes / 1e6:.1f} MB",
            f"{artifact.tool} {_version(artifact.tool_version)}",
        )
        for name, artifacts in parts
        for artifact in artifacts
    ]


def _version(text: str) -> str:
    """A hash, as detectors have in place of a version, is shortened."""
    return f"{text[:12]}…" if len(text) == 64 else text


def _incompatibilities(bundle: Bundle) -> dict[str, str | None]:
    """By engine file: why it cannot run on this machine; None: it can, or that is unknown."""
    return {
        artifact.file: backend.incompatibility(artifact)
        for artifact in _artifacts(bundle)
        for backend in BACKENDS.values()
        if artifact.kind == backend.kind != "onnx"
    }


def _engines(bundle: Bundle) -> list[Row]:
    unusable = {b.kind for b in BACKENDS.values() if b.kind != "onnx" and b.available()}
    kinds = {artifact.file: artifact.kind for artifact in _artifacts(bundle)}
    return [
        (file, "unknown", f"{kinds[file]} cannot be used here")
        if kinds[file] in unusable and reason is None
        else (file, "no" if reason else "yes", reason or "")
        for file, reason in _incompatibilities(bundle).items()
    ]


def _artifacts(bundle: Bundle) -> list[Artifact]:
    """Those of the stages and of the face detector."""
    detector = bundle.manifest.detector
    return [*bundle.manifest.artifacts, *([] if detector is None else detector.artifacts)]


def _verified(precision: str, result: Verification) -> Row:
    psnr = "identical" if result.psnr_db is None else f"{result.psnr_db:.1f} dB"
    reason = reason_not_automatic(precision, result)
    return (
        precision,
        psnr if result.finite else "not finite",
        f"{result.floor_db:g} dB",
        "passed" if result.passed else "MISSED",
        result.worst_part or "-",
        str(len(result.kept_float32)),
        "not finite" if result.max_error is None else f"{result.max_error:.2g}",
        "yes" if reason is None else f"no: {reason}",
    )


def _table(heading: Row | None, rows: Sequence[Row]) -> None:
    """Print a table on a terminal, and otherwise aligned lines, which are never wrapped."""
    if not rows:
        return
    rows = [[printable(cell) for cell in row] for row in rows]
    if sys.stdout.isatty():
        _rich_table(heading, rows)
        return
    print()
    lines = [heading, *rows] if heading else list(rows)
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    for line in lines:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        print("  ".join(cells).rstrip())


def _rich_table(heading: Row | None, rows: Sequence[Row]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, show_header=heading is not None)
    for column in range(len(rows[0])):
        table.add_column(heading[column] if heading else "", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    Console().print(table)


def main() -> None:
    run_command(inspect)


if __name__ == "__main__":
    main()
