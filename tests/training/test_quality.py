from __future__ import annotations

import json

import numpy as np
import pytest

from elir_deploy.paired_images import Skipped
from elir_deploy.training.evaluation import evaluate
from elir_deploy.training.metrics import MetricSet, default_metrics
from elir_deploy.training.quality import build_report, curve_metric, markdown, text, to_json
from tests.training.synthetic import Shifter, samples


def report_of(subject: Shifter, requested=(), items=None, **changes):
    metrics = MetricSet(requested, required=False, faces=subject.faces, side=512)
    items = samples(3) if items is None else items
    evaluation = evaluate(subject, items, metrics, total=len(items))
    arguments = {"images": "photos", "degraded": None, "seed": 5} | changes
    return build_report(subject, evaluation, metrics, **arguments), evaluation


@pytest.fixture
def report(no_pyiqa):
    return report_of(Shifter(task="bfr"), default_metrics("bfr"), pictures=["sheet.png"])[0]


def test_json_round_trip(report) -> None:
    read = json.loads(to_json(report), parse_constant=pytest.fail)
    assert read == report
    assert read["data"]["measured"] == 3
    assert read["data"]["degradation"] == "bfr"
    rows = {row["label"]: row for row in read["rows"]}
    values = [image["values"]["input"]["psnr"] for image in read["images"]]
    assert len(values) == 3
    assert rows["input"]["means"]["psnr"]["mean"] == pytest.approx(np.mean(values))
    assert rows["restored"]["steps"] == 2


def test_the_papers_row_names_its_images(report) -> None:
    table = [line for line in markdown(report).splitlines() if line.startswith("|")]
    assert table[0] == (
        "| mean ± standard error | PSNR dB | SSIM | LPIPS | IDS deg | FID | NIQE | MUSIQ | blur |"
    )
    assert table[-1] == (
        "| paper: CelebA-Test, not your images | 25.85 | 0.7009 | 0.3748 | 34.38 | 41.96 | 4.33 "
        "| 70.52 | - |"
    )
    (restored,) = (line for line in table if line.startswith("| restored"))
    assert restored.count("not run") == 5
    assert "paper: Table 1(a)" in text(report)


def test_reasons_for_metrics_not_run(report) -> None:
    printed = text(report)
    assert "not run: LPIPS: pyiqa is needed to measure LPIPS" in printed
    assert "not run: IDS: pyiqa has no ArcFace" in printed
    assert printed.isascii()


def test_a_task_the_paper_does_not_have(no_pyiqa) -> None:
    report, _ = report_of(Shifter(), default_metrics("tiny"))
    assert report["paper"] is None
    lines = markdown(report).splitlines()
    assert "| mean ± standard error | PSNR dB | SSIM | blur |" in lines
    assert not any("paper" in line for line in lines)


def test_identical_images(no_pyiqa) -> None:
    report, _ = report_of(Shifter(steps=[40]))
    row = report["rows"][-1]
    assert row["means"]["psnr"] == {
        "mean": None, "infinite": True, "standard_error": None, "count": 3,
    }  # fmt: skip
    assert report["images"][0]["values"]["restored"]["psnr"] is None
    assert "identical" in text(report)


def test_mean_and_standard_error_are_those_of_the_values(no_pyiqa) -> None:
    report, evaluation = report_of(Shifter())
    values = evaluation.rows[0].scores["blur"]
    mean, error = np.mean(values), np.std(values, ddof=1) / np.sqrt(3)
    (line,) = (line for line in text(report).splitlines() if line.startswith("input"))
    assert line.endswith(f"{mean:.4f} +- {error:.4f}")


def test_a_curve_has_its_own_table(no_pyiqa) -> None:
    report, evaluation = report_of(Shifter(steps=[1, 2, 10]))
    assert curve_metric(evaluation) == "blur"
    assert report["curves"]["steps"]["metrics"] == ["psnr", "blur"]
    lines = markdown(report).splitlines()
    start = lines.index("Over the steps M:")
    rows = [line.split("|")[1].strip() for line in lines[start + 2 : start + 7]]
    assert rows == ["M", "---", "1", "2", "10"]
    main = lines[: lines.index("Over the steps M:")]
    assert sum(line.startswith("| restored") for line in main) == 1


def test_curves_prefer_perceptual_metrics_to_blur(pyiqa) -> None:
    _, evaluation = report_of(Shifter(), ["niqe"])
    assert curve_metric(evaluation) == "niqe"
    report, evaluation = report_of(Shifter(), ["niqe", "fid"])
    assert curve_metric(evaluation) == "fid"
    assert "FID is against the truths" in text(report)
    assert "FID of 3 images is biased upwards" in text(report)


def test_skipped_and_degraded_images(no_pyiqa) -> None:
    items = [*samples(1), Skipped("b|c.png", "photos/b.png is cut off")]
    report, _ = report_of(Shifter(), (), items, degraded="low")
    printed = markdown(report)
    assert "- 1 images of photos, degraded images from low" in printed
    assert "- photos/b.png is cut off" in printed
    assert "warning: 1 of 2 images skipped" in printed
    assert report["data"]["seed"] is None


def test_random_weights_are_a_warning(no_pyiqa) -> None:
    subject = Shifter()
    subject.description["random_weights"] = True
    report, _ = report_of(subject)
    assert "warning: the weights are random" in text(report)


def test_pictures_are_linked(report) -> None:
    assert "![sheet.png](sheet.png)" in markdown(report)
