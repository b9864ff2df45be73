"""elir-video: exit codes, what is printed, and interruptions."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from elir_deploy.runtime import Restorer
from tests.bundles import make_bundle
from tests.command import run_here
from tests.photo.pictures import face_bundle, spot_detector
from tests.video.films import (
    promise_a_million_pictures,
    read_film,
    with_another_size,
    write_film,
)

pytest.importorskip("onnxruntime")
QUIET = ("--backend", "onnxruntime", "--threads", "1", "--preset", "veryfast")


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    from elir_deploy.cli.video import main

    return run_here(main, *arguments)


def events_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_films(tmp_path: Path) -> None:
    bundle, out, log = make_bundle(tmp_path / "b", gain=0.5), tmp_path / "out", tmp_path / "log"
    film = write_film(tmp_path / "film.mp4", size=(32, 32))
    data = write_film(tmp_path / "other.mkv", count=60, options={"g": "20"}).read_bytes()
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(data[: len(data) // 2])
    missing = tmp_path / "missing.mp4"
    arguments = (bundle, film, cut, missing, "-o", out, *QUIET, "--existing", "skip")
    done = run(*arguments, "--events", log)
    assert done.returncode == 2
    assert done.stdout.startswith("1 restored, 2 failed, ")
    assert " frames/s, backend onnxruntime fp32\n" in done.stdout
    assert "restoring film.mp4 12/12, " in done.stderr
    assert f"failed: {cut}: the film ends early: " in done.stderr
    assert f", in {out}/cut.partial.mkv\n" in done.stderr
    assert f"failed: {missing} cannot be read: No such file or directory\n" in done.stderr
    restored, early, absent, summary = events_of(log)
    assert restored["event"] == "film"
    assert (restored["status"], restored["frames"]) == ("restored", 12)
    assert (early["status"], early["output"]) == ("failed", f"{out}/cut.partial.mkv")
    assert early["frames"] == len(read_film(out / "cut.partial.mkv").pts) > 10
    assert (absent["output"], absent["frames"]) == (None, 0)
    assert (summary["restored"], summary["failed"]) == (1, 2)
    with Restorer(bundle, "onnxruntime", threads=1) as restore:
        expected = [restore(picture) for picture in read_film(film).pictures]
    for was, now in zip(expected, read_film(out / "film.mp4").pictures, strict=True):
        assert np.abs(was.astype(int) - now).mean() < 5
    again = run(*arguments)
    assert "0 restored, 1 skipped, 2 failed, " in again.stdout


def test_faces_and_a_part(tmp_path: Path) -> None:
    bundle = face_bundle(tmp_path / "b")
    film = write_film(tmp_path / "film.mp4", count=50, size=(96, 96))
    arguments = (bundle, film, "-o", tmp_path / "x.mov", *QUIET, "--scale", "2")
    done = run(*arguments, "--start", "0.4", "--end", "0:01.2")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("1 restored, 20 frames, ")
    assert "no face was restored" not in done.stderr
    after = read_film(tmp_path / "x.mov")
    assert (len(after.pts), after.pictures[0].shape) == (20, (192, 192, 3))


def test_a_film_without_faces(tmp_path: Path) -> None:
    bundle = face_bundle(tmp_path / "b", spot_detector(heat=0.0))
    film = write_film(tmp_path / "film.mp4", count=5)
    for choice in ("all", "aligned"):
        out = tmp_path / choice
        done = run(bundle, film, "-o", out, *QUIET, "--faces", choice)
        assert done.returncode == 0
        assert (f"warning: {film}: no face was restored\n" in done.stderr) == (choice == "all")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--start", "soon"), "--start is 'soon', expected seconds, or a time such as 1:02:03.5"),
        (("--start", "5", "--end", "5"), "--end is 5, expected a time after --start, 5"),
        (("--codec", "nothing"), "--codec is 'nothing', which is no encoder of this FFmpeg"),
        (("--strength", "2"), "--strength is 2, expected 0 to 1"),
        (("--faces", "all"), "--faces is for bundles of faces, such as bfr"),
    ],
)
def test_refusals(tmp_path: Path, options: tuple[str, ...], told: str) -> None:
    bundle, film = make_bundle(tmp_path / "b"), write_film(tmp_path / "film.mp4")
    done = run(bundle, film, "-o", tmp_path / "out", *options)
    assert done.returncode == 2
    assert f"error: {told}" in done.stderr
    assert not list(tmp_path.glob("out/*"))


def empty(folder: Path) -> Path:
    film = folder / "film.mp4"
    film.touch()
    return film


def without_video(folder: Path) -> Path:
    film = folder / "film.wav"
    with wave.open(str(film), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(bytes(1000))
    return film


def promising_a_million_pictures(folder: Path) -> Path:
    film = write_film(folder / "film.mp4", audio=None, options={"bf": "0"}, count=5)
    return promise_a_million_pictures(film)


@pytest.mark.parametrize(
    ("make", "told", "left"),
    [
        (empty, "/film.mp4 is empty", None),
        (without_video, "there is no video in film.wav, only audio", None),
        (with_another_size, " on its pictures are 80x48, and not 64x48; restored up to", 20),
        (promising_a_million_pictures, "ends early: its header promises more; restored up to", 5),
    ],
)
def test_hostile_films(
    tmp_path: Path, make: Callable[[Path], Path], told: str, left: int | None
) -> None:
    """Nothing is left but what plays, under the name of a part."""
    film, out = make(tmp_path), tmp_path / "out"
    done = run(make_bundle(tmp_path / "b"), film, "-o", out, *QUIET)
    assert done.returncode == 2
    [failure] = [line for line in done.stderr.splitlines() if line.startswith("failed: ")]
    assert told in failure
    names = [path.name for path in out.iterdir()]
    if left is None:
        assert names == []
    else:
        assert [name.rpartition(".")[0] for name in names] == ["film.partial"]
        assert len(read_film(out / names[0]).pts) == left


@pytest.mark.parametrize(
    ("codec", "suffix", "code", "told"),
    [
        ("h264_nvenc", "mp4", 4, "the encoder h264_nvenc does not start: "),
        ("libx264", "webm", 2, "webm files hold no video of libx264: choose another --codec"),
    ],
)
def test_encoders_are_tried_before_a_bundle_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, codec: str, suffix: str, code: int, told: str
) -> None:
    film = write_film(tmp_path / "film.mp4", count=2, audio=None)
    monkeypatch.setattr("elir_deploy.cli.video.open_and_tell", None)
    done = run(make_bundle(tmp_path / "b"), film, "-o", tmp_path / f"a.{suffix}", "--codec", codec)
    assert done.returncode == code
    assert done.stderr.startswith(f"error: {told}")


@pytest.mark.parametrize(
    ("number", "code", "others"), [(signal.SIGINT, 130, 1), (signal.SIGTERM, 143, 0)]
)
def test_interrupted(tmp_path: Path, number: signal.Signals, code: int, others: int) -> None:
    bundle, out = make_bundle(tmp_path / "b", size=64), tmp_path / "out"
    film = write_film(tmp_path / "film.mp4", size=(256, 192), count=200)
    films = [film, film.with_name("b.mp4")][: 1 + others]
    command = [sys.executable, "-m", "elir_deploy.cli.video", bundle, *films, "-o", f"{out}/"]
    process = subprocess.Popen([*map(str, command), *QUIET], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("restoring film.mp4 ") and " 0/" not in line:
            break
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == code, error
    part = out / "film.partial.mp4"
    assert f"failed: {film}: interrupted; restored up to 0:00:" in error
    assert f", in {part}\n" in error
    assert ("1 failed, 1 left: --existing skip restores the rest" in error) == bool(others)
    assert "0 left" not in error
    assert [path.name for path in out.iterdir()] == [part.name]
    before, after = read_film(film), read_film(part)
    assert 20 <= len(after.pts) < 200
    assert after.pts == before.pts[: len(after.pts)]
    assert after.pts[-1] - 0.1 < after.packets[0][-1][1] < after.pts[-1] + 0.04


def test_killed(tmp_path: Path) -> None:
    """Nothing is left but a hidden file, which the next run removes."""
    bundle, out = make_bundle(tmp_path / "b", size=64), tmp_path / "out"
    film = write_film(tmp_path / "film.mp4", size=(256, 192), count=150)
    command = [sys.executable, "-m", "elir_deploy.cli.video", bundle, film, "-o", out, *QUIET]
    process = subprocess.Popen([*map(str, command)], stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not list(out.glob(".elir-*.part")):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.kill()
    process.communicate()
    assert not [path for path in out.iterdir() if not path.name.startswith(".elir-")]
    assert run(*command[3:], "--end", "0.2").returncode == 0
    assert [path.name for path in out.iterdir()] == ["film.mp4"]


def test_without_pyav(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("elir_deploy.video.library.find_spec", lambda name: None)
    done = run("tiny", "film.mp4", "-o", tmp_path / "out")
    assert done.returncode == 4
    assert "av is needed to read and write films and is not installed" in done.stderr
