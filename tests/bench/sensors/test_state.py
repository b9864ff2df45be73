"""A machine at two moments."""

from __future__ import annotations

import dataclasses
import json
import sys
from contextlib import closing
from pathlib import Path

import pytest

from elir_deploy.bench.sensors.energy import EnergyMeter
from elir_deploy.bench.sensors.nvml import SLOWDOWNS, Nvml
from elir_deploy.bench.sensors.process import Affinity, peak_host_bytes, rss_bytes
from elir_deploy.bench.sensors.state import State, read_state, throttled_between
from tests.bench.sensors import trees
from tests.bench.sensors.nvml_stand_in import NoDriver, StandIn, not_installed
from tests.bench.sensors.trees import CPUS, plant

MACHINES = {
    "desktop_intel": trees.desktop_intel,
    "laptop_amd": trees.laptop_amd,
    "orin_nano": trees.orin_nano,
    "agx_orin": trees.agx_orin,
    "virtual_machine": trees.virtual_machine,
}


def state_of(root: Path, stand_in: StandIn | None = None) -> State:
    nvml = Nvml(not_installed if stand_in is None else lambda: stand_in)
    return read_state(nvml, root)


def change(root: Path, files, stand_in: StandIn | None = None) -> list[str]:
    """What is reported when these files change."""
    before = state_of(root, stand_in)
    plant(root, files)
    return throttled_between(before, state_of(root, stand_in))


@pytest.mark.parametrize("name", MACHINES)
def test_nothing_happened(tmp_path, name):
    state = state_of(MACHINES[name](tmp_path))
    assert throttled_between(state, state) == []


@pytest.mark.parametrize("name", MACHINES)
def test_plain_json_values(tmp_path, name):
    found = dataclasses.asdict(state_of(MACHINES[name](tmp_path), StandIn()))
    read_back = json.loads(json.dumps(found, allow_nan=False))
    assert read_back.keys() == found.keys()
    assert read_back["gpus"][0]["reasons"] == ["power cap"]


def test_a_desktop(tmp_path):
    state = state_of(trees.desktop_intel(tmp_path))
    assert state.unreadable == ()
    assert state.power_mode.platform_profile == "balanced"
    assert state.gpus is None


def test_what_is_unreadable(tmp_path):
    assert state_of(trees.virtual_machine(tmp_path / "vm")).unreadable == (
        "the host's clocks, temperatures and throttling: this is a virtual machine",
        "the processor's throttling: no counters and no cooling device",
    )
    plant(tmp_path / "arm", {"sys/class/dmi/id/sys_vendor": "QEMU"})
    plant(tmp_path / "arm", {"proc/cpuinfo": "processor\t: 0\nFeatures\t: fp asimd\n"})
    assert state_of(tmp_path / "arm").unreadable == (
        "the host's clocks, temperatures and throttling: this is a virtual machine",
        "the processor's throttling: no counters and no cooling device",
    )
    assert state_of(trees.laptop_amd(tmp_path / "amd")).unreadable == (
        "the processor's throttling: no counters and no cooling device",
    )
    assert state_of(trees.orin_nano(tmp_path / "orin")).unreadable == ()


def test_without_a_clock_or_psutil(tmp_path, psutil, monkeypatch):
    trees.desktop_intel(tmp_path)
    psutil.mhz = 0.0
    assert state_of(tmp_path).unreadable == ("the processor's clock",)
    monkeypatch.setitem(sys.modules, "psutil", None)
    assert state_of(tmp_path).unreadable == (
        "the mean clock, memory, and mains or battery: psutil is not installed: "
        "pip install 'elir-deploy[sensors]'",
    )


def test_a_jetson_that_does_not_answer(tmp_path):
    trees.agx_orin(tmp_path)
    unreadable = state_of(tmp_path).unreadable
    assert "the power mode: nvpmodel gave no answer" in unreadable
    assert "the GPU's clock: no devfreq device" in unreadable
    # NVML reads next to nothing of a Jetson's GPU.
    plant(tmp_path, {"proc/driver/nvidia/version": "NVRM"})
    assert not any("nvidia-ml-py" in line for line in state_of(tmp_path).unreadable)


def test_a_gpu_that_cannot_be_read(tmp_path):
    trees.desktop_intel(tmp_path)
    plant(tmp_path, {"proc/driver/nvidia/version": "NVRM"})
    assert state_of(tmp_path).unreadable == (
        "the GPU: nvidia-ml-py is not installed: pip install 'elir-deploy[sensors]'",
    )
    state = read_state(Nvml(NoDriver), tmp_path)
    assert state.unreadable == ("the GPU: NVML: NVML Shared Library Not Found",)


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
        "the processor throttled (core_throttle_count +12, summed over logical cores)",
        "the processor throttled (core_throttle_total_time_ms +345, summed over logical cores)",
        "the processor throttled (package_throttle_count +1, summed over logical cores)",
    ]


def test_a_counter_that_appears_says_nothing_of_what_was_before(tmp_path):
    trees.laptop_amd(tmp_path)
    name = f"{CPUS}/cpu0/thermal_throttle/core_throttle_count"
    assert change(tmp_path, {name: 5}) == []
    assert len(change(tmp_path, {name: 9})) == 1


def test_counters_that_start_again(tmp_path):
    trees.desktop_intel(tmp_path)
    names = [f"{CPUS}/cpu{n}/thermal_throttle/core_throttle_count" for n in range(6)]
    assert change(tmp_path, dict.fromkeys(names, 0)) == []


def test_events_of_a_jetson(tmp_path):
    trees.orin_nano(tmp_path)
    assert change(tmp_path, {"sys/class/hwmon/hwmon3/oc3_event_cnt": 14 + 3}) == [
        "the module exceeded an over-current or under-voltage limit (oc3_event_cnt +3)",
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
        "gpu-throttle-alert was slowed down because of heat (cooling state 1)"
    ]


def test_a_fan_that_turns_faster_is_none(tmp_path):
    trees.orin_nano(tmp_path)
    assert change(tmp_path, {"sys/class/thermal/cooling_device2/cur_state": 3}) == []


def test_a_lower_limit(tmp_path):
    trees.laptop_amd(tmp_path)
    folders = [f"{CPUS}/cpu{n}/cpufreq/scaling_max_freq" for n in range(4)]
    assert change(tmp_path, dict.fromkeys(folders[:3], 1_900_000)) == [
        "the highest clock allowed fell from 4800 to 1900 MHz (on 3 of 4 cores)"
    ]
    # A higher limit is no throttling.
    assert change(tmp_path, dict.fromkeys(folders, 4_800_000)) == []
    assert change(tmp_path, {folders[1]: 1_000_000, folders[3]: 900_000}) == [
        "the highest clock allowed fell from 4800 to 900 MHz (on 2 of 4 cores)"
    ]


def test_nvpmodel_does_not_run_where_it_must_be_quick(tmp_path):
    trees.orin_nano(tmp_path)
    assert read_state(Nvml(not_installed), tmp_path).power_mode.nvpmodel is not None
    assert read_state(Nvml(not_installed), tmp_path, quick=True).power_mode.nvpmodel is None


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


def test_a_limit_that_is_no_longer_known(tmp_path):
    trees.orin_nano(tmp_path)
    assert change(tmp_path, {"sys/class/devfreq/17000000.gpu/max_freq": "unknown"}) == []
    assert change(tmp_path, {f"{CPUS}/cpu0/cpufreq/scaling_max_freq": "unknown"}) == []


def gpu_change(tmp_path, stand_in: StandIn, **values) -> list[str]:
    before = state_of(tmp_path, stand_in)
    for name, value in values.items():
        assert hasattr(stand_in, name)
        setattr(stand_in, name, value)
    return throttled_between(before, state_of(tmp_path, stand_in))


def test_a_gpu_at_its_power_cap(tmp_path):
    stand_in = StandIn(reasons=0x1)
    assert gpu_change(tmp_path, stand_in, reasons=0x4) == ["GPU 0 was slowed down by: power cap"]
    assert gpu_change(tmp_path, stand_in, reasons=0x1) == ["GPU 0 was slowed down by: power cap"]
    assert gpu_change(tmp_path, stand_in, reasons=0x2) == []


def test_counters_of_a_gpu(tmp_path):
    stand_in = StandIn(reasons=0x1)
    policies = {**stand_in.policies, 74: 3_000_000_000 + 1_234_000_000, 75: 500_000}
    assert gpu_change(tmp_path, stand_in, policies=policies, reasons=0x44) == [
        "GPU 0 was slowed down for 1.23 s by: power cap",
        "GPU 0 was slowed down by: heat, by hardware",
    ]
    # Half a millisecond is none; three are.
    policies = {**policies, 75: 3_500_000}
    assert gpu_change(tmp_path, stand_in, policies=policies, reasons=0x1) == [
        "GPU 0 was slowed down for 0.003 s by: heat",
        "GPU 0 was slowed down by: power cap",
    ]


def test_unknown_reasons_are_reported(tmp_path):
    stand_in = StandIn(reasons=0x8000)
    assert gpu_change(tmp_path, stand_in) == ["GPU 0 was slowed down by: reason 0x8000"]


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
    present, absent = state_of(tmp_path, StandIn()), state_of(tmp_path)
    assert throttled_between(present, absent) == []
    assert throttled_between(absent, present) == []


def test_settings_that_changed(tmp_path, psutil):
    trees.laptop_amd(tmp_path)
    files = {f"{CPUS}/cpu{n}/cpufreq/scaling_governor": "performance" for n in range(3)}
    files |= {f"{CPUS}/cpu{n}/cpufreq/energy_performance_preference": "power" for n in range(4)}
    files |= {f"{CPUS}/cpu0/cpufreq/boost": 0}
    files |= {"sys/firmware/acpi/platform_profile": "performance"}
    psutil.plugged = False
    before = state_of(tmp_path)
    plant(tmp_path, files)
    psutil.plugged = True
    assert throttled_between(before, state_of(tmp_path)) == [
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


def test_every_slowdown_is_reported(tmp_path):
    assert "idle" not in SLOWDOWNS
    assert "application clocks" not in SLOWDOWNS
    for bit in (0x4, 0x8, 0x10, 0x20, 0x40, 0x80, 0x200, 0x400):
        state = state_of(tmp_path, StandIn(reasons=bit))
        assert len(throttled_between(state, state)) == 1


def test_a_session_that_is_given_stays_open(tmp_path):
    stand_in = StandIn()
    read_state(Nvml(lambda: stand_in), tmp_path)
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
    b"3:cpu,cpuacct:/\n0::/../..\n:::",
    b"x" * 100_000,
    b"\n\n" * 10_000,
]


@pytest.mark.parametrize("name", MACHINES)
def test_garbage_in_all_files(tmp_path, name):
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
    state = read_state(Nvml(not_installed), root)
    throttled_between(good, state)
    throttled_between(state, good)
    json.dumps(dataclasses.asdict(state), allow_nan=False)
    json.dumps(dataclasses.asdict(Affinity.read(root)), allow_nan=False)
    meter, missing = EnergyMeter.search(Nvml(not_installed), root, thread=False)
    assert (meter is None) <= bool(missing)
    if meter is not None:
        assert meter.read() >= 0
        meter.close()
    return all(value is None or value >= 0 for value in (peak_host_bytes(root), rss_bytes(root)))


def test_this_machine(monkeypatch):
    monkeypatch.delitem(sys.modules, "psutil")
    with closing(Nvml()) as nvml:
        before, after = (read_state(nvml) for _ in range(2))
        json.dumps(dataclasses.asdict(before), allow_nan=False)
        assert all(isinstance(line, str) for line in throttled_between(before, after))
        meter, missing = EnergyMeter.search(nvml)
        assert meter is not None or missing
        if meter is not None:
            first = meter.read()
            assert 0 <= first <= meter.read()
            meter.close()
