"""A report as tables: for a terminal, and as Markdown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from elir_deploy.tables import aligned, in_code, in_markdown, pipes

__all__ = [
    "LATENCY",
    "SPEED",
    "circumstances",
    "digits",
    "heading",
    "latency_rows",
    "markdown",
    "remarks",
    "speed_rows",
    "tables",
    "text",
]

SPEED = ("runner", "FPS", "times faster [95 %]", "PSNR dB", "device ms", "runtime ms")
COLD = ("runner", "start s", "load s", "first image s", "peak MiB", "GPU MiB")
ENERGY = ("runner", "J per image", "W")
STAGES = ("runner", "part", "ms", "share %", "95 %")
THROUGHPUT = (
    *("runner", "way", "at once", "FPS", "by pass"),
    *("PSNR dB", "p50 ms", "p99 ms", "images"),
)
STEPS = ("runner", "M", "FPS", "ms", "PSNR to truth dB", "PSNR to default M dB")
SOAK = (
    *("runner", "s", "images", "PSNR dB", "first p50 ms", "last p50 ms"),
    *("drift %/h [95 %]", "memory MiB/h [95 %]", "hottest C"),
)
LATENCY = ("ms", "n", "mean", "std", "CV %", "min", "p50", "p90", "p95", "p99", "max")


def text(report: dict[str, Any]) -> str:
    """For a terminal."""
    parts = [*heading(report), ""]
    for title, header, rows in tables(report):
        parts += [*([title] if title else []), aligned(header, rows), ""]
    return "\n".join([*parts, *remarks(report)]).rstrip()


def markdown(report: dict[str, Any]) -> str:
    """For a file; manifests hold anything, and none of it is markup."""
    first, *details = map(in_markdown, heading(report))
    parts = [f"# {first}", "", *(f"- {line}" for line in details), ""]
    for title, header, rows in tables(report):
        parts += [*([f"{title}:", ""] if title else []), pipes(header, rows), ""]
    parts += [f"- {in_markdown(line)}" for line in remarks(report)]
    files = [(row["label"], item) for row in report["runners"] for item in row["artifacts"]]
    if files:
        parts += ["", "Files measured:", ""]
        parts += [
            f"- {in_markdown(label)}: {in_code(item['file'])}, SHA-256 {in_code(item['sha256'])}"
            for label, item in files
        ]
    return "\n".join(parts) + "\n"


def tables(
    report: dict[str, Any],
) -> list[tuple[str, Sequence[str], Sequence[Sequence[str]]]]:
    """Title, header and rows of every table that the report has something for."""
    found: list[tuple[str, Sequence[str], Sequence[Sequence[str]]]] = [
        ("", SPEED, speed_rows(report)),
        ("Latency of an image", LATENCY, latency_rows(report)),
        ("A new process, to its first picture", COLD, _cold_rows(report)),
        ("Energy", ENERGY, _energy_rows(report)),
        ("Where the time goes", STAGES, _stage_rows(report)),
        ("Many images", THROUGHPUT, _throughput_rows(report)),
        ("Euler steps", STEPS, _step_rows(report)),
        ("Soak", SOAK, _soak_rows(report)),
    ]
    return [table for table in found if table[2]]


def heading(report: dict[str, Any]) -> list[str]:
    """What was measured, on what, and how, a line each."""
    model, device, cpu = report["model"], report["device"], report["device"]["cpu"]
    side = model["image_size"]
    memory = device["memory"]["total_bytes"]
    lines = [
        f"{model['task']}, {side}x{side}, M = {model['steps']}, "
        f"{model['parameters'] / 1e6:.1f} M parameters, from {model['source']}"
    ]
    if model["random_weights"]:
        lines.append("random weights: speed only, there is no quality to state")
    name = device["machine"] or cpu["model"] or cpu["architecture"]
    lines.append(
        f"{name}, {cpu['usable_cores']} usable cores, {report['threads'] or 'default'} threads"
        + (f", {memory / 2**30:.0f} GiB" if memory else "")
        + (", virtual" if cpu["virtual_machine"] else "")
        + f"; governor {cpu['governor'] or 'unknown'}; {device['os']}"
    )
    lines += [f"GPU: {gpu['name']}, driver {gpu['driver_version']}" for gpu in device["gpus"]]
    if cpu["instruction_sets"]:
        lines.append("instruction sets: " + " ".join(cpu["instruction_sets"]))
    lines.append(_protocol(report["protocol"]))
    return lines


def _protocol(protocol: dict[str, Any]) -> str:
    name = f"protocol {protocol['name']}: "
    if protocol["name"] in ("throughput", "soak"):
        return f"{name}{protocol['title']}"
    warmup = protocol["warmup"]
    warm = "warm-up until settled" if warmup is None else f"{warmup} to warm up"
    count = (
        f"measured until every median is known to {100 * protocol['tolerance']:g}%"
        if protocol["images"] is None
        else f"{protocol['images']} measured"
    )
    return f"{name}batch 1, random images, {warm}, {count}; FPS is from image to image, by the mean"


def speed_rows(report: dict[str, Any]) -> list[tuple[str, ...]]:
    """Cells under :data:`SPEED`."""
    rows: list[tuple[str, ...]] = []
    for row in report["runners"]:
        image, device, speedup = row["image"], row["device"], row["speedup"]
        if image is None:
            continue
        is_reference = speedup is not None and speedup["over"] == row["label"]
        rows.append(
            (
                row["label"],
                digits(row["fps"]),
                "1" if is_reference or speedup is None else _ratio(speedup),
                _psnr(row["fidelity"]),
                digits(device["mean_s"] * 1e3) if device else "-",
                digits((image["mean_s"] - device["mean_s"]) * 1e3) if device else "-",
            )
        )
    return rows


def latency_rows(report: dict[str, Any]) -> list[tuple[str, ...]]:
    """Cells under :data:`LATENCY`."""
    rows = []
    for row in report["runners"]:
        image = row["image"]
        if image is None:
            continue
        tail = [
            digits(image[f"{key}_s"] * 1e3) for key in ("min", "p50", "p90", "p95", "p99", "max")
        ]
        rows.append(
            (
                row["label"],
                str(image["count"]),
                digits(image["mean_s"] * 1e3),
                digits(image["std_s"] * 1e3),
                f"{100 * image['variation']:.1f}",
                *tail,
            )
        )
    return rows


def circumstances(report: dict[str, Any]) -> list[str]:
    """What the figures are to be read with."""
    lines = []
    if report["paper"]:
        lines.append(
            f"paper: {report['paper']['fps']:g} FPS on {report['paper']['device']} "
            "(another device: for orientation)"
        )
    lines += [f"weights of {row['label']}: {row['weights']}" for row in report["runners"]
              if row["backend"] == "torch"]  # fmt: skip
    lines += _whose_cpu(report)
    lines += [
        f"{row['label']}: {digits(made['seconds'], 2)} s {made['what']}"
        for row in report["runners"]
        if (made := row["preparation"])
    ]
    if any(row["energy"] for row in report["runners"]):
        energy = report["energy"]
        lines.append(f"energy: {energy['source']}, of {energy['scope']}")
    if report["energy"]["missing"]:
        lines.append(f"no energy: {'; '.join(report['energy']['missing'])}")
    if report["device"]["unreadable"]:
        unseen = "; ".join(report["device"]["unreadable"])
        lines.append(f"throttling would not be seen here in: {unseen}")
    return lines


def _whose_cpu(report: dict[str, Any]) -> list[str]:
    """What ran on the processor, where a reader could take it for the GPU's."""
    rows = report["runners"]
    here = [row["label"] for row in rows if row["on_cpu"]]
    elsewhere = len(here) < len(rows)
    if not here or not (elsewhere or report["device"]["gpus"]):
        return []
    lines = [f"on the CPU, not on the GPU: {', '.join(here)}"]
    over = {row["speedup"]["over"] for row in rows if row["speedup"]}
    if elsewhere and over & set(here):
        lines.append(f"times faster is over {', '.join(over)} on the CPU")
    return lines


def remarks(report: dict[str, Any]) -> list[str]:
    """Everything that has no place in a table, warnings last."""
    lines = circumstances(report)
    for row in report["runners"]:
        fidelity = row["fidelity"]
        if fidelity and fidelity["psnr_db"] is None and not fidelity["identical"]:
            lines.append(f"PSNR of {row['label']}: {fidelity['note']}")
    for row in report["runners"]:
        if row["arithmetic"]:
            counts = ", ".join(f"{count} in {kind}" for kind, count in row["arithmetic"].items())
            lines.append(f"convolutions of {row['label']}: {counts}")
    lines += [f"not measured: {item['label']}: {item['reason']}" for item in report["unavailable"]]
    lines += [f"warning: {line}" for line in report["warnings"]]
    return lines


def _cold_rows(report: dict[str, Any]) -> list[tuple[str, ...]]:
    return [
        (
            row["label"],
            digits(cold["import_s"], 3),
            digits(cold["load_s"], 3),
            digits(cold["first_result_s"], 3),
            _mebibytes(cold["peak_rss_bytes"]),
            _mebibytes(cold["device_bytes"]),
        )
        for row in report["runners"]
        if (cold := row["cold"])
    ]


def _energy_rows(report: dict[str, Any]) -> list[tuple[str, ...]]:
    return [
        (
            row["label"],
            digits(energy["joules_per_image"], 3),
            "-" if energy["watts"] is None else digits(energy["watts"], 3),
        )
        for row in report["runners"]
        if (energy := row["energy"])
    ]


def _stage_rows(report: dict[str, Any]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for stages in report["stages"] or ():
        for part in stages["parts"]:
            low, high = part["low"], part["high"]
            between = "-" if low is None else f"[{100 * low:.1f}, {100 * high:.1f}]"
            share = f"{100 * part['share']:.1f}"
            rows.append(
                (stages["label"], part["name"], digits(part["mean_s"] * 1e3), share, between)
            )
    return rows


def _throughput_rows(report: dict[str, Any]) -> list[tuple[str, ...]]:
    return [
        (
            load["label"],
            load["way"],
            str(load["concurrency"]),
            digits(load["fps"]),
            " / ".join(digits(fps, 3) for fps in load["fps_by_pass"]),
            _psnr(load["fidelity"]),
            *("-" if load[p] is None else digits(load[p] * 1e3) for p in ("p50_s", "p99_s")),
            str(load["images"]),
        )
        for load in report["throughput"] or ()
    ]


def _step_rows(report: dict[str, Any]) -> list[tuple[str, ...]]:
    return [
        (
            row["label"],
            str(row["steps"]),
            digits(row["fps"]),
            digits(row["mean_s"] * 1e3),
            _decibels(row["psnr_db"]),
            _decibels(row["psnr_to_full_db"]),
        )
        for row in report["steps"] or ()
    ]


def _soak_rows(report: dict[str, Any]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    fidelities = {row["label"]: row["fidelity"] for row in report["runners"]}
    for soak in report["soak"] or ():
        windows = soak["windows"]
        if not windows:
            continue
        hot = [w["celsius"] for w in windows if w["celsius"] is not None]
        drift, growth = soak["drift_percent_per_hour"], soak["rss_growth_bytes_per_hour"]
        rows.append(
            (
                soak["label"],
                digits(sum(w["seconds"] for w in windows), 3),
                str(sum(w["images"] for w in windows)),
                _psnr(fidelities.get(soak["label"])),
                digits(windows[0]["p50_s"] * 1e3),
                digits(windows[-1]["p50_s"] * 1e3),
                "-" if drift is None else f"{drift:+.1f} {_interval(soak['drift_interval'])}",
                "-"
                if growth is None
                else f"{growth / 2**20:+.1f} {_interval(soak['rss_growth_interval'], 2**20)}",
                f"{max(hot):.0f}" if hot else "-",
            )
        )
    return rows


def _interval(ends: Sequence[float], unit: float = 1) -> str:
    return f"[{ends[0] / unit:.1f}, {ends[1] / unit:.1f}]"


def _mebibytes(count: int | None) -> str:
    return "-" if count is None else f"{count / 2**20:.0f}"


def _decibels(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _psnr(fidelity: dict[str, Any] | None) -> str:
    if fidelity is None:
        return "-"
    if fidelity["identical"]:
        return "identical"
    return "-" if fidelity["psnr_db"] is None else f"{fidelity['psnr_db']:.1f}"


def _ratio(speedup: dict[str, Any]) -> str:
    ratio = digits(speedup["ratio"], 3)
    if speedup["low"] is None:
        return f"{ratio} [too few images]"
    return f"{ratio} [{digits(speedup['low'], 3)}, {digits(speedup['high'], 3)}]"


def digits(value: float, significant: int = 4) -> str:
    """At least so many significant digits, never in powers of ten; what rounding left is 0."""
    if abs(value) < 1e-12:
        return "0"
    return f"{value:.{max(0, significant - 1 - math.floor(math.log10(abs(value))))}f}"
