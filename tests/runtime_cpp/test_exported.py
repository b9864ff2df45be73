"""Exported bundles of several shapes and batches: the same bytes in any group and language."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("torch")

from elir_deploy.checkpoints import Checkpoint, load_checkpoint
from elir_deploy.export import pipeline
from elir_deploy.export.pipeline import ExportOptions
from elir_deploy.runtime import Restorer
from elir_deploy.runtime.photos import sample_photos
from tests.emulation import restores_squares
from tests.export.conftest import checkpoint, model  # noqa: F401  # fixtures
from tests.runtime_cpp.conftest import Library

BACKENDS = ("onnxruntime", "openvino")
PRECISIONS = ("fp32", "fp16", "int8", "w8")
Pixels = NDArray[np.uint8]


def export(checkpoint: Checkpoint, folder: Path, options: ExportOptions) -> Path:  # noqa: F811
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "verify_bundle", lambda *_: {})  # slow, and tested elsewhere
        pipeline.export_bundle(checkpoint, folder, replace(options, precisions=PRECISIONS))
    return folder


@pytest.fixture(scope="module")
def small(
    checkpoint: Checkpoint,  # noqa: F811
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    options = ExportOptions(image_sizes=((64, 64), (72, 96)), batch=3)
    return export(checkpoint, tmp_path_factory.mktemp("small") / "bundle", options)


@pytest.fixture(scope="module")
def true_size(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Path:
    options = ExportOptions(image_sizes=((256, 256), (224, 320)), batch=4, calibration=tiny)
    folder = tmp_path_factory.mktemp("true size") / "bundle"
    return export(load_checkpoint("tiny"), folder, options)


def pictures(height: int, width: int) -> list[Pixels]:
    """Photographs with noise, a flat picture, and noise alone."""
    rng = np.random.default_rng(width)
    photographs = np.stack([*sample_photos((height, width), faces=False).values()])
    noisy = photographs + rng.normal(0, 60, photographs.shape)
    flat = np.full((height, width, 3), 128, np.uint8)
    chance = rng.integers(0, 256, (height, width, 3), np.uint8)
    return [*noisy.clip(0, 255).astype(np.uint8), flat, chance]


def check(
    library: Library, bundle: Path, backend: str, precision: str, images: Sequence[Pixels]
) -> None:
    """Images one by one and together, in both languages."""
    if backend not in library.loaded.elir_backends().decode().split(", "):
        pytest.skip(f"this libelir was built without {backend}")
    options: dict[str, Any] = {"backend": backend, "precision": precision, "threads": 2}
    with Restorer(bundle, **options) as python:
        expected = [python.restore(image) for image in images]
        together = list(python.map(images))
        for shape in python.bundle.manifest.shapes:
            same = [i for i in images if i.shape[:2] == (shape.height, shape.width)]
            for count in range(1, shape.batch + 1):
                group = np.stack(same[:count])
                for image, made in zip(group, python.run_pixels(group), strict=True):
                    np.testing.assert_array_equal(made, python.restore(image))
    with library.open(bundle, **options) as cpp:
        results = [*cpp.restore_batch(images), *map(cpp.restore, images)]
    assert all(image.std() > 1 for image in expected)
    for made, image in zip([*together, *results], expected * 3, strict=True):
        np.testing.assert_array_equal(made, image)


@restores_squares
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_several_shapes_and_batches(
    library: Library, small: Path, backend: str, precision: str
) -> None:
    pytest.importorskip(backend)
    images = [*pictures(64, 64), *pictures(72, 96), *pictures(50, 60)[:2], *pictures(150, 130)[:1]]
    check(library, small, backend, precision, images)


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_packaged_model_with_several_shapes_and_batches(
    library: Library, true_size: Path, backend: str, precision: str
) -> None:
    pytest.importorskip(backend)
    images = [*pictures(256, 256), *pictures(224, 320), *pictures(500, 600)[:1]]
    check(library, true_size, backend, precision, images)
