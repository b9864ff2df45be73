"""Variants of ONNX Runtime's CUDA provider, on a stand-in for the device."""

from __future__ import annotations

from pathlib import Path

import onnxruntime
import pytest

from benchmarks.gpu_options import QUANTISED, VARIANTS, measure
from elir_deploy.runtime import Bundle
from elir_deploy.runtime.onnxruntime_stage import OnnxRuntimeStage
from tests.bundles import make_bundle
from tests.runtime.stand_in_cuda import StandInGpu
from tests.runtime.test_onnxruntime_stage import Loaded, gpu

__all__ = ["gpu"]

Session = onnxruntime.InferenceSession


@pytest.fixture(autouse=True)
def _undone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "SessionOptions", onnxruntime.SessionOptions)
    monkeypatch.setattr(OnnxRuntimeStage, "capturable", False)


@pytest.mark.parametrize("variant", ["as the backend has it", "captured, Q/DQ not paired, TF32"])
def test_a_variant_has_its_options(tmp_path: Path, gpu: StandInGpu, variant: str) -> None:
    options = (VARIANTS | QUANTISED)[variant]
    bundle = Bundle.open(make_bundle(tmp_path / "b", stride=8))
    cells = measure(bundle, "fp32", options)
    assert cells[3:] == ["inf", ""]
    changed = bool(options)
    assert Loaded.asked[0]["use_tf32"] == str(int(changed))
    assert ("cudaStreamBeginCapture" in gpu.calls) == changed
    settings = onnxruntime.SessionOptions()
    if changed:
        assert settings.get_session_config_entry("session.disable_quant_qdq") == "1"
    path = bundle.checked_file(bundle.manifest.artifacts[0].file)
    Session(str(path), settings, providers=["CPUExecutionProvider"])  # the library takes them
    assert gpu.leaked == {}
