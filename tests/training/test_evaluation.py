from __future__ import annotations

import math
import os
import tempfile

import numpy as np
import pytest

from elir_deploy.errors import ImageError, UnavailableError
from elir_deploy.paired_images import Skipped
from elir_deploy.training.evaluation import evaluate
from elir_deploy.training.metrics import MetricSet
from elir_deploy.training.subjects import Variant
from tests.training.synthetic import Shifter, samples, trace


def db(levels: int) -> float:
    return 20 * math.log10(255 / levels)


def always() -> MetricSet:
    return MetricSet([], required=False)


def test_every_row_has_the_expected_psnr() -> None:
    subject = Shifter(steps=[1, 10, 40])
    result = evaluate(subject, samples(3), always(), total=3)
    psnr = {row.label: row.mean("psnr").value for row in result.rows}
    assert list(psnr) == [
        "input",
        "coarse estimate",
        "restored, M = 2, sigma_s = 0.1",
        "restored, M = 1, sigma_s = 0.1",
        "restored, M = 10, sigma_s = 0.1",
        "restored, M = 40, sigma_s = 0.1",
    ]
    expected = [db(40), db(20), db(38), db(39), db(30), math.inf]
    assert list(psnr.values()) == pytest.approx(expected)
    assert result.restored(Variant(10, 0.1)).label == "restored, M = 10, sigma_s = 0.1"
    assert all(len(row.scores["blur"]) == 3 for row in result.rows)


def test_without_a_coarse_estimate() -> None:
    result = evaluate(Shifter(coarse=False), samples(1), always(), total=1, show=1)
    assert [row.label for row in result.rows] == ["input", "restored"]
    assert result.shown[0].coarse is None


def test_skipped_images_are_reported() -> None:
    warnings, progress = [], []
    items = [*samples(1), Skipped("b.png", "b.png is cut off"), *samples(1)]
    result = evaluate(
        Shifter(),
        items,
        always(),
        total=3,
        on_input_warning=warnings.append,
        on_progress=lambda *state: progress.append(state),
    )
    assert warnings == ["b.png is cut off"]
    assert [item.name for item in result.skipped] == ["b.png"]
    assert len(result.images) == 2
    assert progress == [("measuring", done, 3) for done in range(4)]


def test_only_the_first_images_are_shown_and_traced() -> None:
    traced = []

    def tracer(name, low, truth):
        traced.append(name)
        return trace(name)

    result = evaluate(Shifter(), samples(5), always(), total=5, show=2, tracer=tracer, traces=1)
    assert [item.name for item in result.shown] == ["0.png", "1.png"]
    np.testing.assert_array_equal(result.shown[1].restored, result.shown[1].input + 2)
    assert traced == ["0.png"]
    assert [item.name for item in result.traces] == ["0.png"]


def test_no_image_at_all() -> None:
    with pytest.raises(ImageError, match="none of 1 images could be measured; the first: bad"):
        evaluate(Shifter(), [Skipped("a", "bad")], always(), total=1)


def test_a_metric_that_fails_on_one_image_has_no_values(pyiqa) -> None:
    metrics = MetricSet(["niqe"], required=False)
    items = iter(samples(3))

    def failing_later():
        yield next(items)
        pyiqa.values["niqe"] = ValueError("no block fits")
        yield from items

    result = evaluate(Shifter(), failing_later(), metrics, total=3)
    assert metrics.not_run == {"niqe": "pyiqa's niqe failed: no block fits"}
    assert all("niqe" not in row.scores for row in result.rows)
    assert all(len(row.scores["psnr"]) == 3 for row in result.rows)


def test_a_required_metric_that_fails_ends_the_run(pyiqa) -> None:
    pyiqa.values["niqe"] = ValueError("no block fits")
    with pytest.raises(UnavailableError, match="no block fits"):
        evaluate(Shifter(), samples(1), MetricSet(["niqe"], required=True), total=1)


def test_metrics_of_sets_read_temporary_files(pyiqa, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    metrics = MetricSet(["fid"], required=True)
    result = evaluate(Shifter(), samples(4), metrics, total=4)
    assert [row.mean("fid").value for row in result.rows] == [40.0] * 3
    assert result.rows[0].mean("fid").standard_error is None
    folders = [call["fdir1"] for _, call in pyiqa.calls]
    assert len(set(folders)) == 3
    assert all(call["files"] == [4, 4] for _, call in pyiqa.calls)
    assert os.listdir(tmp_path) == []


def test_fid_of_one_image_is_not_run(pyiqa) -> None:
    metrics = MetricSet(["fid"], required=False)
    evaluate(Shifter(), samples(1), metrics, total=1)
    assert metrics.not_run == {"fid": "FID needs at least two images"}
    assert pyiqa.calls == []
