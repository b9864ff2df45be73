"""How restored pictures are encoded: FFmpeg's encoders, and what they need to be told."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from elir_deploy.errors import FilmError, UnavailableError, UsageError
from elir_deploy.video.colours import Colours
from elir_deploy.video.film import Film
from elir_deploy.video.library import require_av

if TYPE_CHECKING:
    from av.container import OutputContainer
    from av.video.stream import VideoStream

__all__ = ["CONTAINERS", "Encoding", "default_codec"]

#: Containers that are written, by suffix, by FFmpeg's names.
CONTAINERS = {
    ".mp4": "mp4",
    ".m4v": "mp4",
    ".mov": "mov",
    ".mkv": "matroska",
    ".webm": "webm",
}
#: Of encoders, the ``--crf`` at which a film looks like what was restored.
_CRF = {"libx264": 18, "libx265": 20, "libsvtav1": 24, "libvpx-vp9": 24}
#: Those that have presets, besides encoders on GPUs.
_WITH_PRESETS = ("libx264", "libx265", "libsvtav1")
#: Codecs whose own data have the aspect ratio of pixels, which PyAV writes into no Matroska header.
_WITH_ASPECT = ("h264", "hevc", "mpeg4", "mpeg2video")
#: Of encoders without constant quality: FFmpeg's quantiser scale, of which 1 is the best.
_QUANTISER = 2
_LAMBDA = 118


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
                f"as {', '.join(_CRF)}"
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

    @property
    def _quality(self) -> str | None:
        """The option for a constant quality; None: there is none."""
        if self.codec.endswith("_nvenc"):
            return "cq"
        return "crf" if self.codec in _CRF else None

    def options(self) -> dict[str, str]:
        """FFmpeg's options."""
        options = {} if self.preset is None else {"preset": self.preset}
        if self._quality is not None:
            crf = _CRF.get(self.codec, _CRF["libx264"]) if self.crf is None else self.crf
            options[self._quality] = f"{crf:g}"
        if self.codec == "libx265":  # which else writes its own lines to standard error
            options["x265-params"] = "log-level=error"
        return options

    def pixel_format(
        self, film: Film, width: int, height: int, bits: int
    ) -> tuple[str, str | None]:
        """What the result's pixels are stored as, and what the user may not expect of it.

        The closest to the film's that the encoder has: of its subsampling and, with ``bits`` above
        8, its depth. Odd sides need one without subsampling, if the encoder takes no other.

        Raises:
            FilmError: there is none.
        """
        import av
        from av.codec.codec import find_best_pix_fmt_of_list

        formats = av.Codec(self.codec, "w").video_formats or []
        names = [format.name for format in formats if _is_yuv(format.name)]
        deep = [name for name in names if "10" in name] if bits > 8 and film.bits > 8 else []
        names = deep or [name for name in names if not any(n in name for n in ("10", "12", "16"))]
        odd = bool(width % 2 or height % 2) and not self.codec.startswith("libvpx")
        if odd:
            names = [name for name in names if "444" in name]
        best, _ = find_best_pix_fmt_of_list(names, film.pixel_format) if names else (None, 0)
        if best is None:
            reason = f"odd sides ({width}x{height})" if odd else f"pixels as {film.pixel_format}"
            raise FilmError(f"{self.codec} has no format for {reason}: choose another --codec")
        note = None
        if odd and "444" not in film.pixel_format:
            note = (
                f"{width}x{height} is odd, which {self.codec} stores without subsampling "
                f"({best.name}), and some players do not show that: --codec libvpx-vp9 keeps it"
            )
        return best.name, note

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
    ) -> VideoStream:
        """Add the video stream, ready to encode.

        Raises:
            UsageError: the container does not take the codec, or the encoder refuses the options.
            UnavailableError: the encoder needs a device that is not there.
        """
        import av

        if self.codec == "libsvtav1":  # as x265
            os.environ.setdefault("SVT_LOG", "1")
        try:
            stream: VideoStream = container.add_stream(  # type: ignore[assignment]
                self.codec, film.rate.limit_denominator(1 << 20), self.options()
            )
        except ValueError:
            raise UsageError(
                f"{container.format.name} files hold no video of {self.codec}: choose another "
                "--codec or name of the output"
            ) from None
        stream.width, stream.height = size
        stream.pix_fmt = pixel_format
        stream.time_base = stream.codec_context.time_base = film.time_base
        context = stream.codec_context
        for name, value in colours.tags.items():
            setattr(context, name, value)
        if self._quality is None:
            context.qscale = True
            context.global_quality = _QUANTISER * _LAMBDA
        if self.codec in ("libx265", "hevc_nvenc") and container.format.name in ("mp4", "mov"):
            context.codec_tag = "hvc1"  # without which Apple's players show nothing
        if film.aspect is not None:
            context.sample_aspect_ratio = film.aspect
        if film.orientation.matrix is not None:
            stream.set_display_matrix(film.orientation.matrix)
        try:
            context.open()
        except av.error.FFmpegError as error:
            told = f"the encoder {self.codec} does not start: {error.strerror}"
            if self.codec.split("_")[-1] in ("nvenc", "qsv", "vaapi", "v4l2m2m", "amf"):
                raise UnavailableError(f"{told}: is its device there?") from error
            options = ", ".join(f"{k} {v}" for k, v in self.options().items())
            raise UsageError(f"{told} (with {options or 'its defaults'})") from error
        return stream


def _is_yuv(name: str) -> bool:
    return name.startswith("yuv4") and "a" not in name.split("p")[0]
