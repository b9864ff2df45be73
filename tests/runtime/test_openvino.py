"""OpenVINO: the numbers, the buffers, the precisions, the cache, and what goes wrong."""

from __future__ import annotations

import gc
import importlib
import itertools
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from elir_deploy.errors import BundleError, MissingDependencyError, UnavailableError
from elir_deploy.runtime import Restorer, openvino_library
from elir_deploy.runtime.backends import BACKENDS, openvino
from elir_deploy.runtime.bundle import Bundle
from elir_deploy.runtime.openvino_devices import OpenVinoDevice
from tests.bundles import make_bundle, put_graph, read_manifest, sha256, stage_ends
from tests.forged import another_size, unreadable
from tests.processor import saturating_int8

pytest.importorskip("openvino")

BACKEND = BACKENDS["openvino"]
needs_bfloat16 = pytest.mark.skipif(
    BACKEND.unsupported("bf16") is not None, reason="no bf16 instructions"
)


needs_exact_int8 = pytest.mark.skipif(
    saturating_int8(), reason="sums of INT8 saturate on this processor, which has no VNNI"
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder of this test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "elir-deploy" / "openvino"


def noise(session: Any, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if session.input.dtype == np.uint8:
        return rng.integers(0, 256, session.input.shape, np.uint8)
    return rng.random(session.input.shape, np.float32)


def restored(bundle: Path, precision: str = "fp32", backend: str = "openvino") -> np.ndarray:
    with BACKENDS[backend].open(Bundle.open(bundle), precision, threads=1) as session:
        session.input[...] = noise(session)
        session.run()
        return session.output.copy()


# Numbers and buffers ----------------------------------------------------------------------------


@pytest.mark.parametrize("io", ["uint8", "float32"])
@pytest.mark.parametrize("stages", ["fused", "split"])
def test_the_numbers_are_those_of_onnxruntime(tmp_path: Path, io: str, stages: str) -> None:
    path = make_bundle(tmp_path / "b", io=io, stages=stages, gain=0.7, bias=0.1)
    made, expected = restored(path), restored(path, backend="onnxruntime")
    assert made.dtype == expected.dtype
    if io == "float32":
        np.testing.assert_allclose(made, expected, atol=1e-6)
    else:
        # The last bit of a float decides where a value lies between two bytes.
        assert np.abs(made.astype(int) - expected).max() <= 1
        assert (made != expected).mean() < 0.01


def quantized_concatenation() -> onnx.ModelProto:
    """x -> conv -> concat with x -> conv, all of it quantised."""
    rng = np.random.RandomState(0)
    values: dict[str, np.ndarray] = {"zero": np.int8(0), "step": np.float32(4 / 127)}
    nodes = []

    def quantized(name: str) -> str:
        nodes.append(helper.make_node("QuantizeLinear", [name, "step", "zero"], [f"{name}.q"]))
        nodes.append(
            helper.make_node("DequantizeLinear", [f"{name}.q", "step", "zero"], [f"{name}.dq"])
        )
        return f"{name}.dq"

    def convolved(name: str, channels: int, output: str) -> str:
        values[f"{output}.w"] = rng.randint(-127, 128, (16, channels, 3, 3)).astype(np.int8)
        values[f"{output}.s"] = np.full(16, 1 / (127 * 3 * np.sqrt(channels)), np.float32)
        values[f"{output}.z"] = np.zeros(16, np.int8)
        weight = [f"{output}.{part}" for part in "wsz"]
        nodes.append(helper.make_node("DequantizeLinear", weight, [f"{output}.dw"], axis=0))
        nodes.append(helper.make_node("Conv", [name, f"{output}.dw"], [output], pads=[1] * 4))
        return output

    x = quantized("x")
    first = quantized(convolved(x, 16, "first"))
    nodes.append(helper.make_node("Concat", [first, x], ["both"], axis=1))
    convolved("both", 32, "y")
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 16, 24, 24]) for name in "xy"
    ]
    constants = [onnx.numpy_helper.from_array(np.asarray(v), k) for k, v in values.items()]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], constants)
    opset = helper.make_opsetid("", 21)
    return helper.make_model(graph, opset_imports=[opset], ir_version=10)


def test_a_quantised_concatenation_keeps_its_scale(tmp_path: Path) -> None:
    """Read as it is, OpenVINO 2026.4 loses it on processors without AMX: an error of a third."""
    model = quantized_concatenation()
    (tmp_path / "q.onnx").write_bytes(model.SerializeToString())
    image = np.random.RandomState(1).randn(1, 16, 24, 24).astype(np.float32)
    (expected,) = ReferenceEvaluator(model).run(None, {"x": image})

    joined = openvino.read_model(tmp_path / "q.onnx")
    kinds = [node.get_type_name() for node in joined.get_ordered_ops()]
    assert kinds.count("FakeQuantize") == 2
    assert kinds.count("Convert") == 2 * 2, "of the two weights alone: values and zero points"
    if saturating_int8():
        return  # the numbers are not to be had here
    config = {"INFERENCE_PRECISION_HINT": "f32"}
    made = openvino.shared_core().compile_model(joined, "CPU", config)(image)[0]
    # A value halfway between two steps may go either way, in a few places.
    assert np.sqrt(np.mean((made - expected) ** 2)) < 0.01 * np.std(expected)


def test_a_zero_point_is_left_alone(tmp_path: Path) -> None:
    model = quantized_concatenation()
    (zero,) = [t for t in model.graph.initializer if t.name == "zero"]
    zero.CopyFrom(onnx.numpy_helper.from_array(np.asarray(3, np.int8), "zero"))
    (tmp_path / "q.onnx").write_bytes(model.SerializeToString())
    read = openvino.read_model(tmp_path / "q.onnx")
    kinds = [node.get_type_name() for node in read.get_ordered_ops()]
    assert kinds.count("Convert") > 2 * 2, "of the weights; the pairs are as they were"


@pytest.mark.parametrize("stages", ["fused", "split"])
def test_stages_share_buffers(tmp_path: Path, stages: str) -> None:
    path = make_bundle(tmp_path / "b", stages=stages, gain=0.5)
    with BACKEND.open(Bundle.open(path), "fp32", threads=1) as session:
        ends = session.input, session.output
        for seed in range(3):
            session.input[...] = noise(session, seed)
            session.run()
            assert session.input is ends[0]
            assert session.output is ends[1]
            np.testing.assert_allclose(session.output, session.input * 0.5, atol=0.51)
        requests = [call.args[0] for call in session._selected.calls]
        addresses = [
            (r.get_input_tensor().data.ctypes.data, r.get_output_tensor().data.ctypes.data)
            for r in requests
        ]
    assert len(addresses) == (4 if stages == "split" else 1)
    assert addresses[0][0] == ends[0].ctypes.data
    assert addresses[-1][1] == ends[1].ctypes.data
    for (_, sink), (source, _) in itertools.pairwise(addresses):
        assert sink == source


@pytest.mark.parametrize("stages", ["fused", "split"])
def test_a_run_allocates_nothing(tmp_path: Path, stages: str) -> None:
    path = make_bundle(tmp_path / "b", stages=stages, size=64)
    with BACKEND.open(Bundle.open(path), "fp32", threads=1) as session:
        gc.collect()
        gc.disable()  # what others do at a collection would count here
        tracemalloc.start()
        try:
            for _ in range(500):  # until the interpreter has its free lists and caches
                session.run()
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            for _ in range(200):
                session.run()
            after, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
            gc.enable()
    # Over 200 runs; one image is 12,288 bytes.
    assert after - before < 500
    assert peak - before < 2000


def test_threads(bundle: Path) -> None:
    for threads in (1, 2):
        session = BACKEND.open(Bundle.open(bundle), "fp32", threads=threads)
        compiled = session.loaded()[-1].compiled
        assert compiled.get_property("INFERENCE_NUM_THREADS") == threads
        assert compiled.get_property("NUM_STREAMS") == 1
        session.close()


def test_closing(bundle: Path) -> None:
    session = BACKEND.open(Bundle.open(bundle), "fp32")
    session.close()
    session.close()
    assert (session._models, session._selected.calls) == (None, ())


def test_signals_arrive_after_sessions_were_closed_in_any_order(tmp_path: Path) -> None:
    """OpenVINO gives the thread a stack for signals; a freed one would be the end at Ctrl-C."""
    code = (
        "import os, signal, sys\n"
        "from elir_deploy.runtime import Restorer\n"
        "def open_one(threads):\n"
        "    return Restorer(sys.argv[1], 'openvino', precision='fp32', threads=threads)\n"
        "first = open_one(1)\n"
        "second = open_one(2)\n"
        "first.close()\n"
        "second.close()\n"
        "del first, second\n"
        "try:\n"
        "    for _ in range(10):\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "except KeyboardInterrupt:\n"
        "    print('interrupted')\n"
    )
    path = make_bundle(tmp_path / "b")
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (0, "interrupted\n"), done.stderr


# Several at once --------------------------------------------------------------------------------


def test_sessions_are_closed_where_the_next_one_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, opened, closed = Bundle.open(make_bundle(tmp_path / "b")), [], []

    class Session(openvino._Session):
        def __init__(self, models: Any) -> None:
            if opened:
                raise UnavailableError("no memory for one more")
            opened.append(self)
            super().__init__(models)

        def loaded(self) -> Any:
            return [Mock(compiled=Mock(get_property=lambda name: 2))]

        def close(self) -> None:
            closed.append(self)
            super().close()

    monkeypatch.setattr(openvino, "_Session", Session)
    with pytest.raises(UnavailableError, match="no memory for one more"):
        BACKEND.open_several(bundle, "fp32")
    assert closed == opened


def test_several_concurrently(tmp_path: Path) -> None:
    path = make_bundle(tmp_path / "b", stages="split", size=64, gain=0.5)
    assert len(BACKEND.open_several(Bundle.open(path), "fp32", threads=1)) == 1
    sessions = BACKEND.open_several(Bundle.open(path), "fp32")
    together = threading.Barrier(len(sessions))
    wrong: list[int] = []

    def work(number: int) -> None:
        session = sessions[number]
        together.wait(10)
        for seed in range(20):
            session.input[...] = noise(session, 100 * number + seed)
            session.run()
            if np.abs(session.output - session.input * 0.5).max() > 0.51:
                wrong.append(number)

    workers = [threading.Thread(target=work, args=(n,)) for n in range(len(sessions))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for session in sessions:
        session.close()
    assert not wrong


def test_the_restorer_in_both_modes(tmp_path: Path) -> None:
    path = make_bundle(tmp_path / "b", gain=0.5)
    images = [np.random.default_rng(n).integers(0, 256, (32, 32, 3), "u1") for n in range(8)]
    results = []
    for mode in ("latency", "throughput"):
        with Restorer(path, "openvino", precision="fp32", mode=mode) as restore:
            results.append(list(restore.map(images)))
            assert (restore.concurrency == 1) or mode == "throughput"
    np.testing.assert_array_equal(*results)


# Precisions -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("precision", "capable", "float_type"),
    [
        ("fp32", True, "f32"),
        ("fp16", True, "f32"),
        ("bf16", True, "bf16"),
        ("int8", True, "bf16"),
        ("fp32", False, "f32"),
        ("int8", False, "f32"),
    ],
)
def test_what_floats_are_computed_in(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    precision: str,
    capable: bool,
    float_type: str,
) -> None:
    configs: list[dict[str, Any]] = []
    monkeypatch.setattr(OpenVinoDevice, "capabilities", lambda device: ["BF16"] * capable)
    monkeypatch.setattr(openvino, "_loaded", lambda *arguments: configs.append(arguments[-1]))
    monkeypatch.setattr(openvino, "_Session", lambda models: models(models.manifest.shapes[0]))
    opened = Bundle.open(make_bundle(tmp_path / "b", precisions=("fp32", "fp16", "int8")))
    BACKEND.open(opened, precision)
    assert configs == [
        {"INFERENCE_PRECISION_HINT": float_type, "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1}
    ]


def test_a_processor_without_bf16(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OpenVinoDevice, "capabilities", lambda device: ["FP32", "INT8"])
    assert "no bf16 instructions" in str(BACKEND.unsupported("bf16"))
    assert BACKEND.unsupported("fp32") is BACKEND.unsupported("int8") is None
    with pytest.raises(UnavailableError, match="this processor has no bf16 instructions"):
        BACKEND.open(Bundle.open(bundle), "bf16")
    with pytest.raises(UnavailableError, match="cannot run in bf16: this processor has no"):
        Restorer(bundle, "openvino", precision="bf16")


def convolution_graph(manifest: dict[str, Any], *, int8: bool = False) -> bytes:
    """A 3x3 convolution, clipped, between the ends that ``manifest`` wants; int8 by Q/DQ."""
    ends = [
        helper.make_tensor_value_info(spec["name"], TensorProto.FLOAT, spec["shape"])
        for spec in stage_ends(manifest)
    ]
    weight = np.random.default_rng(0).normal(0, 0.15, (3, 3, 3, 3)).astype(np.float32)
    constants: dict[str, Any] = {"weight": weight, "bias": np.full(3, 0.3, np.float32)}
    constants |= {"low": np.float32(0), "high": np.float32(1)}
    nodes, read = [], ["image", "weight"]
    if int8:
        scale = (np.abs(weight).max(axis=(1, 2, 3)) / 127).astype(np.float32)
        constants |= {
            "image.scale": np.float32(1 / 127),
            "image.zero": np.int8(0),
            "weight": np.rint(weight / scale[:, None, None, None]).astype(np.int8),
            "weight.scale": scale,
            "weight.zero": np.zeros(3, np.int8),
        }
        how = ["image.scale", "image.zero"]
        nodes += [
            helper.make_node("QuantizeLinear", ["image", *how], ["image.q"]),
            helper.make_node("DequantizeLinear", ["image.q", *how], ["image.dq"]),
            helper.make_node(
                "DequantizeLinear",
                ["weight", "weight.scale", "weight.zero"],
                ["weight.dq"],
                axis=0,
            ),
        ]
        read = ["image.dq", "weight.dq"]
    nodes += [
        helper.make_node("Conv", [*read, "bias"], ["sum"], pads=[1, 1, 1, 1]),
        helper.make_node("Clip", ["sum", "low", "high"], ["restored"]),
    ]
    tensors = [onnx.numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()]
    graph = helper.make_graph(nodes, "stage", ends[:1], ends[1:], tensors)
    opset = [helper.make_opsetid("", 18)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())


@pytest.fixture
def convolution(tmp_path: Path) -> Path:
    """A bundle that convolves, in fp32 and int8."""
    path = make_bundle(tmp_path / "conv", io="float32", precisions=("fp32", "int8"))
    manifest = read_manifest(path)
    put_graph(path, convolution_graph(manifest))
    put_graph(path, convolution_graph(manifest, int8=True), "int8")
    return path


@needs_exact_int8
def test_an_int8_file(convolution: Path) -> None:
    exact, made = restored(convolution), restored(convolution, "int8")
    expected = restored(convolution, "int8", backend="onnxruntime")
    # The float operators around the convolution may compute in bfloat16: eight bits.
    np.testing.assert_allclose(made, expected, atol=2**-8)
    assert 1e-4 < np.abs(made - exact).max() < 0.02


@needs_bfloat16
def test_bf16_runs_the_float32_file(convolution: Path) -> None:
    exact, made = restored(convolution), restored(convolution, "bf16")
    assert 1e-5 < np.abs(made - exact).max() < 2**-6
    expected = restored(convolution, backend="onnxruntime")
    np.testing.assert_allclose(exact, expected, atol=1e-6)  # float32 is not silently bfloat16


# The cache --------------------------------------------------------------------------------------


def blobs(cache: Path) -> list[Path]:
    return sorted(cache.glob("*/*/*"))


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Path]]:
    """The files that had to be compiled."""
    files: list[Path] = []
    original = openvino.read_model

    def read(path: Path) -> Any:
        files.append(path)
        return original(path)

    monkeypatch.setattr(openvino, "read_model", read)
    return files


@pytest.mark.parametrize("stages", ["fused", "split"])
def test_compiled_models_are_kept(
    tmp_path: Path, cache: Path, compiled: list[Path], stages: str
) -> None:
    path = make_bundle(tmp_path / "b", stages=stages, gain=0.5)
    count = 4 if stages == "split" else 1
    first = restored(path)
    assert len(compiled) == len(blobs(cache)) == count
    np.testing.assert_array_equal(restored(path), first)
    moved = path.rename(tmp_path / "elsewhere")
    np.testing.assert_array_equal(restored(moved), first)
    with Restorer(moved, "openvino", precision="fp32", mode="throughput") as restore:
        assert len(compiled) == count
        image = np.full((32, 32, 3), 100, np.uint8)
        assert np.abs(restore(image) - 50.0).max() <= 1
    for artifact in Bundle.open(moved).manifest.artifacts:
        assert len(list(cache.glob(f"*/{artifact.sha256}/f32.*.blob"))) == 1


def test_bundles_versions_processors_and_precisions_are_kept_apart(
    tmp_path: Path, cache: Path, compiled: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = (make_bundle(tmp_path / str(gain), gain=gain) for gain in (0.5, 1.0))
    assert (restored(one) != restored(other)).any()
    assert len(compiled) == len(blobs(cache)) == 2
    library = importlib.import_module("openvino")
    with monkeypatch.context() as patch:
        patch.setattr(library, "get_version", lambda: "2099.1-releases/2099/1")
        restored(one)
    assert (cache / "2099.1-releases-2099-1" / sha256(one / "fused.fp32.onnx")).is_dir()
    assert len(compiled) == 3
    places = {openvino._cached_file(OpenVinoDevice(), "0" * 64, kind) for kind in ("f32", "bf16")}

    class OtherProcessor(OpenVinoDevice):
        def property(self, name: str) -> Any:
            return super().property(name) * 2

    places.add(openvino._cached_file(OtherProcessor(), "0" * 64, "f32"))
    assert len(places) == 3


@pytest.mark.parametrize("damage", ["cut", "empty", "weights", "header", "foreign", "folder"])
def test_a_damaged_cache_is_made_anew(
    convolution: Path, cache: Path, compiled: list[Path], damage: str
) -> None:
    expected = restored(convolution)
    (blob,) = blobs(cache)
    whole = blob.read_bytes()
    flipped = bytearray(whole)
    weights = onnx.load(convolution / "fused.fp32.onnx").graph.initializer[0].raw_data
    flipped[whole.index(weights) if damage == "weights" else 10] ^= 64
    blob.unlink()
    if damage == "folder":
        blob.mkdir()
    elif damage == "foreign":  # sealed, and nothing that OpenVINO knows
        openvino.write_sealed(blob, b"from another world" * 100)
    else:
        blob.write_bytes({"cut": whole[:-100], "empty": b""}.get(damage, bytes(flipped)))
    if damage == "folder":
        with pytest.warns(RuntimeWarning, match="cannot be written.*models are not cached"):
            np.testing.assert_array_equal(restored(convolution), expected)
        return
    np.testing.assert_array_equal(restored(convolution), expected)
    assert len(compiled) == 2
    np.testing.assert_array_equal(restored(convolution), expected)
    assert len(compiled) == 2


def test_without_a_place_for_the_cache(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = restored(bundle)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.warns(RuntimeWarning, match=r"cannot be created.*compiled models are not cached"):
        np.testing.assert_array_equal(restored(bundle), expected)


def test_a_temporary_bundle_leaves_nothing(bundle: Path, cache: Path, compiled: list[Path]) -> None:
    opened = Bundle.open(bundle, temporary=True)
    for count in (1, 2):
        with Restorer(opened, "openvino", precision="fp32"):
            assert len(compiled) == count
    assert not cache.parent.exists()


def test_the_limit(
    tmp_path: Path, cache: Path, compiled: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    bundles = [make_bundle(tmp_path / str(gain), gain=gain) for gain in (0.25, 0.5, 1.0)]
    restored(bundles[0])
    size = blobs(cache)[0].stat().st_size
    monkeypatch.setenv("ELIR_CACHE_LIMIT", str(5 * size // 2))  # they differ by a few bytes
    restored(bundles[1])
    restored(bundles[0])  # is used again
    restored(bundles[2])  # takes the place of the one in the middle
    assert len(compiled) == 3
    restored(bundles[0])
    assert len(compiled) == 3
    assert len(blobs(cache)) == 2
    monkeypatch.setenv("ELIR_CACHE_LIMIT", "0")
    restored(bundles[0])
    assert len(compiled) == 4
    assert len(blobs(cache)) == 2
    monkeypatch.setenv("ELIR_CACHE_LIMIT", "100")
    with pytest.warns(RuntimeWarning, match=r"more than ELIR_CACHE_LIMIT allows .*; compiled"):
        restored(bundles[1])
    monkeypatch.setenv("ELIR_CACHE_LIMIT", "much")
    with pytest.warns(RuntimeWarning, match="ELIR_CACHE_LIMIT is much, expected .*; compiled"):
        restored(bundles[0])


def test_what_is_loaded_is_not_removed(
    tmp_path: Path, cache: Path, compiled: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    bundles = [make_bundle(tmp_path / str(gain), gain=gain) for gain in (0.25, 0.5, 1.0)]
    restored(bundles[0])
    size = blobs(cache)[0].stat().st_size
    with Restorer(bundles[0], "openvino", precision="fp32"):
        monkeypatch.setenv("ELIR_CACHE_LIMIT", str(3 * size // 2))
        restored(bundles[1])
        assert len(blobs(cache)) == 2
    restored(bundles[2])
    assert len(blobs(cache)) == 1


def test_an_older_openvino_that_takes_bytes(
    bundle: Path, compiled: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = restored(bundle)
    library = importlib.import_module("openvino")
    original = library.Core.import_model

    def import_model(self: Any, content: object, *arguments: Any) -> Any:
        if not isinstance(content, bytes):
            raise TypeError("`model_stream` must be an io.BytesIO object or bytes")
        return original(self, content, *arguments)

    monkeypatch.setattr(library.Core, "import_model", import_model)
    np.testing.assert_array_equal(restored(bundle), expected)
    assert len(compiled) == 1


def test_a_model_that_cannot_be_exported(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = importlib.import_module("openvino")

    def refuse(self: Any) -> bytes:
        raise RuntimeError("Exception from src/a.cpp:1:\nnot implemented\n")

    monkeypatch.setattr(library.CompiledModel, "export_model", refuse)
    with pytest.warns(RuntimeWarning, match="the compiled model: not implemented; compiled"):
        restored(bundle)


def test_a_warm_cache_hides_no_damaged_graph(bundle: Path) -> None:
    restored(bundle)
    path = bundle / "fused.fp32.onnx"
    data = bytearray(path.read_bytes())
    data[100] ^= 4
    path.write_bytes(data)
    with pytest.raises(BundleError, match="is damaged: its SHA-256 is"):
        restored(bundle)


# What is not there ------------------------------------------------------------------------------


def without(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    whole = importlib.import_module

    def partial(name: str, *arguments: Any) -> Any:
        if name == "openvino":
            raise error
        return whole(name, *arguments)

    monkeypatch.setattr(importlib, "import_module", partial)


def test_a_missing_package_names_the_extra(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, ModuleNotFoundError("gone", name="openvino"))
    assert "pip install 'elir-deploy[openvino]'" in str(BACKEND.available())
    with pytest.raises(MissingDependencyError) as caught:
        BACKEND.open(Bundle.open(bundle), "fp32")
    assert (caught.value.extra, caught.value.exit_code) == ("openvino", 4)


@pytest.mark.parametrize(
    "error", [ModuleNotFoundError("numpy.core", name="numpy.core"), ImportError("libfoo.so.1")]
)
def test_a_package_that_does_not_import(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    without(monkeypatch, error)
    assert f"cannot be loaded ({error})" in str(BACKEND.available())
    with pytest.raises(UnavailableError, match="cannot be loaded"):
        BACKEND.open(Bundle.open(bundle), "fp32")


class FakeCore:
    """A library that is there and of no use."""

    available_devices: tuple[str, ...] = ("GPU",)


def test_a_library_of_no_use(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = importlib.import_module("openvino")
    monkeypatch.setattr(openvino_library, "_cores", [FakeCore()])
    assert "has no CPU plugin: pip install --force-reinstall" in str(BACKEND.available())
    with pytest.raises(UnavailableError, match="openvino cannot be used: the installed openvino"):
        BACKEND.open(Bundle.open(bundle), "fp32")

    def broken() -> None:
        raise RuntimeError("Exception from src/core.cpp:1:\nno plugins.xml")

    monkeypatch.setattr(openvino_library, "_cores", [])
    monkeypatch.setattr(library, "Core", broken)
    assert BACKEND.available() == "openvino does not start: no plugins.xml"
    monkeypatch.delattr(library, "Core")
    assert "is incomplete" in str(BACKEND.available())


def test_a_device_that_fails(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def infer(self, **options: object) -> None:
            raise RuntimeError("Exception from src/infer.cpp:80:\nout of memory")

    session = BACKEND.open(Bundle.open(bundle), "fp32")
    session._selected.calls = [partial(openvino._infer, Broken(), ())]
    with pytest.raises(UnavailableError, match=r"^openvino failed: out of memory$"):
        session.run()
    session.close()


# Files that are damaged although their hash is right --------------------------------------------


@pytest.mark.parametrize("data", [b"x", b"\x00" * 100, b"\x08\x08garbage" * 50])
def test_what_is_no_onnx(tmp_path: Path, data: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.onnx").write_bytes(data)
    with pytest.raises(BundleError, match=r"a\.onnx cannot be loaded by openvino 20"):
        openvino.read_model(tmp_path / "a.onnx")
    assert capfd.readouterr().err == ""  # nor does a reader of another format try


def test_bits_flipped_in_onnx(bundle: Path, cache: Path) -> None:
    """Whatever a bit does, it is an error of ours or a graph that still loads."""
    good = (bundle / "fused.fp32.onnx").read_bytes()
    rng = np.random.default_rng(5)
    errors = 0
    for position in rng.choice(len(good), 40, replace=False):
        data = bytearray(good)
        data[position] ^= 1 << int(rng.integers(8))
        put_graph(bundle, bytes(data))
        try:
            BACKEND.open(Bundle.open(bundle), "fp32", threads=1).close()
        except (BundleError, UnavailableError):
            errors += 1
    assert errors > 5
    assert len(blobs(cache)) == 40 - errors


def test_a_graph_that_cannot_be_computed(bundle: Path, capfd: pytest.CaptureFixture[str]) -> None:
    put_graph(bundle, unreadable(bundle))
    with pytest.raises(BundleError, match=r"fused\.fp32\.onnx cannot be loaded by openvino 20"):
        restored(bundle)
    assert capfd.readouterr().err == ""


def test_a_graph_that_cannot_be_compiled(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = importlib.import_module("openvino")

    def refuse(self: Any, *arguments: Any) -> None:
        raise RuntimeError("Exception from src/plugin.cpp:54:\nout of memory")

    monkeypatch.setattr(library.Core, "compile_model", refuse)
    with pytest.raises(UnavailableError, match=r"openvino cannot run .*onnx: out of memory"):
        restored(bundle)


def test_a_graph_that_computes_another_size(bundle: Path, cache: Path) -> None:
    put_graph(bundle, another_size(bundle))
    with pytest.raises(BundleError, match="output is restored: uint8 1x64x32x3, the manifest"):
        restored(bundle)
    assert blobs(cache) == []
