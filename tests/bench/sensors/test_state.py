"""A machine at two moments."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from elir_deploy.bench.sensors import (
    Affinity,
    EnergyMeter,
    Nvml,
    State,
    read_state,
    rss_bytes,
    throttled_between,
)
from elir_deploy.bench.sensors.memory import peak_host_bytes
from elir_deploy.bench.sensors.nvml import HELD_BACK
from tests.bench.sensors import trees
from tests.bench.sensors.nvml_stand_in import NoDriver, StandIn, not_installed
from tests.bench.sensors.trees import CPUS, plant

MACHINES = {
    "desktop_intel": trees.desktop_intel,
    "laptop_amd": trees.laptop_amd,
    "orin_nano": trees.orin_nano,
    "nano": trees.nano,
    "agx_orin": trees.agx_orin,
    "raspberry": trees.raspberry,
    "virtual_machine": trees.virtual_machine,
}


def state_of(root: Path, stand_in: StandIn | None = None, *, spin: float = 0.0) -> State:
    nvml = Nvml(not_installed if stand_in is None else lambda: stand_in)
    return read_state(root, nvml=nvml, spin_seconds=spin)


def change(root: Path, files, stand_in: StandIn | None = None, *, spin: float = 0.0) -> list[str]:
    """What is seen when these files change."""
    before = state_of(root, stand_in, spin=spin)
    plant(root, files)
    return throttled_between(before, state_of(root, stand_in, spin=spin))


@pytest.mark.parametrize("name", MACHINES)
def test_nothing_happened(tmp_path, name):
    state = state_of(MACHINES[name](tmp_path))
    seen = throttled_between(state, state)
    if name == "raspberry":
        assert seen == [
            "the supply voltage was too low (rpi_volt in0_lcrit_alarm)",
            "cpufreq-cpu0 was slowed down for heat (cooling state 2 of 9)",
        ]
    else:
        assert seen == []


@pytest.mark.parametrize("name", MACHINES)
def test_plain_json_values(tmp_path, name):
    found = state_of(MACHINES[name](tmp_path), StandIn()).as_json()
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["gpus"][0]["reasons"] == ["power cap"]


def test_what_a_desktop_shows(tmp_path):
    state = state_of(trees.desktop_intel(tmp_path))
    assert state.unreadable == ()
    assert state.power_mode.platform_profile == "balanced"
    assert state.gpus is None
    assert state.gpus_unread == "nvidia-ml-py is not installed"


def test_what_cannot_be_seen(tmp_path):
    assert state_of(trees.virtual_machine(tmp_path / "vm")).unreadable == (
        "the host's clocks, temperatures and throttling: this is a virtual machine",
        "the processor's governor: no cpufreq",
        "whether the processor may boost",
        "the processor's throttling: no cpu*/thermal_throttle counters",
        "temperatures: no sensor",
    )
    plant(tmp_path / "arm", {"sys/class/dmi/id/sys_vendor": "QEMU"})
    plant(tmp_path / "arm", {"proc/cpuinfo": "processor\t: 0\nFeatures\t: fp asimd\n"})
    assert state_of(tmp_path / "arm").unreadable[:4] == (
        "the host's clocks, temperatures and throttling: this is a virtual machine",
        "the processor's clock",
        "the processor's governor: no cpufreq",
        "the processor's throttling: no cooling device",
    )
    assert state_of(trees.laptop_amd(tmp_path / "amd")).unreadable == (
        "the processor's throttling: no cpu*/thermal_throttle counters",
    )
    assert state_of(trees.orin_nano(tmp_path / "orin")).unreadable == ()
    assert state_of(trees.raspberry(tmp_path / "pi")).unreadable == (
        "what the firmware holds back: vcgencmd get_throttled tells",
    )
    assert state_of(tmp_path / "nothing").unreadable == (
        "the processor's clock",
        "the processor's governor: no cpufreq",
        "the processor's throttling: no cooling device",
        "temperatures: no sensor",
    )


def test_a_jetson_that_does_not_answer(tmp_path):
    trees.nano(tmp_path)
    unreadable = state_of(tmp_path).unreadable
    assert "the power mode: nvpmodel gave no answer" in unreadable
    assert "the GPU's clock: no devfreq device" in unreadable
    # Its GPU is no business of NVML.
    plant(tmp_path, {"proc/driver/nvidia/version": "NVRM"})
    assert not any("nvidia-ml-py" in what for what in state_of(tmp_path).unreadable)


def test_a_gpu_that_cannot_be_asked(tmp_path):
    trees.desktop_intel(tmp_path)
    plant(tmp_path, {"proc/driver/nvidia/version": "NVRM"})
    assert state_of(tmp_path).unreadable == ("the GPU: nvidia-ml-py is not installed",)
    state = read_state(tmp_path, nvml=Nvml(NoDriver), spin_seconds=0)
    assert state.unreadable == ("the GPU: NVML: NVML Shared Library Not Found",)
    stand_in = StandIn()
    stand_in.refused = {
        "nvmlDeviceGetCurrentClocksEventReasons",
        "nvmlDeviceGetCurrentClocksThrottleReasons",
        "nvmlDeviceGetFieldValues",
        "nvmlDeviceGetViolationStatus",
    }
    assert state_of(tmp_path, stand_in).unreadable == (
        "why GPU 0 was held back: its driver does not tell",
    )


def test_throttle_counters(tmp_path):
    trees.desktop_intel(tmp_path)
    folder = f"{CPUS}/cpu4/thermal_throttle"
    assert change(
        tmp_path,
        {
            f"{folder}/core_throttle_count": 7 + 12,
            f"{folder}/core_throttle_total_time_ms": 100 + 345,
            f"{folder}/package_throttle_count": 10,
        },
    ) == [
        "the processor throttled 12 times (core_throttle_count)",
        "the processor throttled for 345 ms (core_throttle_total_time_ms)",
        "the processor throttled once (package_throttle_count)",
    ]


def test_the_power_limit(tmp_path):
    trees.desktop_intel(tmp_path)
    name = f"{CPUS}/cpu0/thermal_throttle/package_power_limit_count"
    # A counter that appears says nothing of what was before.
    assert change(tmp_path, {name: 5}) == []
    assert change(tmp_path, {name: 9}) == [
        "the processor met its power limit 4 times (package_power_limit_count)"
    ]


def test_counters_that_start_again(tmp_path):
    trees.desktop_intel(tmp_path)
    names = [f"{CPUS}/cpu{n}/thermal_throttle/core_throttle_count" for n in range(6)]
    assert change(tmp_path, dict.fromkeys(names, 0)) == []


def test_events_of_a_jetson(tmp_path):
    trees.orin_nano(tmp_path)
    folder = "sys/class/hwmon/hwmon3"
    plant(tmp_path, {f"{folder}/oc1_throt_en": 0})
    assert change(tmp_path, {f"{folder}/oc1_event_cnt": 1, f"{folder}/oc3_event_cnt": 14 + 3}) == [
        "the module met an over-current or under-voltage limit once (oc1_event_cnt)",
        "the module met an over-current or under-voltage limit 3 times, and slowed down "
        "(oc3_event_cnt)",
    ]


@pytest.mark.parametrize("when", ["before", "after"])
def test_cooling_at_either_moment(tmp_path, when):
    trees.orin_nano(tmp_path)
    folder = "sys/class/thermal/cooling_device4"
    cool = state_of(tmp_path)
    plant(tmp_path, {f"{folder}/cur_state": 1})
    hot = state_of(tmp_path)
    pair = (hot, cool) if when == "before" else (cool, hot)
    assert throttled_between(*pair) == [
        "gpu-throttle-alert was slowed down for heat (cooling state 1 of 3)"
    ]


def test_a_fan_that_turns_faster_is_none(tmp_path):
    trees.orin_nano(tmp_path)
    assert change(tmp_path, {"sys/class/thermal/cooling_device2/cur_state": 3}) == []


def test_a_lower_limit(tmp_path):
    trees.laptop_amd(tmp_path)
    folders = [f"{CPUS}/cpu{n}/cpufreq/scaling_max_freq" for n in range(4)]
    assert change(tmp_path, dict.fromkeys(folders[:3], 1_900_000)) == [
        "the highest clock allowed fell from 4800 to 1900 MHz (cores 0 to 2)"
    ]
    # Up again is no throttling.
    assert change(tmp_path, dict.fromkeys(folders, 4_800_000)) == []
    assert change(tmp_path, {folders[1]: 1_000_000, folders[3]: 1_000_000}) == [
        "the highest clock allowed fell from 4800 to 1000 MHz (cores 1, 3)"
    ]
    assert change(tmp_path, {folders[0]: 900_000}) == [
        "the highest clock allowed fell from 4800 to 900 MHz (core 0)"
    ]


BUSY = "proc/thread-self/stat"


@pytest.mark.parametrize(
    ("clock", "sentences"),
    [
        (1_900_000, ["the processor's clock fell from 2800 to 1900 MHz"]),
        (2_510_000, ["the processor's clock fell from 2800 to 2510 MHz"]),
        # Nine tenths are 2520; above it are steps of boost.
        (2_530_000, []),
        (3_400_000, []),
    ],
)
def test_the_clock_of_the_busy_core(tmp_path, clock, sentences):
    trees.laptop_amd(tmp_path)
    name = f"{CPUS}/cpu1/cpufreq/scaling_cur_freq"
    plant(tmp_path, {BUSY: trees.stat(core=1), name: 2_800_000})
    assert change(tmp_path, {name: clock}, spin=0.001) == sentences


def test_the_clock_of_idle_cores_says_nothing(tmp_path):
    trees.laptop_amd(tmp_path)
    plant(tmp_path, {BUSY: trees.stat(core=1)})
    names = [f"{CPUS}/cpu{n}/cpufreq/scaling_cur_freq" for n in (0, 2, 3)]
    assert change(tmp_path, dict.fromkeys(names, 400_000), spin=0.001) == []
    # Nor does that of one that was not kept busy.
    name = f"{CPUS}/cpu1/cpufreq/scaling_cur_freq"
    assert change(tmp_path, {name: 400_000}) == []


def test_a_small_core_is_not_compared_with_a_big_one(tmp_path):
    trees.desktop_intel(tmp_path)
    plant(tmp_path, {BUSY: trees.stat(core=2)})
    assert change(tmp_path, {BUSY: trees.stat(core=5)}, spin=0.001) == []
    # But with another of its kind.
    plant(tmp_path, {BUSY: trees.stat(core=2)})
    name = f"{CPUS}/cpu3/cpufreq/scaling_cur_freq"
    assert change(tmp_path, {BUSY: trees.stat(core=3), name: 3_000_000}, spin=0.001) == [
        "the processor's clock fell from 4988 to 3000 MHz"
    ]


def test_a_jetsons_gpu_clock(tmp_path):
    trees.orin_nano(tmp_path)
    folder = "sys/class/devfreq/17000000.gpu"
    assert change(tmp_path, {f"{folder}/cur_freq": 306_000_000}) == [
        "the clock of 17000000.gpu, fixed at 1020 MHz, fell to 306 MHz"
    ]
    # One that may fall when it is idle.
    plant(tmp_path, {f"{folder}/min_freq": 306_000_000, f"{folder}/cur_freq": 1_020_000_000})
    assert change(tmp_path, {f"{folder}/cur_freq": 306_000_000}) == []
    assert change(tmp_path, {f"{folder}/max_freq": 624_000_000}) == [
        "the highest clock allowed of 17000000.gpu fell from 1020 to 624 MHz"
    ]


def gpu_change(tmp_path, stand_in: StandIn, **values) -> list[str]:
    before = state_of(tmp_path, stand_in)
    for name, value in values.items():
        assert hasattr(stand_in, name)
        setattr(stand_in, name, value)
    return throttled_between(before, state_of(tmp_path, stand_in))


def test_a_gpu_at_its_power_cap(tmp_path):
    stand_in = StandIn(reasons=0x1)
    assert gpu_change(tmp_path, stand_in, reasons=0x4) == ["GPU 0 was held back by: power cap"]
    assert gpu_change(tmp_path, stand_in, reasons=0x1) == ["GPU 0 was held back by: power cap"]
    assert gpu_change(tmp_path, stand_in, reasons=0x2) == []


def test_what_a_gpus_counters_tell(tmp_path):
    stand_in = StandIn(reasons=0x1)
    policies = {**stand_in.policies, 74: 3_000_000_000 + 1_234_000_000, 75: 500_000}
    assert gpu_change(tmp_path, stand_in, policies=policies, reasons=0x44) == [
        "GPU 0 was held back for 1.23 s by: power cap",
        "GPU 0 was held back by: heat, by hardware",
    ]
    # Half a millisecond is none; three are.
    policies = {**policies, 75: 3_500_000}
    assert gpu_change(tmp_path, stand_in, policies=policies, reasons=0x1) == [
        "GPU 0 was held back for 0.003 s by: heat",
        "GPU 0 was held back by: power cap",
    ]


def test_reasons_nobody_knows_are_told(tmp_path):
    stand_in = StandIn(reasons=0x8000)
    assert gpu_change(tmp_path, stand_in) == ["GPU 0 was held back by: reason 0x8000"]


def test_a_gpus_clock(tmp_path):
    stand_in = StandIn(reasons=0)
    assert gpu_change(tmp_path, stand_in, sm_clock=1200) == [
        "the clock of GPU 0 fell from 1545 to 1200 MHz"
    ]
    assert gpu_change(tmp_path, stand_in, sm_clock=1150) == []
    # In another performance state, or idle, it is meant to.
    assert gpu_change(tmp_path, stand_in, sm_clock=300, performance=8) == []
    stand_in.sm_clock = 1545
    assert gpu_change(tmp_path, stand_in, sm_clock=300, reasons=0x1) == []


def test_a_gpu_that_is_gone_or_new(tmp_path):
    held, none = state_of(tmp_path, StandIn()), state_of(tmp_path)
    assert throttled_between(held, none) == []
    assert throttled_between(none, held) == []


def test_settings_that_changed(tmp_path):
    trees.laptop_amd(tmp_path)
    files = {f"{CPUS}/cpu{n}/cpufreq/scaling_governor": "performance" for n in range(3)}
    files |= {f"{CPUS}/cpu{n}/cpufreq/energy_performance_preference": "power" for n in range(4)}
    assert change(
        tmp_path,
        {
            **files,
            f"{CPUS}/cpu0/cpufreq/boost": 0,
            "sys/firmware/acpi/platform_profile": "performance",
            "sys/class/power_supply/BAT1/status": "Charging",
        },
    ) == [
        "the governor changed from powersave to performance, powersave",
        "the energy preference changed from balance_performance to power",
        "boost changed from on to off",
        "the platform profile changed from low-power to performance",
        "the power supply changed from battery to mains",
    ]


def test_what_is_no_longer_known_has_not_changed(tmp_path):
    laptop = state_of(trees.laptop_amd(tmp_path / "laptop"))
    orin = state_of(trees.orin_nano(tmp_path / "orin"))
    nothing = state_of(tmp_path / "nothing")
    for known in (laptop, orin):
        assert throttled_between(known, nothing) == []
        assert throttled_between(nothing, known) == []


def test_a_jetsons_power_mode_that_changed(tmp_path):
    trees.orin_nano(tmp_path)
    before = state_of(tmp_path)
    trees.answer_with(tmp_path, "NV Power Mode: 15W\n0\n")
    assert throttled_between(before, state_of(tmp_path)) == [
        "the power mode changed from MAXN_SUPER to 15W"
    ]


def test_a_gpus_power_limit_that_changed(tmp_path):
    state = state_of(tmp_path, StandIn(reasons=0))
    (gpu,) = state.gpus
    lower = dataclasses.replace(gpu, power_limit_watts=200.0)
    after = dataclasses.replace(state, gpus=(lower,))
    assert throttled_between(state, after) == ["the power limit of GPU 0 changed from 250 to 200 W"]


def test_every_reason_that_holds_back_is_told(tmp_path):
    assert "idle" not in HELD_BACK
    assert "application clocks" not in HELD_BACK
    for bit in (0x4, 0x8, 0x10, 0x20, 0x40, 0x80, 0x200, 0x400):
        state = state_of(tmp_path, StandIn(reasons=bit))
        assert len(throttled_between(state, state)) == 1


def test_a_session_that_is_given_stays_open(tmp_path):
    stand_in = StandIn()
    read_state(tmp_path, nvml=Nvml(lambda: stand_in), spin_seconds=0)
    assert stand_in.open == 1


GARBAGE = [
    b"",
    b"\n",
    b"\xff\xfe\x00\x80",
    b"-1",
    b"0",
    b"99999999999999999999999999999999999999",
    b"18446744073709551615",
    b"1e309",
    b"nan",
    b"package",
    b"0-99999",
    b"processor\t: 99999999999999\n\nprocessor : x\ncpu MHz : inf\nflags :\n",
    b"VmRSS: x kB\nVmHWM: 99999999999999999999 kB",
    b"pmode:9999\n< POWER_MODEL ID=9 NAME=",
    b"3:cpu,cpuacct:/\n0::/../..\n:::",
    b"x" * 100_000,
    b"\n\n" * 10_000,
]


@pytest.mark.parametrize("name", MACHINES)
def test_garbage_in_every_file_at_once(tmp_path, name):
    root = MACHINES[name](tmp_path)
    good = state_of(root)
    files = trees.files_of(root)
    # Not even what runs.
    files += [path for path in [root / "usr/sbin/nvpmodel"] if path.exists()]
    for garbage in GARBAGE:
        for path in files:
            path.write_bytes(garbage)
        assert all_is_read(root, good)


@pytest.mark.parametrize("name", MACHINES)
def test_files_that_vanish_or_are_folders(tmp_path, name):
    root = MACHINES[name](tmp_path)
    good = state_of(root)
    for path in trees.files_of(root):
        path.unlink()
        path.mkdir()
    assert all_is_read(root, good)
    for path in sorted(root.rglob("*"), reverse=True):
        if path.is_symlink() or path.is_file():
            path.unlink()
        else:
            path.rmdir()
    assert all_is_read(root, good)


@pytest.mark.parametrize("name", MACHINES)
def test_files_that_may_not_be_read(tmp_path, name, monkeypatch):
    root = MACHINES[name](tmp_path)
    good = state_of(root)

    def forbidden(path, *arguments, **options):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", forbidden)
    assert all_is_read(root, good)


def all_is_read(root: Path, good: State) -> bool:
    """Nothing is raised, and what is found is plain."""
    state = state_of(root, spin=0.0001)
    throttled_between(good, state)
    throttled_between(state, good)
    json.dumps(state.as_json(), allow_nan=False)
    json.dumps(Affinity.read(root, lambda: range(2)).as_json(), allow_nan=False)
    meter, missing = EnergyMeter.search(
        root, nvml=Nvml(not_installed), load_jtop=not_installed, thread=False
    )
    assert (meter is None) <= bool(missing)
    if meter is not None:
        meter.update()
        assert meter.read() >= 0
        meter.close()
    return all(value is None or value >= 0 for value in (peak_host_bytes(root), rss_bytes(root)))


def test_this_machine():
    before = read_state(spin_seconds=0.01)
    after = read_state(spin_seconds=0.01)
    json.dumps(before.as_json(), allow_nan=False)
    assert all(isinstance(line, str) for line in throttled_between(before, after))
    meter, missing = EnergyMeter.search()
    assert meter is not None or missing
    if meter is not None:
        with meter:
            first = meter.read()
            assert 0 <= first <= meter.read()
