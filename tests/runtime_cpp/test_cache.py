"""What one runtime compiled with OpenVINO and kept, the other takes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from elir_deploy.runtime import Restorer
from tests.bundles import make_bundle
from tests.runtime_cpp.conftest import Library
from tests.runtime_cpp.test_identity import picture

pytest.importorskip("openvino")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder of this test's own, for both."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "elir-deploy" / "openvino"


def kept(cache: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in cache.rglob("*") if path.is_file()}


def no_reading(path: Path) -> None:
    raise AssertionError(f"{path} is compiled anew")


def by_python(bundle: Path, precision: str) -> np.ndarray:
    with Restorer(bundle, "openvino", precision=precision) as restore:
        return restore(picture(90, 80))


def by_cpp(library: Library, bundle: Path, precision: str) -> tuple[np.ndarray, list[str]]:
    opened, lines = library.open_told(bundle, backend="openvino", precision=precision, cache=None)
    with opened:
        return opened.restore(picture(90, 80)), lines


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_python_takes_what_cpp_compiled(
    tiny: Path, library: Library, cache: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    first, lines = by_cpp(library, tiny, precision)
    before = kept(cache)
    (place,) = before
    assert f"compiled, and kept: {place}" in lines
    monkeypatch.setattr("elir_deploy.runtime.backends.openvino.read_model", no_reading)
    assert np.array_equal(by_python(tiny, precision), first)
    assert kept(cache) == before


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_cpp_takes_what_python_compiled(
    tiny: Path, library: Library, cache: Path, precision: str
) -> None:
    first = by_python(tiny, precision)
    before = kept(cache)
    (place,) = before
    second, lines = by_cpp(library, tiny, precision)
    assert f"compiled before: {place}" in lines
    assert np.array_equal(second, first)
    assert kept(cache) == before


def test_stages(tmp_path: Path, library: Library, cache: Path) -> None:
    bundle = make_bundle(tmp_path / "b", size=64, stages="split", gain=0.7, bias=0.1)
    first = by_python(bundle, "fp32")
    second, lines = by_cpp(library, bundle, "fp32")
    assert np.array_equal(second, first)
    assert len([line for line in lines if line.startswith("compiled before: ")]) == 4
    assert len(kept(cache)) == 4
