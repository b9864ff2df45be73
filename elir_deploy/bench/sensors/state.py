"""The state of a machine at one moment, and what slowed it down between two."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from elir_deploy.bench.sensors import board
from elir_deploy.bench.sensors.board import DeviceClock, PowerMode
from elir_deploy.bench.sensors.cpu import CpuState, is_virtual, read_cpu, x86_flags
from elir_deploy.bench.sensors.files import PSUTIL_MISSING, ROOT, Tree, query_psutil
from elir_deploy.bench.sensors.nvml import SLOWDOWNS, GpuState, Nvml, has_nvidia_driver

__all__ = ["State", "read_state", "throttled_between"]

#: A clock has fallen if less than this fraction of it remains. Boost depends on temperature and
#: moves by a few steps of 25 to 100 MHz, a few percent; throttling takes more.
_FALLEN = 0.9
_SUPPLIES = {True: "battery", False: "mains", None: None}
#: A GPU slowed down for less than one step of its driver's counters was not.
_LEAST_SLOWED_S = 0.001


@dataclass(frozen=True)
class State:
    """A machine at one moment; None or empty for what is missing or unreadable.

    Attributes:
        counters: throttling events, and milliseconds, since the system started.
        temperatures: degrees Celsius by sensor.
        cooling: state of each device that the kernel slows down when it is hot; 0: not slowed.
        unreadable: where no throttling seen does not mean that none occurred.
    """

    cpu: CpuState
    counters: Mapping[str, int]
    temperatures: Mapping[str, float]
    cooling: Mapping[str, int]
    device_clocks: tuple[DeviceClock, ...]
    power_mode: PowerMode
    on_battery: bool | None
    gpus: tuple[GpuState, ...] | None
    unreadable: tuple[str, ...]


def read_state(nvml: Nvml, root: Path = ROOT, *, quick: bool = False) -> State:
    """Read all sensors; ``quick``, for between turns, does not run nvpmodel."""
    tree = Tree(root)
    gpus = nvml.states()  # first: GPUs calm down within milliseconds
    cpu = read_cpu(tree)
    state = State(
        cpu=cpu,
        counters=board.read_counters(tree, [core.number for core in cpu.cores]),
        temperatures=board.read_temperatures(tree),
        cooling=board.read_cooling(tree),
        device_clocks=board.read_device_clocks(tree),
        power_mode=board.read_power_mode(tree, run_nvpmodel=not quick),
        on_battery=board.on_battery(),
        gpus=gpus,
        unreadable=(),
    )
    return state if quick else replace(state, unreadable=tuple(_unreadable(state, tree, nvml)))


def throttled_between(before: State, after: State, *, loaded: bool = True) -> list[str]:
    """Sentences on what slowed the machine down between two states, and which settings changed.

    Between turns (not ``loaded``), a GPU's low clock may be that of idleness.
    """
    gpus = {gpu.uuid or gpu.index: gpu for gpu in before.gpus or ()}
    pairs = [(gpus.get(gpu.uuid or gpu.index), gpu) for gpu in after.gpus or ()]
    return [
        *_counted(before, after),
        *_cooling(before, after),
        *_cpu_clocks(before.cpu, after.cpu),
        *_device_clocks(before, after),
        *(line for old, new in pairs if old for line in _gpu(old, new, loaded)),
        *_settings(before, after),
    ]


def _counted(before: State, after: State) -> Iterator[str]:
    for name, count in after.counters.items():
        # A counter that is new says nothing of this stretch of time.
        more = count - before.counters.get(name, count)
        if more > 0 and name.startswith("oc"):
            yield f"the module exceeded an over-current or under-voltage limit ({name} +{more})"
        elif more > 0:
            yield f"the processor throttled ({name} +{more}, summed over logical cores)"


def _cooling(before: State, after: State) -> Iterator[str]:
    for name in dict.fromkeys([*before.cooling, *after.cooling]):
        highest = max(before.cooling.get(name, 0), after.cooling.get(name, 0))
        if highest > 0:
            yield f"{name} was slowed down because of heat (cooling state {highest})"


def _cpu_clocks(before: CpuState, after: CpuState) -> Iterator[str]:
    limits = {core.number: core.limit_mhz for core in before.cores}
    pairs = [(core.limit_mhz, limits.get(core.number)) for core in after.cores]
    lowered = [(new, old) for new, old in pairs if new and old and new < old]
    if lowered:
        new, old = min(lowered)
        where = f"{len(lowered)} of {len(pairs)} cores"
        yield f"the highest clock allowed fell from {old:.0f} to {new:.0f} MHz (on {where})"


def _device_clocks(before: State, after: State) -> Iterator[str]:
    clocks = {clock.name: clock for clock in before.device_clocks}
    for new in after.device_clocks:
        old = clocks.get(new.name, new)
        if old.max_mhz and new.max_mhz and new.max_mhz < old.max_mhz:
            change = f"from {old.max_mhz:.0f} to {new.max_mhz:.0f} MHz"
            yield f"the highest clock allowed of {new.name} fell {change}"
        # A fixed clock is not slow because of idleness.
        elif new.min_mhz == new.max_mhz and _fell(new.max_mhz, new.now_mhz):
            change = f"fell to {new.now_mhz:.0f} MHz"
            yield f"the clock of {new.name}, fixed at {new.max_mhz:.0f} MHz, {change}"


def _gpu(before: GpuState, after: GpuState, loaded: bool) -> Iterator[str]:
    name = f"GPU {after.index}"
    earlier = before.slowed_seconds or {}
    slowed = set()
    for reason, seconds in (after.slowed_seconds or {}).items():
        more = seconds - earlier.get(reason, seconds)
        if more >= _LEAST_SLOWED_S:
            slowed.add(reason)
            yield f"{name} was slowed down for {more:.3g} s by: {reason}"
    # At the two moments themselves, without what a counter has reported.
    reasons = {*(before.reasons or ()), *(after.reasons or ())}
    uncounted = (reason for reason in reasons if reason.partition(",")[0] not in slowed)
    others = sorted(r for r in uncounted if r in SLOWDOWNS or r.startswith("reason "))
    if others:
        yield f"{name} was slowed down by: {'; '.join(others)}"
    # In another performance state one of the two clocks is that of an idle GPU.
    busy = before.performance_state == after.performance_state is not None and "idle" not in reasons
    if loaded and busy and _fell(before.sm_mhz, after.sm_mhz):
        yield f"the clock of {name} fell from {before.sm_mhz} to {after.sm_mhz} MHz"
    old, new = before.power_limit_watts, after.power_limit_watts
    if old and new and old != new:
        yield f"the power limit of {name} changed from {old:.0f} to {new:.0f} W"


def _settings(before: State, after: State) -> Iterator[str]:
    settings: dict[str, Callable[[State], str | None]] = {
        "the governor": lambda state: state.cpu.governors,
        "the energy preference": lambda state: state.cpu.preferences,
        "boost": lambda state: {True: "on", False: "off", None: None}[state.cpu.boost],
        "the power mode": lambda state: state.power_mode.nvpmodel,
        "the platform profile": lambda state: state.power_mode.platform_profile,
        "the power supply": lambda state: _SUPPLIES[state.on_battery],
    }
    for name, read in settings.items():
        old, new = read(before), read(after)
        if old is not None and new is not None and old != new:
            yield f"{name} changed from {old} to {new}"


def _unreadable(state: State, tree: Tree, nvml: Nvml) -> Iterator[str]:
    cpu, jetson = state.cpu, board.is_jetson(tree)
    if is_virtual(tree):
        yield "the host's clocks, temperatures and throttling: this is a virtual machine"
    if query_psutil("cpu_count") is None:
        yield f"the mean clock, memory, and mains or battery: {PSUTIL_MISSING}"
    elif not cpu.mhz:
        yield "the processor's clock"
    if not state.counters and (x86_flags(tree) is not None or not state.cooling):
        yield "the processor's throttling: no counters and no cooling device"
    if jetson and state.power_mode.nvpmodel is None:
        yield "the power mode: nvpmodel gave no answer"
    if jetson and not state.device_clocks:
        yield "the GPU's clock: no devfreq device"
    if not jetson and state.gpus is None and has_nvidia_driver(tree):
        yield f"the GPU: {nvml.reason}"


def _fell(before: float | None, after: float | None) -> bool:
    return bool(before and after and after < _FALLEN * before)
