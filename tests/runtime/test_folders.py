"""Listing a folder: which files are images, and what is said of the others."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from elir_deploy.errors import ImageError, UsageError
from elir_deploy.runtime.folders import Unread, images_of, list_images

BINARY = b"\0\1\2\3" * 20


@pytest.fixture
def album(tmp_path: Path) -> Path:
    for name in ("b.png", "a.JPG", "deep/c.webp", "deep/er/d.jp2", ".cache/e.png", ".f.png"):
        path = tmp_path / "album" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(BINARY)
    return tmp_path / "album"


def test_images_sorted_by_their_place(album: Path) -> None:
    listed = list_images(album)
    assert [place.as_posix() for place in listed.places] == [
        *("a.JPG", "b.png", "deep/c.webp", "deep/er/d.jp2")
    ]
    assert listed.files[2] == album / "deep" / "c.webp"
    assert not listed.unread
    flat = list_images(album, recursive=False)
    assert [place.name for place in flat.places] == ["a.JPG", "b.png"]
    assert flat.unread.folders == [album / "deep"]
    assert list_images(album, excluded=album / "deep").unread.folders == []


def test_links_to_folders_are_not_followed_and_mentioned(album: Path) -> None:
    (album / "again").symlink_to(album)
    listed = list_images(album)
    assert len(listed.places) == 4
    assert listed.unread.folders == [album / "again"]


def test_what_is_counted(album: Path) -> None:
    for name in ("x.psd", "deep/Y.PSD", "z.cr2", "logo.svg", "page.eps", "noname"):
        (album / name).write_bytes(BINARY)
    # Text by content or by name, films, archives, what a file manager leaves: no pictures.
    for name in ("README", "a.xmp", "labels.yaml"):
        (album / name).write_text("Größe" * 103)  # the 512th byte is within a letter
    for name in ("a.mov", "all.zip", "all.tar.gz", "Thumbs.db", "sums.json"):
        (album / name).write_bytes(BINARY)
    unread = list_images(album).unread
    assert {suffix: count for suffix, (count, _) in unread.files.items()} == {
        "": 1,
        ".cr2": 1,
        ".eps": 1,
        ".psd": 2,
        ".svg": 1,
    }
    assert str(unread) == (
        "files of unsupported formats: "
        f"1 without a suffix (such as {album}/noname), 1 .cr2 (such as {album}/z.cr2), "
        f"1 .eps (such as {album}/page.eps), 2 .psd (such as {album}/x.psd), "
        f"1 .svg (such as {album}/logo.svg)"
    )


def test_a_pipe_in_a_folder_is_not_waited_for(album: Path) -> None:
    for name in ("p.png", "pipe"):
        os.mkfifo(album / name)
    listed = list_images(album)
    assert len(listed.places) == 4
    assert listed.unread.files == {".png": (1, album / "p.png")}


def test_a_link_to_nothing_is_an_image_that_will_fail(album: Path) -> None:
    (album / "gone.png").symlink_to("nowhere")
    assert album / "gone.png" in list_images(album).files


def test_two_folders_together(album: Path, tmp_path: Path) -> None:
    both = Unread({".tga": (1, tmp_path / "a.tga")}, [tmp_path])
    both.add(Unread({".tga": (2, tmp_path / "b.tga"), ".ico": (1, tmp_path / "c.ico")}))
    assert both.files == {".tga": (3, tmp_path / "a.tga"), ".ico": (1, tmp_path / "c.ico")}
    assert str(both).endswith(f"; 1 folder (such as {tmp_path})")


def test_folders_that_cannot_be_used(album: Path, tmp_path: Path, monkeypatch) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        list_images(tmp_path / "none")
    with pytest.raises(UsageError, match="is a file, expected a folder"):
        list_images(album / "b.png")
    (tmp_path / "phone").mkdir()
    with pytest.raises(UsageError, match=r"phone: no images in it$"):
        images_of(tmp_path / "phone")
    (tmp_path / "phone" / "x.psd").write_bytes(BINARY)
    with pytest.raises(UsageError, match=r"no images in it; .* 1 \.psd"):
        images_of(tmp_path / "phone")

    def refuse(self: Path) -> None:
        raise PermissionError(13, "Permission denied")

    listing = Path.iterdir

    def refuse_below(self: Path):
        return refuse(self) if self.name == "deep" else listing(self)

    monkeypatch.setattr(Path, "iterdir", refuse_below)
    listed = list_images(album)
    assert listed.places
    assert listed.unread.closed == [(album / "deep", "Permission denied")]
    assert "1 folder that cannot be listed (such as" in str(listed.unread)
    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(ImageError, match="album cannot be listed: Permission denied"):
        list_images(album)
