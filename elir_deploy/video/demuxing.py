"""The packets of a film as its file has them, with times that go on where films were joined."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from av import Packet
    from av.container import InputContainer
    from av.stream import Stream

__all__ = ["FilmPackets", "may_begin_anew"]

#: Seconds by which times of a stream may go back within a part.
_BACK = Fraction(1, 4)
#: And forward: FFmpeg takes times that go back far for those of a counter that begins again.
_FORWARD = 3600
#: Joins that are remembered, however many there are.
_MOST = 100


def may_begin_anew(container: InputContainer) -> bool:
    """Whether times may begin anew within its format, as in transport streams."""
    from av.format import Flags

    flag: Any = Flags.ts_discont.value
    return bool(container.format.flags & flag)


class FilmPackets:
    """Iterates over the packets of some streams, in the file's order.

    A film is read twice, and packets of two parts may be mixed where their times begin anew. So all
    packets are looked at there, from the beginning of the file on, and both readers agree.

    Args:
        container: open; what is not among the streams is discarded.
        streams: of it.

    Attributes:
        joins: where times begin anew and were made to go on, in seconds of the film's times.
    """

    def __init__(self, container: InputContainer, streams: Sequence[Stream]) -> None:
        from av.stream import Discard

        self._container = container
        self._streams = [stream.index for stream in streams]
        self._may_begin_anew = may_begin_anew(container)
        self.joins: list[Fraction] = []
        # Of the latest part, and of the one before, of which packets may still come.
        self._shifts: deque[Fraction] = deque([Fraction(0)], maxlen=2)
        self._in_latest: set[int] = set()  # streams, which do not return to the one before
        self._last: dict[int, Fraction] = {}
        self._end = Fraction(0)
        for stream in container.streams:
            if stream.index not in self._streams and not self._may_begin_anew:
                stream.discard = Discard.all

    def __iter__(self) -> Iterator[Packet[Any]]:
        for packet in self._container.demux():
            time = packet.pts if packet.dts is None else packet.dts
            if time is not None and self._may_begin_anew:
                self._move(packet, time * packet.time_base)
            if packet.stream_index in self._streams:
                yield packet

    def _move(self, packet: Packet[Any], seconds: Fraction) -> None:
        shift = self._shift(packet, seconds)
        units = round(shift / packet.time_base)
        packet.pts = None if packet.pts is None else packet.pts + units
        packet.dts = None if packet.dts is None else packet.dts + units
        time = seconds + shift
        lasting = (packet.duration or 0) * packet.time_base
        if not lasting:  # unknown: as long as the one before
            lasting = time - self._last.get(packet.stream_index, time)
        self._last[packet.stream_index] = time
        shown = time if packet.pts is None else packet.pts * packet.time_base
        self._end = max(self._end, shown + lasting)

    def _shift(self, packet: Packet[Any], seconds: Fraction) -> Fraction:
        index = packet.stream_index
        last = self._last.get(index)
        latest = self._shifts[-1]
        known = [latest] if index in self._in_latest else list(self._shifts)
        fitting = [
            shift
            for shift in known
            if last is None or last - _BACK <= seconds + shift <= last + _FORWARD
        ]
        if not fitting and packet.stream.type in ("audio", "video"):
            shift = self._end - seconds
            self._shifts.append(shift)
            self._in_latest = {index}
            if len(self.joins) < _MOST and packet.pts is not None:
                self.joins.append(packet.pts * packet.time_base + shift)
            return shift
        shift = min(fitting or known, key=lambda shift: abs(seconds + shift - self._end))
        if shift == latest:
            self._in_latest.add(index)
        return shift
