"""Finding faces: the picture is fitted into the detector's input, its outputs become faces.

The picture is shrunk until its longer side is ``long_side`` pixels; a smaller one stays as it is.
It is first reduced by the integer factor ``longer side // long_side`` (means of squares,
:mod:`elir_deploy.photo.sampling`; remaining rows and columns at the right and below are cut), then
resized (bicubic, antialiased). It lies at the top left of the input, and black fills both sides up
to multiples of what the network needs. If the network takes a few sizes only, more black extends
that to the smallest that holds it; cells of the network that lie there are not read. A box or
landmark is its position there times the size of what is seen over the size of the shrunk picture,
along each axis, in float64, rounded to 1/64 pixel.

Of faces whose boxes overlap, the highest score stays: by descending score, of equal ones the first
cell, a face is dropped if the intersection over union with one that stays is above a threshold.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from elir_deploy.errors import BundleError, UnavailableError, UsageError
from elir_deploy.photo.detectors import CONVENTIONS, Detections
from elir_deploy.photo.faces import UNITS, Face, Points
from elir_deploy.photo.sampling import reduced_region
from elir_deploy.runtime.detector_graph import DetectorNetwork
from elir_deploy.runtime.manifest import Detector
from elir_deploy.runtime.resampling import resize_into
from elir_deploy.runtime.tiling import next_multiple

__all__ = [
    *("MAX_FACES", "FaceDetector", "View", "check_detector", "letterboxed"),
    "suppress",
]

#: Faces in a picture; the others, of lower scores, are dropped.
MAX_FACES = 1024
_MAX_LONG_SIDE = 4096


class FaceDetector:
    """A detector of a bundle.

    Args:
        description: the manifest's.
        network: on a backend.
        long_side: longer side in pixels that pictures are shrunk to; None: the description's.

    Raises:
        BundleError, UsageError: as :func:`check_detector`.
    """

    def __init__(
        self, description: Detector, network: DetectorNetwork, long_side: int | None = None
    ) -> None:
        self._long_side = check_detector(description, long_side)
        self._convention = CONVENTIONS[description.decoder]
        self._description = description
        self._network = network

    def __call__(self, picture: NDArray[np.uint8]) -> list[Face]:
        """The faces in (H, W, 3) uint8 RGB, those of the highest scores first.

        There is one more than :data:`MAX_FACES` if there are more than that.

        Raises:
            BundleError: the network's outputs are invalid.
            ImageError: there are too many candidates.
            UnavailableError: the device failed, or the network takes no picture of this size.
        """
        description = self._description
        view = View.of(picture.shape[0], picture.shape[1], self._long_side)
        height, width = view.input_size(description.multiple)
        size = self._network.size_for(height, width)
        if size is None:
            raise UnavailableError(
                f"the face detector takes no picture of {width}x{height}: search at a smaller "
                "long_side"
            )
        tensor = letterboxed(picture, view, size, description.color)
        detections = self._convention.decode(
            self._network.run(tensor), height, width, description.score_threshold, size
        )
        return _faces(detections, description.overlap_threshold, *view.scale)


def check_detector(description: Detector, long_side: int | None = None) -> int:
    """The longer side in pixels that pictures are shrunk to.

    Args:
        description: the manifest's.
        long_side: as of :class:`FaceDetector`.

    Raises:
        BundleError: its convention is not known here, or has other outputs.
        UsageError: ``long_side`` is out of range.
    """
    convention = CONVENTIONS.get(description.decoder)
    if convention is None:
        raise BundleError(
            f"the face detector's decoder is {description.decoder!r}, expected one of "
            f"{', '.join(CONVENTIONS)}: export the bundle with this version"
        )
    outputs = {output.name: output.manifest_name for output in convention.outputs}
    if description.outputs != outputs:
        raise BundleError(
            f"the outputs of the face detector are not those of {description.decoder}: export "
            "the bundle again"
        )
    side = description.long_side if long_side is None else long_side
    if side not in range(description.multiple, _MAX_LONG_SIDE + 1):
        raise UsageError(
            f"long_side is {side}, expected {description.multiple} to {_MAX_LONG_SIDE}"
        )
    return side


@dataclass(frozen=True)
class View:
    """How a picture is shrunk.

    Attributes:
        factor: by which it is reduced first.
        height, width: of the shrunk picture.
        scale: pixels of the picture in one of the shrunk one, across and down.
    """

    factor: int
    height: int
    width: int
    scale: tuple[float, float]

    @classmethod
    def of(cls, height: int, width: int, long_side: int) -> View:
        """For a picture of these sides, seen at ``long_side``."""
        factor = max(1, max(height, width) // long_side)
        rows, columns = max(1, height // factor), max(1, width // factor)
        longer = max(rows, columns)
        if longer <= long_side:
            return cls(factor, rows, columns, (float(factor), float(factor)))
        short = max(1, (2 * min(rows, columns) * long_side + longer) // (2 * longer))
        down, across = (long_side, short) if rows >= columns else (short, long_side)
        return cls(factor, down, across, (factor * columns / across, factor * rows / down))

    def input_size(self, multiple: int) -> tuple[int, int]:
        """Height and width of the smallest input, whose sides are multiples, that holds it."""
        return next_multiple(self.height, multiple), next_multiple(self.width, multiple)


def letterboxed(
    picture: NDArray[np.uint8], view: View, size: tuple[int, int], color: str
) -> NDArray[np.float32]:
    """The detector's input: (1, 3, H, W) float32.

    Args:
        picture: (H, W, 3) uint8 RGB.
        view: how it is shrunk.
        size: H and W, at least those of the shrunk picture.
        color: ``RGB`` or ``BGR``.
    """
    factor = view.factor
    rows, columns = (max(1, side // factor) for side in picture.shape[:2])
    small = reduced_region(picture, 0, 0, rows, columns, factor)
    if (rows, columns) != (view.height, view.width):
        large, small = small, np.empty((view.height, view.width, 3), np.uint8)
        resize_into(large, small)
    tensor = np.zeros((1, 3, *size), np.float32)
    for plane, channel in zip(tensor[0], (0, 1, 2) if color == "RGB" else (2, 1, 0), strict=True):
        plane[: view.height, : view.width] = small[:, :, channel]
    return tensor


def suppress(boxes: NDArray[np.int64], scores: NDArray[np.float64], overlap: float) -> list[int]:
    """Indices of the boxes that stay, by descending score, at most one above :data:`MAX_FACES`.

    Args:
        boxes: (n, 4): left, top, right and bottom edge.
        scores: (n,).
        overlap: the intersection over union above which the lower score is dropped.
    """
    order = np.argsort(-scores, kind="stable")
    left, top, right, bottom = boxes[order].T
    areas = (right - left) * (bottom - top)
    alive = np.arange(len(order))
    stay: list[int] = []
    while len(alive) and len(stay) <= MAX_FACES:
        best, others = alive[0], alive[1:]
        stay.append(int(order[best]))
        width = np.minimum(right[others], right[best]) - np.maximum(left[others], left[best])
        height = np.minimum(bottom[others], bottom[best]) - np.maximum(top[others], top[best])
        shared = np.maximum(width, 0) * np.maximum(height, 0)
        union = areas[others] + areas[best] - shared
        alive = others[shared <= overlap * union]
    return stay


def _faces(detections: Detections, overlap: float, across: float, down: float) -> list[Face]:
    """The faces that stay, in the picture's coordinates."""
    scale = np.array([across, down])
    boxes = np.rint(detections.boxes * np.tile(scale, 2) * UNITS).astype(np.int64)
    landmarks = np.rint(detections.landmarks * scale * UNITS)
    found = []
    stay = suppress(boxes, detections.scores, overlap)
    for i in stay:
        left, top, right, bottom = (boxes[i] / UNITS).tolist()
        points: Points = tuple(tuple(p) for p in (landmarks[i] / UNITS).tolist())  # type: ignore[assignment]
        found.append(Face((left, top, right, bottom), points, float(detections.scores[i])))
    return found
