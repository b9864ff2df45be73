"""ONNX Runtime's GPU providers on a stand-in for the device: it loads and runs the graphs on the
CPU, on the bytes that are in the device's memory when the device comes to it."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from elir_deploy.errors import MissingDependencyError, UnavailableError
from elir_deploy.runtime import Restorer
from elir_deploy.runtime.backends import BACKENDS, onnxruntime
from elir_deploy.runtime.bundle import Bundle
from elir_deploy.runtime.cache import trim_compiled
from elir_deploy.runtime.onnxruntime_stage import OnnxRuntimeStage
from tests.bundles import make_bundle
from tests.runtime.stand_in_cuda import StandInGpu, Work

BACKEND = "onnxruntime-cuda"
TENSORRT = "onnxruntime-tensorrt"
_Session = ort.InferenceSession


class Loaded:
    """A session of the CUDA provider.

    Attributes:
        gpu: the device.
        sessions: all that were loaded.
        started: the provider that starts; empty: the one that was asked for.
        fails: what fails: nothing, ``load`` or ``run``.
    """

    gpu: StandInGpu
    sessions: list[Loaded]
    started = ""
    fails = ""

    def __init__(
        self, path: str, options: Any, *, providers: list[Any], enable_fallback: int
    ) -> None:
        if self.fails == "load":
            raise RuntimeError("[ONNXRuntimeError] : 1 : FAIL : no cuDNN")
        self.provider, self.options = providers[0]
        self._on_cpu = _Session(path, providers=["CPUExecutionProvider"])
        self.get_inputs, self.get_outputs = self._on_cpu.get_inputs, self._on_cpu.get_outputs
        self.bound: list[tuple[Any, ...]] = []
        self.sessions.append(self)

    def disable_fallback(self) -> None: ...

    def get_providers(self) -> list[str]:
        return [self.started or self.provider]

    def io_binding(self) -> Loaded:
        return self

    def bind_input(self, *where: Any) -> None:
        self.bound.append(where)

    bind_output = bind_input

    def run_with_iobinding(self, binding: Loaded, options: Any) -> None:
        assert options.get_run_config_entry("disable_synchronize_execution_providers") == "1"
        self.gpu.enter("ort.run")
        if self.fails == "run":
            raise RuntimeError("[ONNXRuntimeError] : 1 : FAIL : CUDNN_STATUS_NOT_INITIALIZED")
        (name, device, number, kind, shape, source), (_, _, _, _, _, sink) = self.bound
        assert (device, number) == ("cuda", 0)
        nbytes = int(np.prod(shape)) * np.dtype(kind).itemsize

        def compute() -> None:
            values = np.frombuffer(self.gpu.device_array(source, nbytes), kind, int(np.prod(shape)))
            (result,) = self._on_cpu.run(None, {name: values.reshape(shape)})
            self.gpu.device_array(sink, result.nbytes)[: result.nbytes] = result.tobytes()

        self.gpu.queue(
            int(self.options["user_compute_stream"]), Work("ort", (source, sink), compute)
        )


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> StandInGpu:
    gpu = StandInGpu().install(monkeypatch)
    monkeypatch.setattr(Loaded, "gpu", gpu, raising=False)
    monkeypatch.setattr(Loaded, "sessions", [], raising=False)
    monkeypatch.setattr("onnxruntime.InferenceSession", Loaded)
    monkeypatch.setattr(
        "onnxruntime.get_available_providers",
        lambda: ["CUDAExecutionProvider", "TensorrtExecutionProvider", "CPUExecutionProvider"],
    )
    monkeypatch.setattr(onnxruntime, "missing_cuda_device", lambda: None)
    return gpu


@pytest.mark.parametrize("io", ["uint8", "float32"])
@pytest.mark.parametrize("stages", ["fused", "split"])
def test_stages_share_a_stream_and_the_device(
    tmp_path: Path, gpu: StandInGpu, io: str, stages: str
) -> None:
    bundle = Bundle.open(make_bundle(tmp_path / "b", io=io, stages=stages, gain=0.5, bias=0.25))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of a capture that was tried
        session = BACKENDS[BACKEND].open(bundle, "fp32")
        rng = np.random.default_rng(0)
        for _ in range(4):
            gpu.calls.clear()
            session.input[...] = rng.integers(0, 2, session.input.shape)
            session.run()
            scale, expected = (255, np.rint) if io == "uint8" else (1, np.float32)
            np.testing.assert_array_equal(
                session.output, expected(session.input.astype(np.float32) * 0.5 + 0.25 * scale)
            )
            runs = ["ort.run"] * len(bundle.stages)
            copies = ["cudaMemcpyAsync", *runs, "cudaMemcpyAsync", "cudaStreamSynchronize"]
            assert [call for call in gpu.calls if call != "cudaGetDevice"] == copies
    assert len({loaded.options["user_compute_stream"] for loaded in Loaded.sessions}) == 1
    session.close()
    assert gpu.leaked == {}
    assert gpu.violations == []


def test_what_is_captured_ran_in_the_same_thread_before(
    tmp_path: Path, gpu: StandInGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As ``benchmarks/gpu_options.py`` tries it."""
    monkeypatch.setattr(OnnxRuntimeStage, "capturable", True)
    session = BACKENDS[BACKEND].open(Bundle.open(make_bundle(tmp_path / "b")), "fp32")
    for value in range(4):
        gpu.calls.clear()
        session.input[...] = value
        session.run()
        np.testing.assert_array_equal(session.output, session.input)
        if value == 1:
            steps = [call for call in gpu.calls if call in ("ort.run", "cudaStreamBeginCapture")]
            assert steps == ["ort.run", "cudaStreamBeginCapture", "ort.run"]
    assert "ort.run" not in gpu.calls
    session.close()
    assert gpu.leaked == {}
    assert gpu.violations == []


def test_a_run_that_fails_is_an_error_and_no_more(
    tmp_path: Path, gpu: StandInGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = BACKENDS[BACKEND].open(Bundle.open(make_bundle(tmp_path / "b")), "fp32")
    monkeypatch.setattr(Loaded, "fails", "run")
    with pytest.raises(UnavailableError, match=r"failed: FAIL : CUDNN.*can be used again"):
        session.run()
    monkeypatch.setattr(Loaded, "fails", "")
    session.input[...] = 7
    session.run()
    assert (session.output == 7).all()
    session.close()


@pytest.mark.parametrize("fails", ["load", "run"])
def test_a_missing_library_leads_to_the_next_backend(
    tmp_path: Path, gpu: StandInGpu, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    """cuDNN is missed when a graph is loaded or when it first runs."""
    monkeypatch.setattr(Loaded, "fails", fails)
    bundle = Bundle.open(make_bundle(tmp_path / "b"))
    with pytest.raises(UnavailableError, match=f"{BACKEND} in fp32: ") as caught:
        Restorer(bundle, BACKEND)
    assert "no cuDNN" in str(caught.value) or "CUDNN_STATUS" in str(caught.value)
    assert gpu.leaked == {}
    assert gpu.violations == []


def test_a_device_that_is_not_there(tmp_path: Path, gpu: StandInGpu) -> None:
    bundle = Bundle.open(make_bundle(tmp_path / "b"))
    with pytest.raises(UnavailableError, match="no CUDA device 3: the driver has 1"):
        Restorer(bundle, BACKEND, precision="fp32", device=3)


def test_cuda_python_is_needed(
    tmp_path: Path, gpu: StandInGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu.install(monkeypatch, library=None)
    monkeypatch.setattr(onnxruntime, "missing_cuda_device", lambda: None)
    assert "'elir-deploy[gpu]'" in str(BACKENDS[BACKEND].available())
    with pytest.raises(MissingDependencyError) as caught:
        BACKENDS[BACKEND].open(Bundle.open(make_bundle(tmp_path / "b")), "fp32")
    assert caught.value.extra == "gpu"


def test_libraries_of_python_packages_are_loaded_silently(
    tmp_path: Path,
    gpu: StandInGpu,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(ort, "preload_dlls", lambda: print("Failed to load"), raising=False)
    BACKENDS[BACKEND].open(Bundle.open(make_bundle(tmp_path / "b")), "fp32").close()
    monkeypatch.delattr(ort, "preload_dlls")  # as before 1.21
    BACKENDS[BACKEND].open(Bundle.open(make_bundle(tmp_path / "b2")), "fp32").close()
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("broken", [False, True])
def test_a_silent_fallback_is_refused(
    tmp_path: Path, gpu: StandInGpu, monkeypatch: pytest.MonkeyPatch, broken: bool
) -> None:
    """ONNX Runtime logs a provider that does not start and goes on with the CPU."""
    monkeypatch.setattr(Loaded, "started", "CPUExecutionProvider")
    library = tmp_path / "capi" / "libonnxruntime_providers_cuda.so"
    if broken:
        library.parent.mkdir()
        library.write_bytes(b"no library")
        monkeypatch.setattr(ort, "__file__", str(tmp_path / "__init__.py"))
    bundle = Bundle.open(make_bundle(tmp_path / "b"))
    with pytest.raises(UnavailableError, match="fell back to CPUExecutionProvider") as caught:
        BACKENDS[BACKEND].open(bundle, "fp32")
    assert ("file too short" in str(caught.value)) == broken
    assert gpu.leaked == {}


# Engines that the TensorRT provider compiles -----------------------------------------------------


def test_compiled_engines_of_two_files_are_kept_apart(
    tmp_path: Path, gpu: StandInGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    bundles = [
        Bundle.open(make_bundle(tmp_path / str(gain), gain=gain, precisions=("fp16",)))
        for gain in (0.5, 1.0)
    ]
    sessions = [BACKENDS[TENSORRT].open(opened, "fp16") for opened in bundles]
    hashes = [opened.manifest.artifacts[0].sha256 for opened in bundles]
    asked = [loaded.options["trt_engine_cache_path"] for loaded in Loaded.sessions]
    assert [Path(path).name for path in asked] == hashes
    assert all(Path(path).is_dir() for path in asked)
    assert hashes[0] != hashes[1]
    # What ONNX Runtime writes there counts, and stays as long as the session lives.
    for path in asked:
        (Path(path) / "x.engine").write_bytes(bytes(1000))
    monkeypatch.setenv("ELIR_CACHE_LIMIT", "1500")
    trim_compiled()
    assert [len(os.listdir(path)) for path in asked] == [1, 1]
    sessions[0].close()
    trim_compiled()
    assert [len(os.listdir(path)) for path in asked] == [0, 1]


@pytest.mark.parametrize("why", ["temporary", "limit"])
def test_compiled_engines_that_are_not_kept(
    tmp_path: Path, gpu: StandInGpu, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    monkeypatch.setenv("ELIR_CACHE", str(tmp_path / "cache"))
    if why == "limit":
        monkeypatch.setenv("ELIR_CACHE_LIMIT", "0")
    path = make_bundle(tmp_path / "b", precisions=("fp16",))
    BACKENDS[TENSORRT].open(Bundle.open(path, temporary=why == "temporary"), "fp16")
    assert "trt_engine_cache_enable" not in Loaded.sessions[0].options
    assert not (tmp_path / "cache").exists()


def test_no_place_for_compiled_engines(
    tmp_path: Path, gpu: StandInGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    opened = Bundle.open(make_bundle(tmp_path / "b", precisions=("fp16",)))
    monkeypatch.setenv("ELIR_CACHE", str(tmp_path / "file"))
    for variable, value, message in (
        ("ELIR_CACHE", str(tmp_path / "file"), "cannot be created: set ELIR_CACHE"),
        ("ELIR_CACHE_LIMIT", "1 GB", "ELIR_CACHE_LIMIT is 1 GB, expected"),
    ):
        monkeypatch.setenv(variable, value)
        with pytest.raises(UnavailableError, match=f"engines cannot be cached: .*{message}"):
            BACKENDS[TENSORRT].open(opened, "fp16")
    assert gpu.leaked == {}
