"""Photographs in files: what overlaps, batches across photographs, one that fails."""

from __future__ import annotations

import threading
import time
import warnings
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import Image

from elir_deploy.photo import PhotoRestorer
from elir_deploy.photo.detection import MAX_FACES
from elir_deploy.photo.files import PhotoFileRestorer
from elir_deploy.runtime import files, read_image
from elir_deploy.runtime.files import restore_files
from elir_deploy.runtime.jobs import Job
from elir_deploy.runtime.results import Result
from tests.photo.pictures import face_bundle, spots

pytest.importorskip("onnxruntime")


def album(folder: Path, *faces: int) -> list[Job]:
    """Photographs with so many faces."""
    jobs = []
    for number, count in enumerate(faces):
        places = [(60 + 130 * i, 60 + 4 * number) for i in range(count)]
        Image.fromarray(spots(140, 400, *places)).save(folder / f"{number}.png")
        jobs.append(Job(folder / f"{number}.png", folder / f"{number}.out.png"))
    return jobs


def opened(bundle: Path) -> PhotoRestorer:
    return PhotoRestorer(bundle, backend="onnxruntime", threads=1)


def test_faces_of_photographs_that_wait_share_a_batch(tmp_path: Path) -> None:
    jobs = album(tmp_path, 1, 1, 0, 2, 1, 3, 1)
    shapes = [{"batch": 4, "height": 64, "width": 64}]
    with opened(face_bundle(tmp_path / "b", gain=0.5, shapes=shapes)) as restore:
        expected = [restore(read_image(job.source).pixels).pixels for job in jobs]
        photos = PhotoFileRestorer(restore)
        groups: list[list[int]] = []
        whole = photos.restore
        ready = threading.Semaphore(0)
        prepare = photos.prepare

        def prepared(image: files.LoadedImage, strength: float) -> object:
            result = prepare(image, strength)
            ready.release()
            return result

        def restored(group: list, strength: float, on_progress: object) -> list:
            for _ in range(5 if not groups else 0):  # until the queue is full
                assert ready.acquire(timeout=10)
            time.sleep(0.1)
            groups.append([each.squares for each in group])
            return whole(group, strength, on_progress)

        photos.prepare, photos.restore = prepared, restored  # type: ignore[method-assign,assignment]
        outcome = restore_files(photos, jobs)
    # How many wait when the first starts depends on threads.
    assert [squares for group in groups for squares in group] == [1, 1, 0, 2, 1, 3, 1]
    assert all(sum(group) <= 4 for group in groups)
    assert len(groups) < len(jobs)
    assert (len(outcome.restored), outcome.faces) == (7, 9)
    for job, pixels in zip(jobs, expected, strict=True):
        np.testing.assert_array_equal(read_image(job.target).pixels, pixels)


def test_reading_detecting_running_and_writing_overlap_and_are_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [Job(tmp_path / f"{i}.png", tmp_path / f"{i}.out.png") for i in range(8)]
    lock = threading.Lock()
    alive = most = 0

    def change(by: int) -> None:
        nonlocal alive, most
        with lock:
            alive += by
            most = max(most, alive)

    def read(path: Path, deep: bool) -> files.LoadedImage:
        change(+1)
        time.sleep(0.05)
        return files.LoadedImage(spots(20, 30))

    def write(path: Path, pixels: np.ndarray, **options: object) -> None:
        time.sleep(0.05)
        change(-1)

    monkeypatch.setattr(files, "read_image", read)
    monkeypatch.setattr(files, "write_image", write)
    with opened(face_bundle(tmp_path / "b")) as restore:
        photos = PhotoFileRestorer(restore)
        prepare, run = photos.prepare, photos.restore
        monkeypatch.setattr(photos, "prepare", lambda *each: (time.sleep(0.05), prepare(*each))[1])
        monkeypatch.setattr(photos, "restore", lambda *each: (time.sleep(0.05), run(*each))[1])
        started = time.perf_counter()
        restore_files(photos, jobs)
        took = time.perf_counter() - started
    assert took < 0.75 * 8 * 4 * 0.05  # one after the other: 1.6 s; overlapped: 0.55 s
    assert most <= 4  # one in each stage
    assert alive == 0


def test_faces_beyond_the_limit_are_told_of_each_photograph(tmp_path: Path) -> None:
    jobs = album(tmp_path, 2)
    told: list[Result] = []
    with opened(face_bundle(tmp_path / "b")) as restore:
        found = restore.detect(read_image(jobs[0].source).pixels)
        restore._find = lambda _: found[:1] * (MAX_FACES + 1)  # type: ignore[assignment]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            restore_files(PhotoFileRestorer(restore, "largest"), jobs, on_result=told.append)
    assert (
        told[0].warning
        == "the picture has more than 1024 faces: those of lower scores are left out"
    )
    assert told[0].faces is not None
    assert len(told[0].faces) == MAX_FACES


def test_at_strength_0_nothing_runs(tmp_path: Path) -> None:
    jobs = album(tmp_path, 1, 2)
    told: list[Result] = []
    with opened(face_bundle(tmp_path / "b", gain=0.5)) as restore:
        restore._find = Mock(side_effect=AssertionError)  # type: ignore[assignment]
        restore_files(PhotoFileRestorer(restore), jobs, strength=0.001, on_result=told.append)
    assert [(each.faces, each.warning, each.failure) for each in told] == [(None, None, None)] * 2
    for job in jobs:
        source, target = (read_image(path).pixels for path in (job.source, job.target))
        np.testing.assert_array_equal(source, target)


def test_one_that_fails_does_not_stop_those_it_was_with(tmp_path: Path) -> None:
    """Neither one whose faces cannot be found nor one that cannot be restored."""
    jobs = album(tmp_path, 1, 1, 1, 1)
    told: list[Result] = []
    shapes = [{"batch": 4, "height": 64, "width": 64}]
    with opened(face_bundle(tmp_path / "b", shapes=shapes)) as restore:
        find, together = restore._find, restore.restore_together
        bad = [read_image(job.source).pixels for job in jobs[1:3]]

        def found(picture: np.ndarray) -> object:
            if (picture == bad[0]).all():
                raise files.InputError("no sense in it")
            return find(picture)

        def restored(group: list, *arguments: object, **options: object) -> object:
            if any((each.picture == bad[1]).all() for each in group):
                raise MemoryError
            return together(group, *arguments, **options)  # type: ignore[arg-type]

        restore._find, restore.restore_together = found, restored  # type: ignore[assignment,method-assign]
        outcome = restore_files(PhotoFileRestorer(restore), jobs, on_result=told.append)
    assert {job.source.name: reason for job, reason in outcome.failures} == {
        "1.png": "no sense in it",
        "2.png": "not enough memory for this image",
    }
    assert sorted(job.source.name for job in outcome.restored) == ["0.png", "3.png"]
    assert all(result.seconds > 0 for result in told)
