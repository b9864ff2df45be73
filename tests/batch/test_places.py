"""URLs of a file system that is here, against the paths of the same files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import pytest
from PIL import Image

from elir_deploy.batch.places import LocalJob, RemoteJob, plan_batch
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
    here = LocalJob.of(job, tmp_path)
    here.fetch()
    here.source.rename(here.target)
    here.send()
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
    job = RemoteJob(
        Path("deep/c.tif"),
        Path("deep/c.png"),
        source_root=album.as_uri(),
        target_root=(tmp_path / "out").as_uri(),
    )
    here = LocalJob.of(job, tmp_path)
    here.fetch()
    assert here.source.read_bytes() == (album / "deep/c.tif").read_bytes()
    for content in (b"first", b"second"):
        here.target.write_bytes(content)
        here.send()
        assert [p.read_bytes() for p in (tmp_path / "out").rglob("*.*")] == [content]
        assert not here.target.exists()
    (tmp_path / "out/deep/c.png").unlink()
    (tmp_path / "out/deep/c.png").mkdir()
    (tmp_path / "out/deep/c.png/x").touch()
    missing = RemoteJob(Path("none.png"), Path("n.png"), source_root=album.as_uri())
    with pytest.raises(InputError, match=r"none\.png cannot be read"):
        LocalJob.of(missing, tmp_path).fetch()
    (tmp_path / "file").touch()
    blocked = replace(here, remote=replace(job, target_root=(tmp_path / "file").as_uri()))
    blocked.target.write_bytes(b"third")
    with pytest.raises(OutputError, match=r"c\.png cannot be written"):
        blocked.send()
    assert blocked.target.read_bytes() == b"third"


def test_odd_keys(tmp_path: Path) -> None:
    """Object stores have keys with the signs of URLs, and such that are folders of others."""
    source, target = tmp_path.as_uri(), f"{tmp_path.as_uri()}-out"
    for key in ("a::b.png", "c#d?.png", "x%20y.png"):
        (tmp_path / key).write_text(key)
        job = RemoteJob(Path(key), Path(key), source_root=source, target_root=target)
        here = LocalJob.of(job, tmp_path)
        here.fetch()
        here.target.write_text(here.source.read_text())
        here.send()
        assert Path(f"{tmp_path}-out/{key}").read_text() == key
    for key in ("a.png", "a.png/b.png"):
        LocalJob.of(replace(job, source=Path(key)), tmp_path).source.touch()


def test_keys_that_no_path_can_have(tmp_path: Path) -> None:
    odd = ["/top.png", "a//b.png", "a/../c.png", "a/./d.png"]

    class Store(fsspec.AbstractFileSystem):  # type: ignore[misc]
        protocol = "store"

        def ls(self, path: str, detail: bool = True, **options: Any) -> Any:
            return []

        def find(self, path: str, **options: Any) -> Any:
            keys = [*odd, "a/b.png", "a/.hidden.png", "a//notes.txt", "folder/"]
            return {f"{path}/{key}": {"size": 1} for key in keys} if path == "album" else {}

    fsspec.register_implementation("store", Store, clobber=True)
    plan = plan_batch("store://album", str(tmp_path), PNG, recursive=True)
    assert [job.input_name for job in plan.jobs] == ["store://album/a/b.png"]
    assert plan.unread.unnamed == sorted(odd)
    assert "4 keys (such as /top.png) whose results would have no name" in str(plan.unread)


def test_what_cannot_be_listed_says_why(tmp_path: Path) -> None:
    class Unreachable(fsspec.AbstractFileSystem):  # type: ignore[misc]
        protocol = "unreachable"

        def ls(self, path: str, detail: bool = True, **options: Any) -> Any:
            raise OSError("no route to host")

    fsspec.register_implementation("unreachable", Unreachable, clobber=True)
    with pytest.raises(InputError, match="unreachable://x cannot be listed: no route to host"):
        plan_batch("unreachable://x", str(tmp_path), PNG)
    with pytest.raises(UsageError, match="memory of this process"):
        plan_batch("memory://x", str(tmp_path), PNG)
