"""Listing the images of a folder, and the other files in it, so that none is skipped silently."""

from __future__ import annotations

import codecs
import functools
import mimetypes
import os
from dataclasses import dataclass, field
from pathlib import Path

from elir_deploy.errors import ImageError, UsageError
from elir_deploy.runtime.images import IMAGE_SUFFIXES

__all__ = ["FolderImages", "Unread", "images_of", "is_picture", "list_images"]

#: MIME types of pictures that do not begin with image/.
_PICTURES = ("application/postscript",)
#: Files that file managers write.
_COMPANIONS = ("Thumbs.db",)
#: Bytes that are read to recognise text files.
_HEAD = 512


@dataclass
class Unread:
    """Files and folders that were not read. True if there are any; ``str`` describes them.

    Attributes:
        files: number of files and an example, by lower-case suffix. Files that are not pictures
            (text, films, archives) and hidden files are not counted.
        folders: folders that were not searched.
        closed: folders that cannot be listed, with the reason.
        unnamed: keys in object stores that are not the path of any file.
    """

    files: dict[str, tuple[int, Path]] = field(default_factory=dict)
    folders: list[Path] = field(default_factory=list)
    closed: list[tuple[Path, str]] = field(default_factory=list)
    unnamed: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.files or self.folders or self.closed or self.unnamed)

    def __str__(self) -> str:
        parts = []
        if self.files:
            kinds = [
                f"{count} {suffix or 'without a suffix'} (such as {example})"
                for suffix, (count, example) in sorted(self.files.items())
            ]
            parts.append(f"files of unsupported formats: {', '.join(kinds)}")
        if self.folders:
            count = len(self.folders)
            parts.append(f"{count} folder{'s' * (count > 1)} (such as {self.folders[0]})")
        if self.closed:
            count, (path, reason) = len(self.closed), self.closed[0]
            what = f"{count} folder{'s' * (count > 1)}"
            parts.append(f"{what} that cannot be listed (such as {path}: {reason})")
        if self.unnamed:
            count = len(self.unnamed)
            parts.append(
                f"{count} key{'s' * (count > 1)} (such as {self.unnamed[0]}) whose results would "
                "have no name: between slashes, one has nothing, . or ..; rename them"
            )
        return "; ".join(parts)

    def note(self, path: Path) -> None:
        """Count a file that is not read, unless it is clearly not a picture."""
        suffix = path.suffix.lower()
        picture = is_picture(suffix)
        if picture or (picture is None and path.name not in _COMPANIONS and not _is_text(path)):
            count, example = self.files.get(suffix, (0, path))
            self.files[suffix] = count + 1, example

    def add(self, other: Unread) -> None:
        """Add the counts of another folder."""
        for suffix, (count, example) in other.files.items():
            previous, first = self.files.get(suffix, (0, example))
            self.files[suffix] = previous + count, first
        self.folders += other.folders
        self.closed += other.closed
        self.unnamed += other.unnamed


@functools.cache
def is_picture(suffix: str) -> bool | None:
    """Whether files with this suffix are pictures; None: the suffix is unknown."""
    # Python's built-in table, without this machine's additions.
    kind, packed = mimetypes.MimeTypes().guess_type(f"x{suffix}")
    if kind is None:
        return None if packed is None else False
    return kind.startswith("image/") or kind in _PICTURES


def _is_text(path: Path) -> bool:
    if not os.path.isfile(path):  # a pipe, which might block
        return True
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError:
        return False
    if b"\0" in head:
        return False
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return True


@dataclass(frozen=True)
class FolderImages:
    """The contents of a folder.

    Attributes:
        folder: the folder.
        places: relative paths of the images, sorted.
        unread: other files and folders.
    """

    folder: Path
    places: tuple[Path, ...]
    unread: Unread

    @property
    def files(self) -> list[Path]:
        """Paths of the images."""
        return [self.folder / place for place in self.places]


def list_images(
    folder: Path, *, recursive: bool = True, excluded: Path | None = None
) -> FolderImages:
    """List the images of a folder by name; hidden files are ignored.

    Args:
        folder: the folder.
        recursive: include subfolders, except for links, which may form loops.
        excluded: a subfolder to ignore.

    Raises:
        UsageError: there is no such folder.
        ImageError: the folder cannot be listed; a subfolder is ``closed``.
    """
    if not folder.is_dir():
        what = "is a file, expected a folder of images" if folder.exists() else "does not exist"
        raise UsageError(f"{folder} {what}")
    places: list[Path] = []
    unread = Unread()
    waiting = [folder]
    skipped = excluded if excluded is not None and excluded.is_dir() else None
    while waiting:
        inside = waiting.pop(0)
        try:
            entries = sorted(entry for entry in inside.iterdir() if not entry.name.startswith("."))
        except OSError as error:
            if inside == folder:
                raise ImageError(f"{inside} cannot be listed: {error.strerror}") from None
            unread.closed.append((inside, error.strerror or str(error)))
            continue
        for entry in entries:
            # Path's methods raise an error in a folder that may be listed but not entered.
            if os.path.isdir(entry):
                if skipped is not None and entry.samefile(skipped):
                    continue
                enter = recursive and not entry.is_symlink()
                (waiting if enter else unread.folders).append(entry)
            # Not pipes or devices, but broken links, which fail when they are read.
            elif entry.suffix.lower() in IMAGE_SUFFIXES and (
                os.path.isfile(entry) or not os.path.exists(entry)
            ):
                places.append(entry.relative_to(folder))
            else:
                unread.note(entry)
    return FolderImages(folder, tuple(sorted(places)), unread)


def images_of(folder: Path) -> FolderImages:
    """List the images of a folder and its subfolders, of which there must be at least one.

    Raises:
        UsageError: there is no such folder, or no image in it.
        ImageError: it cannot be listed.
    """
    listed = list_images(folder)
    if not listed.places:
        raise UsageError(f"{folder}: no images in it{_remark(listed.unread)}")
    return listed


def _remark(unread: Unread) -> str:
    return f"; {unread}" if unread else ""
