from __future__ import annotations

import math
import os
import tempfile

import numpy as np
import pytest

from elir_deploy.errors import ImageError, UnavailableError
from elir_deploy.samples import Skipped
from elir_deploy.training.evaluation import evaluate
from elir_deploy.training.metrics import MetricSet
from elir_deploy.training.subjects import Variant
from tests.training.synthetic import Shifter, samples, trace


def db(levels: int) -> float:
    return 20 * math.log10(255 / levels)


def always() -> MetricSet:
    return MetricSet([], required=False)


def test_every_row_has_its_known_psnr() -> None:
    subject = Shifter(steps=[1, 10, 40])
    found = evaluate(subject, samples(3), always(), total=3)
    psnr = {row.label: row.mean("psnr").value for row in found.rows}
    assert list(psnr) == [
        "input",
        "coarse estimate",
        "restored, M = 2, sigma_s = 0.1",
        "restored, M = 1, sigma_s = 0.1",
        "restored, M = 10, sigma_s = 0.1",
        "restored, M = 40, sigma_s = 0.1",
    ]
    known = [db(40), db(20), db(38), db(39), db(30), math.inf]
    assert list(psnr.values()) == pytest.approx(known)
    assert found.restored(Variant(10, 0.1)).label == "restored, M = 10, sigma_s = 0.1"
    assert all(len(row.scores["blur"]) == 3 for row in found.rows)


def test_without_a_coarse_estimate() -> None:
    found = evaluate(Shifter(coarse=False), samples(1), always(), total=1, show=1)
    assert [row.label for row in found.rows] == ["input", "restored"]
    assert found.shown[0].coarse is None


def test_what_is_left_out_is_told_and_counted() -> None:
    told, progress = [], []
    items = [*samples(1), Skipped("b.png", "b.png is cut off"), *samples(1)]
    found = evaluate(
        Shifter(),
        items,
        always(),
        total=3,
        on_input_warning=told.append,
        on_progress=lambda *state: progress.append(state),
    )
    assert told == ["b.png is cut off"]
    assert [item.name for item in found.skipped] == ["b.png"]
    assert len(found.images) == 2
    assert progress == [("measuring", done, 3) for done in range(4)]


def test_only_the_first_are_kept() -> None:
    traced = []

    def tracer(name, low, truth):
        traced.append(name)
        return trace(name)

    found = evaluate(Shifter(), samples(5), always(), total=5, show=2, tracer=tracer, traces=1)
    assert [item.name for item in found.shown] == ["0.png", "1.png"]
    np.testing.assert_array_equal(found.shown[1].restored, found.shown[1].input + 2)
    assert traced == ["0.png"]
    assert [item.name for item in found.traces] == ["0.png"]


def test_no_image_at_all() -> None:
    with pytest.raises(ImageError, match="not one of 1 images could be measured; the first: bad"):
        evaluate(Shifter(), [Skipped("a", "bad")], always(), total=1)


def test_a_metric_that_fails_on_one_image_has_no_values(pyiqa) -> None:
    metrics = MetricSet(["niqe"], required=False)
    items = iter(samples(3))

    def failing_later():
        yield next(items)
        pyiqa.values["niqe"] = ValueError("no block fits")
        yield from items

    found = evaluate(Shifter(), failing_later(), metrics, total=3)
    assert metrics.not_run == {"niqe": "pyiqa's niqe failed: no block fits"}
    assert all("niqe" not in row.scores for row in found.rows)
    assert all(len(row.scores["psnr"]) == 3 for row in found.rows)


def test_one_that_was_asked_for_ends_the_run(pyiqa) -> None:
    pyiqa.values["niqe"] = ValueError("no block fits")
    with pytest.raises(UnavailableError, match="no block fits"):
        evaluate(Shifter(), samples(1), MetricSet(["niqe"], required=True), total=1)


def test_sets_of_images_lie_in_files_for_as_long_as_needed(pyiqa, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    metrics = MetricSet(["fid"], required=True)
    found = evaluate(Shifter(), samples(4), metrics, total=4)
    assert [row.mean("fid").value for row in found.rows] == [40.0] * 3
    assert found.rows[0].mean("fid").standard_error is None
    folders = [call["fdir1"] for _, call in pyiqa.calls]
    assert len(set(folders)) == 3
    assert all(call["files"] == [4, 4] for _, call in pyiqa.calls)
    assert os.listdir(tmp_path) == []


def test_fid_of_one_image_is_not_run(pyiqa) -> None:
    metrics = MetricSet(["fid"], required=False)
    evaluate(Shifter(), samples(1), metrics, total=1)
    assert metrics.not_run == {"fid": "FID needs at least two images"}
    assert pyiqa.calls == []
