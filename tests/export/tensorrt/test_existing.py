"""Engines added to an existing bundle, which is whole at every moment."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest

from elir_deploy.errors import BundleError, OutputError, QualityError, UnavailableError, UsageError
from elir_deploy.export.tensorrt import engines, existing
from elir_deploy.export.tensorrt.builder import BuildOptions, BuiltEngine
from elir_deploy.export.tensorrt.engines import EngineSpec
from elir_deploy.export.tensorrt.existing import (
    add_engines,
    check_parser,
    default_precisions,
    measure_engine,
)
from elir_deploy.progress import no_progress, no_warning
from elir_deploy.runtime.backends import tensorrt as backend
from elir_deploy.runtime.bundle import Bundle
from elir_deploy.runtime.manifest import SPLIT_STAGES
from elir_deploy.runtime.tensorrt_library import Library
from elir_deploy.targets import DEVICE_TENSORRT, PRECISIONS_DOCUMENTED_BY_RTX, RTX
from tests.bundles import make_bundle, read_manifest, verification, write_manifest
from tests.photo.pictures import face_bundle

LIBRARY = Library(RTX, None, "1.7.1.116")
SPECS = [EngineSpec(RTX, sm, PRECISIONS_DOCUMENTED_BY_RTX) for sm in ("sm75", "sm86")]
FILES = ["fused.fp16.sm75.rtx.engine", "fused.fp16.sm86.rtx.engine"]


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "bundle", precisions=("fp32", "fp16"))


@pytest.fixture(autouse=True)
def builds(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Builds take no time; an engine's contents say which build it is from."""
    done: list[str] = []

    def build(library: Library, model: bytes, *rest: Any) -> BuiltEngine:
        done.append(f"{library.version} {len(model)}")
        counts = {"int8": 0, "fp16": 2, "fp32": 0}
        return BuiltEngine(f"engine {len(done)}".encode(), counts, 5, 1.5, ())

    monkeypatch.setattr(engines, "build_engine", build)
    return done


def add(path: Path, specs: list[EngineSpec] = SPECS, **options: Any) -> list[str]:
    added = add_engines(
        Bundle.open(path),
        LIBRARY,
        specs,
        ["fp16"],
        BuildOptions(),
        no_progress,
        no_warning,
        **options,
    )
    return [engine.file for engine in added.engines]


def engines_in(path: Path) -> dict[str, str]:
    """The engines that the manifest lists, and what is in them; all hashes are right."""
    opened = Bundle.open(path)
    assert opened.damaged_files() == {}
    return {
        a.file: (path / a.file).read_text() for a in opened.manifest.artifacts if a.kind != "onnx"
    }


def test_engines_are_added_in_place(bundle: Path) -> None:
    assert add(bundle) == FILES
    assert engines_in(bundle) == dict(zip(FILES, ("engine 1", "engine 2"), strict=True))
    entry = Bundle.open(bundle).manifest.artifacts[-1]
    assert (entry.kind, entry.precision, entry.target) == ("tensorrt-rtx", "fp16", "sm86")
    assert (entry.tool, entry.tool_version) == ("tensorrt-rtx", "1.7.1.116")
    assert entry.convolutions == {"int8": 0, "fp16": 2, "fp32": 0}


def test_an_engine_of_the_same_kind_is_replaced(bundle: Path) -> None:
    add(bundle)
    add(bundle, SPECS[:1])
    assert engines_in(bundle) == {FILES[1]: "engine 2", FILES[0]: "engine 3"}


def test_every_stage_keeps_its_own_engine(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "split", stages="split", precisions=("fp32", "fp16"))
    files = [f"{stage}.fp16.sm75.rtx.engine" for stage in SPLIT_STAGES]
    assert add(bundle, SPECS[:1]) == files
    assert list(engines_in(bundle)) == files
    assert add(bundle, SPECS[:1]) == files
    assert engines_in(bundle) == {file: f"engine {5 + n}" for n, file in enumerate(files)}
    assert {p.name for p in bundle.glob("*.engine")} == set(files)


def test_the_face_detector_gets_an_engine_too(tmp_path: Path) -> None:
    bundle = face_bundle(tmp_path / "faces", precisions=("fp32", "fp16"))
    files = ["fused.fp16.sm75.rtx.engine", "detector.fp32.sm75.rtx.engine"]
    for build in (1, 3):
        assert add(bundle, SPECS[:1]) == files
        detector = Bundle.open(bundle).manifest.detector
        assert detector is not None
        assert [a.file for a in detector.artifacts] == ["detector.onnx", files[1]]
        assert (bundle / files[1]).read_text() == f"engine {build + 1}"
        assert Bundle.open(bundle).damaged_files() == {}


def test_a_copy_leaves_the_bundle_alone(bundle: Path, tmp_path: Path) -> None:
    before = {p: p.read_bytes() for p in bundle.rglob("*") if p.is_file()}
    (bundle / "stray.txt").write_text("not of the bundle")
    add(bundle, output=tmp_path / "copy")
    assert list(engines_in(tmp_path / "copy")) == FILES
    assert not (tmp_path / "copy" / "stray.txt").exists()
    (bundle / "stray.txt").unlink()
    assert {p: p.read_bytes() for p in bundle.rglob("*") if p.is_file()} == before
    with pytest.raises(OutputError, match="already holds a bundle; --overwrite replaces it"):
        add(bundle, output=tmp_path / "copy")
    add(bundle, output=tmp_path / "copy", overwrite=True)
    # Making sure of the place comes first: the refused copy built nothing.
    assert list(engines_in(tmp_path / "copy").values()) == ["engine 3", "engine 4"]


def fail_at(
    monkeypatch: pytest.MonkeyPatch, number: int, error: BaseException
) -> Callable[[], int]:
    """Let the write with this number fail; returns how many there were."""
    count = [0]
    real = existing.replacing

    @contextmanager
    def replacing(path: Path) -> Iterator[BinaryIO]:
        count[0] += 1
        with real(path) as file:
            yield file
            if count[0] == number:
                raise error

    monkeypatch.setattr(existing, "replacing", replacing)
    return lambda: count[0]


@pytest.mark.parametrize("number", range(1, 9))
@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()]
)
def test_the_bundle_is_whole_whichever_write_fails(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, number: int, error: BaseException
) -> None:
    """An engine replaced and one new: at most what was being written is missing."""
    add(bundle, SPECS[:1])
    with monkeypatch.context() as patch:
        writes = fail_at(patch, number, error)
        if number <= 5:
            with pytest.raises((OutputError, KeyboardInterrupt)) as caught:
                add(bundle)
            if isinstance(error, OSError):
                assert "No space left on device: free some space" in str(caught.value)
                assert caught.value.exit_code == 2
        else:
            add(bundle)
            assert writes() == 5, "no other write is left to fail"
    left = engines_in(bundle)
    assert set(left) <= set(FILES)
    assert not list(bundle.glob(".elir-*"))
    add(bundle)
    assert set(engines_in(bundle)) == set(FILES)


def test_finished_engines_stay_after_an_interruption(
    bundle: Path, builds: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = engines.build_engine

    def second_fails(*arguments: Any) -> BuiltEngine:
        if builds:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(engines, "build_engine", second_fails)
    with pytest.raises(KeyboardInterrupt):
        add(bundle)
    assert list(engines_in(bundle)) == FILES[:1]


def test_a_copy_is_whole_or_not_there(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_at(monkeypatch, 3, OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(OutputError, match="No space left"):
        add(bundle, output=tmp_path / "copy")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bundle"]


def test_a_disk_that_is_full_when_the_bundle_is_copied(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(source: Path, destination: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copy2", full)
    with pytest.raises(OutputError, match="No space left on device: free some space"):
        add(bundle, output=tmp_path / "copy")
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]


def fail_fp16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let fp16 engines compute in float32."""
    counts = {"fp16": {"int8": 0, "fp16": 0, "fp32": 2}, "fp32": {"int8": 0, "fp16": 0, "fp32": 2}}
    monkeypatch.setattr(
        engines,
        "build_engine",
        lambda library, model, stage, precision, *_: BuiltEngine(
            precision.encode(), counts[precision], 5, 1.5, ()
        ),
    )


@pytest.mark.parametrize("copied", [False, True])
def test_a_precision_that_fails_does_not_stop_the_next(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, copied: bool
) -> None:
    fail_fp16(monkeypatch)
    output = tmp_path / "copy" if copied else None
    arguments = (Bundle.open(bundle), LIBRARY, SPECS[:1], ["fp16", "fp32"], BuildOptions())
    added = add_engines(*arguments, no_progress, no_warning, output=output)
    assert engines_in(output or bundle) == {"fused.fp32.sm75.rtx.engine": "fp32"}
    assert [engine.precision for engine in added.engines] == ["fp32"]
    (reason,) = added.failures.values()
    assert "fused.fp16.sm75.rtx.engine is not fp16" in reason


@pytest.mark.parametrize("copied", [False, True])
def test_nothing_is_written_where_every_engine_fails(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, copied: bool
) -> None:
    fail_fp16(monkeypatch)
    manifest = (bundle / "bundle.json").read_bytes()
    arguments = (Bundle.open(bundle), LIBRARY, SPECS, ["fp16"], BuildOptions())
    with pytest.raises(QualityError, match=r"sm75.* is not fp16.*sm86.* is not fp16") as caught:
        add_engines(
            *arguments, no_progress, no_warning, output=tmp_path / "copy" if copied else None
        )
    assert caught.value.exit_code == 3
    assert (bundle / "bundle.json").read_bytes() == manifest
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_nothing_is_written_where_no_engine_can_be_built(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(*arguments: object) -> BuiltEngine:
        raise UnavailableError("no kernel for a node")

    monkeypatch.setattr(engines, "build_engine", build)
    manifest = (bundle / "bundle.json").read_bytes()
    arguments = (Bundle.open(bundle), LIBRARY, SPECS, ["fp16"], BuildOptions())
    with pytest.raises(UnavailableError, match="no kernel for a node"):
        add_engines(*arguments, no_progress, no_warning)
    assert (bundle / "bundle.json").read_bytes() == manifest


def test_two_at_a_time(bundle: Path) -> None:
    lock = os.open(bundle, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    with pytest.raises(OutputError, match="another process is adding engines"):
        add(bundle)
    os.close(lock)
    assert add(bundle) == FILES


def test_a_bundle_that_cannot_be_written(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(
        OutputError, match="cannot be written: add the engines to a copy with -o FOLDER"
    ):
        add(bundle)


def test_a_damaged_graph_is_not_built_from(bundle: Path, builds: list[str]) -> None:
    file = bundle / "fused.fp16.onnx"
    content = bytearray(file.read_bytes())
    content[100] ^= 1
    file.write_bytes(content)
    with pytest.raises(BundleError, match="is damaged"):
        add(bundle)
    assert builds == []


def test_default_precisions(tmp_path: Path) -> None:
    def held(name: str, **passed: bool) -> tuple[str, ...]:
        folder = make_bundle(tmp_path / name, precisions=tuple(passed))
        manifest = read_manifest(folder)
        manifest["verification"] = {p: verification(50.0, ok) for p, ok in passed.items()}
        write_manifest(folder, manifest)
        return default_precisions(Bundle.open(folder))

    assert held("all", fp32=True, fp16=True, int8=True) == ("fp16", "int8")
    assert held("bad", fp32=True, fp16=True, int8=False) == ("fp16",)
    assert held("plain", fp32=True) == ("fp32",)


@pytest.mark.parametrize(
    ("version", "opset", "io", "message"),
    [
        ("8.6.2.3", 17, "float32", None),
        (
            "8.6.2.3",
            18,
            "float32",
            "graphs have opset 18, expected at most 17 for TensorRT 8.6.2.3",
        ),
        ("8.6.2.3", 17, "uint8", "take uint8 images, expected float32 for TensorRT 8.6.2.3"),
        ("10.3.0.30", 18, "uint8", None),
        ("10.3.0.30", 21, "uint8", "expected at most 20 .*: export again with --target"),
        ("11.4.0.106", 23, "uint8", None),
    ],
)
def test_a_parser_that_is_too_old(
    tmp_path: Path, version: str, opset: int, io: str, message: str | None
) -> None:
    folder = make_bundle(tmp_path / "b", io=io)
    manifest = read_manifest(folder)
    exported = {"opset": opset, "float16_normalization": "measured", "int8_fallback": "float32"}
    manifest["export"] = exported | {"rewrites": {}}
    write_manifest(folder, manifest)
    library = Library(DEVICE_TENSORRT, None, version)
    if message is None:
        check_parser(Bundle.open(folder), library)
    else:
        with pytest.raises(UsageError, match=message):
            check_parser(Bundle.open(folder), library)
    check_parser(Bundle.open(folder), LIBRARY)


class _Restorer:
    """What a device would run: the reference, off by so much."""

    off = 0

    def __init__(self, bundle: Bundle, backend: str, *, precision: str) -> None:
        assert (backend, precision) == ("tensorrt-rtx", "fp16")
        self._expected = iter([expected for _, _, expected in bundle.reference_images()])

    def __enter__(self) -> _Restorer:
        return self

    def __exit__(self, *error: object) -> None: ...

    def run_pixels(self, pixels: np.ndarray) -> np.ndarray:
        return next(self._expected) ^ np.uint8(self.off)


def on_a_gpu(monkeypatch: pytest.MonkeyPatch, capability: str) -> None:
    """Let the backend find this GPU and the library that made the engines."""
    monkeypatch.setattr(existing, "Restorer", _Restorer)
    monkeypatch.setattr(backend, "device_capabilities", lambda: (capability,))
    monkeypatch.setattr(backend, "load_library", lambda kind: LIBRARY)


def test_engines_are_measured_on_the_bundles_pictures(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(bundle)
    on_a_gpu(monkeypatch, "sm86")
    quality = measure_engine(bundle, RTX, "fp16")
    assert quality.psnr_db == np.inf
    assert quality.passed
    assert list(engines_in(bundle)) == FILES


def test_only_engines_that_ran_and_failed_are_removed(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(bundle)
    on_a_gpu(monkeypatch, "sm86")
    monkeypatch.setattr(_Restorer, "off", 255)
    quality = measure_engine(bundle, RTX, "fp16")
    assert not quality.passed
    assert engines_in(bundle) == {FILES[0]: "engine 1"}, "which this GPU cannot run"
    assert [p.name for p in bundle.glob("*.engine")] == FILES[:1]


def test_engines_that_cannot_run_here(bundle: Path) -> None:
    add(bundle)
    if shutil.which("nvidia-smi"):
        pytest.skip("this machine has a GPU")
    with pytest.raises(UnavailableError):
        measure_engine(bundle, RTX, "fp16")
