"""The runtimes share compiled OpenVINO models, and remove them by the same rule."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from elir_deploy.runtime import Bundle, Restorer
from elir_deploy.runtime.cache import compiled_models, trim_compiled
from tests.bundles import make_bundle
from tests.runtime_cpp.conftest import Library
from tests.runtime_cpp.test_identity import picture

pytest.importorskip("openvino")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder for both runtimes."""
    monkeypatch.setenv("ELIR_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def cached_files(cache: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in cache.rglob("*") if path.is_file()}


def no_reading(path: Path) -> None:
    raise AssertionError(f"{path} is compiled again")


def by_python(bundle: Path, precision: str = "fp32") -> np.ndarray:
    with Restorer(bundle, "openvino", precision=precision) as restore:
        return restore(picture(90, 80))


def by_cpp(library: Library, bundle: Path, precision: str) -> tuple[np.ndarray, list[str]]:
    opened, lines = library.open_with_log(
        bundle, backend="openvino", precision=precision, cache=None
    )
    with opened:
        return opened.restore(picture(90, 80)), lines


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_python_loads_models_compiled_by_cpp(
    tiny: Path, library: Library, cache: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    first, lines = by_cpp(library, tiny, precision)
    before = cached_files(cache)
    (place,) = before
    assert f"compiled and cached: {place}" in lines
    monkeypatch.setattr("elir_deploy.runtime.backends.openvino.read_model", no_reading)
    assert np.array_equal(by_python(tiny, precision), first)
    assert cached_files(cache) == before


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_cpp_loads_models_compiled_by_python(
    tiny: Path, library: Library, cache: Path, precision: str
) -> None:
    first = by_python(tiny, precision)
    before = cached_files(cache)
    (place,) = before
    second, lines = by_cpp(library, tiny, precision)
    assert f"loaded from the cache: {place}" in lines
    assert np.array_equal(second, first)
    assert cached_files(cache) == before


def test_stages(tmp_path: Path, library: Library, cache: Path) -> None:
    bundle = make_bundle(tmp_path / "b", size=64, stages="split", gain=0.7, bias=0.1)
    first = by_python(bundle, "fp32")
    second, lines = by_cpp(library, bundle, "fp32")
    assert np.array_equal(second, first)
    assert len([line for line in lines if line.startswith("loaded from the cache: ")]) == 4
    assert len(cached_files(cache)) == 4


# Removal ---------------------------------------------------------------------------------------

Runtime = Callable[[Path], object]


@pytest.fixture
def runtimes(library: Library) -> dict[str, Runtime]:
    """Each opens a bundle and, unless it is cached, compiles it."""
    return {
        "python": by_python,
        "cpp": lambda bundle: by_cpp(library, bundle, "fp32"),
    }


@pytest.fixture
def bundles(tmp_path: Path) -> list[Path]:
    """Bundles that compile fast."""
    return [make_bundle(tmp_path / str(gain), size=64, gain=gain) for gain in (0.25, 0.5, 0.75, 1)]


def are_cached(bundles: list[Path], cache: Path) -> list[bool]:
    """Whether each bundle has a compiled model in the cache."""
    cached = {model.path.parent.name for model in compiled_models(cache)}
    hashes = [Bundle.open(bundle).manifest.artifacts[0].sha256 for bundle in bundles]
    return [sha256 in cached for sha256 in hashes]


def run_later(run: Runtime, bundle: Path, cache: Path) -> None:
    """Run it a second after everything so far: file times have the resolution of a clock tick."""
    for path in cached_files(cache):
        used_ns = os.stat(path).st_mtime_ns - 10**9
        os.utime(path, ns=(used_ns, used_ns))
    run(bundle)


@pytest.mark.parametrize(("one", "other"), [("python", "cpp"), ("cpp", "python")])
def test_the_least_recently_used_is_removed_across_runtimes(
    runtimes: dict[str, Runtime],
    bundles: list[Path],
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    one: str,
    other: str,
) -> None:
    runtimes[one](bundles[0])
    size = compiled_models(cache)[0].bytes
    monkeypatch.setenv("ELIR_CACHE_LIMIT", str(7 * size // 2))
    for bundle in bundles[1:3]:
        run_later(runtimes[one], bundle, cache)
    run_later(runtimes[other], bundles[0], cache)  # reading counts as use
    run_later(runtimes[other], bundles[3], cache)
    assert are_cached(bundles, cache) == [True, False, True, True]
    run_later(runtimes[one], bundles[1], cache)
    assert are_cached(bundles, cache) == [True, True, False, True]


def test_loaded_models_are_not_removed(
    runtimes: dict[str, Runtime],
    library: Library,
    bundles: list[Path],
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    by_python(bundles[0])
    monkeypatch.setenv("ELIR_CACHE_LIMIT", str(compiled_models(cache)[0].bytes + 1000))
    with Restorer(bundles[0], "openvino", precision="fp32"):
        runtimes["cpp"](bundles[1])
        assert are_cached(bundles, cache)[:2] == [True, True]
    with library.open(bundles[1], backend="openvino", precision="fp32", cache=None):
        runtimes["python"](bundles[2])
        assert are_cached(bundles, cache)[:3] == [False, True, True]
    runtimes["python"](bundles[3])
    assert are_cached(bundles, cache) == [False, False, False, True]


@pytest.mark.parametrize("seed", range(4))
def test_both_keep_the_same_files(
    tmp_path: Path,
    runtimes: dict[str, Runtime],
    bundles: list[Path],
    monkeypatch: pytest.MonkeyPatch,
    seed: int,
) -> None:
    chance, now = random.Random(seed), time.time()
    before = tmp_path / "before"
    for _ in range(60):
        sha256 = chance.choice("abcdef01") * chance.choice([64, 64, 64, 63])
        folder, name = chance.choice(
            [
                (f"openvino/2026.{chance.randrange(3)}/{sha256}", "f32.{}.blob"),
                (f"openvino/2026.{chance.randrange(3)}/{sha256}", ".elir-{}.part"),
                (f"tensorrt-rtx/1.7/{sha256}", "86.{}.cache"),
                (f"tensorrt-rtx/1.7/{sha256}", "86.{}.blob"),
                (f"onnxruntime-tensorrt/{sha256}", "{}.engine"),
                (f"tensorrt/10.{chance.randrange(9)}", chance.choice(["timing.cache", "a.cache"])),
                ("openvino", "{}.blob"),
                (f"other/1/{sha256}", "{}.blob"),
                (".", chance.choice(["elir_bfr.pth", ".elir-{}.part"])),
            ]
        )
        path = before / folder / name.format(f"{chance.randrange(2**64):016x}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(1000 * chance.randrange(10)))
        used = now - chance.choice([10, 100, 1000]) * chance.random()
        os.utime(path, (used, used))
    for folder in [path for path in before.rglob("*") if path.is_dir()]:
        os.utime(folder, (now - 1000, now - 1000))
    left: dict[str, list[str]] = {}
    for name, run in runtimes.items():
        cache = tmp_path / name
        shutil.copytree(before, cache)  # with all times
        monkeypatch.setenv("ELIR_CACHE", str(tmp_path / "none"))
        monkeypatch.setenv("ELIR_CACHE_LIMIT", "1M")
        run(bundles[seed])
        size = compiled_models(tmp_path / "none")[0].bytes
        shutil.rmtree(tmp_path / "none")
        monkeypatch.setenv("ELIR_CACHE", str(cache))
        # Compiling twice may give sizes that differ by some bytes.
        monkeypatch.setenv("ELIR_CACHE_LIMIT", str(size + 50_500))
        run(bundles[seed])
        left[name] = sorted(str(path.relative_to(cache)) for path in cache.rglob("*"))
    assert left["python"] == left["cpp"]
    assert left["python"] != sorted(str(path.relative_to(before)) for path in before.rglob("*"))


WORKER = """
import sys, warnings
from pathlib import Path
warnings.simplefilter("error")
language, rounds, *bundles = sys.argv[1:]
if language == "python":
    from elir_deploy.runtime import Bundle, Restorer
    def run(bundle):
        with Restorer(bundle, "openvino", precision="fp32") as restore:
            return restore(image)
else:
    from tests.runtime_cpp.conftest import Library
    library = Library()
    def run(bundle):
        params = {"backend": "openvino", "precision": "fp32", "cache": None}
        opened, lines = library.open_with_log(bundle, **params)
        with opened:
            assert not [line for line in lines if "not cached" in line], lines
            return opened.restore(image)
import numpy as np
image = np.full((64, 64, 3), 100, np.uint8)
for round in range(int(rounds)):
    for number, bundle in enumerate(bundles):
        assert abs(int(run(bundle)[0, 0, 0]) - 25 * (number + 1)) <= 1
"""


def test_concurrent_processes_of_both(
    bundles: list[Path], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All succeed with the right pixels, and the cache stays within its limit."""
    by_python(bundles[0])
    size = compiled_models(cache)[0].bytes
    monkeypatch.setenv("ELIR_CACHE_LIMIT", str(5 * size // 2))
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, language, "6", *map(str, bundles)],
            stderr=subprocess.PIPE,
            text=True,
        )
        for language in ("python", "cpp", "python", "cpp")
    ]
    errors = [worker.communicate(timeout=200)[1] for worker in workers]
    assert [worker.returncode for worker in workers] == [0] * 4, errors
    trim_compiled()  # models that were in use during the last removal
    models = compiled_models(cache)
    assert sum(model.bytes for model in models) <= 5 * size // 2
    assert not any(model.unfinished for model in models)


def test_files_of_killed_writers_are_removed(
    runtimes: dict[str, Runtime], bundles: list[Path], cache: Path
) -> None:
    by_python(bundles[0])
    (model,) = compiled_models(cache)
    for run, bundle in zip(runtimes.values(), bundles[1:], strict=False):
        part = model.path.with_name(".elir-0123456789abcdef.part")
        part.write_bytes(b"half")
        run(bundle)
        assert not part.exists()
