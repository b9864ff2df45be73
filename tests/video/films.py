"""Small films, made by PyAV, and what is in a file."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

av = pytest.importorskip("av")
Disposition = pytest.importorskip("av.stream").Disposition

#: A display matrix: shown turned by 90 degrees to the right, as telephones write it.
TURNED = (0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30)
#: Times in 1/90000 s whose distances vary.
VARIABLE = [0, 3600, 7000, 12000, 20000, 20100, 40000, 60000, 60900, 90000, 93600, 99999, 110000]
SUBTITLE = """1
00:00:00,100 --> 00:00:00,300
Hello

2
00:00:00,350 --> 00:00:00,500
World

3
00:00:00,350 --> 00:00:00,400
at the same time

"""


def scene(height: int, width: int, number: int = 0) -> NDArray[np.uint8]:
    """A smooth coloured picture that moves with its number."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin((x + 2 * number) / 9), np.cos((y - number) / 7), np.sin((x + y) / 11)]
    return (127.5 + 100 * np.stack(waves, axis=2)).astype(np.uint8)


def write_film(
    path: Path,
    *,
    codec: str = "libx264",
    size: tuple[int, int] = (64, 48),
    times: Sequence[int] | None = None,
    time_base: Fraction = Fraction(1, 90000),
    rate: Fraction | int = 25,
    count: int = 12,
    pixels: str = "yuv420p",
    options: dict[str, str] | None = None,
    audio: str | None = "aac",
    sound_seconds: float | None = None,
    tags: dict[str, int] | None = None,
    aspect: Fraction | None = None,
    matrix: Sequence[int] | None = None,
    extras: bool = False,
    cover: bool = False,
    container_options: dict[str, str] | None = None,
    metadata: dict[str, str] | None = None,
) -> Path:
    """A film of :func:`scene`; ``extras`` are a title, chapters, subtitles and an attachment."""
    width, height = size
    if times is None:
        times = [round(i / Fraction(rate) / time_base) for i in range(count)]
    with av.open(str(path), "w", container_options=container_options or {}) as container:
        video = container.add_stream(
            codec, rate, options=({"bf": "2"} if codec == "libx264" else {}) | (options or {})
        )
        container.metadata.update(metadata or {})
        video.width, video.height, video.pix_fmt = width, height, pixels
        video.time_base = video.codec_context.time_base = time_base
        for name, value in (tags or {}).items():
            setattr(video.codec_context, name, value)
        if aspect is not None:
            video.codec_context.sample_aspect_ratio = aspect
        if matrix is not None:
            video.set_display_matrix(matrix)
        sound = None
        if audio is not None:
            sound = container.add_stream(audio, 48000)
            sound.layout = "mono"
            sound.metadata["language"] = "fin"
        text = None
        if extras:
            subtitles = path.with_suffix(".srt")
            subtitles.write_text(SUBTITLE)
            text = av.open(str(subtitles))
            written = container.add_stream_from_template(text.streams[0])
            container.add_attachment("font.ttf", "font/ttf", b"not a font")
            container.metadata["title"] = "A title"
            video.metadata["title"] = "The pictures"
            chapter = {"id": 1, "start": 0, "end": 200, "time_base": Fraction(1, 1000)}
            second = chapter | {"id": 2, "start": 200, "end": 400, "metadata": {"title": "Two"}}
            container.set_chapters([chapter | {"metadata": {"title": "One"}}, second])
        if cover:
            image = container.add_stream("png")
            image.width, image.height, image.pix_fmt = 16, 16, "rgb24"
            image.disposition = Disposition.attached_pic
            picture = av.VideoFrame.from_ndarray(scene(16, 16), format="rgb24")
            container.mux([*image.encode(picture), *image.encode(None)])
        for number, pts in enumerate(times):
            frame = av.VideoFrame.from_ndarray(scene(height, width, number), format="rgb24")
            matrix_number = (tags or {}).get("colorspace", 5)
            frame = frame.reformat(
                format=pixels,
                dst_colorspace={6: 5}.get(matrix_number, matrix_number),
                dst_color_range=(tags or {}).get("color_range", 1),
            )
            frame.pts, frame.time_base = pts, time_base
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if sound is not None:
            seconds = sound_seconds or float(times[-1] * time_base) + 0.04
            for packet in _sound(sound, seconds):
                container.mux(packet)
        if text is not None:
            for packet in text.demux():
                if packet.size:
                    packet.stream = written
                    container.mux(packet)
            text.close()
    return path


def _sound(stream: Any, seconds: float) -> Generator[Any, None, None]:
    wave = np.sin(np.arange(int(48000 * seconds)) / 20).astype(np.float32)[None] * 0.3
    frame = av.AudioFrame.from_ndarray(wave, format="fltp", layout="mono")
    frame.sample_rate, frame.pts = 48000, 0
    size = stream.codec_context.frame_size or 0
    resampler = av.AudioResampler(stream.format.name, "mono", 48000, frame_size=size)
    for part in [*resampler.resample(frame), None]:
        yield from stream.encode(part)


@dataclass
class Content:
    """What is in a file.

    Attributes:
        pts: times of the pictures in seconds.
        pictures: (H, W, 3) uint8, as they are stored.
        packets: of each stream but the video, bytes, time and duration, of a cover without times.
    attachments: their names and bytes.
        metadata, chapters: of the file.
    """

    pts: list[Fraction]
    pictures: list[NDArray[np.uint8]]
    packets: list[list[tuple[bytes, Fraction, Fraction]]]
    metadata: dict[str, str]
    chapters: list[tuple[Fraction, Fraction, str]]
    attachments: list[tuple[str, bytes]]


def read_film(path: Path) -> Content:
    with av.open(str(path)) as container:
        video = container.streams.video[0]
        frames = list(container.decode(video))
        pts = [frame.pts * video.time_base for frame in frames]
        pictures = [frame.to_ndarray(format="rgb24") for frame in frames]
        chapters = [
            (c["start"] * c["time_base"], c["end"] * c["time_base"], c["metadata"].get("title", ""))
            for c in container.chapters()
        ]
        metadata = dict(container.metadata)
        others = [s.index for s in container.streams if s.type in ("audio", "subtitle", "video")]
        others.remove(video.index)
        attachments = [(s.metadata["filename"], s.data) for s in container.streams.attachments]
    packets = []
    for index in others:
        with av.open(str(path)) as container:
            stream = container.streams[index]
            packets.append(
                [
                    (bytes(p), (p.pts or 0) * p.time_base, (p.duration or 0) * p.time_base)
                    for p in container.demux(stream)
                    if p.size
                ]
            )
    return Content(pts, pictures, packets, metadata, chapters, attachments)


#: What ffprobe must say of both files.
_KEPT = (
    *("width", "height", "pix_fmt", "sample_aspect_ratio", "color_range", "color_space"),
    *("color_transfer", "color_primaries", "codec_type", "sample_rate", "channels", "disposition"),
    *("time_base", "avg_frame_rate", "duration"),
)


def promise_a_million_pictures(path: Path) -> Path:
    """Let the header of an MP4 file without sound say so."""
    data = bytearray(path.read_bytes())
    for box, offset, value in (
        *((b"mvhd", 16, 1_000_000 * 3600), (b"mdhd", 16, 1_000_000 * 3600)),
        *((b"tkhd", 20, 1_000_000 * 3600), (b"elst", 8, 1_000_000 * 40), (b"stts", 8, 1_000_000)),
    ):
        at = data.index(box) + 4 + offset
        data[at : at + 4] = struct.pack(">I", value)
    path.write_bytes(data)
    return path


def with_another_size(folder: Path) -> Path:
    """A film of 20 pictures of 64x48, which then are wider."""
    film = folder / "film.ts"
    parts = [
        write_film(folder / f"{width}.ts", size=(width, 48), audio=None, count=20)
        for width in (64, 80)
    ]
    film.write_bytes(b"".join(path.read_bytes() for path in parts))
    return film


def is_reordered(path: Path) -> bool:
    """Whether pictures come in another order than they are shown in, as with B-frames."""
    with av.open(str(path)) as container:
        times = [packet.pts for packet in container.demux(video=0) if packet.size]
    return times != sorted(times)


def probe(path: Path) -> dict[str, Any]:
    """What ffprobe says of the streams of a file, of what is kept."""
    if shutil.which("ffprobe") is None:
        pytest.skip("ffprobe is not there")
    command = ["ffprobe", "-v", "error", "-show_streams", "-show_chapters", "-of", "json", path]
    found = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    streams = [
        {key: stream.get(key) for key in _KEPT}
        | {"color_range": stream.get("color_range", "tv")}  # which H.264 does not write
        | {tag: stream.get("tags", {}).get(tag) for tag in ("language", "title")}
        | {"rotation": [d.get("rotation") for d in stream.get("side_data_list", [])]}
        for stream in found["streams"]
    ]
    times = [(c["start_time"], c["end_time"], c.get("tags")) for c in found["chapters"]]
    return {"streams": streams, "chapters": times}


class Unchanged:
    """A restorer of pictures that gives each as it is, enlarged ``scale`` times.

    Attributes:
        seen: what it was given.
    """

    faces = None

    def __init__(self, scale: int = 1, bits: int = 8) -> None:
        self.scale, self.bits = scale, bits
        self.seen: list[NDArray[Any]] = []

    def map(self, frames: Iterable[NDArray[Any]]) -> Generator[NDArray[Any], None, None]:
        for frame in frames:
            self.seen.append(frame)
            yield frame.repeat(self.scale, axis=0).repeat(self.scale, axis=1)
