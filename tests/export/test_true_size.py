"""Released layouts at their own sizes: golden values through the exported graph, and budgets."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from elir_deploy.checkpoints import load_checkpoint
from elir_deploy.export import pipeline, references
from elir_deploy.runtime import Restorer
from elir_deploy.tasks import TASKS
from tests import official

pytestmark = pytest.mark.slow

MAX_EXPORT_BYTES = 6 * 2**30
ONNX_MEGABYTES = {"fp32": 145, "fp16": 73}


def command(name: str, *arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", f"elir_deploy.cli.{name}", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        check=True,
    )


def export(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    return command("export", *arguments, cwd=cwd)


def hashes(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize("layout", ["bsr.pth", "bsr.ckpt"])
def test_the_exported_graph_reaches_the_golden_values(layout: str, tmp_path: Path) -> None:
    name = {"bsr.pth": "bsr", "bsr.ckpt": "bsr_ckpt"}[layout]
    official.write(layout, tmp_path)
    arguments = [layout, "-o", "bundle", "--sigma-s", 0, "--precision", "fp32", "--io", "float32"]
    export(*arguments, cwd=tmp_path)
    golden = official.golden(name)
    with Restorer(tmp_path / "bundle", backend="onnxruntime") as restorer:
        restored = restorer.run(official.golden_input(golden).numpy())
    assert np.abs(restored[0][:, ::4, ::4] - golden["restored"]).max() < 1e-4


def test_bfr_within_its_budgets_and_byte_identical(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = official.write("bfr.pth", tmp_path)
    (tmp_path / "a").mkdir()
    (tmp_path / "b" / "c").mkdir(parents=True)
    export(weights, "-o", "bundle", cwd=tmp_path / "a")
    # The largest child so far: the exporter or the process that verified.
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    assert peak < MAX_EXPORT_BYTES
    first = tmp_path / "a" / "bundle"
    manifest = json.loads((first / "bundle.json").read_text())
    for artifact in manifest["stages"][0]["artifacts"]:
        assert artifact["bytes"] <= ONNX_MEGABYTES[artifact["precision"]] * 1e6
    assert manifest["model"]["steps"] == TASKS["bfr"].steps == 5
    assert len(manifest["references"]) >= 2

    # An engine of it, built for a GPU that is not here.
    if importlib.util.find_spec("tensorrt_rtx_bindings"):
        built = command("build", "bundle", "--target", "rtx2080ti", "--precision", "fp16",
                        "-o", "engines", cwd=tmp_path / "a")  # fmt: skip
        engine = tmp_path / "a" / "engines" / "fused.fp16.sm75.rtx.engine"
        assert engine.stat().st_size <= 80e6
        assert "convolutions: 310 in fp16" in built.stdout

    # The second time in this process, from another folder, float32 alone and without verifying:
    # small models are compared with all that, here the minutes go to the graph and the pictures.
    monkeypatch.chdir(tmp_path / "b" / "c")
    monkeypatch.setattr(pipeline, "verify_bundle", lambda *_: {})
    monkeypatch.setattr(references, "synthetic_pictures", lambda *size: {})
    options = pipeline.ExportOptions(precisions=("fp32",))
    pipeline.export_bundle(load_checkpoint(weights), Path("other"), options)
    again = hashes(tmp_path / "b" / "c" / "other")
    del again["bundle.json"]
    assert {"fused.fp32.onnx", *(r["output"]["file"] for r in manifest["references"])} <= set(again)
    assert again == {name: value for name, value in hashes(first).items() if name in again}


def test_bfr_in_int8_within_its_budgets(tmp_path: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    export("random", "--task", "bfr", "--precision", "int8", "-o", "bundle", cwd=tmp_path)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    assert max(peak, before) < 8 * 2**30
    manifest = json.loads((tmp_path / "bundle" / "bundle.json").read_text())
    (artifact,) = manifest["stages"][0]["artifacts"]
    assert artifact["bytes"] <= 45e6
    assert manifest["quantization"]["measured"] is None, "random weights have no quality to keep"
    found = manifest["verification"]["int8"]
    assert found["psnr_db"] is None or found["psnr_db"] > 20


def test_w8_of_bfr_and_its_engine_for_turing(tmp_path: Path) -> None:
    """Weights fill both, whatever the image's size: a small one is quicker."""
    pytest.importorskip("tensorrt_rtx_bindings")
    arguments = ("random", "--task", "bfr", "--image-size", 64, "--precision", "w8")
    export(*arguments, "--target", "rtx2080ti", "-o", "bundle", cwd=tmp_path)
    graph, engine = (
        (tmp_path / "bundle" / name).stat().st_size
        for name in ("fused.w8.onnx", "fused.w8.sm75.rtx.engine")
    )
    assert graph <= 40e6
    assert engine <= 47e6
