"""What a machine was doing when it was measured, and whether anything held it back."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from elir_deploy.bench.sensors.cpu import (
    SPIN_SECONDS,
    Core,
    CpuState,
    is_x86,
    keep_busy,
    read_cpu,
)
from elir_deploy.bench.sensors.files import ROOT, Tree, plain
from elir_deploy.bench.sensors.jetson import DeviceClock, is_jetson, read_device_clocks
from elir_deploy.bench.sensors.nvml import HELD_BACK, GpuState, Nvml, nvidia_present
from elir_deploy.bench.sensors.power_mode import (
    PowerMode,
    PowerSupply,
    on_battery,
    read_power_mode,
    read_power_supplies,
)
from elir_deploy.bench.sensors.thermal import (
    CoolingDevice,
    EventCounter,
    Temperature,
    read_alarms,
    read_cooling_devices,
    read_event_counters,
    read_temperatures,
)

__all__ = ["State", "read_state", "throttled_between"]

#: A clock has fallen where less than this part of it is left. Boost depends on temperature and
#: moves by some steps of 25 to 100 MHz, a few percent; a throttled processor or GPU loses more.
FALLEN = 0.9
#: A GPU held back for less than one step of its driver's counters was not.
_HELD_SECONDS = 0.001


@dataclass(frozen=True)
class State:
    """A machine at one moment. What is not there, or cannot be read, is None or empty.

    Attributes:
        unix_seconds: when it was read.
        cpu: the processor.
        temperatures: of every sensor.
        cooling_devices: what the kernel slows down when it is too hot.
        event_counters: over-current and under-voltage events of a Jetson.
        alarms: under-voltage alarms of a Raspberry Pi that are on; None: there are none.
        device_clocks: clocks beside the processor's; a Jetson's GPU.
        power_mode: what trades speed for power.
        power_supplies: mains and batteries.
        gpus: NVIDIA's; None where NVML is missing.
        gpus_unread: why they are None.
        unreadable: what could not be seen. Where something is named here, no throttling seen does
            not mean that there was none.
    """

    unix_seconds: float
    cpu: CpuState
    temperatures: tuple[Temperature, ...]
    cooling_devices: tuple[CoolingDevice, ...]
    event_counters: tuple[EventCounter, ...]
    alarms: tuple[str, ...] | None
    device_clocks: tuple[DeviceClock, ...]
    power_mode: PowerMode
    power_supplies: tuple[PowerSupply, ...]
    gpus: tuple[GpuState, ...] | None
    gpus_unread: str | None
    unreadable: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        found: dict[str, Any] = plain(self)
        return found


def read_state(
    root: Path = ROOT,
    *,
    nvml: Nvml | None = None,
    spin_seconds: float = SPIN_SECONDS,
    ask: bool = True,
) -> State:
    """Read everything.

    Clocks rise under load, so one core is kept busy first; read before and after a run, the two
    clocks are then alike. They are those of one busy core: a limit that holds only while all are
    busy shows in counters, not there. Reading costs ``spin_seconds``, up to 1 ms a core, on a
    Jetson a process, and where ``nvml`` is not given the opening of NVML.

    Args:
        root: where the kernel's folders are.
        nvml: a session to use and leave open; None: one is opened and closed.
        spin_seconds: how long a core is kept busy; 0 between the turns of a run, and then its
            clock is compared with no other.
        ask: whether nvpmodel may be run.
    """
    if nvml is None:
        with Nvml() as session:
            return read_state(root, nvml=session, spin_seconds=spin_seconds, ask=ask)
    tree = Tree(root)
    # GPUs first: they calm down within milliseconds.
    gpus = nvml.states()
    cpu = read_cpu(tree, keep_busy(tree, spin_seconds) if spin_seconds > 0 else None)
    state = State(
        unix_seconds=time.time(),
        cpu=cpu,
        temperatures=read_temperatures(tree),
        cooling_devices=read_cooling_devices(tree),
        event_counters=read_event_counters(tree),
        alarms=read_alarms(tree),
        device_clocks=read_device_clocks(tree),
        power_mode=read_power_mode(tree, ask=ask),
        power_supplies=read_power_supplies(tree),
        gpus=gpus,
        gpus_unread=nvml.reason,
        unreadable=(),
    )
    return _with_unreadable(state, tree)


def throttled_between(before: State, after: State, *, loaded: bool = True) -> list[str]:
    """What held the machine back between two moments, and which settings changed, in sentences.

    Empty where nothing was seen; :attr:`State.unreadable` says what could not be.

    Args:
        before: the first.
        after: the second.
        loaded: whether both were taken with the processor kept busy; else its clock and a GPU's
            may be low because nothing was to be done.
    """
    return [
        *_counted(before.cpu, after.cpu),
        *_events(before, after),
        *_cooling(before, after),
        *_limits(before.cpu, after.cpu),
        *(_processor_clock(before.cpu, after.cpu) if loaded else ()),
        *_device_clocks(before, after),
        *_gpus(before, after, loaded),
        *_settings(before, after),
    ]


def _counted(before: CpuState, after: CpuState) -> Iterator[str]:
    for name, count in after.counters.items():
        # Not counted before: from the start of the system, which is no news.
        more = count - before.counters.get(name, count)
        if more <= 0:
            continue
        if name.endswith("_ms"):
            yield f"the processor throttled for {more} ms ({name})"
        elif "power_limit" in name:
            yield f"the processor met its power limit {_times(more)} ({name})"
        else:
            yield f"the processor throttled {_times(more)} ({name})"


def _events(before: State, after: State) -> Iterator[str]:
    counted = {counter.name: counter.count for counter in before.event_counters}
    for counter in after.event_counters:
        more = counter.count - counted.get(counter.name, counter.count)
        if more > 0:
            slowed = ", and slowed down" if counter.throttles else ""
            yield (
                f"the module met an over-current or under-voltage limit {_times(more)}{slowed} "
                f"({counter.name})"
            )
    for alarm in sorted({*(before.alarms or ()), *(after.alarms or ())}):
        yield f"the supply voltage was too low ({alarm})"


def _cooling(before: State, after: State) -> Iterator[str]:
    highest: dict[str, CoolingDevice] = {}
    for device in (*before.cooling_devices, *after.cooling_devices):
        if device.state > highest.get(device.name, CoolingDevice("", 0, None)).state:
            highest[device.name] = device
    for device in highest.values():
        end = "" if device.highest is None else f" of {device.highest}"
        yield f"{device.name} was slowed down for heat (cooling state {device.state}{end})"


def _limits(before: CpuState, after: CpuState) -> Iterator[str]:
    lowered: dict[tuple[float, float], list[int]] = defaultdict(list)
    for core in after.cores:
        then = before.core(core.number)
        if then is not None and then.limit_mhz and core.limit_mhz:
            lowered[then.limit_mhz, core.limit_mhz].append(core.number)
    for (old, new), cores in lowered.items():
        if new < old:
            yield (
                f"the highest clock allowed fell from {old:.0f} to {new:.0f} MHz ({_cores(cores)})"
            )


def _processor_clock(before: CpuState, after: CpuState) -> Iterator[str]:
    busy_then, busy_now = before.core(before.busy_core), after.core(after.busy_core)
    if busy_then is not None and busy_now is not None and _same_kind(busy_then, busy_now):
        old_clock, new_clock = busy_then.now_mhz, busy_now.now_mhz
        if _fell(old_clock, new_clock):
            yield f"the processor's clock fell from {old_clock:.0f} to {new_clock:.0f} MHz"


def _device_clocks(before: State, after: State) -> Iterator[str]:
    clocks = {clock.name: clock for clock in before.device_clocks}
    for now in after.device_clocks:
        then = clocks.get(now.name)
        if then is None:
            continue
        if then.max_mhz and now.max_mhz and now.max_mhz < then.max_mhz:
            yield (
                f"the highest clock allowed of {now.name} fell from {then.max_mhz:.0f} to "
                f"{now.max_mhz:.0f} MHz"
            )
        elif now.min_mhz and now.min_mhz == now.max_mhz and _fell(now.max_mhz, now.now_mhz):
            # Fixed, so it is not idleness that slows it.
            yield (
                f"the clock of {now.name}, fixed at {now.max_mhz:.0f} MHz, fell to "
                f"{now.now_mhz:.0f} MHz"
            )


def _gpus(before: State, after: State, loaded: bool) -> Iterator[str]:
    earlier = {_identity(gpu): gpu for gpu in before.gpus or ()}
    for gpu in after.gpus or ():
        then = earlier.get(_identity(gpu))
        if then is not None:
            yield from _gpu(then, gpu, loaded)


def _gpu(before: GpuState, after: GpuState, loaded: bool) -> Iterator[str]:
    name = f"GPU {after.index}"
    held = _held_back(before, after)
    for reason, seconds in held.items():
        yield f"{name} was held back for {seconds:.3g} s by: {reason}"
    # At the two moments themselves; what a counter has told of is not told again.
    seen = {*(before.reasons or ()), *(after.reasons or ())}
    others = sorted(
        reason
        for reason in seen
        if (reason in HELD_BACK or reason.startswith("reason "))
        and reason.partition(",")[0] not in held
    )
    if others:
        yield f"{name} was held back by: {'; '.join(others)}"
    # In another performance state one of the two clocks is that of an idle GPU.
    alike = after.performance_state is not None and (
        before.performance_state == after.performance_state
    )
    idle = "idle" in (*(before.reasons or ()), *(after.reasons or ()))
    if loaded and alike and not idle and _fell(before.sm_mhz, after.sm_mhz):
        yield f"the clock of {name} fell from {before.sm_mhz} to {after.sm_mhz} MHz"
    old, new = before.power_limit_watts, after.power_limit_watts
    if old and new and old != new:
        yield f"the power limit of {name} changed from {old:.0f} to {new:.0f} W"


def _held_back(before: GpuState, after: GpuState) -> dict[str, float]:
    earlier = before.held_back_seconds or {}
    more = {
        reason: seconds - earlier.get(reason, seconds)
        for reason, seconds in (after.held_back_seconds or {}).items()
    }
    return {reason: seconds for reason, seconds in more.items() if seconds >= _HELD_SECONDS}


def _settings(before: State, after: State) -> Iterator[str]:
    then, now = before.power_mode, after.power_mode
    pairs: tuple[tuple[str, object, object], ...] = (
        ("the governor", _list(before.cpu.governors), _list(after.cpu.governors)),
        ("the energy preference", _list(before.cpu.preferences), _list(after.cpu.preferences)),
        ("boost", _on(before.cpu.boost), _on(after.cpu.boost)),
        ("the power mode", _mode(then), _mode(now)),
        ("the platform profile", then.platform_profile, now.platform_profile),
        ("the power supply", _supply(before), _supply(after)),
    )
    for what, old, new in pairs:
        if old is not None and new is not None and old != new:
            yield f"{what} changed from {old} to {new}"


def _with_unreadable(state: State, tree: Tree) -> State:
    return replace(state, unreadable=tuple(_unreadable(state, tree)))


def _unreadable(state: State, tree: Tree) -> Iterator[str]:
    cpu = state.cpu
    if cpu.virtual_machine:
        yield "the host's clocks, temperatures and throttling: this is a virtual machine"
    if not any(core.now_mhz for core in cpu.cores):
        yield "the processor's clock"
    if not cpu.governors:
        yield "the processor's governor: no cpufreq"
    x86 = is_x86(tree)
    if x86 and cpu.boost is None:
        yield "whether the processor may boost"
    if x86 and not cpu.counters:
        yield "the processor's throttling: no cpu*/thermal_throttle counters"
    if not x86 and not state.cooling_devices and not state.event_counters:
        yield "the processor's throttling: no cooling device"
    if not state.temperatures:
        yield "temperatures: no sensor"
    if "Raspberry Pi" in (tree.text("proc/device-tree/model") or ""):
        # Its file in sysfs leaves a warning in the kernel's log when it is read.
        yield "what the firmware holds back: vcgencmd get_throttled tells"
    if is_jetson(tree):
        if state.power_mode.nvpmodel is None:
            yield "the power mode: nvpmodel gave no answer"
        if not state.device_clocks:
            yield "the GPU's clock: no devfreq device"
    elif state.gpus is None and nvidia_present(tree):
        yield f"the GPU: {state.gpus_unread}"
    for gpu in () if is_jetson(tree) else state.gpus or ():
        if gpu.reasons is None and gpu.held_back_seconds is None:
            yield f"why GPU {gpu.index} was held back: its driver does not tell"


def _identity(gpu: GpuState) -> object:
    return gpu.uuid or gpu.index


def _same_kind(before: Core, after: Core) -> bool:
    """A small core's clock says nothing about a big one's."""
    if before.max_mhz is None or after.max_mhz is None:
        return before.number == after.number
    return before.max_mhz == after.max_mhz


def _fell(before: float | None, after: float | None) -> bool:
    return bool(before and after and after < FALLEN * before)


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _cores(numbers: Iterable[int]) -> str:
    found = sorted(numbers)
    if len(found) == 1:
        return f"core {found[0]}"
    if found == list(range(found[0], found[-1] + 1)):
        return f"cores {found[0]} to {found[-1]}"
    return f"cores {', '.join(map(str, found))}"


def _list(names: tuple[str, ...]) -> str | None:
    return ", ".join(names) or None


def _on(value: bool | None) -> str | None:
    return None if value is None else "on" if value else "off"


def _mode(mode: PowerMode) -> str | None:
    model = mode.nvpmodel
    if model is None:
        return None
    return model.name or f"number {model.number}"


def _supply(state: State) -> str | None:
    discharging = on_battery(state.power_supplies)
    return None if discharging is None else "battery" if discharging else "mains"
