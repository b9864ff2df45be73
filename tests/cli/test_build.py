"""elir-build as a user runs it: exit codes, what it says and what it leaves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from elir_deploy.runtime.bundle import Bundle
from elir_deploy.runtime.tensorrt_engine import Library
from tests.bundles import make_bundle
from tests.export.tensorrt.stand_in import DataType, StandIn


def run(*arguments: object, script: str = "") -> subprocess.CompletedProcess[str]:
    """With ``script`` run before it, to change what is installed."""
    code = f"import sys\n{script}\nfrom elir_deploy.cli.build import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "bundle", precisions=("fp32", "fp16"))


@pytest.fixture
def rtx() -> None:
    pytest.importorskip("tensorrt_rtx_bindings")


@pytest.mark.usefixtures("rtx")
def test_engines_by_name_of_the_card(bundle: Path) -> None:
    done = run(bundle, "--target", "rtx2080ti", "--target", "RTX 4090", "--precision", "fp32")
    assert done.returncode == 0, done.stderr
    assert "2 engines by tensorrt-rtx" in done.stdout
    assert "fused.fp32.sm75.rtx.engine" in done.stdout
    info = Bundle.open(bundle).info
    assert {a.target for a in info.artifacts if a.kind == "tensorrt-rtx"} == {"sm75", "sm89"}
    if not os.path.exists("/dev/nvidiactl"):
        assert "not run here: " in done.stdout


@pytest.mark.usefixtures("rtx")
def test_one_engine_in_a_copy(bundle: Path, tmp_path: Path) -> None:
    arguments = ("--target", "sm75", "--target", "sm86", "--joint-engine", "--precision", "fp32")
    done = run(bundle, *arguments, "-o", tmp_path / "copy")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "copy" / "fused.fp32.sm75+sm86.rtx.engine").exists()
    assert Bundle.open(tmp_path / "copy").damaged_files() == {}
    assert all(a.kind == "onnx" for a in Bundle.open(bundle).info.artifacts)


@pytest.mark.usefixtures("rtx")
def test_an_undocumented_precision_is_told_of(tmp_path: Path) -> None:
    done = run("tiny", "--target", "rtx2080ti", "--precision", "int8", "-o", tmp_path / "copy")
    assert done.returncode == 0, done.stderr
    assert "NVIDIA does not list int8 for sm75 under tensorrt-rtx" in done.stderr
    assert "is not int8: its convolutions run as" in done.stderr


@pytest.mark.usefixtures("rtx")
def test_ctrl_c_leaves_the_bundle_as_it_was(tmp_path: Path) -> None:
    code = "from elir_deploy.cli.build import main; main()"
    arguments = ["tiny", "--target", "sm75", "--precision", "fp16", "-o", str(tmp_path / "copy")]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "building engine" in line:
            process.send_signal(signal.SIGINT)
            break
    began = time.monotonic()
    rest = process.stderr.read()
    assert process.wait(60) == 130
    assert time.monotonic() - began < 60
    assert "error: interrupted" in rest
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "give --device for the GPU of this machine, or --target for others"),
        ("--device --target sm75", "give --device for the GPU of this machine, or --target"),
        ("--target jetpack6.2", "jetpack6.2 builds its own engines: run elir-build BUNDLE"),
        ("--target gtx480", "no target 'gtx480': choose from"),
        ("--target sm75 --precision int8", "holds no int8: choose from fp32, fp16"),
        ("--target sm75 --precision fp8", "there is no precision fp8: choose from fp32, fp16"),
        ("--target sm75 --version-compatible", "these are for --device"),
    ],
)
def test_bad_usage(bundle: Path, arguments: str, message: str) -> None:
    done = run(bundle, *arguments.split())
    assert done.returncode == 2
    assert message in done.stderr


def test_not_a_bundle(tmp_path: Path) -> None:
    done = run(tmp_path, "--target", "sm75")
    assert done.returncode == 2
    assert "holds no bundle.json" in done.stderr


def test_the_extra_is_named(bundle: Path) -> None:
    hide = "sys.modules['tensorrt_rtx'] = sys.modules['tensorrt_rtx_bindings'] = None"
    done = run(bundle, "--target", "sm75", script=hide)
    assert done.returncode == 4
    assert "pip install 'elir-deploy[tensorrt-rtx]'" in done.stderr


def test_tensorrt_is_the_systems(bundle: Path) -> None:
    done = run(bundle, "--device", script="sys.modules['tensorrt'] = None")
    assert done.returncode == 4
    assert "on a Jetson it comes with JetPack" in done.stderr


def stand_in(version: str) -> str:
    """A script that puts a stand-in in TensorRT's place."""
    return (
        f"sys.path.insert(0, {os.getcwd()!r})\n"
        "from tests.export.tensorrt.stand_in import StandIn\n"
        f"sys.modules['tensorrt'] = StandIn({version!r})\n"
    )


def test_no_driver(bundle: Path) -> None:
    if os.path.exists("/dev/nvidiactl"):
        pytest.skip("this machine has a GPU")
    done = run(bundle, "--device", script=stand_in("10.3.0.30"))
    assert done.returncode == 4
    assert "no device to build for: no CUDA driver" in done.stderr


def test_a_device_builds_and_the_engine_must_be_what_was_asked_for(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Up to the driver: what it says, and the engines, are a stand-in's."""
    from elir_deploy.cli import build as command
    from elir_deploy.errors import QualityError

    def layers(kind: str) -> list[dict[str, object]]:
        types = [{"Format/Datatype": f"Row major linear {kind} format"}]
        return [{"Name": "c", "LayerType": "CaskConvolution", "Inputs": types}]

    monkeypatch.setattr(command, "missing_cuda_device", lambda: None)
    monkeypatch.setattr(command, "device_capabilities", lambda: ("sm87",))
    monkeypatch.setenv("XDG_CACHE_HOME", str(bundle.parent / "cache"))
    fused = Bundle.open(bundle).info.stages[0]
    ends = {"image": fused.input, "restored": fused.output}

    def library(kind: str) -> Library:
        module = StandIn("10.3.0.30", layers(kind), ends=DataType.UINT8, shapes=ends)
        return Library("tensorrt", module, module.__version__)

    monkeypatch.setattr(command, "load_library", lambda kind, purpose: library("FP16"))
    command.build(str(bundle), device=True, precision=["fp16"])
    told = capsys.readouterr()
    assert "building for sm87 with tensorrt 10.3.0.30" in told.err
    assert "fused.fp16.sm87.trt.engine" in told.out
    (engine,) = [a for a in Bundle.open(bundle).info.artifacts if a.kind == "tensorrt"]
    assert (engine.target, engine.tool_version) == ("sm87", "10.3.0.30")
    assert engine.convolutions == {"int8": 0, "fp16": 1, "fp32": 0}

    monkeypatch.setattr(command, "load_library", lambda kind, purpose: library("FP32"))
    with pytest.raises(QualityError, match=r"fused\.fp16\.sm87\.trt\.engine is not fp16") as caught:
        command.build(str(bundle), device=True, precision=["fp16"])
    assert caught.value.exit_code == 3
    (kept,) = [a for a in Bundle.open(bundle).info.artifacts if a.kind == "tensorrt"]
    assert kept == engine, "the good one stays"
