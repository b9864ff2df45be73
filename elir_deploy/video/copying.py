"""The packets of the streams of a film that are copied.

The file is read again for them, so that what is copied can be taken when its time comes, however
the file is interleaved.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from elir_deploy.video.demuxing import FilmPackets
from elir_deploy.video.film import Film, open_container
from elir_deploy.video.reading import MOST_GAPS, TOLERANCE, Pictures, Span, seek

if TYPE_CHECKING:
    from av import Packet
    from av.stream import Stream

__all__ = ["CopiedStreams", "damaged_parts"]

#: Seconds before a part in which subtitles are looked for that are still shown in it.
_LONGEST_SUBTITLE = 30


class CopiedStreams:
    """The streams of a film that are copied packet by packet.

    Attributes:
        container: the film, open for these streams.
        streams: those that are copied.
        end: when the last packet so far ended, in seconds of the film's times.
        why_early: why they end early; None: they do not.
        damaged: number of packets that were left out, since they are damaged.
        gaps: where sound is missing, in seconds of the film's times; None: there is none at all.
    """

    def __init__(self, film: Film, span: Span) -> None:
        self._film, self._span = film, span
        self.container = open_container(film.path)
        self.streams: list[Stream] = []
        self.end = Fraction(0)
        self.why_early: str | None = None
        self.damaged = 0
        self.gaps: list[tuple[Fraction, Fraction]] | None = None
        self._begin = film.origin + span.shift
        self._skipped: dict[int, Fraction] = {}  # since when, up to the first key picture
        self._since: dict[int, Fraction] = {}
        self._heard: dict[int, Fraction] = {}
        self._next: tuple[Fraction, Packet[Any]] | None = None
        self._packets: Iterator[tuple[Fraction, Packet[Any]]] = iter(())

    def copy(self, streams: list[Stream]) -> None:
        """Begin to read these streams."""
        self.streams = streams
        if streams:
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
            if packet.stream.type == "subtitle" and self._span.end is not None:
                left = self._film.origin + self._span.end - time
                packet.duration = min(packet.duration or 0, math.floor(left / packet.time_base))
            self.end = max(self.end, time + (packet.duration or 0) * packet.time_base)
            yield packet

    def close(self) -> None:
        self.container.close()

    def remarks(self) -> Iterator[str]:
        """What the user may not expect of the streams."""
        for index, first in self._skipped.items():
            what = f"of its other video stream (of {self.container.streams[index].name})"
            since = self._since.get(index)
            if since is None:
                yield f"nothing {what} is copied: it has no key picture in this part"
            else:
                yield (
                    f"the first {float(since - first):.2g} s {what} are left out, up to a key "
                    "picture"
                )

    def _read(self, streams: list[Stream]) -> Iterator[tuple[Fraction, Packet[Any]]]:
        import av

        shown = Fraction(0)
        before: dict[int, Packet[Any]] = {}  # the last one of subtitles that do not say how long
        try:
            subtitles = any(stream.type == "subtitle" for stream in streams)
            seek(self.container, self._film, self._span, _LONGEST_SUBTITLE if subtitles else 0)
            for packet in FilmPackets(self.container, streams):
                if not packet.size:
                    continue
                time = packet.pts if packet.pts is not None else packet.dts
                if time is None or packet.stream.disposition & _cover():
                    yield self._moved(packet)
                    continue
                seconds = time * packet.time_base
                shown = seconds - self._film.origin
                if self._ends_before(packet, shown):
                    self.why_early = None
                    continue
                self.why_early = "its last packet is incomplete" if packet.is_corrupt else None
                if packet.is_corrupt:
                    self.damaged += 1
                elif self._span.begins_after(shown):
                    if packet.stream.type != "subtitle":
                        continue
                    end = seconds + (packet.duration or 0) * packet.time_base
                    if not packet.duration:
                        before[packet.stream_index] = packet
                    elif end > self._begin:
                        yield self._moved(packet, end)
                elif self._can_begin(packet, seconds):
                    while before:
                        yield self._moved(before.popitem()[1])
                    self._note_gap(packet, seconds)
                    yield seconds, packet
        except av.error.FFmpegError as error:
            if not self._span.ends_before(shown):
                self.why_early = f"it cannot be read on: {error.strerror}"

    def _moved(
        self, packet: Packet[Any], end: Fraction | None = None
    ) -> tuple[Fraction, Packet[Any]]:
        """A packet that is shown from the beginning of the part."""
        packet.pts = math.ceil(self._begin / packet.time_base)
        packet.dts = None if packet.dts is None else packet.pts
        if end is not None:
            packet.duration = max(1, round(end / packet.time_base) - packet.pts)
        return self._begin, packet

    def _ends_before(self, packet: Packet[Any], shown: Fraction) -> bool:
        """Whether a packet is not needed any more: one of video may be for a picture before it."""
        if packet.stream.type == "video" and packet.dts is not None:
            shown = packet.dts * packet.time_base - self._film.origin
        return self._span.ends_before(shown)

    def _can_begin(self, packet: Packet[Any], seconds: Fraction) -> bool:
        """Whether a stream has begun or does here: video with a picture that needs none before."""
        if packet.stream.type != "video":
            return True
        index = packet.stream_index
        if index not in self._since:
            if not packet.is_keyframe:
                self._skipped[index] = min(seconds, self._skipped.get(index, seconds))
                return False
            self._since[index] = seconds
        return seconds >= self._since[index]

    def _note_gap(self, packet: Packet[Any], seconds: Fraction) -> None:
        if packet.stream.type != "audio":
            return
        if self.gaps is None:
            self.gaps = []
        heard = self._heard.get(packet.stream_index, seconds)
        if seconds - heard > TOLERANCE and len(self.gaps) < MOST_GAPS:
            self.gaps.append((heard, seconds))
        self._heard[packet.stream_index] = seconds + (packet.duration or 0) * packet.time_base


def damaged_parts(pictures: Pictures, others: CopiedStreams) -> list[tuple[Fraction, Fraction]]:
    """Where pictures are missing, and sound too if there is any: slides may have long gaps."""
    if others.gaps is None:
        return pictures.gaps
    return [
        (begin, end)
        for begin, end in pictures.gaps
        if any(first < end and last > begin for first, last in others.gaps)
    ]


def _cover() -> int:
    from av.stream import Disposition

    return Disposition.attached_pic
