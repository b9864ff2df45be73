"""Face detectors as data: what a network's outputs mean, and how faces are read from them.

A :class:`Convention` describes a family of detectors; a network belongs to the one whose outputs it
has. One more is an entry of :data:`CONVENTIONS` with two functions: the score of every cell, and
box and landmarks of some.

A network sees a (1, 3, H, W) float32 picture of values 0 to 255. Its outputs are grids of cells,
each ``stride`` pixels wide; what it says about a cell is decoded in float64. Boxes and landmarks
are then rounded to 1/64 pixel, before anything is decided by them, since exponentials differ
between languages in the last bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from elir_deploy.errors import BundleError, ImageError
from elir_deploy.photo.faces import UNITS

__all__ = [
    "CONVENTIONS",
    "FACE_TEMPLATE",
    "FACE_TEMPLATE_SIZE",
    "MAX_DETECTIONS",
    "Convention",
    "Detections",
    "Output",
    "recognise",
]

#: Landmarks in an aligned square of 512 pixels, as of FFHQ, on which the face tasks were trained.
FACE_TEMPLATE = (
    (192.98138, 239.94708),
    (318.90277, 240.1936),
    (256.63416, 314.01935),
    (201.26117, 371.41043),
    (313.08905, 371.15118),
)
FACE_TEMPLATE_SIZE = 512
#: Limit of cells above the threshold; a crowd at 1280 pixels has about 2,000.
MAX_DETECTIONS = 20_000
#: The longest side of a box in pixels of the detector's input.
_MAX_DISTANCE = 2**16

Cells: TypeAlias = "NDArray[np.float64]"


@dataclass(frozen=True)
class Output:
    """An output of a detector.

    Attributes:
        name: of the tensor.
        meaning: what its values are, for the functions of the convention.
        channels: numbers a cell.
        stride: side of a cell in pixels of the input.
    """

    name: str
    meaning: str
    channels: int
    stride: int

    @property
    def manifest_name(self) -> str:
        """The meaning, as in the manifest."""
        return f"{self.meaning}_{self.stride}"


@dataclass(frozen=True)
class Detections:
    """What a detector may have seen, before overlapping ones are suppressed.

    Attributes:
        scores: (n,) float64.
        boxes: (n, 4): left, top, right and bottom edge in pixels of the input.
        landmarks: (n, 5, 2): x and y.
    """

    scores: NDArray[np.float64]
    boxes: NDArray[np.float64]
    landmarks: NDArray[np.float64]


@dataclass(frozen=True)
class Convention:
    """A family of detectors.

    Attributes:
        decoder: its name, as in the manifest.
        outputs: all outputs.
        layout: of the outputs: ``map`` is (1, channels, H / stride, W / stride), ``list`` is
            (1, cells, channels) with the cells row by row.
        input: usual name of the input.
        color: order of the input's channels.
        multiple: number that sides of the input must be multiples of.
        score_threshold: minimum score of a face.
        overlap_threshold: intersection over union above which the lower score is dropped.
        score: from the values of all cells by meaning, (n, channels), to (n,) float64.
        locate: from the values of some cells, their columns and rows (n, 2), their stride and the
            input's width and height (2,), to boxes (n, 4) and landmarks (n, 5, 2) in pixels.
    """

    decoder: str
    outputs: tuple[Output, ...]
    layout: Literal["map", "list"]
    input: str
    color: Literal["RGB", "BGR"]
    multiple: int
    score_threshold: float
    overlap_threshold: float
    score: Callable[[Mapping[str, NDArray[Any]]], Cells]
    locate: Callable[[Mapping[str, Cells], Cells, int, Cells], tuple[Cells, Cells]]

    def decode(
        self,
        tensors: Mapping[str, NDArray[Any]],
        height: int,
        width: int,
        threshold: float,
        size: tuple[int, int] | None = None,
    ) -> Detections:
        """All cells that reach ``threshold``.

        Args:
            tensors: outputs of the network by name.
            height, width: of the input in pixels, without what extends it to ``size``.
            threshold: minimum score.
            size: height and width of the network's input; None: ``height`` and ``width``.

        Raises:
            BundleError: outputs are missing or of other shapes, are not finite, or say there are
                faces of absurd sizes.
            ImageError: there are more than :data:`MAX_DETECTIONS`.
        """
        decoded: list[tuple[Cells, Cells, Cells]] = []
        limits = np.array([width, height], np.float64)
        input_height, input_width = size or (height, width)
        for stride in dict.fromkeys(output.stride for output in self.outputs):
            cells = {
                output.meaning: self._cells(output, tensors, input_height, input_width)
                for output in self.outputs
                if output.stride == stride
            }
            scores = self.score(cells)
            if not np.isfinite(scores).all():
                raise _broken(self.decoder, "scores that are not finite")
            chosen = np.flatnonzero(scores >= threshold)
            rows, columns = np.divmod(chosen, input_width // stride)
            seen = (rows < height // stride) & (columns < width // stride)
            chosen, places = chosen[seen], np.stack([columns[seen], rows[seen]], axis=1)
            if len(chosen) > MAX_DETECTIONS:
                raise ImageError(
                    f"the picture gives {len(chosen)} possible faces, expected at most "
                    f"{MAX_DETECTIONS}: search at a smaller long_side"
                )
            values = {meaning: cell[chosen].astype(np.float64) for meaning, cell in cells.items()}
            with np.errstate(over="ignore", invalid="ignore"):
                located = self.locate(values, places.astype(np.float64), stride, limits)
            decoded.append((scores[chosen], *located))
        scores, boxes, landmarks = (np.concatenate(part) for part in zip(*decoded, strict=True))
        _check_sizes(self.decoder, boxes, landmarks)
        return Detections(scores, boxes, landmarks)

    def _cells(
        self, output: Output, tensors: Mapping[str, NDArray[Any]], height: int, width: int
    ) -> NDArray[Any]:
        rows, columns = height // output.stride, width // output.stride
        expected: tuple[int, ...] = (1, rows * columns, output.channels)
        if self.layout == "map":
            expected = (1, output.channels, rows, columns)
        actual = tensors.get(output.name)
        if actual is None or actual.shape != expected or actual.dtype != np.float32:
            shown = "missing" if actual is None else f"{actual.dtype} {actual.shape}"
            raise BundleError(
                f"face detector {self.decoder}: output {output.name!r} is {shown}, expected "
                f"float32 {expected} for an input of {width}x{height}: export the bundle again"
            )
        cells: NDArray[Any] = actual[0]
        return cells if self.layout == "list" else cells.reshape(output.channels, -1).T


def recognise(outputs: Iterable[str]) -> Convention | None:
    """The convention of a network by the names of its outputs; None: it is none of them."""
    names = frozenset(outputs)
    for convention in CONVENTIONS.values():
        if names == {output.name for output in convention.outputs}:
            return convention
    return None


def _check_sizes(decoder: str, boxes: Cells, landmarks: Cells) -> None:
    # Written so that NaN fails.
    if not (np.abs(boxes) <= _MAX_DISTANCE).all() or not (np.abs(landmarks) <= _MAX_DISTANCE).all():
        raise _broken(decoder, f"a face further than {_MAX_DISTANCE} pixels away, or not finite")
    if not (boxes[:, 2:] >= boxes[:, :2]).all():
        raise _broken(decoder, "a box of negative size")
    points = np.rint(landmarks * UNITS)
    if len(points) and (points == points[:, :1]).all(axis=(1, 2)).any():
        raise _broken(decoder, "a face with all landmarks in one point")


def _broken(decoder: str, what: str) -> BundleError:
    return BundleError(f"face detector {decoder} returned {what}: export the bundle again")


# CenterFace -----------------------------------------------------------------------------------


def _centerface_score(cells: Mapping[str, NDArray[Any]]) -> Cells:
    return cells["heat"][:, 0].astype(np.float64)


def _centerface_locate(
    cells: Mapping[str, Cells], places: Cells, stride: int, limits: Cells
) -> tuple[Cells, Cells]:
    """Sizes, offsets and landmarks are (y, x); landmarks are relative to a corner in the input."""
    sizes = np.exp(cells["log_size"][:, ::-1]) * stride
    centres = (places + cells["offset"][:, ::-1] + 0.5) * stride
    corners = np.clip(centres - sizes / 2, 0, limits)
    boxes = np.concatenate([corners, np.minimum(corners + sizes, limits)], axis=1)
    points = cells["landmarks"].reshape(-1, 5, 2)[:, :, ::-1]
    return boxes, points * sizes[:, None] + corners[:, None]


# YuNet ----------------------------------------------------------------------------------------


def _yunet_score(cells: Mapping[str, NDArray[Any]]) -> Cells:
    face, cell = (cells[name][:, 0].astype(np.float64) for name in ("class", "object"))
    return np.sqrt(np.clip(face, 0, 1) * np.clip(cell, 0, 1))


def _yunet_locate(
    cells: Mapping[str, Cells], places: Cells, stride: int, limits: Cells
) -> tuple[Cells, Cells]:
    """Centres and landmarks are relative to a cell's top left corner, in cells."""
    centres = (places + cells["box"][:, :2]) * stride
    sizes = np.exp(cells["box"][:, 2:]) * stride
    corners = centres - sizes / 2
    boxes = np.concatenate([corners, corners + sizes], axis=1)
    return boxes, (places[:, None] + cells["landmarks"].reshape(-1, 5, 2)) * stride


_CENTERFACE = Convention(
    decoder="centerface",
    outputs=(
        Output("537", "heat", 1, 4),
        Output("538", "log_size", 2, 4),
        Output("539", "offset", 2, 4),
        Output("540", "landmarks", 10, 4),
    ),
    layout="map",
    input="input.1",
    color="RGB",
    multiple=32,
    score_threshold=0.5,
    overlap_threshold=0.3,
    score=_centerface_score,
    locate=_centerface_locate,
)
_YUNET = Convention(
    decoder="yunet",
    outputs=tuple(
        Output(f"{name}_{stride}", meaning, channels, stride)
        for stride in (8, 16, 32)
        for name, meaning, channels in (
            ("cls", "class", 1),
            ("obj", "object", 1),
            ("bbox", "box", 4),
            ("kps", "landmarks", 10),
        )
    ),
    layout="list",
    input="input",
    color="BGR",
    multiple=32,
    score_threshold=0.6,
    overlap_threshold=0.3,
    score=_yunet_score,
    locate=_yunet_locate,
)
#: All conventions by the name of their decoder.
CONVENTIONS: dict[str, Convention] = {c.decoder: c for c in (_CENTERFACE, _YUNET)}
