"""Energy of x86 processors: RAPL (running average power limit), Intel's and AMD's.

The kernel's powercap folders (Documentation/power/powercap/powercap.rst) hold a counter for each
package and, inside it, for parts of it and for the memory it controls.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from elir_deploy.bench.sensors.files import Tree

__all__ = ["RaplZone", "find_zones"]

_FOLDER = "sys/class/powercap"
#: Only root reads the counters since 2020, because secrets can be guessed from them (PLATYPUS,
#: CVE-2020-8694).
_ALLOW = f"sudo chmod a+r /{_FOLDER}/intel-rapl:*/energy_uj"


@dataclass(frozen=True)
class RaplZone:
    """One counter.

    Attributes:
        name: such as ``package-0`` or ``package-0 dram``.
        read: gives microjoules; None where it failed.
        wraps_at: what the counter counts to before it begins anew; None where unknown.
    """

    name: str
    read: Callable[[], int | None]
    wraps_at: int | None


def find_zones(tree: Tree) -> tuple[tuple[RaplZone, ...], str | None]:
    """The zones that add up to all packages and their memory, none of them twice.

    That is every ``package-N``, without the cores and the graphics in it, and its ``dram``, which
    is beside it. Not ``psys``: it is the whole platform, packages included, and means different
    things on different boards. Not ``intel-rapl-mmio``: it is package-0 again.

    Returns:
        the zones, and why there is none or one is missing.
    """
    chosen, missing = [], []
    for folder in tree.match(f"{_FOLDER}/intel-rapl:*"):
        name = _wanted(tree, folder)
        if name is None:
            continue
        file = folder / "energy_uj"
        if tree.integer(file) is not None:
            limit = tree.integer(folder / "max_energy_range_uj")
            wraps_at = limit if limit is not None and limit > 0 else None
            chosen.append(RaplZone(name, partial(tree.integer, file), wraps_at))
        elif tree.denied(file):
            missing.append(f"{name} can be read by root only; until the next start, {_ALLOW}")
        else:
            missing.append(f"{name} cannot be read")
    if any(re.fullmatch(r"package-.*\S", zone.name) for zone in chosen) or missing:
        return tuple(chosen), f"RAPL: {missing[0]}" if missing else None
    return (), f"RAPL: /{_FOLDER} has no package"


def _wanted(tree: Tree, folder: Path) -> str | None:
    """What a zone is called, of those that count."""
    if re.fullmatch(r"intel-rapl:[0-9]+", folder.name):
        name = tree.text(folder / "name") or ""
        return name if name.startswith("package") else None
    inside = re.fullmatch(r"(intel-rapl:[0-9]+):[0-9]+", folder.name)
    if inside is None or tree.text(folder / "name") != "dram":
        return None
    package = tree.text(f"{_FOLDER}/{inside[1]}/name") or ""
    return f"{package} dram" if package.startswith("package") else None
