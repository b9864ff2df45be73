"""Planning and restoring files: names settled first, one bad file among good ones, bounds."""

from __future__ import annotations

import io
import os
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from elir_deploy.errors import DeviceLostError, UnavailableError
from elir_deploy.runtime import Restorer, files
from elir_deploy.runtime.files import restore_files
from elir_deploy.runtime.images import read_image
from elir_deploy.runtime.jobs import plan_jobs
from elir_deploy.runtime.results import Result
from elir_deploy.runtime.tiling import spans
from tests.bundles import make_bundle


def noise(height: int = 20, width: int = 30, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), "u1")


def put(path: Path, pixels: np.ndarray | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise() if pixels is None else pixels).save(path)
    return path


# Restoring --------------------------------------------------------------------------------------


def test_one_bad_file_does_not_stop_the_rest(bundle: Path, tmp_path: Path) -> None:
    inputs = [put(tmp_path / "in" / f"{i}.png", noise(seed=i)) for i in range(6)]
    inputs[1].write_bytes(inputs[1].read_bytes()[:500])
    inputs[3].write_bytes(b"")
    inputs[4].unlink()
    jobs = plan_jobs(inputs, tmp_path / "out").jobs
    told: list[Result] = []
    progress: list[tuple[str, int, int]] = []
    with Restorer(bundle) as restorer:
        outcome = restore_files(
            restorer,
            jobs,
            on_result=told.append,
            on_progress=lambda *step: progress.append(step),
        )
    assert [job.source.name for job in outcome.restored] == ["0.png", "2.png", "5.png"]
    assert [job.source.name for job, _ in outcome.failures] == ["1.png", "3.png", "4.png"]
    failed = [result for result in told if result.failure]
    assert [(result.job, result.failure) for result in failed] == outcome.failures
    for result, reason in zip(failed, ("is cut off", "is empty", "No such file"), strict=True):
        assert reason in (result.failure or "")
    assert len(told) == 6
    assert all(0 < result.seconds < outcome.seconds for result in told)
    assert sorted(os.listdir(tmp_path / "out")) == ["0.png", "2.png", "5.png"]
    assert progress[-1] == ("restoring", 6, 6)
    assert outcome.seconds > 0
    for number in (0, 2, 5):
        restored = read_image(tmp_path / "out" / f"{number}.png").pixels
        np.testing.assert_array_equal(restored, noise(seed=number))


def test_a_device_that_fails_one_image_restores_the_others_unless_it_is_lost(
    bundle: Path, tmp_path: Path
) -> None:
    inputs = [put(tmp_path / "in" / f"{i}.png", noise(seed=i)) for i in range(4)]
    errors = {2: UnavailableError("out of memory; the session can be used again")}
    with Restorer(bundle) as restorer:
        original, calls = restorer.restore, []

        def restore(image: np.ndarray, **options: Any) -> np.ndarray:
            calls.append(image)
            if len(calls) in errors:
                raise errors[len(calls)]
            return original(image, **options)

        restorer.restore = restore  # type: ignore[method-assign]
        outcome = restore_files(restorer, plan_jobs(inputs, tmp_path / "out").jobs)
        assert [job.source.name for job in outcome.restored] == ["0.png", "2.png", "3.png"]
        [(_, reason)] = outcome.failures
        assert reason == "out of memory; the session can be used again"
        calls.clear()
        errors[2] = DeviceLostError("the GPU no longer responds: start a new process")
        with pytest.raises(DeviceLostError):
            restore_files(restorer, plan_jobs(inputs, tmp_path / "other").jobs)
        assert sorted(os.listdir(tmp_path / "other")) == ["0.png"]


def test_several_concurrently(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = [put(tmp_path / "in" / f"{i}.png", noise(seed=i)) for i in range(9)]
    inputs[4].write_bytes(b"")
    jobs = plan_jobs(inputs, tmp_path / "out").jobs
    together = threading.Barrier(2)  # breaks, unless two images wait at it
    progress: list[tuple[str, int, int]] = []
    monkeypatch.setattr(files, "_LONG_S", 0)
    with Restorer(bundle) as restorer:
        original = restorer.restore

        def restore(image: np.ndarray, **options: object) -> np.ndarray:
            together.wait(10)
            return original(image)

        monkeypatch.setattr(restorer, "restore", restore)
        restorer.concurrency = 2
        outcome = restore_files(restorer, jobs, on_progress=lambda *step: progress.append(step))
    restored_names = [job.source.name for job in outcome.restored]
    assert restored_names == [f"{i}.png" for i in range(9) if i != 4]
    assert [job.source.name for job, _ in outcome.failures] == ["4.png"]
    assert progress == [("restoring", done, 9) for done in range(10)]
    for number in (0, 8):
        restored = read_image(tmp_path / "out" / f"{number}.png").pixels
        np.testing.assert_array_equal(restored, noise(seed=number))


def test_a_result_that_cannot_be_written(bundle: Path, tmp_path: Path, monkeypatch) -> None:
    inputs = [put(tmp_path / "in" / name) for name in ("a.png", "b.png", "c.png")]
    jobs = plan_jobs(inputs, tmp_path / "out").jobs
    (tmp_path / "out" / "b.png").mkdir()  # came about after the checks
    monkeypatch.setattr("elir_deploy.runtime.files.check_writable", lambda path: None)
    with Restorer(bundle) as restorer:
        outcome = restore_files(restorer, jobs)
    assert [job.source.name for job in outcome.restored] == ["a.png", "c.png"]
    assert "Is a directory" in outcome.failures[0][1]
    assert sorted(os.listdir(tmp_path / "out")) == ["a.png", "b.png", "c.png"]


def test_results_go_where_links_and_pipes_lead(bundle: Path, tmp_path: Path) -> None:
    inputs = [put(tmp_path / "in" / name) for name in ("a.png", "b.png")]
    out = tmp_path / "out"
    out.mkdir()
    (out / "a.png").symlink_to("../elsewhere.png")
    os.mkfifo(out / "b.png")
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append((out / "b.png").read_bytes()), daemon=True)
    reader.start()
    with Restorer(bundle) as restorer:
        assert not restore_files(
            restorer, plan_jobs(inputs, out, existing="overwrite").jobs
        ).failures
    reader.join(10)
    np.testing.assert_array_equal(read_image(tmp_path / "elsewhere.png").pixels, noise())
    with Image.open(io.BytesIO(got[0])) as image:
        np.testing.assert_array_equal(np.asarray(image), noise())
    assert (out / "a.png").is_symlink()
    assert (out / "b.png").is_fifo()


def test_transparency_is_enlarged_with_the_picture(tmp_path: Path, monkeypatch) -> None:
    alpha = np.random.default_rng(1).integers(0, 256, (20, 30), "u1")
    put(tmp_path / "a.png", np.dstack([noise(), alpha]))
    path = make_bundle(tmp_path / "b", upscale=4, kernel="bicubic")
    with Restorer(path) as restorer:
        outcome = restore_files(restorer, plan_jobs([tmp_path / "a.png"], tmp_path / "out").jobs)
        assert not outcome.failures
        loaded = read_image(tmp_path / "out" / "a.png")
        assert loaded.pixels.shape == (80, 120, 3)
        expected = Image.fromarray(alpha).resize((120, 80), Image.Resampling.BICUBIC)
        np.testing.assert_array_equal(loaded.alpha, np.asarray(expected))
        jobs = plan_jobs([tmp_path / "a.png"], tmp_path / "out", format="jpg").jobs
        monkeypatch.setattr(restorer, "restore", None)  # the model is not run for nothing
        outcome = restore_files(restorer, jobs)
    assert "JPEG cannot store" in outcome.failures[0][1]


@pytest.mark.parametrize("factor", [1, 4])
def test_side_by_side(tmp_path: Path, factor: int) -> None:
    path = make_bundle(
        tmp_path / "b", upscale=factor, kernel="bicubic" if factor > 1 else "none", gain=0.5
    )
    put(tmp_path / "a.png")
    with Restorer(path) as restorer:
        jobs = plan_jobs([tmp_path / "a.png"], tmp_path / "out", compare=True).jobs
        assert not restore_files(restorer, jobs).failures
    pair = read_image(tmp_path / "out" / "a.compare.png").pixels
    size = (30 * factor, 20 * factor)
    large = np.asarray(Image.fromarray(noise()).resize(size, Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(pair[:, : size[0]], large)
    restored = read_image(tmp_path / "out" / "a.png").pixels
    np.testing.assert_array_equal(pair[:, size[0] :], restored)


def test_tiles_of_long_work_are_counted(bundle: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(files, "_LONG_S", 0)
    jobs = plan_jobs([put(tmp_path / "a.png", noise(100, 30))], tmp_path / "out").jobs
    progress: list[tuple[str, int, int]] = []
    with Restorer(bundle) as restorer:
        restore_files(restorer, jobs, on_progress=lambda *step: progress.append(step))
    count = len(spans(100, 32, 4))
    assert progress == [
        ("restoring", 0, 1),
        *(("restoring image 1 of 1, tiles", i + 1, count) for i in range(count)),
        ("restoring", 1, 1),
    ]


def test_images_that_are_no_face_crops_cause_a_warning(tmp_path: Path) -> None:
    path = make_bundle(tmp_path / "b", faces=True)
    inputs = [put(tmp_path / "a.png"), put(tmp_path / "b.png", noise(9, 9))]
    jobs = plan_jobs(inputs, tmp_path / "o").jobs
    told: list[Result] = []
    with Restorer(path) as restorer:
        restore_files(restorer, jobs, on_result=told.append)
    assert [result.job.source.name for result in told if result.warning] == ["a.png"]


def test_reading_running_and_writing_overlap_and_are_bounded(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = plan_jobs([put(tmp_path / f"{i}.png") for i in range(8)], tmp_path / "out").jobs
    lock = threading.Lock()
    alive = most = 0

    def change(by: int) -> None:
        nonlocal alive, most
        with lock:
            alive += by
            most = max(most, alive)

    def read(path: Path, **options: object) -> files.LoadedImage:
        change(+1)
        time.sleep(0.05)
        return files.LoadedImage(noise())

    def write(path: Path, pixels: np.ndarray, **options: object) -> None:
        time.sleep(0.05)
        change(-1)

    monkeypatch.setattr(files, "read_image", read)
    monkeypatch.setattr(files, "write_image", write)
    with Restorer(bundle) as restorer:
        monkeypatch.setattr(
            restorer, "restore", lambda image, **options: (time.sleep(0.05), image)[1]
        )
        started = time.perf_counter()
        restore_files(restorer, jobs)
        took = time.perf_counter() - started
    assert took < 0.85 * 8 * 3 * 0.05  # one after the other: 1.2 s; overlapped: 0.5 s
    assert most <= 3  # one being read, one run, one written
    assert alive == 0


@pytest.mark.usefixtures("batches")
def test_images_that_wait_share_a_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to the bundle's; those that need tiles, and one that cannot be read, stay alone."""
    sizes = [(32, 32)] * 3 + [(40, 50)] + [(32, 32)] * 5
    inputs = [put(tmp_path / f"{i}.png", noise(*size, i)) for i, size in enumerate(sizes)]
    inputs[5].write_bytes(b"")
    jobs = plan_jobs(inputs, tmp_path / "out").jobs
    path = make_bundle(tmp_path / "b", gain=0.5, shapes=[{"batch": 4, "height": 32, "width": 32}])
    with Restorer(path, "onnxruntime", precision="fp32") as restorer:
        expected = {i: restorer(noise(*size, i)) for i, size in enumerate(sizes) if i != 5}
        groups: list[int] = []
        restore, together = restorer.restore, restorer.restore_together

        def alone(image: np.ndarray, **options: object) -> np.ndarray:
            groups.append(1)
            time.sleep(0.3)  # the others are read meanwhile
            return restore(image, **options)  # type: ignore[arg-type]

        def several(images: list[np.ndarray], strength: float) -> list[np.ndarray]:
            groups.append(len(images))
            time.sleep(0.3)
            return together(images, strength)

        monkeypatch.setattr(restorer, "restore", alone)
        monkeypatch.setattr(restorer, "restore_together", several)
        outcome = restore_files(restorer, jobs)
    assert sum(groups) == 8  # the first ones may have come too fast to wait
    assert groups[-3:] == [1, 1, 3]
    assert [job.source.name for job, _ in outcome.failures] == ["5.png"]
    for i, pixels in expected.items():
        restored = read_image(tmp_path / "out" / f"{i}.png").pixels
        np.testing.assert_array_equal(restored, pixels)


def test_an_interruption_finishes_what_is_being_written(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = plan_jobs([put(tmp_path / f"{i}.png") for i in range(5)], tmp_path / "out").jobs
    with Restorer(bundle) as restorer:
        whole = restorer.restore
        calls = iter(range(5))

        def interrupted(image: np.ndarray, **options: object) -> np.ndarray:
            if next(calls) == 2:
                raise KeyboardInterrupt
            return whole(image)

        monkeypatch.setattr(restorer, "restore", interrupted)
        with pytest.raises(KeyboardInterrupt):
            restore_files(restorer, jobs)
    assert sorted(os.listdir(tmp_path / "out")) == ["0.png", "1.png"]
    for name in ("0.png", "1.png"):
        np.testing.assert_array_equal(read_image(tmp_path / "out" / name).pixels, noise())


def test_a_bug_is_not_taken_for_a_bad_file(bundle: Path, tmp_path: Path, monkeypatch) -> None:
    jobs = plan_jobs([put(tmp_path / "a.png"), put(tmp_path / "b.png")], tmp_path / "out").jobs

    def broken(*args: object, **options: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(files, "write_image", broken)
    with Restorer(bundle) as restorer, pytest.raises(ZeroDivisionError):
        restore_files(restorer, jobs)
