"""psutil of a made-up machine: it cannot be pointed at another root folder."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest


class Psutil:
    """What tests of sensors see instead of this machine; attributes may be changed."""

    def __init__(self) -> None:
        self.mhz = 2400.0
        self.plugged: bool | None = None

    def cpu_freq(self) -> SimpleNamespace:
        return SimpleNamespace(current=self.mhz)

    def cpu_count(self, logical: bool = True) -> int:
        return 4 if logical else 2

    def sensors_battery(self) -> SimpleNamespace | None:
        return None if self.plugged is None else SimpleNamespace(power_plugged=self.plugged)


@pytest.fixture(autouse=True)
def psutil(monkeypatch) -> Psutil:
    stand_in = Psutil()
    monkeypatch.setitem(sys.modules, "psutil", stand_in)
    return stand_in
