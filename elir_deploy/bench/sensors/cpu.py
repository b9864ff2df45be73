"""The processor and its settings."""

from __future__ import annotations

from dataclasses import dataclass

from elir_deploy.bench.sensors.files import Tree, cpu_list, query_psutil, whole_number

__all__ = ["CPUS", "Core", "CpuState", "cpu_entries", "is_virtual", "read_cpu", "x86_flags"]

CPUS = "sys/devices/system/cpu"
#: How vendor and product names in DMI begin on hypervisors and in clouds, as in detect-virt.
_DMI = ("product_name", "sys_vendor", "board_vendor", "bios_vendor", "product_version")
_HYPERVISORS = (
    *("KVM", "QEMU", "Bochs", "VMware", "VMW", "VirtualBox", "innotek GmbH", "Xen", "Parallels"),
    *("BHYVE", "Hyper-V", "Virtual Machine", "Apple Virtualization", "OpenStack", "KubeVirt"),
    *("Amazon EC2", "Google Compute Engine"),
)


@dataclass(frozen=True)
class Core:
    """A logical core; psutil lists clock policies, which several cores may share.

    Attributes:
        limit_mhz: the highest clock allowed at present; settings and passive cooling lower it.
        preference: the energy-performance preference.
    """

    number: int
    limit_mhz: float | None
    governor: str | None
    preference: str | None


@dataclass(frozen=True)
class CpuState:
    """The processor at one moment, and its cores online.

    Attributes:
        mhz: mean clock of all cores, by psutil; nominal in a virtual machine.
        boost: whether clocks above the base clock are allowed.
        smt_active: whether physical cores run more than one thread.
    """

    cores: tuple[Core, ...]
    mhz: float | None
    boost: bool | None
    smt_active: bool | None

    @property
    def governors(self) -> str | None:
        """The governors in use."""
        return ", ".join(sorted({c.governor for c in self.cores if c.governor})) or None

    @property
    def preferences(self) -> str | None:
        """The energy-performance preferences in use."""
        return ", ".join(sorted({c.preference for c in self.cores if c.preference})) or None


def read_cpu(tree: Tree) -> CpuState:
    """The processor's state."""
    no_turbo = tree.flag(f"{CPUS}/intel_pstate/no_turbo")
    # One switch for all cores, or one for each policy (amd-pstate).
    switches = (tree.flag(f"{CPUS}/{part}/boost") for part in ("cpufreq", "cpu0/cpufreq"))
    boost = next((on for on in switches if on is not None), None)
    return CpuState(
        cores=tuple(
            Core(
                number=number,
                limit_mhz=tree.scaled(f"{CPUS}/cpu{number}/cpufreq/scaling_max_freq", 1e-3),
                governor=tree.text(f"{CPUS}/cpu{number}/cpufreq/scaling_governor"),
                preference=tree.text(f"{CPUS}/cpu{number}/cpufreq/energy_performance_preference"),
            )
            for number in cpu_list(tree.text(f"{CPUS}/online"))
        ),
        mhz=round(getattr(query_psutil("cpu_freq"), "current", 0.0), 1) or None,
        boost=boost if no_turbo is None else not no_turbo,
        smt_active=tree.flag(f"{CPUS}/smt/active"),
    )


def cpu_entries(tree: Tree) -> list[dict[str, str]]:
    """The entries of /proc/cpuinfo, one for each logical core."""
    entries = []
    for block in (tree.text("proc/cpuinfo") or "").split("\n\n"):
        pairs = (line.partition(":") for line in block.splitlines())
        entry = {name.strip(): value.strip() for name, _, value in pairs}
        if whole_number(entry.get("processor")) is not None:
            entries.append(entry)
    return entries


def x86_flags(tree: Tree) -> list[str] | None:
    """Features of an x86 processor; None for others."""
    return next((e["flags"].split() for e in cpu_entries(tree) if "flags" in e), None)


def is_virtual(tree: Tree) -> bool | None:
    """Whether a hypervisor runs below the kernel; None if unknown.

    x86 processors tell. Elsewhere the hypervisor's name may be in the firmware's tables; that no
    known name is there counts only if they name a board.
    """
    flags = x86_flags(tree)
    if "hypervisor" in (flags or ()) or tree.text("sys/hypervisor/type") is not None:
        return True
    if flags is not None:
        return False
    board = (tree.text("proc/device-tree/compatible") or "").split("\0")
    if tree.exists("proc/device-tree/hypervisor") or "linux,dummy-virt" in board:
        return True
    names = [tree.text(f"sys/class/dmi/id/{entry}") or "" for entry in _DMI]
    # Bare-metal instances of clouds have the cloud's name too.
    if any(name.startswith(_HYPERVISORS) for name in names) and ".metal" not in names[0]:
        return True
    return None if tree.text("proc/device-tree/model") is None else False
