"""The processor's settings and clocks."""

from __future__ import annotations

import pytest

from elir_deploy.bench.sensors.cpu import Core, is_virtual, read_cpu
from elir_deploy.bench.sensors.files import Tree
from tests.bench.sensors import trees
from tests.bench.sensors.trees import CPUS, plant


def test_desktop(tmp_path):
    cpu = read_cpu(Tree(trees.desktop_intel(tmp_path)))
    assert [core.number for core in cpu.cores] == [0, 1, 2, 3, 4, 5]
    assert cpu.cores[2] == Core(2, 5000, "performance", "performance")
    assert (cpu.governors, cpu.preferences) == ("performance", "performance")
    assert (cpu.boost, cpu.smt_active) == (True, True)
    assert cpu.mhz == 2400


def test_laptop(tmp_path):
    trees.laptop_amd(tmp_path)
    plant(tmp_path, {f"{CPUS}/cpu1/cpufreq/scaling_governor": "performance"})
    cpu = read_cpu(Tree(tmp_path))
    assert cpu.boost is True
    assert (cpu.governors, cpu.preferences) == ("performance, powersave", "balance_performance")


def test_boost_switched_off(tmp_path):
    plant(tmp_path, {f"{CPUS}/intel_pstate/no_turbo": 1})
    assert read_cpu(Tree(tmp_path)).boost is False
    plant(tmp_path / "acpi", {f"{CPUS}/cpufreq/boost": 0, f"{CPUS}/cpu0/cpufreq/boost": 1})
    assert read_cpu(Tree(tmp_path / "acpi")).boost is False


def test_a_virtual_machine_has_nothing_to_set(tmp_path):
    cpu = read_cpu(Tree(trees.virtual_machine(tmp_path)))
    assert (cpu.governors, cpu.preferences, cpu.boost) == (None, None, None)


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


def test_x86_says_itself_whether_it_is_virtual(tmp_path):
    # A bare-metal machine of a cloud may bear the cloud's name.
    plant(tmp_path, {"proc/cpuinfo": X86, "sys/class/dmi/id/sys_vendor": "Amazon EC2"})
    assert is_virtual(Tree(tmp_path)) is False
    plant(tmp_path, {"proc/cpuinfo": f"{X86} hypervisor lm"})
    assert is_virtual(Tree(tmp_path)) is True


def test_processors_that_are_switched_off_are_left_out(tmp_path):
    trees.desktop_intel(tmp_path)
    plant(tmp_path, {f"{CPUS}/online": "0-1,4"})
    assert [core.number for core in read_cpu(Tree(tmp_path)).cores] == [0, 1, 4]


def test_a_clock_that_is_unknown(tmp_path, psutil):
    psutil.mhz = 0.0
    assert read_cpu(Tree(tmp_path)).mhz is None
