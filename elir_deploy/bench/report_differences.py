"""What else differs between two measurements: device, versions, settings, files, quality."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from elir_deploy.bench.report_file import RecordedRun
from elir_deploy.bench.report_types import RunnerRow
from elir_deploy.bench.sensors.state import State

__all__ = ["Difference", "differences", "quality_differs"]

#: Entries that change a latency, by the object that has them; what moves by itself is left out.
_SETTINGS = {
    "protocol": ("name", "warmup", "images", "block"),
    "bundle": ("width", "height", "stages", "versions", "source"),
    "bundle.model": ("task", "steps", "sigma_s", "parameters"),
    "device": (
        *("machine", "memory_bytes", "os", "kernel", "python", "elir_deploy", "libraries"),
        "environment",
    ),
    "device.cpu": (
        *("model", "architecture", "usable_cores", "instruction_sets", "governor"),
        "virtual_machine",
    ),
    "device.affinity": ("allowed", "quota_cores"),
}
#: Of each GPU, as NVML and nvidia-smi tell.
_NVML = ("application_sm_mhz", "ecc")
_NVIDIA_SMI = ("name", "driver_version", "clocks.max.sm", "power.limit")
#: Change of PSNR that is reported, in dB: a quarter more squared error.
_QUALITY_DB = 1.0
#: PSNR of rounding to 8 bits, in dB: any higher one counts as this.
_ROUNDING_DB = 10 * math.log10(12 * 255**2)


@dataclass(frozen=True)
class Difference:
    """Something besides the program that is not the same in both files.

    Attributes:
        what: such as ``threads``, or ``onnxruntime fp32: weights``.
        before: in the first file, as ``after`` in the second; None where it has none.
    """

    what: str
    before: Any
    after: Any


def differences(before: RecordedRun, after: RecordedRun, common: Sequence[str]) -> list[Difference]:
    """Everything but the samples that is not the same; ``common`` runners are in both."""
    first, second = (dict(_settings(run, common)) for run in (before, after))
    result = [
        Difference(name, first.get(name), second.get(name))
        for name in dict.fromkeys([*first, *second])
        if first.get(name) != second.get(name)
    ]
    if set(before.rows) != set(after.rows):
        # Runners that take turns empty each other's caches.
        result.append(Difference("runners", list(before.rows), list(after.rows)))
    for label in common:
        one, other = before.rows[label], after.rows[label]
        if quality_differs(one, other):
            name = f"{label}: PSNR to float32 PyTorch in dB"
            shown = (
                row.fidelity and ("identical" if row.fidelity.identical else row.fidelity.psnr_db)
                for row in (one, other)
            )
            result.append(Difference(name, *shown))
    return result


def quality_differs(one: RunnerRow, other: RunnerRow) -> bool:
    """Whether two rows agree so differently with float32 PyTorch that they are not the same."""
    first, second = _psnr(one), _psnr(other)
    if first is None or second is None:
        return first is not second
    return abs(first - second) >= _QUALITY_DB


def _psnr(row: RunnerRow) -> float | None:
    fidelity = row.fidelity
    if fidelity is not None and fidelity.identical:
        return _ROUNDING_DB
    if fidelity is None or fidelity.psnr_db is None:
        return None
    return max(0.0, min(fidelity.psnr_db, _ROUNDING_DB))


# Settings by name -----------------------------------------------------------------------------


def _settings(run: RecordedRun, common: Sequence[str]) -> Iterator[tuple[str, Any]]:
    report = run.report
    yield "threads", report.threads
    yield "seed", report.seed
    for place, fields in _SETTINGS.items():
        value: Any = report
        for name in place.split("."):
            value = getattr(value, name)
        yield from _flat(place.rpartition(".")[2], {name: getattr(value, name) for name in fields})
    yield from _flat("yardstick", report.yardstick)
    if report.sensors is not None:
        yield from _state(report.sensors.before)
    for number, gpu in enumerate(report.device.gpus):
        yield from ((f"GPU {number} {name}", gpu.get(name)) for name in _NVIDIA_SMI)
    for label in common:
        row = run.rows[label]
        for name in ("backend", "precision", "library", "weights"):
            yield f"{label}: {name}", getattr(row, name)
        yield from ((f"{label}: SHA-256 of {item.file}", item.sha256) for item in row.artifacts)


def _flat(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """A name for each value in nested objects."""
    value = msgspec.to_builtins(value)
    if not isinstance(value, Mapping):
        yield name.replace("_", " "), value
        return
    for key, inner in value.items():
        yield from _flat(f"{name} {key}", inner)


def _state(state: State) -> Iterator[tuple[str, Any]]:
    cpu = state.cpu
    yield "cpu boost", cpu.boost
    yield "cpu SMT", cpu.smt_active
    # There may be hundreds of cores.
    yield "clock limits of cores in MHz", sorted({c.limit_mhz for c in cpu.cores if c.limit_mhz})
    yield "energy preferences of cores", sorted({c.preference for c in cpu.cores if c.preference})
    for clock in state.device_clocks:
        for name in ("min_mhz", "max_mhz", "governor"):
            yield f"clock of {clock.name}: {name}", getattr(clock, name)
    yield from _flat("power mode", state.power_mode)
    yield "on battery", state.on_battery
    for number, gpu in enumerate(state.gpus or ()):
        yield from ((f"GPU {number} {name}", getattr(gpu, name)) for name in _NVML)
