"""Streams that are copied into the film of a part."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from elir_deploy.video import Encoding, Span, open_film, restore_film
from elir_deploy.video.restoring import RestoredFilm
from tests.video.films import Unchanged, av, read_film, write_film


def part(source: Path, start: Fraction, end: Fraction | None = None) -> RestoredFilm:
    target = source.with_name("restored" + source.suffix)
    fast = Encoding("libx264", preset="ultrafast")
    return restore_film(open_film(source), target, Unchanged(), fast, span=Span(start, end))


@pytest.mark.parametrize("start", [Fraction(1, 3), Fraction(1)])
def test_covers(tmp_path: Path, start: Fraction) -> None:
    source = write_film(tmp_path / "film.mp4", cover=True, count=30)
    result = part(source, start)
    assert result.remarks == ()
    assert read_film(result.path).packets[-1] == read_film(source).packets[-1]


def test_subtitles_that_began_before(tmp_path: Path) -> None:
    """As long as they are still shown, and before the key picture that is decoded from, too."""
    made: dict[str, Any] = {"count": 15, "extras": True, "options": {"g": "3"}}
    source = write_film(tmp_path / "film.mkv", time_base=Fraction(1, 1000), **made)
    for start, kept in (
        (Fraction(7, 25), [("Hello", 0, 20), ("World", 70, 150), ("at the same time", 70, 50)]),
        (Fraction(9, 25), [("World", 0, 140), ("at the same time", 0, 40)]),
        (Fraction(11, 25), [("World", 0, 60)]),
    ):
        packets = read_film(part(source, start).path).packets[-1]
        found = [(bytes.decode(), time * 1000, span * 1000) for bytes, time, span in packets]
        assert found == kept


def with_two_videos(path: Path) -> Path:
    """The same pictures twice, with a key picture in every ten and B-frames."""
    single = write_film(path.with_name("single.mkv"), count=50, audio=None, options={"g": "10"})
    with av.open(str(single)) as film, av.open(str(path), "w") as output:
        video = film.streams.video[0]
        streams = [output.add_stream_from_template(video) for _ in range(2)]
        for packet in film.demux(video):
            if packet.size:
                copies = [av.Packet(bytes(packet)) for _ in streams]
                for copy, stream in zip(copies, streams, strict=True):
                    copy.pts, copy.dts, copy.time_base = packet.pts, packet.dts, packet.time_base
                    copy.is_keyframe, copy.stream = packet.is_keyframe, stream
                output.mux(copies)
    return path


def test_another_video_begins_with_a_key_picture(tmp_path: Path) -> None:
    source = with_two_videos(tmp_path / "film.mkv")
    result = part(source, Fraction(1, 2), Fraction(3, 2))
    assert result.remarks == (
        "the first 0.28 s of its other video stream (of h264) are left out, up to a key picture",
    )
    with av.open(str(result.path)) as film:
        first, second = film.streams.video
        pictures = list(film.decode(second))
        assert pictures[0].key_frame
        assert not any(picture.is_corrupt for picture in pictures)
        times = [picture.pts * second.time_base for picture in pictures]
        film.seek(0)
        expected = [picture.pts * first.time_base for picture in film.decode(first)]
        expected = [time for time in expected if time >= times[0]]
    assert times[: len(expected)] == expected
    with av.open(str(result.path)) as film:
        packets = [packet for packet in film.demux(film.streams.video[1]) if packet.size]
    assert len(packets) == len(pictures), "all can be decoded"
    none = part(source, Fraction(17, 10))
    assert none.remarks[0].startswith("nothing of its other video stream (of h264) is copied")
