"""The same engines in C++, where ``ELIR_LIBRARY`` names a libelir with their backend."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from elir_deploy.errors import BundleError
from elir_deploy.runtime import Restorer
from elir_deploy.runtime.bundle import Bundle
from tests.gpu.conftest import backend_of, truncate_engines
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
