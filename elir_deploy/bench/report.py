"""A measurement written down: plain JSON values first, tables made from those.

The JSON holds every sample. Latencies in it are seconds; a name ends in its unit.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from elir_deploy.bench.clocks import clock_resolution_ns
from elir_deploy.bench.contenders import Contender, Fidelity, Unavailable
from elir_deploy.bench.protocols import Measurement, Samples
from elir_deploy.bench.statistics import STEADY_VARIATION, Summary, paired_speedup
from elir_deploy.errors import OutputError
from elir_deploy.runtime import Bundle
from elir_deploy.tables import aligned, pipes
from elir_deploy.tasks import TASKS

__all__ = [
    "SCHEMA_VERSION",
    "build_report",
    "check_writable",
    "markdown",
    "text",
    "to_json",
]

SCHEMA_VERSION = 1
#: What the paper's figures were measured on (FPS of Tables 1, 2 and 9).
PAPER_DEVICE = "NVIDIA RTX 2080 Ti, PyTorch float32"
#: Cores busy with something else, on average, above which a measurement is doubtful.
_BUSY_CORES = 0.1
_STEADIER = (
    "close other programs, fix the clock rate (cpupower frequency-set -g performance), "
    "cool the device, and measure again"
)


def build_report(
    measurement: Measurement,
    contenders: Sequence[Contender],
    fidelities: dict[str, Fidelity],
    unavailable: Sequence[Unavailable],
    bundle: Bundle,
    device: dict[str, Any],
    *,
    seed: int,
    threads: int | None,
    cores_elsewhere: dict[str, float] | None,
) -> dict[str, Any]:
    """Everything known about a run, as plain JSON values.

    Args:
        measurement: complete or interrupted.
        contenders: in the order of the rows; the first is what the others are compared with.
        fidelities: by label.
        unavailable: asked for, but not measured.
        bundle: that was measured.
        device: of :func:`elir_deploy.bench.device.describe_device`.
        seed: of the images.
        threads: CPU threads of every contender.
        cores_elsewhere: of :meth:`elir_deploy.bench.device.CpuMeter.cores_elsewhere`.
    """
    failed = [Unavailable(label, why) for label, why in measurement.failures.items()]
    measured = [c for c in contenders if c.label in measurement.samples]
    rows = [_row(c, measurement.samples[c.label], fidelities.get(c.label)) for c in measured]
    if measured:
        reference = measurement.samples[measured[0].label]
        for contender, row in zip(measured, rows, strict=True):
            row["speedup"] = _speedup(
                measured[0].label,
                reference,
                measurement.samples[contender.label],
                measurement.protocol.block,
            )
    report: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "kind": "elir-bench",
        "complete": measurement.complete,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "protocol": {
            **asdict(measurement.protocol),
            "batch": 1,
            "input": "uniformly random bytes, a new image each time",
            "order": "contenders take turns of `block` images, each turn after one image that does "
            "not count; the order is shuffled for one round and reversed for the next",
            "timed": "8-bit image to restored 8-bit image; device: inside the backend's run",
            "seed": seed,
            "clock_resolution_ns": clock_resolution_ns(),
        },
        "threads": threads,
        "model": _model(bundle),
        "paper": _paper(bundle),
        "device": {**device, "cores_busy_elsewhere": cores_elsewhere},
        "contenders": rows,
        "unavailable": [asdict(item) for item in [*unavailable, *failed]],
    }
    report["warnings"] = _warnings(report)
    return report


def check_writable(path: Path) -> None:
    """Say now, not after the measurement, that ``path`` cannot be written.

    Raises:
        OutputError: its folder is not there or not writable, or it is a folder.
    """
    if path.is_dir():
        raise OutputError(f"{path} is a folder, wanted the name of a file")
    folder = path.parent
    if not folder.is_dir():
        raise OutputError(f"{path} cannot be written: there is no folder {folder}")
    if not os.access(folder, os.W_OK):
        raise OutputError(f"{path} cannot be written: {folder} is not writable")


def to_json(report: dict[str, Any]) -> str:
    """Strict JSON: no NaN, no infinity."""
    return json.dumps(report, indent=1, allow_nan=False) + "\n"


# Rows -----------------------------------------------------------------------------------------


def _row(contender: Contender, samples: Samples, fidelity: Fidelity | None) -> dict[str, Any]:
    image = _seconds(samples.image_ns)
    device = _seconds([ns for ns in samples.device_ns if ns is not None])
    if len(device) != len(image):
        device = []
    return {
        "label": contender.label,
        "backend": contender.backend,
        "precision": contender.precision,
        "library": contender.version,
        "weights": contender.weights,
        "artifacts": list(contender.artifacts),
        "fidelity": _fidelity(fidelity),
        "fps": _rounded(Summary.of(image).fps) if image else None,
        "image": _series(image),
        "device": _series(device),
        "started_s": _seconds(samples.started_ns),
    }


def _series(samples: list[float]) -> dict[str, Any] | None:
    if not samples:
        return None
    summary = Summary.of(samples)
    return {
        "count": summary.count,
        "mean_s": _rounded(summary.mean),
        "std_s": _rounded(summary.std),
        "variation": _rounded(summary.variation),
        "min_s": _rounded(summary.minimum),
        "p50_s": _rounded(summary.p50),
        "p90_s": _rounded(summary.p90),
        "p95_s": _rounded(summary.p95),
        "p99_s": _rounded(summary.p99),
        "max_s": _rounded(summary.maximum),
        "samples_s": samples,
    }


def _speedup(
    reference_label: str, reference: Samples, other: Samples, block: int
) -> dict[str, Any] | None:
    if not reference.image_ns:
        return None
    ratio = paired_speedup(_seconds(reference.image_ns), _seconds(other.image_ns), run=block)
    return {
        "over": reference_label,
        "ratio": _rounded(ratio.value),
        "low": None if ratio.low is None else _rounded(ratio.low),
        "high": None if ratio.high is None else _rounded(ratio.high),
        "confidence": ratio.confidence,
        "method": "ratio of means over the same images, paired circular block bootstrap",
    }


def _fidelity(fidelity: Fidelity | None) -> dict[str, Any] | None:
    if fidelity is None:
        return None
    psnr = fidelity.psnr_db
    identical = psnr is not None and math.isinf(psnr)
    return {
        "psnr_db": None if psnr is None or identical else _rounded(psnr),
        "identical": identical,
        "images": fidelity.images,
        "note": fidelity.note,
    }


def _model(bundle: Bundle) -> dict[str, Any]:
    model, source = bundle.info.model, bundle.info.source
    return {
        "task": model.task,
        "image_size": model.image_size,
        "steps": model.steps,
        "sigma_s": model.sigma_s,
        "upscale": model.upscale,
        "parameters": model.parameters,
        "source": source.name,
        "source_sha256": source.sha256,
        "random_weights": source.random,
        "stages": [stage.name for stage in bundle.info.stages],
        "versions": dict(bundle.info.versions),
    }


def _paper(bundle: Bundle) -> dict[str, Any] | None:
    """The paper's figure, if the bundle holds the model that it is of."""
    model = bundle.info.model
    task = TASKS.get(model.task)
    if task is None or task.paper_fps is None:
        return None
    same = (model.image_size, model.steps) == (task.image_size, task.steps)
    if not same or dict(model.architecture) != task.architecture.to_dict():
        return None
    return {"fps": task.paper_fps, "device": PAPER_DEVICE}


def _warnings(report: dict[str, Any]) -> list[str]:
    warnings = []
    if not report["complete"]:
        done = max((len(row["started_s"]) for row in report["contenders"]), default=0)
        wanted = report["protocol"]["images"]
        warnings.append(f"interrupted after {done} of {wanted} images")
    unsteady = [
        f"{row['label']} {row['image']['variation']:.1%}"
        for row in report["contenders"]
        if row["image"] and row["image"]["variation"] > STEADY_VARIATION
    ]
    if unsteady:
        warnings.append(
            f"coefficient of variation above {STEADY_VARIATION:.1%}: {', '.join(unsteady)}; "
            f"{_STEADIER}"
        )
    elsewhere = report["device"]["cores_busy_elsewhere"] or {}
    causes = {"other_programs": "other programs", "stolen": "other virtual machines"}
    for name, who in causes.items():
        if elsewhere.get(name, 0) > _BUSY_CORES:
            warnings.append(
                f"{who} kept {elsewhere[name]:.2f} cores busy during the run: neither speeds nor "
                "ratios hold, since libraries suffer unequally; measure on an idle machine"
            )
    return warnings


def _seconds(nanoseconds: Sequence[int]) -> list[float]:
    return [ns / 1e9 for ns in nanoseconds]


def _rounded(value: float) -> float:
    """Six significant digits: more than any measurement holds."""
    return float(f"{value:.6g}")


# Tables ---------------------------------------------------------------------------------------

_SPEED = ("contender", "FPS", "times faster [95 %]", "PSNR dB", "device ms", "runtime ms")
_LATENCY = ("ms", "n", "mean", "std", "CV %", "min", "p50", "p90", "p95", "p99", "max")


def text(report: dict[str, Any]) -> str:
    """For a terminal."""
    parts = [*_heading(report), ""]
    if any(row["image"] for row in report["contenders"]):
        parts += [aligned(_SPEED, _speed_rows(report)), ""]
        parts += [aligned(_LATENCY, _latency_rows(report)), ""]
    return "\n".join([*parts, *_remarks(report)]).rstrip()


def markdown(report: dict[str, Any]) -> str:
    """For a file."""
    heading, *details = _heading(report)
    parts = [f"# {heading}", "", *(f"- {line}" for line in details), ""]
    if any(row["image"] for row in report["contenders"]):
        parts += [pipes(_SPEED, _speed_rows(report)), ""]
        parts += ["Latency of an image:", "", pipes(_LATENCY, _latency_rows(report)), ""]
    parts += [f"- {line}" for line in _remarks(report)]
    files = [(row["label"], item) for row in report["contenders"] for item in row["artifacts"]]
    if files:
        parts += ["", "Files measured:", ""]
        parts += [
            f"- {label}: `{item['file']}`, SHA-256 `{item['sha256']}`" for label, item in files
        ]
    return "\n".join(parts) + "\n"


def _heading(report: dict[str, Any]) -> list[str]:
    model, device, cpu = report["model"], report["device"], report["device"]["cpu"]
    side = model["image_size"]
    memory = device["memory"]["total_bytes"]
    lines = [
        f"{model['task']}, {side}x{side}, M = {model['steps']}, "
        f"{model['parameters'] / 1e6:.1f} M parameters, from {model['source']}"
    ]
    if model["random_weights"]:
        lines.append("random weights: speed only; PSNR is against PyTorch with the same weights")
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
    protocol = report["protocol"]
    lines.append(
        f"protocol {protocol['name']}: batch 1, random images, {protocol['warmup']} to warm up, "
        f"{protocol['images']} measured; FPS is from image to image, by the mean"
    )
    return lines


def _speed_rows(report: dict[str, Any]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for row in report["contenders"]:
        image, device, speedup = row["image"], row["device"], row["speedup"]
        if image is None:
            continue
        is_reference = speedup["over"] == row["label"]
        rows.append(
            (
                row["label"],
                _digits(row["fps"]),
                "1" if is_reference else _ratio(speedup),
                _psnr(row["fidelity"]),
                _digits(device["mean_s"] * 1e3) if device else "-",
                _digits((image["mean_s"] - device["mean_s"]) * 1e3) if device else "-",
            )
        )
    return rows


def _latency_rows(report: dict[str, Any]) -> list[tuple[str, ...]]:
    rows = []
    for row in report["contenders"]:
        image = row["image"]
        if image is None:
            continue
        tail = [
            _digits(image[f"{key}_s"] * 1e3) for key in ("min", "p50", "p90", "p95", "p99", "max")
        ]
        rows.append(
            (
                row["label"],
                str(image["count"]),
                _digits(image["mean_s"] * 1e3),
                _digits(image["std_s"] * 1e3),
                f"{100 * image['variation']:.1f}",
                *tail,
            )
        )
    return rows


def _remarks(report: dict[str, Any]) -> list[str]:
    lines = []
    if report["paper"]:
        lines.append(
            f"paper: {report['paper']['fps']:g} FPS on {report['paper']['device']} "
            "(another device: for orientation)"
        )
    for row in report["contenders"]:
        fidelity = row["fidelity"]
        if fidelity and fidelity["psnr_db"] is None and not fidelity["identical"]:
            lines.append(f"PSNR of {row['label']}: {fidelity['note']}")
    lines += [f"weights of {row['label']}: {row['weights']}" for row in report["contenders"]
              if row["backend"] == "torch"]  # fmt: skip
    lines += [f"not measured: {item['label']}: {item['reason']}" for item in report["unavailable"]]
    lines += [f"warning: {line}" for line in report["warnings"]]
    return lines


def _psnr(fidelity: dict[str, Any] | None) -> str:
    if fidelity is None:
        return "-"
    if fidelity["identical"]:
        return "identical"
    return "-" if fidelity["psnr_db"] is None else f"{fidelity['psnr_db']:.1f}"


def _ratio(speedup: dict[str, Any]) -> str:
    ratio = _digits(speedup["ratio"], 3)
    if speedup["low"] is None:
        return f"{ratio} [too few images]"
    return f"{ratio} [{_digits(speedup['low'], 3)}, {_digits(speedup['high'], 3)}]"


def _digits(value: float, significant: int = 4) -> str:
    """At least so many significant digits, never in powers of ten."""
    if value == 0:
        return "0"
    return f"{value:.{max(0, significant - 1 - math.floor(math.log10(abs(value))))}f}"
