"""Power modes and supplies."""

from __future__ import annotations

import time

import pytest

from elir_deploy.bench.sensors import power_mode
from elir_deploy.bench.sensors.files import Tree
from elir_deploy.bench.sensors.power_mode import (
    NvpModel,
    PowerSupply,
    on_battery,
    parse_nvpmodel,
    read_power_mode,
    read_power_supplies,
)
from tests.bench.sensors import trees
from tests.bench.sensors.trees import answer_with, plant


@pytest.mark.parametrize(
    ("answer", "mode"),
    [
        # JetPack 6.
        ("NV Power Mode: MAXN_SUPER\n2\n", NvpModel("MAXN_SUPER", 2)),
        ("NV Power Mode: 15W\n0", NvpModel("15W", 0)),
        # JetPack 4, without and with modes of the fan.
        ("NVPM WARN: fan mode is not set!\nNV Power Mode: 5W\n1\n", NvpModel("5W", 1)),
        (
            "NV Fan Mode:quiet\nNV Power Mode: MODE_15W_DESKTOP\n7\n",
            NvpModel("MODE_15W_DESKTOP", 7, "quiet"),
        ),
        # --verbose.
        (
            "NVPM VERB: Config file: /etc/nvpmodel.conf\nNV Fan Mode:cool\n"
            "NVPM VERB: Current mode: NV Power Mode: MODE_30W_4CORE\n5\nNVPM VERB: PARAM",
            NvpModel("MODE_30W_4CORE", 5, "cool"),
        ),
        ("NV Power Mode: MAXN\nNVPM ERROR: no number", NvpModel("MAXN", None)),
        ("NVPM WARN: power mode is not set!\n", None),
        ("NV Power Mode: \n2\n", None),
        ("", None),
        ("\0\xff" * 100, None),
    ],
)
def test_what_nvpmodel_answers(answer, mode):
    assert parse_nvpmodel(answer) == mode


def test_the_tool_goes_before_its_files(tmp_path):
    trees.orin_nano(tmp_path)
    assert read_power_mode(Tree(tmp_path)).nvpmodel == NvpModel("MAXN_SUPER", 2)
    # Without root it answers, then fails.
    answer_with(tmp_path, "NV Power Mode: 15W\n0\nNVPM ERROR: 13", exit_code=255)
    assert read_power_mode(Tree(tmp_path)).nvpmodel == NvpModel("15W", 0)


def test_the_files_where_the_tool_is_not_asked_or_does_not_answer(tmp_path, monkeypatch):
    trees.orin_nano(tmp_path)
    stored = NvpModel("25W", 1)
    assert read_power_mode(Tree(tmp_path), ask=False).nvpmodel == stored
    answer_with(tmp_path, "", exit_code=1)
    assert read_power_mode(Tree(tmp_path)).nvpmodel == stored
    plant(tmp_path, {"usr/sbin/nvpmodel": b"\x7fnot a program"})
    assert read_power_mode(Tree(tmp_path)).nvpmodel == stored
    answer_with(tmp_path, "NV Power Mode: 15W", seconds=30)
    monkeypatch.setattr(power_mode, "_TIMEOUT_SECONDS", 0.2)
    began = time.perf_counter()
    assert read_power_mode(Tree(tmp_path)).nvpmodel == stored
    assert time.perf_counter() - began < 10


def test_a_mode_that_the_configuration_does_not_name(tmp_path):
    plant(tmp_path, {"var/lib/nvpmodel/status": "pmode:0008 fmode:fanNull"})
    assert read_power_mode(Tree(tmp_path)).nvpmodel == NvpModel(None, 8)


def test_a_machine_without_power_modes(tmp_path):
    mode = read_power_mode(Tree(trees.virtual_machine(tmp_path)))
    assert (mode.nvpmodel, mode.platform_profile) == (None, None)


def test_platform_profile(tmp_path):
    mode = read_power_mode(Tree(trees.laptop_amd(tmp_path)))
    assert mode.platform_profile == "low-power"


def test_power_supplies(tmp_path):
    supplies = read_power_supplies(Tree(trees.laptop_amd(tmp_path)))
    # Not the mouse's battery.
    assert supplies == (
        PowerSupply("ACAD", "Mains", False, None),
        PowerSupply("BAT1", "Battery", None, "Discharging"),
    )
    assert on_battery(supplies) is True
    plant(
        tmp_path,
        {
            "sys/class/power_supply/ACAD/online": 1,
            "sys/class/power_supply/BAT1/status": "Not charging",
        },
    )
    supplies = read_power_supplies(Tree(tmp_path))
    assert supplies[0].online is True
    assert on_battery(supplies) is False
    assert on_battery(()) is None
