"""The synthetic group of faces, and what the detectors see of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.photo.pictures import DETECTORS, PORTRAITS

pytest.importorskip("scipy")
pytest.importorskip("onnxruntime")

from benchmarks.photo_groups import BOXES, degraded, group, matched, opened

pytestmark = pytest.mark.skipif(
    DETECTORS is None or PORTRAITS is None, reason="ELIR_DETECTORS, ELIR_PORTRAITS name no folders"
)


def test_the_group_is_found() -> None:
    assert DETECTORS is not None
    assert PORTRAITS is not None
    detector = opened(str(Path(DETECTORS) / "centerface.onnx"))
    heads = []
    for path in sorted(Path(PORTRAITS).glob("*.jpg")):
        with Image.open(path) as image:
            picture = np.asarray(image.convert("RGB"))
        heads.append((picture, detector(picture)[0]))
    scene, placed = group(heads)
    assert len(placed) == len(BOXES) == 12
    for picture in (scene, degraded(scene)):
        found, invented, errors = matched(placed, detector(picture))
        assert found >= 11
        assert invented == 0
        assert max(errors) < 0.25
