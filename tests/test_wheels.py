"""The machines that the guides name get wheels of everything, by pip from its package index."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
CONSTRAINTS = ROOT / "exporters" / "jetpack6" / "constraints.txt"
WINDOWS = ("win_amd64",)
#: JetPack 6 is Ubuntu 22.04, with glibc 2.35.
JETPACK6 = ("manylinux2014_aarch64", *(f"manylinux_2_{n}_aarch64" for n in range(17, 36)))
DRY_RUN = ("install", "--quiet", "--dry-run", "--ignore-installed")

pytestmark = pytest.mark.slow


def pip(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


@functools.cache
def index_is_there() -> bool:
    """Whether pip reaches an index, which has pip itself."""
    return pip(*DRY_RUN, "--no-deps", "pip").returncode == 0


def resolved(
    tmp_path: Path, extras: list[str], python: str, platforms: tuple[str, ...], *more: str
) -> dict[str, str]:
    """Versions that pip takes for this package's requirements with ``extras``, wheels alone.

    pip evaluates the markers of what these require on this machine.
    """
    tomllib = pytest.importorskip("tomllib")
    if not index_is_there():
        pytest.skip("pip reaches no package index")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    asked = [*project["dependencies"]]
    asked += [line for extra in extras for line in project["optional-dependencies"][extra]]
    machine = {
        "python_version": python,
        "platform_machine": "AMD64" if platforms == WINDOWS else "aarch64",
        "sys_platform": "win32" if platforms == WINDOWS else "linux",
    }
    requirements = map(Requirement, asked)
    wanted = [r for r in requirements if r.marker is None or r.marker.evaluate(machine)]
    report = tmp_path / "report.json"
    done = pip(
        *(*DRY_RUN, "--only-binary=:all:", "--target", str(tmp_path)),
        *("--report", str(report), "--python-version", python),
        *(f"--platform={platform}" for platform in platforms),
        *more,
        *(f"{r.name}{r.specifier}" for r in wanted),
    )
    assert done.returncode == 0, done.stderr
    installed = json.loads(report.read_text("utf-8"))["install"]
    found = {i["metadata"]["name"].lower().replace("_", "-"): i for i in installed}
    assert {r.name for r in wanted} <= set(found)
    return {name: str(item["metadata"]["version"]) for name, item in found.items()}


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12", "3.13"])
def test_windows(tmp_path: Path, python: str) -> None:
    extras = ["cpu", "openvino", "tensorrt-rtx", "report", "sensors"]
    versions = resolved(tmp_path, extras, python, WINDOWS)
    libraries, bindings = (versions[f"tensorrt-rtx-cu12-{part}"] for part in ("libs", "bindings"))
    assert libraries == bindings


def test_exporting_on_windows(tmp_path: Path) -> None:
    """Without dependencies: those of PyTorch for Linux are markers that pip evaluates here."""
    assert "torch" in resolved(tmp_path, ["export", "cpu"], "3.12", WINDOWS, "--no-deps")


def test_jetpack6(tmp_path: Path) -> None:
    """What the constraints name is what pip takes, and the last that it takes."""
    lines = CONSTRAINTS.read_text("utf-8").splitlines()
    constraints = dict(line.split("==") for line in lines if not line.startswith("#"))
    extras = ["cpu", "openvino", "report", "sensors", "tensorrt"]
    constrained = resolved(tmp_path, extras, "3.10", JETPACK6, "--constraint", str(CONSTRAINTS))
    of_cuda = {"cuda-python", "cuda-bindings", "cuda-pathfinder"}
    assert {n: v for n, v in constrained.items() if n not in of_cuda} == constraints
    # For 3.10 these projects have made their last release: newer ones need a newer Python.
    last = resolved(tmp_path, extras, "3.10", JETPACK6)
    ended = {name: last[name] for name in ("onnxruntime", "numpy", "pillow")}
    assert ended == {"onnxruntime": "1.23.2", "numpy": "2.2.6", "pillow": "12.3.0"}
    assert {name: constraints[name] for name in ended} == ended | {"numpy": "1.26.4"}
