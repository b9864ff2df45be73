"""Reading a film: its pictures, and the packets of the streams that are copied.

Both read the file for themselves, so that what is copied can be taken when its time comes, however
the file is interleaved.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from elir_deploy.errors import FilmError
from elir_deploy.video.colours import FromFilm
from elir_deploy.video.film import Film, open_container, pictures_of
from elir_deploy.video.library import clock

if TYPE_CHECKING:
    from av import Packet, VideoFrame
    from av.container import InputContainer
    from av.stream import Stream
    from av.video.stream import VideoStream

__all__ = ["CopiedStreams", "Moment", "Pictures", "Span", "missing"]

#: Seconds by which a film may be shorter than its header says.
_TOLERANCE = Fraction(1, 4)


@dataclass(frozen=True)
class Span:
    """The part of a film that is restored, in seconds from its beginning; None: no bound."""

    start: Fraction | None = None
    end: Fraction | None = None

    @property
    def shift(self) -> Fraction:
        """What is subtracted from times, so that the part begins as the film did."""
        return self.start or Fraction(0)

    def begins_after(self, seconds: Fraction) -> bool:
        return self.start is not None and seconds < self.start

    def ends_before(self, seconds: Fraction) -> bool:
        return self.end is not None and seconds >= self.end


@dataclass(frozen=True)
class Moment:
    """When a picture is shown, in units of the film's time base.

    Attributes:
        pts: from when.
        duration: for how long; 0: unknown.
    """

    pts: int
    duration: int


@dataclass
class Pictures:
    """The pictures of a film.

    Attributes:
        film, span: what is read.
        moments: when those pictures are shown that were read and not yet taken from here.
        cut: why the film ends early, in words; None: it does not, as far as was read.
        reached_end: whether a picture after the part was seen.
        damaged: number of packets that could not be decoded.
        disordered: number of pictures that were left out, since one before is shown later.
    """

    film: Film
    span: Span
    convert: FromFilm
    moments: deque[Moment] = field(default_factory=deque)
    cut: str | None = None
    reached_end: bool = False
    damaged: int = 0
    disordered: int = 0

    def __iter__(self) -> Iterator[NDArray[Any]]:
        """(H, W, 3) RGB, upright; the moment of each is in ``moments`` before it is given.

        Raises:
            FilmError: pictures have no times.
        """
        film, last = self.film, None
        container = open_container(film.path)
        try:
            _seek(container, film, self.span)
            for frame in self._frames(container):
                pts = frame.pts if frame.pts is not None else frame.dts
                if pts is None:
                    raise FilmError(f"{film.path}: its pictures have no times")
                seconds = pts * film.time_base - film.origin
                if self.span.ends_before(seconds):
                    self.cut, self.reached_end = None, True  # packets are read ahead
                    return
                if self.span.begins_after(seconds):
                    continue
                if (frame.width, frame.height) != (film.width, film.height):
                    self.cut = (
                        f"from {clock(seconds)} on its pictures are {frame.width}x{frame.height}, "
                        f"and not {film.width}x{film.height}"
                    )
                    return
                if last is not None and pts <= last:
                    self.disordered += 1
                    continue
                last = pts
                pixels = film.orientation.upright(self.convert(frame))
                self.moments.append(Moment(pts, frame.duration))
                del frame
                yield pixels
        finally:
            container.close()

    def _frames(self, container: InputContainer) -> Iterator[VideoFrame]:
        stream = pictures_of(container, self.film.stream)
        stream.thread_type = "AUTO"
        _discard_others(container, [stream])
        for packet in self._packets(container, stream):
            yield from self._decoded(stream, packet)

    def _decoded(self, stream: VideoStream, packet: Packet[Any] | None) -> Sequence[VideoFrame]:
        import av

        try:
            return stream.codec_context.decode(packet)
        except av.error.FFmpegError:
            self.damaged += 1
            return ()

    def _packets(self, container: InputContainer, stream: Stream) -> Iterator[Packet[Any] | None]:
        """Packets, and None at the end. A damaged packet counts only if there are others after."""
        import av

        held: Packet[Any] | None = None
        try:
            for packet in container.demux(stream):
                if packet.dts is None and not packet.size:  # what PyAV ends with
                    break
                if held is not None:
                    yield held
                held = packet if packet.is_corrupt else None
                if held is None:
                    yield packet
        except av.error.FFmpegError as error:
            self.cut = f"it cannot be read on: {error.strerror}"
        if held is not None:
            self.cut = self.cut or "its last picture is incomplete"
        yield None


class CopiedStreams:
    """The streams of a film that are copied packet by packet.

    Attributes:
        container: the film, open for these streams.
        streams: those that are copied.
        end: when the last packet so far ended, in seconds of the film's times.
        cut: why they end early; None: they do not.
    """

    def __init__(self, film: Film, span: Span) -> None:
        self._film, self._span = film, span
        self.container = open_container(film.path)
        self.streams: list[Stream] = []
        self.end = Fraction(0)
        self.cut: str | None = None
        self._next: tuple[Fraction, Packet[Any]] | None = None
        self._packets: Iterator[tuple[Fraction, Packet[Any]]] = iter(())

    def copy(self, streams: list[Stream]) -> None:
        """Begin to read these streams."""
        self.streams = streams
        if streams:
            _discard_others(self.container, streams)
            self._packets = self._read(streams)

    def until(self, seconds: Fraction | None) -> Iterator[Packet[Any]]:
        """Packets that begin before a time of the film, None is its end, in the file's order."""
        while True:
            if self._next is None:
                self._next = next(self._packets, None)
                if self._next is None:
                    return
            if seconds is not None and self._next[0] >= seconds:
                return
            time, packet = self._next
            self._next = None
            self.end = max(self.end, time + (packet.duration or 0) * packet.time_base)
            yield packet

    def close(self) -> None:
        self.container.close()

    def _read(self, streams: list[Stream]) -> Iterator[tuple[Fraction, Packet[Any]]]:
        import av

        first, shown = self._film.origin, Fraction(0)
        try:
            _seek(self.container, self._film, self._span)
            for packet in self.container.demux(streams):
                if not packet.size:
                    continue
                time = packet.pts if packet.pts is not None else packet.dts
                if time is None:  # a cover
                    time = packet.pts = round((first + self._span.shift) / packet.time_base)
                seconds = time * packet.time_base
                shown = seconds - first
                if self._span.ends_before(shown):
                    continue
                if packet.is_corrupt:
                    self.cut = "its last packet is incomplete"
                elif not self._span.begins_after(shown):
                    yield seconds, packet
        except av.error.FFmpegError as error:
            if not self._span.ends_before(shown):
                self.cut = f"it cannot be read on: {error.strerror}"


def missing(
    film: Film, container: InputContainer, span: Span, pictures: Fraction, others: Fraction
) -> bool:
    """Whether a film that was read to its end is shorter than its header says.

    Args:
        span: the part of which it is asked.
        pictures, others: when its video and the streams that were copied end.
    """
    tolerance = _TOLERANCE + 2 / film.rate
    last = _end_of_pictures(container, pictures_of(container, film.stream))
    if last is None:
        if film.duration is None:
            return False
        last, pictures = film.origin + film.duration, max(pictures, others)
    if span.end is not None:
        last = min(last, film.origin + span.end)
    return pictures < last - tolerance


def _end_of_pictures(container: InputContainer, stream: VideoStream) -> Fraction | None:
    """When the header says that the pictures end, in seconds; None: it says nothing of them."""
    if stream.duration is None or stream.time_base is None:
        return None
    seconds = stream.duration * stream.time_base
    # FFmpeg gives streams without a length, such as all of Matroska, that of the file.
    of_file = abs(seconds - Fraction(container.duration or 0, 1_000_000)) <= stream.time_base
    if of_file and not container.format.name.startswith(("mov", "avi")):
        return None
    return (stream.start_time or 0) * stream.time_base + seconds


def _discard_others(container: InputContainer, streams: Sequence[Stream]) -> None:
    """Let FFmpeg skip what is not among ``streams``."""
    from av.stream import Discard

    for stream in container.streams:
        if stream not in streams:
            stream.discard = Discard.all


def _seek(container: InputContainer, film: Film, span: Span) -> None:
    """Go to the last picture before the beginning from which can be decoded."""
    import av

    if span.start:
        with suppress(av.error.FFmpegError):  # then it is read from its beginning
            container.seek(round((film.origin + span.start) * 1_000_000))
