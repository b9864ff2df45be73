"""Reading a film: its pictures."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from elir_deploy.errors import FilmError
from elir_deploy.video.colours import FromFilm
from elir_deploy.video.demuxing import FilmPackets, may_begin_anew
from elir_deploy.video.film import Film, open_container, pictures_of
from elir_deploy.video.library import clock

if TYPE_CHECKING:
    from av import Packet, VideoFrame
    from av.container import InputContainer
    from av.stream import Stream
    from av.video.stream import VideoStream

__all__ = [
    "MOST_GAPS",
    "TOLERANCE",
    "Moment",
    "Pictures",
    "Span",
    "missing",
    "seek",
]

#: Seconds by which a film may be shorter than its header says, go back, or have a gap.
TOLERANCE = Fraction(1, 4)
#: Those that are remembered of a film, however long it is.
MOST_GAPS = 100
#: Bytes of packets that may turn out to be needed.
_MOST_HELD = 32 * 1024 * 1024


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
        why_early: why the film ends early, in words; None: it does not, as far as was read.
        reached_end: whether a picture after the part was seen.
        joins: where times begin anew and were made to go on, in seconds of the film's times.
        damaged: number of packets that could not be decoded.
        incomplete: number of pictures that were decoded from damaged packets.
        gaps: where pictures seem to be missing, in seconds of the film's times.
        disordered: number of pictures that were left out, since one before is shown later.
    """

    film: Film
    span: Span
    convert: FromFilm
    moments: deque[Moment] = field(default_factory=deque)
    why_early: str | None = None
    reached_end: bool = False
    joins: list[Fraction] = field(default_factory=list)
    damaged: int = 0
    incomplete: int = 0
    gaps: list[tuple[Fraction, Fraction]] = field(default_factory=list)
    disordered: int = 0

    def __iter__(self) -> Iterator[NDArray[Any]]:
        """(H, W, 3) RGB, upright; the moment of each is in ``moments`` before it is given.

        Raises:
            FilmError: pictures have no times.
        """
        film, last = self.film, None
        container = open_container(film.path)
        try:
            seek(container, film, self.span)
            for moment, frame in self._of_the_part(self._timed(container)):
                if last is not None and moment.pts <= last.pts:
                    self.disordered += 1
                    continue
                self._note_damage(frame, last, moment.pts)
                last = moment
                pixels = film.orientation.upright(self.convert(frame))
                self.moments.append(last)
                del frame
                yield pixels
        finally:
            container.close()

    def _of_the_part(
        self, frames: Iterator[tuple[int, VideoFrame]]
    ) -> Iterator[tuple[Moment, VideoFrame]]:
        """Pictures with their moments; what is shown when the part begins, begins with it."""
        first, end = self._units(self.span.start), self._units(self.span.end)
        shown: VideoFrame | None = None
        until = 0
        for pts, frame in frames:
            if first is not None and pts < first:
                shown, until = frame, pts + (frame.duration or self._usual)
                continue
            if first is not None and shown is not None and pts > first:
                yield Moment(first, pts - first), shown
            shown = None
            lasting = frame.duration if end is None else min(frame.duration, end - pts)
            yield Moment(pts, lasting), frame
        if first is not None and shown is not None:
            if end is not None:
                until = end if self.reached_end else min(until, end)
            if until > first:
                yield Moment(first, until - first), shown

    @property
    def _usual(self) -> int:
        """How long a picture is shown on average."""
        return round(1 / (self.film.rate * self.film.time_base))

    def _units(self, seconds: Fraction | None) -> int | None:
        """The first time of the film that is not before a bound of the part."""
        if seconds is None:
            return None
        return math.ceil((self.film.origin + seconds) / self.film.time_base)

    def _timed(self, container: InputContainer) -> Iterator[tuple[int, VideoFrame]]:
        """Pictures and their times, from a key picture before the part to its end."""
        film, latest = self.film, None
        for frame in self._frames(container):
            pts = frame.pts if frame.pts is not None else frame.dts
            if pts is None:
                raise FilmError(f"{film.path}: its pictures have no times")
            seconds = pts * film.time_base - film.origin
            same_size = (frame.width, frame.height) == (film.width, film.height)
            if same_size and latest is not None and seconds < latest - TOLERANCE:
                self.why_early = (
                    f"after {clock(latest)} its times go back to {clock(seconds)}, as of files "
                    "that were appended to one another: restore each of them by itself"
                )
                return
            latest = seconds
            if self.span.ends_before(seconds):
                self.why_early, self.reached_end = None, True  # packets are read ahead
                return
            if same_size:
                yield pts, frame
            elif not self.span.begins_after(seconds):
                self.why_early = (
                    f"from {clock(seconds)} on its pictures are {frame.width}x{frame.height}, "
                    f"and not {film.width}x{film.height}"
                )
                return

    def _note_damage(self, frame: VideoFrame, last: Moment | None, pts: int) -> None:
        """Damage that FFmpeg passes over, as in Matroska: it goes on at the next key picture."""
        self.incomplete += frame.is_corrupt
        if last is not None and last.duration and frame.key_frame:
            gap = (last.pts + last.duration) * self.film.time_base, pts * self.film.time_base
            if gap[1] - gap[0] > TOLERANCE and len(self.gaps) < MOST_GAPS:
                self.gaps.append(gap)

    def _frames(self, container: InputContainer) -> Iterator[VideoFrame]:
        stream = pictures_of(container, self.film.stream)
        stream.thread_type = "AUTO"
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
        packets = FilmPackets(container, [stream])
        self.joins = packets.joins
        begin = self.film.origin + self.span.shift
        try:
            for packet in _from_key_packet(iter(packets), begin):
                if packet.dts is None and not packet.size:  # what PyAV ends with
                    break
                if held is not None:
                    yield held
                held = packet if packet.is_corrupt else None
                if held is None:
                    yield packet
        except av.error.FFmpegError as error:
            self.why_early = f"it cannot be read on: {error.strerror}"
        if held is not None:
            self.why_early = self.why_early or "its last picture is incomplete"
        yield None


def _from_key_packet(packets: Iterator[Packet[Any]], seconds: Fraction) -> Iterator[Packet[Any]]:
    """Packets from the last key one before a time on, so that no others need to be decoded.

    From an earlier one if there are too many to hold.
    """
    before: list[Packet[Any]] = []
    held = 0
    for packet in packets:
        after = packet.pts is None or packet.pts * packet.time_base > seconds
        if packet.is_keyframe and not after:
            before.clear()
            held = 0
        before.append(packet)
        held += packet.size
        if after or held > _MOST_HELD:
            break
    yield from before
    yield from packets


def missing(
    film: Film, container: InputContainer, span: Span, pictures: Fraction, others: Fraction
) -> bool:
    """Whether a film that was read to its end is shorter than its header says.

    Args:
        span: the part of which it is asked.
        pictures, others: when its video and the streams that were copied end.
    """
    if film.begins_anywhere:  # FFmpeg takes joined parts for as long as a counter's range
        return False
    tolerance = TOLERANCE + 2 / film.rate
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


def seek(container: InputContainer, film: Film, span: Span, earlier: int = 0) -> None:
    """Go to the last picture before the beginning, or ``earlier`` seconds before, that is key.

    Where times may begin anew, the file is read from its beginning.
    """
    import av

    if span.start and not may_begin_anew(container):
        seconds = film.origin + max(Fraction(0), span.start - earlier)
        with suppress(av.error.FFmpegError):  # then it is read from its beginning
            container.seek(round(seconds * 1_000_000))
