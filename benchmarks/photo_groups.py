"""A synthetic group picture: heads cut out of portraits, and what a detector finds of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from scipy import ndimage

from elir_deploy.degradations import FaceDegradation
from elir_deploy.export.detectors import prepare_detector
from elir_deploy.photo import Face, FaceDetector
from elir_deploy.pixels import rounded
from elir_deploy.runtime.detector_graph import DetectorNetwork
from elir_deploy.runtime.manifest import File
from elir_deploy.runtime.photos import sample_photos

Pixels = NDArray[np.uint8]
#: Width of each face's box in pixels.
BOXES = tuple(round(40 * 7.5 ** (i / 11)) for i in range(12))
ANGLES = (0, 30, -45, 12, -20, 45, -8, 25, -35, 5, 38, -15)
#: Width of a head's patch over its box's.
_HEAD = 1.95
_SCENE = (1280, 1280)


def opened(path: str, long_side: int = 1280) -> FaceDetector:
    """A detector on ONNX Runtime."""
    prepared = prepare_detector(path, 17)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 2
    session = ort.InferenceSession(prepared.graph, options, providers=["CPUExecutionProvider"])
    names = [node.name for node in session.get_outputs()]
    none = File("x.onnx", "0" * 64, 1)
    network = DetectorNetwork(
        lambda tensor: dict(zip(names, session.run(names, {prepared.input: tensor}), strict=True))
    )
    return FaceDetector(prepared.entry(none, none), network, long_side)


# Scenes ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Placed:
    """A head of the scene: its eyes' centre, and its box's width."""

    box: tuple[float, float, float, float]
    eyes: tuple[tuple[float, float], tuple[float, float]]


def group(heads: list[tuple[Pixels, Face]]) -> tuple[Pixels, list[Placed]]:
    """A group picture, undegraded, and where its faces are."""
    coffee = Image.fromarray(sample_photos(256, faces=False)["coffee"]).resize(_SCENE[::-1])
    scene = np.asarray(coffee.filter(ImageFilter.GaussianBlur(12))).copy()
    placed, left, top, shelf = [], 0, 0, 0
    for i, box in reversed(list(enumerate(BOXES))):
        side = round(box * _HEAD)
        if left + side > _SCENE[1]:
            left, top, shelf = 0, top + shelf, 0
        shelf = max(shelf, side)
        picture, face = heads[i % len(heads)]
        placed.append(_place(scene, _lit(picture, i), face, box, ANGLES[i], left, top))
        left += side
    return scene, placed


def _lit(picture: Pixels, i: int) -> Pixels:
    """Darker, brighter, warmer or from one side."""
    gains = np.array([1 + 0.12 * math.sin(i), 1.0, 1 - 0.12 * math.sin(i)]) * (0.75 + 0.04 * i)
    across = np.linspace(-0.2, 0.2, picture.shape[1])[None, :, None] * (-1) ** i
    return rounded(picture * gains * (1 + across))


def _place(
    scene: Pixels, picture: Pixels, face: Face, box: int, angle: float, left: int, top: int
) -> Placed:
    """Set a head with its box's centre in the middle of a patch at (left, top)."""
    x0, y0, x1, y1 = face.box
    side = round(box * _HEAD)
    turn = np.exp(-1j * np.radians(angle)) * (x1 - x0) / box
    centre, middle = (
        complex((x0 + x1) / 2, (y0 + y1) / 2),
        complex(left, top) + (side - 1) / 2 * (1 + 1j),
    )
    small = max(1, int(abs(turn)))
    source = Image.fromarray(picture).reduce(small) if small > 1 else Image.fromarray(picture)
    rows, columns = np.mgrid[top : top + side, left : left + side]
    positions = ((columns + 1j * rows) - middle) * turn + centre
    positions = (positions + 0.5 + 0.5j) / small - 0.5 - 0.5j
    pixels = np.asarray(source, dtype=np.float32)
    head = np.stack(
        [
            ndimage.map_coordinates(
                pixels[..., c], [positions.imag, positions.real], order=3, mode="mirror"
            )
            for c in range(3)
        ],
        axis=-1,
    )
    radius = np.abs((columns + 1j * rows) - middle) / (side / 2)
    soft = np.clip((1 - radius) * 8, 0, 1)[..., None]
    place = scene[top : top + side, left : left + side]
    place[...] = rounded(place * (1 - soft) + head * soft)

    def moved(x: float, y: float) -> tuple[float, float]:
        point = (complex(x, y) - centre) / turn + middle
        return point.real, point.imag

    half = complex(box, box * (y1 - y0) / (x1 - x0)) / 2
    edges = (
        middle.real - half.real,
        middle.imag - half.imag,
        middle.real + half.real,
        middle.imag + half.imag,
    )
    return Placed(edges, (moved(*face.landmarks[0]), moved(*face.landmarks[1])))


def degraded(scene: Pixels) -> Pixels:
    return FaceDegradation(1.0, 0.75, 6.0, 75).apply(scene, np.random.default_rng(0))


def matched(placed: list[Placed], found: Sequence[Face]) -> tuple[int, int, list[float]]:
    """Faces found, faces invented, and errors of the eyes over their distance."""
    errors, invented, seen = [], 0, set()
    for face in found:
        eyes = np.array(face.landmarks[:2])
        distances = [
            np.hypot(*(eyes - np.array(p.eyes)).T).mean() / np.hypot(*np.subtract(*p.eyes))
            for p in placed
        ]
        best = int(np.argmin(distances))
        if distances[best] < 0.5 and best not in seen:
            seen.add(best)
            errors.append(distances[best])
        else:
            invented += 1
    return len(seen), invented, errors
