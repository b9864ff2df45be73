"""The processor: its clocks, what sets them, and what the kernel counted of its throttling."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from elir_deploy.bench.sensors.files import Tree, cpu_list, whole

__all__ = ["SPIN_SECONDS", "Core", "CpuState", "is_virtual", "is_x86", "keep_busy", "read_cpu"]

#: How long a core is kept busy before its clock is read. Kernels average it over a tick or less
#: (10 ms at most), and governors raise an idle core's clock within some ticks.
SPIN_SECONDS = 0.05
_CPUS = "sys/devices/system/cpu"
#: What the kernel counts of Intel's throttling, one file for each logical processor
#: (Documentation/admin-guide/thermal/intel_thermal_throttle.rst). The power limit's are there
#: with the boot option int_pln_enable only (drivers/thermal/intel/therm_throt.c).
_COUNTERS = (
    "core_throttle_count",
    "core_throttle_total_time_ms",
    "core_power_limit_count",
    "package_throttle_count",
    "package_throttle_total_time_ms",
    "package_power_limit_count",
)
#: Where firmware names the machine; the product first.
_DMI = ("product_name", "sys_vendor", "board_vendor", "bios_vendor", "product_version")
#: How names begin that hypervisors and clouds give, as in systemd's detect-virt.
_HYPERVISORS = (
    *("KVM", "QEMU", "Bochs", "VMware", "VMW", "VirtualBox", "innotek GmbH", "Xen", "Parallels"),
    *("BHYVE", "Hyper-V", "Virtual Machine", "Apple Virtualization", "OpenStack", "KubeVirt"),
    *("Amazon EC2", "Google Compute Engine"),
)
#: The board that QEMU and others make up on ARM.
_MADE_UP_BOARD = "linux,dummy-virt"


@dataclass(frozen=True)
class Core:
    """One logical processor; None where the system does not tell.

    Attributes:
        number: the kernel's.
        now_mhz: clock at the moment; in a virtual machine and of an idle core it says little.
        min_mhz: the hardware's lowest.
        max_mhz: the hardware's highest, boost included where the driver knows it.
        limit_mhz: the highest allowed at present, by a setting or by heat: passive cooling lowers
            it (freq_qos in drivers/thermal/cpufreq_cooling.c).
        governor: what chooses the clock.
        preference: the energy-performance preference that the hardware is given.
    """

    number: int
    now_mhz: float | None
    min_mhz: float | None
    max_mhz: float | None
    limit_mhz: float | None
    governor: str | None
    preference: str | None


@dataclass(frozen=True)
class CpuState:
    """The processor at one moment; None where the system does not tell.

    Attributes:
        cores: every logical processor that is online.
        driver: of the clocks, such as ``intel_pstate``, ``amd-pstate-epp`` or ``acpi-cpufreq``.
        boost: whether clocks above the base are allowed (turbo).
        smt_active: whether physical cores run more than one thread.
        virtual_machine: of :func:`is_virtual`. Its clocks are then nominal and throttling shows
            in no file.
        busy_core: the core kept busy before the clocks were read; None where none was.
        counters: events, and milliseconds, that the kernel has counted since it started. Those of
            cores are added up over physical cores, those of packages over packages.
    """

    cores: tuple[Core, ...]
    driver: str | None
    boost: bool | None
    smt_active: bool | None
    virtual_machine: bool | None
    busy_core: int | None
    counters: Mapping[str, int]

    @property
    def governors(self) -> tuple[str, ...]:
        """Those in use."""
        return tuple(sorted({core.governor for core in self.cores if core.governor}))

    @property
    def preferences(self) -> tuple[str, ...]:
        """Those in use."""
        return tuple(sorted({core.preference for core in self.cores if core.preference}))

    def core(self, number: int | None) -> Core | None:
        """That of a number."""
        return next((core for core in self.cores if core.number == number), None)


def keep_busy(tree: Tree, seconds: float) -> int | None:
    """Keep the calling thread's core busy, so that its clock means something.

    Returns:
        the core; None where the system does not tell, or the thread moved to another meanwhile.
    """
    before = _own_core(tree)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass
    after = _own_core(tree)
    return after if before == after else None


def read_cpu(tree: Tree, busy_core: int | None = None) -> CpuState:
    """Everything in :class:`CpuState`: some fifteen files a core."""
    entries = _cpuinfo(tree.text("proc/cpuinfo") or "")
    # The busy core first: reading the others takes time, in which its clock may change.
    cores = {
        number: _core(tree, number, entries.get(number, {}))
        for number in sorted(_online(tree, entries), key=lambda n: (n != busy_core, n))
    }
    return CpuState(
        cores=tuple(cores[number] for number in sorted(cores)),
        driver=tree.text(f"{_CPUS}/cpu0/cpufreq/scaling_driver"),
        boost=_boost(tree),
        smt_active=tree.flag(f"{_CPUS}/smt/active"),
        virtual_machine=_virtual(tree, entries),
        busy_core=busy_core,
        counters=_counters(tree, cores),
    )


def is_x86(tree: Tree) -> bool:
    """Whether the processor is of Intel's and AMD's kind."""
    return _x86_flags(_cpuinfo(tree.text("proc/cpuinfo") or "")) is not None


def is_virtual(tree: Tree) -> bool | None:
    """Whether a hypervisor is below the kernel; None where nothing tells.

    Processors of x86 say so themselves. Elsewhere a hypervisor has to show in the tables that it
    hands to the kernel, and may have chosen any name for them: that none is known there means
    something only where they name a board.
    """
    return _virtual(tree, _cpuinfo(tree.text("proc/cpuinfo") or ""))


def _virtual(tree: Tree, entries: Mapping[int, Mapping[str, str]]) -> bool | None:
    flags = _x86_flags(entries)
    if "hypervisor" in (flags or ()) or tree.text("sys/hypervisor/type") is not None:
        return True
    if flags is not None:
        return False
    if tree.exists("proc/device-tree/hypervisor") or _names_a_hypervisor(tree):
        return True
    return None if tree.text("proc/device-tree/model") is None else False


def _x86_flags(entries: Mapping[int, Mapping[str, str]]) -> list[str] | None:
    return next((entry["flags"].split() for entry in entries.values() if "flags" in entry), None)


def _names_a_hypervisor(tree: Tree) -> bool:
    """Whether one of the machine's names is a hypervisor's, in the device tree or in DMI."""
    compatible = (tree.text("proc/device-tree/compatible") or "").split("\0")
    if _MADE_UP_BOARD in compatible:
        return True
    names = [tree.text(f"sys/class/dmi/id/{entry}") or "" for entry in _DMI]
    # A cloud's own machines bear its name too.
    return any(name.startswith(_HYPERVISORS) for name in names) and ".metal" not in names[0]


def _core(tree: Tree, number: int, entry: Mapping[str, str]) -> Core:
    folder = f"{_CPUS}/cpu{number}/cpufreq"
    # Measured where there is cpuinfo_avg_freq, which not all systems have; scaling_cur_freq may
    # be what was asked for (Documentation/admin-guide/pm/cpufreq.rst).
    now = tree.scaled(f"{folder}/cpuinfo_avg_freq", 1e-3)
    if now is None:
        now = tree.scaled(f"{folder}/scaling_cur_freq", 1e-3)
    return Core(
        number=number,
        now_mhz=_megahertz(entry.get("cpu MHz")) if now is None else now,
        min_mhz=tree.scaled(f"{folder}/cpuinfo_min_freq", 1e-3),
        max_mhz=tree.scaled(f"{folder}/cpuinfo_max_freq", 1e-3),
        limit_mhz=tree.scaled(f"{folder}/scaling_max_freq", 1e-3),
        governor=tree.text(f"{folder}/scaling_governor"),
        preference=tree.text(f"{folder}/energy_performance_preference"),
    )


def _online(tree: Tree, entries: Mapping[int, object]) -> tuple[int, ...]:
    return cpu_list(tree.text(f"{_CPUS}/online")) or tuple(entries)


def _boost(tree: Tree) -> bool | None:
    no_turbo = tree.flag(f"{_CPUS}/intel_pstate/no_turbo")
    if no_turbo is not None:
        return not no_turbo
    # One switch for all, or one for each policy (amd-pstate).
    common = tree.flag(f"{_CPUS}/cpufreq/boost")
    return tree.flag(f"{_CPUS}/cpu0/cpufreq/boost") if common is None else common


def _counters(tree: Tree, cores: Mapping[int, object]) -> dict[str, int]:
    """Every logical processor counts an event of what it is part of: the highest stands for all."""
    highest: dict[str, dict[object, int]] = defaultdict(dict)
    for number in cores:
        folder = f"{_CPUS}/cpu{number}"
        package = tree.text(f"{folder}/topology/physical_package_id")
        # The older name of the same file is thread_siblings_list.
        core = tree.text(f"{folder}/topology/core_cpus_list") or tree.text(
            f"{folder}/topology/thread_siblings_list"
        )
        for name in _COUNTERS:
            count = tree.integer(f"{folder}/thermal_throttle/{name}")
            if count is not None and count >= 0:
                part = package if name.startswith("package") else core or number
                highest[name][part] = max(count, highest[name].get(part, 0))
    return {name: sum(highest[name].values()) for name in _COUNTERS if name in highest}


def _cpuinfo(text: str) -> dict[int, dict[str, str]]:
    entries = {}
    for block in text.split("\n\n"):
        pairs = (line.partition(":") for line in block.splitlines())
        entry = {name.strip(): value.strip() for name, _, value in pairs}
        number = whole(entry.get("processor"))
        if number is not None:
            entries[number] = entry
    return entries


def _megahertz(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if 0 < value < 1e5 else None


def _own_core(tree: Tree) -> int | None:
    """Field 39 of proc_pid_stat(5); the second, in parentheses, may hold spaces."""
    fields = (tree.text(Path("proc/thread-self/stat")) or "").rpartition(")")[2].split()
    return whole(fields[36]) if len(fields) > 36 else None
