"""Several films, one after another."""

from __future__ import annotations

from pathlib import Path

import pytest

from elir_deploy.errors import UnavailableError
from elir_deploy.runtime.job import Job
from elir_deploy.runtime.results import Result
from elir_deploy.video import Encoding
from elir_deploy.video.films import restore_films
from tests.video.films import Unchanged, write_film


def test_a_missing_device_ends_the_run(tmp_path: Path) -> None:
    source = write_film(tmp_path / "film.mp4", count=2, audio=None)
    jobs = [Job(source, tmp_path / name) for name in ("a.mp4", "b.mp4")]
    results: list[Result] = []
    encodings = {".mp4": Encoding("h264_nvenc")}
    with pytest.raises(UnavailableError, match="h264_nvenc does not start"):
        restore_films(Unchanged(), jobs, encodings, on_result=results.append)
    assert [result.job for result in results] == jobs[:1]
