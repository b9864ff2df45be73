"""A report as tables: for a terminal, and as Markdown."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from elir_deploy.bench.report_types import ProtocolEntry, Report
from elir_deploy.bench.runners import Fidelity
from elir_deploy.bench.statistics import Estimate
from elir_deploy.text import aligned, in_code, in_markdown, pipes, printable

__all__ = ["Table", "counts", "digits", "heading", "markdown", "psnr_cell", "remarks", "tables"]
__all__ += ["text"]

Cells = tuple[str, ...]
#: What the paper's figures were measured on (FPS of Tables 1, 2 and 9).
_PAPER_DEVICE = "NVIDIA RTX 2080 Ti, PyTorch float32"


@dataclass(frozen=True)
class Table:
    """Cells under a header; every row begins with a runner's label."""

    title: str
    header: tuple[str, ...]
    rows: list[Cells]


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
    filled = ((title, tuple(head.split("|")), list(rows(report))) for title, head, rows in _TABLES)
    return [Table(title, header, rows) for title, header, rows in filled if rows]


# Lines ----------------------------------------------------------------------------------------


def heading(report: Report) -> list[str]:
    """Model, device and protocol, a line each."""
    model, device, cpu = report.bundle.model, report.device, report.device.cpu
    bundle, source = report.bundle, report.bundle.source
    lines = [
        f"{model.task}, {bundle.width}x{bundle.height}, M = {model.steps}, "
        f"{model.parameters / 1e6:.1f} M parameters, from {source.name}"
    ]
    if source.random:
        lines.append("random weights: valid for speed only")
    memory = device.memory_bytes
    lines.append(
        f"{device.machine or cpu.model or cpu.architecture}, {cpu.usable_cores} usable cores, "
        f"{report.threads or 'default'} threads"
        + (f", {memory / 2**30:.0f} GiB" if memory else "")
        + (", virtual" if cpu.virtual_machine else "")
        + f"; governor {cpu.governor or 'unknown'}; {device.os}"
    )
    lines += [f"GPU: {gpu.get('name')}, driver {gpu.get('driver_version')}" for gpu in device.gpus]
    return [*lines, _protocol(report.protocol)]


def _protocol(protocol: ProtocolEntry) -> str:
    if protocol.block is None:
        return f"protocol {protocol.name}: {protocol.title}"
    warmup = "warm-up until latencies settle"
    if protocol.warmup is not None:
        warmup = f"{protocol.warmup} warm-up image{'s' * (protocol.warmup != 1)}"
    count = f"{protocol.images} measured"
    if protocol.images is None:
        count = f"measured until every median is known to {100 * (protocol.tolerance or 0):g}%"
    images = "a photograph" if protocol.name == "photo" else "batch 1, random images"
    return (
        f"protocol {protocol.name}: {images}, {warmup}, {count}; FPS is 1 / mean "
        "latency from 8-bit image to 8-bit image"
    )


def remarks(report: Report) -> list[str]:
    """Everything but the warnings that has no place in a table."""
    energy = report.energy
    lines = []
    if report.paper_fps:
        lines.append(f"paper: {report.paper_fps:g} FPS on another device, {_PAPER_DEVICE}")
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
    if report.unreadable:
        lines.append(f"cannot be monitored here: {'; '.join(report.unreadable)}")
    notes: dict[str, list[str]] = {}
    for row in report.runners:
        if row.fidelity and row.fidelity.psnr_db is None and not row.fidelity.identical:
            notes.setdefault(row.fidelity.note, []).append(row.label)
    lines += [f"no PSNR of {', '.join(labels)}: {note}" for note, labels in notes.items()]
    for row in report.runners:
        if row.arithmetic:
            lines.append(f"convolutions of {row.label}: {counts(row.arithmetic)}")
    return [*lines, *(f"not measured: {item.label}: {item.reason}" for item in report.unavailable)]


def counts(numbers: Mapping[str, int]) -> str:
    """Such as ``12 in float16, 3 in float32``."""
    return ", ".join(f"{count} in {kind}" for kind, count in numbers.items())


def _cpu_runners(report: Report) -> Iterator[str]:
    """What ran on the CPU, where a reader could take it for the GPU."""
    rows = report.runners
    on_cpu = [row.label for row in rows if row.on_cpu]
    mixed = len(on_cpu) < len(rows)
    if on_cpu and (mixed or report.device.gpus):
        yield f"on the CPU, not the GPU: {', '.join(on_cpu)}"
        if mixed and rows[0].on_cpu and any(row.speedup for row in rows):
            yield f"speedups are relative to {rows[0].label} on the CPU"


# Rows -----------------------------------------------------------------------------------------


def _cells(*values: float | str | None, significant: int = 4) -> Cells:
    """Texts of a row; "-" for what is unknown."""
    return tuple(
        "-" if v is None else digits(v, significant) if isinstance(v, float) else str(v)
        for v in values
    )


def _speeds(report: Report) -> Iterator[Cells]:
    for row in report.runners:
        if row.image:
            mean = row.image.statistics.mean
            device = row.device.statistics.mean if row.device else None
            yield _cells(
                *(row.label, row.image.statistics.fps, _speedup(row.speedup)),
                *(psnr_cell(row.fidelity), _ms(device), device and _ms(mean - device)),
            )


def _latencies(report: Report) -> Iterator[Cells]:
    for row in report.runners:
        if row.image:
            s = row.image.statistics
            percentiles = map(_ms, (s.minimum, s.p50, s.p90, s.p95, s.p99, s.maximum))
            scatter = f"{100 * s.variation:.1f}"
            yield _cells(row.label, s.count, _ms(s.mean), _ms(s.std), scatter, *percentiles)


def _loads(report: Report) -> Iterator[Cells]:
    for load in report.throughput:
        calls = load.calls.statistics if load.calls else None
        middle, late = (_ms(calls.p50), _ms(calls.p99)) if calls else (None, None)
        passes = " / ".join(digits(fps, 3) for fps in load.fps_by_pass)
        yield _cells(
            *(load.label, load.way, load.concurrency, load.fps, passes, psnr_cell(load.fidelity)),
            *(middle, late, load.images),
        )


def _stages(report: Report) -> Iterator[Cells]:
    for row in report.runners:
        for stage in row.stages:
            share = stage.share.scaled(100)
            interval = None if share.low is None else _interval(share, "{:.1f}")
            yield _cells(row.label, stage.name, _ms(stage.mean_s), f"{share.value:.1f}", interval)


def _euler(report: Report) -> Iterator[Cells]:
    rows = {row.label: row for row in report.runners}
    for one in report.steps:
        row = rows.get(one.label)
        if row and row.image:
            label, mean = f"{row.backend} {row.precision}", row.image.statistics.mean
            psnrs = (psnr_cell(fidelity, 2) for fidelity in (one.to_truth, one.to_full))
            yield _cells(label, one.steps, row.image.statistics.fps, _ms(mean), *psnrs)


def _soaks(report: Report) -> Iterator[Cells]:
    fidelities = {row.label: row.fidelity for row in report.runners}
    for soak in report.soak:
        if windows := soak.windows:
            seconds = digits(sum(window.seconds for window in windows), 3)
            celsius = [window.celsius for window in windows if window.celsius is not None]
            yield _cells(
                *(soak.label, seconds, sum(window.images for window in windows)),
                *(
                    psnr_cell(fidelities.get(soak.label)),
                    _ms(windows[0].p50_s),
                    _ms(windows[-1].p50_s),
                ),
                *(_trend(soak.drift_percent, 1), _trend(soak.rss_growth_bytes, 2**20)),
                f"{max(celsius):.0f}" if celsius else None,
            )


def _colds(report: Report) -> Iterator[Cells]:
    for row in report.runners:
        if cold := row.cold:
            sizes = (n and f"{n / 2**20:.0f}" for n in (cold.peak_rss_bytes, cold.device_bytes))
            times = (cold.import_s, cold.load_s, cold.first_result_s)
            yield _cells(row.label, *times, *sizes, significant=3)


def _models(report: Report) -> Iterator[Cells]:
    fps = {row.label: row.image.statistics.fps for row in report.runners if row.image}
    for row in report.paper_table:
        yield _cells(
            *(row.name, row.licence, row.parameters and f"{row.parameters / 1e6:.1f}"),
            f"{row.paper_parameters / 1e6:g}",
            *(fps.get(row.label or ""), f"{row.paper_fps:g}", row.paper_ratio),
            significant=3,
        )


def _not_measured(report: Report) -> Iterator[Cells]:
    yield from ((row.name, row.reason) for row in report.paper_table if row.reason)


def _relative(report: Report) -> Iterator[Cells]:
    for row in report.paper_table[1:]:
        for speed in row.speeds:
            yield _cells(
                speed.label, row.name, _speedup(speed.ratio), row.paper_ratio, significant=3
            )


def _energies(report: Report) -> Iterator[Cells]:
    for row in report.runners:
        if row.energy:
            yield _cells(row.label, row.energy.joules_per_image, row.energy.watts, significant=3)


#: Title, header, and what yields the rows.
_TABLES: tuple[tuple[str, str, Callable[[Report], Iterator[Cells]]], ...] = (
    ("Speed", "runner|FPS|speedup [95 %]|PSNR dB|device ms|runtime ms", _speeds),
    ("Latency in ms", "runner|n|mean|std|CV %|min|p50|p90|p95|p99|max", _latencies),
    (
        "Models of the paper",
        "model|licence|M parameters|M parameters, paper|FPS|FPS, paper|ELIR's FPS over its, paper",
        _models,
    ),
    ("Relative to the paper's rivals", "runner|rival|here [95 %]|in the paper", _relative),
    ("Rivals that are not measured", "rival|because", _not_measured),
    ("Throughput", "runner|load|concurrency|FPS|FPS by pass|PSNR dB|p50 ms|p99 ms|images", _loads),
    ("Stages", "runner|stage|ms|share %|95 %", _stages),
    ("Euler steps", "runner|M|FPS|ms|PSNR dB to truth|PSNR dB to the model's M", _euler),
    (
        "Soak",
        "runner|s|images|PSNR dB|first p50 ms|last p50 ms|drift %/h [95 %]|memory MiB/h [95 %]"
        "|max °C",
        _soaks,
    ),
    ("Cold start", "runner|start s|load s|first image s|peak MiB|GPU MiB", _colds),
    ("Energy", "runner|J per image|W", _energies),
)


# Cells ----------------------------------------------------------------------------------------


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else 1e3 * seconds


def _trend(trend: Estimate | None, unit: float) -> str | None:
    if trend is None:
        return None
    return f"{trend.value / unit:+.1f} {_interval(trend.scaled(1 / unit), '{:.1f}')}"


def _interval(estimate: Estimate, form: str) -> str:
    return f"[{form.format(estimate.low)}, {form.format(estimate.high)}]"


def psnr_cell(fidelity: Fidelity | None, decimals: int = 1) -> str | None:
    if fidelity is not None and fidelity.identical:
        return "identical"
    if fidelity is None or fidelity.psnr_db is None:
        return None
    return f"{fidelity.psnr_db:.{decimals}f}"


def _speedup(ratio: Estimate | None) -> str:
    if ratio is None:
        return "1"
    if ratio.low is None or ratio.high is None:
        return f"{digits(ratio.value, 3)} [too few images]"
    return f"{digits(ratio.value, 3)} [{digits(ratio.low, 3)}, {digits(ratio.high, 3)}]"


def digits(value: float, significant: int = 4) -> str:
    """At least so many significant digits, without an exponent; rounding noise is 0."""
    if abs(value) < 1e-12:
        return "0"
    decimals = significant - 1 - math.floor(math.log10(abs(value)))
    return f"{value:.{max(0, decimals)}f}"
