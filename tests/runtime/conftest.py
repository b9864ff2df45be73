from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from elir_deploy.runtime import onnxruntime_cpu
from tests.bundles import make_bundle


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "bundle")


@pytest.fixture(scope="session")
def picture() -> np.ndarray:
    """(90, 130, 3) uint8, smooth and with noise."""
    rng = np.random.default_rng(3)
    ramp = np.linspace(0, 200, 90)[:, None, None] + np.linspace(0, 40, 130)[:, None]
    return (ramp + rng.integers(0, 15, (90, 130, 3))).astype(np.uint8)


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime runs batches on any processor: of these networks none changes the bytes."""
    monkeypatch.setattr(onnxruntime_cpu, "_exact_batches", lambda precision: True)
