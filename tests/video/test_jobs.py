"""Names of results, and what they may replace."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from elir_deploy.errors import UsageError
from elir_deploy.video.jobs import plan_films
from elir_deploy.video.restoring import partial_name


def touch(folder: Path, *names: str) -> list[Path]:
    for name in names:
        (folder / name).write_bytes(b"x")
    return [folder / name for name in names]


def test_names(tmp_path: Path) -> None:
    films = touch(tmp_path, "a.mp4", "b.MOV", "c.avi", "d.webm", "e")
    plan = plan_films(films, tmp_path / "out")
    names = [job.target.name for job in plan.jobs]
    assert names == ["a.mp4", "b.MOV", "c.mkv", "d.webm", "e.mkv"]
    assert (tmp_path / "out").is_dir()
    [job] = plan_films(films[:1], tmp_path / "new" / "x.webm").jobs
    assert job.target == tmp_path / "new" / "x.webm"


def test_existing_results(tmp_path: Path) -> None:
    films = touch(tmp_path, "a.mp4", "b.mp4")
    out = tmp_path / "out"
    out.mkdir()
    touch(out, "a.mp4", "b.partial.mp4")
    for given, name in ((films, "a"), (films[1:], r"b\.partial")):
        with pytest.raises(UsageError, match=rf"{name}\.mp4 exists: use --existing skip"):
            plan_films(given, out)
    plan = plan_films(films, out, "skip")
    assert [job.source.name for job in plan.jobs] == ["b.mp4"], "a part is no result"
    assert [job.source.name for job in plan.skipped] == ["a.mp4"]
    assert len(plan_films(films, out, "overwrite").jobs) == 2


@pytest.mark.parametrize(
    ("inputs", "output", "told"),
    [
        (["a.mp4"], ".", r"would replace the input .*a\.mp4: choose another output$"),
        (["a.mp4", "b.mp4"], "x.mkv", "is one file, but there are 2 films"),
        (["a.mp4"], "x.avi", r"\.avi files are not written, expected one of \.mp4, "),
        (["a.mp4"], "-", "films are read from files and written to files, not -"),
        ([os.devnull], "out", "is a pipe or a device: films are read twice, name a file"),
        (["-"], "out", "films are read from files and written to files, not -"),
        (["folder"], "out", r"folder is a folder, expected films: name them, as in .*folder/\*"),
        (["a.mp4", "folder/a.mp4"], "out", r"would both become .*a\.mp4"),
        (["c.partial.mp4"], "c.mp4", r"would replace the input c\.partial\.mp4: choose another"),
        (["a.partial.mp4", "b.mp4", "a.mp4"], "out", r"would both become out/a\.partial\.mp4"),
    ],
)
def test_refusals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inputs: list[str], output: str, told: str
) -> None:
    (tmp_path / "folder").mkdir()
    touch(tmp_path, "a.mp4", "b.mp4", "a.partial.mp4", "c.partial.mp4")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=told):
        plan_films([Path(name) for name in inputs], Path(output))
    assert not Path("out").exists()


def test_what_is_left_of_a_film_is_beside_the_file_that_a_link_names(tmp_path: Path) -> None:
    link = tmp_path / "a.mp4"
    link.symlink_to(tmp_path / "elsewhere" / "b.mp4")
    assert partial_name(link) == tmp_path.resolve() / "elsewhere" / "b.partial.mp4"
