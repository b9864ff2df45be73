"""Engines on the device at hand, in Python, where TensorRT or TensorRT-RTX is there."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest

from elir_deploy.errors import ElirError, UnavailableError
from elir_deploy.pixels import psnr_db
from elir_deploy.runtime import Restorer
from elir_deploy.runtime.bundle import Bundle
from tests.gpu.conftest import backend_of, truncate_engines

pytestmark = pytest.mark.gpu


def test_the_quality_is_what_was_verified(engines: Bundle, precision: str) -> None:
    verified = engines.manifest.verification[precision]
    assert verified.psnr_db is not None
    worst = np.inf
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of a wrong result, and of a capture that fails
        with Restorer(engines, backend_of(engines), precision=precision) as restore:
            for _ in range(3):
                for _name, image, wanted in engines.reference_images():
                    worst = min(worst, psnr_db(restore.run_pixels(image), wanted))
            assert restore.session._selected.whole.graph is not None  # type: ignore[attr-defined]
    print(f"{precision}: {worst:.2f} dB, verified with {verified.psnr_db:.2f} dB")
    # As where a bundle is opened: what is enough is enough, and kernels differ by a little.
    assert worst >= max(verified.floor_db, min(verified.psnr_db, 50) - 3)


def test_a_run_is_repeated_to_the_bit(engines: Bundle, precision: str) -> None:
    _name, image, _wanted = next(iter(engines.reference_images()))
    with Restorer(engines, backend_of(engines), precision=precision) as restore:
        first = restore.run_pixels(image).copy()  # queued call by call
        for _ in range(5):  # a graph
            np.testing.assert_array_equal(restore.run_pixels(image), first)


def test_concurrent_sessions_give_the_same_pictures(engines: Bundle, precision: str) -> None:
    rng = np.random.default_rng(0)
    side = engines.manifest.image_size
    images = [rng.integers(0, 256, (side, side, 3), np.uint8) for _ in range(30)]
    made = []
    for mode in ("latency", "throughput"):
        with Restorer(engines, backend_of(engines), precision=precision, mode=mode) as restore:  # type: ignore[arg-type]
            made.append(list(restore.map(images)))
    np.testing.assert_array_equal(*made)


def test_compiled_kernels_are_used_again(
    engines: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if backend_of(engines) != "tensorrt-rtx":
        pytest.skip("TensorRT's engines hold compiled kernels")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for _ in range(2):
        with Restorer(engines, "tensorrt-rtx", precision="fp16"):
            pass
    kept = [path for path in tmp_path.rglob("*.cache") if path.is_file()]
    assert len(kept) == 1


def test_a_truncated_engine(engines: Bundle, tmp_path: Path) -> None:
    truncate_engines(engines, tmp_path / "bundle")
    with pytest.raises(ElirError, match=r"cannot|is no engine") as caught:
        Restorer(tmp_path / "bundle", backend_of(engines), precision="fp16")
    print(caught.value)
    assert caught.value.exit_code in (2, UnavailableError.exit_code)
    # The device is as good as before.
    Restorer(engines, backend_of(engines), precision="fp16").close()
