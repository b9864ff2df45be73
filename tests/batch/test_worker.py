from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from elir_deploy.batch.places import LocalJob, RemoteJob
from elir_deploy.batch.worker import Worker, WorkerOptions
from elir_deploy.errors import BundleError
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


def test_work_begins_before_all_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_bundle(tmp_path / "bundle")
    write_image(tmp_path / "a.png", np.zeros((32, 32, 3), np.uint8))
    source, target = tmp_path.as_uri(), f"{tmp_path.as_uri()}/out"
    job = RemoteJob(Path("a.png"), Path("a.png"), source_root=source, target_root=target)
    jobs = [replace(job, target=Path(f"{number}.png")) for number in range(16)]
    jobs[3] = replace(jobs[3], source=Path("none.png"))
    fetched, done = [], []
    original = LocalJob.fetch

    def fetch(job: LocalJob) -> None:
        if len(fetched) == 15:
            first_is_done.wait(30)
        fetched.append(job.remote)
        original(job)

    first_is_done = threading.Event()
    monkeypatch.setattr(LocalJob, "fetch", fetch)
    worker = Worker(WorkerOptions("bundle", options={"backend": "onnxruntime"}))
    for result in worker.restore(jobs):
        done.append(result)
        if len(done) == 1:
            assert len(fetched) < 16
            first_is_done.set()
    assert {result.job for result in done} == set(jobs)
    [failed] = [result for result in done if result.failure]
    assert failed.job == jobs[3]
    assert failed.failure.startswith(f"{jobs[3].input_name} cannot be read: ")
    assert len(list((tmp_path / "out").iterdir())) == 15


def test_another_machine_may_lack_the_folder_of_the_command(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    options = {"backend": "onnxruntime"}
    missing = str(tmp_path / "missing")
    assert Worker(WorkerOptions(str(bundle), options=options, folder=missing)).name()
    with pytest.raises(BundleError, match="no such folder"):
        Worker(WorkerOptions("not-here", options=options, folder=missing))
