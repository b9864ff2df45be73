"""Encoders, and what they are told."""

from __future__ import annotations

from pathlib import Path

import pytest

from elir_deploy.errors import ElirError, UsageError
from elir_deploy.video import Encoding, open_film, restore_film
from elir_deploy.video.restoring import RestoredFilm
from tests.video.films import Unchanged, av, read_film, write_film


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("nothing",), "'nothing', which is no encoder of this FFmpeg: expected one such as libx2"),
        (("aac",), "'aac', which encodes audio, not video"),
        (("mpeg4", 20.0), "--crf is 20, and mpeg4 has none: leave it out"),
        (("libvpx-vp9", None, "fast"), "--preset is 'fast', and libvpx-vp9 has none: leave it out"),
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
    "codec", ["libx264", "libx265", "libsvtav1", "libvpx-vp9", "mpeg4", "ffv1"]
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
    with pytest.raises(UsageError, match=r"libx264 does not start: .* \(with preset none, crf 18"):
        restored(tmp_path, Encoding("libx264", None, "none"))


def test_hevc_has_the_name_that_apple_reads(tmp_path: Path) -> None:
    with av.open(str(restored(tmp_path, Encoding("libx265"), ".mp4").path)) as container:
        assert container.streams.video[0].codec_context.codec_tag == "hvc1"


def test_a_device_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(
        ElirError, match=r"h264_nvenc does not start: .*is its device there"
    ) as told:
        restored(tmp_path, Encoding("h264_nvenc"))
    assert told.value.exit_code == 4
    assert not list(tmp_path.glob(".elir*"))
