"""What else differs between two measurements: device, versions, settings, files, quality."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from elir_deploy.bench.report_reading import Report, at_path, is_number

__all__ = ["Difference", "differences", "quality_differs"]

#: The state that the sensors saw before the run.
_STATE = ("device", "sensors", "before")
#: What changes a latency besides the program: where it is in a report, and its name for people.
_CONDITIONS: tuple[tuple[tuple[str, ...], str], ...] = (
    (("protocol", "name"), "protocol"),
    (("protocol", "warmup"), "warm-up images"),
    (("protocol", "images"), "images"),
    (("protocol", "block"), "images in a turn"),
    (("protocol", "batch"), "batch"),
    (("protocol", "seed"), "seed of the images"),
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
    (("device", "affinity", "allowed"), "cores allowed"),
    (("device", "affinity", "quota_cores"), "CPU quota in cores"),
    ((*_STATE, "cpu", "boost"), "boost"),
    ((*_STATE, "cpu", "smt_active"), "SMT"),
    ((*_STATE, "power_mode", "nvpmodel"), "nvpmodel"),
    ((*_STATE, "power_mode", "platform_profile"), "platform profile"),
)
#: Of the cores; there may be hundreds, so what they have is told once.
_CORE_FIELDS = {
    "limit_mhz": "highest clock allowed to cores in MHz",
    "preference": "energy preference of cores",
}
#: Of other clocks, such as a Jetson's GPU's.
_CLOCK_FIELDS = ("min_mhz", "max_mhz", "governor")
#: Of each GPU, as nvidia-smi tells; its clocks of the moment and its power state are left out.
_GPU_FIELDS = ("name", "driver_version", "clocks.max.sm", "power.limit")
#: Of each GPU, as NVML tells: what nvidia-smi does not, and where that is missing, the same.
_NVML_FIELDS = ("application_sm_mhz", "ecc")
_NVML_ALONE_FIELDS = ("name", "driver", "sm_max_mhz", "power_limit_watts")
#: Change of PSNR that is told, in dB: a quarter more squared error.
_QUALITY_DB = 1.0
#: PSNR of rounding to 8 bits itself, in dB: what agrees better than that is as good as identical.
_ROUNDING_DB = 10 * math.log10(12 * 255**2)


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
    found += _state_conditions(before, after)
    if set(before.series) != set(after.series):
        # Runners that take turns empty each other's caches.
        found.append(Difference("rows measured together", list(before.series), list(after.series)))
    return found


def _state_conditions(before: Report, after: Report) -> list[Difference]:
    """What the sensors saw of settings; what moves by itself, such as temperatures, is left out."""
    first, second = (at_path(run.values, _STATE) for run in (before, after))
    cores = [_tables(at_path(state, ("cpu", "cores"))) for state in (first, second)]
    found = []
    for field, name in _CORE_FIELDS.items():
        found += _compared(name, *(_distinct(side, field) for side in cores))
    clocks = [
        {str(clock.get("name")): clock for clock in _tables(at_path(state, ("device_clocks",)))}
        for state in (first, second)
    ]
    for name in dict.fromkeys([*clocks[0], *clocks[1]]):
        for field in _CLOCK_FIELDS:
            values = (clocks[side].get(name, {}).get(field) for side in range(2))
            found += _compared(f"clock of {name}: {field}", *values)
    found += _compared("power", _power(first), _power(second))
    told = _gpus(before) and _gpus(after)
    fields = _NVML_FIELDS if told else (*_NVML_ALONE_FIELDS, *_NVML_FIELDS)
    gpus = [_tables(at_path(state, ("gpus",))) for state in (first, second)]
    for index, (one, other) in enumerate(zip(*gpus, strict=False)):
        for field in fields:
            found += _compared(f"GPU {index} {field}", one.get(field), other.get(field))
    return found


def _power(state: Any) -> str | None:
    """``battery`` or ``mains``; None if unknown."""
    battery = at_path(state, ("on_battery",))
    return None if battery is None else "battery" if battery else "mains"


def _distinct(tables: Sequence[Mapping[str, Any]], field: str) -> list[Any] | None:
    values = (table.get(field) for table in tables)
    return list(dict.fromkeys(v for v in values if is_number(v) or isinstance(v, str))) or None


def quality_differs(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two rows agree so differently with float32 PyTorch that they are not the same."""
    first, second = (_psnr(row) for row in (one, other))
    if first is None or second is None:
        return first is not second
    return abs(first - second) >= _QUALITY_DB


def _psnr(row: Mapping[str, Any]) -> float | None:
    """In dB, no higher than rounding allows to tell; None where nobody measured it."""
    if at_path(row, ("fidelity", "identical")) is True:
        return _ROUNDING_DB
    psnr = at_path(row, ("fidelity", "psnr_db"))
    return float(max(0, min(psnr, _ROUNDING_DB))) if is_number(psnr) else None


def _told_quality(row: Mapping[str, Any]) -> Any:
    same = at_path(row, ("fidelity", "identical")) is True
    return "identical" if same else at_path(row, ("fidelity", "psnr_db"))


def _row_conditions(before: Report, after: Report, common: Sequence[str]) -> list[Difference]:
    first, second = before.rows, after.rows
    found: list[Difference] = []
    for label in common:
        one, other = first[label], second[label]
        for field in ("backend", "precision", "library", "weights"):
            found += _compared(f"{label}: {field}", one.get(field), other.get(field))
        if quality_differs(one, other):
            name = f"{label}: PSNR to float32 PyTorch in dB"
            found.append(Difference(name, _told_quality(one), _told_quality(other)))
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
    return _tables(at_path(report.values, ("device", "gpus")))


def _tables(values: Any) -> list[dict[str, Any]]:
    return (
        [value for value in values if isinstance(value, dict)] if isinstance(values, list) else []
    )


def _hashes(row: Mapping[str, Any]) -> dict[str, Any]:
    return {str(item.get("file")): item.get("sha256") for item in _tables(row.get("artifacts"))}
