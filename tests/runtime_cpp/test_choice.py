"""Both runtimes believe the same results of a trial."""

from __future__ import annotations

import re
from pathlib import Path

from elir_deploy.runtime.opening import _ENOUGH_DB, _TOLERATED_DB

SOURCES = Path(__file__).parents[2] / "runtime" / "src"


def test_what_a_trial_tolerates() -> None:
    source = (SOURCES / "opening.cpp").read_text("utf-8")
    constants = dict(re.findall(r"constexpr double (k\w+) = ([\d.]+);", source))
    assert {name: float(value) for name, value in constants.items()} == {
        "kToleratedDb": _TOLERATED_DB,
        "kEnoughDb": _ENOUGH_DB,
    }
