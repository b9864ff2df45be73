"""Between the pixels of films and RGB, with the film's own matrix and range.

FFmpeg's numbers (``AVColorSpace``, ``AVColorRange``) name matrices and ranges. swscale interpolates
colours bicubically at full resolution and rounds accurately: without these flags, a round trip of a
4:2:0 picture errs by three times as much.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from elir_deploy.errors import FilmError

if TYPE_CHECKING:
    from av import VideoFrame

    from elir_deploy.video.film import Film

__all__ = ["Colours", "FromFilm", "ToFilm"]

_RGB, _BT709, _UNSPECIFIED = 0, 1, 2
#: Matrices that are converted: RGB, BT.709, FCC's, both of BT.601, SMPTE 240M's, BT.2020's.
_MATRICES = (_RGB, _BT709, 4, 5, 6, 7, 9)
_SMPTE170M = 6
_LIMITED, _FULL = 1, 2
#: Transfer functions of HDR: PQ and HLG.
_HDR = {16: "PQ", 18: "HLG"}
#: swscale's SWS_BICUBIC, FULL_CHR_H_INT, FULL_CHR_H_INP, ACCURATE_RND and BITEXACT, of which PyAV
#: has all names from 18 on.
_FLAGS = 0x4 | 0x2000 | 0x4000 | 0x40000 | 0x80000
#: Height from which a film that does not say so is taken for BT.709, as players do.
_HD = 720


@dataclass(frozen=True)
class Colours:
    """What a film says of its colours, in FFmpeg's numbers.

    Attributes:
        matrix: to RGB, of the frames that are read.
        full: whether values use the whole range.
        tags: ``color_range``, ``colorspace``, ``color_primaries`` and ``color_trc`` of the result.
    """

    matrix: int
    full: bool
    tags: dict[str, int]

    @classmethod
    def of(cls, film: Film, enlarged: bool) -> Colours:
        """Of a film.

        Args:
            film: whose tags say them.
            enlarged: the result has another size, so that players would guess another matrix where
                the film names none.

        Raises:
            FilmError: they are HDR, or the matrix is none that is converted.
        """
        tags = dict(film.tags)
        if tags["color_trc"] in _HDR:
            raise FilmError(
                f"the film is HDR ({_HDR[tags['color_trc']]}), and models know ordinary pictures: "
                "convert it to BT.709 first"
            )
        assumed = _BT709 if film.height >= _HD else _SMPTE170M
        matrix = assumed if tags["colorspace"] == _UNSPECIFIED else tags["colorspace"]
        if matrix not in _MATRICES:
            raise FilmError(
                f"the film's colours have FFmpeg's matrix {matrix}, expected BT.601, BT.709, "
                "BT.2020 with constant luminance off, or RGB: convert it first"
            )
        full = tags["color_range"] == _FULL or film.pixel_format.startswith("yuvj")
        if matrix == _RGB:  # encoders take YUV
            full = False
            tags |= {"colorspace": _BT709, "color_range": _LIMITED}
        elif full:
            tags["color_range"] = _FULL
        if enlarged:
            tags["colorspace"] = _BT709 if matrix == _RGB else matrix
        return cls(matrix, full, tags)

    @property
    def range(self) -> int:
        return _FULL if self.full else _LIMITED


class FromFilm:
    """From decoded frames to (H, W, 3) RGB, uint8 or, with 16 ``bits``, uint16."""

    def __init__(self, colours: Colours, bits: int) -> None:
        from av.video.reformatter import VideoReformatter

        self._colours = colours
        self._format = "rgb24" if bits == 8 else "rgb48le"
        self._scaler = VideoReformatter()

    def __call__(self, frame: VideoFrame) -> NDArray[Any]:
        if self._colours.matrix != _RGB:
            frame.colorspace = self._colours.matrix
            frame.color_range = self._colours.range
        converted = self._scaler.reformat(frame, format=self._format, interpolation=_FLAGS)
        return converted.to_ndarray()


class ToFilm:
    """From (H, W, 3) RGB to frames of a pixel format."""

    def __init__(self, colours: Colours, format: str) -> None:
        from av.video.reformatter import VideoReformatter

        self._colours = colours
        self._format = format
        self._scaler = VideoReformatter()

    def __call__(self, pixels: NDArray[Any]) -> VideoFrame:
        from av import VideoFrame

        source = "rgb24" if pixels.dtype == np.uint8 else "rgb48le"
        # In place, without a copy; the encoder has its own.
        frame = VideoFrame.from_numpy_buffer(np.ascontiguousarray(pixels), source)
        # Kept by the result; PyAV's own argument knows no BT.2020 before 18.
        frame.colorspace = _BT709 if self._colours.matrix == _RGB else self._colours.matrix
        return self._scaler.reformat(
            frame,
            format=self._format,
            interpolation=_FLAGS,
            dst_color_range=self._colours.range,
        )
