"""Bundles as runners: two timings, fidelity, and what is missing."""

from __future__ import annotations

import numpy as np
import pytest

from elir_deploy.bench.measurement import random_image
from elir_deploy.bench.runners import BundleRunner, open_restorers
from elir_deploy.errors import BundleError, UnavailableError, UsageError
from elir_deploy.pixels import psnr_db
from elir_deploy.runtime import Bundle
from elir_deploy.runtime.backends import BACKENDS
from elir_deploy.runtime.backends.onnxruntime import OnnxRuntimeBackend
from elir_deploy.runtime.backends.openvino import OpenVinoBackend
from tests.bench.synthetic import FakeClock
from tests.bundles import make_bundle


@pytest.fixture
def bundle(tmp_path) -> Bundle:
    return Bundle.open(make_bundle(tmp_path / "b", precisions=("fp32", "fp16"), bias=0.1))


def test_the_session_alone_is_device_time(bundle, monkeypatch):
    clock = FakeClock()
    original = OnnxRuntimeBackend.open

    def open_slow(self, *args, **kwargs):
        session = original(self, *args, **kwargs)
        run = session.run

        def slow_run() -> None:
            run()
            clock.advance(0.25)

        session.run = slow_run
        return session

    monkeypatch.setattr(OnnxRuntimeBackend, "open", open_slow)
    runner = BundleRunner(bundle, "onnxruntime", "fp32", threads=1, clock=clock)
    image = random_image((32, 32, 3), 0, 0, 0)
    for _ in range(2):
        restored = runner.restore(image)
        assert runner.device_ns == 250_000_000
    expected = np.rint(np.clip(image / 255 + 0.1, 0, 1) * 255)
    assert np.abs(restored - expected).max() <= 1
    runner.close()


def test_description(bundle):
    runner = BundleRunner(bundle, "onnxruntime", "fp16", threads=1)
    assert runner.label == "onnxruntime fp16"
    assert runner.version.startswith("onnxruntime 1.")
    (artifact,) = runner.artifacts
    assert artifact.file == "fused.fp16.onnx"
    assert len(artifact.sha256) == 64
    runner.close()


@pytest.mark.parametrize("io", ["uint8", "float32"])
def test_fidelity_against_the_references(tmp_path, io):
    # The reference output is the input: without bias the two are identical.
    exact = Bundle.open(make_bundle(tmp_path / "exact", io=io))
    off = Bundle.open(make_bundle(tmp_path / "off", io=io, bias=10 / 255, exact=False))
    for bundle, expected in ((exact, None), (off, 28.1)):
        runner = BundleRunner(bundle, "onnxruntime", "fp32", threads=1)
        fidelity = runner.fidelity(bundle)
        runner.close()
        assert fidelity.identical == (expected is None)
        assert fidelity.psnr_db == pytest.approx(expected, abs=0.5)
        assert fidelity.images == 1
    assert fidelity.note == "against float32 PyTorch, worst image"


def test_random_weights_have_no_fidelity(tmp_path):
    bundle = Bundle.open(make_bundle(tmp_path / "b", random=True))
    runner = BundleRunner(bundle, "onnxruntime", "fp32", threads=1)
    fidelity = runner.fidelity(bundle)
    runner.close()
    assert (fidelity.psnr_db, fidelity.images) == (None, 0)
    assert fidelity.note.startswith("random weights: ")


def test_fidelity_of_values_that_are_none(tmp_path):
    """As in a restore: black."""
    bundle = Bundle.open(make_bundle(tmp_path / "b", io="float32"))
    runner = BundleRunner(bundle, "onnxruntime", "fp32", threads=1)
    session = runner._restorer.session
    session.run = lambda: session.output.fill(np.nan)
    ((_, _, reference),) = bundle.reference_images()
    with np.errstate(all="raise"):
        assert runner.fidelity(bundle).psnr_db == psnr_db(np.zeros_like(reference), reference)
    runner.close()


def test_a_bundle_without_references(tmp_path):
    bundle = Bundle.open(make_bundle(tmp_path / "b", references=False))
    runner = BundleRunner(bundle, "onnxruntime", "fp32", threads=1)
    assert runner.fidelity(bundle).psnr_db is None
    runner.close()


def test_all_that_a_bundle_holds_by_default(bundle):
    runners, missing = open_restorers(bundle, None, None, threads=1)
    labels = [c.label for c in runners]
    assert [label for label in labels if "onnxruntime" in label] == [
        *("onnxruntime fp32", "onnxruntime fp16")
    ]
    automatic = {b.name for b in BACKENDS.values() if b.automatic and b.held_precisions(bundle)}
    named = {*labels, *(item.label for item in missing)}
    assert {name.partition(" ")[0] for name in named} == automatic
    for runner in runners:
        runner.close()


def test_what_is_missing_is_said_and_the_rest_opened(bundle):
    runners, missing = open_restorers(
        bundle, ["onnxruntime", "onnxruntime-cuda"], ["fp32", "int8"], threads=1
    )
    assert [c.label for c in runners] == ["onnxruntime fp32"]
    reasons = {item.label: item.reason for item in missing}
    assert "has no int8 files" in reasons["onnxruntime int8"]
    assert "CUDA" in reasons["onnxruntime-cuda"]
    runners[0].close()


def test_bf16_runs_the_float32_files(bundle, monkeypatch):
    monkeypatch.setattr(OpenVinoBackend, "available", lambda self: None)
    monkeypatch.setattr(OpenVinoBackend, "unsupported", lambda self, p: "no such instructions")
    wanted = ["openvino", "onnxruntime"]
    runners, missing = open_restorers(bundle, wanted, ["bf16"], threads=1)
    assert not runners
    assert {item.label: item.reason for item in missing} == {
        "openvino bf16": "no such instructions",
        "onnxruntime bf16": "it does not run in bf16",
    }


@pytest.mark.skipif(
    BACKENDS["openvino"].available() is not None
    or BACKENDS["openvino"].unsupported("bf16") is not None,
    reason="no OpenVINO, or no bf16 instructions",
)
def test_bf16_is_measured_where_it_runs(bundle):
    runners, missing = open_restorers(bundle, ["openvino"], None, threads=1)
    assert not missing
    assert [c.label for c in runners] == ["openvino fp32", "openvino fp16", "openvino bf16"]
    (artifact,) = runners[2].artifacts
    assert (artifact.file, artifact.precision) == ("fused.fp32.onnx", "fp32")
    assert runners[2].fidelity(bundle).psnr_db is not None
    for runner in runners:
        runner.close()


def test_a_device_that_refuses_is_missing_but_damage_is_an_error(bundle, monkeypatch):
    def refuse(*args, **kwargs):
        raise UnavailableError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(OnnxRuntimeBackend, "open", refuse)
        runners, missing = open_restorers(bundle, ["onnxruntime"], ["fp32"], threads=1)
    assert not runners
    assert [(m.label, m.reason) for m in missing] == [("onnxruntime fp32", "out of memory")]
    file = bundle.path / "fused.fp32.onnx"
    data = bytearray(file.read_bytes())
    data[50] ^= 1
    file.write_bytes(data)
    with pytest.raises(BundleError, match="is damaged"):
        open_restorers(bundle, ["onnxruntime"], ["fp32"], threads=1)


def test_an_unknown_backend(bundle):
    with pytest.raises(UsageError, match="unknown backend 'abacus'"):
        open_restorers(bundle, ["abacus"], None, threads=1)
