"""The packets of the restored pictures, at the pictures' own times."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from av import Packet, VideoFrame
    from av.video.stream import VideoStream

__all__ = ["PicturePackets"]


class PicturePackets:
    """A video stream whose packets have the times of its pictures, whatever its encoder counts.

    Durations are those of the pictures, too, which PyAV's encoders leave out. An encoder that does
    not take the time base of the pictures counts pictures instead.

    Args:
        stream: whose encoder is open.
        time_base: of the pictures.
    """

    def __init__(self, stream: VideoStream, time_base: Fraction) -> None:
        self.stream = stream
        self._time_base = time_base
        own = stream.codec_context.time_base
        self._step = None if own == time_base else max(1, round(Fraction(own) / time_base))
        self._first = self._count = 0
        self._times: dict[int, tuple[int, int]] = {}  # by number: pts and duration
        self._durations: dict[int | None, int] = {}  # by pts

    def encode(self, frame: VideoFrame | None) -> list[Packet[Any]]:
        """Packets for a picture, which need not be its own; None: those that are left."""
        if self._step is None:
            if frame is not None:
                self._durations[frame.pts] = frame.duration
            packets = self.stream.encode(frame)
            for packet in packets:
                packet.duration = self._durations.pop(packet.pts, 0) or packet.duration
            return packets
        if frame is not None:
            assert frame.pts is not None
            self._first = self._first if self._count else frame.pts
            self._times[self._count] = frame.pts, frame.duration
            frame.pts, frame.duration = self._count, 1
            frame.time_base = self.stream.codec_context.time_base
            self._count += 1
        return [self._timed(packet, self._step) for packet in self.stream.encode(frame)]

    def _timed(self, packet: Packet[Any], step: int) -> Packet[Any]:
        assert packet.pts is not None
        number = packet.pts if packet.dts is None else packet.dts
        pts, duration = self._times[packet.pts]
        dts = self._times[number][0] if number >= 0 else self._first + number * step
        for old in [each for each in self._times if each < number]:  # no later packet needs them
            del self._times[old]
        packet.time_base = self._time_base
        packet.pts, packet.dts, packet.duration = pts, dts, duration
        return packet
