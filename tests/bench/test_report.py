"""What is written down, and that it is strict JSON and readable."""

from __future__ import annotations

import contextlib
import json
import math

import pytest

from elir_deploy.bench.contenders import Fidelity, Unavailable
from elir_deploy.bench.device import describe_device
from elir_deploy.bench.protocols import BenchProtocol, Measurement
from elir_deploy.bench.report import (
    SCHEMA_VERSION,
    build_report,
    check_writable,
    markdown,
    text,
    to_json,
)
from elir_deploy.errors import OutputError
from elir_deploy.runtime import Bundle
from elir_deploy.tasks import TASKS
from tests.bench.synthetic import FakeClock, SyntheticContender
from tests.bundles import make_bundle, read_manifest, write_manifest


@pytest.fixture
def bundle(tmp_path) -> Bundle:
    return Bundle.open(make_bundle(tmp_path / "b", random=True))


def report_of(bundle, *, images=20, stop_after=None, elsewhere=None, jitter=0.0):
    clock = FakeClock()

    class Stopping(SyntheticContender):
        def restore(self, image):
            if stop_after is not None and len(self.images) >= stop_after:
                raise KeyboardInterrupt
            return super().restore(image)

    contenders = [
        SyntheticContender("eager", clock, 0.4),
        Stopping("fast", clock, lambda k: 0.1 * (1 + jitter * (k % 2))),
    ]
    measurement = Measurement(
        contenders, BenchProtocol("paper", "", 0, images), (8, 8, 3), clock=clock
    )
    with contextlib.suppress(KeyboardInterrupt):
        measurement.run()
    return build_report(
        measurement,
        contenders,
        {"eager": Fidelity(None, 0, "the reference itself"), "fast": Fidelity(math.inf, 2, "x")},
        [Unavailable("onnxruntime-cuda", "no driver")],
        bundle,
        describe_device(),
        seed=0,
        threads=2,
        cores_elsewhere=elsewhere,
    )


def test_the_json_holds_all_samples_and_is_strict(bundle):
    report = json.loads(to_json(report_of(bundle)), parse_constant=pytest.fail)
    assert report["schema_version"] == SCHEMA_VERSION
    assert report["complete"] is True
    eager, fast = report["contenders"]
    for row, seconds in ((eager, 0.4), (fast, 0.1)):
        assert row["image"]["samples_s"] == [seconds] * 20
        assert row["image"]["mean_s"] == seconds
        assert row["device"]["mean_s"] == pytest.approx(0.9 * seconds)
        assert len(row["started_s"]) == 20
        assert row["fps"] == pytest.approx(1 / seconds)
    assert eager["speedup"]["ratio"] == 1
    assert (fast["speedup"]["over"], fast["speedup"]["ratio"]) == ("eager", pytest.approx(4))
    assert fast["fidelity"] == {"psnr_db": None, "identical": True, "images": 2, "note": "x"}
    assert report["unavailable"] == [{"label": "onnxruntime-cuda", "reason": "no driver"}]
    assert report["warnings"] == []
    assert report["model"]["random_weights"] is True


def test_the_tables_say_what_matters(bundle):
    report = report_of(bundle)
    for shown in (text(report), markdown(report)):
        assert "eager" in shown
        assert "4.00 [4.00, 4.00]" in shown
        assert "identical" in shown
        assert "random weights: speed only" in shown
        assert "not measured: onnxruntime-cuda: no driver" in shown
        assert "PSNR of eager: the reference itself" in shown
    assert all(len(line) <= 110 for line in text(report).splitlines()[4:9])


def test_an_unsteady_series_is_warned_of(bundle):
    (warning,) = report_of(bundle, jitter=0.2)["warnings"]
    assert "coefficient of variation above 2.5%: fast 9.0%" in warning
    assert "cpupower" in warning


def test_a_busy_machine_is_warned_of(bundle):
    warnings = report_of(bundle, elsewhere={"other_programs": 1.5, "stolen": 0.0})["warnings"]
    (warning,) = warnings
    assert warning.startswith("other programs kept 1.50 cores busy during the run")


@pytest.mark.parametrize(("calls", "done"), [(0, 0), (6, 5), (12, 10)])
def test_an_interrupted_run(bundle, calls, done):
    report = report_of(bundle, stop_after=calls)
    assert report["complete"] is False
    assert report["warnings"][0] == f"interrupted after {done} of 20 images"
    json.loads(to_json(report), parse_constant=pytest.fail)
    assert f"interrupted after {done} of 20 images" in text(report)
    assert f"interrupted after {done} of 20 images" in markdown(report)


@pytest.mark.parametrize(("steps", "shown"), [(5, True), (3, False)])
def test_the_papers_figure_stands_beside_the_papers_model_only(tmp_path, steps, shown):
    folder = make_bundle(tmp_path / "bfr", size=512, task="bfr", faces=True, references=False)
    manifest = read_manifest(folder)
    manifest["model"] |= {"steps": steps, "architecture": TASKS["bfr"].architecture.to_dict()}
    write_manifest(folder, manifest)
    report = report_of(Bundle.open(folder))
    assert (report["paper"] is not None) == shown
    assert ("19.51 FPS on NVIDIA RTX 2080 Ti" in text(report)) == shown


def test_places_that_cannot_be_written(tmp_path):
    with pytest.raises(OutputError, match="there is no folder"):
        check_writable(tmp_path / "none" / "r.json")
    with pytest.raises(OutputError, match="is a folder"):
        check_writable(tmp_path)
    check_writable(tmp_path / "r.json")
