"""Writing a film: restored pictures encoded, all else copied."""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import suppress
from fractions import Fraction
from typing import TYPE_CHECKING, Any, BinaryIO

from numpy.typing import NDArray

from elir_deploy.errors import UsageError
from elir_deploy.video.colours import Colours, ToFilm
from elir_deploy.video.copying import CopiedStreams
from elir_deploy.video.encoding import Encoding
from elir_deploy.video.film import Film, pictures_of
from elir_deploy.video.reading import Moment, Span

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.stream import Stream
    from av.video.stream import VideoStream

__all__ = ["FilmWriter"]

#: Of the video stream, what is true of the old one alone.
_STATISTICS = ("BPS", "NUMBER_OF", "_STATISTICS", "DURATION", "encoder", "ENCODER", "alpha_mode")
#: Of a file, what its container writes for itself.
_BRANDS = ("major_brand", "minor_version", "compatible_brands", "encoder", "ENCODER")
#: FFmpeg's name of the container that holds the most.
_WIDEST = "matroska"
_COPIED = ("audio", "subtitle", "video", "attachment")


class FilmWriter:
    """Writes a film into an open file.

    Args:
        file: to write, open, at its beginning.
        container: FFmpeg's name of the container.
        film: what is restored.
        copied: the other streams, of which those that the container holds are copied.
        span: the part that is restored.
        encoding, colours: how pictures are stored.
        scale: sides of the restored pictures over the film's.
        bits: of the restored pictures.

    Attributes:
        remarks: what is not as in the film, in words.
        frames: number of pictures so far.
        end: when the last of them ends, in seconds of the film's times.
        disordered: number of copied packets that were left out, since their times go back.
        damaged: the same of those that the container does not take, as what is left of lost sound.

    Raises:
        FilmError: as of :meth:`Encoding.pixel_format`.
        UsageError, UnavailableError: as of :meth:`Encoding.add_stream`; or the container holds no
            stream like one of the film's, and Matroska does.
    """

    def __init__(
        self,
        file: BinaryIO,
        container: str,
        film: Film,
        copied: CopiedStreams,
        span: Span,
        encoding: Encoding,
        colours: Colours,
        scale: int,
        bits: int,
    ) -> None:
        import av

        self._film, self._span, self._copied = film, span, copied
        source = copied.container
        pictures = pictures_of(source, film.stream)
        size = film.width * scale, film.height * scale
        pixel_format, notes = encoding.pixel_format(film, *size, bits)
        self._convert = ToFilm(colours, pixel_format)
        self.remarks = list(notes)
        if film.aspect not in (None, 1) and not encoding.keeps_aspect(container):
            self.remarks.append(
                f"the aspect ratio {film.aspect.numerator}:{film.aspect.denominator} of its pixels "
                f"is lost with {encoding.codec} in {container} files: name the output .mp4, or "
                ".mkv with --codec libx264"
            )
        self.frames = self.disordered = self.damaged = 0
        self.end = film.origin + span.shift
        self._shift = span.shift + (film.origin if film.begins_anywhere else 0)
        options = {}
        if container in ("mp4", "mov") and any("." in key for key in source.metadata):
            options["movflags"] = "use_metadata_tags"  # else such names are lost
        self._output = av.open(file, "w", format=container, container_options=options)
        self._streams: dict[int, Stream] = {}
        self._last: dict[int, int] = {}
        try:
            self._packets = encoding.add_stream(self._output, film, colours, size, pixel_format)
            self._describe(pictures)
            copied.copy([stream for stream in source.streams if self._adds(stream)])
            self._output.metadata.update(_without(source.metadata, _BRANDS))
            self._output.set_chapters(self._chapters(source))
            self._output.start_encoding()
        except av.error.FFmpegError as error:
            self.discard()
            advice = "" if container == _WIDEST else ": name the output .mkv"
            raise UsageError(
                f"{container} files cannot hold this film ({error.strerror}){advice}"
            ) from error
        except BaseException:
            self.discard()
            raise

    def write(self, pixels: NDArray[Any], moment: Moment) -> None:
        """Encode a restored picture, and copy what begins before it.

        Args:
            pixels: (H, W, 3) RGB, upright.
        """
        film = self._film
        self._mux_copied(moment.pts * film.time_base)
        frame = self._convert(film.orientation.stored(pixels))
        frame.pts = moment.pts - round(self._shift / film.time_base)
        frame.duration = moment.duration
        frame.time_base = film.time_base
        self._output.mux(self._packets.encode(frame))
        self.frames += 1
        lasting = moment.duration * film.time_base or 1 / film.rate
        self.end = moment.pts * film.time_base + lasting

    def finish(self, *, early: bool) -> None:
        """Write what is left: of copied streams, if the film ends early, up to the last picture."""
        self._mux_copied(self.end if early else None)
        self._output.mux(self._packets.encode(None))
        self._output.close()

    def discard(self) -> None:
        """Give up the file; may be called at any time."""
        import av

        with suppress(av.error.FFmpegError, OSError, ValueError):  # the file may be closed or full
            self._output.close()

    def _mux_copied(self, seconds: Fraction | None) -> None:
        import av

        for packet in self._copied.until(seconds):
            stream = self._streams[packet.stream_index]
            shift = round(self._shift / packet.time_base)
            dts = packet.dts
            if dts is not None:
                earliest = self._last.get(packet.stream_index, dts - 1) + (
                    stream.type != "subtitle"
                )
                if dts < earliest:  # which no container takes
                    self.disordered += 1
                    continue
                self._last[packet.stream_index] = dts
            packet.pts = None if packet.pts is None else packet.pts - shift
            packet.dts = None if dts is None else dts - shift
            packet.stream = stream
            try:
                self._output.mux(packet)
            except av.error.InvalidDataError:
                self.damaged += 1

    def _adds(self, stream: Stream) -> bool:
        """Whether a stream of the film is copied."""
        from av.stream import Discard

        if stream.index == self._film.stream:
            return False
        if stream.type == "data" and stream.discard == Discard.all:
            return False  # titles of an MP4 file's chapters, which FFmpeg has read
        if stream.type not in _COPIED or (
            stream.type != "attachment" and stream.codec_context is None
        ):
            self.remarks.append(f"left out: a stream of {stream.type}")
            return False
        container = self._output.format.name
        if not _holds(container, stream):
            if stream.type == "video":  # a cover, which Matroska has as an attachment
                name = stream.codec_context.name
                self.remarks.append(f"left out: a second video stream ({name})")
                return False
            codec = stream.codec_context.name if stream.codec_context else "attachment"
            what = codec if codec == stream.type else f"{codec} ({stream.type})"
            if not _holds(_WIDEST, stream):
                self.remarks.append(f"left out: a stream of {what}, which cannot be copied")
                return False
            raise UsageError(
                f"{container} files hold no {what}, which the film has: name the output .mkv"
            )
        added = self._output.add_stream_from_template(stream, opaque=True)
        added.metadata.update(stream.metadata)
        added.disposition = stream.disposition
        self._streams[stream.index] = added
        return True

    def _describe(self, pictures: VideoStream) -> None:
        video = self._packets.stream
        video.metadata.update(_without(pictures.metadata, _STATISTICS))
        video.disposition = pictures.disposition

    def _chapters(self, source: InputContainer) -> list[Any]:
        chapters = []
        for chapter in source.chapters():
            base = chapter["time_base"] or Fraction(1, 1000)
            first, last = chapter["start"] * base, chapter["end"] * base
            if self._span.ends_before(first) or last <= self._span.shift:
                continue
            first = max(first, self._span.shift) - self._span.shift
            last = min(last, self._span.end or last) - self._span.shift
            chapters.append(chapter | {"start": round(first / base), "end": round(last / base)})
        return chapters


def _holds(container: str, stream: Stream) -> bool:
    """Whether a stream can be copied into files of a container, by trying it."""
    import av

    output = av.open(io.BytesIO(), "w", format=container)
    try:
        output.add_stream_from_template(stream, opaque=True).metadata.update(stream.metadata)
        output.start_encoding()
    except (ValueError, av.error.FFmpegError):
        return False
    finally:
        with suppress(av.error.FFmpegError):
            output.close()
    return True


def _without(metadata: dict[str, str], prefixes: Sequence[str]) -> dict[str, str]:
    return {k: v for k, v in metadata.items() if not k.startswith(tuple(prefixes))}
