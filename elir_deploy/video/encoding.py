"""How restored pictures are encoded: FFmpeg's encoders, and what they need to be told."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from elir_deploy.errors import FilmError, UnavailableError, UsageError
from elir_deploy.video.colours import Colours
from elir_deploy.video.film import Film
from elir_deploy.video.library import require_av
from elir_deploy.video.packets import PicturePackets

if TYPE_CHECKING:
    from av import VideoFormat
    from av.container import OutputContainer
    from av.video.stream import VideoStream

__all__ = ["CONTAINERS", "CRF", "Encoding", "default_codec"]

#: Containers that are written, by suffix, by FFmpeg's names.
CONTAINERS = {
    ".mp4": "mp4",
    ".m4v": "mp4",
    ".mov": "mov",
    ".mkv": "matroska",
    ".webm": "webm",
}
#: Of encoders, the ``--crf`` at which a film looks like what was restored.
CRF = {"libx264": 18, "libx265": 20, "libsvtav1": 24, "libvpx-vp9": 24}
#: Those that have presets, besides encoders on GPUs.
_WITH_PRESETS = ("libx264", "libx265", "libsvtav1")
#: Those of x264 and x265, which take their numbers, too, and write to standard error of others.
_PRESETS = (
    *("ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower"),
    *("veryslow", "placebo"),
)
#: Codecs whose own data have the aspect ratio of pixels, which PyAV writes into no Matroska header.
_WITH_ASPECT = ("h264", "hevc", "mpeg4", "mpeg2video")
_ON_DEVICES = ("nvenc", "qsv", "vaapi", "v4l2m2m", "amf")
#: A film that any encoder takes, to see whether one starts: CIF, which H.261 and H.263 demand.
_SAMPLE = (352, 288)
_SAMPLE_RATE = Fraction(25)
#: Of time bases for encoders that refuse the film's: MPEG-4 has 16 bits for a denominator, SVT-AV1
#: takes 240 pictures a second.
_DENOMINATOR = 65535
_SHORTEST = Fraction(1, 240)


def default_codec(suffix: str) -> str:
    """The encoder for a container by its suffix."""
    return "libvpx-vp9" if suffix == ".webm" else "libx264"


@dataclass(frozen=True)
class Encoding:
    """The choices of an encoder.

    Attributes:
        codec: FFmpeg's name; of a format, such as ``hevc``, it becomes that of its encoder.
        crf: constant quality, lower is better; None: what looks like the restored pictures.
        preset: speed against size, by the encoder's names; None: its own choice.

    Raises:
        UsageError: there is no such encoder, or it has no such option.
        MissingDependencyError: PyAV is not installed.
    """

    codec: str
    crf: float | None = None
    preset: str | None = None

    def __post_init__(self) -> None:
        require_av()
        import av

        try:
            codec = av.Codec(self.codec, "w")
        except av.codec.codec.UnknownCodecError:
            raise UsageError(
                f"--codec is {self.codec!r}, which is no encoder of this FFmpeg: expected one such "
                f"as {', '.join(CRF)}"
            ) from None
        if codec.type != "video":
            raise UsageError(f"--codec is {self.codec!r}, which encodes {codec.type}, not video")
        object.__setattr__(self, "codec", codec.name)  # "h264" is libx264
        if self.crf is not None and self._quality is None:
            raise UsageError(f"--crf is {self.crf:g}, and {self.codec} has none: leave it out")
        presets = self.codec in _WITH_PRESETS or self.codec.endswith(("_nvenc", "_qsv"))
        if self.preset is not None and not presets:
            raise UsageError(
                f"--preset is {self.preset!r}, and {self.codec} has none: leave it out"
            )
        known = {*_PRESETS, *map(str, range(len(_PRESETS)))}
        if self.codec in ("libx264", "libx265") and self.preset not in (None, *known):
            raise UsageError(
                f"--preset is {self.preset!r}, expected of {self.codec}: {', '.join(_PRESETS)}"
            )

    @property
    def _on_device(self) -> bool:
        return self.codec.endswith(_ON_DEVICES)

    @property
    def _quality(self) -> str | None:
        """The option for a constant quality; None: there is none."""
        if self.codec.endswith("_nvenc"):
            return "cq"
        return "crf" if self.codec in CRF else None

    def options(self) -> dict[str, str]:
        """FFmpeg's options."""
        options = {} if self.preset is None else {"preset": self.preset}
        if self._quality is not None:
            crf = CRF.get(self.codec, CRF["libx264"]) if self.crf is None else self.crf
            options[self._quality] = f"{crf:g}"
        if self.codec == "libx265":  # which else writes its own lines to standard error
            options["x265-params"] = "log-level=error"
        return options

    def check(self, container: str) -> None:
        """Find out whether the encoder starts, as far as this does not depend on the film.

        Args:
            container: FFmpeg's name of the result's.

        Raises:
            UsageError, UnavailableError: as of :meth:`add_stream`.
        """
        import av

        with closing(av.open(io.BytesIO(), "w", format=container)) as output:
            stream = self._added(output, _SAMPLE_RATE)
            stream.width, stream.height = _SAMPLE
            formats = self._formats()
            stream.pix_fmt = formats[0].name if formats else "yuv420p"
            stream.codec_context.time_base = 1 / _SAMPLE_RATE
            try:
                self._start(stream)
            except UsageError:
                if self.options():  # without, the reason may be the size or the rate
                    raise

    def pixel_format(
        self, film: Film, width: int, height: int, bits: int
    ) -> tuple[str, tuple[str, ...]]:
        """What the result's pixels are stored as, and what the user may not expect of it.

        The closest to the film's that the encoder has: with ``bits`` above 8 at least of its depth,
        else of 8, and of its subsampling. Odd sides need one without subsampling, if the encoder
        takes no other.

        Raises:
            FilmError: there is none.
        """
        from av.codec.codec import find_best_pix_fmt_of_list

        formats = self._formats()
        odd = bool(width % 2 or height % 2) and not self.codec.startswith("libvpx")
        if odd:
            formats = [each for each in formats if each.chroma_width(16) == 16]
            formats = [each for each in formats if each.chroma_height(16) == 16]
        wanted = film.bits if bits > 8 else 8
        depths = {_depth(each) for each in formats}
        depth = min((d for d in depths if d >= wanted), default=max(depths, default=0))
        names = [each.name for each in formats if _depth(each) == depth]
        best, _ = find_best_pix_fmt_of_list(names, film.pixel_format) if names else (None, 0)
        if best is None:
            reason = f"odd sides ({width}x{height})" if odd else f"pixels as {film.pixel_format}"
            raise FilmError(f"{self.codec} has no format for {reason}: choose another --codec")
        notes = []
        if depth < wanted:
            notes.append(f"its {film.bits} bits were reduced to {depth}: {self.codec} has no more")
        if odd and "444" not in film.pixel_format:
            notes.append(
                f"{width}x{height} is odd, which {self.codec} stores without subsampling "
                f"({best.name}), and some players do not show that: --codec libvpx-vp9 keeps it"
            )
        return best.name, tuple(notes)

    def _formats(self) -> Sequence[VideoFormat]:
        """Those with colours in YUV and without transparency."""
        import av

        formats = [each for each in av.Codec(self.codec, "w").video_formats or () if _is_yuv(each)]
        if self._on_device:  # FFmpeg lists 4:2:2 for all, and few take it
            return [e for e in formats if (e.chroma_width(16), e.chroma_height(16)) != (8, 16)]
        return formats

    def keeps_aspect(self, container: str) -> bool:
        """Whether an aspect ratio of pixels is kept in a container, by FFmpeg's name."""
        import av

        codec = av.Codec(self.codec, "w").canonical_name
        return container not in ("matroska", "webm") or codec in _WITH_ASPECT

    def add_stream(
        self,
        container: OutputContainer,
        film: Film,
        colours: Colours,
        size: tuple[int, int],
        pixel_format: str,
    ) -> PicturePackets:
        """Add the video stream, ready to encode.

        Raises:
            UsageError: the container does not take the codec, or the encoder refuses the options.
            UnavailableError: the encoder needs a device that is not there.
        """
        stream = self._added(container, film.rate.limit_denominator(1 << 20))
        stream.width, stream.height = size
        stream.pix_fmt = pixel_format
        stream.time_base = stream.codec_context.time_base = film.time_base
        context = stream.codec_context
        for name, value in colours.tags.items():
            setattr(context, name, value)
        if self.codec in ("libx265", "hevc_nvenc") and container.format.name in ("mp4", "mov"):
            context.codec_tag = "hvc1"  # without which Apple's players show nothing
        if film.aspect is not None:
            context.sample_aspect_ratio = film.aspect
        matrix = film.orientation.enlarged(size[0] // film.width)
        if matrix is not None:
            stream.set_display_matrix(matrix)
        self._start(stream)
        return PicturePackets(stream, film.time_base)

    def _added(self, container: OutputContainer, rate: Fraction) -> VideoStream:
        if self.codec == "libsvtav1":  # as x265
            os.environ.setdefault("SVT_LOG", "0")
        try:
            return container.add_stream(self.codec, rate, self.options())  # type: ignore[return-value]
        except ValueError:
            raise UsageError(
                f"{container.format.name} files hold no video of {self.codec}: choose another "
                "--codec or name of the output"
            ) from None

    def _start(self, stream: VideoStream) -> None:
        """Open the encoder: with the time base of the stream, or another that it takes."""
        import av

        context = stream.codec_context
        if self._quality is None:
            context.qscale = True  # the encoder's best, not a bit rate
        try:
            context.open()
        except av.error.FFmpegError as error:
            options = ", ".join(f"{k} {v}" for k, v in self.options().items()) or "its defaults"
            told = (
                f"the encoder {self.codec} does not start: {error.strerror} (with {options}, for "
                f"{stream.width}x{stream.height} {stream.pix_fmt}, {float(context.framerate):.5g} "
                "pictures a second)"
            )
            refused = error.errno in (errno.EINVAL, errno.ERANGE) and self.preset is not None
            if self._on_device and not refused:
                raise UnavailableError(f"{told}: is its device there?") from error
            step = max(1 / Fraction(context.framerate), _SHORTEST).limit_denominator(_DENOMINATOR)
            if context.time_base != step:
                context.framerate, context.time_base = 1 / step, step
                self._start(stream)
                return
            raise UsageError(told) from error


def _is_yuv(pixel_format: VideoFormat) -> bool:
    """Whether it has colours in YUV and nothing else; the names of full range say no more."""
    if pixel_format.is_rgb or pixel_format.has_palette:
        return False
    three = len(pixel_format.components) == 3  # on devices 0, in grey 1, with transparency 4
    return three and not pixel_format.name.startswith(("yuvj", "xyz"))


def _depth(pixel_format: VideoFormat) -> int:
    return max(component.bits for component in pixel_format.components)
