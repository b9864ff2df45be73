"""Planning and restoring files: names settled first, one bad file among good ones, bounds."""

from __future__ import annotations

import io
import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from elir_deploy.errors import OutputError, UsageError
from elir_deploy.runtime import Restorer, files
from elir_deploy.runtime.files import Plan, plan_jobs, restore_files
from elir_deploy.runtime.images import read_image
from elir_deploy.runtime.tiling import spans
from tests.bundles import make_bundle


def noise(height: int = 20, width: int = 30, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), "u1")


def put(path: Path, pixels: np.ndarray | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise() if pixels is None else pixels).save(path)
    return path


@pytest.fixture
def album(tmp_path: Path) -> Path:
    for name in ("b.png", "a.jpg", "deep/c.webp", "deep/er/d.png"):
        put(tmp_path / "album" / name)
    for name in ("notes.txt", ".hidden.png", "deep/x.json"):
        (tmp_path / "album" / name).write_text("no image")
    return tmp_path / "album"


def names(plan: Plan, out: Path) -> list[str]:
    return [str(job.target.relative_to(out)) for job in plan.jobs]


# Planning ---------------------------------------------------------------------------------------


def test_files_and_folders_in_order(album: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    single = put(tmp_path / "z.tif")
    assert names(plan_jobs([single, album], out), out) == ["z.png", "a.png", "b.png"]
    deep = plan_jobs([album], out, recursive=True)
    assert names(deep, out) == ["a.png", "b.png", "deep/c.png", "deep/er/d.png"]
    assert (out / "deep" / "er").is_dir()


def test_formats(album: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    put(tmp_path / "t.tif")
    put(tmp_path / "u.JPG")
    inputs = [album, tmp_path / "t.tif", tmp_path / "u.JPG"]
    assert names(plan_jobs(inputs, out, format="same"), out) == ["a.jpg", "b.png", "t.png", "u.JPG"]
    assert names(plan_jobs(inputs, out, format="webp"), out)[0] == "a.webp"
    with pytest.raises(UsageError, match="format is 'tiff', expected one of png"):
        plan_jobs(inputs, out, format="tiff")


def test_names_with_dots_and_oddities(tmp_path: Path) -> None:
    out = tmp_path / "out"
    odd = ["a.b.png", "ünï cödé.png", "new\nline.png", "-dash.png", "no suffix", "[bold].png"]
    inputs = [put(tmp_path / "in" / "x.png").rename(tmp_path / "in" / name) for name in odd]
    plan = plan_jobs(inputs, out)
    assert names(plan, out) == [
        *("a.b.png", "ünï cödé.png", "new\nline.png", "-dash.png", "no suffix.png", "[bold].png")
    ]


def test_the_output_folder_is_not_an_input(album: Path) -> None:
    out = album / "restored"
    put(out / "old.png")
    assert names(plan_jobs([album], out, recursive=True), out) == [
        *("a.png", "b.png", "deep/c.png", "deep/er/d.png")
    ]


def test_links_that_circle_are_not_followed(album: Path, tmp_path: Path) -> None:
    (album / "deep" / "again").symlink_to(album)
    assert len(plan_jobs([album], tmp_path / "out", recursive=True).jobs) == 4


def test_nothing_to_do(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no images in"):
        plan_jobs([tmp_path], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_is_not_read_is_counted_and_named(album: Path, tmp_path: Path) -> None:
    for name in ("IMG_1.HEIC", "IMG_2.heic", "x.tga", "logo.ico", "scan", "a.mov"):
        (album / name).write_bytes(b"\0\0\0\x18ftypheic")
    for name in ("README", "IMG_1.xmp", "labels.yaml"):
        (album / name).write_text("Größe: 1\n" * 60)
    (album / ".hidden.heic").write_bytes(b"\0")
    plan = plan_jobs([album], tmp_path / "out")
    assert len(plan.jobs) == 2
    assert plan.unread.files == {
        "": (1, album / "scan"),
        ".heic": (2, album / "IMG_1.HEIC"),
        ".ico": (1, album / "logo.ico"),
        ".tga": (1, album / "x.tga"),
    }
    assert plan.unread.folders == [album / "deep"]
    assert not plan_jobs([album / "a.jpg"], tmp_path / "out").unread
    (tmp_path / "phone").mkdir()
    (tmp_path / "phone" / "IMG_1.HEIC").write_bytes(b"\0")
    with pytest.raises(UsageError, match=r"no images in .*phone: .* 1 \.heic \(such as .*IMG_1"):
        plan_jobs([tmp_path / "phone"], tmp_path / "out")


def test_two_results_of_one_name_keep_their_suffixes(album: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    put(album / "a.png")
    put(album / "a.jpg.tif")  # which the longer name of a.jpg would meet
    plan = plan_jobs([album], out)
    assert names(plan, out) == ["a.jpg.png", "a.jpg.tif.png", "a.png.png", "b.png"]
    assert plan.renamed == plan.jobs[:3]
    same = plan_jobs([album], out, format="same")
    assert names(same, out) == ["a.jpg", "a.jpg.png", "a.png", "b.png"]
    assert same.renamed == []
    for inputs in ([album / "b.png", album / "b.png"], [album / "b.png", put(tmp_path / "b.png")]):
        with pytest.raises(UsageError, match=r"b\.png and .*b\.png would both become .*b\.png"):
            plan_jobs(inputs, out)


def test_a_comparison_may_not_meet_a_result(tmp_path: Path) -> None:
    inputs = [put(tmp_path / "a.png"), put(tmp_path / "a.compare.png")]
    out = tmp_path / "out"
    assert names(plan_jobs(inputs, out), out) == ["a.png", "a.compare.png"]
    plan = plan_jobs(inputs, out, compare=True)
    assert names(plan, out) == ["a.png.png", "a.compare.png.png"]
    made = [target.name for job in plan.jobs for target in job.targets]
    assert len(set(made)) == 4


def test_links_to_one_file_are_one_result(tmp_path: Path) -> None:
    """They are followed, so that the second result would replace the first."""
    inputs = [put(tmp_path / "a.png"), put(tmp_path / "b.png")]
    (tmp_path / "out").mkdir()
    for name in ("a.png", "b.png"):
        (tmp_path / "out" / name).symlink_to("elsewhere.png")
    with pytest.raises(UsageError, match="would both become"):
        plan_jobs(inputs, tmp_path / "out", overwrite=True)


def test_nothing_is_overwritten_unasked(album: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    put(out / "b.png")
    with pytest.raises(UsageError, match=r"b\.png exists: use --overwrite"):
        plan_jobs([album], out)
    assert len(plan_jobs([album], out, overwrite=True).jobs) == 2
    (out / "a.png").mkdir()
    with pytest.raises(UsageError, match=r"a\.png is a folder"):
        plan_jobs([album], out, overwrite=True)


@pytest.mark.parametrize("overwrite", [False, True])
def test_no_input_is_replaced(album: Path, tmp_path: Path, overwrite: bool) -> None:
    match = "would replace the input"
    with pytest.raises(UsageError, match=match):
        plan_jobs([album / "b.png"], album, overwrite=overwrite)
    with pytest.raises(UsageError, match=match):
        plan_jobs([album / "b.png"], album / "deep" / "..", overwrite=overwrite)
    out = tmp_path / "out"
    out.mkdir()
    (out / "b.png").symlink_to(album / "b.png")
    with pytest.raises(UsageError, match=match):
        plan_jobs([album / "b.png"], out, overwrite=overwrite)
    (out / "b.png").unlink()
    os.link(album / "b.png", out / "b.png")
    with pytest.raises(UsageError, match=match):
        plan_jobs([album / "b.png"], out, overwrite=overwrite)


def test_an_output_folder_that_cannot_be(album: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    for out in (tmp_path / "out", tmp_path / "out" / "below"):
        with pytest.raises(OutputError, match="cannot be created"):
            plan_jobs([album], out)


# Restoring --------------------------------------------------------------------------------------


def test_one_bad_file_does_not_stop_the_rest(bundle: Path, tmp_path: Path) -> None:
    inputs = [put(tmp_path / "in" / f"{i}.png", noise(seed=i)) for i in range(6)]
    inputs[1].write_bytes(inputs[1].read_bytes()[:500])
    inputs[3].write_bytes(b"")
    inputs[4].unlink()
    jobs = plan_jobs(inputs, tmp_path / "out").jobs
    told: list[str] = []
    progress: list[tuple[str, int, int]] = []
    with Restorer(bundle) as restorer:
        outcome = restore_files(
            restorer,
            jobs,
            on_failure=lambda job, reason: told.append(reason),
            on_progress=lambda *step: progress.append(step),
        )
    assert [job.source.name for job in outcome.restored] == ["0.png", "2.png", "5.png"]
    assert [job.source.name for job, _ in outcome.failures] == ["1.png", "3.png", "4.png"]
    assert told == [reason for _, reason in outcome.failures]
    assert ["is cut off" in told[0], "is empty" in told[1], "No such file" in told[2]] == [True] * 3
    assert sorted(os.listdir(tmp_path / "out")) == ["0.png", "2.png", "5.png"]
    assert progress[-1] == ("restoring", 6, 6)
    assert outcome.seconds > 0
    for number in (0, 2, 5):
        restored = read_image(tmp_path / "out" / f"{number}.png").pixels
        np.testing.assert_array_equal(restored, noise(seed=number))


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


def test_a_result_that_cannot_be_written(bundle: Path, tmp_path: Path) -> None:
    inputs = [put(tmp_path / "in" / name) for name in ("a.png", "b.png", "c.png")]
    jobs = plan_jobs(inputs, tmp_path / "out").jobs
    (tmp_path / "out" / "b.png").mkdir()  # came about after the check
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
        assert not restore_files(restorer, plan_jobs(inputs, out, overwrite=True).jobs).failures
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
    warned: list[str] = []
    with Restorer(path) as restorer:
        restore_files(
            restorer, jobs, on_input_warning=lambda job, warning: warned.append(job.source.name)
        )
    assert warned == ["a.png"]


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

    def read(path: Path) -> files.LoadedImage:
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
            restorer, "restore", lambda image, on_progress: (time.sleep(0.05), image)[1]
        )
        started = time.perf_counter()
        restore_files(restorer, jobs)
        took = time.perf_counter() - started
    assert took < 0.85 * 8 * 3 * 0.05  # one after the other: 1.2 s; overlapped: 0.5 s
    assert most <= 3  # one being read, one run, one written
    assert alive == 0


def test_an_interruption_finishes_what_is_being_written(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = plan_jobs([put(tmp_path / f"{i}.png") for i in range(5)], tmp_path / "out").jobs
    with Restorer(bundle) as restorer:
        whole = restorer.restore
        calls = iter(range(5))

        def interrupted(image: np.ndarray, on_progress: object) -> np.ndarray:
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
