"""Both runtimes have the same limits for the accuracy check."""

from __future__ import annotations

import re
from pathlib import Path

from elir_deploy.runtime.opening import _ENOUGH_DB, _TOLERATED_DB

SOURCES = Path(__file__).parents[2] / "runtime" / "src"


def test_limits_of_the_accuracy_check() -> None:
    source = (SOURCES / "opening.cpp").read_text("utf-8")
    constants = dict(re.findall(r"constexpr double (k\w+) = ([\d.]+);", source))
    assert {name: float(value) for name, value in constants.items()} == {
        "kToleratedDb": _TOLERATED_DB,
        "kEnoughDb": _ENOUGH_DB,
    }
