"""Face detectors on the backends ``tensorrt`` and ``tensorrt-rtx``, on stand-ins for both."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from elir_deploy.errors import BundleError, UnavailableError
from elir_deploy.export.detectors import prepare_detector
from elir_deploy.photo import Face, PhotoRestorer
from elir_deploy.photo.opening import open_detector
from elir_deploy.runtime import Bundle
from elir_deploy.runtime.backends import BACKENDS
from tests.photo.pictures import (
    DETECTORS,
    add_detector,
    face_bundle,
    several_faces,
    spot_detector,
    spots,
)
from tests.runtime.engines import SIZES, put_detector_engine, put_engine
from tests.runtime.stand_in_cuda import StandInGpu

pytest.importorskip("onnxruntime")

KINDS = ("tensorrt", "tensorrt-rtx")


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> StandInGpu:
    """An sm86 with both libraries."""
    return StandInGpu().install(monkeypatch, *KINDS)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return face_bundle(tmp_path / "b")


@pytest.mark.parametrize("library", ["cuda.bindings.runtime", "pycuda.driver"])
@pytest.mark.parametrize("kind", KINDS)
def test_faces_are_those_of_onnxruntime(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, kind: str, library: str
) -> None:
    gpu = StandInGpu().install(monkeypatch, *KINDS, library=library)
    put_engine(bundle, kind=kind)
    put_detector_engine(bundle, kind)
    pictures = [
        spots(300, 400, (100, 100), (396, 296)),
        spots(1500, 1100, (60, 60), (1092, 1488)),
        spots(700, 1278, (1270, 690)),
        spots(1279, 1279, (1272, 1272), (4, 4)),
        spots(300, 400, (200, 200)),
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if library == "pycuda.driver" else "error")
        with PhotoRestorer(bundle, backend=kind) as restore:
            assert (restore.restorer.backend, restore.detector_backend) == (kind, kind)
            seen = [restore.detect(picture) for picture in pictures]
            photo = restore(pictures[0])
    with PhotoRestorer(bundle, backend="onnxruntime", threads=1) as reference:
        assert seen == [reference.detect(picture) for picture in pictures]
        assert [len(faces) for faces in seen] == [2, 2, 1, 2, 1]
        assert photo.faces == reference(pictures[0]).faces
    assert gpu.leaked == {}
    assert gpu.violations == []


def sorted_by_place(faces: list[Face]) -> list[Face]:
    return sorted(faces, key=lambda face: face.box)


@pytest.mark.skipif(DETECTORS is None, reason="ELIR_DETECTORS names no folder")
@pytest.mark.parametrize(
    ("decoder", "file"), [("centerface", "centerface.onnx"), ("yunet", "yunet_n_dynamic.onnx")]
)
def test_real_networks_see_the_same_in_a_larger_input(
    tmp_path: Path, gpu: StandInGpu, decoder: str, file: str
) -> None:
    """Black pixels are not the zeros around a smaller input, so edges differ by a little."""
    prepared = prepare_detector(Path(str(DETECTORS)) / file, 17)
    path = add_detector(face_bundle(tmp_path / "d"), prepared.graph, decoder)
    put_engine(path)
    put_detector_engine(path, "tensorrt-rtx")
    with PhotoRestorer(path, backend="tensorrt-rtx") as restore:
        assert restore.detector_backend == "tensorrt-rtx"
        seen = restore.detect(several_faces())
    with PhotoRestorer(path, backend="onnxruntime", threads=1) as reference:
        expected = reference.detect(several_faces())
    assert len(seen) == len(expected) == 6
    for face, other in zip(sorted_by_place(seen), sorted_by_place(expected), strict=True):
        assert np.abs(np.subtract(face.landmarks, other.landmarks)).max() < 0.5


def test_the_smallest_size_that_holds_the_picture(bundle: Path, gpu: StandInGpu) -> None:
    put_detector_engine(bundle, "tensorrt-rtx", *SIZES[::-1])
    network = BACKENDS["tensorrt-rtx"].open_detector(Bundle.open(bundle))
    assert network.size_for(64, 64) in SIZES[:2]
    assert [network.size_for(h, w) for h, w in ((960, 961), (961, 960), (992, 992))] == [*SIZES]
    assert network.size_for(1312, 32) is None
    # Memory for each size is taken with its first picture.
    contexts = []
    for size in (SIZES[0], SIZES[2], SIZES[0]):
        network.run(np.zeros((1, 3, *size), np.float32))
        contexts.append(gpu.count("trt.create_execution_context"))
    assert contexts == [1, 2, 2] or contexts == [2, 3, 3]
    network.close()
    network.close()
    assert gpu.leaked == {}
    assert gpu.violations == []


def opened_elsewhere(
    bundle: Path, message: str, long_side: int = 1280, kind: str = "tensorrt-rtx"
) -> None:
    with pytest.warns(RuntimeWarning, match=message):
        backend, network = open_detector(Bundle.open(bundle), kind, long_side, threads=1, device=0)
    assert backend in ("openvino", "onnxruntime")
    assert network.size_for(640, 480) == (640, 480)


def test_a_long_side_that_no_profile_holds(bundle: Path, gpu: StandInGpu) -> None:
    put_detector_engine(bundle, "tensorrt-rtx")
    opened_elsewhere(
        bundle,
        "detector runs on .*: tensorrt-rtx: its engine takes pictures of 1280x960, 960x1280, "
        "1280x1280, a long side of 1920 needs up to 1920x1920",
        1920,
    )
    assert gpu.leaked == {}
    backend, network = open_detector(Bundle.open(bundle), "tensorrt-rtx", 640, threads=1, device=0)
    assert backend == "tensorrt-rtx"
    network.close()


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        (None, "has no tensorrt-rtx engine of its face detector: elir-build .* --target sm86"),
        ({"target": "sm75"}, "found for sm75 by .*; needed for sm86 by .*: elir-build"),
        ({"version": "1.6.0.9"}, "found for sm86 by 1.6.0.9; needed for sm86 by 1.7.1.116"),
    ],
)
def test_no_engine_that_fits(
    bundle: Path, gpu: StandInGpu, engine: dict[str, str] | None, message: str
) -> None:
    put_detector_engine(bundle, "tensorrt")
    if engine is not None:
        put_detector_engine(bundle, "tensorrt-rtx", **engine)  # type: ignore[arg-type]
    with pytest.raises(UnavailableError, match=message):
        BACKENDS["tensorrt-rtx"].open_detector(Bundle.open(bundle))
    with pytest.warns(
        RuntimeWarning, match=f"detector runs on tensorrt: tensorrt-rtx: .*{message}"
    ):
        name, network = open_detector(Bundle.open(bundle), "tensorrt-rtx", 1280, 1, 0)
    assert name == "tensorrt", "whose engine fits"
    network.close()


@pytest.mark.parametrize(
    "call",
    [
        *("trt.Runtime", "trt.deserialize_cuda_engine", "trt.create_execution_context"),
        *("trt.set_optimization_profile_async", "trt.set_input_shape", "trt.set_tensor_address"),
        *("trt.execute_async_v3", "cudaMalloc", "cudaMemcpyAsync", "cudaStreamSynchronize"),
    ],
)
def test_what_fails_in_the_first_run_runs_elsewhere(
    bundle: Path, gpu: StandInGpu, call: str
) -> None:
    put_detector_engine(bundle, "tensorrt")
    open_detector(Bundle.open(bundle), "tensorrt", 1280, 1, 0)[1].close()
    gpu.fail_at = len(gpu.calls) + gpu.calls.index(call)
    opened_elsewhere(bundle, "the face detector runs on .*: tensorrt: ", kind="tensorrt")
    assert gpu.failed == call
    assert gpu.leaked == {}
    assert gpu.violations == []


def _damaged(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1] + b"?")


def _other_profiles(**profile: Any) -> dict[str, Any]:
    return {"profiles": [{"input.1": [list(side) for side in profile["sides"]]}]}


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        (_other_profiles(sides=[(1, 3, 32, 32), (1, 3, 64, 64), (1, 3, 64, 64)]), "one size"),
        (_other_profiles(sides=[(2, 3, 64, 64)] * 3), "one picture of one size"),
        (_other_profiles(sides=[(1, 3, 60, 64)] * 3), "sides in multiples of 32"),
        (_other_profiles(sides=[(1, 3, 64, 32768)] * 3), "up to 16384"),
        ({"ends": [{"name": "x", "dtype": "float32", "shape": [1, 3, -1, -1]}]}, "input is x: fl"),
        ({"ends": [{"name": "input.1", "dtype": "uint8", "shape": [1, 3, -1, -1]}]}, "uint8"),
        (
            {"ends": [{"name": "input.1", "dtype": "float32", "shape": [1, 3, -1, -1]}]},
            "no float32 output 537, 538, 539, 540",
        ),
        (_damaged, "is damaged: its SHA-256"),
    ],
)
def test_hostile_engines(
    bundle: Path, gpu: StandInGpu, engine: dict[str, Any] | Callable[[Path], None], message: str
) -> None:
    """They are errors in words; the graph then runs elsewhere, as it is whole."""
    path = put_detector_engine(bundle, "tensorrt-rtx", **{} if callable(engine) else engine)
    if callable(engine):
        engine(path)
    with pytest.raises(BundleError, match=f"(?s)\\A[^\n]*{message}[^\n]*\\Z"):
        BACKENDS["tensorrt-rtx"].open_detector(Bundle.open(bundle))
    opened_elsewhere(bundle, message)
    assert gpu.leaked == {}


def test_kernels_are_compiled_once(bundle: Path, gpu: StandInGpu) -> None:
    put_detector_engine(bundle, "tensorrt-rtx")
    for accepted in (0, 1):
        gpu.calls.clear()
        open_detector(Bundle.open(bundle), "tensorrt-rtx", 1280, 1, 0)[1].close()
        assert gpu.count("trt.cache.deserialize") == accepted


def test_scores_that_are_not_finite(tmp_path: Path, gpu: StandInGpu) -> None:
    bundle = face_bundle(tmp_path / "n", spot_detector(heat=float("nan")))
    put_engine(bundle)
    put_detector_engine(bundle, "tensorrt-rtx")
    with (
        PhotoRestorer(bundle, backend="tensorrt-rtx") as restore,
        pytest.raises(BundleError, match="scores that are not finite"),
    ):
        restore.detect(spots(100, 100, (40, 40)))
    assert gpu.leaked == {}
