"""ONNX Runtime's GPU providers on a stand-in for the device: it loads and runs the graphs on the
CPU, on the bytes that are in the device's memory when the device comes to it."""

from __future__ import annotations

import gc
import os
import warnings
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
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
from tests.runtime import stand_in_arrays
from tests.runtime.stand_in_arrays import ARRAYS, Array
from tests.runtime.stand_in_cuda import StandInGpu, Work

BACKEND = "onnxruntime-cuda"
TENSORRT = "onnxruntime-tensorrt"
_Session = ort.InferenceSession


class Loaded:
    """A session of the CUDA provider.

    Attributes:
        gpu: the device.
        asked: options of the first provider of all that were loaded.
        started: the provider that starts; empty: the one that was asked for.
        fails: what fails: nothing, ``load``, ``bind`` or ``run``.
    """

    gpu: StandInGpu
    asked: list[dict[str, str]]
    started = ""
    fails = ""

    def __init__(
        self, path: str, options: Any, *, providers: list[Any], enable_fallback: int
    ) -> None:
        if self.fails == "load":
            raise RuntimeError("[ONNXRuntimeError] : 1 : FAIL : no cuDNN")
        self.provider, options = providers[0]
        self.stream = int(options["user_compute_stream"])
        self.asked.append(options)
        self.on_cpu = _Session(path, providers=["CPUExecutionProvider"])
        self.get_inputs, self.get_outputs = self.on_cpu.get_inputs, self.on_cpu.get_outputs
        self.runs: list[int] = []
        self.gpu.objects[id(self)] = "graph"
        weakref.finalize(self, _forget_graph, self.gpu, id(self), self.stream, self.runs)

    def disable_fallback(self) -> None: ...

    def get_providers(self) -> list[str]:
        return [self.started or self.provider]

    def io_binding(self) -> Binding:
        return Binding(self)

    def run_with_iobinding(self, binding: Binding, options: Any) -> None:
        gpu = self.gpu
        assert options.get_run_config_entry("disable_synchronize_execution_providers") == "1"
        assert binding.loaded is self
        gpu.enter("ort.run")
        if self.fails == "run":
            raise RuntimeError("[ONNXRuntimeError] : 1 : FAIL : CUDNN_STATUS_NOT_INITIALIZED")

        def compute() -> None:
            inputs = {
                name: np.frombuffer(gpu.device_array(address, 0), kind).reshape(shape)
                for name, (kind, shape, address) in binding.inputs.items()
            }
            (output,) = self.on_cpu.get_outputs()
            kind, shape, sink = binding.outputs[output.name]
            (result,) = self.on_cpu.run(None, inputs)
            assert (result.shape, result.dtype) == (shape, kind)
            gpu.device_array(sink, result.nbytes)[:] = result.tobytes()

        ends = [*binding.inputs.values(), *binding.outputs.values()]
        addresses = tuple(address for _, _, address in ends)
        gpu.queue(self.stream, Work("ort", (*addresses, id(self), id(binding)), compute))
        self.runs.append(len(self.runs))


def _forget_graph(gpu: StandInGpu, number: int, stream: int, runs: list[int]) -> None:
    _forget(gpu, number)
    if runs and stream not in gpu.streams:
        gpu.violate("a graph that ran is freed after its stream")


def _forget(gpu: StandInGpu, number: int) -> None:
    gpu.check_idle(gpu.objects.pop(number), number)


class Binding:
    """Addresses on the device: type, shape and address by name."""

    def __init__(self, loaded: Loaded) -> None:
        self.loaded = loaded
        self.inputs: dict[str, tuple[Any, tuple[int, ...], int]] = {}
        self.outputs: dict[str, tuple[Any, tuple[int, ...], int]] = {}
        loaded.gpu.objects[id(self)] = "binding"
        weakref.finalize(self, _forget, loaded.gpu, id(self))

    def bind_input(self, *where: Any) -> None:
        self._bind(self.inputs, *where)

    def bind_output(self, *where: Any) -> None:
        self._bind(self.outputs, *where)

    def _bind(
        self,
        ends: dict[str, Any],
        name: str,
        device: str,
        number: int,
        kind: Any,
        shape: tuple[int, ...],
        address: int,
    ) -> None:
        if self.loaded.fails == "bind":
            raise RuntimeError("[ONNXRuntimeError] : 1 : FAIL : no such device")
        assert (device, number) == ("cuda", 0)
        held = self.loaded.gpu.device_array(address, 0)
        assert len(held) == np.prod(shape) * np.dtype(kind).itemsize
        ends[name] = (kind, shape, address)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> StandInGpu:
    gpu = StandInGpu().install(monkeypatch)
    monkeypatch.setattr(Loaded, "gpu", gpu, raising=False)
    monkeypatch.setattr(Loaded, "asked", [], raising=False)
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
        (stream,) = gpu.streams
        streams = [options["user_compute_stream"] for options in Loaded.asked]
        assert streams == [str(stream)] * len(bundle.stages)
    session.close()
    assert gpu.leaked == {}
    assert gpu.violations == []


# Shapes, batches and noise ------------------------------------------------------------------------

SHAPES = [
    {"batch": 4, "height": 32, "width": 48},
    {"batch": 2, "height": 60, "width": 100, "padded_height": 64, "padded_width": 104},
]


@pytest.fixture(params=["fused", "split"])
def several(request: pytest.FixtureRequest, tmp_path: Path) -> Bundle:
    """A bundle with noise, two shapes and batches."""
    path = make_bundle(
        tmp_path / "b", stages=request.param, stride=8, shapes=SHAPES, gain=0.5, bias=0.125
    )
    return Bundle.open(path)


@contextmanager
def on_cpu() -> Iterator[str]:
    """The CPU's backend, with the library itself."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("onnxruntime.InferenceSession", _Session)
        yield "onnxruntime"


def test_every_shape_and_batch_has_the_bytes_of_the_cpu(gpu: StandInGpu, several: Bundle) -> None:
    selections = [(s, n) for s in several.manifest.shapes for n in range(1, s.batch + 1)]
    with on_cpu() as name:
        reference = BACKENDS[name].open(several, "fp32")
    rng = np.random.default_rng(0)
    with BACKENDS[BACKEND].open(several, "fp32") as session:
        for turn in range(3):
            for shape, batch in selections:
                for each in (session, reference):
                    each.select(shape, batch)
                assert session.input.shape == (batch, shape.graph_height, shape.graph_width, 3)
                session.input[...] = rng.integers(0, 256, session.input.shape)
                session.noise[...] = rng.normal(0, 0.1, session.noise.shape)
                reference.input[...], reference.noise[...] = session.input, session.noise
                session.run()
                reference.run()
                np.testing.assert_array_equal(session.output, reference.output)
            if not turn:
                before = dict(gpu.leaked)
        assert gpu.leaked == before, "what was selected once stays"
        assert len(Loaded.asked) == len(several.stages), "a graph is loaded once"
        kinds = list(gpu.objects.values())
        assert kinds.count("binding") == len(selections) * kinds.count("graph")
    assert gpu.leaked == {}
    assert gpu.violations == []


def test_pictures_of_any_size_have_the_bytes_of_the_cpu(gpu: StandInGpu, several: Bundle) -> None:
    rng = np.random.default_rng(0)
    sizes = [(32, 48), (60, 100), (5, 7), (64, 190), (150, 203)]
    images = [rng.integers(0, 256, (*size, 3), np.uint8) for size in sizes]
    options = {"precision": "fp32", "seed": 3, "sigma_s": 0.1}
    with on_cpu() as name, Restorer(several, name, **options) as restore:
        expected = [restore(image) for image in images]
    with Restorer(several, BACKEND, **options) as restore:
        for image, alone in zip(images, expected, strict=True):
            np.testing.assert_array_equal(restore(image), alone)
        batches = {(shape.batch, shape.height) for shape in restore.session._selections}
        assert {(4, 32), (2, 60)} <= batches
        for restored, alone in zip(restore.map(images[:1] * 9), expected[:1] * 9, strict=True):
            np.testing.assert_array_equal(restored, alone)
    assert gpu.leaked == {}
    assert gpu.violations == []


@pytest.mark.parametrize("array", ARRAYS)
def test_images_on_the_device_stay_there(
    monkeypatch: pytest.MonkeyPatch, gpu: StandInGpu, several: Bundle, array: type[Array]
) -> None:
    stand_in_arrays.install(monkeypatch)
    images = {size: np.full((*size, 3), 90, np.uint8) for size in ((32, 48), (60, 100))}
    images[32, 48][3:9] = 200
    with on_cpu() as cpu, Restorer(several, cpu, precision="fp32") as restore:
        expected = {size: restore(image) for size, image in images.items()}
    with Restorer(several, BACKEND, precision="fp32") as restore:
        for size, pixels in images.items():
            image = array(gpu, pixels.shape, pitch=320).write(pixels)
            np.testing.assert_array_equal(restore(image).values(), expected[size])
            gpu.copies.clear()
            np.testing.assert_array_equal(restore(image).values(), expected[size])
            padded = 0 if size == (32, 48) else 4 + 4
            assert gpu.copies == {"within the device": 2 + padded}
        batch = array(gpu, (5, 32, 48, 3)).write(np.stack([images[32, 48]] * 5))
        for restored in restore.run_pixels(batch).values():
            np.testing.assert_array_equal(restored, expected[32, 48])
    assert gpu.violations == []


def test_a_session_that_nobody_closes(gpu: StandInGpu, several: Bundle) -> None:
    session = BACKENDS[BACKEND].open(several, "fp32")
    for shape in several.manifest.shapes:
        session.select(shape, 2)
        session.run()
    del session
    gc.collect()
    assert gpu.leaked == {}
    assert gpu.violations == []


def test_a_shape_for_which_there_is_no_memory(
    gpu: StandInGpu, several: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = several.manifest.shapes
    with BACKENDS[BACKEND].open(several, "fp32") as session:
        session.run()
        for fails in ("bind", "cudaMalloc"):
            before = {kind: count for kind, count in gpu.leaked.items() if kind != "pinned memory"}
            with monkeypatch.context() as patch:
                if fails == "bind":
                    patch.setattr(Loaded, "fails", fails)
                else:
                    gpu.fail_at = len(gpu.calls) + 4
                with pytest.raises(UnavailableError, match=r"FAIL : no such|cudaMalloc failed"):
                    session.select(second, 2)
            gc.collect()
            after = {kind: count for kind, count in gpu.leaked.items() if kind != "pinned memory"}
            assert after == before, fails
        session.select(second, 2)
        session.run()
        session.select(first, 1)
        session.run()
    assert gpu.leaked == {}
    assert gpu.violations == []


# Captures, failures, libraries --------------------------------------------------------------------


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


@pytest.mark.parametrize("fails", ["load", "bind", "run"])
def test_a_missing_library_leads_to_the_next_backend(
    tmp_path: Path, gpu: StandInGpu, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    """cuDNN is missed when a graph is loaded or when it first runs, or CUDA between them."""
    monkeypatch.setattr(Loaded, "fails", fails)
    bundle = Bundle.open(make_bundle(tmp_path / "b"))
    with pytest.raises(UnavailableError, match=f"{BACKEND} in fp32: ") as caught:
        Restorer(bundle, BACKEND)
    reasons = {"load": "no cuDNN", "bind": "no such device", "run": "CUDNN_STATUS"}
    assert reasons[fails] in str(caught.value)
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
    del caught  # its traceback has the graph
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
    asked = [options["trt_engine_cache_path"] for options in Loaded.asked]
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
    assert "trt_engine_cache_enable" not in Loaded.asked[0]
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
