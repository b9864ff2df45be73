"""Both runtimes prefer the same pairs of backend and precision."""

from __future__ import annotations

import re
from pathlib import Path

from elir_deploy.runtime.backends import _AUTOMATIC
from elir_deploy.runtime.opening import _ENOUGH_DB, _TOLERATED_DB

SOURCES = Path(__file__).parents[2] / "runtime" / "src"


def test_the_order_of_auto() -> None:
    source = (SOURCES / "choice.cpp").read_text("utf-8")
    table = source[source.index("kAutomatic[] = {") : source.index("};")]
    order = re.findall(r'\{"([\w-]+)", "(\w+)"\}', table)
    # ONNX Runtime on CUDA is not in the C++ runtime.
    assert order == [pair for pair in _AUTOMATIC if pair[0] != "onnxruntime-cuda"]


def test_what_a_trial_tolerates() -> None:
    source = (SOURCES / "opening.cpp").read_text("utf-8")
    constants = dict(re.findall(r"constexpr double (k\w+) = ([\d.]+);", source))
    assert {name: float(value) for name, value in constants.items()} == {
        "kToleratedDb": _TOLERATED_DB,
        "kEnoughDb": _ENOUGH_DB,
    }
