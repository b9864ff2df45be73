"""Photographs restored with a bundle: identity, choices of faces, batches, threads, refusals."""

from __future__ import annotations

import os
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from msgspec.structs import replace as replace_fields

from elir_deploy.errors import BundleError, ImageError, UnavailableError, UsageError
from elir_deploy.photo import Faces, PhotoRestorer
from elir_deploy.photo.detection import MAX_FACES
from elir_deploy.photo.opening import open_detector
from elir_deploy.runtime import Bundle, Restorer, blend
from elir_deploy.runtime.backends import BACKENDS, detector_backends
from elir_deploy.runtime.backends.onnxruntime import OnnxRuntimeBackend
from elir_deploy.runtime.detector_graph import DetectorNetwork
from elir_deploy.runtime.resampling import EnlargedPicture, resize_into
from tests.bundles import make_bundle, read_manifest, write_manifest
from tests.photo.pictures import (
    DETECTORS,
    description,
    face,
    face_bundle,
    several_faces,
    spot_detector,
    spots,
)

pytest.importorskip("onnxruntime")

GROUP = spots(300, 400, (100, 100), (300, 160), (120, 290))


def opened(bundle: Path, **options: object) -> PhotoRestorer:
    return PhotoRestorer(bundle, **{"backend": "onnxruntime", "threads": 1} | options)  # type: ignore[arg-type]


def aligned(side: int) -> np.ndarray:
    """One face in the middle of a picture of ``side`` pixels, 128 of which are its square."""
    return spots(side, side, (side // 2, side // 2))


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_an_identity_network_keeps_every_byte(tmp_path: Path, backend: str) -> None:
    pytest.importorskip(backend)
    with opened(face_bundle(tmp_path / "b"), backend=backend) as restore:
        assert (restore.restorer.backend, restore.detector_backend) == (backend, backend)
        photo = restore(GROUP)
        np.testing.assert_array_equal(photo.pixels, GROUP)
        assert [f.restored for f in photo.faces] == [True] * 3
        # The corner of a box is moved into the picture.
        centres = {tuple(np.add(f.box[:2], f.box[2:]) / 2) for f in photo.faces[:2]}
        assert centres <= {(102.0, 102.0), (302.0, 162.0), (122.0, 281.5)}
        large = restore(GROUP, "all", scale=2)
        expected = np.empty((600, 800, 3), np.uint8)
        resize_into(GROUP, expected)
        np.testing.assert_array_equal(large.pixels, expected)
        nothing = restore(np.zeros((50, 70, 3), np.uint8))
        assert nothing.faces == ()
        assert not nothing.pixels.any()


def test_which_faces(tmp_path: Path) -> None:
    with opened(face_bundle(tmp_path / "b", gain=0.5)) as restore:
        found = restore.detect(GROUP)
        assert len(found) == 3
        changed = {}
        for choice in ("auto", "all", "largest", "centre"):
            photo = restore(GROUP, choice)  # type: ignore[arg-type]
            changed[choice] = (photo.pixels != GROUP).any(axis=2).sum()
            assert sum(f.restored for f in photo.faces) == (3 if choice in ("auto", "all") else 1)
        assert changed["auto"] == changed["all"] > changed["centre"] > 0
        own = restore(GROUP, [face(200, 150, 90)])
        assert [f.restored for f in own.faces] == [True]
        assert (own.pixels != GROUP).any()
        np.testing.assert_array_equal(restore(GROUP, found).pixels, restore(GROUP, "all").pixels)
        np.testing.assert_array_equal(restore(GROUP, []).pixels, GROUP)


@pytest.mark.parametrize(("side", "is_aligned"), [(128, True), (240, False)])
def test_an_aligned_picture_is_one_square(tmp_path: Path, side: int, is_aligned: bool) -> None:
    bundle, picture = face_bundle(tmp_path / "b", gain=0.5), aligned(side)
    with opened(bundle) as restore, Restorer(bundle, "onnxruntime") as square:
        photo, plain = restore(picture), square(picture)
        assert len(photo.faces) == 1
        assert photo.faces[0].restored
        assert (photo.pixels == plain).all() == is_aligned
        np.testing.assert_array_equal(restore(picture, "aligned").pixels, plain)
        assert restore(picture, "aligned").faces == ()
        large = restore(aligned(32), "aligned", scale=2)
        assert large.pixels.shape == (64, 64, 3)
        if is_aligned:
            assert restore(picture, scale=2).pixels.shape == (256, 256, 3)


def test_faces_run_in_batches_of_the_bundle(tmp_path: Path) -> None:
    shapes = [{"batch": 2, "height": 64, "width": 64}]
    bundles = (
        face_bundle(tmp_path / "1", gain=0.5),
        face_bundle(tmp_path / "2", gain=0.5, shapes=shapes),
    )
    results = []
    for bundle in bundles:
        with opened(bundle) as restore:
            results.append(restore(GROUP, "all").pixels)
            session = restore.restorer.session
            select = Mock(wraps=session.select)
            session.select = select  # type: ignore[method-assign]
            restore(GROUP, "all")
            batches = [call.args[1] for call in select.call_args_list]
            assert batches == ([1, 1, 1] if bundle is bundles[0] else [2, 1])
    np.testing.assert_array_equal(*results)


def test_the_background_has_its_own_bundle(tmp_path: Path) -> None:
    faces, rest = face_bundle(tmp_path / "f"), make_bundle(tmp_path / "b", gain=0.5)
    with opened(faces, background=rest) as restore:
        photo = restore(GROUP)
        assert (photo.pixels[240:, 240:] == np.rint(GROUP[240:, 240:] * 0.5)).all()
        assert (photo.pixels[100:104, 100:104] > 200).all()
        assert restore(GROUP, scale=2).pixels.shape == (600, 800, 3)
    enlarging = make_bundle(tmp_path / "x4", upscale=4, kernel="bicubic")
    with Restorer(enlarging, "onnxruntime") as own:
        with opened(faces, background=own) as restore:
            assert restore(GROUP, scale=2).pixels.shape == (600, 800, 3)
        assert own(GROUP[:8, :8]).shape == (32, 32, 3)  # still open
    with pytest.raises(UsageError, match="background bundle is for the task bfr"):
        opened(faces, background=faces)


@pytest.mark.parametrize("choice", ["all", "aligned"])
@pytest.mark.parametrize("scale", [1, 2])
def test_strength_mixes_the_photograph_in(tmp_path: Path, choice: Faces, scale: int) -> None:
    rest = make_bundle(tmp_path / "b", gain=0.5)
    before = np.empty((300 * scale, 400 * scale, 3), np.uint8)
    resize_into(GROUP, before)
    with opened(face_bundle(tmp_path / "f", gain=0.5), background=rest) as restore:
        whole = restore(GROUP, choice, scale).pixels
        for strength in (0, 0.3):
            photo = restore(GROUP, choice, scale, strength=strength)
            np.testing.assert_array_equal(photo.pixels, blend(before, whole, strength))
        with pytest.raises(UsageError, match="strength is 2"):
            restore(GROUP, strength=2)


@pytest.mark.skipif(DETECTORS is None, reason="ELIR_DETECTORS names no folder")
@pytest.mark.parametrize("file", ["centerface.onnx", "yunet_n_dynamic.onnx"])
def test_backends_find_the_same_faces_with_real_detectors(tmp_path: Path, file: str) -> None:
    pytest.importorskip("openvino")
    from elir_deploy.export.detectors import prepare_detector

    assert DETECTORS is not None
    prepared = prepare_detector(Path(DETECTORS) / file, 18)
    bundle = face_bundle(tmp_path / "b", prepared.graph, decoder=prepared.name)
    found = []
    for backend in ("onnxruntime", "openvino"):
        with opened(bundle, backend=backend) as restore:
            found.append([(f.box, f.landmarks) for f in restore.detect(several_faces())])
    assert len(found[0]) == 6
    for (box, landmarks), (its_box, its_landmarks) in zip(*found, strict=True):
        np.testing.assert_allclose(box, its_box, atol=1 / 32)
        np.testing.assert_allclose(landmarks, its_landmarks, atol=1 / 32)


# Refusals -----------------------------------------------------------------------------------------


def test_bundles_that_restore_no_photographs(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"no face detector: .* --detector centerface"):
        opened(make_bundle(tmp_path / "plain", faces=True, task="bfr"))
    with pytest.raises(BundleError, match="of tiny, which restores the whole picture; use a bund"):
        opened(make_bundle(tmp_path / "whole", faces=False, task="tiny"))
    with pytest.raises(UsageError, match="bundle is for the task tiny; PhotoRestorer needs one"):
        opened(face_bundle(tmp_path / "any", faces=False, task="tiny"))
    with pytest.raises(UsageError, match="PhotoRestorer needs one for aligned faces"):
        opened(face_bundle(tmp_path / "small", size=8))


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (spot_detector(name="x"), r"the detector's input is x: float32 1x3x\?x\?, expected input"),
        (spot_detector().replace(b"540", b"541"), "no float32 output 540"),
        (b"<html>", "detector.onnx"),
    ],
)
def test_other_networks_are_refused(
    tmp_path: Path, backend: str, content: bytes, message: str
) -> None:
    pytest.importorskip(backend)
    with pytest.raises(BundleError, match=message):
        opened(face_bundle(tmp_path / "b", content), backend=backend)


def test_what_a_network_must_not_compute(tmp_path: Path) -> None:
    bundle = face_bundle(tmp_path / "b", spot_detector(heat=float("nan")))
    with opened(bundle) as restore, pytest.raises(BundleError, match="scores that are not finite"):
        restore(GROUP)
    (bundle / "detector.onnx").write_bytes(spot_detector(heat=2))
    with pytest.raises(BundleError, match="is damaged: its SHA-256"):
        opened(bundle)


def test_bad_arguments(tmp_path: Path) -> None:
    bundle = face_bundle(tmp_path / "b")
    with opened(bundle) as restore:
        with pytest.raises(UsageError, match="faces is 'left', expected one of auto, all"):
            restore(GROUP, "left")  # type: ignore[arg-type]
        with pytest.raises(UsageError, match=r"faces is None, expected auto, .* or a list of Face"):
            restore(GROUP, None)  # type: ignore[arg-type]
        for scale in (3, 2.0, None):
            with pytest.raises(UsageError, match=f"scale is {scale}"):
                restore(GROUP, "aligned", scale=scale)  # type: ignore[arg-type]
        with pytest.raises(ImageError, match="shape"):
            restore(GROUP[0])
    for call in (restore.restore, restore.detect, lambda image: restore(image, [])):
        with pytest.raises(UsageError, match="closed"):
            call(GROUP)
    restore.close()
    with pytest.raises(UsageError, match="long_side is 8"):
        opened(bundle, long_side=8)


def test_another_backend_runs_the_detector_where_this_one_cannot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino")

    def refuse(self: object, *_: object, **__: object) -> None:
        raise UnavailableError("no detectors here")

    monkeypatch.setattr(OnnxRuntimeBackend, "open_detector", refuse)
    with pytest.warns(RuntimeWarning, match="runs on openvino: onnxruntime, onnxruntime-cuda: no"):
        restore = opened(face_bundle(tmp_path / "b"))
    with restore:
        assert restore.detector_backend == "openvino"
        assert len(restore.detect(GROUP)) == 3
    monkeypatch.setattr(type(BACKENDS["openvino"]), "open_detector", refuse)
    with pytest.raises(
        UnavailableError, match="no backend on this machine can run the face detector"
    ):
        opened(face_bundle(tmp_path / "c"))


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (UnavailableError("no cuDNN"), "no cuDNN"),
        (MemoryError(), "out of memory"),
        (ValueError("no kernel"), "ValueError: no kernel"),
    ],
)
def test_a_detector_that_fails_its_first_picture_runs_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str
) -> None:
    pytest.importorskip("openvino")

    def broken(self: object, *_: object, **__: object) -> object:
        return DetectorNetwork(Mock(side_effect=error))

    monkeypatch.setattr(OnnxRuntimeBackend, "open_detector", broken)
    with pytest.warns(RuntimeWarning, match=f"runs on openvino: .*onnxruntime.*: {reason}"):
        restore = opened(face_bundle(tmp_path / "b"))
    with restore:
        assert restore.detector_backend == "openvino"
        assert len(restore.detect(GROUP)) == 3


def test_alternatives_are_the_automatic_backends_that_the_detector_has_files_for() -> None:
    def names(first: str, *kinds: str) -> list[str]:
        detector = description("yunet")
        files = [replace_fields(detector.artifacts[0], kind=kind) for kind in ("onnx", *kinds)]
        changed = replace_fields(detector, artifacts=files)
        return [backend.name for backend in detector_backends(first, changed)]

    assert names("tensorrt") == ["tensorrt", "onnxruntime-cuda", "openvino", "onnxruntime"]
    assert names("openvino", "tensorrt-rtx") == [
        *("openvino", "tensorrt-rtx", "onnxruntime-cuda", "onnxruntime"),
    ]


def test_mistakes_are_told_before_a_model_is_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = face_bundle(tmp_path / "b")
    unknown = face_bundle(tmp_path / "u")
    detector = read_manifest(unknown)["detector"] | {"decoder": "retinaface"}
    write_manifest(unknown, read_manifest(unknown) | {"detector": detector})
    open_session = Mock(wraps=OnnxRuntimeBackend.open)
    monkeypatch.setattr(OnnxRuntimeBackend, "open", open_session)
    for path, options in (
        (bundle, {"long_side": 8}),
        (bundle, {"background": bundle}),
        (bundle, {"background": tmp_path}),
        (unknown, {}),
    ):
        with pytest.raises((UsageError, BundleError)):
            opened(path, **options)
    assert not open_session.called


@pytest.mark.parametrize(("of_faces", "of_rest"), [(8, None), (None, 8), (8, 8)])
def test_other_options_share_the_networks(
    tmp_path: Path, of_faces: int | None, of_rest: int | None
) -> None:
    path = face_bundle(tmp_path / "b", stride=of_faces)
    rest = make_bundle(tmp_path / "r", stride=of_rest, slope=0.5)
    options: dict[str, Any] = {"seed": 5, "sigma_s": 0.4}
    with (
        Restorer(rest, "onnxruntime", precision="fp32", tile_overlap=4) as background,
        opened(path, background=background, precision="fp32") as restore,
    ):
        before = restore(GROUP).pixels
        other = restore.with_options(tile_overlap=2, **options)
        shared = options if of_rest else {}
        with (
            Restorer(rest, "onnxruntime", precision="fp32", tile_overlap=2, **shared) as behind,
            opened(
                path, background=behind, precision="fp32", **(options if of_faces else {})
            ) as expected,
        ):
            np.testing.assert_array_equal(other(GROUP).pixels, expected(GROUP).pixels)
            square = aligned(64)
            np.testing.assert_array_equal(
                other(square, "aligned").pixels, expected(square, "aligned").pixels
            )
        for changed in (other, restore.with_options(tile_overlap=2)):
            assert (changed(GROUP).pixels != before).any()
        np.testing.assert_array_equal(restore(GROUP).pixels, before)
        with pytest.raises(UsageError, match="seed"):
            restore.with_options(seed=-1)


def test_options_of_no_effect_are_refused(tmp_path: Path) -> None:
    with opened(face_bundle(tmp_path / "b")) as restore:
        for options, reason in (({"tile_overlap": 2}, "there is none"), ({"seed": 1}, "baked")):
            with pytest.raises(UsageError, match=reason):
                restore.with_options(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize("scale", [1, 2])
def test_an_aligned_face_takes_the_square_of_several_shapes(tmp_path: Path, scale: int) -> None:
    shapes = [{"batch": 1, "height": 64, "width": 96}, {"batch": 1, "height": 64, "width": 64}]
    with opened(face_bundle(tmp_path / "b", stride=8, shapes=shapes)) as restore:
        run = Mock(wraps=restore.restorer.run_pixels)
        restore._squares = replace(restore._squares, run=run)
        restore.restorer.run_pixels = run  # type: ignore[method-assign]
        restored = restore(aligned(100), "aligned", scale).pixels
        assert restored.shape == (100 * scale, 100 * scale, 3)
        [call] = run.call_args_list
        assert call.args[0].shape[-3:-1] == (64, 64)


@pytest.mark.parametrize("faces", ["aligned", []])
def test_a_result_larger_than_memory(tmp_path: Path, faces: Any) -> None:
    huge = np.broadcast_to(np.zeros(3, np.uint8), (2**24, 2**22, 3))
    rest = make_bundle(tmp_path / "r")
    with opened(face_bundle(tmp_path / "b"), background=rest) as restore:
        restore._background.restore = lambda image: image  # type: ignore
        with pytest.raises(ImageError, match=r"would be 16777216x67108864 pixels.*not enough"):
            restore(huge, faces, scale=4)


@pytest.mark.parametrize("name", ["onnxruntime-cuda", "onnxruntime-tensorrt"])
def test_on_gpus_of_onnxruntime_the_detector_runs_on_cuda_in_float32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    import onnxruntime as ort

    asked = []

    def load(self: object, path: Path, ends: object, providers: object, *_: object) -> object:
        asked.append(providers)
        return ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    monkeypatch.setattr(OnnxRuntimeBackend, "available", lambda self: None)
    monkeypatch.setattr(OnnxRuntimeBackend, "_load", load)
    bundle = Bundle.open(face_bundle(tmp_path / "b"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if name == "onnxruntime-tensorrt" else "error")
        backend, network = open_detector(bundle, name, 1280, None, 1)
    assert backend == "onnxruntime-cuda"
    ((((name, options),),)) = [asked[0]]
    assert (name, options["device_id"], options["use_tf32"]) == ("CUDAExecutionProvider", "1", "0")
    assert network.run(np.zeros((1, 3, 32, 64), np.float32))["540"].shape == (1, 10, 8, 16)


def test_faces_beyond_the_limit_are_told(tmp_path: Path) -> None:
    with opened(face_bundle(tmp_path / "b")) as restore:
        found = restore.detect(GROUP)
        restore._find = lambda _: found[:1] * (MAX_FACES + 1)  # type: ignore[assignment]
        for call in (restore.detect, lambda picture: restore(picture, "largest").faces):
            with pytest.warns(RuntimeWarning, match="more than 1024 faces: those of lower"):
                assert len(call(GROUP)) == MAX_FACES  # type: ignore[operator]


@pytest.mark.parametrize("scale", [1, 2])
@pytest.mark.parametrize("choice", ["auto", "aligned", "list"])
def test_at_strength_0_nothing_runs(tmp_path: Path, choice: Any, scale: int) -> None:
    rest = make_bundle(tmp_path / "r", gain=0.5)
    with opened(face_bundle(tmp_path / "b", gain=0.5), background=rest) as restore:
        faces = restore.detect(GROUP) if choice == "list" else choice
        for each in (restore.restorer, restore._background):
            each.run_pixels = each.restore = Mock(side_effect=AssertionError)  # type: ignore
        restore._squares = replace(restore._squares, run=Mock(side_effect=AssertionError))
        restore._find = Mock(side_effect=AssertionError)  # type: ignore[assignment]
        photo = restore(GROUP, faces, scale, strength=0)
        with pytest.raises(UsageError, match="faces is 'none'"):
            restore(GROUP, "none", strength=0)  # type: ignore[arg-type]
    enlarged = EnlargedPicture(GROUP, scale, "bicubic" if scale > 1 else "none")
    expected = enlarged.block(0, 0, scale * 300, scale * 400)
    np.testing.assert_array_equal(photo.pixels, expected)
    assert [face.restored for face in photo.faces] == [False] * (3 if choice == "list" else 0)


# Threads and processes ----------------------------------------------------------------------------


def test_calls_from_two_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The network is entered by one thread at a time, and results are those of one thread."""
    inside, most = threading.Semaphore(0), [0]
    with opened(face_bundle(tmp_path / "b", gain=0.5)) as restore:
        pictures = [spots(200, 240, (60 + 20 * i, 100)) for i in range(6)]
        expected = [restore(picture, "all").pixels for picture in pictures]
        network = restore._network._network
        assert network is not None

        def watched(picture: np.ndarray) -> object:
            inside.release()
            most[0] = max(most[0], inside._value)
            time.sleep(0.01)
            result = network.run(picture)
            inside.acquire()
            return result

        monkeypatch.setattr(restore._network, "_network", replace(network, run=watched))
        with ThreadPoolExecutor(2) as threads:
            results = list(threads.map(lambda p: restore(p, "all").pixels, pictures))
    assert most == [1]
    for result, known in zip(results, expected, strict=True):
        np.testing.assert_array_equal(result, known)


def test_a_forked_child_is_refused(tmp_path: Path) -> None:
    restore = opened(face_bundle(tmp_path / "b"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        code = 1
        try:
            restore(GROUP, [])
        except UsageError as error:
            code = 0 if "forked" in str(error) else 2
        restore.close()
        os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    np.testing.assert_array_equal(restore(GROUP).pixels, GROUP)
    restore.close()
