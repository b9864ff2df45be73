"""Which cuda-python the extras let pip take, by the machine that they are installed on."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
JETPACK6 = {"python_version": "3.10", "platform_machine": "aarch64"}
JETPACK7 = {"python_version": "3.12", "platform_machine": "aarch64"}
PC = {"python_version": "3.10", "platform_machine": "x86_64"}
NEWER_PC = {"python_version": "3.13", "platform_machine": "x86_64"}
#: Of CUDA 12, the newest of it, and the oldest that PyTorch 2.13 can stand beside.
CUDA_12, LAST_OF_12, CUDA_13 = "12.2.1", "12.9.10", "13.0.3"


def cuda_python(extra: str, machine: dict[str, str]) -> Requirement:
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    asked = [Requirement(text) for text in project["optional-dependencies"][extra]]
    (found,) = [
        asking
        for asking in asked
        if asking.name == "cuda-python" and (not asking.marker or asking.marker.evaluate(machine))
    ]
    return found


@pytest.mark.parametrize(
    ("extra", "machine", "cuda_13"),
    [
        ("tensorrt", JETPACK6, False),
        ("tensorrt", JETPACK7, True),
        ("tensorrt", PC, True),
        ("tensorrt", NEWER_PC, True),
        ("tensorrt-rtx", PC, True),
        ("tensorrt-rtx", NEWER_PC, True),
        ("gpu", PC, True),
        ("gpu", NEWER_PC, True),
    ],
)
def test_a_driver_is_met_by_its_cuda(extra: str, machine: dict[str, str], cuda_13: bool) -> None:
    allowed = cuda_python(extra, machine).specifier
    assert CUDA_12 in allowed
    assert LAST_OF_12 in allowed
    assert (CUDA_13 in allowed) == cuda_13
    assert "14.0.0" not in allowed, "which nobody has tried"


@pytest.mark.parametrize(("folder", "machine"), [("jetpack6", JETPACK6), ("jetpack7", JETPACK7)])
def test_what_the_guides_say_to_install_is_allowed(folder: str, machine: dict[str, str]) -> None:
    text = (ROOT / "exporters" / folder / "README.md").read_text("utf-8")
    told = set(re.findall(r"cuda-python~=([\d.]+)", text))
    assert told
    assert all(version in cuda_python("tensorrt", machine).specifier for version in told)
