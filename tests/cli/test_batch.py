from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from elir_deploy.batch.worker import WorkerOptions
from elir_deploy.cli import batch
from elir_deploy.errors import UnavailableError
from tests.bundles import make_bundle
from tests.command import run_here


def test_workers_get_the_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[WorkerOptions] = []

    @contextmanager
    def no_cluster(options: WorkerOptions, *others: Any) -> Any:
        given.append(options)
        raise UnavailableError("no Ray")
        yield

    monkeypatch.setattr(batch, "open_cluster", no_cluster)
    bundle = make_bundle(tmp_path / "bundle", stride=8, io="float32")
    (tmp_path / "in").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "in/a.png")
    options = ("--bundle", bundle, "--fit", "tile", "--tile-overlap", 4, "--bits", 16)
    options += ("--sigma-s", 0.5, "--seed", 7, "--threads", 2, "--strength", 0.5)
    done = run_here(batch.main, tmp_path / "in", tmp_path / "out", *options)
    assert done.returncode == 4, done.stderr
    [one] = given
    assert (one.bundle, one.bits, one.strength) == (str(bundle), 16, 0.5)
    chosen = {"fit": "tile", "tile_overlap": 4, "sigma_s": 0.5, "seed": 7, "threads": 2}
    assert one.options.items() >= chosen.items()
    refused = run_here(
        batch.main, tmp_path / "in", tmp_path / "out", *options[:-2], "--long-side", 640
    )
    assert (refused.returncode, len(given)) == (2, 1)
    assert "--long-side is for bundles of faces" in refused.stderr
