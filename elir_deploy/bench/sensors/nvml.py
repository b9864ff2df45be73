"""NVIDIA GPUs, through the driver's management library (NVML) and the package ``nvidia-ml-py``.

Either may be missing, and a GPU answers only part of the queries: a Jetson's little but its name.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from elir_deploy.bench.sensors.files import Tree

__all__ = ["SLOWDOWNS", "GpuState", "Nvml", "decode_reasons", "has_nvidia_driver", "import_pynvml"]

#: Constants of nvml.h by value: the package may be missing where this module is imported.
CLOCK_SM = 1  # nvmlClockType_t
CLOCK_APPLICATION = 1  # NVML_CLOCK_ID_APP_CLOCK_TARGET
TEMPERATURE_GPU = 0
UNSIGNED_LONG_LONG = 3  # nvmlValueType_t
#: nvmlClocksEventReasons of nvml.h, formerly nvmlClocksThrottleReasons.
REASONS = {
    0x001: "idle",
    0x002: "application clocks",
    0x004: "power cap",
    0x008: "hardware slowdown",
    0x010: "sync boost",
    0x020: "heat",
    0x040: "heat, by hardware",
    0x080: "power brake",
    0x100: "display clocks",
    0x200: "board limit",
    0x400: "reliability voltage",
}
#: Those that are neither the user's choice nor lack of work.
SLOWDOWNS = frozenset(REASONS.values()) - {"idle", "application clocks", "display clocks"}
#: Fields with the nanoseconds a GPU was slowed down, by reason (NVML_FI_DEV_PERF_POLICY_*). Not the
#: newer NVML_FI_DEV_CLOCKS_EVENT_REASON_*: their numbers differ between releases of nvml.h.
POLICIES = {
    74: "power cap",
    75: "heat",
    76: "sync boost",
    77: "board limit",
    79: "reliability voltage",
}


def import_pynvml() -> Any:
    """The module of ``nvidia-ml-py``; ImportError if it is not installed."""
    return importlib.import_module("pynvml")


def has_nvidia_driver(tree: Tree) -> bool:
    """Whether NVIDIA's driver is loaded, with or without NVML."""
    return tree.exists("proc/driver/nvidia/version")


@dataclass(frozen=True)
class GpuState:
    """One GPU at one moment; its name, driver and highest clock are nvidia-smi's.

    Attributes:
        index: NVML's, which may differ from CUDA's.
        sm_mhz: current clock of its processors.
        application_sm_mhz: clock set for applications; NVML cannot read locked clocks.
        power_watts: averaged over a second by Ampere (but GA100) and newer.
        performance_state: of P0, the fastest, to P15.
        reasons: why its clock is not higher at the moment; ``idle`` is one.
        slowed_seconds: time since the driver was loaded, by reason, in steps of about 0.1 s.
    """

    index: int
    uuid: str | None
    sm_mhz: int | None
    application_sm_mhz: int | None
    temperature_celsius: int | None
    power_watts: float | None
    power_limit_watts: float | None
    performance_state: int | None
    reasons: tuple[str, ...] | None
    slowed_seconds: Mapping[str, float] | None
    ecc: bool | None


class Nvml:
    """A session with NVML; without NVML, one without GPUs. Threads may share it.

    Attributes:
        reason: why there are no GPUs; None if there are.
        handles: of the GPUs.
    """

    def __init__(self, load: Callable[[], Any] = import_pynvml) -> None:
        self.reason: str | None = None
        self.handles: tuple[Any, ...] = ()
        self._module: Any = None
        try:
            self._module = load()
            self._module.nvmlInit()
        except ImportError:
            self.reason = "nvidia-ml-py is not installed: pip install 'elir-deploy[sensors]'"
            return
        except Exception as error:  # noqa: BLE001  # a driver's fault must not end a benchmark
            self.reason = f"NVML: {error}"
            self._module = None
            return
        count = self.query("nvmlDeviceGetCount") or 0
        handles = (self.query("nvmlDeviceGetHandleByIndex", index) for index in range(count))
        self.handles = tuple(handle for handle in handles if handle is not None)
        if not self.handles:
            self.reason = "NVML reports no GPU"

    def query(self, function: str, *arguments: Any) -> Any:
        """Result of a function of the library; None if it is missing or fails."""
        try:
            return getattr(self._module, function)(*arguments)
        except Exception:  # noqa: BLE001  # not supported, no permission, lost, or not in the library
            return None

    def states(self) -> tuple[GpuState, ...] | None:
        """Every GPU now; None without NVML."""
        if self.reason is not None:
            return None
        return tuple(self._state(*numbered) for numbered in enumerate(self.handles))

    def process_bytes(self, handle: Any, process: int) -> int | None:
        """GPU memory of a process; None if NVML does not know the process."""
        # A process that computes and draws is in both lists with the same sum; one that uses
        # several slices of a GPU is in one list several times.
        sums = []
        for function in (
            "nvmlDeviceGetComputeRunningProcesses",
            "nvmlDeviceGetGraphicsRunningProcesses",
        ):
            used = [e.usedGpuMemory for e in self.query(function, handle) or () if e.pid == process]
            if known := [count for count in used if count is not None]:
                sums.append(sum(known))
        return max(sums, default=None)

    def joules(self, handle: Any) -> float | None:
        """Energy of a GPU since its driver was loaded (Volta and newer)."""
        return _thousandths(self.query("nvmlDeviceGetTotalEnergyConsumption", handle))

    def slowed_seconds(self, handle: Any) -> dict[str, float] | None:
        """Time a GPU was slowed down since its driver was loaded, by reason; None if unknown."""
        seconds = {}
        for value in self.query("nvmlDeviceGetFieldValues", handle, list(POLICIES)) or ():
            if value.nvmlReturn == 0 and value.valueType == UNSIGNED_LONG_LONG:
                seconds[POLICIES[value.fieldId]] = round(value.value.ullVal * 1e-9, 6)
        return seconds or None

    def close(self) -> None:
        """End the session."""
        self.query("nvmlShutdown")
        self._module = None
        self.reason = self.reason or "the session with NVML is closed"
        self.handles = ()

    def _state(self, index: int, handle: Any) -> GpuState:
        # Deprecated, but in every driver; the newer names are not.
        temperature = self.query("nvmlDeviceGetTemperature", handle, TEMPERATURE_GPU)
        reasons = self.query("nvmlDeviceGetCurrentClocksThrottleReasons", handle)
        state = self.query("nvmlDeviceGetPerformanceState", handle)
        ecc = self.query("nvmlDeviceGetEccMode", handle)  # current and pending
        return GpuState(
            index=index,
            uuid=self.query("nvmlDeviceGetUUID", handle),
            sm_mhz=self.query("nvmlDeviceGetClockInfo", handle, CLOCK_SM),
            application_sm_mhz=self.query(
                "nvmlDeviceGetClock", handle, CLOCK_SM, CLOCK_APPLICATION
            ),
            temperature_celsius=temperature,
            power_watts=_thousandths(self.query("nvmlDeviceGetPowerUsage", handle)),
            power_limit_watts=_thousandths(self.query("nvmlDeviceGetEnforcedPowerLimit", handle)),
            # 32 is unknown.
            performance_state=state if state is not None and 0 <= state <= 15 else None,
            reasons=None if reasons is None else decode_reasons(reasons),
            slowed_seconds=self.slowed_seconds(handle),
            ecc=bool(ecc[0]) if ecc else None,
        )


def decode_reasons(bits: int) -> tuple[str, ...]:
    """Names of clock event reasons; bits without a name keep their number."""
    places = (1 << place for place in range(bits.bit_length()))
    return tuple(REASONS.get(bit, f"reason 0x{bit:x}") for bit in places if bits & bit)


def _thousandths(value: Any) -> float | None:
    return None if value is None else round(value * 1e-3, 6)
