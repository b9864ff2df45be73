"""What holds the tensors: torch's zip files, torch's older files, safetensors.

All are opened to the same thing, a tree of names and tensors that are read when asked for, so that
an optimizer's state beside the weights costs nothing.
"""

from __future__ import annotations

import math
import os
import pickle
import stat
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from elir_deploy.checkpoints.pickles import StorageReference, TensorReference, read_pickle
from elir_deploy.errors import CheckpointError

__all__ = [
    "HEAD",
    "Container",
    "LazyTensor",
    "first_line",
    "not_weights",
    "opened_container",
    "whole_archive",
]

#: What a torch storage holds. Others (complex, quantised) are not found and so not read.
_STORAGE_DTYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
#: A released file's pickle has 0.1 MB; a trainer's with its optimizer and history a few.
_LARGEST_PICKLE = 16 * 2**20
#: How much of a file's beginning tells its format.
HEAD = 64
_ZIP_MAGIC = b"PK\x03\x04"
#: How torch.save began before its zip format: a pickled magic number.
_LEGACY_MAGIC = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."
#: What people take for checkpoints, by the first bytes.
_IMPOSTORS = (
    (b"version https://git-lfs", "a Git LFS pointer: run 'git lfs pull'"),
    (b"<", "a web page, as a failed download leaves: download the file again"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"\x89PNG", "a PNG image"),
    (b"\x80", "a pickle that torch.save did not write: save it with torch.save"),
)
#: What a damaged archive makes ``zipfile`` raise.
_ZIP_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    KeyError,
    NotImplementedError,
    OSError,
    OverflowError,
    RuntimeError,
    ValueError,
)


@dataclass(frozen=True)
class LazyTensor:
    """A tensor not read yet.

    Attributes:
        shape: as the file states it, already checked against the bytes that are there.
        read: gives the tensor, in memory of its own, in the file's dtype. Raises CheckpointError.
        nbytes: of that memory, in formats whose tensors may share what they hold in the file.
    """

    shape: tuple[int, ...]
    read: Callable[[], Tensor]
    nbytes: int = 0


@dataclass(frozen=True)
class Container:
    """An open weights file.

    Attributes:
        entries: names to :class:`LazyTensor`, to dictionaries of the same, or to anything else.
        metadata: the text entries of a safetensors file.
        size: of the file, in bytes.
    """

    entries: dict[str, Any]
    metadata: dict[str, str]
    size: int


@contextmanager
def opened_container(path: Path) -> Iterator[Container]:
    """Open a weights file of any format; its tensors can be read while the block lasts.

    Raises:
        CheckpointError: there is no such file, it cannot be read, or it is no weights file. The
            message does not name the file.
    """
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise CheckpointError("this is a folder; wanted a weights file")
        if not stat.S_ISREG(mode):
            raise CheckpointError("this is not a regular file")
        file = path.open("rb")
    except FileNotFoundError as error:
        raise CheckpointError("there is no such file") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot be read: {first_line(error)}") from error
    with file:
        head = file.read(HEAD)
        size = os.fstat(file.fileno()).st_size
        file.seek(0)
        reason = not_weights(head, size)
        if reason:
            raise CheckpointError(f"not a weights file: {reason}")
        if head.startswith(_ZIP_MAGIC):
            yield _zip_container(file, size)
        elif head.startswith(_LEGACY_MAGIC):
            yield _legacy_container(file, size)
        else:
            with _safetensors_container(path, size) as container:
                yield container


def not_weights(head: bytes, size: int) -> str | None:
    """Why a file is no weights file, from its first ``HEAD`` bytes and its size; None if it is."""
    if not size:
        return "it is empty"
    if head.startswith((_ZIP_MAGIC, _LEGACY_MAGIC)):
        return None
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= size:
        return None  # safetensors: the length of its JSON header, then the header
    for magic, name in _IMPOSTORS:
        if head.lstrip().startswith(magic):
            return f"it looks like {name}"
    return "wanted a file of torch.save or a .safetensors file, whole"


def whole_archive(path: Path) -> bool:
    """Whether a file has its end, as far as its format tells without reading all of it.

    A zip archive, as torch.save writes it, lists its members there. Other files count as whole.
    """
    with path.open("rb") as file:
        if not file.read(HEAD).startswith(_ZIP_MAGIC):
            return True
        try:
            zipfile.ZipFile(file).close()
        except _ZIP_ERRORS:
            return False
    return True


def _zip_container(file: BinaryIO, size: int) -> Container:
    """A file of torch.save: a zip archive of a pickle and one raw storage a tensor."""
    try:
        archive = _TorchArchive(zipfile.ZipFile(file), size)
        tree = read_pickle(archive.member("data.pkl", _LARGEST_PICKLE))
    except _ZIP_ERRORS as error:
        raise CheckpointError(f"the archive is damaged or cut short ({error})") from error
    if not isinstance(tree, dict):
        raise CheckpointError("holds no dictionary of tensors")
    return Container(_with_tensors(tree, archive.tensor), {}, size)


def _with_tensors(tree: dict[str, Any], make: Callable[[Any], Any]) -> dict[str, Any]:
    """``tree`` with ``make`` applied to what is no dictionary, three levels deep.

    Dictionaries that ``tree`` shares stay shared: spelt out, a few kilobytes can have a billion
    entries.
    """
    made: dict[tuple[int, int], dict[str, Any]] = {}

    def level(tree: dict[str, Any], depth: int) -> dict[str, Any]:
        place = id(tree), depth
        if place not in made:
            made[place] = {
                key: level(value, depth + 1)
                if isinstance(value, dict) and depth < 2
                else make(value)
                for key, value in tree.items()
            }
        return made[place]

    return level(tree, 0)


class _TorchArchive:
    """The members of a torch zip file, each checked by its CRC when read."""

    def __init__(self, archive: zipfile.ZipFile, size: int) -> None:
        self.archive = archive
        pickles = [name for name in archive.namelist() if name.endswith("data.pkl")]
        roots = {name[: -len("data.pkl")] for name in pickles if name.count("/") == 1}
        if len(roots) != 1:
            raise CheckpointError("a zip archive that torch.save did not write")
        self.root = roots.pop()
        # torch stores without compression, one member after another.
        if sum(member.file_size for member in archive.infolist()) > size:
            raise CheckpointError("an archive whose members are larger than the file")
        self.swap = False
        if f"{self.root}byteorder" in archive.namelist():
            order = self.member("byteorder", 16).decode("ascii", "replace")
            if order not in ("little", "big"):
                raise CheckpointError(f"its byte order is {order!r}, wanted little or big")
            self.swap = order != sys.byteorder
        self.last: tuple[str, bytearray] = ("", bytearray())

    def member(self, name: str, largest: int) -> bytes:
        """All bytes of a member.

        Raises:
            CheckpointError: it is larger than ``largest`` or compressed.
            One of ``_ZIP_ERRORS``: it is missing or damaged.
        """
        info = self.archive.getinfo(self.root + name)
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
            raise CheckpointError(f"member {name!r} is compressed, which torch.save never does")
        if info.file_size > largest:
            raise CheckpointError(f"{name} has {info.file_size} bytes, wanted at most {largest}")
        return self.archive.read(info)

    def storage(self, reference: StorageReference, itemsize: int) -> bytearray:
        """The bytes of a storage in this machine's order; the last one is kept for its siblings."""
        if self.last[0] != reference.key:
            try:
                raw = bytearray(self.member(f"data/{reference.key}", sys.maxsize))
            except _ZIP_ERRORS as error:
                raise CheckpointError(f"damaged or cut short ({error})") from error
            if self.swap:
                raw = bytearray(np.frombuffer(raw, f"u{itemsize}").byteswap().tobytes())
            self.last = reference.key, raw
        return self.last[1]

    def tensor(self, value: Any) -> Any:
        """A reference to a lazy tensor; anything else as it is."""
        if not isinstance(value, TensorReference):
            return value
        dtype = _STORAGE_DTYPES.get(value.storage.kind)
        if dtype is None or not self.fits(value, dtype.itemsize):
            return _unreadable(value.shape, "does not lie inside its storage")

        def read() -> Tensor:
            raw = self.storage(value.storage, dtype.itemsize)
            if not math.prod(value.shape):
                return torch.empty(value.shape, dtype=dtype)
            flat = torch.frombuffer(raw, dtype=dtype)
            return flat.as_strided(value.shape, value.stride, value.offset).clone(
                memory_format=torch.contiguous_format
            )

        return LazyTensor(value.shape, read, math.prod(value.shape) * dtype.itemsize)

    def fits(self, value: TensorReference, itemsize: int) -> bool:
        """Whether the view lies inside its storage and is no larger than it."""
        try:
            held = self.archive.getinfo(f"{self.root}data/{value.storage.key}").file_size
        except KeyError:
            return False
        shape, stride = value.shape, value.stride
        if len(shape) != len(stride):
            return False
        if held != value.storage.numel * itemsize or math.prod(shape) > value.storage.numel:
            return False
        last = value.offset + sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
        return not math.prod(shape) or last < value.storage.numel


def _unreadable(shape: tuple[int, ...], why: str) -> LazyTensor:
    """A tensor that is an error only if it is wanted."""

    def read() -> Tensor:
        raise CheckpointError(why)

    return LazyTensor(shape, read)


def _legacy_container(file: BinaryIO, size: int) -> Container:
    """A file of torch.save before torch 1.6, left to torch's own restricted reader."""
    try:
        tree = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            "written by a torch older than 1.6, and damaged or with more than tensors in it: "
            "load it with torch.load where you trust it, and torch.save its state dict"
        ) from error
    except Exception as error:  # torch's parser of damaged bytes raises anything
        raise CheckpointError(f"damaged or cut short ({first_line(error)})") from error
    if not isinstance(tree, dict):
        raise CheckpointError("holds no dictionary of tensors")
    return Container(_with_tensors(tree, _lazy), {}, size)


def _lazy(value: Any) -> Any:
    """A tensor in memory as one still to be read; anything else as it is."""
    if not isinstance(value, Tensor):
        return value
    tensor = value.detach()
    return LazyTensor(
        tuple(tensor.shape),
        lambda: tensor.contiguous().clone(),
        tensor.numel() * tensor.element_size(),
    )


@contextmanager
def _safetensors_container(path: Path, size: int) -> Iterator[Container]:
    from safetensors import SafetensorError, safe_open

    try:
        file: Any = safe_open(path, framework="pt")
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"damaged or cut short ({first_line(error)})") from error

    def lazy(name: str) -> LazyTensor:
        def read() -> Tensor:
            try:
                tensor: Tensor = file.get_tensor(name)
            except (SafetensorError, ValueError, TypeError, KeyError, AttributeError) as error:
                raise CheckpointError(first_line(error)) from error
            return tensor.clone()  # the file itself is mapped, and may change

        return LazyTensor(tuple(file.get_slice(name).get_shape()), read)

    with file:
        entries = {name: lazy(name) for name in file.keys()}  # noqa: SIM118  # it is no mapping
        yield Container(entries, dict(file.metadata() or {}), size)


def first_line(error: BaseException) -> str:
    """An error's message without what follows its first line; its class where it has none."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return next(iter(str(error).splitlines()), "") or type(error).__name__
