"""Planning: names settled before the first image is read, nothing replaced unasked."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from elir_deploy.errors import OutputError, UsageError
from elir_deploy.runtime.jobs import Existing, Plan, check_events_file, plan_jobs


def put(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((2, 3, 3), np.uint8)).save(path)
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


def test_files_and_folders_in_order(album: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    single = put(tmp_path / "z.tif")
    assert names(plan_jobs([single, album], out), out) == ["z.png", "a.png", "b.png"]
    deep = plan_jobs([album], out, recursive=True)
    assert names(deep, out) == ["a.png", "b.png", "deep/c.png", "deep/er/d.png"]
    assert (out / "deep" / "er").is_dir()


def test_formats(album: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    put(tmp_path / "t.bmp")
    put(tmp_path / "u.JPG")
    inputs = [album, tmp_path / "t.bmp", tmp_path / "u.JPG"]
    assert names(plan_jobs(inputs, out, format="same"), out) == ["a.jpg", "b.png", "t.png", "u.JPG"]
    assert names(plan_jobs(inputs, out, format="webp"), out)[0] == "a.webp"
    with pytest.raises(UsageError, match="format is 'bmp', expected one of png"):
        plan_jobs(inputs, out, format="bmp")


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
    for name in ("IMG_1.PSD", "IMG_2.psd", "x.tga", "logo.ico", "scan", "a.mov"):
        (album / name).write_bytes(b"\0\0\0\x18ftypheic")
    for name in ("README", "IMG_1.xmp", "labels.yaml"):
        (album / name).write_text("Größe: 1\n" * 60)
    (album / ".hidden.psd").write_bytes(b"\0")
    plan = plan_jobs([album], tmp_path / "out")
    assert len(plan.jobs) == 2
    assert plan.unread.files == {
        "": (1, album / "scan"),
        ".ico": (1, album / "logo.ico"),
        ".psd": (2, album / "IMG_1.PSD"),
        ".tga": (1, album / "x.tga"),
    }
    assert plan.unread.folders == [album / "deep"]
    assert not plan_jobs([album / "a.jpg"], tmp_path / "out").unread
    (tmp_path / "phone").mkdir()
    (tmp_path / "phone" / "IMG_1.PSD").write_bytes(b"\0")
    with pytest.raises(UsageError, match=r"no images in .*phone: .* 1 \.psd \(such as .*IMG_1"):
        plan_jobs([tmp_path / "phone"], tmp_path / "out")


def test_two_results_of_one_name_keep_their_suffixes(album: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    put(album / "a.png")
    put(album / "a.jpg.tif")  # which the longer name of a.jpg would meet
    plan = plan_jobs([album], out)
    assert names(plan, out) == ["a.jpg.png", "a.jpg.tif.png", "a.png.png", "b.png"]
    assert plan.renamed == plan.jobs[:3]
    same = plan_jobs([album], out, format="same")
    assert names(same, out) == ["a.jpg", "a.jpg.tif", "a.png", "b.png"]
    assert same.renamed == []
    for inputs in ([album / "b.png", album / "b.png"], [album / "b.png", put(tmp_path / "b.png")]):
        with pytest.raises(UsageError, match=r"b\.png and .*b\.png would both become .*b\.png"):
            plan_jobs(inputs, out)


def test_names_that_differ_only_in_case(tmp_path: Path) -> None:
    """Where the folder of the results does not tell them apart, one would replace the other."""
    out = tmp_path / "out"
    inputs = [put(tmp_path / name) for name in ("A.png", "a.jpg")]
    assert names(plan_jobs(inputs, out), out) == ["A.png.png", "a.jpg.png"]
    inputs = [put(tmp_path / name) for name in ("b.png", "B.png")]  # what nothing would help
    assert names(plan_jobs(inputs, out), out) == ["b.png", "B.png"]


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
        plan_jobs(inputs, tmp_path / "out", existing="overwrite")


def test_nothing_is_overwritten_unasked(album: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    put(out / "b.png")
    with pytest.raises(UsageError, match=r"b\.png exists: use --existing skip"):
        plan_jobs([album], out)
    assert len(plan_jobs([album], out, existing="overwrite").jobs) == 2
    (out / "a.png").mkdir()
    with pytest.raises(UsageError, match=r"a\.png is a folder"):
        plan_jobs([album], out, existing="overwrite")


@pytest.mark.parametrize("existing", ["error", "skip", "overwrite"])
def test_no_input_is_replaced(album: Path, tmp_path: Path, existing: Existing) -> None:
    match = "would replace the input"
    with pytest.raises(UsageError, match=match):
        plan_jobs([album / "b.png"], album, existing=existing)
    with pytest.raises(UsageError, match=match):
        plan_jobs([album / "b.png"], album / "deep" / "..", existing=existing)
    out = tmp_path / "out"
    out.mkdir()
    (out / "b.png").symlink_to(album / "b.png")
    with pytest.raises(UsageError, match=match):
        plan_jobs([album / "b.png"], out, existing=existing)
    (out / "b.png").unlink()
    os.link(album / "b.png", out / "b.png")
    with pytest.raises(UsageError, match=match):
        plan_jobs([album / "b.png"], out, existing=existing)


def test_an_output_folder_that_cannot_be(album: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    for out in (tmp_path / "out", tmp_path / "out" / "below"):
        with pytest.raises(OutputError, match="cannot be created"):
            plan_jobs([album], out)


def test_a_folder_that_cannot_be_written(album: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: not str(path).endswith("deep"))
    with pytest.raises(OutputError, match="out/deep is not writable"):
        plan_jobs([album], tmp_path / "out", recursive=True)
    assert len(plan_jobs([album], tmp_path / "out").jobs) == 2


# Going on ---------------------------------------------------------------------------------------


def test_what_is_done_is_skipped(album: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    put(out / "a.png")
    put(out / "b.png").write_bytes(b"")  # nothing that this package has written
    plan = plan_jobs([album], out, existing="skip")
    assert [job.target.name for job in plan.skipped] == ["a.png"]
    assert [job.target.name for job in plan.jobs] == ["b.png"]
    # Killed between its two files, a picture is not done.
    plan = plan_jobs([album], out, existing="skip", compare=True)
    assert plan.skipped == []
    put(out / "a.compare.png")
    plan = plan_jobs([album], out, existing="skip", compare=True)
    assert [job.target.name for job in plan.skipped] == ["a.png"]
    with pytest.raises(UsageError, match="existing is 'append', expected one of error, skip"):
        plan_jobs([album], out, existing="append")


def test_temporary_files_of_killed_runs_are_deleted(album: Path, tmp_path: Path) -> None:
    """Also in folders where everything is done, to which nothing will be written."""
    parts = [tmp_path / "out" / place / f".elir-{'0' * 16}.part" for place in (".", "deep/er")]
    for name in ("a.png", "b.png", "deep/c.png", "deep/er/d.png"):
        put(tmp_path / "out" / name)
    for part in parts:
        part.write_bytes(b"half")
    plan = plan_jobs([album], tmp_path / "out", existing="skip", recursive=True)
    assert (len(plan.jobs), len(plan.skipped)) == (0, 4)
    assert not any(part.exists() for part in parts)


# Names of results -------------------------------------------------------------------------------


def test_a_suffix(album: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    put(album / "a.png")
    plan = plan_jobs([album], out, suffix=".x", compare=True)
    assert names(plan, out) == ["a.jpg.x.png", "a.png.x.png", "b.x.png"]
    assert plan.jobs[2].compare == out / "b.x.compare.png"
    for suffix in ("/x", "../x", "\0"):
        with pytest.raises(UsageError, match="expected a part of a file name"):
            plan_jobs([album], out, suffix=suffix)


def test_results_beside_their_inputs_are_no_inputs(album: Path) -> None:
    """With a suffix, a folder may be restored into itself, again and again."""
    options = {"suffix": "-x", "compare": True, "recursive": True}
    first = plan_jobs([album], album, **options)
    assert names(first, album) == ["a-x.png", "b-x.png", "deep/c-x.png", "deep/er/d-x.png"]
    for job in first.jobs[:3]:
        put(job.target)
        put(job.compare)
    again = plan_jobs([album], album, existing="skip", **options)
    assert names(again, album) == ["deep/er/d-x.png"]
    assert again.skipped == first.jobs[:3]
    named = plan_jobs([album / "a-x.png"], album, suffix="-x")
    assert names(named, album) == ["a-x-x.png"]


@pytest.mark.parametrize("name", ["a-x.png", "a.jpg-x.png"])
def test_no_original_is_taken_for_a_result_silently(album: Path, tmp_path: Path, name: str) -> None:
    """What is called as a result may be a photograph: it is not replaced, and the plan has it."""
    put(album / name)
    if name != "a-x.png":
        put(album / "a.png")
    for options in ({"existing": "overwrite"}, {"existing": "skip", "compare": True}):
        with pytest.raises(UsageError, match=rf"{name} would replace a picture of an input folder"):
            plan_jobs([album], album, suffix="-x", **options)
    plan = plan_jobs([album], album, suffix="-x", existing="skip")
    assert plan.presumed_results == [album / name]
    assert [job.target.name for job in plan.skipped] == [name]
    assert plan_jobs([album], tmp_path / "out", suffix="-x").presumed_results == []
    (album / name).write_bytes(b"")
    plan_jobs([album], album, suffix="-x", existing="skip")


def test_results_of_other_options_are_no_inputs(album: Path) -> None:
    results = [
        put(album / f"{name}.{suffix}") for name in ("a-x", "b-x") for suffix in ("jpg", "tif")
    ]
    comparison = put(album / "b-x.compare.png")
    plan = plan_jobs([album], album, suffix="-x", format="webp")
    assert names(plan, album) == ["a-x.webp", "b-x.webp"]
    assert plan.presumed_results == sorted([*results, comparison])
    # A comparison is written before its result: a killed run leaves it alone.
    plan = plan_jobs([album], album, suffix="-x", format="webp", compare=True, existing="skip")
    assert names(plan, album) == ["a-x.webp", "b-x.webp"]


def test_one_file(album: Path, tmp_path: Path) -> None:
    def planned(output: Path, *inputs: Path, **options: str) -> Plan:
        return plan_jobs(inputs or [album / "a.jpg"], output, **options)

    (job,) = planned(tmp_path / "new" / "x.webp").jobs
    assert (job.target, job.format) == (tmp_path / "new" / "x.webp", ".webp")
    assert (tmp_path / "new").is_dir()
    (job,) = plan_jobs([album / "a.jpg"], tmp_path / "X.PNG", compare=True).jobs
    assert (job.compare, job.format) == (tmp_path / "X.compare.png", ".png")
    (job,) = planned(tmp_path / "y.jpeg", format="jpg").jobs
    assert job.target.name == "y.jpeg"
    (tmp_path / "folder.png").mkdir()
    assert names(planned(tmp_path / "folder.png"), tmp_path) == ["folder.png/a.png"]
    (job,) = planned(Path("/dev/null"), format="webp").jobs
    assert (job.target, job.format) == (Path("/dev/null"), ".webp")
    for reason, output, inputs, options in (
        ("one file, but there are 2 inputs", "x.png", (album / "a.jpg", album / "b.png"), {}),
        ("one file, but there is the folder", "x.png", (album,), {}),
        ("x.png and --format webp disagree", "x.png", (), {"format": "webp"}),
        ("--suffix '-x' needs an output folder", "x.png", (), {"suffix": "-x"}),
        ("would replace the input", "album/a.jpg", (), {"existing": "overwrite"}),
    ):
        with pytest.raises(UsageError, match=reason):
            planned(tmp_path / output, *inputs, **options)
    put(tmp_path / "x.png")
    with pytest.raises(UsageError, match=r"x\.png exists"):
        planned(tmp_path / "x.png")
    assert planned(tmp_path / "x.png", existing="skip").jobs == []


@pytest.mark.parametrize("name", ["x.gif", "x.HEIC", "x.jp2"])
def test_a_suffix_that_is_not_written_is_no_folder(album: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=r"files are not written, expected one of \.png, "):
        plan_jobs([album / "a.jpg"], tmp_path / name)
    assert not (tmp_path / name).exists()
    (tmp_path / name).mkdir()
    assert names(plan_jobs([album / "a.jpg"], tmp_path / name), tmp_path) == [f"{name}/a.png"]


def test_standard_input_and_output(album: Path, tmp_path: Path) -> None:
    (job,) = plan_jobs([Path("-")], Path("-")).jobs
    assert (str(job.source), str(job.target), job.format) == ("-", "-", ".png")
    (job,) = plan_jobs([album / "a.jpg"], Path("-"), format="same").jobs
    assert job.format == ".jpg"
    assert names(plan_jobs([Path("-"), album], tmp_path), tmp_path)[0] == "stdin.png"
    with pytest.raises(UsageError, match="-o - is standard output, but there is the folder"):
        plan_jobs([album], Path("-"))
    with pytest.raises(UsageError, match="--compare cannot be used with -o"):
        plan_jobs([Path("-")], Path("-"), compare=True)


def test_events_replace_no_picture(album: Path, tmp_path: Path) -> None:
    plan = plan_jobs([album], tmp_path / "out")
    for file in (album / "a.jpg", tmp_path / "out" / "a.png"):
        with pytest.raises(UsageError, match="the events would replace"):
            check_events_file(str(file), plan)
    with pytest.raises(OutputError, match="no such folder"):
        check_events_file(str(tmp_path / "none" / "x.jsonl"), plan)
    check_events_file(str(tmp_path / "x.jsonl"), plan)
    check_events_file("-", plan)
