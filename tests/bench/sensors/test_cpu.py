"""Clocks of the processor and what counts its throttling."""

from __future__ import annotations

import time

import pytest

from elir_deploy.bench.sensors import cpu as cpu_module
from elir_deploy.bench.sensors.cpu import is_virtual, keep_busy, read_cpu
from elir_deploy.bench.sensors.files import Tree
from tests.bench.sensors import trees
from tests.bench.sensors.trees import CPUS, plant


def test_desktop(tmp_path):
    cpu = read_cpu(Tree(trees.desktop_intel(tmp_path)), busy_core=2)
    assert [core.number for core in cpu.cores] == [0, 1, 2, 3, 4, 5]
    core = cpu.core(2)
    assert (core.now_mhz, core.min_mhz, core.max_mhz) == (4987.655, 800, 5000)
    assert core.limit_mhz == 5000
    assert (cpu.driver, cpu.governors, cpu.preferences) == (
        "intel_pstate",
        ("performance",),
        ("performance",),
    )
    assert (cpu.boost, cpu.smt_active, cpu.virtual_machine) == (True, True, False)
    assert cpu.busy_core == 2


def test_events_of_shared_cores_and_packages_count_once(tmp_path):
    trees.desktop_intel(tmp_path)
    plant(
        tmp_path,
        {
            # The sibling of cpu0 missed one; cpu5 alone had more.
            f"{CPUS}/cpu1/thermal_throttle/core_throttle_count": 6,
            f"{CPUS}/cpu5/thermal_throttle/core_throttle_count": 20,
            f"{CPUS}/cpu5/thermal_throttle/package_throttle_count": 11,
        },
    )
    counters = read_cpu(Tree(tmp_path)).counters
    assert counters["core_throttle_count"] == 7 + 7 + 7 + 20
    assert counters["package_throttle_count"] == 11
    assert counters["core_throttle_total_time_ms"] == 4 * 100
    assert "core_power_limit_count" not in counters
    # In a second package the count is another's.
    plant(tmp_path, {f"{CPUS}/cpu4/topology/physical_package_id": 1})
    assert read_cpu(Tree(tmp_path)).counters["package_throttle_count"] == 11 + 9


def test_laptop_without_counters(tmp_path):
    cpu = read_cpu(Tree(trees.laptop_amd(tmp_path)))
    assert cpu.counters == {}
    assert cpu.boost is True
    assert cpu.preferences == ("balance_performance",)
    assert cpu.core(3).now_mhz == 1397.003
    assert cpu.busy_core is None
    assert cpu.core(cpu.busy_core) is None


def test_boost_switched_off(tmp_path):
    plant(tmp_path, {f"{CPUS}/intel_pstate/no_turbo": 1})
    assert read_cpu(Tree(tmp_path)).boost is False
    plant(tmp_path / "acpi", {f"{CPUS}/cpufreq/boost": 0, f"{CPUS}/cpu0/cpufreq/boost": 1})
    assert read_cpu(Tree(tmp_path / "acpi")).boost is False


def test_virtual_machine_has_nominal_clocks_only(tmp_path):
    cpu = read_cpu(Tree(trees.virtual_machine(tmp_path)))
    assert [core.now_mhz for core in cpu.cores] == [2793.626, 2793.626]
    assert cpu.core(0).max_mhz is None
    assert (cpu.governors, cpu.boost, cpu.counters) == ((), None, {})
    assert cpu.virtual_machine


ARM = "processor\t: 0\nFeatures\t: fp asimd\n"
X86 = "processor\t: 0\nflags\t\t: fpu sse2"


@pytest.mark.parametrize(
    ("files", "virtual"),
    [
        # As QEMU and Firecracker, KVM on PowerPC, and Xen show themselves in a device tree.
        ({"proc/device-tree/compatible": b"linux,dummy-virt\0"}, True),
        ({"proc/device-tree/hypervisor/compatible": b"linux,kvm\0"}, True),
        ({"sys/hypervisor/type": "xen"}, True),
        ({"sys/class/dmi/id/product_name": "KVM Virtual Machine"}, True),
        ({"sys/class/dmi/id/sys_vendor": "QEMU"}, True),
        ({"sys/class/dmi/id/product_name": "Virtual Machine"}, True),  # Azure
        (
            {
                "sys/class/dmi/id/sys_vendor": "Amazon EC2",
                "sys/class/dmi/id/product_name": "c7g.large",
            },
            True,
        ),
        (
            {
                "sys/class/dmi/id/sys_vendor": "Amazon EC2",
                "sys/class/dmi/id/product_name": "c7g.metal",
            },
            None,
        ),
        ({"sys/class/dmi/id/product_name": "Mt. Jade"}, None),
        ({}, None),
        (
            {
                "proc/device-tree/model": b"NVIDIA Jetson Orin Nano\0",
                "proc/device-tree/compatible": b"nvidia,p3768\0nvidia,tegra234\0",
            },
            False,
        ),
    ],
)
def test_a_virtual_machine_on_arm_shows_in_its_tables(tmp_path, files, virtual):
    plant(tmp_path, {"proc/cpuinfo": ARM, **files})
    assert is_virtual(Tree(tmp_path)) is virtual
    assert read_cpu(Tree(tmp_path)).virtual_machine is virtual


def test_x86_says_itself_whether_it_is_virtual(tmp_path):
    # A cloud's own machine may bear its name.
    plant(tmp_path, {"proc/cpuinfo": X86, "sys/class/dmi/id/sys_vendor": "Amazon EC2"})
    assert is_virtual(Tree(tmp_path)) is False
    plant(tmp_path, {"proc/cpuinfo": f"{X86} hypervisor lm"})
    assert is_virtual(Tree(tmp_path)) is True


def test_clocks_of_arm(tmp_path):
    cpu = read_cpu(Tree(trees.orin_nano(tmp_path)))
    assert len(cpu.cores) == 6
    assert cpu.core(0).now_mhz == 1728


def test_a_measured_clock_goes_before_a_requested_one(tmp_path):
    trees.desktop_intel(tmp_path)
    plant(tmp_path, {f"{CPUS}/cpu0/cpufreq/cpuinfo_avg_freq": 3_100_000})
    cpu = read_cpu(Tree(tmp_path))
    assert cpu.core(0).now_mhz == 3100
    assert cpu.core(1).now_mhz == 4887.655


def test_processors_that_are_switched_off_are_left_out(tmp_path):
    trees.desktop_intel(tmp_path)
    plant(tmp_path, {f"{CPUS}/online": "0-1,4"})
    assert [core.number for core in read_cpu(Tree(tmp_path)).cores] == [0, 1, 4]


@pytest.mark.parametrize("clock", ["fast", "-5", "1e99", "nan", ""])
def test_a_clock_that_is_none(tmp_path, clock):
    plant(tmp_path, {"proc/cpuinfo": f"processor\t: 0\ncpu MHz\t\t: {clock}\n"})
    (core,) = read_cpu(Tree(tmp_path)).cores
    assert core.now_mhz is None


def test_the_core_that_was_kept_busy(tmp_path):
    plant(tmp_path, {"proc/thread-self/stat": trees.stat(core=3)})
    began = time.thread_time()
    assert keep_busy(Tree(tmp_path), 0.2) == 3
    # Busy, if only for its share of a busy machine, and not asleep.
    assert time.thread_time() - began > 0.01
    assert keep_busy(Tree(tmp_path / "none"), 0) is None


def test_a_thread_that_moved_says_nothing(tmp_path, monkeypatch):
    numbers = iter([3, 1])
    monkeypatch.setattr(cpu_module, "_own_core", lambda tree: next(numbers))
    assert keep_busy(Tree(tmp_path), 0) is None
