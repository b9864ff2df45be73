"""The images of a folder, and what else is in it: nothing is left out without a word."""

from __future__ import annotations

import codecs
import functools
import mimetypes
from dataclasses import dataclass, field
from pathlib import Path

from elir_deploy.errors import ImageError, UsageError
from elir_deploy.runtime.images import IMAGE_SUFFIXES

__all__ = ["FolderImages", "Unread", "images_of", "list_images"]

#: Pictures by type, though not by its name.
_PICTURES = ("application/postscript",)
#: What file managers leave beside pictures.
_COMPANIONS = ("Thumbs.db",)
#: Bytes that tell text from what else an unknown file may be.
_HEAD = 512


@dataclass
class Unread:
    """What was not read of folders; true where there is anything, and a text for the user.

    Attributes:
        files: suffix in lower case to how many files of it there are, and one of them. What is
            plainly no picture (text, films, archives) is not counted, nor are hidden files.
        folders: that were not looked into.
    """

    files: dict[str, tuple[int, Path]] = field(default_factory=dict)
    folders: list[Path] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.files or self.folders)

    def __str__(self) -> str:
        parts = []
        if self.files:
            kinds = [
                f"{count} {suffix or 'without a suffix'} (such as {example})"
                for suffix, (count, example) in sorted(self.files.items())
            ]
            parts.append(f"files of formats that are not read here: {', '.join(kinds)}")
        if self.folders:
            count = len(self.folders)
            parts.append(f"{count} folder{'s' * (count > 1)} (such as {self.folders[0]})")
        return "; ".join(parts)

    def note(self, path: Path) -> None:
        """Count a file that is not read, unless it is plainly no picture."""
        suffix = path.suffix.lower()
        picture = _is_picture(suffix)
        if picture or (picture is None and path.name not in _COMPANIONS and not _is_text(path)):
            count, example = self.files.get(suffix, (0, path))
            self.files[suffix] = count + 1, example

    def add(self, other: Unread) -> None:
        """Count what another folder holds too."""
        for suffix, (count, example) in other.files.items():
            own, first = self.files.get(suffix, (0, example))
            self.files[suffix] = own + count, first
        self.folders += other.folders


@functools.cache
def _is_picture(suffix: str) -> bool | None:
    """Whether files of that suffix are; None: the suffix is unknown."""
    # Python's own table, whatever this machine adds to it.
    kind, packed = mimetypes.MimeTypes().guess_type(f"x{suffix}")
    if kind is None:
        return None if packed is None else False
    return kind.startswith("image/") or kind in _PICTURES


def _is_text(path: Path) -> bool:
    if not path.is_file():  # a pipe, which nobody may ever write to
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
    """What is in a folder.

    Attributes:
        folder: the folder.
        places: of the images below it, sorted.
        unread: the rest.
    """

    folder: Path
    places: tuple[Path, ...]
    unread: Unread

    @property
    def files(self) -> list[Path]:
        """The images."""
        return [self.folder / place for place in self.places]


def list_images(
    folder: Path, *, recursive: bool = True, excluded: Path | None = None
) -> FolderImages:
    """List a folder; no file is opened. What is hidden is passed over.

    Args:
        folder: to look into.
        recursive: look into the folders inside it too, but not into links to folders, which can
            lead in circles.
        excluded: a folder inside that is passed over.

    Raises:
        UsageError: there is no such folder.
        ImageError: it, or a folder inside it, cannot be listed.
    """
    if not folder.is_dir():
        what = "is a file, wanted a folder of images" if folder.exists() else "is no folder"
        raise UsageError(f"{folder} {what}")
    found: list[Path] = []
    unread = Unread()
    waiting = [folder]
    skipped = excluded if excluded is not None and excluded.is_dir() else None
    while waiting:
        inside = waiting.pop(0)
        try:
            entries = sorted(entry for entry in inside.iterdir() if not entry.name.startswith("."))
        except OSError as error:
            raise ImageError(f"{inside} cannot be listed: {error.strerror}") from None
        for entry in entries:
            if entry.is_dir():
                if skipped is not None and entry.samefile(skipped):
                    continue
                enter = recursive and not entry.is_symlink()
                (waiting if enter else unread.folders).append(entry)
            # A pipe or a device is none; a link to nothing is, and reading says so.
            elif entry.suffix.lower() in IMAGE_SUFFIXES and (entry.is_file() or not entry.exists()):
                found.append(entry.relative_to(folder))
            else:
                unread.note(entry)
    return FolderImages(folder, tuple(sorted(found)), unread)


def images_of(folder: Path) -> FolderImages:
    """The images of a folder and of the folders in it, of which there is one at least.

    Raises:
        UsageError: there is no such folder, or no image in it.
        ImageError: it cannot be listed.
    """
    listed = list_images(folder)
    if not listed.places:
        raise UsageError(f"{folder}: no images in it{_beside(listed.unread)}")
    return listed


def _beside(unread: Unread) -> str:
    return f"; {unread}" if unread else ""
