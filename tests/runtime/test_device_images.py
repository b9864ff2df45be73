"""Images in a GPU's memory, on the stand-ins for the GPU, TensorRT and the array's library: what is
copied where, the same pixels as from NumPy, and errors."""

from __future__ import annotations

import ctypes
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from elir_deploy.errors import ImageError, UnavailableError, UsageError
from elir_deploy.runtime import Restorer
from tests.bundles import make_bundle, read_manifest
from tests.runtime import stand_in_arrays
from tests.runtime.engines import engine_bundle, put_engine
from tests.runtime.stand_in_arrays import ARRAYS, Array, DlpackArray, InterfaceArray
from tests.runtime.stand_in_cuda import StandInGpu, Stream, Work

KINDS = ("tensorrt", "tensorrt-rtx")
SHAPES = [
    {"batch": 3, "height": 32, "width": 48},
    {"batch": 1, "height": 60, "width": 57, "padded_height": 64, "padded_width": 64},
]
WITHIN = "within the device"


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[StandInGpu]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    stand_in_arrays.install(monkeypatch)
    gpu = StandInGpu(((8, 6), (8, 6))).install(monkeypatch, *KINDS)
    yield gpu
    assert gpu.violations == []


def picture(height: int = 32, width: int = 32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def caller_stream(gpu: StandInGpu, device: int = 0) -> int:
    before, gpu.current = gpu.current, device
    _, stream = gpu.cuda.cudaStreamCreateWithFlags(1)
    gpu.current = before
    return int(stream)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("array", ARRAYS)
@pytest.mark.parametrize("stages", ["fused", "split"])
def test_nothing_is_copied_to_the_host(
    tmp_path: Path, gpu: StandInGpu, kind: str, array: type[Array], stages: str
) -> None:
    path = engine_bundle(tmp_path / "b", kind=kind, stages=stages, gain=0.5, bias=0.25)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of a capture that failed
        with Restorer(path, kind, precision="fp32") as restore:
            for seed in range(4):  # queued call by call, captured, and as a graph
                pixels = picture(seed=seed)
                image = array(gpu, pixels.shape, pitch=(0, 128)[seed % 2]).write(pixels)
                gpu.copies.clear()
                expected = restore(pixels)
                assert gpu.copies == {"host to device": 1, "device to host": 1}
                gpu.copies.clear()
                for call in (restore, restore.run_pixels):
                    result = call(image)
                    assert type(result) is array
                    np.testing.assert_array_equal(result.values(), expected)
                    np.testing.assert_array_equal(image.values(), pixels)
                assert gpu.copies == {WITHIN: 4}
            assert gpu.count("cudaGraphLaunch") == 3 + 8
    del image, result
    assert gpu.leaked == {}


@pytest.mark.parametrize("array", ARRAYS)
def test_shapes_batches_and_noise(tmp_path: Path, gpu: StandInGpu, array: type[Array]) -> None:
    path = engine_bundle(tmp_path / "b", shapes=SHAPES, stride=1, gain=0.5, bias=0.1)
    with Restorer(path, "tensorrt-rtx", precision="fp32", seed=3, sigma_s=0.2) as restore:
        for height, width in ((32, 48), (60, 57), (64, 64)):
            pixels = picture(height, width)
            image = array(gpu, pixels.shape).write(pixels)
            for _ in range(3):
                restored = restore.run_pixels(pixels)
                session = restore.session
                whole = session.input.copy()
                restore.run_pixels(np.zeros_like(pixels))  # overwrites what is mirrored
                result = restore.run_pixels(image)
                np.testing.assert_array_equal(result.values(), restored)
                (base,) = [address for _, address in session._selected.sources[:1]]
                mirrored = np.frombuffer(gpu.device_array(base, 0), np.uint8)
                np.testing.assert_array_equal(mirrored, whole.ravel())
            if (height, width) != (64, 64):
                np.testing.assert_array_equal(restore(image).values(), restored)
        gpu.copies.clear()
        restore.run_pixels(image)
        assert gpu.copies == {WITHIN: 2}, "the noise is there already"
        many = np.stack([picture(32, 48, seed) for seed in range(7)])
        batch = array(gpu, many.shape, pitch=150).write(many)
        expected = restore.run_pixels(many)
        for noises in (2, 0):  # of the batch of three, and of the last image
            gpu.copies.clear()
            np.testing.assert_array_equal(restore.run_pixels(batch).values(), expected)
            assert gpu.copies["host to device"] == noises
            assert gpu.copies["device to host"] == 0
        pixels = picture(32, 48)
        image = array(gpu, pixels.shape).write(pixels)
        other = restore.with_options(seed=4)
        for each in (restore, other, restore):  # each has its own, whatever the device has
            np.testing.assert_array_equal(each(image).values(), each(pixels))
            each(image)
        own_noise = restore.session.noise.copy()
        other(image)
        np.testing.assert_array_equal(restore.session.noise, own_noise)


@pytest.mark.parametrize("array", ARRAYS)
def test_it_is_ordered_with_the_callers_stream(
    tmp_path: Path, gpu: StandInGpu, array: type[Array]
) -> None:
    with Restorer(engine_bundle(tmp_path / "b"), "tensorrt-rtx") as restore:
        image = array(gpu, (32, 32, 3))
        image.stream = caller_stream(gpu)
        for seed in range(3):
            pixels = picture(seed=seed)
            gpu.queue(image.stream, Work("camera", (), lambda p=pixels: image.write(p)))  # type: ignore[misc]
            np.testing.assert_array_equal(restore(image).values(), pixels)
        assert gpu.streams[image.stream].pending == []
        if array is DlpackArray:
            session: Any = restore.session
            assert set(image.asked) == {session.stream}
    gpu.cuda.cudaStreamDestroy(image.stream)


def test_tensors_of_pytorch(tmp_path: Path, gpu: StandInGpu) -> None:
    """PyTorch's capsules and results, with the host's memory in the place of the device's."""
    torch = pytest.importorskip("torch")

    class Tensor(torch.Tensor):  # type: ignore[misc]
        def __dlpack_device__(self) -> tuple[int, int]:
            return 2, 0

        def __dlpack__(self, *, stream: int | None = None) -> Any:
            storage = self.untyped_storage()
            memory = (ctypes.c_uint8 * storage.nbytes()).from_address(storage.data_ptr())
            gpu.device_memory[storage.data_ptr()] = 0, memoryview(memory).cast("B")
            return self.as_subclass(torch.Tensor).__dlpack__()

    frame = np.random.default_rng(0).integers(0, 256, (50, 60, 3), np.uint8)
    with Restorer(engine_bundle(tmp_path / "b", gain=0.5), "tensorrt-rtx") as restore:
        image = torch.from_numpy(frame).as_subclass(Tensor)[9:41, 11:43]
        result = restore(image)
        assert type(result) is Tensor
        assert result.is_contiguous()
        expected = restore(frame[9:41, 11:43])
        np.testing.assert_array_equal(result.as_subclass(torch.Tensor).numpy(), expected)
        with pytest.raises(
            ImageError, match=r"strides of \(3, 180, 1\) bytes, expected rows of co"
        ):
            restore(image.transpose(0, 1))
        with pytest.raises(ImageError, match=r"has shape \(3, 32, 32\).*channels come last"):
            restore(image.permute(2, 0, 1))


def test_arrays_without_a_stream(tmp_path: Path, gpu: StandInGpu) -> None:
    """Up to version 2 of the interface: work on the default stream is waited for."""
    gpu.streams[1] = Stream(0)
    with Restorer(engine_bundle(tmp_path / "b"), "tensorrt-rtx") as restore:
        image = InterfaceArray(gpu, (32, 32, 3))
        image.version = 2
        gpu.queue(1, Work("camera", (), lambda: image.write(picture())))
        np.testing.assert_array_equal(restore(image).values(), picture())


@pytest.mark.parametrize("array", ARRAYS)
def test_arrays_that_are_no_images(tmp_path: Path, gpu: StandInGpu, array: type[Array]) -> None:
    name, path = array.__name__, engine_bundle(tmp_path / "b")
    for shape, options, match in (
        ((32, 32, 4), {}, r"has shape \(32, 32, 4\), expected \(H, W, 3\) RGB: pass only the col"),
        ((3, 32, 32), {}, r"has shape \(3, 32, 32\), .*: channels come last"),
        ((2, 32, 32, 3), {}, r"has shape \(2, 32, 32, 3\), expected \(H, W, 3\)"),
        ((32, 0, 3), {}, "is empty"),
        ((32, 32, 3), {"dtype": "float32"}, "is float32, expected uint8 from 0 to 255$"),
        (
            (40, 30, 3),
            {},
            r"is 30x40 in CUDA memory, expected 32x32 \(width x height\): resize it on the GPU, pas"
            "s a NumPy array, or export the bundle with --image-size 30x40",
        ),
        (
            (32, 32, 3),
            {"pitch": 90},
            rf"the {name} has strides of \(90, 3, 1\) bytes, expected row",
        ),
        ((32, 32, 3), {"strides": (32, 1, 1024)}, r"strides of \(32, 1, 1024\).*contiguous"),
        ((32, 32, 3), {"strides": (-96, 3, 1)}, "strides"),
        ((32, 32, 3), {"strides": (960, 3, 1)}, f"the {name} is in host memory, expected that of"),
        ((32, 32, 3), {"device": 1}, "is on CUDA device 1, expected device 0, the Restorer's: cop"),
    ):
        with Restorer(path, "tensorrt-rtx") as restore:
            with pytest.raises(ImageError, match=match):
                restore(array(gpu, shape, **options))  # type: ignore[arg-type]
            image = array(gpu, (32, 32, 3)).write(picture())
            np.testing.assert_array_equal(restore(image).values(), picture())
    assert gpu.leaked == {"device memory": 1}


@pytest.mark.parametrize("pinned", [False, True])
def test_memory_of_the_host(tmp_path: Path, gpu: StandInGpu, pinned: bool) -> None:
    with Restorer(engine_bundle(tmp_path / "b"), "tensorrt-rtx") as restore:
        image = InterfaceArray(gpu, (32, 32, 3))
        there = image.address
        image.address = restore.session.input.ctypes.data if pinned else picture().ctypes.data
        where = "page-locked host" if pinned else "host"
        with pytest.raises(ImageError, match=f"is in {where} memory, expected that of CUDA dev"):
            restore(image)
        image.address = there
        restore(image)


@pytest.mark.parametrize(
    "change",
    [
        {"shape": None},
        {"shape": (32.0, 32, 3)},
        {"typestr": "picture"},
        {"data": None},
        {"data": (None, False)},
        {"stream": "x"},
        {"mask": object()},
    ],
    ids=lambda change: next(iter(change)),
)
def test_interfaces_that_are_not_valid(
    tmp_path: Path, gpu: StandInGpu, change: dict[str, Any]
) -> None:
    class Odd(InterfaceArray):
        @property
        def __cuda_array_interface__(self) -> dict[str, Any]:
            return super().__cuda_array_interface__ | change

    with Restorer(engine_bundle(tmp_path / "b"), "tensorrt-rtx") as restore:
        with pytest.raises(ImageError, match="the Odd has no valid __cuda_array_interface__: "):
            restore(Odd(gpu, (32, 32, 3)))
        restore(InterfaceArray(gpu, (32, 32, 3)))


def test_libraries_that_refuse(tmp_path: Path, gpu: StandInGpu) -> None:
    class Refusing(DlpackArray):
        def __dlpack__(self, *, stream: int | None = None) -> Any:
            raise BufferError("it requires grad")

    with Restorer(engine_bundle(tmp_path / "b"), "tensorrt-rtx") as restore:
        match = r"the Refusing cannot be read through DLPack \(it requires grad\): pass image.det"
        with pytest.raises(ImageError, match=match):
            restore(Refusing(gpu, (32, 32, 3)))


def test_a_caller_that_captures(tmp_path: Path, gpu: StandInGpu) -> None:
    with Restorer(engine_bundle(tmp_path / "b"), "tensorrt-rtx") as restore:
        image = DlpackArray(gpu, (32, 32, 3)).write(picture())
        image.stream = caller_stream(gpu)
        gpu.streams[image.stream].capture = []
        with pytest.raises(UsageError, match="is being captured as a CUDA graph, expected one tha"):
            restore(image)
        for stream in gpu.streams.values():
            stream.capture = None  # the capture that the session has joined ends for both
        np.testing.assert_array_equal(restore(image).values(), picture())


def test_what_needs_the_host(tmp_path: Path, gpu: StandInGpu) -> None:
    image = DlpackArray(gpu, (32, 32, 3)).write(picture())
    with Restorer(engine_bundle(tmp_path / "b"), "tensorrt-rtx") as restore:
        with pytest.raises(
            UnavailableError, match=r"where strength must be 1, not 0.5: pass a Num"
        ):
            restore(image, strength=0.5)
        with pytest.raises(ImageError, match="map takes NumPy arrays: call restore for images in"):
            list(restore.map([image]))
    for path, backend, match in (
        (
            engine_bundle(tmp_path / "f", io="float32"),
            "tensorrt-rtx",
            r"gives no bytes \(elir-export --io uint8\): pass a NumPy array",
        ),
        (
            make_bundle(tmp_path / "cpu"),
            "onnxruntime",
            "memory, which onnxruntime does not support",
        ),
    ):
        with Restorer(path, backend) as restore, pytest.raises(UnavailableError, match=match):
            restore(image)
    path = make_bundle(tmp_path / "up", task="bsr", upscale=4, kernel="bicubic")
    for stage in read_manifest(path)["stages"]:
        put_engine(path, read_manifest(path)["stages"].index(stage))
    with Restorer(path, "tensorrt-rtx") as restore:
        small = DlpackArray(gpu, (8, 8, 3))
        match = "where bsr does not enlarge it by 4: pass a NumPy array, or enlarge it there and"
        with pytest.raises(UnavailableError, match=match):
            restore(small)
        np.testing.assert_array_equal(restore.run_pixels(image).values(), picture())


def test_pycuda(tmp_path: Path, gpu: StandInGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu.install(monkeypatch, *KINDS, library="pycuda.driver")
    with Restorer(engine_bundle(tmp_path / "b"), "tensorrt-rtx") as restore:
        with pytest.raises(UnavailableError, match="in CUDA memory: pip install cuda-python"):
            restore(DlpackArray(gpu, (32, 32, 3)))
        np.testing.assert_array_equal(restore(picture()), picture())


def test_after_the_end(tmp_path: Path, gpu: StandInGpu) -> None:
    image = DlpackArray(gpu, (32, 32, 3))
    restore = Restorer(engine_bundle(tmp_path / "b"), "tensorrt-rtx")
    session: Any = restore.session
    restore.close()
    for call in (restore, restore.run_pixels):
        with pytest.raises(UsageError, match="this Restorer is closed: open a new one"):
            call(image)
    with pytest.raises(UsageError, match="this session is closed"):
        session.run_images([], [], None)
    assert gpu.leaked == {"device memory": 1}


@pytest.mark.parametrize("array", ARRAYS)
def test_every_call_fails_once(tmp_path: Path, gpu: StandInGpu, array: type[Array]) -> None:
    """An error is an error, and the next image is restored."""
    path = engine_bundle(tmp_path / "b")

    def live(fail_at: int | None) -> tuple[list[str], UnavailableError | None]:
        image = array(gpu, (32, 32, 3)).write(picture())
        failure = None
        with warnings.catch_warnings(), Restorer(path, "tensorrt-rtx") as restore:
            warnings.simplefilter("ignore")
            restore.session.run()
            gpu.calls.clear()
            gpu.fail_at = fail_at
            try:
                restore(image)
            except UnavailableError as error:
                failure = error
            calls, gpu.fail_at = list(gpu.calls), None
            np.testing.assert_array_equal(restore(image).values(), picture())
        return calls, failure

    calls, failure = live(None)
    assert failure is None
    assert {"cudaMemcpy2DAsync", "cudaPointerGetAttributes", "cudaStreamIsCapturing"} < {*calls}
    for index, name in enumerate(calls):
        _, failure = live(index)
        without_graph = "Capture" in name or "Instantiate" in name or name.startswith("trt.")
        assert failure is not None or without_graph or "Destroy" in name, (index, name)


def test_a_lost_device(tmp_path: Path, gpu: StandInGpu) -> None:
    image = DlpackArray(gpu, (32, 32, 3))
    restore = Restorer(engine_bundle(tmp_path / "b"), "tensorrt-rtx")
    restore(image)
    gpu.calls.clear()
    gpu.sticky, gpu.fail_at = True, 0
    for _ in range(2):
        with pytest.raises(UnavailableError, match=r"cudaErrorIllegalAddress|MemoryAllocation"):
            restore(image)
    gpu.dead = None
    restore.close()


def test_ctrl_c(tmp_path: Path, gpu: StandInGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing stays queued that touches the caller's memory."""
    with Restorer(engine_bundle(tmp_path / "b"), "tensorrt-rtx") as restore:
        image = DlpackArray(gpu, (32, 32, 3)).write(picture())
        session: Any = restore.session

        def interrupted(stream: int) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(session._selected.stages[0], "enqueue", interrupted)
            with pytest.raises(KeyboardInterrupt):
                restore(image)
        assert gpu.streams[session.stream].pending == []
        np.testing.assert_array_equal(restore(image).values(), picture())
