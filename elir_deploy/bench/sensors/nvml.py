"""NVIDIA GPUs, through the driver's management library (NVML).

The library is the driver's, ``libnvidia-ml.so.1``; the package ``nvidia-ml-py`` calls it. Either
may be missing, and of what they offer a GPU answers a part: a Jetson's little more than its name.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from elir_deploy.bench.sensors.files import Tree

__all__ = ["HELD_BACK", "GpuState", "Nvml", "decode_reasons", "import_pynvml", "nvidia_present"]

#: What of nvml.h is used, by value: the package may be missing where this module is imported.
CLOCK_SM, CLOCK_MEMORY = 1, 2  # nvmlClockType_t
CLOCK_APPLICATION = 1  # NVML_CLOCK_ID_APP_CLOCK_TARGET
TEMPERATURE_GPU = 0
FIELD_POWER_INSTANT = 186
#: nvmlClocksEventReasons of nvml.h, formerly nvmlClocksThrottleReasons, in words.
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
#: Those that are no choice of the user and no lack of work.
HELD_BACK = frozenset(REASONS.values()) - {"idle", "application clocks", "display clocks"}
#: Nanoseconds a GPU was held back, by field and, in older libraries, by policy
#: (NVML_FI_DEV_PERF_POLICY_*, NVML_PERF_POLICY_*). The newer NVML_FI_DEV_CLOCKS_EVENT_REASON_*
#: are not used: their numbers changed from one release of nvml.h to the next.
POLICIES = {
    74: (0, "power cap"),
    75: (1, "heat"),
    76: (2, "sync boost"),
    77: (3, "board limit"),
    79: (5, "reliability voltage"),
}
#: nvmlValueType_t to the member of nvmlValue_t.
_MEMBERS = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")


def import_pynvml() -> Any:
    """The module of ``nvidia-ml-py``.

    Raises:
        ImportError: it is not installed.
    """
    return importlib.import_module("pynvml")


def nvidia_present(tree: Tree) -> bool:
    """Whether there is an NVIDIA GPU or its driver, whatever NVML says."""
    if tree.exists("proc/driver/nvidia/version"):
        return True
    # Display controllers (class 0x03) of vendor 0x10de.
    return any(
        (tree.text(folder / "vendor") or "") == "0x10de"
        and (tree.text(folder / "class") or "").startswith("0x03")
        for folder in tree.match("sys/bus/pci/devices/*")
    )


@dataclass(frozen=True)
class GpuState:
    """One GPU at one moment; None where it does not tell.

    NVML has no way to read locked clocks (``nvidia-smi -lgc``); application clocks it does.

    Attributes:
        index: NVML's, which may differ from CUDA's.
        name: the GPU's.
        uuid: the GPU's.
        driver: version.
        sm_mhz: clock of its processors at the moment.
        sm_max_mhz: the highest there is.
        memory_mhz: clock of its memory at the moment.
        memory_max_mhz: the highest there is.
        application_sm_mhz: clock set for applications.
        temperature_celsius: the chip's.
        power_watts: drawn; averaged over a second by Ampere (but GA100) and newer.
        power_limit_watts: enforced at present.
        performance_state: 0 the fastest, of P0 to P15.
        reasons: why its clock is not higher at the moment, in words; ``idle`` is one.
        held_back_seconds: time since the driver was loaded, by reason; in steps of about 0.1 s.
        utilisation_percent: part of the last moments in which anything ran.
        memory_utilisation_percent: part of them in which memory was read or written.
        process_memory_bytes: of this process; None also before it uses the GPU, and in containers
            where NVML knows it by another number.
        memory_used_bytes: of all processes.
        memory_total_bytes: the GPU's.
        persistence: whether the driver stays loaded when nothing uses the GPU.
        ecc: whether memory is error-corrected.
        pcie_generation: of the link at the moment; idle links are slower.
        pcie_max_generation: what GPU and slot can do.
        pcie_width: lanes at the moment.
        pcie_max_width: what GPU and slot can do.
    """

    index: int
    name: str | None
    uuid: str | None
    driver: str | None
    sm_mhz: int | None
    sm_max_mhz: int | None
    memory_mhz: int | None
    memory_max_mhz: int | None
    application_sm_mhz: int | None
    temperature_celsius: int | None
    power_watts: float | None
    power_limit_watts: float | None
    performance_state: int | None
    reasons: tuple[str, ...] | None
    held_back_seconds: Mapping[str, float] | None
    utilisation_percent: int | None
    memory_utilisation_percent: int | None
    process_memory_bytes: int | None
    memory_used_bytes: int | None
    memory_total_bytes: int | None
    persistence: bool | None
    ecc: bool | None
    pcie_generation: int | None
    pcie_max_generation: int | None
    pcie_width: int | None
    pcie_max_width: int | None


class Nvml:
    """A session with NVML; where there is none, one that knows nothing and says why.

    Opening takes the driver a while, and keeps a laptop's GPU awake; close it. A session may be
    used from several threads.

    Args:
        load: gives the module ``pynvml``.

    Attributes:
        reason: why there is none; None where there is.
        handles: of the GPUs.
    """

    def __init__(self, load: Callable[[], Any] = import_pynvml) -> None:
        self.reason: str | None = None
        self.handles: tuple[Any, ...] = ()
        self._module: Any = None
        try:
            self._module = load()
        except ImportError:
            self.reason = "nvidia-ml-py is not installed"
            return
        try:
            self._module.nvmlInit()
        except Exception as error:  # noqa: BLE001  # a driver's fault must not end a benchmark
            self.reason = f"NVML: {error}"
            self._module = None
            return
        count = self.ask("nvmlDeviceGetCount") or 0
        found = (self.ask("nvmlDeviceGetHandleByIndex", index) for index in range(count))
        self.handles = tuple(handle for handle in found if handle is not None)
        if not self.handles:
            self.reason = "NVML knows of no GPU"

    def ask(self, function: str, *arguments: Any) -> Any:
        """What a function of the library returns; None where it is missing or refuses."""
        if self._module is None:
            return None
        try:
            return getattr(self._module, function)(*arguments)
        except Exception:  # noqa: BLE001  # not supported, no permission, lost, or not in the library
            return None

    def states(self) -> tuple[GpuState, ...] | None:
        """Every GPU now; None where there is no NVML."""
        if self.reason is not None:
            return None
        driver = _words(self.ask("nvmlSystemGetDriverVersion"))
        return tuple(
            self._state(index, handle, driver) for index, handle in enumerate(self.handles)
        )

    def process_bytes(self, handle: Any, process: int) -> int | None:
        """Memory of a GPU that a process holds; None where NVML does not know the process."""
        # One that computes and draws is in both lists with the same sum; one that uses several
        # slices of a GPU is in one list several times.
        held = [
            sum(entries)
            for function in (
                "nvmlDeviceGetComputeRunningProcesses",
                "nvmlDeviceGetGraphicsRunningProcesses",
            )
            if (entries := _memory_of(self.ask(function, handle), process))
        ]
        return max(held) if held else None

    def joules(self, handle: Any) -> float | None:
        """Energy of a GPU since its driver was loaded (Volta and newer)."""
        return _thousandths(self.ask("nvmlDeviceGetTotalEnergyConsumption", handle))

    def watts(self, handle: Any) -> float | None:
        """Power of a GPU now; on GPUs that have no such figure, over the last second."""
        instant = self.fields(handle, [FIELD_POWER_INSTANT]).get(FIELD_POWER_INSTANT)
        if not instant:
            instant = self.ask("nvmlDeviceGetPowerUsage", handle)
        return _thousandths(instant)

    def fields(self, handle: Any, numbers: Sequence[int]) -> dict[int, float]:
        """Values of NVML_FI_* fields; those it does not have are left out."""
        found = {}
        for value in _each(self.ask("nvmlDeviceGetFieldValues", handle, list(numbers))):
            if getattr(value, "nvmlReturn", 1) == 0 and 0 <= value.valueType < len(_MEMBERS):
                found[int(value.fieldId)] = getattr(value.value, _MEMBERS[value.valueType])
        return found

    def close(self) -> None:
        """End the session."""
        self.ask("nvmlShutdown")
        self._module = None
        self.reason = self.reason or "the session with NVML is closed"
        self.handles = ()

    def __enter__(self) -> Nvml:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _state(self, index: int, handle: Any, driver: str | None) -> GpuState:
        memory = self.ask("nvmlDeviceGetMemoryInfo", handle)
        utilisation = self.ask("nvmlDeviceGetUtilizationRates", handle)
        # The first is newer, the second will be taken away.
        temperature = self.ask("nvmlDeviceGetTemperatureV", handle, TEMPERATURE_GPU)
        if temperature is None:
            temperature = self.ask("nvmlDeviceGetTemperature", handle, TEMPERATURE_GPU)
        reasons = self.ask("nvmlDeviceGetCurrentClocksEventReasons", handle)
        if reasons is None:
            reasons = self.ask("nvmlDeviceGetCurrentClocksThrottleReasons", handle)
        ecc = self.ask("nvmlDeviceGetEccMode", handle)
        return GpuState(
            index=index,
            name=_words(self.ask("nvmlDeviceGetName", handle)),
            uuid=_words(self.ask("nvmlDeviceGetUUID", handle)),
            driver=driver,
            sm_mhz=self.ask("nvmlDeviceGetClockInfo", handle, CLOCK_SM),
            sm_max_mhz=self.ask("nvmlDeviceGetMaxClockInfo", handle, CLOCK_SM),
            memory_mhz=self.ask("nvmlDeviceGetClockInfo", handle, CLOCK_MEMORY),
            memory_max_mhz=self.ask("nvmlDeviceGetMaxClockInfo", handle, CLOCK_MEMORY),
            application_sm_mhz=self.ask("nvmlDeviceGetClock", handle, CLOCK_SM, CLOCK_APPLICATION),
            temperature_celsius=temperature,
            power_watts=_thousandths(self.ask("nvmlDeviceGetPowerUsage", handle)),
            power_limit_watts=_thousandths(self.ask("nvmlDeviceGetEnforcedPowerLimit", handle)),
            performance_state=_performance_state(self.ask("nvmlDeviceGetPerformanceState", handle)),
            reasons=None if reasons is None else decode_reasons(reasons),
            held_back_seconds=self._held_back(handle),
            utilisation_percent=getattr(utilisation, "gpu", None),
            memory_utilisation_percent=getattr(utilisation, "memory", None),
            process_memory_bytes=self.process_bytes(handle, os.getpid()),
            memory_used_bytes=getattr(memory, "used", None),
            memory_total_bytes=getattr(memory, "total", None),
            persistence=_yes(self.ask("nvmlDeviceGetPersistenceMode", handle)),
            ecc=_yes(next(iter(_each(ecc)), None)),
            pcie_generation=self.ask("nvmlDeviceGetCurrPcieLinkGeneration", handle),
            pcie_max_generation=self.ask("nvmlDeviceGetMaxPcieLinkGeneration", handle),
            pcie_width=self.ask("nvmlDeviceGetCurrPcieLinkWidth", handle),
            pcie_max_width=self.ask("nvmlDeviceGetMaxPcieLinkWidth", handle),
        )

    def _held_back(self, handle: Any) -> dict[str, float] | None:
        fields = self.fields(handle, list(POLICIES))
        found = {}
        for field, (policy, reason) in POLICIES.items():
            value = fields.get(field)
            if value is None and not fields:
                status = self.ask("nvmlDeviceGetViolationStatus", handle, policy)
                value = getattr(status, "violationTime", None)
            if value is not None:
                found[reason] = round(value * 1e-9, 6)
        return found or None


def decode_reasons(bits: int) -> tuple[str, ...]:
    """Clock event reasons in words; a bit without a word keeps its number."""
    return tuple(
        REASONS.get(1 << place, f"reason 0x{1 << place:x}")
        for place in range(bits.bit_length())
        if bits >> place & 1
    )


def _memory_of(processes: Any, process: int) -> list[int]:
    return [
        entry.usedGpuMemory
        for entry in _each(processes)
        if entry.pid == process and entry.usedGpuMemory is not None
    ]


def _each(values: Any) -> Iterable[Any]:
    return () if values is None else values


def _words(text: Any) -> str | None:
    """Older releases of the package give bytes."""
    if isinstance(text, bytes):
        text = text.decode("utf-8", errors="replace")
    return text or None


def _thousandths(value: Any) -> float | None:
    return None if value is None else round(value * 1e-3, 6)


def _performance_state(value: int | None) -> int | None:
    """32 is unknown."""
    return value if value is not None and 0 <= value <= 15 else None


def _yes(value: Any) -> bool | None:
    return None if value is None else bool(value)
