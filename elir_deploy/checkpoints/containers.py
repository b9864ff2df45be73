"""File formats: torch's zip files, torch's older files, safetensors.

All are opened as a tree of names and lazy tensors, so that an optimizer's state beside the weights
costs nothing.
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
    "is_complete",
    "open_container",
    "signature_error",
]

#: Dtypes of torch storages. Others (complex, quantised) are not supported.
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
#: A released file's pickle has 0.1 MB, a trainer's with its optimizer and history a few.
_MAX_PICKLE = 16 * 2**20
#: Number of bytes at the start of a file that identify its format.
HEAD = 64
_ZIP_MAGIC = b"PK\x03\x04"
#: First bytes of torch.save before its zip format: a pickled magic number.
_LEGACY_MAGIC = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."
#: Files commonly mistaken for checkpoints, by their first bytes.
_MISTAKEN = (
    (b"version https://git-lfs", "a Git LFS pointer: run 'git lfs pull'"),
    (b"<", "a web page from a failed download: download the file again"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"\x89PNG", "a PNG image"),
    (b"\x80", "a pickle that torch.save did not write: save it with torch.save"),
)
#: Errors that ``zipfile`` raises for damaged archives.
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
    """A tensor that is read on demand.

    Attributes:
        shape: shape in the file, already checked against the size of the data.
        read: returns a copy of the tensor, in the file's dtype. Raises CheckpointError.
        nbytes: size of the copy, in formats whose tensors may share memory; otherwise 0.
    """

    shape: tuple[int, ...]
    read: Callable[[], Tensor]
    nbytes: int = 0


@dataclass(frozen=True)
class Container:
    """An open weights file.

    Attributes:
        entries: :class:`LazyTensor`, dictionaries of them, and other values, by name.
        metadata: text entries of a safetensors file.
        size: size of the file in bytes.
    """

    entries: dict[str, Any]
    metadata: dict[str, str]
    size: int


@contextmanager
def open_container(path: Path) -> Iterator[Container]:
    """Open a weights file of any format; its tensors can be read inside the block.

    Raises:
        CheckpointError: the file does not exist, cannot be read or is not a weights file. The
            message does not name the file.
    """
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise CheckpointError("is a folder, expected a weights file")
        if not stat.S_ISREG(mode):
            raise CheckpointError("is not a regular file")
        file = path.open("rb")
    except FileNotFoundError as error:
        raise CheckpointError("no such file") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot be read: {first_line(error)}") from error
    with file:
        head = file.read(HEAD)
        size = os.fstat(file.fileno()).st_size
        file.seek(0)
        reason = signature_error(head, size)
        if reason:
            raise CheckpointError(f"not a weights file: {reason}")
        if head.startswith(_ZIP_MAGIC):
            yield _zip_container(file, size)
        elif head.startswith(_LEGACY_MAGIC):
            yield _legacy_container(file, size)
        else:
            with _safetensors_container(path, size) as container:
                yield container


def signature_error(head: bytes, size: int) -> str | None:
    """Why a file cannot be weights, by its first ``HEAD`` bytes and its size; None if it can."""
    if not size:
        return "it is empty"
    if head.startswith((_ZIP_MAGIC, _LEGACY_MAGIC)):
        return None
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= size:
        return None  # safetensors: the length of its JSON header, then the header
    for magic, name in _MISTAKEN:
        if head.lstrip().startswith(magic):
            return f"it is {name}"
    return "expected a complete file of torch.save or safetensors"


def is_complete(path: Path) -> bool:
    """Whether a file is complete, as far as can be seen without reading all of it.

    Zip archives (torch.save) have their directory at the end. Other files count as complete.
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
    """A file of torch.save: a zip archive of a pickle and raw storages."""
    try:
        archive = _TorchArchive(zipfile.ZipFile(file), size)
        tree = read_pickle(archive.member("data.pkl", _MAX_PICKLE))
    except _ZIP_ERRORS as error:
        raise CheckpointError(f"the archive is damaged or truncated ({error})") from error
    if not isinstance(tree, dict):
        raise CheckpointError("is not a dictionary of tensors")
    return Container(_map_values(tree, archive.tensor), {}, size)


def _map_values(tree: dict[str, Any], function: Callable[[Any], Any]) -> dict[str, Any]:
    """Apply ``function`` to all values but dictionaries, three levels deep.

    Shared dictionaries stay shared: copied, a few kilobytes can become a billion entries.
    """
    results: dict[tuple[int, int], dict[str, Any]] = {}

    def level(tree: dict[str, Any], depth: int) -> dict[str, Any]:
        key_of_tree = id(tree), depth
        if key_of_tree not in results:
            results[key_of_tree] = {
                key: level(value, depth + 1)
                if isinstance(value, dict) and depth < 2
                else function(value)
                for key, value in tree.items()
            }
        return results[key_of_tree]

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
        # torch does not compress.
        if sum(member.file_size for member in archive.infolist()) > size:
            raise CheckpointError("the archive's members are larger than the file")
        self.swap = False
        if f"{self.root}byteorder" in archive.namelist():
            order = self.member("byteorder", 16).decode("ascii", "replace")
            if order not in ("little", "big"):
                raise CheckpointError(f"its byte order is {order!r}, expected little or big")
            self.swap = order != sys.byteorder
        self.last: tuple[str, bytearray] = ("", bytearray())

    def member(self, name: str, limit: int) -> bytes:
        """All bytes of a member.

        Raises:
            CheckpointError: it is larger than ``limit`` or compressed.
            One of ``_ZIP_ERRORS``: it is missing or damaged.
        """
        info = self.archive.getinfo(self.root + name)
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
            raise CheckpointError(f"member {name!r} is compressed, which torch.save never does")
        if info.file_size > limit:
            raise CheckpointError(f"{name} has {info.file_size} bytes, expected at most {limit}")
        return self.archive.read(info)

    def storage(self, reference: StorageReference, itemsize: int) -> bytearray:
        """The bytes of a storage in this machine's order; the last one is cached."""
        if self.last[0] != reference.key:
            try:
                raw = bytearray(self.member(f"data/{reference.key}", sys.maxsize))
            except _ZIP_ERRORS as error:
                raise CheckpointError(f"damaged or truncated ({error})") from error
            if self.swap:
                raw = bytearray(np.frombuffer(raw, f"u{itemsize}").byteswap().tobytes())
            self.last = reference.key, raw
        return self.last[1]

    def tensor(self, value: Any) -> Any:
        """A lazy tensor for a reference; other values unchanged."""
        if not isinstance(value, TensorReference):
            return value
        dtype = _STORAGE_DTYPES.get(value.storage.kind)
        if dtype is None or not self.fits(value, dtype.itemsize):
            return _unreadable(value.shape, "is not inside its storage")

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
        """Whether the view is inside its storage and not larger."""
        try:
            nbytes = self.archive.getinfo(f"{self.root}data/{value.storage.key}").file_size
        except KeyError:
            return False
        shape, stride = value.shape, value.stride
        if len(shape) != len(stride):
            return False
        if nbytes != value.storage.numel * itemsize or math.prod(shape) > value.storage.numel:
            return False
        last = value.offset + sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
        return not math.prod(shape) or last < value.storage.numel


def _unreadable(shape: tuple[int, ...], why: str) -> LazyTensor:
    """A tensor that raises an error when it is read."""

    def read() -> Tensor:
        raise CheckpointError(why)

    return LazyTensor(shape, read)


def _legacy_container(file: BinaryIO, size: int) -> Container:
    """A file of torch.save before torch 1.6, left to torch's own restricted reader."""
    try:
        tree = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            "written by torch before 1.6, and damaged or with objects other than tensors: "
            "if you trust it, load it with torch.load and torch.save its state dict"
        ) from error
    except Exception as error:  # torch raises anything for damaged files
        raise CheckpointError(f"damaged or truncated ({first_line(error)})") from error
    if not isinstance(tree, dict):
        raise CheckpointError("is not a dictionary of tensors")
    return Container(_map_values(tree, _lazy), {}, size)


def _lazy(value: Any) -> Any:
    """A lazy tensor for a tensor; other values unchanged."""
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
        raise CheckpointError(f"damaged or truncated ({first_line(error)})") from error

    def lazy(name: str) -> LazyTensor:
        def read() -> Tensor:
            try:
                tensor: Tensor = file.get_tensor(name)
            except (SafetensorError, ValueError, TypeError, KeyError, AttributeError) as error:
                raise CheckpointError(first_line(error)) from error
            return tensor.clone()  # the file is memory-mapped and may change

        return LazyTensor(tuple(file.get_slice(name).get_shape()), read)

    with file:
        entries = {name: lazy(name) for name in file.keys()}  # noqa: SIM118  # not a mapping
        yield Container(entries, dict(file.metadata() or {}), size)


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or the name of its class."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return next(iter(str(error).splitlines()), "") or type(error).__name__
