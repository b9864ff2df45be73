from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from elir_deploy.batch.worker import Worker, WorkerOptions
from elir_deploy.runtime import Restorer
from elir_deploy.runtime.images import read_image, write_image
from elir_deploy.runtime.jobs import Job
from tests.bundles import make_bundle


def test_a_worker_restores_as_the_options_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make_bundle(tmp_path / "bundle", stride=8)
    picture = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    write_image(tmp_path / "a.png", picture)
    options = {"precision": "fp32", "seed": 7, "sigma_s": 0.5, "tile_overlap": 2}
    with Restorer("bundle", "onnxruntime", **options) as restorer:
        expected = restorer(picture)
    worker = Worker(WorkerOptions("bundle", options=options | {"backend": "onnxruntime"}))
    [result] = worker.restore([Job(Path("a.png"), Path("b.png"))])
    assert result.failure is None
    np.testing.assert_array_equal(read_image(tmp_path / "b.png").pixels, expected)
