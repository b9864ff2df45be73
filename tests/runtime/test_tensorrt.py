"""The backends ``tensorrt`` and ``tensorrt-rtx``, on stand-ins for TensorRT and the GPU.

Which engine is taken, what is said where none can be, the pixels, and what is left when a call
fails.
"""

from __future__ import annotations

import importlib
import json
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from elir_deploy.cli import inspect as inspect_command
from elir_deploy.cli import restore as restore_command
from elir_deploy.errors import (
    BundleError,
    ElirError,
    MissingDependencyError,
    UnavailableError,
    UsageError,
)
from elir_deploy.runtime import Restorer, tensorrt_engine, tensorrt_library
from elir_deploy.runtime.backends import BACKENDS, candidates, choose_precision
from elir_deploy.runtime.backends import tensorrt as backends
from elir_deploy.runtime.bundle import Bundle
from elir_deploy.runtime.tensorrt_library import load_library, release_of
from tests.bundles import (
    make_bundle,
    read_manifest,
    stage_ends,
    verification,
    write_manifest,
)
from tests.runtime.engines import engine_bundle, put_engine
from tests.runtime.stand_in_cuda import VERSIONS, CudaGraphStrategy, StandInGpu
from tests.runtime.test_cuda_session import LEFT, noting

RTX = BACKENDS["tensorrt-rtx"]
TENSORRT = BACKENDS["tensorrt"]
KINDS = ("tensorrt", "tensorrt-rtx")
VERSION = VERSIONS["tensorrt-rtx"]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder of this test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "elir-deploy" / "tensorrt-rtx"


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> StandInGpu:
    """An sm86 with both libraries."""
    return StandInGpu().install(monkeypatch, *KINDS)


def noise(session: Any, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if session.input.dtype == np.uint8:
        return rng.integers(0, 256, session.input.shape, np.uint8)
    return rng.random(session.input.shape, np.float32)


# The pixels ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("io", ["uint8", "float32"])
@pytest.mark.parametrize("stages", ["fused", "split"])
@pytest.mark.parametrize("library", ["cuda.bindings.runtime", "pycuda.driver"])
def test_the_numbers_are_those_of_onnxruntime(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    io: str,
    stages: str,
    library: str,
) -> None:
    gpu = StandInGpu().install(monkeypatch, *KINDS, library=library)
    path = engine_bundle(tmp_path / "b", kind=kind, io=io, stages=stages, gain=0.5, bias=0.25)
    opened = Bundle.open(path)
    with (
        BACKENDS[kind].open(opened, "fp32") as session,
        BACKENDS["onnxruntime"].open(opened, "fp32", threads=1) as reference,
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore" if library == "pycuda.driver" else "error")
        for seed in range(4):
            session.input[...] = noise(session, seed)
            reference.input[...] = session.input
            session.run()
            reference.run()
            np.testing.assert_allclose(session.output, reference.output, atol=1e-6)
        assert session.output.dtype == reference.output.dtype
    assert gpu.copies["host to device"] == 4, (
        "the image alone goes to the device, not what is between stages"
    )
    assert gpu.leaked == {}
    assert gpu.violations == []


def test_both_modes_of_the_restorer(tmp_path: Path, gpu: StandInGpu) -> None:
    path = engine_bundle(tmp_path / "b", gain=0.5)
    images = [np.random.default_rng(n).integers(0, 256, (32, 32, 3), "u1") for n in range(12)]
    results = []
    for mode, count in (("latency", 1), ("throughput", 2)):
        with Restorer(path, "tensorrt-rtx", mode=mode) as restore:  # type: ignore[arg-type]
            assert restore.concurrency == count == len(gpu.streams)
            assert gpu.count("trt.deserialize_cuda_engine") == 1
            with closing(restore.map(images)) as restored:
                results.append(list(restored))
        assert gpu.leaked == {}
        gpu.calls.clear()
    np.testing.assert_array_equal(*results)
    assert gpu.violations == []


def test_two_concurrent_sessions(tmp_path: Path, gpu: StandInGpu) -> None:
    opened = Bundle.open(engine_bundle(tmp_path / "b", stages="split", gain=0.5))
    sessions = RTX.open_several(opened, "fp32")
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
    assert len(gpu.streams) == len(gpu.events) == len(gpu.executables) == 2
    sessions[0].close()
    assert gpu.objects, "the engines are still the other session's"
    sessions[1].close()
    assert not wrong
    assert gpu.leaked == {}
    assert gpu.violations == []


# Which engine -------------------------------------------------------------------------------------


def taken(opened: Bundle, backend: Any = RTX) -> list[str]:
    return [artifact.file for artifact in backend.artifacts(opened, "fp32")]


def test_the_engine_that_fits_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpu: StandInGpu
) -> None:
    path = make_bundle(tmp_path / "b")
    put_engine(path, target="sm75")
    put_engine(path, target="sm89", version="1.6.0.1")
    fitting = put_engine(path, target="sm86", gain=0.5)
    opened = Bundle.open(path)
    assert taken(opened) == [fitting]
    with RTX.open(opened, "fp32") as session:
        session.input[...] = 100
        session.run()
        assert (session.output == 50).all()
    old = StandInGpu(((8, 9),)).install(monkeypatch, "tensorrt-rtx", version="1.6.0.9")
    assert taken(opened) == ["fused.fp32.sm89.1.6.0.1.rtx.engine"]
    assert old.calls == []


@pytest.mark.parametrize(
    ("kind", "made", "here", "compatible", "fits"),
    [
        ("tensorrt-rtx", "1.7.1.116", "1.7.1.200", False, True),
        ("tensorrt-rtx", "1.7.0.1", "1.7.1.116", False, False),
        ("tensorrt-rtx", "1.7.0.1", "1.7.1.116", True, False),
        ("tensorrt", "10.3.0", "10.3.0.30", False, True),
        ("tensorrt", "10.3.0.30", "10.3.1", False, False),
        ("tensorrt", "10.3.0.30", "10.13.0", False, False),
        ("tensorrt", "10.3.0.30", "10.13.0", True, True),
        ("tensorrt", "10.3.0.30", "11.4.0", True, True),
        ("tensorrt", "10.3.0.30", "12.0.0", True, False),
        ("tensorrt", "8.6.2", "10.3.0", True, True),
        ("tensorrt", "8.6.2", "11.4.0", True, False),
        ("tensorrt", "10.13.0", "10.3.0", True, False),
    ],
)
def test_releases(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    made: str,
    here: str,
    compatible: bool,
    fits: bool,
) -> None:
    StandInGpu().install(monkeypatch, kind, version=here)
    more = {"version_compatible": True} if compatible else {}
    opened = Bundle.open(engine_bundle(tmp_path / "b", kind=kind, version=made, **more))
    (engine,) = [a for a in opened.manifest.artifacts if a.kind == kind]
    reason = BACKENDS[kind].incompatibility(engine)
    assert reason == (
        None if fits else f"it was built by {kind} {made}, and {kind} {here} is installed"
    )
    if fits:
        BACKENDS[kind].open(opened, "fp32").close()


@pytest.mark.parametrize(
    ("target", "made", "compatibility", "capability", "fits"),
    [
        ("sm86", "10.3.0", "ampere_plus", (8, 9), True),
        ("sm86", "10.3.0", "ampere_plus", (12, 0), True),
        ("sm86", "10.3.0", "ampere_plus", (7, 5), False),
        ("sm86", "10.3.0", "ampere_plus", (8, 7), False),  # a Jetson
        ("sm87", "10.3.0", "ampere_plus", (8, 6), False),
        ("sm86", "10.3.0", "none", (8, 9), False),
        ("sm86", "10.3.0", None, (8, 9), False),
        ("sm86", "10.3.0", "same_compute_capability", (8, 9), False),
        ("sm86", "10.3.0", "same_compute_capability", (8, 6), True),
        # What the manifest says decides, and not which release could have chosen it.
        ("sm86", "10.13.0", "ampere_plus", (8, 9), True),
        ("sm86", "10.13.0", "same_compute_capability", (8, 9), False),
    ],
)
def test_hardware_that_an_engine_covers(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    target: str,
    made: str,
    compatibility: str | None,
    capability: tuple[int, int],
    fits: bool,
) -> None:
    kind = "tensorrt"
    StandInGpu((capability,)).install(monkeypatch, kind, version=made)
    more = {"hardware_compatibility": compatibility} if compatibility else {}
    path = engine_bundle(tmp_path / "b", kind=kind, target=target, version=made, **more)
    opened, sm = Bundle.open(path), "sm{}{}".format(*capability)
    reason = BACKENDS[kind].incompatibility(opened.manifest.artifacts[1])
    assert reason == (None if fits else f"it is for {target}, and this device is {sm}")
    StandInGpu((capability,)).install(monkeypatch)
    # Where the library is missing, that is worth a warning to those whose engine it would run.
    assert (BACKENDS[kind].obstacle(opened) is not None) == fits


def test_an_engine_for_this_gpu_comes_before_one_that_others_can_run_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    StandInGpu(((8, 9),)).install(monkeypatch, "tensorrt", version="10.3.0")
    path = engine_bundle(
        tmp_path / "b", kind="tensorrt", version="10.3.0", hardware_compatibility="ampere_plus"
    )
    assert ".sm86." in taken(Bundle.open(path), TENSORRT)[0]
    own = put_engine(path, kind="tensorrt", version="10.3.0", target="sm89")
    assert taken(Bundle.open(path), TENSORRT) == [own]


def test_code_inside_an_engine_is_allowed_to_those_that_need_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    StandInGpu().install(monkeypatch, "tensorrt", version="10.3.0")
    path = make_bundle(tmp_path / "b")
    ends = stage_ends(read_manifest(path))
    content = json.dumps(
        {"stand-in engine": 1, "host code": True, "ends": ends, "gain": 1, "bias": 0}
    ).encode()
    settings: dict[str, Any] = {"kind": "tensorrt", "version": "10.3.0", "content": content}
    put_engine(path, **settings)
    with pytest.raises(BundleError, match="host code is not allowed"):
        TENSORRT.open(Bundle.open(path), "fp32")
    path = make_bundle(tmp_path / "c")
    put_engine(path, **settings, version_compatible=True)
    TENSORRT.open(Bundle.open(path), "fp32").close()


def test_releases_of_versions() -> None:
    assert release_of("1.7.1.116") == (1, 7, 1)
    assert release_of("8.6.2") == (8, 6, 2)
    assert release_of("10.13.3.9.post1") == (10, 13, 3)


def test_the_precisions_that_fit(tmp_path: Path, gpu: StandInGpu) -> None:
    path = make_bundle(tmp_path / "b", precisions=("fp32", "fp16", "int8"))
    put_engine(path, precision="fp16", target="sm75")
    put_engine(path, precision="int8", target="sm86")
    put_engine(path, precision="fp32", target="sm86")
    opened = Bundle.open(path)
    assert RTX.held_precisions(opened) == ("fp32", "int8")
    assert RTX.obstacle(opened) is None
    assert choose_precision(RTX, opened, None) == "fp32"
    with pytest.raises(UsageError, match="has no fp16 files for tensorrt-rtx"):
        choose_precision(RTX, opened, "fp16")


def test_another_device_than_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = StandInGpu(((7, 5), (8, 6))).install(monkeypatch, "tensorrt-rtx")
    opened = Bundle.open(engine_bundle(tmp_path / "b"))
    assert RTX.obstacle(opened) is None
    assert len(RTX.artifacts(opened, "fp32", device=1)) == 1
    with pytest.raises(UnavailableError, match="needed for sm75"):
        RTX.artifacts(opened, "fp32", device=0)
    with RTX.open(opened, "fp32", device=1) as session:
        for _ in range(3):
            session.run()
            assert gpu.current == 0
    with pytest.raises(UnavailableError, match=r"found for sm86 by .*; needed for sm75 by"):
        RTX.open(opened, "fp32", device=0)
    with pytest.raises(UnavailableError, match="no CUDA device 2: the driver has 2"):
        RTX.open(opened, "fp32", device=2)
    assert gpu.leaked == {}
    assert gpu.violations == []


# Where none can be --------------------------------------------------------------------------------


def command(patch: pytest.MonkeyPatch, module: Any, *arguments: object) -> int:
    """Run a command in this process; gives the exit code."""
    patch.setattr(sys, "argv", ["elir", *map(str, arguments)])
    handler = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as caught:
            module.main()
    finally:
        signal.signal(signal.SIGTERM, handler)
    return int(caught.value.code or 0)


def other_sm(path: Path, patch: pytest.MonkeyPatch) -> None:
    put_engine(path, target="sm75")
    put_engine(path, target="sm120")


def other_release(path: Path, patch: pytest.MonkeyPatch) -> None:
    put_engine(path, version="1.5.0.114")


def truncated(path: Path, patch: pytest.MonkeyPatch) -> None:
    file = path / put_engine(path)
    file.write_bytes(file.read_bytes()[:-30])


def truncated_before_it_was_hashed(path: Path, patch: pytest.MonkeyPatch) -> None:
    file = path / put_engine(path)
    content = file.read_bytes()[:-30]
    file.unlink()
    manifest = read_manifest(path)
    manifest["stages"][0]["artifacts"].pop()
    write_manifest(path, manifest)
    put_engine(path, content=content)


def no_engine_at_all(path: Path, patch: pytest.MonkeyPatch) -> None:
    put_engine(path, content=b"\x00" * 1000)


def flipped(path: Path, patch: pytest.MonkeyPatch) -> None:
    file = path / put_engine(path)
    content = bytearray(file.read_bytes())
    content[40] ^= 1
    file.write_bytes(content)


def no_extra(path: Path, patch: pytest.MonkeyPatch) -> None:
    put_engine(path)
    StandInGpu().install(patch)


def no_cuda_python(path: Path, patch: pytest.MonkeyPatch) -> None:
    put_engine(path)
    StandInGpu().install(patch, *KINDS, library=None)


def no_driver(path: Path, patch: pytest.MonkeyPatch) -> None:
    put_engine(path)
    patch.setattr(backends, "missing_cuda_device", lambda: "no CUDA driver (libcuda.so.1 is not)")
    patch.setattr(backends, "device_capabilities", tuple)


def old_driver(path: Path, patch: pytest.MonkeyPatch) -> None:
    put_engine(path)
    gpu = StandInGpu().install(patch, *KINDS)
    gpu.cuda.driver_version = 11080


def no_engines(path: Path, patch: pytest.MonkeyPatch) -> None:
    pass


@pytest.mark.parametrize(
    ("trouble", "code", "message"),
    [
        (
            other_sm,
            4,
            "no tensorrt-rtx engine of {path} fits: found for sm75 by 1.7.1.116, sm120 by "
            "1.7.1.116; needed for sm86 by 1.7.1.116: elir-build {path} --target sm86 "
            "--precision fp32",
        ),
        (
            other_release,
            4,
            "no tensorrt-rtx engine of {path} fits: found for sm86 by 1.5.0.114; needed for sm86 "
            "by 1.7.1.116: elir-build {path} --target sm86 --precision fp32",
        ),
        (truncated, 2, "the file is cut off or replaced, copy the bundle again"),
        (
            truncated_before_it_was_hashed,
            2,
            "cannot be loaded by tensorrt-rtx 1.7.1.116: Error Code 1: Serialization (magicTag "
            "failed.): rebuild it with elir-build {path} --target sm86 --precision fp32",
        ),
        (no_engine_at_all, 2, "is not an engine of tensorrt-rtx 1.7.1.116 (MALFORMED_ENGINE)"),
        (flipped, 2, "is damaged: its SHA-256 is"),
        (no_extra, 4, "is not installed: pip install 'elir-deploy[tensorrt-rtx]'"),
        (
            no_cuda_python,
            4,
            "cuda-python is needed to use a GPU and is not installed: "
            "pip install 'elir-deploy[tensorrt-rtx]'",
        ),
        (no_driver, 4, "no CUDA driver (libcuda.so.1"),
        (old_driver, 4, "the driver supports CUDA 11.8, and cuda-python needs 12.9"),
        (no_engines, 2, "{path} has no files for the backend tensorrt-rtx"),
    ],
)
def test_an_error_says_what_to_do(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    gpu: StandInGpu,
    capsys: pytest.CaptureFixture[str],
    trouble: Callable[[Path, pytest.MonkeyPatch], None],
    code: int,
    message: str,
) -> None:
    path = make_bundle(tmp_path / "b")
    trouble(path, monkeypatch)
    expected = message.format(path=path)
    with pytest.raises(ElirError) as caught:
        Restorer(path, "tensorrt-rtx")
    assert expected in str(caught.value)
    assert caught.value.exit_code == code
    del caught  # and the traceback, with the frames that hold what was loaded
    assert gpu.leaked == {}
    image = path / "reference" / "noise.input.png"
    options = ("-o", tmp_path / "out", "--backend", "tensorrt-rtx")
    assert command(monkeypatch, restore_command, path, image, *options) == code
    printed = capsys.readouterr().err.removeprefix("error: ")
    assert expected in printed
    assert len(printed.strip().splitlines()) == 1


def test_a_device_that_tensorrt_rtx_builds_nothing_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    StandInGpu(((8, 7),)).install(monkeypatch, "tensorrt-rtx")
    opened = Bundle.open(engine_bundle(tmp_path / "b"))
    with pytest.raises(UnavailableError, match="TensorRT-RTX does not support sm87, use another"):
        RTX.open(opened, "fp32")


def test_tensorrt_is_built_on_the_device(tmp_path: Path, gpu: StandInGpu) -> None:
    path = engine_bundle(tmp_path / "a b", kind="tensorrt", target="sm87", precisions=("fp16",))
    with pytest.raises(UnavailableError, match=r"elir-build '.*a b' --device --precision fp16$"):
        TENSORRT.open(Bundle.open(path), "fp16")


@pytest.mark.parametrize("stages", ["fused", "split"])
def test_noise_is_copied_to_the_device(tmp_path: Path, gpu: StandInGpu, stages: str) -> None:
    path = engine_bundle(tmp_path / "b", stages=stages, stride=8)
    with RTX.open(Bundle.open(path), "fp32") as session:
        session.input[...] = 100
        for value in (0.1, 0.2, -0.1, 0.0):
            session.noise[...] = value
            session.run()
            assert (session.output == round(255 * (100 / 255 + value))).all()
    assert gpu.violations == []


SHAPES = [
    {"batch": 3, "height": 32, "width": 48},
    {"batch": 1, "height": 60, "width": 60, "padded_height": 64, "padded_width": 64},
]


@pytest.mark.parametrize("stages", ["fused", "split"])
@pytest.mark.parametrize("shapes", [SHAPES, SHAPES[:1]])
def test_every_shape_and_batch_of_an_engine(
    tmp_path: Path, gpu: StandInGpu, stages: str, shapes: list[dict[str, int]]
) -> None:
    path = engine_bundle(tmp_path / "b", stages=stages, stride=8, shapes=shapes, gain=0.5)
    opened = Bundle.open(path)
    selections = [(s, n) for s in opened.manifest.shapes for n in range(1, s.batch + 1)]
    with RTX.open(opened, "fp32") as session:
        for turn in range(4):
            for shape, batch in selections:
                session.select(shape, batch)
                assert session.input.shape == (batch, shape.graph_height, shape.graph_width, 3)
                for index in range(batch):
                    session.input[index] = 40 * index + 10 * turn
                    session.noise[index] = 0.1 * index
                session.run()
                for index, restored in enumerate(session.output):
                    value = (40 * index + 10 * turn) / 255
                    # In a split bundle, the noise comes before the last stage, whose gain it has.
                    value = 0.5 * (value + 0.1 * index) if stages == "split" else value / 2
                    expected = value if stages == "split" else value + 0.1 * index
                    np.testing.assert_allclose(restored, round(255 * expected), atol=1)
            if turn == 2:
                before = dict(gpu.leaked)
        assert gpu.leaked == before, "what was selected once stays"
        assert gpu.leaked["executables"] == len(selections)
    assert gpu.violations == []
    del session, restored
    assert gpu.leaked == {}


def test_restoring_with_an_engine_of_several_shapes(tmp_path: Path, gpu: StandInGpu) -> None:
    path = engine_bundle(tmp_path / "b", shapes=SHAPES[:1])
    image = np.random.default_rng(0).integers(0, 256, (90, 100, 3), np.uint8)
    with Restorer(path, "tensorrt-rtx") as restore:
        np.testing.assert_array_equal(restore(image), image)
        batches = [shape.batch for shape in restore.session._selections]
        assert batches == [1, 3], "nine tiles are three runs"
    assert gpu.violations == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"profiles": None}, "has 1 optimisation profiles, expected 2"),
        ({"most": [2, 32, 48, 3]}, r"is for .*\(2, 32, 48, 3\), expected .* to \(3, 32, 48, 3\)"),
        ({"least": [2, 32, 48, 3]}, r"is for \(2, 32, 48, 3\)"),
        ({"swapped": True}, r"profile 0 of image is for .*\(1, 64, 64, 3\)"),
    ],
)
def test_an_engine_with_other_profiles(
    tmp_path: Path, gpu: StandInGpu, change: dict[str, Any], reason: str
) -> None:
    path = engine_bundle(tmp_path / "b", shapes=SHAPES, stride=8)
    (file,) = path.glob("*.engine")
    made = json.loads(file.read_bytes())
    if "profiles" in change:
        made["profiles"] = None
    elif "swapped" in change:
        made["profiles"].reverse()
    else:
        place, shape = (2, change["most"]) if "most" in change else (0, change["least"])
        made["profiles"][0]["image"][place] = shape
    put_engine(path, version="1.7.1.200", content=json.dumps(made).encode())
    manifest = read_manifest(path)
    del manifest["stages"][0]["artifacts"][1]
    write_manifest(path, manifest)
    with pytest.raises(BundleError, match=reason):
        RTX.open(Bundle.open(path), "fp32")


@pytest.mark.parametrize(
    ("change", "seen"),
    [
        ({"dtype": "float16"}, "image: HALF 1x32x32x3"),
        ({"shape": [1, 64, 64, 3]}, "image: uint8 1x64x64x3"),
        ({"name": "x"}, "x: uint8 1x32x32x3"),
        ({"format": "CHW32"}, "image: uint8 in the format CHW32 1x32x32x3"),
        ({"location": "HOST"}, "image: uint8 on the host 1x32x32x3"),
    ],
)
def test_an_engine_with_other_ends(
    tmp_path: Path, gpu: StandInGpu, change: dict[str, Any], seen: str
) -> None:
    path = make_bundle(tmp_path / "b")
    given, made_of_it = stage_ends(read_manifest(path))
    ends = [given | change, made_of_it]
    made = {"stand-in engine": 1, "ends": ends, "gain": 1, "bias": 0}
    put_engine(path, content=json.dumps(made).encode())
    with pytest.raises(BundleError, match=f"the engine's input is {seen}, the manifest says image"):
        RTX.open(Bundle.open(path), "fp32")
    made["ends"] = []
    put_engine(path, version="1.7.1.200", content=json.dumps(made).encode())
    manifest = read_manifest(path)
    del manifest["stages"][0]["artifacts"][1]
    write_manifest(path, manifest)
    with pytest.raises(BundleError, match="the engine's input is nothing, the manifest says"):
        RTX.open(Bundle.open(path), "fp32")


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        # In the words of TensorRT-RTX 1.7.1, but for places in its sources.
        (
            "IRuntime::deserializeCudaEngine: Error Code 1: Serialization (Serialization assertion "
            "header.magicTag == kEXPECTED_MAGIC_TAG failed. In throwUnlessHeaderOk at /a.cpp:48)",
            BundleError,
        ),
        (
            "[runtime.cpp::readHeader::765] Error Code 2: Internal Error (Assertion bufferSize >= "
            "minBufferSize failed.  In readHeader at /_src/runtime/dispatch/runtime.cpp:765)",
            BundleError,
        ),
        (
            "[checkMacros.cpp::catchCudaError::250] Error Code 1: Cuda Runtime (In catchCudaError "
            "at /_src/checkMacros.cpp:250 (cudaError 35: CUDA driver version is insufficient))",
            UnavailableError,
        ),
        ("Error Code 2: OutOfMemory (Requested size was 77594624 bytes.)", UnavailableError),
    ],
)
def test_a_bad_file_and_a_bad_device_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpu: StandInGpu, said: str, kind: type
) -> None:
    trt = sys.modules["tensorrt_rtx"]

    def refuse(self: Any, content: Any) -> None:
        self._logger.log(trt.ILogger.ERROR, said)

    monkeypatch.setattr(trt.Runtime, "deserialize_cuda_engine", refuse)
    with pytest.raises(kind) as caught:
        RTX.open(Bundle.open(engine_bundle(tmp_path / "b")), "fp32")
    assert "cpp" not in str(caught.value)
    del caught
    assert gpu.leaked == {}


def test_messages_about_a_later_engine_arrive(tmp_path: Path, gpu: StandInGpu) -> None:
    opened = Bundle.open(engine_bundle(tmp_path / "b", stages="split"))
    log = tensorrt_library.library_log(load_library("tensorrt-rtx"))
    messages: list[str] = []
    with log.listening(lambda severity, text: messages.append(text)):
        RTX.open(opened, "fp32").close()
        log.logger.log(0, "left over")  # type: ignore[arg-type]
        loads = [n for n, name in enumerate(gpu.calls) if name == "trt.deserialize_cuda_engine"]
        gpu.fail_at = len(gpu.calls) + loads[-1]
        with pytest.raises(UnavailableError, match=r"cannot load .*decoder.*oom") as caught:
            RTX.open(opened, "fp32")
        assert "left over" not in str(caught.value)
    log.logger.log(0, "to nobody")  # type: ignore[arg-type]
    assert messages == ["left over", "[a.cpp::f::1] Error Code 1: Cuda Runtime (oom)"]


# The library --------------------------------------------------------------------------------------


def without(patch: pytest.MonkeyPatch, error: Exception) -> None:
    def refuse(name: str, *arguments: Any) -> Any:
        raise error

    patch.setattr(tensorrt_library.importlib, "import_module", refuse)


def test_a_missing_library(monkeypatch: pytest.MonkeyPatch) -> None:
    StandInGpu().install(monkeypatch)
    with pytest.raises(MissingDependencyError) as caught:
        load_library("tensorrt-rtx")
    assert (caught.value.extra, caught.value.exit_code) == ("tensorrt-rtx", 4)
    with pytest.raises(UnavailableError, match=r"on a Jetson it comes with JetPack.* pip install"):
        load_library("tensorrt")


def test_stubs_are_no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt_library.importlib, "import_module", lambda name: type(sys)(name))
    with pytest.raises(MissingDependencyError):
        load_library("tensorrt-rtx")


@pytest.mark.parametrize(
    "error",
    [
        ModuleNotFoundError("numpy.core", name="numpy.core"),
        ImportError("libnvinfer.so.10: cannot open"),
        OSError("libnvinfer.so.10: cannot open"),
    ],
)
def test_a_library_that_does_not_load(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    without(monkeypatch, error)
    with pytest.raises(UnavailableError, match=rf"tensorrt-rtx cannot be loaded \({error}\): "):
        load_library("tensorrt-rtx")
    assert f"cannot be loaded ({error})" in str(RTX.available())


def test_an_old_library(monkeypatch: pytest.MonkeyPatch) -> None:
    StandInGpu().install(monkeypatch, "tensorrt", version="8.5.2.2")
    assert TENSORRT.available() == "tensorrt 8.5.2.2 is installed, expected 8.6 or newer"
    StandInGpu().install(monkeypatch, "tensorrt-rtx", version="1.4.0.76")
    assert RTX.available() == "tensorrt-rtx 1.4.0.76 is installed, expected 1.5 or newer"


def test_the_bindings_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = StandInGpu().install(monkeypatch)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx_bindings", gpu.tensorrt())
    assert load_library("tensorrt-rtx").version == VERSION
    assert RTX.available() is None


# What auto does -----------------------------------------------------------------------------------


def test_engines_come_before_everything_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpu: StandInGpu
) -> None:
    monkeypatch.setattr(type(BACKENDS["openvino"]), "available", lambda self: "not today")
    path = engine_bundle(tmp_path / "b", precisions=("fp32", "fp16", "int8"))
    for precision in ("fp32", "fp16", "int8"):
        put_engine(path, kind="tensorrt", precision=precision)
    manifest = read_manifest(path)
    manifest["references"] = []
    write_manifest(path, manifest)
    tried = [f"{backend.name} {p}" for backend, p in candidates(Bundle.open(path), None)]
    assert tried[:6] == [
        *("tensorrt int8", "tensorrt fp16", "tensorrt-rtx fp16", "tensorrt fp32"),
        *("tensorrt-rtx fp32", "tensorrt-rtx int8"),
    ]
    assert tried[6].startswith("onnxruntime")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with Restorer(path) as restore:
            assert (restore.backend, restore.precision) == ("tensorrt", "int8")


def opened_by_auto(path: Path) -> tuple[str, str, list[str]]:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with Restorer(path, threads=1) as restore:
            return restore.backend, restore.precision, [str(w.message) for w in told]


@pytest.mark.parametrize("trouble", [other_sm, other_release, no_extra, no_cuda_python, old_driver])
def test_auto_does_not_silently_run_something_slower(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    gpu: StandInGpu,
    trouble: Callable[[Path, pytest.MonkeyPatch], None],
) -> None:
    """A GPU is here, and so are engines: why they are not used is told, with what to do."""
    path = make_bundle(tmp_path / "b")
    trouble(path, monkeypatch)
    backend, precision, told = opened_by_auto(path)
    assert backend in ("openvino", "onnxruntime")
    (message,) = told
    assert message.endswith(f"; using {backend} in {precision}")
    assert any(advice in message for advice in ("elir-build", "pip install"))
    with pytest.raises(UnavailableError):
        Restorer(path, "tensorrt-rtx")


def test_auto_says_nothing_of_engines_for_other_machines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpu: StandInGpu
) -> None:
    # Without a GPU; with one, and engines for a Jetson; with one whose own engine fits.
    path = engine_bundle(tmp_path / "b")
    with monkeypatch.context() as patch:
        no_driver(make_bundle(tmp_path / "c"), patch)
        assert opened_by_auto(path)[2] == []
    put_engine(path, kind="tensorrt", target="sm87")
    assert opened_by_auto(path) == ("tensorrt-rtx", "fp32", [])
    path = engine_bundle(tmp_path / "d", kind="tensorrt", target="sm87")
    StandInGpu().install(monkeypatch, "tensorrt-rtx")
    assert opened_by_auto(path)[2] == []


def test_auto_names_an_engine_that_runs_only_if_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpu: StandInGpu
) -> None:
    """An INT8 engine that loses too much on synthetic pictures, beside ONNX files."""
    path = make_bundle(tmp_path / "b", precisions=("fp32", "int8"))
    manifest = read_manifest(path)
    manifest["verification"]["int8"] = verification(automatic=False)
    write_manifest(path, manifest)
    put_engine(path, precision="int8")
    backend, precision, messages = opened_by_auto(path)
    assert (backend in ("openvino", "onnxruntime"), precision) == (True, "fp32")
    assert messages == [
        "an engine in int8 fits this device, but is not used by default: int8 reached 18.4 dB on "
        "the synthetic picture text; --precision int8 runs it"
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with Restorer(path, precision="int8") as restore:
            assert restore.backend == "tensorrt-rtx"
        no_driver(make_bundle(tmp_path / "c"), monkeypatch)
        Restorer(path, threads=1).close()


def test_nothing_here_can_run_engines_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpu: StandInGpu
) -> None:
    path = engine_bundle(tmp_path / "b", target="sm75")
    manifest = read_manifest(path)
    del manifest["stages"][0]["artifacts"][0]
    write_manifest(path, manifest)
    with pytest.raises(
        UnavailableError, match=r"no backend on this machine can run .*elir-build .*--target sm86"
    ):
        candidates(Bundle.open(path), None)
    no_extra(make_bundle(tmp_path / "c"), monkeypatch)
    with pytest.raises(
        UnavailableError, match=r"no backend on this machine can run .*elir-deploy\[tensorrt-rtx"
    ):
        candidates(Bundle.open(path), None)


# What elir-inspect shows --------------------------------------------------------------------------


def test_inspect_shows_what_fits(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    gpu: StandInGpu,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = make_bundle(tmp_path / "b")
    put_engine(path, target="sm75")
    assert command(monkeypatch, inspect_command, path) == 0
    lines = capsys.readouterr().out.splitlines()
    (shown,) = [line for line in lines if line.startswith("tensorrt-rtx ")]
    assert " no " in shown
    assert f"elir-build {path} --target sm86 --precision fp32" in shown
    put_engine(path, target="sm86")
    assert command(monkeypatch, inspect_command, path) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.split()[:3] == ["tensorrt-rtx", "yes:", "fp32"] for line in lines)
    fits = [line.split(maxsplit=2)[1:] for line in lines if ".rtx.engine  " in line][-2:]
    assert fits == [["no", "it is for sm75, and this device is sm86"], ["yes"]]
    assert command(monkeypatch, inspect_command, path, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert list(told["engines"].values()) == ["it is for sm75, and this device is sm86", None]
    no_driver(make_bundle(tmp_path / "c"), monkeypatch)
    assert command(monkeypatch, inspect_command, path) == 0
    lines = capsys.readouterr().out.splitlines()
    fits = [line.split(maxsplit=2)[1:] for line in lines if ".rtx.engine  " in line][-2:]
    assert fits == [["unknown", "tensorrt-rtx cannot be used here"]] * 2


# Compiled kernels ---------------------------------------------------------------------------------


def files(cache: Path) -> list[Path]:
    return sorted(path for path in cache.rglob("*") if path.is_file())


def run_once(path: Path) -> None:
    with RTX.open(Bundle.open(path), "fp32") as session:
        session.run()
        session.run()


def test_compiled_kernels_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpu: StandInGpu, cache: Path
) -> None:
    path = engine_bundle(tmp_path / "b")
    RTX.open(Bundle.open(path), "fp32").close()
    assert files(cache) == [], "nothing is compiled before the first run"
    run_once(path)
    (kept,) = files(cache)
    assert kept.name.startswith("sm86.")
    assert kept.parent.name == Bundle.open(path).manifest.artifacts[1].sha256
    assert kept.parent.parent.name == VERSION
    assert gpu.count("trt.cache.deserialize") == 0
    before = kept.stat().st_ino
    run_once(path)
    assert gpu.count("trt.cache.deserialize") == 1
    assert kept.stat().st_ino == before, "the same is not written again"
    gpu.cuda.driver_version = 12050  # another driver has a cache of its own
    run_once(path)
    assert len(files(cache)) == 2


def test_kernels_of_a_temporary_bundle_are_not_kept(
    tmp_path: Path, gpu: StandInGpu, cache: Path
) -> None:
    path = engine_bundle(tmp_path / "b")
    for temporary, count in ((True, 0), (False, 1), (True, 1)):
        gpu.calls.clear()
        with RTX.open(Bundle.open(path, temporary=temporary), "fp32") as session:
            session.run()
        assert len(files(cache)) == count
        assert gpu.count("trt.cache.deserialize") == 0, "it is not read either"


@pytest.mark.parametrize("damage", ["cut", "flipped", "foreign"])
def test_a_damaged_cache_is_made_anew(
    tmp_path: Path, gpu: StandInGpu, cache: Path, damage: str
) -> None:
    path = engine_bundle(tmp_path / "b")
    run_once(path)
    (kept,) = files(cache)
    whole = kept.read_bytes()
    if damage == "foreign":  # sealed, and nothing that the library knows
        tensorrt_engine.write_sealed(kept, b"from another world")
    else:
        kept.write_bytes(whole[:-5] if damage == "cut" else b"K" + whole[1:])
    run_once(path)
    assert gpu.count("trt.cache.deserialize") == (damage == "foreign")
    assert kept.read_bytes() == whole


def test_without_a_place_for_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpu: StandInGpu
) -> None:
    path = engine_bundle(tmp_path / "b")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.warns(RuntimeWarning, match=r"cannot be created.*compiled kernels are not cached"):
        run_once(path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def full(path: Path, content: bytes) -> None:
        raise tensorrt_engine.OutputError(f"{path} cannot be written: no space left")

    monkeypatch.setattr(tensorrt_engine, "write_sealed", full)
    with pytest.warns(RuntimeWarning, match=r"no space left; compiled kernels are not cached"):
        run_once(path)


def test_graphs_by_the_library_where_cuda_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = engine_bundle(tmp_path / "b")
    for library, strategy in (
        ("cuda.bindings.runtime", CudaGraphStrategy.DISABLED),
        ("pycuda.driver", CudaGraphStrategy.WHOLE_GRAPH_CAPTURE),
    ):
        StandInGpu().install(monkeypatch, "tensorrt-rtx", library=library)
        with RTX.open(Bundle.open(path), "fp32") as session, warnings.catch_warnings():
            config = session._selected.stages[0]._context._config  # type: ignore[attr-defined]
            assert config.cuda_graph_strategy == strategy
            warnings.simplefilter("error")  # nothing is lost that a warning could tell of
            session.run()
            session.run()
            del config
    StandInGpu().install(monkeypatch, "tensorrt", library="pycuda.driver")
    path = engine_bundle(tmp_path / "c", kind="tensorrt")
    with TENSORRT.open(Bundle.open(path), "fp32") as session:
        session.run()
        with pytest.warns(RuntimeWarning, match="pycuda cannot capture graphs"):
            session.run()


def test_a_context_that_cannot_be_captured(tmp_path: Path, gpu: StandInGpu) -> None:
    path = engine_bundle(tmp_path / "b")
    with RTX.open(Bundle.open(path), "fp32") as session:
        session.run()
        gpu.fail_at = gpu.calls.__len__() + 1
        with pytest.warns(RuntimeWarning, match="1.7.1.116 cannot capture fused"):
            session.run()
        assert gpu.failed == "trt.is_stream_capturable"


# Each call fails once -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("library", ["cuda.bindings.runtime", "pycuda.driver"])
@pytest.mark.parametrize("several", [False, True])
def test_every_call_may_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, library: str, several: bool
) -> None:
    """From opening to closing: an error that says it, nothing left behind, and the session is as
    good as before."""
    opened = Bundle.open(engine_bundle(tmp_path / "b", kind=kind, stages="split", size=8))
    backend = BACKENDS[kind]
    gpu = StandInGpu()

    def live() -> list[str]:
        told: list[str] = []
        sessions: tuple[Any, ...] = ()
        with noting("open", told):
            if several:
                sessions = backend.open_several(opened, "fp32")
            else:
                sessions = (backend.open(opened, "fp32"),)
        for session in sessions:
            for value in range(3):
                with noting("run", told):
                    session.input[...] = value
                    session.run()
                    assert (session.output == value).all()
        for session in sessions:
            session.close()
        return told

    def begin(folder: str) -> None:
        nonlocal gpu
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / folder))
        gpu = StandInGpu().install(monkeypatch, kind, library=library)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        begin("cache")
        assert live() == []
        begin("cache")  # what was compiled is there now
        assert live() == []
    calls = gpu.calls
    assert gpu.leaked == {}
    if kind == "tensorrt-rtx":
        assert "trt.cache.deserialize" in calls
        assert "trt.get_engine_validity" in calls
    # The first and the last call of each name; the session's own tests let every single one fail.
    first = {name: index for index, name in reversed(list(enumerate(calls)))}
    last = {name: index for index, name in enumerate(calls)}
    for index in sorted({*first.values(), *last.values()}):
        begin("cache")
        gpu.fail_at = index
        with warnings.catch_warnings(record=True) as noted:
            warnings.simplefilter("always")
            failures = live()
        assert gpu.failed == calls[index]
        what = f"{gpu.failed}, call {index}: {failures} {[str(w.message) for w in noted]}"
        if gpu.failed == "cudaGraphExecDestroy":
            gpu.violations = [v for v in gpu.violations if not v.endswith("in a graph")]
        assert gpu.violations == [], what
        assert gpu.leaked == LEFT.get(gpu.failed, {}), what
        assert len(failures) <= 1, what
        for failure in failures:
            assert failure.startswith("open:") or failure.endswith("can be used again"), what


# The real libraries, without a driver ------------------------------------------------------------


def run_python(code: str, *arguments: object) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def has(*names: str) -> bool:
    try:
        return all(importlib.import_module(name) for name in names)
    except ImportError:
        return False


without_driver = pytest.mark.skipif(
    backends.missing_cuda_device() is None, reason="this machine has a CUDA device"
)


@without_driver
@pytest.mark.skipif(
    not (has("cuda.bindings.runtime") or has("cuda.cudart")), reason="cuda-python is not installed"
)
def test_cuda_python_without_a_driver() -> None:
    code = (
        "from elir_deploy.runtime.cuda import open_device\n"
        "from elir_deploy.errors import UnavailableError\n"
        "try:\n"
        "    open_device(0, 'tensorrt-rtx')\n"
        "except UnavailableError as error:\n"
        "    print(error.exit_code, error)\n"
    )
    printed = run_python(code)
    assert printed.startswith("4 ")
    # As an error code, or up to 12.6 as an exception of its own.
    assert "cudaErrorInsufficientDriver" in printed or "does not start: " in printed


@without_driver
@pytest.mark.skipif(not has("tensorrt_rtx_bindings"), reason="TensorRT-RTX is not installed")
def test_tensorrt_rtx_without_a_driver(tmp_path: Path) -> None:
    """Up to the library itself: what it makes of an engine, the checks before it set aside."""
    trt = importlib.import_module("tensorrt_rtx_bindings")
    path = make_bundle(tmp_path / "b", size=8)
    put_engine(path, content=_real_engine(trt), version=trt.__version__)
    put_engine(path, target="sm75", content=b"\x00" * 100, version=trt.__version__)
    assert "driver" in str(RTX.available())
    with Restorer(path, threads=1) as restore:
        assert restore.backend in ("onnxruntime", "openvino")
    with pytest.raises(UnavailableError, match="driver") as caught:
        Restorer(path, "tensorrt-rtx")
    assert caught.value.exit_code == 4
    opened = Bundle.open(path)
    stage = opened.stages[0]
    about = stage, opened.manifest
    device: Any = type("Device", (), {"captures": True})()
    library = load_library("tensorrt-rtx")
    _, good, bad = stage.artifacts
    with pytest.raises(UnavailableError, match=r"cannot load .*: CUDA driver version is insuffici"):
        tensorrt_engine.load_engine(library, device, path / good.file, good, *about, rebuild="x")
    with pytest.raises(BundleError, match="MALFORMED_ENGINE"):
        tensorrt_engine.load_engine(library, device, path / bad.file, bad, *about, rebuild="x")


@without_driver
@pytest.mark.skipif(not has("tensorrt_rtx_bindings"), reason="TensorRT-RTX is not installed")
def test_a_real_engine_that_was_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The library tells of that, although it then misses the driver, which is a stand-in's."""
    trt = importlib.import_module("tensorrt_rtx_bindings")
    path = make_bundle(tmp_path / "b", size=8)
    put_engine(path, content=_real_engine(trt)[:-30], version=trt.__version__)
    StandInGpu().install(monkeypatch)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", trt)
    image = path / "reference" / "noise.input.png"
    options = ("-o", tmp_path / "out", "--backend", "tensorrt-rtx")
    assert command(monkeypatch, restore_command, path, image, *options) == 2
    printed = capsys.readouterr().err
    assert "cannot be loaded by tensorrt-rtx" in printed
    assert "rebuild it with elir-build" in printed


def _real_engine(trt: Any) -> bytes:
    """x + x for sm86, made where there is no GPU."""
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    value = network.add_input("x", trt.float32, (1, 3, 8, 8))
    total = network.add_elementwise(value, value, trt.ElementWiseOperation.SUM)
    total.get_output(0).name = "y"
    network.mark_output(total.get_output(0))
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM86, 0)
    return bytes(builder.build_serialized_network(network, config))


def test_a_bundle_of_one_precision_that_failed(tmp_path: Path, gpu: StandInGpu) -> None:
    path = engine_bundle(tmp_path / "b")
    manifest = read_manifest(path)
    manifest["verification"]["fp32"] = verification(20.0, False)
    write_manifest(path, manifest)
    with pytest.raises(UsageError, match="no precision that runs by default"):
        Restorer(path, "tensorrt-rtx")
    Restorer(path, "tensorrt-rtx", precision="fp32").close()
