"""``elir-inspect``: what is in a bundle or in the cache, what here can run it, and why not."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import msgspec
import typer

from elir_deploy.bench.cost_report import (
    ALL_DEVICES,
    PREDICTED,
    CostReport,
    build_cost_report,
    chosen_devices,
)
from elir_deploy.bench.devices import CPU, DEVICES
from elir_deploy.cli.cached import COMPILED, DOWNLOADS, manage_cache
from elir_deploy.cli.shell import DebugOption, VersionOption, run_command
from elir_deploy.errors import BundleError, ElirError, UsageError
from elir_deploy.printable import printable
from elir_deploy.runtime.backends import BACKENDS, choose_precision, why_only_asked
from elir_deploy.runtime.backends.onnxruntime import conflicting_packages
from elir_deploy.runtime.bundle import Bundle
from elir_deploy.runtime.manifest import Quantization, Shape, Verification


@dataclass(frozen=True)
class Ability:
    """Whether one backend can run the bundle here.

    Attributes:
        backend: its name.
        precisions: those the bundle holds for it.
        unsupported: of those, the ones this machine cannot run in, each with the reason; none
            where the backend as a whole cannot be used.
        default: the precision it would run.
        reason: why it cannot run it, and what to do; None: it can.
    """

    backend: str
    precisions: tuple[str, ...]
    unsupported: dict[str, str]
    default: str | None
    reason: str | None


def inspect(
    bundle: Annotated[
        str | None,
        typer.Argument(
            metavar="BUNDLE", help="A folder made by elir-export, or 'tiny' (the one inside)."
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object instead of tables.")
    ] = False,
    cost: Annotated[
        list[str] | None,
        typer.Option(
            metavar="DEVICE",
            help="Also predict, from the ONNX graphs, what each part and layer costs and how fast "
            f"DEVICE could be: {', '.join(DEVICES)}, '{CPU}' (this one, its peak rates measured "
            f"now) or '{ALL_DEVICES}' (every device listed); repeat for several. Needs the export "
            "extra.",
        ),
    ] = None,
    cache: Annotated[
        bool,
        typer.Option(
            "--cache",
            help="Show the cache folder instead: compiled models and downloads, their sizes and "
            "ages, and the limit.",
        ),
    ] = False,
    clear_cache: Annotated[
        list[str] | None,
        typer.Option(
            metavar="WHAT",
            help=f"Remove from the cache folder '{COMPILED}' (models, which are compiled again "
            f"when they are needed), one download by its name, such as elir_bfr, or all "
            f"'{DOWNLOADS}'; repeat for several.",
        ),
    ] = None,
    debug: DebugOption = False,
    version: VersionOption = False,
) -> None:
    """Show what is in a bundle, check its files, and tell what on this machine can run it.

    Examples:

    * `elir-inspect bfr`
    * `elir-inspect tiny --json`
    * `elir-inspect bfr --cost rtx2080ti --cost orin-nano-8gb-super`
    * `elir-inspect --cache`
    * `elir-inspect --clear-cache compiled`
    """
    if cache or clear_cache:
        if bundle is not None:
            raise UsageError("--cache and --clear-cache are of no bundle: leave it out")
        manage_cache(cache, clear_cache or [], as_json, _table)
        return
    if bundle is None:
        raise UsageError("no BUNDLE is given: name its folder, or 'tiny' (or say --cache)")
    opened = Bundle.open(bundle)
    damaged = opened.damaged_files()
    predicted = None
    if cost and not damaged:
        predicted = build_cost_report(opened, chosen_devices(cost))
    abilities = [_ability(name, opened) for name in BACKENDS]
    conflict = conflicting_packages()
    if as_json:
        told = _as_json(opened, damaged, abilities, conflict)
        if predicted is not None:
            told["cost"] = predicted.to_json()
        print(json.dumps(told, indent=2))
    else:
        _show(opened, damaged, abilities)
        if predicted is not None:
            _show_cost(predicted)
        if conflict:
            print(f"warning: {conflict}", file=sys.stderr)
    if damaged:
        raise BundleError(next(iter(damaged.values())))


def _ability(name: str, bundle: Bundle) -> Ability:
    backend = BACKENDS[name]
    held = backend.held_precisions(bundle)
    reason = backend.available() or backend.obstacle(bundle)
    if not held:
        reason = f"the bundle holds no {backend.kind} files that it can load here"
    default, unsupported = None, {}
    if reason is None:
        why_not = {precision: backend.unsupported(precision) for precision in held}
        unsupported = {precision: why for precision, why in why_not.items() if why}
        try:
            default = choose_precision(backend, bundle, None)
        except ElirError as error:
            reason = str(error)
    return Ability(name, held, unsupported, default, reason)


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
    _table(("stage", "file", "kind", "precision", "target", "size", "made by"), _files(bundle))
    _table(
        (
            *("precision", "PSNR", "floor", "verdict", "weakest part", "kept in float32"),
            *("max error", "runs unasked"),
        ),
        [_verified(name, result) for name, result in bundle.manifest.verification.items()],
    )
    if not bundle.manifest.verification:
        print("verification: none recorded")
    _table(("backend", "here", "why not, and what to do"), [_run(a) for a in abilities])
    _table(("engine", "fits here", "why not"), _engines(bundle))
    count = len(bundle.manifest.files())
    print(
        printable(f"files: {len(damaged)} of {count} DAMAGED: {', '.join(damaged)}")
        if damaged
        else f"files: all {count} have the hashes that the manifest records"
    )
    print(
        "Hashes detect damage, not malice: an engine is executable code, so use bundles only from "
        "people you trust."
    )


def _show_cost(report: CostReport) -> None:
    """What every precision moves and computes; its costliest layers on the first device."""
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
        source += " (random weights: for speed only)"
    elif info.source.sha256:
        source += f" (sha256 {info.source.sha256})"
    enlarged = f", inputs first enlarged x{model.upscale} ({model.upscale_kernel})"
    return [
        ("task", model.task + (", aligned faces only" if model.faces else "")),
        ("image", ", ".join(map(_shape, info.shapes)) + enlarged * (model.upscale > 1)),
        ("steps", f"{model.steps}, sigma_s {model.sigma_s:g}, noise seed {info.noise.seed}"),
        ("parameters", f"{model.parameters / 1e6:.1f} M"),
        ("source", source),
        ("input", str(info.input)),
        ("output", str(info.output)),
        *([("INT8", _quantization(info.quantization))] if info.quantization else []),
        ("made with", ", ".join(f"{name} {v}" for name, v in sorted(info.versions.items()))),
    ]


def _shape(shape: Shape) -> str:
    batch = f", up to {shape.batch} at once" if shape.batch > 1 else ""
    return f"{shape.width}x{shape.height}{batch}"


def _quantization(entry: Quantization) -> str:
    told = f"ranges of {entry.images} images"
    if entry.smallest_layer:
        told += f"; float convolutions of fewer than {entry.smallest_layer} weights"
    return told


def _files(bundle: Bundle) -> list[Row]:
    return [
        (
            stage.name,
            artifact.file,
            artifact.kind,
            artifact.precision,
            artifact.target or "any",
            f"{artifact.bytes / 1e6:.1f} MB",
            f"{artifact.tool} {artifact.tool_version}",
        )
        for stage in bundle.stages
        for artifact in stage.artifacts
    ]


def _incompatibilities(bundle: Bundle) -> dict[str, str | None]:
    """By file of an engine: why it is not for this machine; None: it is, or nothing is known."""
    return {
        artifact.file: backend.incompatibility(artifact)
        for artifact in bundle.manifest.artifacts
        for backend in BACKENDS.values()
        if artifact.kind == backend.kind != "onnx"
    }


def _engines(bundle: Bundle) -> list[Row]:
    unusable = {b.kind for b in BACKENDS.values() if b.kind != "onnx" and b.available()}
    kinds = {artifact.file: artifact.kind for artifact in bundle.manifest.artifacts}
    return [
        (file, "unknown", f"no usable {kinds[file]} here")
        if kinds[file] in unusable and reason is None
        else (file, "no" if reason else "yes", reason or "")
        for file, reason in _incompatibilities(bundle).items()
    ]


def _verified(precision: str, result: Verification) -> Row:
    psnr = "identical" if result.psnr_db is None else f"{result.psnr_db:.1f} dB"
    only_asked = why_only_asked(precision, result)
    return (
        precision,
        psnr if result.finite else "not finite",
        f"{result.floor_db:g} dB",
        "passed" if result.passed else "MISSED",
        result.worst_part or "-",
        str(len(result.kept_float32)),
        "not finite" if result.max_error is None else f"{result.max_error:.2g}",
        "yes" if only_asked is None else f"no: {only_asked}",
    )


def _run(ability: Ability) -> Row:
    if ability.reason:
        return ability.backend, "no", ability.reason
    runnable = [p for p in ability.precisions if p not in ability.unsupported]
    shown = [f"{p} (default)" if p == ability.default else p for p in runnable]
    why_not = "; ".join(f"not {p}: {why}" for p, why in ability.unsupported.items())
    return ability.backend, "yes: " + ", ".join(shown), why_not


def _table(heading: Row | None, rows: Sequence[Row]) -> None:
    """On a terminal as a table, elsewhere as aligned lines of whatever length they need."""
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
