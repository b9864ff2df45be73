"""URLs of a file system that is here, against the paths of the same files."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from elir_deploy.batch.places import RemoteJob, fetch, plan_batch, send
from elir_deploy.errors import InputError, OutputError, UnavailableError, UsageError
from elir_deploy.runtime.jobs import Naming

PNG = Naming("png")


@pytest.fixture
def album(tmp_path: Path) -> Path:
    for name in ("b.jpg", "a.png", "a.webp", "deep/c.tif", ".hidden.png", "deep/.x/d.png"):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(path)
    (tmp_path / "in" / "camera.raw").write_bytes(b"\0\1raw")
    (tmp_path / "in" / "notes.txt").touch()
    return tmp_path / "in"


@pytest.mark.parametrize("recursive", [False, True])
@pytest.mark.parametrize("naming", [PNG, Naming("same", "-x")])
def test_names_are_those_of_paths(
    album: Path, tmp_path: Path, naming: Naming, recursive: bool
) -> None:
    out = tmp_path / "out"
    paths = plan_batch(str(album), str(out), naming, recursive=recursive)
    urls = plan_batch(album.as_uri(), out.as_uri(), naming, recursive=recursive)
    for plan, prefix in ((paths, ""), (urls, "file://")):
        named = [(job.input_name, job.output_name) for job in plan.jobs]
        assert named == [(f"{prefix}{j.source}", f"{prefix}{j.target}") for j in paths.jobs]
    assert list(urls.unread.files) == list(paths.unread.files) == [".raw"]
    assert len(urls.renamed) == len(paths.renamed)


def test_names_with_spaces(album: Path, tmp_path: Path) -> None:
    album = album.rename(tmp_path / "my älbum")
    plan = plan_batch(str(album), f"file://{tmp_path}/my out", PNG)
    assert len(plan.jobs) == 3
    job = plan.jobs[0]
    assert isinstance(job, RemoteJob)
    send(fetch(job, tmp_path / "work").source, job)
    assert (tmp_path / "my out" / job.target).is_file()


def test_results_that_exist(album: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "b.png").write_bytes(b"done")
    (out / "a.png.png").touch()  # empty: not a result
    for source, target in ((album.as_uri(), out.as_uri()), (str(album), out.as_uri())):
        with pytest.raises(UsageError, match=r"b\.png exists: use --existing skip"):
            plan_batch(source, target, PNG)
        skipping = plan_batch(source, target, PNG, existing="skip")
        assert [job.target.name for job in skipping.skipped] == ["b.png"]
        assert len(skipping.jobs) == 2
        assert len(plan_batch(source, target, PNG, existing="overwrite").jobs) == 3


def test_what_is_refused(album: Path, tmp_path: Path) -> None:
    url = album.as_uri()
    with pytest.raises(UsageError, match="is inside"):
        plan_batch(url, f"{url}/out", PNG)
    (tmp_path / "in" / "in").mkdir()
    (tmp_path / "in" / "in" / "a.png").write_bytes((album / "a.png").read_bytes())
    with pytest.raises(UsageError, match=r"in/a\.png would replace an input"):
        plan_batch(url, tmp_path.as_uri(), PNG, recursive=True, existing="overwrite")
    with pytest.raises(UsageError, match="suffix"):
        plan_batch(url, f"{url}-out", Naming("png", "a/b"))
    with pytest.raises(UsageError, match="no images in"):
        plan_batch((tmp_path / "none").as_uri(), (tmp_path / "out").as_uri(), PNG)
    with pytest.raises(UsageError, match="nowhere"):
        plan_batch("nowhere://x/y", str(tmp_path), PNG)
    with pytest.raises(UnavailableError, match="s3"):
        plan_batch("s3://x/y", str(tmp_path), PNG)  # s3fs is not installed


def test_files_go_and_come_whole(album: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    job = RemoteJob(
        Path("deep/c.tif"),
        Path("deep/c.png"),
        source_root=album.as_uri(),
        target_root=(tmp_path / "out").as_uri(),
    )
    here = fetch(job, work)
    assert here.source.read_bytes() == (album / "deep/c.tif").read_bytes()
    for content in (b"first", b"second"):
        here.target.write_bytes(content)
        send(here.target, job)
        assert [p.read_bytes() for p in (tmp_path / "out").rglob("*.*")] == [content]
        assert not here.target.exists()
    (tmp_path / "out/deep/c.png").unlink()
    (tmp_path / "out/deep/c.png").mkdir()
    (tmp_path / "out/deep/c.png/x").touch()
    here.target.write_bytes(b"third")
    missing = RemoteJob(Path("none.png"), Path("n.png"), source_root=album.as_uri())
    with pytest.raises(InputError, match=r"none\.png cannot be read"):
        fetch(missing, work)
    (tmp_path / "file").touch()
    blocked = RemoteJob(job.source, job.target, target_root=(tmp_path / "file").as_uri())
    with pytest.raises(OutputError, match=r"c\.png cannot be written"):
        send(here.target, blocked)
    assert here.target.read_bytes() == b"third"
