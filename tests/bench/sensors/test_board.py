"""Heat, throttling counters, power modes, battery and device clocks."""

from __future__ import annotations

import time

import pytest

from elir_deploy.bench.sensors import board
from elir_deploy.bench.sensors.board import (
    DeviceClock,
    PowerMode,
    on_battery,
    read_cooling,
    read_counters,
    read_device_clocks,
    read_power_mode,
    read_temperatures,
)
from elir_deploy.bench.sensors.files import Tree
from tests.bench.sensors import trees
from tests.bench.sensors.trees import CPUS, answer_with, plant


def test_temperatures_of_a_desktop(tmp_path):
    assert read_temperatures(Tree(trees.desktop_intel(tmp_path))) == {
        "acpitz": 27.8,
        "x86_pkg_temp": 45.0,
        "coretemp Package id 0": 46.0,
        "coretemp Core 0": 44.0,
    }


def test_zones_that_are_switched_off_are_left_out(tmp_path):
    names = list(read_temperatures(Tree(trees.orin_nano(tmp_path))))
    assert names == [f"{zone}-thermal" for zone in ("cpu", "gpu", "soc0", "soc1", "soc2", "tj")]


def test_zones_count_beside_a_drive(tmp_path):
    trees.orin_nano(tmp_path)
    drive = "sys/class/hwmon/hwmon0"
    plant(tmp_path, {f"{drive}/name": "nvme", f"{drive}/temp1_input": 38_000})
    assert read_temperatures(Tree(tmp_path)).keys() >= {"nvme temp1", "tj-thermal"}


def test_the_hottest_of_zones_with_one_name(tmp_path):
    for number, celsius in enumerate((40, 70, 50)):
        folder = f"sys/class/thermal/thermal_zone{number}"
        plant(tmp_path, {f"{folder}/type": "acpitz", f"{folder}/temp": celsius * 1000})
    assert read_temperatures(Tree(tmp_path)) == {"acpitz": 70.0}


@pytest.mark.parametrize("value", [-256_000, 0xFFFFFFFF, "NaN", ""])
def test_no_temperature(tmp_path, value):
    plant(tmp_path, {"sys/class/thermal/thermal_zone0/temp": value})
    assert read_temperatures(Tree(tmp_path)) == {}


def test_a_sensor_without_a_label(tmp_path):
    plant(tmp_path, {"sys/class/hwmon/hwmon0/temp1_input": 40_000})
    assert read_temperatures(Tree(tmp_path)) == {"hwmon0 temp1": 40.0}


def test_fans_slow_nothing_down(tmp_path):
    # The power clamp shows -1 while it is off.
    assert read_cooling(Tree(trees.desktop_intel(tmp_path / "desktop"))) == {
        "Processor": 0,
        "intel_powerclamp": 0,
    }
    assert list(read_cooling(Tree(trees.orin_nano(tmp_path / "orin")))) == [
        "cpufreq-cpu0",
        "cpufreq-cpu4",
        "cpu-throttle-alert",
        "gpu-throttle-alert",
        "devfreq-17000000.gpu",
    ]


@pytest.mark.parametrize(
    ("name", "slows"),
    [
        ("thermal-cpufreq-0", True),
        ("thermal-devfreq-1", True),
        ("idle-cpu3", True),
        ("hot-surface-alert", True),
        ("pwm-fan", False),
        ("TCC Offset", False),
        ("iwlwifi_1", False),
        ("LCD", False),
    ],
)
def test_which_cooling_devices_slow_computing_down(tmp_path, name, slows):
    folder = "sys/class/thermal/cooling_device0"
    plant(tmp_path, {f"{folder}/type": name, f"{folder}/cur_state": 1})
    assert read_cooling(Tree(tmp_path)) == ({name: 1} if slows else {})


def test_the_highest_state_of_devices_with_one_name(tmp_path):
    for number, state in enumerate((0, 4, 2)):
        folder = f"sys/class/thermal/cooling_device{number}"
        plant(tmp_path, {f"{folder}/type": "Processor", f"{folder}/cur_state": state})
    assert read_cooling(Tree(tmp_path)) == {"Processor": 4}


def test_counters_of_intel_are_summed_over_logical_cores(tmp_path):
    trees.desktop_intel(tmp_path)
    plant(tmp_path, {f"{CPUS}/cpu5/thermal_throttle/core_throttle_count": 20})
    assert read_counters(Tree(tmp_path), range(6)) == {
        "core_throttle_count": 5 * 7 + 20,
        "core_throttle_total_time_ms": 6 * 100,
        "package_throttle_count": 6 * 9,
        "package_throttle_total_time_ms": 6 * 130,
    }
    assert read_counters(Tree(trees.laptop_amd(tmp_path / "amd")), range(4)) == {}


def test_event_counters_of_a_jetson(tmp_path):
    counters = read_counters(Tree(trees.orin_nano(tmp_path)), range(6))
    assert counters == {"oc1_event_cnt": 0, "oc2_event_cnt": 0, "oc3_event_cnt": 14}


@pytest.mark.parametrize(
    ("answer", "mode"),
    [
        ("NV Power Mode: MAXN_SUPER\n2\n", "MAXN_SUPER"),
        ("NVPM WARN: fan mode is not set!\nNV Power Mode: 5W\n1\n", "5W"),
        ("NV Fan Mode:quiet\nNV Power Mode: MODE_15W_DESKTOP\n7\n", "MODE_15W_DESKTOP"),
        # --verbose.
        ("NVPM VERB: Current mode: NV Power Mode: MODE_30W_4CORE\n5\n", "MODE_30W_4CORE"),
        ("NVPM WARN: power mode is not set!\n", None),
        ("NV Power Mode: \n2\n", None),
        ("", None),
    ],
)
def test_answers_of_nvpmodel(tmp_path, answer, mode):
    answer_with(tmp_path, answer)
    assert read_power_mode(Tree(tmp_path)) == PowerMode(mode, None)
    # Without root it answers, then fails.
    answer_with(tmp_path, answer, exit_code=255)
    assert read_power_mode(Tree(tmp_path)).nvpmodel == mode


def test_nvpmodel_that_is_not_started_or_does_not_answer(tmp_path, monkeypatch):
    trees.orin_nano(tmp_path)
    assert read_power_mode(Tree(tmp_path)).nvpmodel == "MAXN_SUPER"
    assert read_power_mode(Tree(tmp_path), run_nvpmodel=False).nvpmodel is None
    plant(tmp_path, {"usr/sbin/nvpmodel": b"\x7fnot a program"})
    assert read_power_mode(Tree(tmp_path)).nvpmodel is None
    answer_with(tmp_path, "NV Power Mode: 15W", seconds=30)
    monkeypatch.setattr(board, "_TIMEOUT_SECONDS", 0.2)
    began = time.perf_counter()
    assert read_power_mode(Tree(tmp_path)).nvpmodel is None
    assert time.perf_counter() - began < 10


def test_platform_profile(tmp_path):
    mode = read_power_mode(Tree(trees.laptop_amd(tmp_path)))
    assert mode == PowerMode(None, "low-power")
    assert read_power_mode(Tree(tmp_path / "none")) == PowerMode(None, None)


@pytest.mark.parametrize(("plugged", "battery"), [(True, False), (False, True), (None, None)])
def test_battery(psutil, plugged, battery):
    psutil.plugged = plugged
    assert on_battery() is battery


def test_clock_of_a_jetsons_gpu(tmp_path):
    trees.orin_nano(tmp_path)
    plant(tmp_path, {"sys/class/devfreq/incomplete/governor": "x"})
    assert read_device_clocks(Tree(tmp_path)) == (
        DeviceClock("17000000.gpu", 1020, 1020, 1020, "nvhost_podgov"),
    )
