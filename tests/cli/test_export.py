"""elir-export from its arguments to its exit code, what it says and what it leaves."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from msgspec import structs
from PIL import Image

from elir_deploy.checkpoints import save_checkpoint
from elir_deploy.cli import export as export_command
from elir_deploy.export import pipeline
from elir_deploy.export.budget import Budget
from elir_deploy.export.bundle import staged_bundle
from elir_deploy.export.options import ExportOptions
from elir_deploy.export.pipeline import ExportReport
from elir_deploy.runtime.bundle import Bundle
from tests import official
from tests.bundles import make_bundle
from tests.command import run_here


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "elir_deploy.cli.export", *map(str, arguments)]


def run_alone(*arguments: object) -> subprocess.CompletedProcess[str]:
    """As a user does, in a process of its own."""
    return subprocess.run(command(*arguments), capture_output=True, text=True, check=False)


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return run_here(export_command.main, *arguments)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model in a file of ours."""
    from elir_deploy.model import Elir
    from elir_deploy.tasks import TASKS, Architecture

    arch = Architecture(
        autoencoder_width=8,
        autoencoder_blocks=1,
        estimator_blocks=1,
        estimator_growth=8,
        vector_field_width=32,
        time_frequencies=8,
        time_width=16,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Elir(arch).eval()
    task = replace(TASKS["tiny"], architecture=arch, image_size=64, steps=2)
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    save_checkpoint(path, model, task)
    return path


def test_a_bundle_and_its_report(weights: Path, tmp_path: Path) -> None:
    done = run_alone(weights, "-o", tmp_path / "bundle")
    assert done.returncode == 0, done.stderr
    assert "tiny, 64x64, M = 2" in done.stdout
    assert "fused.fp32.onnx" in done.stdout
    assert "PSNR" in done.stdout
    assert "verifying fp16 1/2" in done.stderr
    manifest = json.loads((tmp_path / "bundle" / "bundle.json").read_text())
    assert manifest["source"]["name"] == "small.safetensors"
    again = run(weights, "-o", tmp_path / "bundle")
    assert again.returncode == 2
    assert "--overwrite" in again.stderr
    assert again.stderr.count("\n") == 1


def test_the_report_says_which_precisions_run_only_when_named(
    capsys: pytest.CaptureFixture[str],
) -> None:
    tiny = Bundle.open("tiny")
    verified = tiny.manifest.verification
    export_command._print_report(ExportReport(tiny.path, tiny.manifest, verified, {}))
    told = capsys.readouterr().out
    worst = min(verified["int8"].images, key=lambda image: image.psnr_db or math.inf)
    lost = (
        f"not used by default: reached {worst.psnr_db:.1f} dB on the synthetic picture {worst.name}"
    )
    assert told.count("not used by default") == told.count(lost) == 1
    assert told.index("int8  PSNR") < told.index(lost) < told.index("bf16  PSNR")


def test_the_report_of_numbers_that_are_not_finite(
    capsys: pytest.CaptureFixture[str],
) -> None:
    tiny = Bundle.open("tiny")
    result = structs.replace(
        tiny.manifest.verification["fp16"], max_error=None, mean_error=None, passed=False
    )
    export_command._print_verification("fp16", result)
    assert "not finite  BELOW ITS FLOOR" in capsys.readouterr().out


def test_help_has_the_main_options() -> None:
    done = run("--help")
    assert done.returncode == 0
    for word in (
        "--task",
        "--precision",
        "--calibration",
        "--max-psnr-drop",
        "--stages",
        "--io",
        "--steps",
        "--sigma-s",
        "Examples",
    ):
        assert word in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["missing.pth"], "missing.pth"),
        (["random"], "--task"),
        (["tiny.txt"], "tiny.txt"),
        (["{weights}", "--task", "bfr"], "bfr"),
        (["{weights}", "--task", "holiday"], "choose from bfr"),
        (["{weights}", "--image-size", "720p"], "expected pixels such as 512 or 1280x720"),
        (["{weights}", "--image-size", "5000x64"], "image size is 5000x64, expected sides of 1"),
        (["{weights}", "--image-size", "64", "--image-size", "96", "--noise", "baked"], "field"),
        (["{weights}", "--precision", "int4"], "int4"),
        (["{weights}", "--opset", "9"], "opset is 9"),
        (["{weights}", "--steps", "0"], "at least 1"),
        (["{weights}", "--detector", "face.onnx"], "face detector face.onnx: No such file"),
    ],
)
def test_bad_use_is_one_line_and_exit_2(
    weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.txt").write_text("no weights here")
    filled = [argument.format(weights=weights) for argument in arguments]
    done = run(*filled, "-o", "bundle")
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert said in line
    assert "Traceback" not in done.stderr
    assert len(line) < 400
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.txt"]


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    done = run_alone("missing.pth", "-o", tmp_path / "bundle", "--debug")
    assert done.returncode == 2
    assert "Traceback" in done.stderr


def test_missing_the_floor_is_exit_3(weights: Path, tmp_path: Path) -> None:
    done = run(
        weights, "-o", tmp_path / "bundle", "--precision", "fp16", "--floor-psnr", 150
    )  # fmt: skip
    assert done.returncode == 3
    assert "worst part" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_weights_that_are_not_numbers(tmp_path: Path) -> None:
    values = official.state_dict(official.layout("bsr.pth"))
    values["mmse.lrm.0.RDB1.conv1.block.0.bias"][3] = float("nan")
    torch.save(values, tmp_path / "bsr.pth")
    done = run(tmp_path / "bsr.pth", "-o", tmp_path / "bundle")
    assert done.returncode == 2
    assert "mmse.lrm.0.RDB1.conv1.block.0.bias" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["bsr.pth"]


@pytest.mark.parametrize(
    "stop", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_interrupting_leaves_nothing(weights: Path, tmp_path: Path, stop: signal.Signals) -> None:
    process = subprocess.Popen(
        command(weights, "-o", tmp_path / "bundle"),
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("exporting to ONNX 1"):
            break
    assert any(tmp_path.iterdir()), "the export had not begun"
    os.killpg(process.pid, stop)  # a terminal's Ctrl-C reaches the whole group
    said = process.stderr.read()
    assert process.wait(timeout=60) == (130 if stop == signal.SIGINT else 143)
    assert "Traceback" not in said
    deadline = time.monotonic() + 5
    while any(tmp_path.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written(weights: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    done = run(weights, "-o", tmp_path / "file" / "bundle")
    assert done.returncode == 2
    assert "cannot write" in done.stderr


def test_int8_prints_and_plots_the_cost_of_each_block(weights: Path, tmp_path: Path) -> None:
    picture = tmp_path / "parts.svg"
    done = run(weights, "-o", tmp_path / "bundle", "--precision", "int8", "--max-psnr-drop", "1",
               "--floor-psnr", "30", "--sensitivity-plot", picture)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "encoder.layers.1 " in done.stdout
    assert "INT8, all blocks: loses" in done.stdout
    assert "INT8, as chosen: loses" in done.stdout
    assert "calibrating 3/3" in done.stderr
    assert "give --calibration FOLDER" in done.stderr
    assert picture.read_text().count("<path") > 50
    manifest = json.loads((tmp_path / "bundle" / "bundle.json").read_text())
    assert manifest["precisions"] == ["int8"]
    assert manifest["quantization"]["max_psnr_drop_db"] == 1


def test_a_budget_that_cannot_be_met_is_exit_3_with_the_best(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Budget, "allows", lambda *_: False)
    done = run(weights, "-o", tmp_path / "bundle", "--precision", "int8")
    assert done.returncode == 3
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert "the best is a drop of" in line
    assert "; worst block: " in line
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda folder: None, "no images in it"),
        (lambda folder: Image.new("RGB", (90, 90), "red").save(folder / "a.png"), "one colour"),
        (lambda folder: Image.effect_noise((32, 90), 50).save(folder / "a.png"), "smaller than"),
        (lambda folder: (folder / "a.jpg").write_bytes(b"..."), "none of 1 images"),
    ],
)
def test_unusable_calibration_images_are_exit_2(
    weights: Path, tmp_path: Path, make: Callable[[Path], object], said: str
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    make(folder)
    done = run(weights, "-o", tmp_path / "bundle", "--precision", "int8", "--calibration", folder)
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert said in line
    assert not (tmp_path / "bundle").exists()


# Targets ------------------------------------------------------------------------------------------


def without(*modules: str) -> list[str]:
    """elir-export as where these modules are not installed."""
    hidden = "; ".join(f"sys.modules[{module!r}] = None" for module in modules)
    return [
        *(sys.executable, "-c"),
        f"import sys; {hidden}; from elir_deploy.cli.export import main; main()",
    ]


def test_engines_for_gpus_that_are_not_here(weights: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx_bindings")
    targets = ("--target", "rtx2080ti", "--target", "RTX 2060", "--target", "rtx3090")
    done = run(weights, "-o", tmp_path / "bundle", "--precision", "fp16", *targets)
    assert done.returncode == 0, done.stderr
    manifest = json.loads((tmp_path / "bundle" / "bundle.json").read_text())
    engines = [a for a in manifest["stages"][0]["artifacts"] if a["kind"] == "tensorrt-rtx"]
    assert [engine["file"] for engine in engines] == [
        *("fused.fp16.sm75.rtx.engine", "fused.fp16.sm86.rtx.engine")
    ]
    for engine in engines:
        assert engine["convolutions"]["fp16"] > 0
        assert engine["convolutions"]["fp32"] == 0
        assert engine["bytes"] == (tmp_path / "bundle" / engine["file"]).stat().st_size
        assert engine["file"] in done.stdout
    assert [t["name"] for t in manifest["targets"]] == ["rtx2080ti", "rtx2060", "rtx3090"]
    assert "fused.fp16.sm75.rtx.engine (1 of 2): building engine" in done.stderr


@pytest.fixture
def verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is exported is there at once, so that engines alone are on trial."""
    pytest.importorskip("tensorrt_rtx_bindings")
    ready = make_bundle(tmp_path / "ready", precisions=("fp16",))

    def export(
        checkpoint: object, output: Path, options: ExportOptions, say: object, warn: object
    ) -> ExportReport:
        manifest = Bundle.open(ready).manifest
        with staged_bundle(output, overwrite=False) as writer:
            shutil.copytree(ready, writer.folder, dirs_exist_ok=True)
            manifest, failures = pipeline._add_engines(writer, manifest, options, say, warn)
            writer.write_manifest(manifest)
        return ExportReport(output, manifest, {}, failures)

    monkeypatch.setattr(pipeline, "export_bundle", export)


@pytest.mark.usefixtures("verified")
def test_an_engine_for_each_kind_of_gpu(weights: Path, tmp_path: Path) -> None:
    targets = ("--target", "rtx2080ti", "--target", "rtx3090", "--target", "rtx3060")
    folder = tmp_path / "bundle"
    done = run(weights, "-o", folder, "--precision", "fp16", *targets)
    assert done.returncode == 0, done.stderr
    engines = [a for a in Bundle.open(folder).manifest.artifacts if a.kind == "tensorrt-rtx"]
    assert [(engine.file, engine.target) for engine in engines] == [
        ("fused.fp16.sm75.rtx.engine", "sm75"),
        ("fused.fp16.sm86.rtx.engine", "sm86"),
    ]


@pytest.mark.usefixtures("verified")
def test_a_disk_that_is_full_at_the_engine(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    arguments = ("--precision", "fp16", "--target", "rtx2080ti")
    done = run(weights, "-o", tmp_path / "bundle", *arguments)
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if "error" in line]
    assert "bundle: No space left on device; choose another folder with -o" in line
    assert [path.name for path in tmp_path.iterdir()] == ["ready"]


def test_a_jetson_gets_graphs_that_its_parser_accepts(weights: Path, tmp_path: Path) -> None:
    targets = ("--target", "jetpack6.0", "--target", "jetpack7")
    done = run(weights, "-o", tmp_path / "bundle", "--precision", "fp16", *targets)
    assert done.returncode == 0, done.stderr
    assert (
        "jetpack6.0: build the engines on the device with elir-build FOLDER --device" in done.stdout
    )
    manifest = json.loads((tmp_path / "bundle" / "bundle.json").read_text())
    assert manifest["export"]["opset"] == 17
    assert {tensor["dtype"] for tensor in manifest["tensors"].values()} == {"float32"}
    assert {t["kind"] for t in manifest["targets"]} == {"tensorrt"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--target jetpack6.0 --io uint8", "TensorRT 8.6 does not accept uint8 images"),
        (
            "--target jetpack6.2 --opset 21",
            "TensorRT 10.3 does not accept opset 21, expected at most 20",
        ),
        ("--target gtx480", "unknown target 'gtx480': choose from rtx2060"),
    ],
)
def test_targets_that_do_not_fit(
    weights: Path, tmp_path: Path, arguments: str, message: str
) -> None:
    done = run(weights, "-o", tmp_path / "bundle", *arguments.split())
    assert done.returncode == 2
    assert message in done.stderr
    assert not (tmp_path / "bundle").exists()


def test_the_extra_for_engines_is_named_before_the_work(weights: Path, tmp_path: Path) -> None:
    hidden = without("tensorrt_rtx", "tensorrt_rtx_bindings")
    done = subprocess.run(
        [*hidden, str(weights), "-o", str(tmp_path / "bundle"), "--target", "sm75"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 4
    assert "pip install 'elir-deploy[tensorrt-rtx]'" in done.stderr
    assert "measuring" not in done.stderr
