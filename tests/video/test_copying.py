"""Streams that are copied into the film of a part."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

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
    early = part(source, Fraction(9, 25), Fraction(11, 25))  # of which one lasts longer
    assert [span * 1000 for _, _, span in read_film(early.path).packets[-1]] == [80, 40]


def test_a_subtitle_that_does_not_say_how_long_it_is_shown(tmp_path: Path) -> None:
    """The last one before, as of pictures of text that are shown until the next."""
    made: dict[str, Any] = {"count": 15, "extras": True, "audio": None}
    film = write_film(tmp_path / "made.mkv", time_base=Fraction(1, 1000), **made)
    source = tmp_path / "film.mkv"
    with av.open(str(film)) as reader, av.open(str(source), "w") as writer:
        streams = [stream for stream in reader.streams if stream.type != "attachment"]
        added = {each.index: writer.add_stream_from_template(each, opaque=True) for each in streams}
        for packet in reader.demux(streams):
            if packet.size:
                packet.duration = 0 if packet.stream.type == "subtitle" else packet.duration
                packet.stream = added[packet.stream_index]
                writer.mux(packet)
    packets = read_film(part(source, Fraction(8, 25)).path).packets[-1]
    assert [(bytes.decode(), time * 1000) for bytes, time, _ in packets] == [
        ("Hello", 0),
        ("World", 30),
        ("at the same time", 30),
    ]


def with_two_videos(path: Path) -> Path:
    """The same pictures twice, with a key picture in every twelve and B-frames around each."""
    options = {"g": "12", "b_strategy": "0", "x264-params": "open-gop=1"}
    single = write_film(path.with_name("single.mkv"), count=50, audio=None, options=options)
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


def pictures_of_the_other(path: Path) -> dict[Fraction, NDArray[np.uint8]]:
    with av.open(str(path)) as film:
        video = film.streams.video[1]
        return {
            picture.pts * video.time_base: picture.to_ndarray() for picture in film.decode(video)
        }


def test_another_video_begins_with_a_key_picture(tmp_path: Path) -> None:
    source = with_two_videos(tmp_path / "film.mkv")
    result = part(source, Fraction(1, 2), Fraction(7, 5))  # the last one needs one after the end
    assert result.remarks == (
        "the first 0.44 s of its other video stream (of h264) are left out, up to a key picture",
    )
    before, after = pictures_of_the_other(source), pictures_of_the_other(result.path)
    start, first = Fraction(1, 2), Fraction(24, 25)
    assert min(after) == first - start
    assert {time for time in before if first <= time < Fraction(7, 5)} <= {
        time + start for time in after
    }
    for time, pixels in after.items():
        np.testing.assert_array_equal(pixels, before[time + start])
    assert len(read_film(result.path).packets[0]) == len(after), "nothing is left undecoded"
    none = part(source, Fraction(39, 20))
    assert none.remarks[0].startswith("nothing of its other video stream (of h264) is copied")
