"""Photographs: what detectors' outputs mean, what is cropped, and what is put back."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from patterns import digest, pattern

from elir_deploy.photo.alignment import crop, fit, reason_not_alignable, template_units
from elir_deploy.photo.detection import View, _faces, letterboxed
from elir_deploy.photo.detectors import CONVENTIONS, FACE_TEMPLATE, FACE_TEMPLATE_SIZE
from elir_deploy.photo.faces import Face, Points, units
from elir_deploy.photo.paste import masked
from elir_deploy.photo.restoring import SquareRestorer, restore_photo
from elir_deploy.runtime.resampling import resize_into

#: Least value and extent of outputs by their meaning, whole numbers times powers of two.
RANGES = {
    "heat": (0, 1),
    "class": (0, 1),
    "object": (0, 1),
    "log_size": (0, 4),
    "offset": (-0.5, 1),
    "box": (-0.5, 4),
    "landmarks": (-0.5, 2),
}


def tensors(decoder: str, height: int, width: int, seed: int) -> dict[str, NDArray[np.float32]]:
    """Outputs of a detector, the same as ``tensors`` in C++."""
    convention, outputs = CONVENTIONS[decoder], {}
    for number, output in enumerate(convention.outputs):
        rows, columns = height // output.stride, width // output.stride
        cell, channel = np.ogrid[: rows * columns, : output.channels]
        value = (cell * 40503 + channel * 97 + number * 7919 + seed * 104729).astype(np.uint64)
        mixed = (value ^ (value >> np.uint64(7))) * np.uint64(0x9E3779B1)
        shares = ((mixed >> np.uint64(13)) & np.uint64(0xFFFF)).astype(np.float64) / 65536
        least, extent = RANGES[output.meaning]
        values = (least + extent * shares).astype(np.float32)
        if convention.layout == "map":
            values = values.T.reshape(output.channels, rows, columns)
        outputs[output.name] = values[None]
    return outputs


#: Decoder, height, width, seed, threshold, overlap, pixels across and down in one of the input.
DECODED = [
    ("centerface", 64, 96, 0, 0.5, 0.3, 1.0, 1.0),
    ("centerface", 96, 32, 1, 0.9, 0.6, 3.0, 3.0),
    ("centerface", 32, 32, 2, 0.0, 1.0, 3.1256, 3.1262),
    ("yunet", 64, 96, 0, 0.6, 0.3, 1.0, 1.0),
    ("yunet", 320, 256, 1, 0.9, 0.1, 7.001, 7.25),
    ("yunet", 32, 32, 2, 0.0, 1.0, 1.5, 1.5),
]
#: Height, width, long side.
VIEWED = [
    (70, 90, 128),
    (128, 128, 128),
    (129, 50, 128),
    (500, 333, 128),
    (40, 1000, 32),
    (1, 99, 32),
]


def place(face: Face) -> list[int]:
    return [units(c) for c in (*face.box, *(c for p in face.landmarks for c in p))]


def detection() -> dict[str, Any]:
    decoded, viewed = [], []
    for decoder, height, width, seed, threshold, overlap, across, down in DECODED:
        outputs = tensors(decoder, height, width, seed)
        detections = CONVENTIONS[decoder].decode(outputs, height, width, threshold)
        faces = _faces(detections, overlap, across, down)
        case = {"decoder": decoder, "height": height, "width": width, "seed": seed}
        case |= {"threshold": threshold, "overlap": overlap, "across": across, "down": down}
        scores = [face.score for face in faces]
        decoded.append(case | {"scores": scores, "places": [place(face) for face in faces]})
    for index, (height, width, long_side) in enumerate(VIEWED):
        view = View.of(height, width, long_side)
        for color in ("RGB", "BGR"):
            tensor = letterboxed(pattern(height, width, index), view, view.input_size(32), color)
            case = {"height": height, "width": width, "long_side": long_side, "color": color}
            case |= {"scale": list(view.scale), "sides": list(tensor.shape[2:])}
            viewed.append(case | {"tensor": digest(tensor.astype(np.uint8))})
    return {"decoded": decoded, "viewed": viewed}


def landmarks(x: float, y: float, size: float, angle: float, bend: float = 0) -> Points:
    """Of a face whose square of ``size`` pixels is centred at (x, y); the nose is moved."""
    turn = np.exp(1j * np.radians(angle)) * size / FACE_TEMPLATE_SIZE
    points = []
    for i, (u, v) in enumerate(FACE_TEMPLATE):
        point = complex(u - 255.5 + bend * (i == 2), v - 255.5) * turn + complex(x, y)
        points.append((units(point.real) / 64, units(point.imag) / 64))
    return tuple(points)  # type: ignore[return-value]


#: Of the square in a picture of 90 x 70: x, y, size, angle, bend.
PLACES: list[tuple[float, ...]] = [
    (45, 35, 64, 0),
    (45, 35, 63, 45, 20),
    (30, 40, 41, -30),
    (45, 35, 200, 12, -40),
    (45, 35, 340, 180),
    (-5, 60, 50, 90),
    (80, 5, 24.3, -135),
    (45, 35, 371, 0),
    (900, 35, 64, 0),
    (20, 20, 19, 0),
]
#: Side of the squares, scale, indices of places.
PHOTOS: list[tuple[int, int, list[int]]] = [
    (64, 1, [0]),
    (64, 2, [1, 2]),
    (64, 4, [2]),
    (64, 1, [3]),
    (64, 2, [4]),
    (48, 1, [5, 6, 7, 8, 9, 0]),
    (48, 4, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]),
    (16, 1, [0, 3]),
    (200, 1, [0, 2, 6]),
    (64, 1, []),
]
WIDTH, HEIGHT, SEED = 90, 70, 11


def face_at(index: int) -> Face:
    return Face((0.0, 0.0, 1.0, 1.0), landmarks(*PLACES[index]), 0.5)


def run(crops: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """What the reference backend does."""
    y, x, c = np.ogrid[: crops.shape[1], : crops.shape[2], :3]
    result: NDArray[np.uint8] = (crops + 7 * y + 13 * x + 31 * c).astype(np.uint8)
    return result


def squares() -> list[dict[str, Any]]:
    picture, cases = pattern(HEIGHT, WIDTH, SEED), []
    for index in range(len(PLACES)):
        for side in (16, 64, 512):
            template = template_units(FACE_TEMPLATE, FACE_TEMPLATE_SIZE, side)
            points = [(units(x), units(y)) for x, y in face_at(index).landmarks]
            case: dict[str, Any] = {"place": index, "side": side}
            if reason_not_alignable(template, points, side, max(WIDTH, HEIGHT)) is None:
                similarity = fit(template, points)
                numbers = [
                    [s.a, s.b, s.x, s.y]
                    for s in (similarity, similarity.inverse(), similarity.shrunk(3))
                ]
                case |= {"similarity": numbers, "reduction": similarity.reduction}
                case |= {"mask": list(masked(similarity, side, HEIGHT, WIDTH))}
                case |= {"crop": digest(crop(picture, similarity, side))}
            cases.append(case)
    return cases


def restored() -> list[dict[str, Any]]:
    picture, cases = pattern(HEIGHT, WIDTH, SEED), []
    for side, scale, places in PHOTOS:
        faces = [face_at(index) for index in places]
        for background in (False, True):
            around = None
            if background:
                around = np.empty((HEIGHT * scale, WIDTH * scale, 3), np.uint8)
                resize_into(pattern(100, 100, 5), around)
            photo = restore_photo(
                picture,
                lambda _, faces=faces: faces,  # type: ignore[misc]
                SquareRestorer(run, side, 2, FACE_TEMPLATE, FACE_TEMPLATE_SIZE),
                scale=scale,
                background=around,
            )
            case = {"side": side, "scale": scale, "places": places, "background": background}
            case |= {"restored": [face.restored for face in photo.faces]}
            cases.append(case | {"output": digest(photo.pixels)})
    return cases


def photos() -> dict[str, Any]:
    points = [
        [units(c) for p in face_at(index).landmarks for c in p] for index in range(len(PLACES))
    ]
    picture = {"width": WIDTH, "height": HEIGHT, "seed": SEED}
    return {
        "template": [list(point) for point in FACE_TEMPLATE],
        "template_size": FACE_TEMPLATE_SIZE,
        "picture": picture,
        "places": points,
        **detection(),
        "squares": squares(),
        "restored": restored(),
    }
