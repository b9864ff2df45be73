"""What containers hold, and what of a film is left out."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from elir_deploy.errors import UsageError
from elir_deploy.video import Encoding, open_film, restore_film
from tests.video.films import Unchanged, av, read_film, write_film


@pytest.mark.parametrize(
    ("codec", "suffix", "kept"),
    [
        ("libvpx-vp9", ".mkv", False),
        ("libvpx-vp9", ".mp4", True),
        ("mpeg4", ".mkv", True),
        ("libx265", ".mkv", True),
        ("libsvtav1", ".webm", False),
        ("ffv1", ".mkv", False),
    ],
)
def test_the_aspect_ratio_is_kept_or_told(
    tmp_path: Path, codec: str, suffix: str, kept: bool
) -> None:
    made: dict[str, Any] = {"audio": None, "aspect": Fraction(16, 11), "count": 3}
    source = write_film(tmp_path / "film.mov", time_base=Fraction(1, 1000), **made)
    target = tmp_path / f"restored{suffix}"
    remarks = restore_film(open_film(source), target, Unchanged(), Encoding(codec)).remarks
    assert (open_film(target).aspect == Fraction(16, 11)) == kept
    assert (not remarks) == kept
    assert kept or remarks[0].startswith("the aspect ratio 16:11 of its pixels is lost with ")


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_metadata_of_the_file(tmp_path: Path, suffix: str) -> None:
    """Names that MP4 has no field for, too."""
    metadata = {"title": "A title", "com.example.camera": "the left one"}
    options = {"movflags": "use_metadata_tags"} if suffix == ".mp4" else {}
    source = tmp_path / f"film{suffix}"
    write_film(source, count=2, audio=None, metadata=metadata, container_options=options)
    target = tmp_path / f"restored{suffix}"
    restore_film(open_film(source), target, Unchanged(), Encoding("libx264"))
    after = {name.lower(): value for name, value in read_film(target).metadata.items()}
    assert metadata.items() <= after.items()


def test_containers_and_codecs_that_do_not_fit(tmp_path: Path) -> None:
    source = write_film(tmp_path / "film.mkv", extras=True)
    film = open_film(source)
    with pytest.raises(UsageError, match=r"webm files hold no video of libx264: choose another"):
        restore_film(film, tmp_path / "a.webm", Unchanged(), Encoding("libx264"))
    with pytest.raises(UsageError, match=r"webm files hold no aac \(audio\).*name the output .mkv"):
        restore_film(film, tmp_path / "a.webm", Unchanged(), Encoding("libvpx-vp9"))
    assert {path.name for path in tmp_path.iterdir()} == {"film.mkv", "film.srt"}


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_streams_that_no_container_holds_are_left_out(tmp_path: Path, suffix: str) -> None:
    made: dict[str, Any] = {"codec": "mpeg4", "audio": "adpcm_ima_wav"}
    source = write_film(tmp_path / "film.avi", time_base=Fraction(1, 25), **made)
    target = tmp_path / f"restored{suffix}"
    result = restore_film(open_film(source), target, Unchanged(), Encoding("libx264"))
    told = "left out: a stream of adpcm_ima_wav (audio), which cannot be copied"
    assert (result.why_early, result.remarks) == (None, (told,))
    after = read_film(target)
    assert (len(after.pts), after.packets) == (12, [])


def test_chapters_are_not_told_as_data(tmp_path: Path) -> None:
    """MP4 files have their titles in a stream, too."""
    source = tmp_path / "film.mp4"
    with av.open(str(source), "w") as container:
        video = container.add_stream("libx264", 25)
        video.width, video.height = 64, 48
        chapter = {"id": 1, "start": 0, "end": 40, "time_base": Fraction(1, 1000)}
        container.set_chapters([chapter | {"metadata": {"title": "One"}}])
        container.mux([*video.encode(av.VideoFrame(64, 48, "yuv420p")), *video.encode(None)])
    with av.open(str(source)) as container:
        assert [stream.type for stream in container.streams] == ["video", "data"]
    target = tmp_path / "restored.mp4"
    assert restore_film(open_film(source), target, Unchanged(), Encoding("libx264")).remarks == ()
    assert [title for _, _, title in read_film(target).chapters] == ["One"]


def test_a_result_claims_no_transparency(tmp_path: Path) -> None:
    made: dict[str, Any] = {"codec": "libvpx-vp9", "pixels": "yuva420p", "audio": None, "count": 2}
    source, target = write_film(tmp_path / "film.webm", **made), tmp_path / "restored.webm"
    result = restore_film(open_film(source), target, Unchanged(), Encoding("libvpx-vp9"))
    assert result.remarks == ("its transparency is left out",)
    assert open_film(target).remarks == ()


def test_an_attachment_needs_matroska(tmp_path: Path) -> None:
    source = write_film(tmp_path / "film.mkv", extras=True, audio=None)
    with av.open(str(source)) as film, av.open(str(tmp_path / "a.mkv"), "w") as output:
        video = output.add_stream_from_template(film.streams.video[0])
        output.add_attachment("font.ttf", "font/ttf", b"not a font")
        for packet in film.demux(video=0):
            if packet.size:
                packet.stream = video
                output.mux(packet)
    film = open_film(tmp_path / "a.mkv")
    with pytest.raises(UsageError, match=r"hold no attachment.*name the output .mkv"):
        restore_film(film, tmp_path / "a.mp4", Unchanged(), Encoding("libx264"))
