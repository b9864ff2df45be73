"""Kernel folders of machines as they are found, below a folder of the test."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

CPUS = "sys/devices/system/cpu"
RAPL = "sys/class/powercap"


def plant(root: Path, files: Mapping[str, object]) -> Path:
    """Write files; a text ends in a line break, as in sysfs."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else f"{content}\n".encode())
    return root


def link(root: Path, name: str, target: str) -> None:
    """A symbolic link to another place of the tree, as everything in /sys/class is."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(root / target)


def desktop_intel(root: Path) -> Path:
    """A hybrid desktop: two performance cores of two threads each, two efficiency cores."""
    entries = []
    threads = [(0, "0-1", 4900), (4, "2-3", 5000)]
    cores = [threads[0], threads[0], threads[1], threads[1], (8, "4", 3800), (9, "5", 3800)]
    for cpu, (core, siblings, top) in enumerate(cores):
        folder = f"{CPUS}/cpu{cpu}"
        plant(
            root,
            {
                f"{folder}/cpufreq/scaling_driver": "intel_pstate",
                f"{folder}/cpufreq/scaling_governor": "performance",
                f"{folder}/cpufreq/scaling_cur_freq": top * 1000 - 12_345,
                f"{folder}/cpufreq/scaling_max_freq": top * 1000,
                f"{folder}/cpufreq/cpuinfo_min_freq": 800_000,
                f"{folder}/cpufreq/cpuinfo_max_freq": top * 1000,
                f"{folder}/cpufreq/energy_performance_preference": "performance",
                f"{folder}/topology/physical_package_id": 0,
                f"{folder}/topology/core_id": core,
                f"{folder}/topology/core_cpus_list": siblings,
                f"{folder}/thermal_throttle/core_throttle_count": 7,
                f"{folder}/thermal_throttle/core_throttle_total_time_ms": 100,
                f"{folder}/thermal_throttle/package_throttle_count": 9,
                f"{folder}/thermal_throttle/package_throttle_total_time_ms": 130,
            },
        )
        entries.append(
            f"processor\t: {cpu}\nmodel name\t: 12th Gen Intel(R) Core(TM) i5-12600K\n"
            f"cpu MHz\t\t: 4800.000\nphysical id\t: 0\ncore id\t\t: {core}\nflags\t\t: fpu avx2\n"
        )
    plant(
        root,
        {
            f"{CPUS}/online": "0-5",
            f"{CPUS}/smt/active": 1,
            f"{CPUS}/intel_pstate/no_turbo": 0,
            "sys/devices/cpu_core/cpus": "0-3",
            "sys/devices/cpu_atom/cpus": "4-5",
            "sys/devices/system/node/node0/cpulist": "0-5",
            "proc/cpuinfo": "\n".join(entries),
            "sys/class/thermal/thermal_zone0/type": "acpitz",
            "sys/class/thermal/thermal_zone0/temp": 27_800,
            "sys/class/thermal/thermal_zone1/type": "x86_pkg_temp",
            "sys/class/thermal/thermal_zone1/temp": 45_000,
            "sys/class/thermal/cooling_device0/type": "Processor",
            "sys/class/thermal/cooling_device0/cur_state": 0,
            "sys/class/thermal/cooling_device0/max_state": 10,
            "sys/class/thermal/cooling_device1/type": "intel_powerclamp",
            "sys/class/thermal/cooling_device1/cur_state": -1,
            "sys/class/thermal/cooling_device1/max_state": 50,
            "sys/class/thermal/cooling_device2/type": "Fan",
            "sys/class/thermal/cooling_device2/cur_state": 3,
            "sys/class/thermal/cooling_device2/max_state": 5,
            "sys/class/hwmon/hwmon0/name": "coretemp",
            "sys/class/hwmon/hwmon0/temp1_label": "Package id 0",
            "sys/class/hwmon/hwmon0/temp1_input": 46_000,
            "sys/class/hwmon/hwmon0/temp2_label": "Core 0",
            "sys/class/hwmon/hwmon0/temp2_input": 44_000,
            "sys/firmware/acpi/platform_profile": "balanced",
            f"{RAPL}/intel-rapl/enabled": 1,
            **zone(0, "package-0", 262_143_328_850, 1_000_000),
            **zone("0:0", "core", 262_143_328_850, 500_000),
            **zone("0:1", "uncore", 262_143_328_850, 90_000),
            **zone("0:2", "dram", 65_712_999_613, 200_000),
            **zone(1, "psys", 262_143_328_850, 4_000_000),
            f"{RAPL}/intel-rapl-mmio:0/name": "package-0",
            f"{RAPL}/intel-rapl-mmio:0/energy_uj": 1_000_000,
            f"{RAPL}/intel-rapl-mmio:0/max_energy_range_uj": 262_143_328_850,
        },
    )
    return root


def zone(number: object, name: str, limit: int, energy: int) -> dict[str, object]:
    """One RAPL zone."""
    folder = f"{RAPL}/intel-rapl:{number}"
    return {
        f"{folder}/name": name,
        f"{folder}/max_energy_range_uj": limit,
        f"{folder}/energy_uj": energy,
    }


def laptop_amd(root: Path) -> Path:
    """A laptop on its battery: no throttle counters, RAPL without memory."""
    for cpu in range(4):
        folder = f"{CPUS}/cpu{cpu}"
        plant(
            root,
            {
                f"{folder}/cpufreq/scaling_driver": "amd-pstate-epp",
                f"{folder}/cpufreq/scaling_governor": "powersave",
                f"{folder}/cpufreq/scaling_cur_freq": 1_397_000 + cpu,
                f"{folder}/cpufreq/scaling_max_freq": 4_800_000,
                f"{folder}/cpufreq/cpuinfo_min_freq": 400_000,
                f"{folder}/cpufreq/cpuinfo_max_freq": 4_800_000,
                f"{folder}/cpufreq/energy_performance_preference": "balance_performance",
                f"{folder}/cpufreq/boost": 1,
                f"{folder}/topology/physical_package_id": 0,
                f"{folder}/topology/thread_siblings_list": f"{cpu % 2},{cpu % 2 + 2}",
            },
        )
    entries = [f"processor\t: {cpu}\nflags\t\t: fpu avx2 constant_tsc\n" for cpu in range(4)]
    return plant(
        root,
        {
            f"{CPUS}/online": "0-3",
            f"{CPUS}/smt/active": 1,
            "proc/cpuinfo": "\n".join(entries),
            "sys/class/hwmon/hwmon2/name": "k10temp",
            "sys/class/hwmon/hwmon2/temp1_label": "Tctl",
            "sys/class/hwmon/hwmon2/temp1_input": 61_375,
            "sys/class/thermal/cooling_device0/type": "Processor",
            "sys/class/thermal/cooling_device0/cur_state": 0,
            "sys/class/thermal/cooling_device0/max_state": 3,
            "sys/firmware/acpi/platform_profile": "low-power",
            **zone(0, "package-0", 65_532_610_987, 65_532_000_000),
            **zone("0:0", "core", 65_532_610_987, 123),
        },
    )


ORIN_ANSWER = "NV Power Mode: MAXN_SUPER\n2\n"


def orin_nano(root: Path) -> Path:
    """A Jetson Orin Nano with JetPack 6, clocks fixed by jetson_clocks."""
    for cpu in range(6):
        folder = f"{CPUS}/cpu{cpu}"
        plant(
            root,
            {
                f"{folder}/cpufreq/scaling_driver": "tegra194",
                f"{folder}/cpufreq/scaling_governor": "schedutil",
                f"{folder}/cpufreq/scaling_cur_freq": 1_728_000,
                f"{folder}/cpufreq/scaling_max_freq": 1_728_000,
                f"{folder}/cpufreq/cpuinfo_min_freq": 115_200,
                f"{folder}/cpufreq/cpuinfo_max_freq": 1_728_000,
                f"{folder}/cpu_capacity": 1024,
                f"{folder}/topology/core_cpus_list": cpu,
            },
        )
    zones = ["cpu", "gpu", "cv0", "cv1", "cv2", "soc0", "soc1", "soc2", "tj"]
    for number, name in enumerate(zones):
        folder = f"sys/class/thermal/thermal_zone{number}"
        plant(root, {f"{folder}/type": f"{name}-thermal"})
        if name.startswith("cv"):
            # Switched off: reading fails with EAGAIN.
            (root / folder / "temp").mkdir()
        else:
            plant(root, {f"{folder}/temp": 50_000 + number})
    devices = ["cpufreq-cpu0", "cpufreq-cpu4", "pwm-fan", "cpu-throttle-alert"]
    for number, name in enumerate([*devices, "gpu-throttle-alert", "devfreq-17000000.gpu"]):
        folder = f"sys/class/thermal/cooling_device{number}"
        state = 2 if name == "pwm-fan" else 0
        plant(
            root,
            {f"{folder}/type": name, f"{folder}/cur_state": state, f"{folder}/max_state": 3},
        )
    sensor = "sys/devices/platform/bus@0/c240000.i2c/i2c-1/1-0040"
    plant(
        root,
        {
            f"{sensor}/name": "ina3221",
            f"{sensor}/hwmon/hwmon1/name": "ina3221",
            f"{sensor}/hwmon/hwmon1/in1_label": "VDD_IN",
            f"{sensor}/hwmon/hwmon1/in1_input": 4968,
            f"{sensor}/hwmon/hwmon1/curr1_input": 2000,
            f"{sensor}/hwmon/hwmon1/in2_label": "VDD_CPU_GPU_CV",
            f"{sensor}/hwmon/hwmon1/in2_input": 4960,
            f"{sensor}/hwmon/hwmon1/curr2_input": 700,
            f"{sensor}/hwmon/hwmon1/in3_label": "VDD_SOC",
            f"{sensor}/hwmon/hwmon1/in3_input": 4960,
            f"{sensor}/hwmon/hwmon1/curr3_input": 400,
            f"{sensor}/hwmon/hwmon1/in7_label": "sum of shunt voltages",
            f"{sensor}/hwmon/hwmon1/in7_input": 760,
            "sys/class/hwmon/hwmon3/name": "soctherm_oc",
            **{
                f"sys/class/hwmon/hwmon3/oc{n}_event_cnt": count
                for n, count in {1: 0, 2: 0, 3: 14}.items()
            },
            **{f"sys/class/hwmon/hwmon3/oc{n}_throt_en": 1 for n in (1, 2, 3)},
            "sys/class/devfreq/17000000.gpu/cur_freq": 1_020_000_000,
            "sys/class/devfreq/17000000.gpu/min_freq": 1_020_000_000,
            "sys/class/devfreq/17000000.gpu/max_freq": 1_020_000_000,
            "sys/class/devfreq/17000000.gpu/governor": "nvhost_podgov",
            f"{CPUS}/online": "0-5",
            "proc/cpuinfo": "\n".join(
                f"processor\t: {cpu}\nBogoMIPS\t: 62.50\nFeatures\t: fp asimd\n" for cpu in range(6)
            ),
            "proc/device-tree/model": b"NVIDIA Jetson Orin Nano Developer Kit\0",
            "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3",
        },
    )
    link(root, "sys/class/hwmon/hwmon1", f"{sensor}/hwmon/hwmon1")
    answer_with(root, ORIN_ANSWER)
    return root


def answer_with(root: Path, text: str, *, exit_code: int = 0, seconds: float = 0) -> None:
    """A tool in nvpmodel's place."""
    plant(
        root,
        {
            "usr/sbin/nvpmodel": (
                f'#!/bin/sh\n[ "$*" = -q ] || exit 9\nsleep {seconds}\n'
                f"printf '%s' '{text}'\nexit {exit_code}"
            )
        },
    )
    (root / "usr/sbin/nvpmodel").chmod(0o755)


def agx_orin(root: Path) -> Path:
    """A Jetson AGX Orin: two sensors, no rail of the whole module."""
    rails = {
        "hwmon3": {1: "VDD_GPU_SOC", 2: "VDD_CPU_CV", 3: "VIN_SYS_5V0"},
        "hwmon4": {1: "NC", 2: "VDDQ_VDD2_1V8AO", 3: "NC"},
    }
    plant(root, {"etc/nv_tegra_release": "# R36 (release), REVISION: 3.0"})
    for folder, labels in rails.items():
        for number, label in labels.items():
            path = f"sys/class/hwmon/{folder}"
            plant(root, {f"{path}/name": "ina3221"})
            plant(
                root,
                {
                    f"{path}/in{number}_label": label,
                    f"{path}/in{number}_input": 5000,
                    f"{path}/curr{number}_input": 1000 * number,
                },
            )
    return root


def virtual_machine(root: Path) -> Path:
    """A machine in the cloud: two cores, no sensor of any kind."""
    flags = "fpu vme sse2 avx512f hypervisor lahf_lm"
    entries = [
        f"processor\t: {cpu}\nmodel name\t: Intel(R) Xeon(R) Processor @ 2.80GHz\n"
        f"cpu MHz\t\t: 2793.626\nphysical id\t: 0\ncore id\t\t: {cpu}\nflags\t\t: {flags}\n"
        for cpu in range(2)
    ]
    return plant(
        root,
        {
            f"{CPUS}/online": "0-1",
            f"{CPUS}/smt/active": 0,
            "proc/cpuinfo": "\n".join(entries),
        },
    )


def files_of(root: Path) -> list[Path]:
    """All files of a tree but the tools."""
    found = [path for path in root.rglob("*") if path.is_file() and not path.is_symlink()]
    return [path for path in found if not re.search(r"/usr/sbin/", str(path))]
