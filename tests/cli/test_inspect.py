"""elir-inspect: what it tells of good and of damaged bundles."""

from __future__ import annotations

import json
import math
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from elir_deploy.cli import inspect as command
from elir_deploy.runtime import Bundle
from elir_deploy.runtime import bundle as bundle_module
from elir_deploy.runtime.backends import BACKENDS
from elir_deploy.runtime.backends.openvino import OpenVinoBackend
from tests.bundles import (
    file_entry,
    make_bundle,
    put_graph,
    read_manifest,
    verification,
    write_manifest,
)
from tests.forged import endless_loop
from tests.photo.pictures import face_bundle
from tests.runtime.engines import put_detector_engine
from tests.runtime.stand_in_cuda import StandInGpu


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """The command in this process; gives the exit code."""

    def call(*arguments: object) -> int:
        monkeypatch.setattr(sys, "argv", ["elir-inspect", *map(str, arguments)])
        handler = signal.getsignal(signal.SIGTERM)
        try:
            with pytest.raises(SystemExit) as caught:
                command.main()
        finally:
            signal.signal(signal.SIGTERM, handler)
        return int(caught.value.code or 0)

    return call


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    path = make_bundle(
        tmp_path / "b", stages="split", precisions=("fp32", "fp16"), upscale=4, kernel="bicubic"
    )
    manifest = read_manifest(path)
    manifest["verification"]["fp16"] = verification(31.25, False)
    write_manifest(path, manifest)
    return path


def test_how_int8_was_made(run, capsys) -> None:
    assert run("tiny") == 0
    assert "calibrated on 16 images\n" in capsys.readouterr().out


def test_everything_is_told(run, bundle: Path, capsys) -> None:
    assert run(bundle) == 0
    lines = capsys.readouterr().out.splitlines()
    text = "\n".join(lines)
    for part in (
        "32x32, inputs are first enlarged x4 (bicubic)",
        "image: uint8 1x32x32x3 NHWC",
        "sigma_s 0.025",
        "estimator.fp16.onnx",
        "files: all 10 match the hashes",
        "not tampering",
    ):
        assert part in text
    [fp16] = [line.split() for line in lines if line.startswith("fp16")]
    figures = ["fp16", "31.2", "dB", "45", "dB", "MISSED", "decoder", "1", "0.004", "no:"]
    assert fp16[: len(figures)] == figures
    [cpu] = [line for line in lines if line.startswith("onnxruntime ")]
    assert "yes: fp32 (default), fp16" in cpu
    if BACKENDS["onnxruntime-cuda"].available():
        [cuda] = [line for line in lines if line.startswith("onnxruntime-cuda")]
        assert "pip install 'elir-deploy[gpu]'" in cuda or "driver" in cuda


def test_json(run, bundle: Path, capsys) -> None:
    assert run(bundle, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["manifest"] == read_manifest(bundle)
    assert told["damaged"] == {}
    backends = {entry["backend"]: entry for entry in told["backends"]}
    assert list(backends) == list(BACKENDS)
    assert backends["onnxruntime"] == {
        "backend": "onnxruntime",
        "precisions": ["fp32", "fp16"],
        "unsupported": {},
        "default": "fp32",
        "reason": None,
        "device": None,
    }


def test_a_precision_that_this_machine_lacks(run, bundle: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(OpenVinoBackend, "available", lambda self: None)
    lacking = {"bf16": "no such instructions"}
    monkeypatch.setattr(OpenVinoBackend, "unsupported", lambda self, p: lacking.get(p))
    assert run(bundle) == 0
    lines = capsys.readouterr().out.splitlines()
    [line] = [line for line in lines if line.startswith("openvino ")]
    assert "yes: fp32 (default), fp16 " in line
    assert line.endswith("not bf16: no such instructions")
    assert run(bundle, "--json") == 0
    told = json.loads(capsys.readouterr().out)["backends"]
    [entry] = [entry for entry in told if entry["backend"] == "openvino"]
    assert entry["precisions"] == ["bf16", "fp32", "fp16"]
    assert entry["unsupported"] == lacking
    monkeypatch.setattr(OpenVinoBackend, "available", lambda self: "pip install it")
    assert run(bundle, "--json") == 0
    told = json.loads(capsys.readouterr().out)["backends"]
    [entry] = [entry for entry in told if entry["backend"] == "openvino"]
    assert (entry["unsupported"], entry["reason"]) == ({}, "pip install it")


def test_damage_is_shown_and_fails(run, bundle: Path, capsys) -> None:
    for file in ("flow.fp16.onnx", "reference/noise.input.png"):
        data = bytearray((bundle / file).read_bytes())
        data[-20] ^= 1
        (bundle / file).write_bytes(data)
    assert run(bundle) == 2
    printed = capsys.readouterr()
    assert "files: 2 of 10 DAMAGED: flow.fp16.onnx, reference/noise.input.png" in printed.out
    assert printed.err.startswith("error: ")
    assert "the manifest says" in printed.err
    assert run(bundle, "--json") == 2
    told = json.loads(capsys.readouterr().out)
    assert list(told["damaged"]) == ["flow.fp16.onnx", "reference/noise.input.png"]


@pytest.mark.parametrize("side", [1, 65, 18000])
def test_sizes_that_were_all_changed_alike(run, tmp_path: Path, capsys, side: int) -> None:
    path = make_bundle(tmp_path / "b")
    manifest = read_manifest(path)
    manifest["shapes"] = [{"batch": 1, "height": side, "width": side}]
    write_manifest(path, manifest)
    assert run(path) == 2
    printed = capsys.readouterr()
    files = "fused.fp32.onnx, reference/noise.input.png, reference/noise.output.png"
    assert f"files: 3 of 3 DAMAGED: {files}" in printed.out
    assert "the graph's input is image: uint8 1x32x32x3" in printed.err
    assert f"the manifest says image: uint8 1x{side}x{side}x3" in printed.err
    assert run(path, "--json") == 2
    told = json.loads(capsys.readouterr().out)["damaged"]
    assert f"is 32x32, expected {side}x{side}" in told["reference/noise.input.png"]


def test_a_forged_graph(run, tmp_path: Path, capsys) -> None:
    path = make_bundle(tmp_path / "b")
    model = onnx.load(path / "fused.fp32.onnx")
    endless_loop(model)
    put_graph(path, model.SerializeToString())
    assert run(path) == 2
    printed = capsys.readouterr()
    assert "files: 1 of 3 DAMAGED: fused.fp32.onnx" in printed.out
    assert "it contains the operator Loop, which elir-export never writes" in printed.err


def test_a_picture_that_is_none(run, tmp_path: Path, capsys) -> None:
    path = make_bundle(tmp_path / "b")
    manifest = read_manifest(path)
    for end, content in (("input", b"GIF89a"), ("output", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0")):
        file = manifest["references"][0][end]["file"]
        (path / file).write_bytes(content)
        manifest["references"][0][end] = file_entry(path, file)
    write_manifest(path, manifest)
    assert run(path) == 2
    printed = capsys.readouterr()
    assert "files: 2 of 3 DAMAGED: reference/noise.input.png, reference/noise" in printed.out
    assert "noise.input.png is not a PNG file" in printed.err


def test_a_bundle_for_other_machines(run, tmp_path: Path, capsys) -> None:
    path = make_bundle(tmp_path / "b", random=True)
    manifest = read_manifest(path)
    manifest["stages"][0]["artifacts"][0] |= {"kind": "tensorrt", "target": "sm75"}
    manifest["verification"] = {}
    write_manifest(path, manifest)
    assert run(path) == 0
    printed = capsys.readouterr().out
    assert "random weights, for measuring speed" in printed
    assert "tensorrt  fp32       sm75" in printed
    assert "the bundle has no onnx files that it can load here" in printed
    assert "verification: none recorded" in printed


def test_no_precision_passed(run, tmp_path: Path, capsys) -> None:
    path = make_bundle(tmp_path / "b")
    manifest = read_manifest(path)
    manifest["verification"]["fp32"] = verification(None, False) | {"max_error": None}
    write_manifest(path, manifest)
    assert run(path) == 0
    printed = capsys.readouterr().out
    assert "fp32       not finite  45 dB  MISSED" in printed
    assert "no: gives numbers that are not finite, below its floor of 45 dB" in printed
    assert "onnxruntime has no precision that runs by default" in printed


def test_why_a_precision_runs_only_where_it_is_named(run, capsys) -> None:
    assert run("tiny") == 0
    rows = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line}
    images = Bundle.open("tiny").manifest.verification["int8"].images
    worst = min(images, key=lambda image: image.psnr_db or math.inf)
    reason = f"no: reached {worst.psnr_db:.1f} dB on the synthetic picture {worst.name}"
    assert rows["int8"].endswith(reason)
    assert all(rows[precision].endswith("  yes") for precision in ("fp32", "fp16", "bf16"))


def test_a_face_detector(run, tmp_path: Path, capsys) -> None:
    assert run(face_bundle(tmp_path / "b")) == 0
    told = capsys.readouterr().out
    assert "centerface, licence MIT (detector.LICENSE), pictures shrunk to 1280 pixels" in told
    (line,) = [line for line in told.splitlines() if "detector.onnx" in line]
    assert line.split()[:5] == ["detector", "detector.onnx", "onnx", "fp32", "any"]
    assert "face detector" not in {run("tiny"): capsys.readouterr().out}[0]


def test_engines_of_the_detector(run, tmp_path: Path, capsys, monkeypatch) -> None:
    StandInGpu().install(monkeypatch, "tensorrt-rtx")
    bundle = face_bundle(tmp_path / "b")
    for target in ("sm75", "sm86"):
        put_detector_engine(bundle, "tensorrt-rtx", target=target)
    assert run(bundle) == 0
    lines = [x for x in capsys.readouterr().out.splitlines() if x.startswith("detector.tensorrt")]
    assert [line.split(maxsplit=2)[1:] for line in lines] == [
        ["no", "it is for sm75, and this device is sm86"],
        ["yes"],
    ]


def test_what_is_no_bundle(run, tmp_path: Path, capsys) -> None:
    assert run(tmp_path) == 2
    assert "has no bundle.json" in capsys.readouterr().err


def test_two_packages_of_onnxruntime(run, bundle, capsys, monkeypatch) -> None:
    monkeypatch.setattr(command, "conflicting_packages", lambda: "both are installed")
    assert run(bundle) == 0
    assert capsys.readouterr().err == "warning: both are installed\n"
    assert run(bundle, "--json") == 0
    assert json.loads(capsys.readouterr().out)["warnings"] == ["both are installed"]


def test_a_manifest_does_not_steer_the_terminal(run, bundle: Path, capsys) -> None:
    manifest = read_manifest(bundle)
    manifest["source"]["name"] = "\x1b[31mred\nfiles: all is well"
    write_manifest(bundle, manifest)
    assert run(bundle) == 0
    printed = capsys.readouterr().out
    assert "\x1b" not in printed
    assert r"\x1b[31mred\nfiles: all is well" in printed


def test_a_file_that_cannot_be_read_is_listed(run, bundle: Path, capsys, monkeypatch) -> None:
    whole = bundle_module.file_sha256

    def partly(path: Path) -> str:
        if path.name == "flow.fp16.onnx":
            raise PermissionError(13, "Permission denied")
        return whole(path)

    monkeypatch.setattr(bundle_module, "file_sha256", partly)
    assert run(bundle) == 2
    printed = capsys.readouterr()
    assert "files: 1 of 10 DAMAGED: flow.fp16.onnx" in printed.out
    assert "flow.fp16.onnx cannot be read: Permission denied" in printed.err


def test_help_teaches(run, capsys) -> None:
    assert run("--help") == 0
    assert "elir-inspect tiny --json" in capsys.readouterr().out


@pytest.mark.parametrize("columns", [60, 160])
def test_on_a_terminal(bundle: Path, columns: int) -> None:
    """Tables, with nothing cut off: what is too long goes on in the next line."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "elir_deploy.cli.inspect", str(bundle)],
        stdout=theirs,
        env=os.environ | {"COLUMNS": str(columns), "TERM": "dumb"},
    ) as process:
        os.close(theirs)
        shown = b""
        while True:
            try:
                part = os.read(ours, 65536)
            except OSError:
                break
            if not part:
                break
            shown += part
    os.close(ours)
    assert process.returncode == 0
    text = shown.decode()
    assert "…" not in text
    if columns > 100:  # where no cell is broken
        assert "estimator" in text
        assert "verdict" in text
