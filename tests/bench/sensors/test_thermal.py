"""Temperatures and cooling."""

from __future__ import annotations

import pytest

from elir_deploy.bench.sensors.files import Tree
from elir_deploy.bench.sensors.thermal import (
    CoolingDevice,
    EventCounter,
    Temperature,
    read_alarms,
    read_cooling_devices,
    read_event_counters,
    read_temperatures,
)
from tests.bench.sensors import trees
from tests.bench.sensors.trees import plant


def test_temperatures_of_a_desktop(tmp_path):
    assert read_temperatures(Tree(trees.desktop_intel(tmp_path))) == (
        Temperature("acpitz", 27.8),
        Temperature("x86_pkg_temp", 45.0),
        Temperature("coretemp Package id 0", 46.0),
        Temperature("coretemp Core 0", 44.0),
    )


def test_zones_that_are_switched_off_are_left_out(tmp_path):
    names = [t.name for t in read_temperatures(Tree(trees.orin_nano(tmp_path)))]
    assert names == [f"{zone}-thermal" for zone in ("cpu", "gpu", "soc0", "soc1", "soc2", "tj")]


@pytest.mark.parametrize("value", [-256_000, 0xFFFFFFFF, "NaN", ""])
def test_no_temperature(tmp_path, value):
    plant(tmp_path, {"sys/class/thermal/thermal_zone0/temp": value})
    assert read_temperatures(Tree(tmp_path)) == ()


def test_a_sensor_without_a_label(tmp_path):
    plant(tmp_path, {"sys/class/hwmon/hwmon0/temp1_input": 40_000})
    assert read_temperatures(Tree(tmp_path)) == (Temperature("hwmon0 temp1", 40.0),)


def test_fans_hold_nothing_back(tmp_path):
    found = read_cooling_devices(Tree(trees.desktop_intel(tmp_path / "desktop")))
    # The power clamp shows -1 while it is off.
    assert found == (CoolingDevice("Processor", 0, 10), CoolingDevice("intel_powerclamp", 0, 50))
    names = [d.name for d in read_cooling_devices(Tree(trees.orin_nano(tmp_path / "orin")))]
    assert names == [
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
    assert read_cooling_devices(Tree(tmp_path)) == ((CoolingDevice(name, 1, None),) * slows)


def test_event_counters_of_a_jetson(tmp_path):
    trees.orin_nano(tmp_path)
    plant(tmp_path, {"sys/class/hwmon/hwmon3/oc2_throt_en": 0})
    assert read_event_counters(Tree(tmp_path)) == (
        EventCounter("oc1_event_cnt", 0, True),
        EventCounter("oc2_event_cnt", 0, False),
        EventCounter("oc3_event_cnt", 14, True),
    )


def test_under_voltage_of_a_raspberry(tmp_path):
    trees.raspberry(tmp_path)
    assert read_alarms(Tree(tmp_path)) == ("rpi_volt in0_lcrit_alarm",)
    plant(tmp_path, {"sys/class/hwmon/hwmon2/in0_lcrit_alarm": 0})
    assert read_alarms(Tree(tmp_path)) == ()
    # Another chip's alarm, of a voltage of its own.
    plant(
        tmp_path,
        {"sys/class/hwmon/hwmon2/name": "nct6775", "sys/class/hwmon/hwmon2/in0_lcrit_alarm": 1},
    )
    assert read_alarms(Tree(tmp_path)) is None
