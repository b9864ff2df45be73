"""Reading a bundle: the folder of an exported model, described by ``bundle.json``.

Nothing in the folder is trusted. The manifest must be strict JSON of limited size, valid by the
schema and consistent. Files must be regular, inside the folder and of the stated size. Before a
file is used, its SHA-256 is checked, and a graph must be one that ``elir-export`` could have
written, with the sizes in the manifest. Hashes detect damage, not tampering: an engine is
executable code, and only as trustworthy as its author.

Layout of the folder::

    bundle.json                     the manifest
    STAGE.PRECISION.onnx            graphs, and engines beside them
    reference/NAME.input.png        network inputs of the first shape's (padded) size, 8-bit RGB
    reference/NAME.output.png       what the float32 PyTorch model makes of them
"""

from __future__ import annotations

import hashlib
import stat
import struct
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from elir_deploy import __version__
from elir_deploy.errors import BundleError
from elir_deploy.runtime.manifest import Artifact, File, Manifest, Shape, Stage
from elir_deploy.runtime.manifest_file import (
    MANIFEST_NAME,
    MAX_MANIFEST_BYTES,
    decode_manifest,
)
from elir_deploy.runtime.onnx_check import check_onnx_file

__all__ = ["Bundle", "file_sha256"]


class Bundle:
    """A bundle on disk with a valid manifest. Open one with :meth:`open`.

    Attributes:
        path: the folder.
        manifest: ``bundle.json``.
        stages: the chain of stages for the first shape, unless another chain is passed.
        temporary: the folder will be deleted, so models compiled from it are not cached.
    """

    def __init__(
        self,
        path: Path,
        manifest: Manifest,
        stages: tuple[Stage, ...] | None = None,
        *,
        temporary: bool = False,
    ) -> None:
        self.path = path
        self.manifest = manifest
        self.temporary = temporary
        self.stages = stages or manifest.stages_in()
        files: list[File] = manifest.files()
        files += [artifact for stage in stages or () for artifact in stage.artifacts]
        self._files = {file.file: file for file in files}

    @property
    def bits(self) -> int:
        """Bits of the values that it takes and gives at most: 8, or 16 if they are floats."""
        ends = (self.manifest.input.dtype, self.manifest.output.dtype)
        return 16 if ends == ("float32", "float32") else 8

    @classmethod
    def open(cls, path_or_name: str | Path, *, temporary: bool = False) -> Bundle:
        """Read and check the manifest, and check that all files exist and have the right size.

        Contents are hashed when a file is used (:meth:`checked_file`) or by
        :meth:`damaged_files`.

        Args:
            path_or_name: the folder, or ``tiny`` for the bundle in the package, unless there is a
                folder of that name.
            temporary: see the attribute.

        Raises:
            BundleError: it is not a bundle, is damaged or incomplete, or of another version.
        """
        path = _folder(path_or_name)
        bundle = cls(path, _read_manifest(path), temporary=temporary)
        for file in bundle._files.values():
            size = bundle._size(file.file)
            if size != file.bytes:
                raise BundleError(
                    f"{path / file.file}: {size} bytes, the manifest says {file.bytes}: "
                    "the file is cut off or replaced, copy the bundle again"
                )
        return bundle

    def checked_file(self, file: str) -> Path:
        """Check the hash and content of a file of the bundle, and return its path.

        Raises:
            BundleError: it is damaged, missing, unreadable or not a file of this bundle; a graph or
                picture that has not the manifest's size; a graph that no export writes.
        """
        if file not in self._files:
            raise BundleError(f"{self.path}: the manifest lists no file {file!r}")
        path = self._locate(file)
        expected = self._files[file].sha256
        try:
            actual = file_sha256(path)
            if actual != expected:
                raise BundleError(
                    f"{self.path / file} is damaged: its SHA-256 is {actual}, the "
                    f"manifest says {expected}: copy the bundle again"
                )
            self._check_content(file, path)
        except OSError as error:
            raise BundleError(f"{self.path / file} cannot be read: {error.strerror}") from None
        return path

    def damaged_files(self) -> dict[str, str]:
        """Check all files of the bundle; returns the problem of each damaged or missing file."""
        problems = {file: self._damage(file) for file in self._files}
        return {file: problem for file, problem in problems.items() if problem is not None}

    def reference_images(self) -> Iterator[tuple[str, NDArray[np.uint8], NDArray[np.uint8]]]:
        """Name, network input and float32 PyTorch output, each (H, W, 3) uint8 of the first shape.

        Raises:
            BundleError: a file is damaged or not of the model's size.
        """
        from elir_deploy.runtime.images import read_image

        for reference in self.manifest.references:
            image, restored = (
                read_image(self.checked_file(file.file)).pixels
                for file in (reference.input, reference.output)
            )
            yield reference.name, image, restored

    def _check_content(self, file: str, path: Path) -> None:
        """Compare an undamaged file with what the manifest says about it."""
        manifest, entry = self.manifest, self._files[file]
        if isinstance(entry, Artifact) and entry.kind == "onnx":
            stages = [
                stage for stage in self.stages if any(a.file == file for a in stage.artifacts)
            ]
            for stage in stages:
                check_onnx_file(path, manifest.graph_ends(stage))
            if not stages:  # a detector's, for example
                check_onnx_file(path)
        for reference in manifest.references:
            if file in (reference.input.file, reference.output.file):
                _check_picture(path, manifest.shapes[0])

    def _damage(self, file: str) -> str | None:
        try:
            self.checked_file(file)
        except BundleError as error:
            return str(error)
        return None

    def _size(self, file: str) -> int:
        try:
            return self._locate(file).stat().st_size
        except OSError as error:  # removed meanwhile
            raise BundleError(f"{self.path / file} cannot be read: {error.strerror}") from None

    def _locate(self, file: str) -> Path:
        shown = self.path / file
        try:
            path = shown.resolve(strict=True)
            regular = stat.S_ISREG(path.stat().st_mode)
        except FileNotFoundError:
            raise BundleError(
                f"{shown} is missing: the bundle is incomplete, copy it again"
            ) from None
        except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links, before 3.13
            raise BundleError(f"{shown} cannot be read: {error}") from None
        if not path.is_relative_to(self.path.resolve()):
            raise BundleError(f"{shown} is a link out of the bundle, whose files must be inside it")
        if not regular:
            raise BundleError(f"{shown} is not a regular file")
        return path

    def __repr__(self) -> str:
        return f"Bundle({str(self.path)!r})"


def _check_picture(path: Path, shape: Shape) -> None:
    """Check that a file begins like a PNG file of a picture of ``shape``."""
    with path.open("rb") as file:
        header = file.read(24)
    if len(header) < 24 or not header.startswith(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"):
        raise BundleError(f"{path} is not a PNG file: copy the bundle again")
    width, height = struct.unpack_from(">II", header, 16)
    if (width, height) != (shape.graph_width, shape.graph_height):
        raise BundleError(
            f"{path} is {width}x{height}, expected {shape.graph_width}x{shape.graph_height}"
        )


def file_sha256(path: Path) -> str:
    """SHA-256 of a file as lowercase hexadecimal, in bounded memory."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()


# Reading --------------------------------------------------------------------------------------


def _folder(path_or_name: str | Path) -> Path:
    path = Path(path_or_name)
    if path.is_dir():
        return path
    if str(path_or_name) == "tiny":
        packaged = Path(str(resources.files("elir_deploy") / "data" / "tiny.bundle"))
        if packaged.is_dir():
            return packaged
        raise BundleError(f"no folder tiny, and none in elir-deploy {__version__}")
    if path.exists():
        raise BundleError(f"{path} is a file, expected the folder with {MANIFEST_NAME}")
    raise BundleError(f"{path}: no such folder")


def _read_manifest(folder: Path) -> Manifest:
    path = folder / MANIFEST_NAME
    try:
        mode = path.stat().st_mode
        # Reading a pipe might wait forever; opening a folder raises its own error.
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise BundleError(f"{path} is not a regular file")
        with path.open("rb") as file:
            data = file.read(MAX_MANIFEST_BYTES + 1)
    except FileNotFoundError:
        raise BundleError(f"{folder} is not a bundle: it has no {MANIFEST_NAME}") from None
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}") from None
    try:
        return decode_manifest(data)
    except BundleError as error:
        raise BundleError(f"{path}: {error}") from None
