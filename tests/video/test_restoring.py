"""Whole films: what is kept, where they end, and what is refused."""

from __future__ import annotations

import errno
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from elir_deploy.errors import DiskFullError, FilmError, OutputError, UsageError
from elir_deploy.runtime import Restorer
from elir_deploy.video import Encoding, Span, WholeFrames, open_film, restore_film
from elir_deploy.video.restoring import RestoredFilm, partial_name
from tests.bundles import make_bundle
from tests.video.films import (
    TURNED,
    VARIABLE,
    Unchanged,
    av,
    is_reordered,
    probe,
    promise_a_million_pictures,
    read_film,
    scene,
    with_another_size,
    write_film,
)

FINE = Encoding("libx264", crf=4, preset="veryfast")
VP9 = Encoding("libvpx-vp9", crf=4)
BT709 = {"colorspace": 1, "color_primaries": 1, "color_trc": 1, "color_range": 1}
FULL_BT601 = {"colorspace": 6, "color_primaries": 6, "color_trc": 6, "color_range": 2}

#: What films are made with, what is restored with, and the suffix.
FILMS: dict[str, tuple[str, Encoding, dict[str, Any]]] = {
    "variable rate, B-frames": (".mp4", FINE, {"times": VARIABLE, "extras": False}),
    "23.976": (".mov", FINE, {"rate": Fraction(24000, 1001), "time_base": Fraction(1, 24000)}),
    "everything of Matroska": (".mkv", FINE, {"extras": True, "time_base": Fraction(1, 1000)}),
    "a telephone's": (".mov", FINE, {"matrix": TURNED, "tags": BT709}),
    "with a cover": (".mp4", FINE, {"cover": True}),
    "VP9": (".webm", VP9, {"codec": "libvpx-vp9", "audio": "libopus", "tags": BT709}),
    "full range, BT.601": (".mp4", FINE, {"tags": FULL_BT601}),
    "anamorphic": (".mp4", FINE, {"aspect": Fraction(16, 11)}),
    "4:4:4, odd": (".mp4", FINE, {"pixels": "yuv444p", "size": (61, 47)}),
    "4:2:2, silent": (".mp4", FINE, {"pixels": "yuv422p", "audio": None}),
    "HEVC in MP4": (".mp4", FINE, {"codec": "libx265", "options": {"x265-params": "log-level=0"}}),
    "VP9, odd": (
        ".webm",
        VP9,
        {"codec": "libvpx-vp9", "audio": "libopus", "size": (61, 47)},
    ),
}


def restored(source: Path, encoding: Encoding = FINE, **options: Any) -> RestoredFilm:
    target = source.with_name("restored" + source.suffix)
    restorer = options.pop("restorer", None) or Unchanged()
    return restore_film(open_film(source), target, restorer, encoding, **options)


def only(folder: Path, *names: str) -> bool:
    """Whether nothing but these files is in a folder, hidden ones included."""
    return {path.name for path in folder.iterdir()} == set(names)


@pytest.mark.parametrize("name", FILMS)
def test_all_is_kept(tmp_path: Path, name: str) -> None:
    suffix, encoding, made = FILMS[name]
    source = write_film(tmp_path / f"film{suffix}", **made)
    result = restored(source, encoding)
    assert (result.why_early, result.interrupted, result.remarks) == (None, False, ())
    before, after = read_film(source), read_film(result.path)
    assert after.pts == before.pts
    assert result.frames == len(after.pts) == len(made.get("times", range(12)))
    assert after.packets == before.packets
    assert after.chapters == before.chapters
    assert after.attachments == before.attachments
    assert after.metadata.get("title") == before.metadata.get("title")
    for was, now in zip(before.pictures, after.pictures, strict=True):
        assert np.abs(was.astype(int) - now).mean() < 3
    assert is_reordered(source) == (made.get("codec", "libx264") != "libvpx-vp9")
    said, says = probe(source), probe(result.path)
    if "times" in made:  # MP4 adds up steps between packets, which each encoder orders as it likes
        for stream in (*said["streams"], *says["streams"]):
            del stream["duration"], stream["avg_frame_rate"]
    assert says == said


def test_titles_that_are_not_utf_8(tmp_path: Path) -> None:
    """Of the film, a chapter, a stream and an attachment."""
    source = write_film(tmp_path / "film.mkv", extras=True, count=3)
    data = source.read_bytes()
    for name in (b"A title", b"The pictures", b"Two", b"font.ttf"):
        data = data.replace(name, b"\xfc" + name[1:])
    source.write_bytes(data)
    after = read_film(restored(source).path)
    assert after.metadata["title"] == "\N{REPLACEMENT CHARACTER} title"
    assert "\N{REPLACEMENT CHARACTER}wo" in [title for _, _, title in after.chapters]
    assert after.attachments == [("\N{REPLACEMENT CHARACTER}ont.ttf", b"not a font")]


def test_the_model_sees_what_people_see(tmp_path: Path) -> None:
    source = write_film(tmp_path / "film.mov", matrix=TURNED)
    restorer = Unchanged()
    restored(source, restorer=restorer)
    stored = read_film(source).pictures
    assert restorer.seen[0].shape == (64, 48, 3)
    difference = restorer.seen[3].astype(int) - np.rot90(stored[3], -1)
    assert np.abs(difference).mean() < 5  # chroma is read in another way


@pytest.mark.parametrize("tags", [BT709, FULL_BT601, {"colorspace": 9, "color_range": 1}])
def test_colours_come_back_by_their_own_matrix(tmp_path: Path, tags: dict[str, int]) -> None:
    """The model sees what was filmed, and the stored values stay."""
    source = write_film(tmp_path / "film.mkv", tags=tags, options={"crf": "1"}, count=3)
    restorer = Unchanged()
    path = restored(source, Encoding("libx264", crf=1), restorer=restorer).path
    for number, seen in enumerate(restorer.seen):
        assert np.abs(seen.astype(int) - scene(48, 64, number)).mean() < 3

    def planes(film: Path) -> list[np.ndarray]:
        with av.open(str(film)) as container:
            return [frame.to_ndarray().astype(int) for frame in container.decode(video=0)]

    for was, now in zip(planes(source), planes(path), strict=True):
        assert np.abs(was - now).mean() < 1.5


def test_untagged_films_are_tagged_only_if_players_would_guess_anew(tmp_path: Path) -> None:
    source = write_film(tmp_path / "film.mp4", count=3)
    for scale, expected in ((1, 2), (4, 6)):
        path = restored(source, restorer=Unchanged(scale)).path
        with av.open(str(path)) as container:
            context = container.streams.video[0].codec_context
            assert (context.width, context.colorspace) == (64 * scale, expected)


def test_ten_bits(tmp_path: Path) -> None:
    """Kept by a model that has them, else reduced, which is told."""
    deep = {"pixels": "yuv420p10le", "tags": BT709}
    source = write_film(tmp_path / "film.mkv", **deep)  # type: ignore[arg-type]
    sixteen = Unchanged(bits=16)
    result = restored(source, restorer=sixteen)
    assert sixteen.seen[0].dtype == np.uint16
    assert result.remarks == ()
    assert probe(result.path) == probe(source)
    reduced = restored(source)
    assert "10 bits were reduced to 8: a bundle exported with --io" in reduced.remarks[0]
    with av.open(str(reduced.path)) as container:
        assert container.streams.video[0].pix_fmt == "yuv420p"


def test_odd_sides(tmp_path: Path) -> None:
    made = {"codec": "libvpx-vp9", "size": (61, 47), "audio": "libopus"}
    source = write_film(tmp_path / "film.mkv", **made)  # type: ignore[arg-type]
    result = restored(source)
    assert result.remarks[0].startswith("61x47 is odd, which libx264 stores without subsampling")
    before, after = read_film(source), read_film(result.path)
    assert after.pts == before.pts
    assert after.pictures[0].shape == (47, 61, 3)


def test_enlarging(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle", upscale=4, kernel="bicubic", task="bsr", size=64)
    source = write_film(tmp_path / "film.mp4", size=(34, 26), count=4)
    with Restorer(bundle, "onnxruntime", threads=1) as restorer:
        path = restored(source, restorer=WholeFrames(restorer)).path
        [expected, *_] = restorer.map(read_film(source).pictures)
    after = read_film(path)
    assert after.pictures[0].shape == (104, 136, 3)
    assert np.abs(after.pictures[0].astype(int) - expected).mean() < 4


def test_a_part(tmp_path: Path) -> None:
    source = write_film(tmp_path / "film.mkv", count=25, extras=True, time_base=Fraction(1, 1000))
    span = Span(Fraction(1, 5), Fraction(3, 5))
    result = restored(source, span=span)
    before, after = read_film(source), read_film(result.path)
    expected = [t - span.shift for t in before.pts if span.start <= t < span.end]  # type: ignore[operator]
    assert after.pts == expected
    assert len(expected) == 10
    sound = [(data, time - span.shift) for data, time, _ in before.packets[0]]
    kept = [(data, time) for data, time in sound if 0 <= time < Fraction(2, 5)]
    assert [(data, time) for data, time, _ in after.packets[0]] == kept
    assert [len(packets) for packets in after.packets] == [len(kept), 3]
    assert after.chapters == [(0, Fraction(1, 5), "Two")]
    assert result.why_early is None
    np.testing.assert_allclose(after.pictures[0], before.pictures[5], atol=20)


def test_parts_of_slides(tmp_path: Path) -> None:
    """What is shown when a part begins is in it, and nothing lasts longer than the part."""
    seconds = (0, 2, 4)
    source = write_film(
        tmp_path / "film.mp4", times=[90000 * each for each in seconds], options={"bf": "0"}
    )
    fast = Encoding("libx264", preset="ultrafast")
    before = read_film(source).pictures
    for start, end, expected in (
        (1, 3, {0: 0, 1: 1}),
        (2, 3, {0: 1}),
        (Fraction(1, 2), Fraction(3, 2), {0: 0}),
        (0, 1, {0: 0}),
    ):
        result = restored(source, fast, span=Span(Fraction(start), Fraction(end)))
        after = read_film(result.path)
        assert after.pts == list(expected)
        for pixels, number in zip(after.pictures, expected.values(), strict=True):
            assert np.abs(pixels.astype(int) - before[number]).mean() < 5
        with av.open(str(result.path)) as container:
            video = container.streams.video[0]
            assert video.duration * video.time_base == end - start
        assert (result.why_early, result.until) == (None, end)
    last = restored(source, fast, span=Span(Fraction(402, 100)))
    assert (last.frames, last.until) == (1, Fraction(404, 100))


def test_a_part_without_a_picture(tmp_path: Path) -> None:
    source = write_film(tmp_path / "film.mp4")
    with pytest.raises(FilmError, match="nothing was restored: there is no picture in this part"):
        restored(source, span=Span(Fraction(99)))
    assert only(tmp_path, "film.mp4")


# Films that end early -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("suffix", "options"), [(".mp4", {"movflags": "faststart"}), (".mkv", {}), (".mov", None)]
)
def test_a_film_that_is_cut_off(
    tmp_path: Path, suffix: str, options: dict[str, str] | None
) -> None:
    made: dict[str, Any] = {"count": 60, "options": {"g": "20"}}
    whole = write_film(tmp_path / f"w{suffix}", container_options=options, **made)
    data = whole.read_bytes()
    source = tmp_path / f"film{suffix}"
    source.write_bytes(data[: len(data) * 6 // 10])
    if options is None:  # its index is at the end
        with pytest.raises(FilmError, match="cut off before its index, which MP4 files have"):
            restored(source)
        assert only(tmp_path, whole.name, source.name)
        return
    result = restored(source)
    assert result.why_early is not None
    assert result.path.name == f"restored.partial{suffix}"
    assert only(tmp_path, whole.name, source.name, result.path.name)
    before, after = read_film(whole), read_film(result.path)
    assert 10 < len(after.pts) < 60
    # Of the last pictures, those that others are made of come first in the file.
    assert set(after.pts) <= set(before.pts)
    assert after.pts[:-4] == before.pts[: len(after.pts) - 4]
    assert result.until == pytest.approx(after.pts[-1] + Fraction(1, 25))
    [sound] = after.packets
    assert sound == before.packets[0][: len(sound)]
    assert after.pts[-1] - 0.5 < sound[-1][1] < result.until


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize("audio", ["aac", None])
def test_a_part_of_a_film_that_is_cut_off(tmp_path: Path, suffix: str, audio: str | None) -> None:
    source = tmp_path / f"film{suffix}"
    options = {"movflags": "faststart"} if suffix == ".mp4" else {}
    write_film(
        source, count=60, audio=audio, options={"g": "10", "bf": "0"}, container_options=options
    )
    data = source.read_bytes()
    source.write_bytes(data[: len(data) * 6 // 10])
    assert restored(source, span=Span(end=Fraction(9, 4))).why_early is not None
    part = restored(source, span=Span(end=Fraction(1, 2)))
    assert (part.why_early, part.frames) == (None, 13)


def test_a_film_whose_pictures_end_before_its_audio(tmp_path: Path) -> None:
    """Matroska files have no length of a stream."""
    source = write_film(tmp_path / "film.mkv", count=2, sound_seconds=2)
    assert restored(source).why_early is None


def test_interrupted(tmp_path: Path) -> None:
    source = write_film(tmp_path / "film.mp4", count=60)
    restorer = Unchanged()
    result = restored(source, restorer=restorer, interrupted=lambda: len(restorer.seen) >= 20)
    assert (result.interrupted, result.frames) == (True, 20)
    assert result.path == partial_name(tmp_path / "restored.mp4")
    before, after = read_film(source), read_film(result.path)
    assert after.pts == before.pts[:20]
    assert after.packets[0][-1][1] < after.pts[-1] + Fraction(1, 25)
    assert only(tmp_path, "film.mp4", "restored.partial.mp4")
    assert restored(source).why_early is None
    assert only(tmp_path, "film.mp4", "restored.mp4"), "the part is not needed any more"


def test_a_film_is_not_deleted_as_a_part_of_its_result(tmp_path: Path) -> None:
    source = write_film(partial_name(tmp_path / "restored.mp4"), count=2)
    with pytest.raises(UsageError, match=r"would replace the input .*restored\.partial\.mp4"):
        restore_film(open_film(source), tmp_path / "restored.mp4", Unchanged(), FINE)
    assert only(tmp_path, source.name)


def test_a_film_whose_size_changes(tmp_path: Path) -> None:
    source = with_another_size(tmp_path)
    target = tmp_path / "restored.mkv"
    result = restore_film(open_film(source), target, Unchanged(), FINE)
    assert result.why_early is not None
    assert result.why_early.endswith("on its pictures are 80x48, and not 64x48")
    assert len(read_film(result.path).pts) == result.frames == 20


def test_a_header_that_promises_a_million_pictures(tmp_path: Path) -> None:
    source = write_film(tmp_path / "film.mp4", audio=None, options={"bf": "0"})
    promise_a_million_pictures(source)
    film = open_film(source)
    result = restored(source)
    assert film.expected_frames(None, None) > 0
    assert result.why_early == "its header promises more"
    assert len(read_film(result.path).pts) == 12


def test_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_film(tmp_path / "film.mp4", count=20)
    opened = Path.open

    def full(path: Path, *arguments: Any, **options: Any) -> Any:
        file = opened(path, *arguments, **options)
        if path.suffix != ".part":
            return file

        class Full:
            fileno, flush, close, seek, tell = (
                file.fileno,
                file.flush,
                file.close,
                file.seek,
                file.tell,
            )
            writable = seekable = staticmethod(lambda: True)
            __enter__ = lambda self: self  # noqa: E731
            __exit__ = lambda self, *error: file.close()  # noqa: E731

            def write(self, data: bytes) -> int:
                raise OSError(errno.ENOSPC, "No space left on device")

        return Full()

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(DiskFullError, match=r"restored.mp4 cannot be written: No space left"):
        restored(source)
    assert only(tmp_path, "film.mp4")


def test_an_encoder_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_film(tmp_path / "film.mp4")

    def fail(self: Any, pixels: Any) -> Any:
        raise av.error.ExternalError(542398533, "Generic error in an external library")

    monkeypatch.setattr("elir_deploy.video.colours.ToFilm.__call__", fail)
    with pytest.raises(
        OutputError, match=r"restored film.mp4 cannot be encoded or written: Generic"
    ):
        restored(source)
    assert only(tmp_path, "film.mp4")


def test_an_error_of_the_model_leaves_nothing(tmp_path: Path) -> None:
    source = write_film(tmp_path / "film.mp4")

    class Broken(Unchanged):
        def map(self, frames: Any) -> Any:
            for number, frame in enumerate(frames):
                if number == 5:
                    raise FilmError("five")
                yield frame

    with pytest.raises(FilmError, match="five"):
        restored(source, restorer=Broken())
    assert only(tmp_path, "film.mp4")


# Refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("trc", "name"), [(16, "PQ"), (18, "HLG")])
def test_hdr_is_refused(tmp_path: Path, trc: int, name: str) -> None:
    tags = {"colorspace": 9, "color_primaries": 9, "color_trc": trc, "color_range": 1}
    source = write_film(tmp_path / "film.mkv", pixels="yuv420p10le", tags=tags, count=2)
    with pytest.raises(FilmError, match=rf"HDR \({name}\).*convert it to BT.709 first"):
        restored(source)
    assert only(tmp_path, "film.mkv")
