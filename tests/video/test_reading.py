"""Films that are damaged, or whose times are."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from elir_deploy.video import Encoding, Span, open_film, restore_film
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
    assert result.early is None
    assert result.remarks == ("1 damaged packet left out",)


def test_films_that_were_joined(tmp_path: Path) -> None:
    """Of two in a container that resets nothing, the second has the same times again."""
    part = write_film(tmp_path / "part.ts", count=20)
    source = tmp_path / "film.ts"
    source.write_bytes(part.read_bytes() * 2)
    result = restored(source)
    assert result.early is not None
    assert result.early.startswith(
        "after 0:00:00.781 its times go back to 0:00:00.021, as of films "
    )
    assert result.frames == 20
    assert result.path.name == "restored.partial.mkv"
    times = read_film(result.path).pts
    assert times == pytest.approx(read_film(part).pts, abs=1e-3)
    assert restored(source, Span(end=Fraction(1, 2))).early is None, "it ends before"


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


def test_pictures_of_damaged_packets_are_told(tmp_path: Path) -> None:
    source = write_film(tmp_path / "film.ts", count=20, audio=None, options={"crf": "1"})
    data = bytearray(source.read_bytes())
    packets = range(0, len(data), 188)
    video = [at for at in packets if data[at + 1] & 0x1F == 1 and data[at + 2] == 0]
    lost = next(at for at in video[20:] if not data[at + 1] & 0x40)
    del data[lost : lost + 188]
    source.write_bytes(data)
    assert " decoded from damaged packets: they may show errors" in restored(source).remarks[0]


def test_slides_are_not_taken_for_damage(tmp_path: Path) -> None:
    """Sound goes on, however long a picture stays."""
    times = [0, 40, 2000, 2040]
    source = write_film(
        tmp_path / "film.mkv", times=times, options={"g": "2"}, time_base=MILLISECONDS
    )
    assert restored(source).remarks == ()
