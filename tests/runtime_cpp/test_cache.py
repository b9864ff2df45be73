"""What one runtime compiled with OpenVINO and kept, the other takes, and removes by one rule."""

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
    """An empty cache folder of this test's own, for both."""
    monkeypatch.setenv("ELIR_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def kept(cache: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in cache.rglob("*") if path.is_file()}


def no_reading(path: Path) -> None:
    raise AssertionError(f"{path} is compiled anew")


def by_python(bundle: Path, precision: str = "fp32") -> np.ndarray:
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


# One rule of what is removed -------------------------------------------------------------------

Runtime = Callable[[Path], object]


@pytest.fixture
def runtimes(library: Library) -> dict[str, Runtime]:
    """Each opens a bundle, and compiles and keeps it unless that was done before."""
    return {
        "python": by_python,
        "cpp": lambda bundle: by_cpp(library, bundle, "fp32"),
    }


@pytest.fixture
def bundles(tmp_path: Path) -> list[Path]:
    """That are compiled at once."""
    return [make_bundle(tmp_path / str(gain), size=64, gain=gain) for gain in (0.25, 0.5, 0.75, 1)]


def names(bundles: list[Path], cache: Path) -> list[bool]:
    """Of which bundles something is kept."""
    seen = {kept.path.parent.name for kept in compiled_models(cache)}
    hashes = [Bundle.open(bundle).manifest.artifacts[0].sha256 for bundle in bundles]
    return [sha256 in seen for sha256 in hashes]


def run_later(run: Runtime, bundle: Path, cache: Path) -> None:
    """Run it a second after everything so far: file times have the resolution of a clock tick."""
    for path in kept(cache):
        used_ns = os.stat(path).st_mtime_ns - 10**9
        os.utime(path, ns=(used_ns, used_ns))
    run(bundle)


@pytest.mark.parametrize(("one", "other"), [("python", "cpp"), ("cpp", "python")])
def test_each_removes_what_the_other_did_not_use(
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
    run_later(runtimes[other], bundles[0], cache)  # reading is use, whoever reads
    run_later(runtimes[other], bundles[3], cache)
    assert names(bundles, cache) == [True, False, True, True]
    run_later(runtimes[one], bundles[1], cache)
    assert names(bundles, cache) == [True, True, False, True]


def test_neither_removes_what_the_other_has_loaded(
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
        assert names(bundles, cache)[:2] == [True, True]
    with library.open(bundles[1], backend="openvino", precision="fp32", cache=None):
        runtimes["python"](bundles[2])
        assert names(bundles, cache)[:3] == [False, True, True]
    runtimes["python"](bundles[3])
    assert names(bundles, cache) == [False, False, False, True]


@pytest.mark.parametrize("seed", range(4))
def test_of_any_contents_both_keep_the_same(
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
        # What is compiled twice may differ by some bytes.
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
        opened, lines = library.open_told(bundle, backend="openvino", precision="fp32", cache=None)
        with opened:
            assert not [line for line in lines if "not kept" in line], lines
            return opened.restore(image)
import numpy as np
image = np.full((64, 64, 3), 100, np.uint8)
for round in range(int(rounds)):
    for number, bundle in enumerate(bundles):
        assert abs(int(run(bundle)[0, 0, 0]) - 25 * (number + 1)) <= 1
"""


def test_several_processes_of_both_at_once(
    bundles: list[Path], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody fails or computes anything else, and what is left is within the limit."""
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
    said = [worker.communicate(timeout=200)[1] for worker in workers]
    assert [worker.returncode for worker in workers] == [0] * 4, said
    trim_compiled()  # what was in use when the others were removed
    kept = compiled_models(cache)
    assert sum(one.bytes for one in kept) <= 5 * size // 2
    assert not any(one.unfinished for one in kept)


def test_a_killed_writer_of_either_leaves_nothing(
    runtimes: dict[str, Runtime], bundles: list[Path], cache: Path
) -> None:
    by_python(bundles[0])
    (kept,) = compiled_models(cache)
    for run, bundle in zip(runtimes.values(), bundles[1:], strict=False):
        part = kept.path.with_name(".elir-0123456789abcdef.part")
        part.write_bytes(b"half")
        run(bundle)
        assert not part.exists()
