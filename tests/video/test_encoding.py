"""Encoders, and what they are told."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from elir_deploy.errors import ElirError, UsageError
from elir_deploy.video import Encoding, open_film, restore_film
from elir_deploy.video.restoring import RestoredFilm
from tests.video.films import VARIABLE, Unchanged, av, read_film, write_film


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("nothing",), "'nothing', which is no encoder of this FFmpeg: expected one such as libx2"),
        (("aac",), "'aac', which encodes audio, not video"),
        (("mpeg4", 20.0), "--crf is 20, and mpeg4 has none: leave it out"),
        (("libvpx-vp9", None, "fast"), "--preset is 'fast', and libvpx-vp9 has none: leave it out"),
        (("libx264", None, "foo"), "--preset is 'foo', expected of libx264: ultrafast, superfast"),
        (("libx265", None, "10"), "--preset is '10', expected of libx265: ultrafast, superfast"),
    ],
)
def test_refusals(arguments: tuple, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        Encoding(*arguments)


@pytest.mark.parametrize(("codec", "encoder"), [("h264", "libx264"), ("hevc", "libx265")])
def test_the_name_of_a_format_is_that_of_its_encoder(codec: str, encoder: str) -> None:
    assert Encoding(codec, 20, "fast").options() == Encoding(encoder, 20, "fast").options()
    assert Encoding(codec) == Encoding(encoder)


def restored(tmp_path: Path, encoding: Encoding, suffix: str = ".mkv") -> RestoredFilm:
    film = tmp_path / "film.mkv"
    if not film.exists():
        write_film(film, count=6, size=(128, 96))
    target = tmp_path / f"{encoding.codec}{suffix}"
    return restore_film(open_film(film), target, Unchanged(), encoding)


@pytest.mark.parametrize(
    "codec", ["libx264", "libx265", "libsvtav1", "libvpx-vp9", "mpeg4", "ffv1", "prores_ks"]
)
def test_encoders(tmp_path: Path, codec: str, capfd: pytest.CaptureFixture[str]) -> None:
    result = restored(tmp_path, Encoding(codec))
    before, after = read_film(tmp_path / "film.mkv"), read_film(result.path)
    assert after.pts == before.pts
    for was, now in zip(before.pictures, after.pictures, strict=True):
        assert abs(was.astype(int) - now).mean() < 6
    assert capfd.readouterr().err == ""


def test_quality_and_speed_are_the_encoders(tmp_path: Path) -> None:
    sizes = [
        restored(tmp_path, Encoding("libx264", crf, "ultrafast")).path.stat().st_size
        for crf in (10, 40)
    ]
    assert sizes[0] > 2 * sizes[1]


@pytest.mark.parametrize(("codec", "time_base"), [("mpeg4", 90_000), ("libvpx-vp9", 1_600_000_000)])
def test_encoders_that_refuse_the_time_base(tmp_path: Path, codec: str, time_base: int) -> None:
    base = Fraction(1, time_base)
    times = [round(time * time_base / 90_000) for time in VARIABLE]
    source = write_film(tmp_path / "film.mov", time_base=base, times=times, audio=None)
    target = tmp_path / "restored.mp4"
    film = replace(open_film(source), rate=Fraction(1_000_003, 33_367))  # as FFmpeg estimates some
    restore_film(film, target, Unchanged(), Encoding(codec))
    before, after = read_film(source), read_film(target)
    assert after.pts == before.pts
    for was, now in zip(before.pictures, after.pictures, strict=True):
        assert abs(was.astype(int) - now).mean() < 6


def test_a_rate_that_the_encoder_refuses(tmp_path: Path) -> None:
    made: dict[str, Any] = {"rate": 1000, "count": 6, "time_base": Fraction(1, 1000)}
    source = write_film(tmp_path / "film.mkv", audio=None, **made)
    path = restore_film(
        open_film(source), tmp_path / "a.mkv", Unchanged(), Encoding("libsvtav1")
    ).path
    assert read_film(path).pts == read_film(source).pts


def test_hevc_has_the_name_that_apple_reads(tmp_path: Path) -> None:
    with av.open(str(restored(tmp_path, Encoding("libx265"), ".mp4").path)) as container:
        assert container.streams.video[0].codec_context.codec_tag == "hvc1"


@pytest.mark.parametrize(
    ("encoding", "container", "told"),
    [
        (("libx264",), "webm", "webm files hold no video of libx264: choose another --codec"),
        (("h264_nvenc",), "mp4", "h264_nvenc does not start: .*is its device there"),
        (
            ("libsvtav1", None, "fast"),
            "mp4",
            "libsvtav1 does not start: .*with preset fast, crf 24",
        ),
    ],
)
def test_what_does_not_depend_on_the_film_is_checked_before(
    encoding: tuple, container: str, told: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ElirError, match=told) as error:
        Encoding(*encoding).check(container)
    assert error.value.exit_code == (4 if "nvenc" in told else 2)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("codec", "stored", "notes"),
    [
        ("libx265", "yuv420p12le", ()),
        ("libx264", "yuv420p10le", ("its 12 bits were reduced to 10: libx264 has no more",)),
        ("libvpx-vp9", "yuv420p", ("its 12 bits were reduced to 8: libvpx-vp9 has no more",)),
        ("ffv1", "yuv420p12le", ()),
        ("prores_ks", "yuv422p10le", ("its 12 bits were reduced to 10: prores_ks has no more",)),
    ],
)
def test_depths(tmp_path: Path, codec: str, stored: str, notes: tuple[str, ...]) -> None:
    film = tmp_path / "film.mkv"
    write_film(film, codec="ffv1", pixels="yuv420p12le", audio=None, count=2)
    found = Encoding(codec).pixel_format(open_film(film), 64, 48, 16)
    assert found == (stored, notes)
    assert Encoding("h264_qsv").pixel_format(open_film(film), 64, 48, 8) == ("nv12", ())
    assert Encoding("hevc_nvenc").pixel_format(open_film(film), 64, 48, 8) == ("yuv420p", ())
    wide = replace(open_film(film), pixel_format="yuv422p12le")
    assert Encoding("hevc_nvenc").pixel_format(wide, 64, 48, 8) == ("yuv444p", ())


def test_a_device_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(
        ElirError, match=r"h264_nvenc does not start: .*is its device there"
    ) as told:
        restored(tmp_path, Encoding("h264_nvenc"))
    assert told.value.exit_code == 4
    assert not list(tmp_path.glob(".elir*"))


@pytest.mark.parametrize("scale", [1, 4])
def test_a_display_matrix_moves_pictures_by_their_own_size(tmp_path: Path, scale: int) -> None:
    """Telephones turn pictures about a corner and move them back, by pixels."""
    width, height = 64, 48
    matrix = (0, 65536, 0, -65536, 0, 0, height << 16, 0, 1 << 30)
    made = {"size": (width, height), "count": 2, "audio": None, "matrix": matrix}
    film = open_film(write_film(tmp_path / "film.mov", **made))  # type: ignore[arg-type]
    assert film.orientation.matrix == matrix
    target = tmp_path / "restored.mov"
    restore_film(film, target, Unchanged(scale), Encoding("libx264", preset="ultrafast"))
    expected = (*matrix[:6], scale * matrix[6], 0, matrix[8])
    assert open_film(target).orientation.matrix == expected
