"""What else differs between two measurements: device, versions, settings, files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from elir_deploy.bench.report_reading import Report, at_path

__all__ = ["Difference", "differences"]

#: What changes a latency besides the program: where it is in a report, and its name for people.
_CONDITIONS: tuple[tuple[tuple[str, ...], str], ...] = (
    (("protocol", "name"), "protocol"),
    (("protocol", "warmup"), "warm-up images"),
    (("protocol", "images"), "images"),
    (("protocol", "block"), "images in a turn"),
    (("protocol", "batch"), "batch"),
    (("threads",), "threads"),
    (("yardstick",), "yardstick"),
    (("model", "task"), "task"),
    (("model", "image_size"), "image size"),
    (("model", "steps"), "steps"),
    (("model", "sigma_s"), "sigma_s"),
    (("model", "parameters"), "parameters"),
    (("model", "source"), "weights"),
    (("model", "source_sha256"), "SHA-256 of the weights"),
    (("model", "random_weights"), "random weights"),
    (("model", "stages"), "stages"),
    (("model", "versions"), "made with"),
    (("device", "machine"), "machine"),
    (("device", "cpu", "model"), "CPU"),
    (("device", "cpu", "architecture"), "CPU architecture"),
    (("device", "cpu", "usable_cores"), "usable cores"),
    (("device", "cpu", "instruction_sets"), "instruction sets"),
    (("device", "cpu", "governor"), "governor"),
    (("device", "cpu", "virtual_machine"), "virtual machine"),
    (("device", "memory", "total_bytes"), "memory in bytes"),
    (("device", "os"), "system"),
    (("device", "kernel"), "kernel"),
    (("device", "python"), "Python"),
    (("device", "elir_deploy"), "elir-deploy"),
    (("device", "libraries"), "library"),
    (("device", "environment"), "variable"),
)
#: Of each GPU; its clocks of the moment and its power state are left out.
_GPU_FIELDS = ("name", "driver_version", "clocks.max.sm", "power.limit")


@dataclass(frozen=True)
class Difference:
    """Something besides the program that is not the same in both files.

    Attributes:
        what: such as ``threads``, or ``onnxruntime fp32: library``.
        before: in the first file; None where it does not say.
        after: in the second file.
    """

    what: str
    before: Any
    after: Any


def differences(before: Report, after: Report, common: Sequence[str]) -> list[Difference]:
    """Everything but the samples that is not the same.

    Args:
        before: the first run.
        after: the second.
        common: rows that both have.
    """
    return [*_conditions(before, after), *_row_conditions(before, after, common)]


def _conditions(before: Report, after: Report) -> list[Difference]:
    found: list[Difference] = []
    for path, name in _CONDITIONS:
        found += _compared(name, at_path(before.values, path), at_path(after.values, path))
    first, second = _gpus(before), _gpus(after)
    if len(first) != len(second):
        found.append(Difference("GPUs", len(first), len(second)))
    for index, (one, other) in enumerate(zip(first, second, strict=False)):
        for field in _GPU_FIELDS:
            found += _compared(f"GPU {index} {field}", one.get(field), other.get(field))
    if set(before.series) != set(after.series):
        # Contenders that take turns empty each other's caches.
        found.append(Difference("rows measured together", list(before.series), list(after.series)))
    return found


def _row_conditions(before: Report, after: Report, common: Sequence[str]) -> list[Difference]:
    first, second = _rows(before), _rows(after)
    found: list[Difference] = []
    for label in common:
        one, other = first[label], second[label]
        for field in ("backend", "precision", "library", "weights"):
            found += _compared(f"{label}: {field}", one.get(field), other.get(field))
        hashes = (_hashes(one), _hashes(other))
        for file in dict.fromkeys([*hashes[0], *hashes[1]]):
            name = f"{label}: SHA-256 of {file}"
            found += _compared(name, hashes[0].get(file), hashes[1].get(file))
    return found


def _compared(name: str, before: Any, after: Any) -> list[Difference]:
    """None or one; of tables, one for each entry."""
    if isinstance(before, dict) and isinstance(after, dict):
        return [
            Difference(f"{name} {key}", before.get(key), after.get(key))
            for key in dict.fromkeys([*before, *after])
            if before.get(key) != after.get(key)
        ]
    return [] if before == after else [Difference(name, before, after)]


def _gpus(report: Report) -> list[dict[str, Any]]:
    gpus = at_path(report.values, ("device", "gpus"))
    return [gpu for gpu in gpus if isinstance(gpu, dict)] if isinstance(gpus, list) else []


def _rows(report: Report) -> dict[str, dict[str, Any]]:
    return {row["label"]: row for row in report.values["contenders"]}


def _hashes(row: Mapping[str, Any]) -> dict[str, Any]:
    artifacts = row.get("artifacts")
    items = artifacts if isinstance(artifacts, list) else []
    return {str(i.get("file")): i.get("sha256") for i in items if isinstance(i, dict)}
