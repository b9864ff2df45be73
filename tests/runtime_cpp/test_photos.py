"""Photographs: the C++ runtime finds the faces that the Python runtime finds, and writes its bytes.

More photographs are tried if ``ELIR_PHOTOGRAPHS`` names a folder of them, real detectors if
``ELIR_DETECTORS`` does, and portraits if ``ELIR_PORTRAITS`` does.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from elir_deploy.photo import Face, PhotoRestorer
from tests.bundles import make_bundle, read_manifest, write_manifest
from tests.photo.pictures import (
    DETECTORS,
    PORTRAITS,
    add_detector,
    astronaut,
    face,
    face_bundle,
    several_faces,
    spot_detector,
    spots,
)
from tests.runtime_cpp.conftest import Library

GROUP = spots(300, 400, (100, 100), (300, 160), (120, 290))
BACKENDS = ("openvino", "onnxruntime")


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest, library: Library) -> str:
    pytest.importorskip(request.param)
    if request.param not in library.loaded.elir_backends().decode().split(", "):
        pytest.skip(f"this libelir was built without {request.param}")
    return str(request.param)


@contextmanager
def opened(library: Library, bundle: Path, backend: str) -> Iterator[Any]:
    """A restorer whose detector runs on the same backend, too."""
    cpp, log = library.open_with_log(bundle, backend=backend, precision="fp32", threads=1)
    with cpp:
        yield cpp
    assert not [line for line in log if "face detector" in line]


def to_struct(library: Library, of: Face) -> Any:
    return library.binding.Face(of.box, of.landmarks, of.score)


def values(faces: Sequence[Any]) -> list[tuple[Any, ...]]:
    """Faces of either runtime; reasons, whose wording may differ, as whether there is one."""
    return [
        (*f.box, *(c for p in f.landmarks for c in p), f.score, bool(f.restored), bool(f.reason))
        for f in faces
    ]


def assert_same(
    library: Library,
    python: PhotoRestorer,
    cpp: Any,
    picture: NDArray[np.uint8],
    faces: Any = "auto",
    scale: int = 1,
    background: NDArray[np.uint8] | None = None,
    strength: float = 1.0,
) -> list[Any]:
    """Both results are equal; the faces."""
    expected = python.restore(picture, faces, scale, strength=strength)
    listed = faces if isinstance(faces, str) else [to_struct(library, f) for f in faces]
    pixels, actual = cpp.restore_photo(picture, listed, scale, background)
    assert values(actual) == values(expected.faces)
    np.testing.assert_array_equal(pixels, expected.pixels)
    return actual


@pytest.mark.parametrize("scale", [1, 2, 4])
def test_choices_and_scales(tmp_path: Path, library: Library, backend: str, scale: int) -> None:
    shapes = [{"batch": 2, "height": 64, "width": 64}]
    bundle = face_bundle(tmp_path / "b", gain=0.5, shapes=shapes)
    listed = [
        face(200, 150, 90, 30),
        face(210, 160, 700, -80),
        face(-10, 280, 40, 170),
        face(100, 100, 15),  # too small
        face(9000, 100, 100),  # outside
        face(200, 150, 3000),  # too large
        Face.rounded((0, 0, 50, 50), [(0, 0), (30, 0), (15, 20), (0, 9000), (30, 30)]),
    ]
    with (
        PhotoRestorer(bundle, backend=backend, threads=1) as python,
        opened(library, bundle, backend) as cpp,
    ):
        assert values(cpp.detect(GROUP)) == values(python.detect(GROUP))
        for choice in ("auto", "all", "largest", "centre", "aligned", listed, []):
            actual = assert_same(library, python, cpp, GROUP, choice, scale)
            if choice == "largest":
                assert sum(f.restored for f in actual) == 1
        assert [
            bool(f.restored) for f in assert_same(library, python, cpp, GROUP, listed, scale)
        ] == [
            True,
            True,
            True,
            False,
            False,
            False,
            False,
        ]
        for side in (64, 128, 150):
            aligned = spots(side, side, (side // 2, side // 2))
            assert_same(library, python, cpp, aligned, "auto", scale)
        nothing = np.zeros((50, 70, 3), np.uint8)
        assert assert_same(library, python, cpp, nothing, "auto", scale) == []


def test_a_picture_that_is_shrunk_for_the_detector(
    tmp_path: Path, library: Library, backend: str
) -> None:
    bundle = face_bundle(tmp_path / "b", gain=0.5)
    large = np.asarray(Image.fromarray(GROUP).resize((1111, 833)))
    for long_side in (32, 97, 300, 640, 1280):
        with (
            PhotoRestorer(bundle, backend=backend, threads=1, long_side=long_side) as python,
            library.open(bundle, backend=backend, threads=1, long_side=long_side) as cpp,
        ):
            assert values(cpp.detect(large)) == values(python.detect(large))
            assert_same(library, python, cpp, large)


@pytest.mark.parametrize("strength", [0.3, 1.0])
def test_the_background(tmp_path: Path, library: Library, backend: str, strength: float) -> None:
    faces = face_bundle(tmp_path / "f", gain=0.8)
    rest = make_bundle(tmp_path / "b", size=64, gain=0.5, upscale=2, kernel="bicubic")
    with (
        PhotoRestorer(faces, rest, backend=backend, threads=1) as python,
        library.open(faces, backend=backend, threads=1, strength=strength) as cpp,
        library.open(rest, backend=backend, threads=1) as around,
    ):
        background = around.restore(GROUP)
        for scale in (1, 2, 4):
            assert_same(library, python, cpp, GROUP, "all", scale, background, strength)


@pytest.mark.parametrize("strength", [0.0, 0.3])
@pytest.mark.parametrize("scale", [1, 2])
def test_strength(
    tmp_path: Path, library: Library, backend: str, strength: float, scale: int
) -> None:
    bundle = face_bundle(tmp_path / "b", gain=0.5)
    with (
        PhotoRestorer(bundle, backend=backend, threads=1) as python,
        library.open(bundle, backend=backend, threads=1, strength=strength) as cpp,
    ):
        for picture, faces in (
            (GROUP, "all"),
            (GROUP, "aligned"),
            (spots(128, 128, (64, 64)), "auto"),
        ):
            expected = python.restore(picture, faces, scale, strength=strength)  # type: ignore[arg-type]
            pixels, actual = cpp.restore_photo(picture, faces, scale)
            np.testing.assert_array_equal(pixels, expected.pixels)
            assert values(actual) == values(expected.faces)


def hostile_bundles(folder: Path) -> dict[str, Path]:
    return {
        "scores that are not finite": face_bundle(folder / "nan", spot_detector(heat=np.nan)),
        "input": face_bundle(folder / "name", spot_detector(name="x")),
        "yunet": face_bundle(folder / "other", decoder="yunet"),
        "operator": face_bundle(folder / "damaged", b"not a graph"),
    }


def test_hostile_detectors_are_errors_in_both(
    tmp_path: Path, library: Library, backend: str
) -> None:
    from elir_deploy.errors import BundleError

    for bundle in hostile_bundles(tmp_path).values():
        with pytest.raises(BundleError), PhotoRestorer(bundle, backend=backend) as python:
            python.detect(GROUP)
        with library.open(bundle, backend=backend) as cpp:
            with pytest.raises(library.binding.ElirError) as caught:
                cpp.detect(GROUP)
            assert caught.value.status == 2
            assert "\n" not in str(caught.value)


def test_bundles_that_restore_no_photographs(tmp_path: Path, library: Library) -> None:
    statuses = {}
    for name, bundle in {
        "no detector": make_bundle(tmp_path / "none", faces=True, size=64),
        "no faces": face_bundle(tmp_path / "rest", faces=False),
        "not square": face_bundle(
            tmp_path / "wide", shapes=[{"batch": 1, "height": 64, "width": 96}]
        ),
    }.items():
        with library.open(bundle, backend="onnxruntime") as cpp:
            with pytest.raises(library.binding.ElirError) as caught:
                cpp.restore_photo(GROUP)
            statuses[name] = caught.value.status
    assert statuses == {"no detector": 2, "no faces": 1, "not square": 1}


def real_photographs() -> list[NDArray[np.uint8]]:
    """Photographs with and without faces, in several sizes."""
    pictures = [several_faces(), astronaut(), astronaut(120)]
    for folder in (PORTRAITS, os.environ.get("ELIR_PHOTOGRAPHS")):
        paths = sorted(Path(folder).rglob("*.jpg"))[:40] if folder else []
        for path in paths:
            with Image.open(path) as image:
                pictures.append(np.asarray(image.convert("RGB")))
    return pictures


def tiny_for_faces(folder: Path, tiny: Path, detector: bytes, decoder: str) -> Path:
    """The packaged network as one for aligned faces: a true network, with noise as an input."""
    copytree(tiny, folder)
    manifest = read_manifest(folder)
    manifest["model"]["faces"] = True
    write_manifest(folder, manifest)
    return add_detector(folder, detector, decoder)


@pytest.mark.skipif(DETECTORS is None, reason="ELIR_DETECTORS names no folder")
@pytest.mark.parametrize(
    ("decoder", "file"), [("centerface", "centerface.onnx"), ("yunet", "yunet_n_dynamic.onnx")]
)
def test_photographs_with_real_detectors(
    tmp_path: Path, library: Library, tiny: Path, backend: str, decoder: str, file: str
) -> None:
    from elir_deploy.export.detectors import prepare_detector

    assert DETECTORS is not None
    detector = prepare_detector(Path(DETECTORS) / file, 17).graph
    bundle = tiny_for_faces(tmp_path / "b", tiny, detector, decoder)
    restored = 0
    with (
        PhotoRestorer(bundle, backend=backend, precision="fp32", threads=1) as python,
        opened(library, bundle, backend) as cpp,
    ):
        for picture in real_photographs():
            restored += sum(f.restored for f in assert_same(library, python, cpp, picture))
    assert restored >= 8


@pytest.mark.slow
@pytest.mark.skipif(DETECTORS is None, reason="ELIR_DETECTORS names no folder")
def test_the_face_model_at_full_size(
    tmp_path: Path, library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With random weights, on OpenVINO."""
    from elir_deploy.checkpoints import load_checkpoint
    from elir_deploy.export import pipeline
    from elir_deploy.export.detectors import prepare_detector

    assert DETECTORS is not None
    pytest.importorskip("openvino")
    # Slow, and tested elsewhere.
    monkeypatch.setattr(pipeline, "verify_bundle", lambda *_: {})
    options = pipeline.ExportOptions(precisions=("fp32",))
    pipeline.export_bundle(load_checkpoint("random", "bfr"), tmp_path / "b", options)
    detector = prepare_detector(Path(DETECTORS) / "centerface.onnx", 17).graph
    bundle = add_detector(tmp_path / "b", detector, "centerface")
    with (
        PhotoRestorer(bundle, backend="openvino", precision="fp32", threads=1) as python,
        opened(library, bundle, "openvino") as cpp,
    ):
        assert len(assert_same(library, python, cpp, several_faces(), scale=2)) >= 4
