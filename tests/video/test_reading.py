"""Films that are damaged, or whose times are."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from elir_deploy.video import (
    Encoding,
    Span,
    copying,
    demuxing,
    open_film,
    reading,
    restore_film,
)
from elir_deploy.video.restoring import RestoredFilm
from tests.video.films import Unchanged, av, read_film, write_film

MILLISECONDS = Fraction(1, 1000)


def restored(source: Path, span: Span | None = None) -> RestoredFilm:
    target, fast = source.with_name("restored.mkv"), Encoding("libx264", preset="ultrafast")
    return restore_film(open_film(source), target, Unchanged(), fast, span=span)


def test_damage_within_a_film(tmp_path: Path) -> None:
    """What can be decoded is restored; what cannot is told."""
    made: dict[str, Any] = {"codec": "mjpeg", "pixels": "yuvj420p", "audio": None, "count": 12}
    source = write_film(tmp_path / "film.mkv", time_base=MILLISECONDS, **made)
    with av.open(str(source)) as container:
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    data = source.read_bytes()
    source.write_bytes(data.replace(packets[5], bytes(len(packets[5]))))
    result = restored(source)
    assert result.frames == 11
    assert result.why_early is None
    assert result.remarks == ("1 damaged packet left out",)


def appended(path: Path, *parts: Path) -> Path:
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    return path


@pytest.mark.parametrize("suffix", [".ts", ".mpg"])
@pytest.mark.parametrize("sound", [True, False])
def test_transport_streams_that_were_joined(tmp_path: Path, suffix: str, sound: bool) -> None:
    """Of those that follow, all times begin anew; pictures and sound go on together."""
    codec, audio = ("mpeg2video", "mp2") if suffix == ".mpg" else ("libx264", "aac")
    made: dict[str, Any] = {"codec": codec, "audio": audio if sound else None, "count": 20}
    made |= {"time_base": Fraction(1, 25)}
    part = write_film(tmp_path / f"part{suffix}", **made)
    source = appended(tmp_path / f"film{suffix}", part, part, part)
    result = restored(source)
    assert (result.why_early, result.frames) == (None, 60)
    [remark] = result.remarks
    told = (
        r"its times begin anew at 0:00:00\.[89]\d\d, and elsewhere, as where films were joined: .*"
    )
    assert re.fullmatch(told, remark)
    whole, one = read_film(result.path), read_film(restored(part).path)
    steps = np.diff(np.array(whole.pts, float))
    assert steps.min() == pytest.approx(0.04, abs=2e-3)
    assert steps.max() < 0.2, "for reordered pictures, or as much as the sound is longer"
    later = whole.pts[20] - whole.pts[0]
    assert whole.pts[20:40] == pytest.approx([time + later for time in whole.pts[:20]], abs=2e-3)
    for before, after in zip(one.packets, whole.packets, strict=True):
        count = len(before)
        assert [data for data, _, _ in after] == [data for data, _, _ in before] * 3
        times = np.array([float(time) for _, time, _ in after])
        assert times[count:] - times[:-count] == pytest.approx(float(later), abs=2e-3)


def test_a_part_of_joined_transport_streams(tmp_path: Path) -> None:
    part = write_film(tmp_path / "part.ts", count=20, audio=None)
    source = appended(tmp_path / "film.ts", part, part)
    begin = restored(source, Span(end=Fraction(1, 2)))
    assert (begin.frames, begin.remarks) == (13, ()), "it ends before"
    assert restored(source, Span(Fraction(6, 5))).frames == 12


@pytest.mark.parametrize("audio", ["aac", "ac3"])
def test_joined_transport_streams_the_first_of_which_was_cut_off(
    tmp_path: Path, audio: str
) -> None:
    """All that it has is restored; half a packet of sound is left out, and the film goes on."""
    part = write_film(tmp_path / "part.ts", count=20, audio=audio)
    told = 0
    for lost in range(1, 20, 2):
        cut = tmp_path / "cut.ts"
        cut.write_bytes(part.read_bytes()[: -188 * lost])
        alone = restored(cut).frames
        result = restored(appended(tmp_path / "film.ts", cut, part))
        assert (result.why_early, result.frames) == (None, alone + 20)
        told += result.remarks[1:] == ("1 damaged copied packet left out",)
    assert 0 < told < 10


@pytest.mark.parametrize("suffix", [".ts", ".mkv"])
def test_a_part_may_begin_with_any_picture(tmp_path: Path, suffix: str) -> None:
    """Also with one that is shown before a key picture and comes after it."""
    options = {"g": "10", "x264-params": "open-gop=1", "sc_threshold": "0"}
    source = write_film(tmp_path / f"film{suffix}", count=40, audio=None, options=options)
    for number in range(5, 25):
        assert restored(source, Span(Fraction(number, 25))).frames == 40 - number


def test_times_of_a_joined_stream_that_are_far_earlier(tmp_path: Path) -> None:
    """Which FFmpeg takes for those of a counter that began again, after 26 hours."""
    first, *others = (
        write_film(
            tmp_path / f"{start}.ts",
            times=[3600 * (start + number) for number in range(20)],
            audio=None,
        )
        for start in (25 * 100, 0)
    )
    result = restored(appended(tmp_path / "film.ts", first, *others))
    assert result.frames == 40
    assert result.until < 2
    assert result.why_early is None
    assert read_film(result.path).pts[0] < 0.1, "a stream begins anywhere, its result at 0"


def test_many_packets_without_a_key_picture_are_not_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_film(tmp_path / "film.mkv", count=40, audio=None, options={"g": "100"})
    expected = read_film(restored(source, Span(Fraction(1))).path).pictures
    monkeypatch.setattr(reading, "_MOST_HELD", 100)
    found = read_film(restored(source, Span(Fraction(1))).path).pictures
    np.testing.assert_array_equal(found, expected)


def test_slides_joined_behind_a_short_part(tmp_path: Path) -> None:
    """Whose steps are longer than that part: later ones would fit its times, too."""
    first = write_film(tmp_path / "first.ts", count=50)
    slides = [3600 * 75 * number for number in range(5)]
    second = write_film(tmp_path / "second.ts", times=slides)
    result = restored(appended(tmp_path / "film.ts", first, second))
    assert result.frames == 55
    assert np.diff(read_film(result.path).pts[50:]).tolist() == [3] * 4


def test_files_that_were_appended_to_one_another(tmp_path: Path) -> None:
    """In a container whose times may not begin anew."""
    part = write_film(tmp_path / "part.mkv", count=20, audio=None, time_base=MILLISECONDS)
    source = appended(tmp_path / "film.mkv", part, part)
    result = restored(source)
    assert result.why_early is not None
    assert result.why_early.startswith(
        "after 0:00:00.760 its times go back to 0:00:00.000, as of files "
    )
    assert result.frames == 20
    assert result.path.name == "restored.partial.mkv"
    times = read_film(result.path).pts
    assert times == pytest.approx(read_film(part).pts, abs=1e-3)
    assert restored(source, Span(end=Fraction(1, 2))).why_early is None, "it ends before"


def without_a_continuation(path: Path, stream: int, first: int) -> int:
    """Drop a packet of a transport stream that begins no picture or sound, as lost signals do.

    ``stream``: its PID, less 256. Gives the number of such packets from ``first`` on.
    """
    data = bytearray(path.read_bytes())
    packets = [
        at
        for at in range(0, len(data), 188)
        if data[at + 1] & 0x1F == 1 and data[at + 2] == stream and not data[at + 1] & 0x40
    ]
    del data[packets[first] : packets[first] + 188]
    path.write_bytes(data)
    return len(packets) - first


def test_damaged_sound_within_a_film(tmp_path: Path) -> None:
    source = write_film(tmp_path / "film.ts", count=50)
    assert without_a_continuation(source, 1, 3) > 3
    result = restored(source)
    assert (result.why_early, result.frames) == (None, 50)
    assert result.remarks == ("1 damaged copied packet left out",)


def test_damaged_sound_at_the_end_of_a_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Damaged(demuxing.FilmPackets):
        def __iter__(self) -> Iterator[Any]:
            for packet in super().__iter__():
                if packet.size and packet.stream.type == "audio":
                    packet.is_corrupt = packet.pts * packet.time_base > Fraction(9, 10)
                yield packet

    source = write_film(tmp_path / "film.mkv", count=50)
    monkeypatch.setattr(copying, "FilmPackets", Damaged)
    assert restored(source).why_early is not None
    assert restored(source, Span(end=Fraction(1))).why_early is None


@pytest.mark.parametrize("audio", ["aac", None])
def test_damage_that_matroska_passes_over(tmp_path: Path, audio: str | None) -> None:
    source = write_film(
        tmp_path / "film.mkv",
        count=75,
        audio=audio,
        size=(128, 96),
        options={"g": "30"},
        time_base=MILLISECONDS,
    )
    data = bytearray(source.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 1500] = bytes(1500)
    source.write_bytes(data)
    remark = restored(source).remarks[-1]
    assert remark.startswith("it may be damaged: there is nothing from 0:00:01.")
    assert remark.endswith(" to 0:00:02.400")


@pytest.mark.parametrize(("lost", "told"), [([20], "1 picture was"), ([40, 20], "2 pictures were")])
def test_pictures_of_damaged_packets_are_told(tmp_path: Path, lost: list[int], told: str) -> None:
    source = write_film(tmp_path / "film.ts", count=20, audio=None, options={"crf": "1"})
    for first in lost:
        without_a_continuation(source, 0, first)
    assert restored(source).remarks == (
        f"{told} decoded from damaged packets and may show errors: restore another copy of the "
        "film if there is one",
    )


def test_slides_are_not_taken_for_damage(tmp_path: Path) -> None:
    """Sound goes on, however long a picture stays."""
    times = [0, 40, 2000, 2040]
    source = write_film(
        tmp_path / "film.mkv", times=times, options={"g": "2"}, time_base=MILLISECONDS
    )
    assert restored(source).remarks == ()
