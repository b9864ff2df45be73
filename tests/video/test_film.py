"""What is read of a film before it is restored, and what is refused."""

from __future__ import annotations

import os
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from elir_deploy.errors import FilmError, MissingDependencyError
from elir_deploy.video import open_film
from elir_deploy.video.film import Orientation
from tests.video.films import TURNED, Disposition, av, write_film

#: Display matrices of the eight orientations.
MATRICES = [
    (a, b, 0, c, d, 0, 0, 0, 1 << 30)
    for a, b, c, d in [
        *((x << 16, 0, 0, y << 16) for x in (-1, 1) for y in (-1, 1)),
        *((0, x << 16, y << 16, 0) for x in (-1, 1) for y in (-1, 1)),
    ]
]


@pytest.mark.parametrize("matrix", MATRICES)
def test_orientations(matrix: tuple[int, ...]) -> None:
    """By the definition: (x, y) is shown at (a x + c y, b x + d y), moved to begin at 0."""
    pixels = np.arange(24).reshape(2, 4, 3)
    orientation = Orientation.of(matrix)
    shown = orientation.upright(pixels)
    np.testing.assert_array_equal(orientation.stored(shown), pixels)
    a, b, c, d = (np.sign(matrix[i]) for i in (0, 1, 3, 4))
    places = {(a * x + c * y, b * x + d * y): pixels[y, x] for y in range(2) for x in range(4)}
    left, top = min(x for x, _ in places), min(y for _, y in places)
    for (x, y), value in places.items():
        np.testing.assert_array_equal(shown[y - top, x - left], value)


def test_other_angles_are_left_to_players() -> None:
    pixels = np.arange(24).reshape(2, 4, 3)
    orientation = Orientation.of((46341, 46341, 0, -46341, 46341, 0, 0, 0, 1 << 30))
    np.testing.assert_array_equal(orientation.upright(pixels), pixels)
    assert orientation.matrix is not None


def test_a_film(tmp_path: Path) -> None:
    path = write_film(
        tmp_path / "a film: x.mov", rate=Fraction(24000, 1001), matrix=TURNED, count=24
    )
    film = open_film(path)
    assert (film.width, film.height, film.bits, film.frames) == (64, 48, 8, 24)
    assert film.rate == pytest.approx(Fraction(24000, 1001), rel=1e-3)
    assert film.orientation.transposed
    assert film.duration == pytest.approx(1.0, abs=0.01)
    assert film.expected_frames(None, None) == 24
    assert film.expected_frames(Fraction(1, 2), None) == 12
    assert film.expected_frames(Fraction(1, 4), Fraction(1, 2)) == 6
    assert film.expected_frames(Fraction(9), None) == 0


def test_hostile_files(tmp_path: Path) -> None:
    sound = tmp_path / "sound.mp4"
    with av.open(str(sound), "w") as container:
        stream = container.add_stream("aac", 48000)
        frame = av.AudioFrame.from_ndarray(np.zeros((2, 1024), np.float32), "fltp", "stereo")
        frame.sample_rate = 48000
        container.mux([*stream.encode(frame), *stream.encode(None)])
    with av.open(str(tmp_path / "song.mp3"), "w") as container:
        stream = container.add_stream("libmp3lame", 48000)
        stream.layout = "stereo"
        cover = container.add_stream("png")
        cover.width, cover.height, cover.pix_fmt = 16, 16, "rgb24"
        cover.disposition = Disposition.attached_pic
        picture = av.VideoFrame(16, 16, "rgb24")
        container.mux([*cover.encode(picture), *cover.encode(None)])
        container.mux([*stream.encode(frame), *stream.encode(None)])
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("words " * 500)
    Image.new("RGB", (8, 8)).save(tmp_path / "picture.png")
    playlist = tmp_path / "list.m3u8"
    playlist.write_text("#EXTM3U\n#EXTINF:9,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n")
    for name, told in {
        "sound.mp4": "there is no video in sound.mp4, only audio$",
        "song.mp3": "there is no video in song.mp3, only audio, a cover$",
        "empty.mp4": "empty.mp4 is empty",
        "text.mp4": "cannot be read: it is no film, or was cut off",
        "missing.mp4": "missing.mp4 cannot be read: No such file",
        "picture.png": "is a picture: restore it with elir-restore",
        "list.m3u8": "cannot be read|no video|nothing",
    }.items():
        with pytest.raises(FilmError, match=told):
            open_film(tmp_path / name)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes with names")
def test_pipes_are_not_opened(tmp_path: Path) -> None:
    """Opening one waits for its writer."""
    os.mkfifo(tmp_path / "film.mp4")
    with pytest.raises(FilmError, match=r"film\.mp4 is no regular file"):
        open_film(tmp_path / "film.mp4")


def test_a_film_without_a_decodable_picture(tmp_path: Path) -> None:
    path = write_film(tmp_path / "film.mkv", audio=None, codec="mjpeg", pixels="yuvj420p")
    with av.open(str(path)) as container:
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    data = path.read_bytes()
    for packet in packets:
        data = data.replace(packet, bytes(len(packet)))
    path.write_bytes(data)
    with pytest.raises(FilmError, match="no picture of its video can be decoded"):
        open_film(path)


@pytest.mark.parametrize("codec", ["libvpx-vp9", "ffv1"])
def test_transparency_is_told(tmp_path: Path, codec: str) -> None:
    made = {"codec": codec, "pixels": "yuva420p", "count": 1}
    path = write_film(tmp_path / "film.mkv", audio=None, **made)  # type: ignore[arg-type]
    assert open_film(path).remarks == ("its transparency is left out",)


def test_interlaced_films_are_told(tmp_path: Path) -> None:
    options = {"flags": "+ilme+ildct", "x264-params": "tff=1"}
    path = write_film(tmp_path / "film.mp4", options=options)
    assert "it is interlaced" in open_film(path).remarks[0]


def test_without_pyav(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    monkeypatch.setattr("elir_deploy.video.library.find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'elir-deploy\[video\]'"):
        open_film(tmp_path / "a.mp4")
