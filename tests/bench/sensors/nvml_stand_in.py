"""NVML without a GPU: the functions of nvidia-ml-py that are called, with their parameters."""

# ruff: noqa: N802, N803

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

#: NVML functions of this module; a test holds them against the real package.
PREFIX = "nvml"


class NVMLError(Exception):
    """As in the package, with its text alone."""


def field(number: int, value: float, kind: int = 3, status: int = 0) -> SimpleNamespace:
    """One nvmlFieldValue_t; kind 1 is an unsigned int, 3 an unsigned long long."""
    members = dict.fromkeys(("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal"), -1)
    members[("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")[kind]] = value
    return SimpleNamespace(
        fieldId=number, nvmlReturn=status, valueType=kind, value=SimpleNamespace(**members)
    )


class StandIn:
    """A driver with one GPU, an RTX 2080 Ti under load.

    Attributes:
        refused: functions that the GPU does not support.
        absent: functions that this release of the package does not have.
        calls: what was called, with what.
    """

    NVMLError = NVMLError

    def __init__(self, **values: Any) -> None:
        self.refused: set[str] = set()
        self.absent: set[str] = set()
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self.open = 0
        self.reasons = 0x4
        self.energy = 5_000_000
        self.power = 240_500
        self.sm_clock = 1545
        self.performance = 2
        self.policies = {74: 3_000_000_000, 75: 0, 76: 0, 77: 0, 79: 0}
        self.compute = [SimpleNamespace(pid=os.getpid(), usedGpuMemory=600 << 20)]
        self.graphics: list[SimpleNamespace] = []
        for name, value in values.items():
            assert hasattr(self, name)
            setattr(self, name, value)

    def __getattribute__(self, name: str) -> Any:
        found = object.__getattribute__(self, name)
        if not name.startswith(PREFIX):
            return found
        if name in self.absent:
            raise AttributeError(name)

        def call(*arguments: Any) -> Any:
            self.calls.append((name, arguments))
            if name in self.refused:
                raise NVMLError("Not Supported")
            return found(*arguments)

        call.__wrapped__ = found  # type: ignore[attr-defined]  # its signature is that of found
        return call

    def nvmlInit(self) -> None:
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def nvmlDeviceGetCount(self) -> int:
        return 1

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:
        return f"handle {index}"

    def nvmlDeviceGetUUID(self, handle: str) -> str:
        return "GPU-9f1c"

    def nvmlDeviceGetClockInfo(self, handle: str, type: int) -> int:
        assert type == 1
        return self.sm_clock

    def nvmlDeviceGetClock(self, handle: str, type: int, id: int) -> int:
        assert (type, id) == (1, 1)
        return 1350

    def nvmlDeviceGetTemperature(self, handle: str, sensor: int) -> int:
        assert sensor == 0
        return 82

    def nvmlDeviceGetPowerUsage(self, handle: str) -> int:
        return self.power

    def nvmlDeviceGetEnforcedPowerLimit(self, handle: str) -> int:
        return 250_000

    def nvmlDeviceGetPerformanceState(self, handle: str) -> int:
        return self.performance

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle: str) -> int:
        return self.reasons

    def nvmlDeviceGetFieldValues(self, handle: str, fieldIds: list[int]) -> list[SimpleNamespace]:
        known = {number: field(number, value) for number, value in self.policies.items()}
        return [known.get(number, field(number, 99, status=3)) for number in fieldIds]

    def nvmlDeviceGetComputeRunningProcesses(self, handle: str) -> list[SimpleNamespace]:
        return self.compute

    def nvmlDeviceGetGraphicsRunningProcesses(self, handle: str) -> list[SimpleNamespace]:
        return self.graphics

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> int:
        return self.energy

    def nvmlDeviceGetEccMode(self, handle: str) -> list[int]:
        return [0, 1]


def not_installed() -> Any:
    """In the place of what imports the package."""
    raise ImportError("No module named 'pynvml'")


class NoDriver:
    """The package where the driver's library is missing."""

    NVMLError = NVMLError

    def nvmlInit(self) -> None:
        raise NVMLError("NVML Shared Library Not Found")
