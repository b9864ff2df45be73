"""What a film is: its streams, and what its first picture shows."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from elir_deploy.errors import FilmError
from elir_deploy.video.demuxing import may_begin_anew
from elir_deploy.video.library import reading, require_av

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer
    from av.video.stream import VideoStream

__all__ = ["Film", "Orientation", "open_container", "open_film", "pictures_of"]

#: FFmpeg's time base of containers.
_MICROSECONDS = 1_000_000


@dataclass(frozen=True)
class Orientation:
    """How stored pictures are shown: transposed, then mirrored left to right, then top to bottom.

    Attributes:
        matrix: the display matrix; None: there is none.
    """

    transposed: bool = False
    mirrored: bool = False
    flipped: bool = False
    matrix: tuple[int, ...] | None = None

    @classmethod
    def of(cls, matrix: tuple[int, ...] | None) -> Orientation:
        """Of FFmpeg's display matrix; turns that are no right angles are left to players."""
        if matrix is None:
            return cls()
        a, b, c, d = matrix[0], matrix[1], matrix[3], matrix[4]
        if b == c == 0:
            return cls(False, a < 0, d < 0, matrix)
        if a == d == 0:
            return cls(True, c < 0, b < 0, matrix)
        return cls(matrix=matrix)

    def enlarged(self, scale: int) -> tuple[int, ...] | None:
        """The display matrix of pictures ``scale`` times as large; it moves them by pixels."""
        if self.matrix is None:
            return None
        most = (1 << 31) - 1
        x, y = (max(-most, min(most, scale * each)) for each in self.matrix[6:8])
        return (*self.matrix[:6], x, y, self.matrix[8])

    def upright(self, pixels: NDArray[Any]) -> NDArray[Any]:
        """A stored picture as a person sees it."""
        if self.transposed:
            pixels = pixels.swapaxes(0, 1)
        return np.ascontiguousarray(self._turned(pixels))

    def stored(self, pixels: NDArray[Any]) -> NDArray[Any]:
        """The opposite of :meth:`upright`."""
        pixels = self._turned(pixels)
        return np.ascontiguousarray(pixels.swapaxes(0, 1) if self.transposed else pixels)

    def _turned(self, pixels: NDArray[Any]) -> NDArray[Any]:
        pixels = pixels[:, ::-1] if self.mirrored else pixels
        return pixels[::-1] if self.flipped else pixels


@dataclass(frozen=True)
class Film:
    """A film that can be restored.

    Attributes:
        path: its file.
        stream: index of the video stream.
        width, height: of the pictures as they are stored.
        pixel_format: FFmpeg's name.
        bits: of a value.
        tags: what it says of its colours, see :mod:`.colours`.
        aspect: of a sample; None: it is not said.
        orientation: how pictures are shown.
        time_base: seconds in a unit of a picture's time.
        rate: pictures a second on average.
        origin: time of its beginning in seconds.
        begins_anywhere: whether that says nothing, as in transport streams: results begin at 0.
        duration: in seconds, as its header says; None: it does not.
        frames: number of pictures, as the header says or estimated; 0: unknown.
        remarks: what is not restored or kept, in words.
    """

    path: Path
    stream: int
    width: int
    height: int
    pixel_format: str
    bits: int
    tags: Mapping[str, int]
    aspect: Fraction | None
    orientation: Orientation
    time_base: Fraction
    rate: Fraction
    origin: Fraction
    begins_anywhere: bool
    duration: Fraction | None
    frames: int
    remarks: tuple[str, ...]

    def expected_frames(self, start: Fraction | None, end: Fraction | None) -> int:
        """About how many pictures there are from ``start`` to ``end``; 0: unknown."""
        if self.duration is None or not self.frames:
            return 0 if end is None else round((end - (start or 0)) * self.rate)
        first, last = start or Fraction(0), self.duration if end is None else end
        share = (min(last, self.duration) - first) / self.duration
        return max(0, round(self.frames * share))


def open_container(path: Path) -> InputContainer:
    """Open a film's file.

    Raises:
        FilmError: it cannot be read.
        MissingDependencyError: PyAV is not installed.
    """
    require_av()
    import av

    with suppress(OSError):  # which opening tells better
        if path.is_file() and path.stat().st_size == 0:
            raise FilmError(f"{path} is empty")
        if path.exists() and not path.is_file():  # such as a pipe, whose opening waits
            raise FilmError(f"{path} is no regular file")
    with reading(path):
        # Names may look like addresses, and a playlist may name some.
        return av.open(
            f"file:{path}",
            "r",
            options={"protocol_whitelist": "file"},
            metadata_errors="replace",  # old AVI files have titles in Latin-1
        )


def pictures_of(container: InputContainer, index: int | None = None) -> VideoStream:
    """The video stream: that of an index, or the first that is no cover.

    Raises:
        FilmError: there is none.
    """
    from av.stream import Disposition

    if index is not None:
        return container.streams[index]  # type: ignore[return-value]
    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic:
            return stream
    others = [stream for stream in container.streams if stream.type != "video"]
    kinds = [stream.type for stream in others] + ["a cover"] * bool(container.streams.video)
    raise FilmError(
        f"there is no video in {Path(container.name).name}, only {', '.join(kinds) or 'nothing'}"
    )


def open_film(path: Path) -> Film:
    """Read what a film is, and its first picture.

    Raises:
        FilmError: it cannot be read, has no video, or is refused.
        MissingDependencyError: PyAV is not installed.
    """
    with closing(open_container(path)) as container:
        if container.format.name == "image2" or container.format.name.endswith("_pipe"):
            raise FilmError(f"{path} is a picture: restore it with elir-restore")
        stream = pictures_of(container)
        if stream.codec_context is None:
            raise FilmError(f"{path}: nothing here decodes its video")
        with reading(path):
            first = _first_picture(container, stream)
        if first is None:
            raise FilmError(f"{path}: no picture of its video can be decoded")
        duration = _duration(container, stream)
        rate = stream.average_rate or stream.guessed_rate or Fraction(25)
        components = first.format.components
        remarks = []
        alpha = any(component.is_alpha for component in components)
        # That of VP8 and VP9 lies beside their pictures, and is not decoded.
        if alpha or stream.metadata.get("alpha_mode") == "1":
            remarks.append("its transparency is left out")
        if first.interlaced_frame:
            remarks.append(
                "it is interlaced, and its pictures are restored as if each were of one moment: "
                "deinterlace it first"
            )
        assert stream.time_base is not None
        origin = Fraction(container.start_time or 0, _MICROSECONDS)
        anywhere = may_begin_anew(container)
        return Film(
            path,
            stream.index,
            first.width,
            first.height,
            first.format.name,
            max(component.bits for component in components),
            _tags(stream, first),
            Fraction(stream.sample_aspect_ratio) if stream.sample_aspect_ratio else None,
            Orientation.of(_display_matrix(first)),
            stream.time_base,
            Fraction(rate),
            origin if anywhere else max(Fraction(0), origin),
            anywhere,
            duration,
            stream.frames or (0 if duration is None else round(duration * rate)),
            tuple(remarks),
        )


def _first_picture(container: InputContainer, stream: VideoStream) -> VideoFrame | None:
    import av

    for packet in container.demux(stream):
        with suppress(av.error.InvalidDataError):
            for frame in packet.decode():
                return frame
    return None


def _duration(container: InputContainer, stream: VideoStream) -> Fraction | None:
    if stream.duration is not None and stream.time_base is not None:
        return stream.duration * Fraction(stream.time_base)
    if container.duration is not None:
        return Fraction(container.duration, _MICROSECONDS)
    return None


def _tags(stream: VideoStream, first: VideoFrame) -> dict[str, int]:
    """What pictures say, or, where they say nothing, the file."""
    unspecified = {"color_range": 0, "colorspace": 2, "color_primaries": 2, "color_trc": 2}
    tags = {name: int(getattr(first, name)) for name in unspecified}
    for name, value in unspecified.items():
        if tags[name] == value:
            tags[name] = int(getattr(stream.codec_context, name))
    return tags


def _display_matrix(frame: VideoFrame) -> tuple[int, ...] | None:
    from av.sidedata.sidedata import Type

    side_data: Any = frame.side_data
    for data in side_data:
        if data.type == Type.DISPLAYMATRIX:
            return struct.unpack("=9i", bytes(data)[:36])
    return None
