"""elir-build as a user runs it: exit codes, what it says and what it leaves."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from elir_deploy.cli import build as command
from elir_deploy.errors import MissingDependencyError, QualityError, UnavailableError
from elir_deploy.export.tensorrt.existing import AddedEngine, AddedEngines, EngineQuality
from elir_deploy.runtime.bundle import Bundle
from elir_deploy.runtime.manifest import PRECISIONS, SPLIT_STAGES
from elir_deploy.runtime.tensorrt_library import Library
from tests.bundles import make_bundle, read_manifest, sha256, write_manifest
from tests.command import run_here
from tests.export.tensorrt.graphs import SIDE, convolutions
from tests.export.tensorrt.stand_in import DataType, StandIn


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return run_here(command.main, *arguments)


def run_alone(*arguments: object, script: str = "") -> subprocess.CompletedProcess[str]:
    """As a user does; with ``script`` run before it, to change what is installed."""
    code = f"import sys\n{script}\nfrom elir_deploy.cli.build import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_help_names_every_precision() -> None:
    shown = " ".join(re.sub(r"[^\w,]", " ", run("--help").stdout).split())
    assert f"One of {', '.join(PRECISIONS)}" in shown


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "bundle", precisions=("fp32", "fp16"))


@pytest.fixture
def rtx() -> None:
    pytest.importorskip("tensorrt_rtx_bindings")


@pytest.mark.usefixtures("rtx")
def test_engines_by_name_of_the_card(bundle: Path) -> None:
    done = run_alone(bundle, "--target", "rtx2080ti", "--target", "RTX 4090", "--precision", "fp32")
    assert done.returncode == 0, done.stderr
    assert "2 engines by tensorrt-rtx" in done.stdout
    assert "fused.fp32.sm75.rtx.engine" in done.stdout
    info = Bundle.open(bundle).manifest
    assert {a.target for a in info.artifacts if a.kind == "tensorrt-rtx"} == {"sm75", "sm89"}
    if not os.path.exists("/dev/nvidiactl"):
        assert "not run here: " in done.stdout


@pytest.mark.usefixtures("rtx")
def test_an_engine_of_each_stage_and_gpu_in_a_copy(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle", stages="split")
    arguments = ("--target", "sm75", "--target", "sm86", "--precision", "fp32")
    done = run(bundle, *arguments, "-o", tmp_path / "copy")
    assert done.returncode == 0, done.stderr
    copy = Bundle.open(tmp_path / "copy")
    assert copy.damaged_files() == {}
    for stage in copy.stages:
        made = [a.file for a in stage.artifacts if a.kind == "tensorrt-rtx"]
        assert made == [f"{stage.name}.fp32.{sm}.rtx.engine" for sm in ("sm75", "sm86")]
    assert len(list(copy.path.glob("*.engine"))) == 2 * len(SPLIT_STAGES)
    assert all(a.kind == "onnx" for a in Bundle.open(bundle).manifest.artifacts)


@pytest.mark.usefixtures("rtx")
def test_a_full_disk(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    done = run(bundle, "--target", "sm75", "--precision", "fp32")
    assert done.returncode == 2
    assert "engine cannot be written: No space left on device: free some space" in done.stderr
    assert not list(bundle.glob(".elir-*"))


@pytest.mark.usefixtures("rtx")
def test_a_warning_about_an_undocumented_precision(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle", size=SIDE, precisions=("int8",))
    manifest = read_manifest(bundle)
    (graph,) = manifest["stages"][0]["artifacts"]
    content = convolutions("int8").SerializeToString()
    (bundle / graph["file"]).write_bytes(content)
    graph |= {"sha256": sha256(bundle / graph["file"]), "bytes": len(content)}
    graph["graph_convolutions"] = {"int8": 1, "fp16": 2, "fp32": 0}
    write_manifest(bundle, manifest)
    done = run(bundle, "--target", "rtx2080ti")
    assert done.returncode == 0, done.stderr
    assert "int8 for sm75 is not in NVIDIA's support matrix of tensorrt-rtx" in done.stderr
    assert "is not int8: its convolutions run as 3 fp16, expected 1 int8" in done.stderr
    assert "INT8 convolutions in float16 for sm75, so INT8 only saves size; real" in done.stderr


@pytest.mark.usefixtures("rtx")
def test_being_terminated_leaves_nothing_behind(tmp_path: Path) -> None:
    code = "from elir_deploy.cli.build import main; main()"
    arguments = ["tiny", "--target", "sm75", "--precision", "fp16", "-o", str(tmp_path / "copy")]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "building engine" in line:
            process.send_signal(signal.SIGTERM)  # as docker stop does
            break
    began = time.monotonic()
    rest = process.stderr.read()
    assert process.wait(60) == 143
    assert time.monotonic() - began < 60
    assert "Traceback" not in rest
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "give --device for the GPU of this machine, or --target for others"),
        ("--device --target sm75", "give --device for the GPU of this machine, or --target"),
        ("--target jetpack6.2", "jetpack6.2 builds its own engines: run elir-build BUNDLE"),
        ("--target gtx480", "unknown target 'gtx480': choose from"),
        ("--target sm75 --precision int8", "has no int8: choose from fp32, fp16"),
        ("--target sm75 --precision fp8", "unknown precision 'fp8': choose from fp32, fp16"),
        ("--target sm75 --version-compatible", "--hardware-compatible need --device"),
        ("--target sm75 --overwrite", "--overwrite needs -o FOLDER"),
    ],
)
def test_bad_usage(bundle: Path, arguments: str, message: str) -> None:
    done = run(bundle, *arguments.split())
    assert done.returncode == 2
    assert message in done.stderr


def test_not_a_bundle(tmp_path: Path) -> None:
    done = run(tmp_path, "--target", "sm75")
    assert done.returncode == 2
    assert "has no bundle.json" in done.stderr


def test_the_extra_is_named(bundle: Path) -> None:
    hide = "sys.modules['tensorrt_rtx'] = sys.modules['tensorrt_rtx_bindings'] = None"
    done = run_alone(bundle, "--target", "sm75", script=hide)
    assert done.returncode == 4
    assert "pip install 'elir-deploy[tensorrt-rtx]'" in done.stderr


def test_missing_tensorrt_comes_with_jetpack(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    done = run(bundle, "--device")
    assert done.returncode == 4
    assert "on a Jetson it comes with JetPack" in done.stderr


def test_no_driver(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.path.exists("/dev/nvidiactl"):
        pytest.skip("this machine has a GPU")
    monkeypatch.setitem(sys.modules, "tensorrt", StandIn("10.3.0.30"))
    done = run(bundle, "--device")
    assert done.returncode == 4
    assert "no device to build for: no CUDA driver" in done.stderr


@pytest.fixture
def device(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Library]:
    """A machine with a GPU up to the driver; gives a library whose engines compute in one type."""
    monkeypatch.setattr(command, "missing_cuda_device", lambda: None)
    monkeypatch.setattr(command, "device_capabilities", lambda: ("sm87",))
    monkeypatch.setenv("XDG_CACHE_HOME", str(bundle.parent / "cache"))
    fused = Bundle.open(bundle).stages[0]
    ends = {"image": fused.input, "restored": fused.output}

    def library(kind: str) -> Library:
        types = [{"Format/Datatype": f"Row major linear {kind} format"}]
        layers = [{"Name": "c", "LayerType": "CaskConvolution", "Inputs": types}]
        module = StandIn("10.3.0.30", layers, ends=DataType.UINT8, shapes=ends)
        found = Library("tensorrt", module, module.__version__)
        monkeypatch.setattr(command, "load_library", lambda kind, purpose: found)
        return found

    library("FP16")
    return library


def test_a_device_builds_and_the_engine_must_be_of_its_precision(
    bundle: Path,
    device: Callable[[str], Library],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    quality = EngineQuality("fp16", 52.25, 45.0)
    monkeypatch.setattr(command, "measure_engine", lambda *arguments: quality)
    command.build(str(bundle), device=True, precision=["fp16"])
    told = capsys.readouterr()
    assert "building for sm87 with tensorrt 10.3.0.30" in told.err
    assert "fused.fp16.sm87.trt.engine" in told.out
    assert "fp16  PSNR 52.25 dB against float32 PyTorch, floor 45" in told.out
    (engine,) = [a for a in Bundle.open(bundle).manifest.artifacts if a.kind == "tensorrt"]
    assert (engine.target, engine.tool_version) == ("sm87", "10.3.0.30")
    assert engine.convolutions == {"int8": 0, "fp16": 1, "fp32": 0}

    device("FP32")
    with pytest.raises(QualityError, match=r"fused\.fp16\.sm87\.trt\.engine is not fp16") as caught:
        command.build(str(bundle), device=True, precision=["fp16"])
    assert caught.value.exit_code == 3
    (kept,) = [a for a in Bundle.open(bundle).manifest.artifacts if a.kind == "tensorrt"]
    assert kept == engine, "the good one stays"


def test_a_failed_precision_is_named_after_the_others_were_added_and_measured(
    bundle: Path,
    device: Callable[[str], Library],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What computes in float32 is right for fp32 and wrong for fp16."""
    device("FP32")
    measured: list[str] = []

    def measure(path: Path, kind: str, precision: str) -> EngineQuality:
        measured.append(precision)
        return EngineQuality("fp32", 52.25, 60.0)

    monkeypatch.setattr(command, "measure_engine", measure)
    with pytest.raises(QualityError) as caught:
        command.build(str(bundle), device=True, precision=["fp16", "fp32"])
    assert caught.value.exit_code == 3
    assert "fused.fp16.sm87.trt.engine is not fp16" in str(caught.value)
    assert "fp32 engines reach 52.25 dB against float32 PyTorch, expected 60" in str(caught.value)
    assert measured == ["fp32"]
    assert "1 engine by tensorrt 10.3.0.30" in capsys.readouterr().out
    engines = [a for a in Bundle.open(bundle).manifest.artifacts if a.kind == "tensorrt"]
    assert [engine.precision for engine in engines] == ["fp32"]


def test_an_engine_that_does_not_run_stops_no_other(
    bundle: Path,
    device: Callable[[str], Library],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    library = device("FP32")
    names = ("fp16", "fp32")
    added = tuple(AddedEngine(f"{name}.engine", "fused", name, 1, 1.0, None) for name in names)

    def measure(path: Path, kind: str, precision: str) -> EngineQuality:
        if precision == "fp16":
            raise UnavailableError("out of memory")
        return EngineQuality("fp32", 52.25, 60.0)

    monkeypatch.setattr(command, "measure_engine", measure)
    for here in (True, False):
        engines = AddedEngines(added, {})
        if here:
            with pytest.raises(UnavailableError, match="fp16 engines do not run: out of memory"):
                command._measure(bundle, library, engines, device=True)
        else:
            assert len(command._measure(bundle, library, engines, device=False)) == 1
        shown = capsys.readouterr()
        assert "fp32  PSNR 52.25 dB" in shown.out
    assert "fp16  not run here: out of memory" in shown.out


@pytest.mark.usefixtures("device")
def test_an_engine_for_this_device_has_to_run_here(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(error: Exception) -> None:
        def measure(*arguments: object) -> NoReturn:
            raise error

        monkeypatch.setattr(command, "measure_engine", measure)
        command.build(str(bundle), device=True, precision=["fp16"])

    with pytest.raises(UnavailableError, match="out of memory") as caught:
        fail(UnavailableError("tensorrt 10.3.0.30 cannot load it: out of memory"))
    assert caught.value.exit_code == 4
    fail(MissingDependencyError("cuda-python", "tensorrt", "use a GPU"))
    assert "not run here: cuda-python is needed to use a GPU" in capsys.readouterr().out
