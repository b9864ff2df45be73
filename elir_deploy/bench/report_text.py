"""A report as tables: for a terminal, and as Markdown."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from elir_deploy.bench.cold import ColdStart
from elir_deploy.bench.report_types import (
    Energy,
    EulerRow,
    FidelityEntry,
    LoadRow,
    ProtocolEntry,
    Report,
    RunnerRow,
    Series,
    SoakRow,
    Speedup,
    StageTime,
)
from elir_deploy.bench.soak import Trend
from elir_deploy.bench.statistics import Summary
from elir_deploy.text import aligned, in_code, in_markdown, pipes, printable

__all__ = ["Table", "digits", "heading", "markdown", "remarks", "tables", "text"]

Cells = tuple[str, ...]
Rows = list[Cells]


@dataclass(frozen=True)
class Table:
    """Cells under a header; every row begins with a runner's label."""

    title: str
    header: tuple[str, ...]
    rows: Rows


def text(report: Report) -> str:
    """For a terminal; bundles are from anybody, and no text in them steers it."""
    lines = [*map(printable, heading(report)), ""]
    for table in tables(report):
        rows = [tuple(map(printable, row)) for row in table.rows]
        lines += [table.title, aligned(table.header, rows), ""]
    lines += map(printable, remarks(report))
    lines += [printable(f"warning: {line}") for line in report.warnings]
    return "\n".join(lines).rstrip()


def markdown(report: Report) -> str:
    """For a file; text from bundles is escaped."""
    first, *details = map(in_markdown, heading(report))
    lines = [f"# {first}", "", *(f"- {line}" for line in details), ""]
    for table in tables(report):
        lines += [f"{table.title}:", "", pipes(table.header, table.rows), ""]
    lines += [f"- {in_markdown(line)}" for line in remarks(report)]
    lines += [f"- {in_markdown(f'warning: {line}')}" for line in report.warnings]
    files = [
        f"- {in_markdown(row.label)}: {in_code(item.file)}, SHA-256 {in_code(item.sha256)}"
        for row in report.runners
        for item in row.artifacts
    ]
    if files:
        lines += ["", "Files measured:", "", *files]
    return "\n".join(lines) + "\n"


def tables(report: Report) -> list[Table]:
    """Every table that the report has rows for."""
    runners = report.runners
    fidelities = {row.label: row.fidelity for row in runners}
    every: tuple[tuple[str, str, Rows], ...] = (
        (
            "Speed",
            "runner|FPS|speedup [95 %]|PSNR dB|device ms|runtime ms",
            [_speed(row, row.image) for row in runners if row.image],
        ),
        (
            "Latency in ms",
            "runner|n|mean|std|CV %|min|p50|p90|p95|p99|max",
            [(row.label, *_latency(row.image.statistics)) for row in runners if row.image],
        ),
        (
            "Throughput",
            "runner|load|concurrency|FPS|FPS by pass|PSNR dB|p50 ms|p99 ms|images",
            [(load.label, *_load(load)) for load in report.throughput],
        ),
        (
            "Stages",
            "runner|stage|ms|share %|95 %",
            [(row.label, *_stage(stage)) for row in report.stages for stage in row.stages],
        ),
        (
            "Euler steps",
            "runner|M|FPS|ms|PSNR dB to truth|PSNR dB to the model's M",
            [(row.label, *_euler(row)) for row in report.steps],
        ),
        (
            "Soak",
            "runner|s|images|PSNR dB|first p50 ms|last p50 ms|drift %/h [95 %]"
            "|memory MiB/h [95 %]|max °C",
            [_soak(row, fidelities.get(row.label)) for row in report.soak if row.windows],
        ),
        (
            "Cold start",
            "runner|start s|load s|first image s|peak MiB|GPU MiB",
            [(row.label, *_cold(row.cold)) for row in runners if row.cold],
        ),
        (
            "Energy",
            "runner|J per image|W",
            [(row.label, *_energy(row.energy)) for row in runners if row.energy],
        ),
    )
    return [Table(title, tuple(head.split("|")), rows) for title, head, rows in every if rows]


# Lines ----------------------------------------------------------------------------------------


def heading(report: Report) -> list[str]:
    """Model, device and protocol, a line each."""
    model, device, cpu = report.bundle.model, report.device, report.device.cpu
    side, source = report.bundle.image_size, report.bundle.source
    lines = [
        f"{model.task}, {side}x{side}, M = {model.steps}, {model.parameters / 1e6:.1f} M "
        f"parameters, from {source.name}"
    ]
    if source.random:
        lines.append("random weights: valid for speed only")
    memory = device.memory.total_bytes
    lines.append(
        f"{device.machine or cpu.model or cpu.architecture}, {cpu.usable_cores} usable cores, "
        f"{report.threads or 'default'} threads"
        + (f", {memory / 2**30:.0f} GiB" if memory else "")
        + (", virtual" if cpu.virtual_machine else "")
        + f"; governor {cpu.governor or 'unknown'}; {device.os}"
    )
    lines += [f"GPU: {gpu.get('name')}, driver {gpu.get('driver_version')}" for gpu in device.gpus]
    if cpu.instruction_sets:
        lines.append("instruction sets: " + " ".join(cpu.instruction_sets))
    return [*lines, _protocol(report.protocol)]


def _protocol(protocol: ProtocolEntry) -> str:
    if protocol.block is None:
        return f"protocol {protocol.name}: {protocol.title}"
    warmup = "warm-up until latencies settle"
    if protocol.warmup is not None:
        warmup = f"{protocol.warmup} warm-up images"
    count = f"{protocol.images} measured"
    if protocol.images is None:
        count = f"measured until every median is known to {100 * (protocol.tolerance or 0):g}%"
    return (
        f"protocol {protocol.name}: batch 1, random images, {warmup}, {count}; FPS is 1 / mean "
        "latency from 8-bit image to 8-bit image"
    )


def remarks(report: Report) -> list[str]:
    """Everything but the warnings that has no place in a table."""
    energy = report.energy
    lines = []
    if report.paper:
        lines.append(f"paper: {report.paper.fps:g} FPS on another device, {report.paper.device}")
    lines += [f"weights of {row.label}: {row.weights}" for row in report.runners
              if row.backend == "torch"]  # fmt: skip
    lines += _cpu_runners(report)
    lines += [
        f"{row.label}: {digits(row.preparation.seconds, 2)} s {row.preparation.what}"
        for row in report.runners
        if row.preparation
    ]
    if any(row.energy for row in report.runners):
        lines.append(f"energy: measured by {energy.source}, of {energy.scope}")
    if energy.missing:
        lines.append(f"no energy: {'; '.join(energy.missing)}")
    if report.device.unreadable:
        lines.append(f"cannot be monitored here: {'; '.join(report.device.unreadable)}")
    notes: dict[str, list[str]] = {}
    for row in report.runners:
        if row.fidelity and row.fidelity.psnr_db is None and not row.fidelity.identical:
            notes.setdefault(row.fidelity.note, []).append(row.label)
    lines += [f"no PSNR of {', '.join(labels)}: {note}" for note, labels in notes.items()]
    for row in report.runners:
        if row.arithmetic:
            counts = ", ".join(f"{count} in {kind}" for kind, count in row.arithmetic.items())
            lines.append(f"convolutions of {row.label}: {counts}")
    return [*lines, *(f"not measured: {item.label}: {item.reason}" for item in report.unavailable)]


def _cpu_runners(report: Report) -> Iterator[str]:
    """What ran on the CPU, where a reader could take it for the GPU."""
    rows = report.runners
    on_cpu = [row.label for row in rows if row.on_cpu]
    mixed = len(on_cpu) < len(rows)
    if on_cpu and (mixed or report.device.gpus):
        yield f"on the CPU, not the GPU: {', '.join(on_cpu)}"
        references = {row.speedup.over for row in rows if row.speedup}
        if mixed and references & set(on_cpu):
            yield f"speedups are relative to {', '.join(references)} on the CPU"


# Rows -----------------------------------------------------------------------------------------


def _speed(row: RunnerRow, image: Series) -> Cells:
    mean, device, runtime = image.statistics.mean, "-", "-"
    if row.device is not None:
        inside = row.device.statistics.mean
        device, runtime = _ms(inside), _ms(mean - inside)
    return (
        row.label,
        digits(image.statistics.fps),
        _speedup(row.speedup, row.label),
        _psnr(row.fidelity),
        device,
        runtime,
    )


def _latency(s: Summary) -> Cells:
    percentiles = (s.minimum, s.p50, s.p90, s.p95, s.p99, s.maximum)
    return (
        *(str(s.count), _ms(s.mean), _ms(s.std), f"{100 * s.variation:.1f}"),
        *map(_ms, percentiles),
    )


def _load(load: LoadRow) -> Cells:
    return (
        *(load.way, str(load.concurrency), digits(load.fps)),
        " / ".join(digits(fps, 3) for fps in load.fps_by_pass),
        _psnr(load.fidelity),
        "-" if load.calls is None else _ms(load.calls.statistics.p50),
        "-" if load.calls is None else _ms(load.calls.statistics.p99),
        str(load.images),
    )


def _stage(stage: StageTime) -> Cells:
    interval = "-"
    if stage.low is not None and stage.high is not None:
        interval = f"[{100 * stage.low:.1f}, {100 * stage.high:.1f}]"
    return stage.name, _ms(stage.mean_s), f"{100 * stage.share:.1f}", interval


def _euler(row: EulerRow) -> Cells:
    psnrs = ("-" if db is None else f"{db:.2f}" for db in (row.psnr_db, row.psnr_to_full_db))
    return str(row.steps), digits(row.fps), _ms(row.mean_s), *psnrs


def _soak(soak: SoakRow, fidelity: FidelityEntry | None) -> Cells:
    windows = soak.windows
    celsius = [window.celsius for window in windows if window.celsius is not None]
    return (
        soak.label,
        digits(sum(window.seconds for window in windows), 3),
        str(sum(window.images for window in windows)),
        *(_psnr(fidelity), _ms(windows[0].p50_s), _ms(windows[-1].p50_s)),
        *(_trend(soak.drift_percent, 1), _trend(soak.rss_growth_bytes, 2**20)),
        f"{max(celsius):.0f}" if celsius else "-",
    )


def _cold(cold: ColdStart) -> Cells:
    times = (digits(s, 3) for s in (cold.import_s, cold.load_s, cold.first_result_s))
    sizes = (cold.peak_rss_bytes, cold.device_bytes)
    return *times, *("-" if size is None else f"{size / 2**20:.0f}" for size in sizes)


def _energy(energy: Energy) -> Cells:
    watts = "-" if energy.watts is None else digits(energy.watts, 3)
    return digits(energy.joules_per_image, 3), watts


# Cells ----------------------------------------------------------------------------------------


def _ms(seconds: float) -> str:
    return digits(1e3 * seconds)


def _trend(trend: Trend | None, unit: float) -> str:
    if trend is None:
        return "-"
    return f"{trend.per_hour / unit:+.1f} [{trend.low / unit:.1f}, {trend.high / unit:.1f}]"


def _psnr(fidelity: FidelityEntry | None) -> str:
    if fidelity is not None and fidelity.identical:
        return "identical"
    return "-" if fidelity is None or fidelity.psnr_db is None else f"{fidelity.psnr_db:.1f}"


def _speedup(speedup: Speedup | None, label: str) -> str:
    if speedup is None or speedup.over == label:
        return "1"
    ratio = digits(speedup.ratio.value, 3)
    low, high = speedup.ratio.low, speedup.ratio.high
    if low is None or high is None:
        return f"{ratio} [too few images]"
    return f"{ratio} [{digits(low, 3)}, {digits(high, 3)}]"


def digits(value: float, significant: int = 4) -> str:
    """At least so many significant digits, without an exponent; rounding noise is 0."""
    if abs(value) < 1e-12:
        return "0"
    decimals = significant - 1 - math.floor(math.log10(abs(value)))
    return f"{value:.{max(0, decimals)}f}"
