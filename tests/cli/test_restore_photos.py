"""elir-restore on photographs: faces found and put back, events, choices and refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from elir_deploy.photo import PhotoRestorer
from elir_deploy.runtime import Restorer, blend, read_image
from elir_deploy.runtime.resampling import resize_into
from tests.bundles import make_bundle
from tests.cli.test_restore import events_of, run
from tests.photo.pictures import face_bundle, spots

__all__ = ["run"]

pytest.importorskip("onnxruntime")
GROUP = spots(300, 400, (100, 100), (300, 160), (120, 260))
QUIET = ("--backend", "onnxruntime", "--threads", "1")


def put(path: Path, pixels: np.ndarray = GROUP, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def test_a_folder_of_photographs(run, tmp_path: Path, capsys) -> None:
    bundle, album, out = face_bundle(tmp_path / "b", gain=0.5), tmp_path / "album", tmp_path / "out"
    put(album / "group.png")
    put(album / "nobody.png", spots(50, 70))
    put(album / "portrait.png", spots(128, 128, (64, 64)))
    (album / "broken.png").write_bytes(b"x")
    arguments = (bundle, album, "-o", out, *QUIET, "--existing", "skip")
    assert run(*arguments, "--events", tmp_path / "run.jsonl") == 2
    printed = capsys.readouterr()
    assert printed.out.startswith("3 restored, 1 failed, 4 faces, ")
    assert "bfr: onnxruntime, fp32, 1 thread; faces by centerface on onnxruntime\n" in printed.err
    assert f"warning: {album}/nobody.png: no face was found\n" in printed.err
    *images, summary = events_of((tmp_path / "run.jsonl").read_text())
    events = {Path(event["input"]).stem: event for event in images}
    assert summary["restored"] == 3
    assert "faces" not in events["broken"]
    assert (events["nobody"]["faces"], events["nobody"]["message"]) == ([], "no face was found")
    assert events["nobody"]["status"] == "restored"
    with PhotoRestorer(bundle, backend="onnxruntime", threads=1) as restore:
        for name in ("group", "nobody", "portrait"):
            photo = restore(read_image(album / f"{name}.png").pixels)
            np.testing.assert_array_equal(read_image(out / f"{name}.png").pixels, photo.pixels)
            assert events[name]["faces"] == json.loads(
                json.dumps([face.to_json() for face in photo.faces])
            )
    np.testing.assert_array_equal(read_image(out / "nobody.png").pixels, spots(50, 70))
    assert [face["restored"] for face in events["group"]["faces"]] == [True] * 3
    put(album / "broken.png")
    assert run(*arguments) == 0
    assert capsys.readouterr().out.startswith("1 restored, 3 skipped, 3 faces, ")


def test_coordinates_are_those_of_the_upright_picture(run, tmp_path: Path, capsys) -> None:
    """EXIF says that the picture lies on its side; the rest of its data stays."""
    picture = spots(200, 120, (60, 40))
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a caption"
    put(tmp_path / "a.png", np.rot90(picture).copy(), exif=exif)
    bundle = face_bundle(tmp_path / "b", gain=0.5)
    assert run(bundle, tmp_path / "a.png", "-o", tmp_path / "x.png", "--events", "-", *QUIET) == 0
    event = events_of(capsys.readouterr().out)[0]
    [face] = event["faces"]
    assert np.add(face["box"][:2], face["box"][2:]).tolist() == [124, 84]
    with Image.open(tmp_path / "x.png") as result:
        assert result.size == (120, 200)
        assert result.getexif().get(0x0112, 1) == 1
        assert result.getexif()[0x010E] == "a caption"
        changed = (np.asarray(result) != picture).any(axis=2)
    assert changed[20:60, 40:80].mean() > 0.9
    assert not changed[110:].any()


@pytest.mark.parametrize("choice", ["all", "largest", "centre", "aligned"])
def test_the_choice_of_faces(run, tmp_path: Path, capsys, choice: str) -> None:
    bundle, image = face_bundle(tmp_path / "b", gain=0.5), put(tmp_path / "a.png")
    arguments = (bundle, image, "-o", tmp_path / "x.png", "--events", "-", *QUIET)
    assert run(*arguments, "--faces", choice) == 0
    printed = capsys.readouterr()
    [event, _] = events_of(printed.out)
    assert len([f for f in event.get("faces", []) if f["restored"]]) == (
        {"all": 3, "aligned": 0}.get(choice, 1)
    )
    if choice != "aligned":
        reasons = {face["reason"] for face in event["faces"]} - {None}
        assert bool(reasons) == (choice != "all")
        return
    assert "faces" not in event
    assert "400x300 is not square: bfr expects an aligned face crop" in event["message"]
    with Restorer(bundle, "onnxruntime", threads=1) as square:
        expected = square(GROUP)
    np.testing.assert_array_equal(read_image(tmp_path / "x.png").pixels, expected)


def test_the_background_and_the_scale(run, tmp_path: Path) -> None:
    faces = face_bundle(tmp_path / "f")
    rest = make_bundle(tmp_path / "r", gain=0.5, stride=8)
    image, out = put(tmp_path / "a.png"), tmp_path / "x.png"
    assert run(faces, image, "-o", out, "--scale", "2", *QUIET) == 0
    expected = np.empty((600, 800, 3), np.uint8)
    resize_into(GROUP, expected)
    np.testing.assert_array_equal(read_image(out).pixels, expected)
    noise = ("--sigma-s", "0.1", "--seed", "5", "--tile-overlap", "16")
    arguments = (faces, image, "-o", out, "--background", rest, "--existing", "overwrite")
    assert run(*arguments, *noise, *QUIET, "--compare") == 0
    pixels = read_image(out).pixels
    options = {"sigma_s": 0.1, "seed": 5, "tile_overlap": 16, "threads": 1}
    with Restorer(rest, "onnxruntime", **options) as restore:  # type: ignore[arg-type]
        np.testing.assert_array_equal(pixels[240:, 250:], restore(GROUP)[240:, 250:])
    assert (pixels[100:104, 100:104] > 200).all()
    assert read_image(tmp_path / "x.compare.png").pixels.shape == (300, 800, 3)


def test_several_at_the_same_time(run, tmp_path: Path, capsys) -> None:
    pytest.importorskip("openvino")
    bundle, album = face_bundle(tmp_path / "b", gain=0.5), tmp_path / "album"
    for index in range(5):
        put(album / f"{index}.png", spots(140, 300, (60, 60), (150 + 20 * index, 80)))
    options = ("--backend", "openvino", "--precision", "fp32", "--mode", "throughput")
    assert run(bundle, album, "-o", tmp_path / "out", *options) == 0
    assert capsys.readouterr().out.startswith("5 restored, 10 faces, ")
    with PhotoRestorer(bundle, backend="openvino", precision="fp32") as restore:
        for path in album.iterdir():
            expected = restore(read_image(path).pixels).pixels
            np.testing.assert_array_equal(read_image(tmp_path / "out" / path.name).pixels, expected)


def test_strength_and_transparency(run, tmp_path: Path, capsys) -> None:
    """Colours hidden by transparency are mixed in, though the model sees others in their place."""
    alpha = np.full((300, 400, 1), 255, np.uint8)
    alpha[80:100, 60:80] = 0
    image = put(tmp_path / "a.png", np.dstack([GROUP, alpha]))
    bundle = face_bundle(tmp_path / "b", gain=0.5)
    arguments = (bundle, image, "--strength", "0.25", *QUIET, "--scale", "2")
    assert run(*arguments, "-o", tmp_path / "x.png") == 0
    with PhotoRestorer(bundle, backend="onnxruntime", threads=1) as restore:
        whole = restore(read_image(image).opaque(), scale=2).pixels
    before = np.empty_like(whole)
    resize_into(GROUP, before)
    result = read_image(tmp_path / "x.png")
    np.testing.assert_array_equal(result.pixels, blend(before, whole, 0.25))
    assert result.alpha is not None
    assert result.alpha.shape == (600, 800)
    assert run(*arguments, "-o", tmp_path / "y.png", "--bits", "16") == 2
    assert "photographs are restored in 8; with --faces aligned" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "arguments", "reason"),
    [
        ("any", ["--faces", "all"], "--faces is for bundles of faces, such as bfr, and "),
        ("any", ["--scale", "2"], "is of tiny, which restores the whole picture: leave it out"),
        ("any", ["--background", "tiny"], "--background is for bundles of faces"),
        ("crops", ["--faces", "all"], "no face detector: export it again with --detector"),
        ("crops", ["--scale", "2"], "restore aligned crops (--faces aligned)"),
        ("sr", ["--faces", "auto"], "no face detector: none sees faces in inputs of sr, so"),
        ("photos", ["--faces", "left"], "left"),
        ("photos", ["--scale", "3"], "3"),
        ("photos", ["--fit", "resize"], "--fit is for pictures that the model sees as a whole"),
        ("photos", ["--force"], "--force is for pictures that the model sees as a whole"),
        ("photos", ["--tile-overlap", "8"], "--tile-overlap is for the tiles of a --background"),
        ("photos", ["--seed", "8"], "noise is baked"),
        ("photos", ["--background", "tiny", "--faces", "aligned"], "which has no --background"),
        ("any", ["--long-side", "640"], "--long-side is for bundles of faces"),
        ("photos", ["--long-side", "8"], "--long-side is 8, expected 32 to 4096"),
        ("photos", ["--long-side", "640", "--faces", "aligned"], "which --long-side is for"),
        ("photos", ["--background", "photos"], "background bundle is for the task bfr"),
        ("photos", ["--background", "nothing"], "no such folder"),
    ],
)
def test_what_does_not_fit_together(
    run, tmp_path: Path, capsys, monkeypatch, kind: str, arguments: list[str], reason: str
) -> None:
    monkeypatch.chdir(tmp_path)
    if kind == "photos":
        face_bundle(tmp_path / kind)
    else:
        task = {"any": "tiny", "crops": "bfr"}.get(kind, kind)
        make_bundle(tmp_path / kind, faces=kind != "any", task=task)
    put(tmp_path / "a.png")
    assert run(kind, "a.png", "-o", "out", *arguments, *QUIET) == 2
    error = capsys.readouterr().err
    assert reason in error
    assert "Traceback" not in error


@pytest.mark.parametrize(("side", "found"), [(None, 1), (640, 0), (1280, 1)])
def test_the_long_side(run, tmp_path: Path, capsys, side: int | None, found: int) -> None:
    """A face of four pixels is gone in a picture of half the size."""
    image = put(tmp_path / "a.png", spots(400, 1280, (604, 200)))
    arguments = [] if side is None else ["--long-side", side]
    bundle = face_bundle(tmp_path / "b")
    assert run(bundle, image, "-o", tmp_path / "x.png", "--events", "-", *arguments, *QUIET) == 0
    assert len(events_of(capsys.readouterr().out)[0]["faces"]) == found


def test_a_photograph_for_a_bundle_of_crops(run, tmp_path: Path, capsys) -> None:
    """It is restored as one square, as it was asked for, with a hint that it need not be."""
    bundle = make_bundle(tmp_path / "b", faces=True, task="bfr")
    assert run(bundle, put(tmp_path / "a.png"), "-o", tmp_path / "out", *QUIET) == 0
    error = capsys.readouterr().err
    assert "400x300 is not square" in error
    assert "a bundle exported with --detector centerface finds the faces" in error
    assert run(bundle, tmp_path / "a.png", "-o", tmp_path / "x.png", "--faces", "aligned") == 0
