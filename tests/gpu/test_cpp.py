"""The same engines in C++, where ``ELIR_LIBRARY`` names a libelir with their backend."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from elir_deploy.errors import BundleError
from elir_deploy.runtime import Restorer
from elir_deploy.runtime.bundle import Bundle
from tests.gpu.conftest import backend_of, copies_of, truncate_engines
from tests.runtime_cpp.conftest import Library

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif("ELIR_LIBRARY" not in os.environ, reason="ELIR_LIBRARY names no libelir"),
]


@pytest.fixture(scope="session")
def library(engines: Bundle) -> Library:
    """libelir with the backend of the engines."""
    loaded = Library()
    if backend_of(engines) not in loaded.loaded.elir_backends().decode().split(", "):
        pytest.skip(f"this libelir was built without {backend_of(engines)}")
    return loaded


def mebibytes_in_use() -> int:
    command = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", "--id=0"]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def pictures(bundle: Bundle) -> list[NDArray[np.uint8]]:
    """Of the model's size, and one that needs tiles or resizing."""
    rng = np.random.default_rng(0)
    own = bundle.manifest.image_size // bundle.manifest.model.upscale
    sides = ((own, own), (own, own), (own * 3 // 2, own - 7))
    return [rng.integers(0, 256, (*side, 3), np.uint8) for side in sides]


@pytest.mark.parametrize("mode", ["latency", "throughput"])
def test_the_same_bytes_as_python(
    library: Library, engines: Bundle, precision: str, mode: str
) -> None:
    images = pictures(engines)
    with Restorer(engines, backend_of(engines), precision=precision) as python:
        wanted = [python.restore(image) for image in images]
    number = library.binding.MODES[mode]
    opened, lines = library.open_told(
        engines.path, backend=backend_of(engines), precision=precision, mode=number
    )
    with opened as cpp:
        for _ in range(3):  # queued call by call, captured, and as a graph
            for image, picture in zip(images, wanted, strict=True):
                np.testing.assert_array_equal(cpp.restore(image), picture)
    assert [line for line in lines if "captur" in line] == []


def test_images_on_the_device(library: Library, engines: Bundle, precision: str) -> None:
    """The same pixels, after work in the caller's stream; nothing leaves the device."""
    torch = pytest.importorskip("torch")
    image = pictures(engines)[0]
    if engines.manifest.model.upscale > 1:
        pytest.skip(f"{engines.manifest.model.task} enlarges its input")
    restore = library.loaded.elir_restore
    height, width, _ = image.shape

    def described(tensor: Any, stream: int = 0) -> Any:
        place = tensor.data_ptr(), width, height, tensor.stride(0)
        return library.binding.Image(*place, 0, 1, stream)  # RGB, CUDA memory

    wide = torch.zeros((2, height, width + 7, 3), dtype=torch.uint8, device="cuda")
    source, sink = wide[0, :, :width], wide[1, :, :width]
    with library.open(engines.path, backend=backend_of(engines), precision=precision) as cpp:
        expected = cpp.restore(image)
        stream = torch.cuda.Stream()
        for _ in range(3):
            source.zero_()
            sink.zero_()
            torch.cuda.synchronize()
            on_gpu = torch.from_numpy(image).cuda()
            with torch.cuda.stream(stream):
                torch.cuda._sleep(50_000_000)
                source.copy_(on_gpu)
            ends = described(source, stream.cuda_stream), described(sink, stream.cuda_stream)
            names = copies_of(lambda e=ends: cpp._check(restore(cpp._handle, e[0], e[1])))
            assert not [name for name in names if "HtoD" in name or "DtoH" in name], names
            np.testing.assert_array_equal(sink.cpu().numpy(), expected)
        good = described(sink)
        on_host = torch.zeros((height, width, 3), dtype=torch.uint8)
        beyond = described(source)
        beyond.stride = 1 << 40
        for wrong in (described(on_host), described(on_host.pin_memory()), beyond):
            for ends in ((wrong, good), (good, wrong)):
                with pytest.raises(library.binding.ElirError) as caught:
                    cpp._check(restore(cpp._handle, *ends))
                assert caught.value.status == 3, caught.value
        np.testing.assert_array_equal(cpp.restore(image), expected)


def test_chosen_by_itself(library: Library, engines: Bundle) -> None:
    """Both runtimes prefer the engine, in the same precision."""
    with Restorer(engines) as python, library.open(engines.path) as cpp:
        description = cpp.describe()
        assert description.backend.decode() == python.backend.name == backend_of(engines)
        assert description.precision.decode() == python.precision


def test_nothing_is_left_behind(library: Library, engines: Bundle) -> None:
    if shutil.which("nvidia-smi") is None:
        pytest.skip("nvidia-smi is not there to tell the memory in use")
    (image, *_) = pictures(engines)

    def cycle() -> None:
        with library.open(engines.path, backend=backend_of(engines), precision="fp16") as cpp:
            for _ in range(3):
                cpp.restore(image)

    for _ in range(3):  # what the driver keeps for later
        cycle()
    before = mebibytes_in_use()
    for _ in range(50):
        cycle()
    assert mebibytes_in_use() - before < 50, "50 engines or their memory were kept"


def test_a_truncated_engine(library: Library, engines: Bundle, tmp_path: Path) -> None:
    truncate_engines(engines, tmp_path / "bundle")
    how = {"backend": backend_of(engines), "precision": "fp16"}
    with pytest.raises(BundleError):
        Restorer(tmp_path / "bundle", how["backend"], precision="fp16")
    assert library.status(tmp_path / "bundle", **how) == 2
    library.open(engines.path, **how).close()
