"""What the processor of these tests can do."""

from __future__ import annotations

import platform
from pathlib import Path


def saturating_int8() -> bool:
    """Whether libraries add up products of INT8 in 16 bits, which overflow.

    x86 processors have instructions for 32 bits only with VNNI or AMX. Networks suffer unequally;
    the runtime tries the bundle's own picture for that reason.
    """
    if platform.machine() not in ("x86_64", "AMD64"):
        return False
    try:
        flags = Path("/proc/cpuinfo").read_text("ascii", "replace").split()
    except OSError:
        return False
    return not {"avx512_vnni", "avx_vnni", "amx_int8"} & set(flags)
