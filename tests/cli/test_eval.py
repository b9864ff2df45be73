"""``elir-eval`` from its arguments to its exit code."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("skimage")
pytest.importorskip("matplotlib")

from elir_deploy.cli import eval as command
from elir_deploy.cli import imports
from elir_deploy.text import printable
from elir_deploy.training.metrics import METRICS
from tests.bundles import make_bundle, read_manifest, write_manifest
from tests.shown import HOSTILE_NAME, Shown
from tests.training.small import (
    SIZE,
    install_stand_in,
    make_checkpoint,
    photo,
    pretend_installed,
    save,
    save_photos,
)

GAP = 8
PANEL = 64 + GAP


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys):
    """The command in this process; gives exit code, stdout and stderr."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["elir-eval", *map(str, arguments)])
        handler = signal.getsignal(signal.SIGTERM)
        try:
            with pytest.raises(SystemExit) as ended:
                command.main()
        finally:
            signal.signal(signal.SIGTERM, handler)
        shown = capsys.readouterr()
        return int(ended.value.code or 0), shown.out, shown.err

    return call


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return save_photos(tmp_path / "photos")


@pytest.fixture(scope="module")
def checkpoint() -> Any:
    return make_checkpoint()


@pytest.fixture
def pyiqa(monkeypatch: pytest.MonkeyPatch) -> Any:
    return install_stand_in(monkeypatch)


@pytest.fixture
def no_pyiqa(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_installed(monkeypatch, pyiqa=False)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """Brightens by ten levels."""
    return make_bundle(tmp_path / "bundle", size=64, bias=10 / 255)


@pytest.fixture
def weights(tmp_path: Path, checkpoint) -> Path:
    from elir_deploy.checkpoints import save_checkpoint

    save_checkpoint(tmp_path / "small.safetensors", checkpoint.model, checkpoint.task)
    return tmp_path / "small.safetensors"


def report_in(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "quality.json").read_text(), parse_constant=pytest.fail)


def means(report: dict[str, Any], metric: str) -> dict[str, float]:
    return {row["label"]: row["means"][metric]["mean"] for row in report["rows"]}


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


# Bundles --------------------------------------------------------------------------------------


def test_a_bundle_on_pairs_with_a_known_error(run, bundle, tmp_path, no_pyiqa) -> None:
    for number in range(3):
        truth = photo(number, 64, 64).clip(60, 200)
        save(tmp_path / "truths" / f"{number}.png", truth)
        save(tmp_path / "low" / f"{number}.bmp", truth - np.uint8(30))
    out = tmp_path / "out"
    chosen = ("--precision", "fp32", "--backend", "onnxruntime")
    code, printed, err = run(
        bundle, tmp_path / "truths", "--input", tmp_path / "low", "-o", out, *chosen
    )
    assert code == 0, err
    report = report_in(out)
    psnr = means(report, "psnr")
    assert psnr["input"] == pytest.approx(20 * np.log10(255 / 30))
    assert psnr["restored"] == pytest.approx(20 * np.log10(255 / 20))
    assert report["data"]["degraded"] == str(tmp_path / "low")
    assert report["model"]["backend"] == "onnxruntime"
    assert "22.11" in printed
    assert printed.splitlines()[0].startswith("tiny, 64x64, M = 3, sigma_s = 0.025")
    assert "tiny: onnxruntime, fp32\n" in err
    assert "measuring 3/3" in err
    assert sorted(os.listdir(out)) == ["quality.json", "quality.md", "sheet.png"]
    assert size_of(out / "sheet.png") == (GAP + 3 * PANEL, 24 + 3 * (64 + 24 + GAP))
    assert "| restored | 22.11 ± 0.00 |" in (out / "quality.md").read_text()


def test_values_do_not_depend_on_the_limit(run, bundle, photos, tmp_path, no_pyiqa) -> None:
    whole, part = tmp_path / "whole", tmp_path / "part"
    assert run(bundle, photos, "-o", whole, "--no-figures")[0] == 0
    assert run(bundle, photos, "-o", part, "--no-figures", "--limit", 2)[0] == 0
    assert report_in(part)["images"] == report_in(whole)["images"][:2]
    other = tmp_path / "other"
    assert run(bundle, photos, "-o", other, "--no-figures", "--limit", 2, "--seed", 1)[0] == 0
    assert report_in(other)["images"] != report_in(part)["images"]
    assert not list(whole.glob("*.png"))


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--euler-steps", "5"], "--euler-steps: {b} was exported with M = 3"),
        (["--sigma-s", "0"], "elir-export --sigma-s"),
        (["--size", "96"], "elir-export --image-size"),
        (["--steps"], "evaluate the checkpoint"),
        (["--task", "bfr"], "is for task tiny, not bfr: leave out --task"),
        (["--task", "deblur"], "unknown task 'deblur'"),
        (["--backend", "abacus"], "unknown backend 'abacus'"),
        (["--precision", "int8"], "has no int8 files"),
        (["--metric", "beauty"], "--metric"),
        (["--limit", "0"], "--limit"),
    ],
)
def test_bad_usage_of_a_bundle_is_exit_2(run, bundle, photos, tmp_path, option, message) -> None:
    code, out, err = run(bundle, photos, "-o", tmp_path / "out", *option)
    assert (code, out) == (2, "")
    assert message.format(b=bundle) in err
    assert not (tmp_path / "out").exists()


def test_a_missing_backend_is_exit_4(run, bundle, photos, tmp_path) -> None:
    code, _, err = run(bundle, photos, "-o", tmp_path / "o", "--backend", "onnxruntime-tensorrt")
    assert code == 4
    assert "pip install" in err


def test_control_characters_are_escaped(run, bundle, photos, tmp_path, no_pyiqa) -> None:
    manifest = read_manifest(bundle)
    manifest["source"]["name"] = "\x1b[31mred\nfake" + HOSTILE_NAME
    write_manifest(bundle, manifest)
    save(photos / "z\x1b[31m<b>.png", photo(0, 8, 8))
    code, out, err = run(bundle, photos, "-o", tmp_path / "out")
    assert code == 0
    assert "\x1b" not in out + err
    assert r"\x1b[31mred\nfake" in out
    shown = Shown((tmp_path / "out" / "quality.md").read_text())
    assert shown.of("h1")[0].endswith(r"\x1b[31mred\nfake" + printable(HOSTILE_NAME))
    assert any(r"z\x1b[31m<b>.png" in line for line in shown.of("li"))
    assert shown.tags.count("table") == shown.tags.count("img") == 1  # the sheet
    assert {"a", "b", "em"}.isdisjoint(shown.tags)


# Images ---------------------------------------------------------------------------------------


def test_damaged_images_are_left_out_and_counted(run, bundle, photos, tmp_path, no_pyiqa) -> None:
    (photos / "empty.png").write_bytes(b"")
    whole = (photos / "0.png").read_bytes()
    (photos / "cut.png").write_bytes(whole[: len(whole) // 2])
    (photos / "x.psd").write_bytes(b"\0")
    code, out, err = run(bundle, photos, "-o", tmp_path / "out")
    assert code == 0
    assert f"not read: files of unsupported formats: 1 .psd (such as {photos}" in err
    assert "warning: 2 of 6 images skipped" in out
    assert "cut.png is cut off" in err
    assert "empty.png is empty" in err
    skipped = report_in(tmp_path / "out")["data"]["skipped"]
    assert [item["name"] for item in skipped] == ["cut.png", "empty.png"]


def test_only_the_first_warnings_are_printed(run, bundle, tmp_path, no_pyiqa) -> None:
    save(tmp_path / "photos" / "a.png", photo(0, 64, 64))
    for number in range(30):
        (tmp_path / "photos" / f"x{number}.png").write_bytes(b"")
    code, out, err = run(bundle, tmp_path / "photos", "-o", tmp_path / "out")
    assert code == 0
    assert err.count("is empty") == 10
    assert err.count("further warnings are not printed") == 1
    assert "30 of 31 images skipped" in out


def test_bad_images_are_exit_2(run, bundle, photos, tmp_path) -> None:
    save(tmp_path / "low" / "0.png", photo(0, 70, 90))
    save(tmp_path / "small" / "a.png", photo(0, 20, 20))
    for images, more, message in (
        (photos, ["--input", tmp_path / "low"], "1.png has no degraded image of the same name"),
        (tmp_path / "none", [], "does not exist"),
        (tmp_path / "small", [], "none of 1 images could be measured"),
        (photos / "0.png", [], "0.png is a file"),
    ):
        code, out, err = run(bundle, images, "-o", tmp_path / "out", *more)
        assert (code, out) == (2, "")
        assert message in err
        assert not (tmp_path / "out").exists()


def test_bad_output_folders_are_exit_2(run, bundle, photos, tmp_path, monkeypatch) -> None:
    (tmp_path / "file").write_text("x")
    for folder, message in (
        (tmp_path / "file", "is a file, expected a folder"),
        (tmp_path / "file" / "deeper", "cannot be created"),
        (photos / "out", "is inside"),
    ):
        code, _, err = run(bundle, photos, "-o", folder)
        assert code == 2
        assert message in err
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    code, _, err = run(bundle, photos, "-o", tmp_path / "out")
    assert code == 2
    assert "is not writable" in err


# Metrics --------------------------------------------------------------------------------------


def test_a_requested_metric_must_run(run, bundle, photos, tmp_path, no_pyiqa) -> None:
    for metric, message in (
        ("lpips", "pip install 'elir-deploy[metrics]'"),
        ("ids", "pyiqa has no ArcFace"),
    ):
        code, _, err = run(bundle, photos, "-o", tmp_path / "out", "--metric", metric)
        assert code == 4
        assert message in err
    code, out, _ = run(bundle, photos, "-o", tmp_path / "out")
    assert code == 0
    assert "not run: LPIPS: pyiqa is needed" in out


def test_metrics_of_pyiqa_are_in_the_table(run, bundle, photos, tmp_path, pyiqa) -> None:
    pyiqa.values.update({"niqe": 5.5, "fid": 33.25})
    out = tmp_path / "out"
    code, printed, _ = run(bundle, photos, "-o", out, "--metric", "niqe", "--metric", "fid")
    assert code == 0
    assert set(means(report_in(out), "niqe").values()) == {5.5}
    assert set(means(report_in(out), "fid").values()) == {33.25}
    assert "FID of 4 images is biased upwards" in printed


def test_without_scikit_image_or_matplotlib(
    run, bundle, photos, tmp_path, monkeypatch, no_pyiqa
) -> None:
    original = imports.find_spec
    for missing in ("skimage", "matplotlib"):
        monkeypatch.setattr(
            imports, "find_spec", lambda name, m=missing: None if name == m else original(name)
        )
        code, _, err = run(bundle, photos, "-o", tmp_path / "out")
        assert code == 4
        assert f"{missing} is needed" in err
        assert "elir-deploy[eval]" in err
    assert run(bundle, photos, "-o", tmp_path / "out", "--no-figures")[0] == 0


def test_the_choices_are_the_metrics() -> None:
    assert [choice.value for choice in command.MetricName] == list(METRICS)


# Checkpoints ----------------------------------------------------------------------------------


def test_a_checkpoint_and_its_bundle_agree(
    run, weights, checkpoint, photos, tmp_path, no_pyiqa
) -> None:
    pytest.importorskip("onnxscript")
    from elir_deploy.export.pipeline import ExportOptions, export_bundle

    exported = tmp_path / "exported"
    export_bundle(replace(checkpoint), exported, ExportOptions(("fp32",), floor_db=40))
    for model, out in ((weights, "eager"), (exported, "bundle")):
        assert run(model, photos, "-o", tmp_path / out, "--no-figures")[0] == 0
    eager, exported_report = (report_in(tmp_path / name) for name in ("eager", "bundle"))
    assert means(eager, "psnr")["input"] == means(exported_report, "psnr")["input"]
    assert means(eager, "psnr")["restored"] == pytest.approx(
        means(exported_report, "psnr")["restored"], abs=0.01
    )
    for one, other in zip(eager["images"], exported_report["images"], strict=True):
        assert one["values"]["restored"]["psnr"] == pytest.approx(
            other["values"]["restored"]["psnr"], abs=0.01
        )
    assert set(means(eager, "psnr")) - set(means(exported_report, "psnr")) == {"coarse estimate"}


def test_curves_and_steps_of_a_checkpoint(run, weights, photos, tmp_path, no_pyiqa) -> None:
    out = tmp_path / "out"
    steps = ["--euler-steps", 1, "--euler-steps", 2, "--euler-steps", 4]
    code, printed, err = run(
        weights, photos, "-o", out, *steps, "--sigma-s", 0, "--sigma-s", 0.5, "--steps"
    )
    assert code == 0, err
    report = report_in(out)
    assert [row.split(",")[1].strip() for row in report["curves"]["steps"]["rows"]] == [
        "M = 1", "M = 2", "M = 4",
    ]  # fmt: skip
    assert len(report["curves"]["sigma_s"]["rows"]) == 2
    assert len(set(means(report, "psnr").values())) == 2 + 1 + 3 + 2
    assert "Over the steps M" in printed
    assert report["pictures"] == [
        "sheet.png", "curve-steps.png", "curve-sigma-s.png", "steps.png", "trajectories.png",
    ]  # fmt: skip
    assert size_of(out / "curve-steps.png") == (720, 560)
    assert size_of(out / "sheet.png") == (GAP + 4 * PANEL, 24 + 4 * (64 + 24 + GAP))
    # Input, coarse estimate, z_0, three steps of the task's own M, truth.
    assert size_of(out / "steps.png") == (GAP + 7 * PANEL, 24 + 3 * (64 + 24 + GAP))
    assert size_of(out / "trajectories.png") == (1120, 1440)


def test_one_number_of_steps_makes_no_curve(run, weights, photos, tmp_path, no_pyiqa) -> None:
    out = tmp_path / "out"
    assert run(weights, photos, "-o", out, "--euler-steps", 5, "--limit", 1, "--size", 32)[0] == 0
    report = report_in(out)
    assert (report["model"]["steps"], report["model"]["image_size"]) == (5, 32)
    assert report["curves"] == {}
    assert [row["label"] for row in report["rows"]] == ["input", "coarse estimate", "restored"]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--backend", "onnxruntime"], "a checkpoint runs on torch in fp32"),
        (["--precision", "fp16"], "a checkpoint runs on torch in fp32"),
        (["--size", "50"], "image size is 50"),
        (["--euler-steps", "1000"], "steps is 1000"),
        (["--sigma-s", "inf"], "sigma_s is inf"),
        (["--sigma-s", "-1"], "--sigma-s"),
        (["--task", "bfr"], "was saved for task tiny, not bfr"),
        (["--no-figures", "--steps"], "leave out --no-figures"),
    ],
)
def test_bad_usage_of_a_checkpoint_is_exit_2(
    run,
    weights,
    photos,
    tmp_path,
    option,
    message,
) -> None:
    code, _, err = run(weights, photos, "-o", tmp_path / "out", *option)
    assert code == 2
    assert message in err


def test_random_weights_are_a_warning(run, photos, tmp_path, no_pyiqa) -> None:
    out = tmp_path / "out"
    code, printed, err = run(
        "random", photos, "--task", "tiny", "-o", out, "--size", SIZE, "--limit", 1, "--no-figures"
    )
    assert code == 0
    assert "warning: the weights are random" in err
    assert "warning: the weights are random" in printed
    code, _, err = run("random", photos, "-o", out)
    assert code == 2
    assert "--task" in err


def test_a_mistyped_bundle_without_torch(run, photos, tmp_path, monkeypatch) -> None:
    original = imports.find_spec
    monkeypatch.setattr(
        imports, "find_spec", lambda name: None if name == "torch" else original(name)
    )
    code, _, err = run("budnle", photos, "-o", tmp_path / "out")
    assert code == 4
    assert "budnle is not a bundle, and a checkpoint needs torch" in err


def test_a_bundle_is_measured_without_torch(bundle, photos, tmp_path) -> None:
    program = f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "onnx", "safetensors"):
            raise ModuleNotFoundError(name, name=name)
sys.meta_path.insert(0, Absent())
sys.argv = ["elir-eval", {str(bundle)!r}, {str(photos)!r}, "-o", {str(tmp_path / "o")!r}]
from elir_deploy.cli.eval import main
main()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert report_in(tmp_path / "o")["data"]["measured"] == 4


# The rest -------------------------------------------------------------------------------------


def test_help_teaches(run) -> None:
    code, printed, _ = run("--help")
    assert code == 0
    assert "elir-eval bfr faces/ -o quality" in printed
    for option in ("--input", "--metric", "--euler-steps", "--sigma-s", "--steps", "--limit"):
        assert option in printed


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interruption_leaves_nothing(bundle, tmp_path, number: int, code: int) -> None:
    album, out = tmp_path / "album", tmp_path / "out"
    first = save(album / "0.png", photo(0, 300, 300))
    for i in range(1, 1000):
        os.link(first, album / f"{i}.png")
    arguments = [sys.executable, "-m", "elir_deploy.cli.eval", bundle, album, "-o", out]
    with subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("measuring 100/"):
                break
        assert out.is_dir()
        process.send_signal(number)
        error = process.stderr.read()
        assert process.wait(timeout=30) == code, error
    assert "Traceback" not in error
    assert not out.exists()


def test_a_failed_write_leaves_the_older_result(
    run, bundle, photos, tmp_path, monkeypatch, no_pyiqa
) -> None:
    out = tmp_path / "out"
    assert run(bundle, photos, "-o", out, "--limit", 1)[0] == 0
    before = (out / "quality.json").read_bytes()

    def full(path: object, content: str) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(command, "write_text", full)
    code, printed, err = run(bundle, photos, "-o", out)
    assert (code, printed) == (2, "")
    assert "No space left" in err
    assert (out / "quality.json").read_bytes() == before
    assert sorted(os.listdir(out)) == ["quality.json", "quality.md", "sheet.png"]
