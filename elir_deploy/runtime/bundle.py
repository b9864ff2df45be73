"""Reading a bundle: the folder that holds one exported model, described by ``bundle.json``.

Nothing in the folder is trusted: the manifest is bounded, strict JSON, checked against the schema
and for what a schema cannot say; the files are regular, inside the folder and of the stated size;
a file's SHA-256 is checked before the file is used, and then that a graph is one that
``elir-export`` could have made, of the sizes that the manifest says. Hashes detect damage, not
malice: an engine is executable code and is only as good as whoever made it.

Layout of the folder::

    bundle.json                     the manifest
    STAGE.PRECISION.onnx            graphs, and engines beside them
    reference/NAME.input.png        network inputs, image_size x image_size, 8-bit RGB
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
from elir_deploy.runtime.manifest import File, Manifest, Stage
from elir_deploy.runtime.manifest_file import (
    MANIFEST_NAME,
    MAX_MANIFEST_BYTES,
    decode_manifest,
    not_served,
)
from elir_deploy.runtime.onnx_check import End, check_onnx_file

__all__ = ["Bundle", "file_sha256"]


class Bundle:
    """A bundle on disk whose manifest has been checked. Open one with :meth:`open`.

    Attributes:
        path: the folder.
        manifest: ``bundle.json``.
        stages: the chain of graphs, with tensors as they are in the first shape, unless another
            chain of files in the folder is given.
        temporary: the folder is gone soon, so what is compiled of its graphs is not kept.
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
        held: list[File] = manifest.files()
        held += [artifact for stage in stages or () for artifact in stage.artifacts]
        self._files = {file.file: file for file in held}

    @classmethod
    def open(cls, path_or_name: str | Path, *, temporary: bool = False) -> Bundle:
        """Read and check the manifest, and that every file is there with its stated size.

        Contents are hashed when a file is used (:meth:`checked_file`) or by
        :meth:`damaged_files`.

        Args:
            path_or_name: the folder, or ``tiny`` for the one inside the package where no folder
                of that name exists.
            temporary: see the attribute.

        Raises:
            BundleError: it is none, is damaged, incomplete, or of a newer version.
        """
        path = _folder(path_or_name)
        bundle = cls(path, _read_manifest(path), temporary=temporary)
        for file in bundle._files.values():
            size = bundle._locate(file.file).stat().st_size
            if size != file.bytes:
                raise BundleError(
                    f"{path / file.file}: {size} bytes, the manifest says {file.bytes}: "
                    "the file is cut off or replaced, copy the bundle again"
                )
        return bundle

    def checked_file(self, file: str) -> Path:
        """Where ``file`` of the bundle is, after its contents were hashed and found right.

        Raises:
            BundleError: it is damaged, gone, unreadable, or not a file of this bundle; a graph or
                a picture of another size than the manifest's; a graph that no export makes.
        """
        if file not in self._files:
            raise BundleError(f"{self.path}: the manifest lists no file {file!r}")
        path = self._locate(file)
        expected = self._files[file].sha256
        try:
            seen = file_sha256(path)
            if seen != expected:
                raise BundleError(
                    f"{self.path / file} is damaged: its SHA-256 is {seen}, the "
                    f"manifest says {expected}: copy the bundle again"
                )
            self._check_content(file, path)
        except OSError as error:
            raise BundleError(f"{self.path / file} cannot be read: {error.strerror}") from None
        return path

    def damaged_files(self) -> dict[str, str]:
        """Check every file of the bundle; what is wrong with each that is damaged or gone."""
        found = {file: self._damage(file) for file in self._files}
        return {file: reason for file, reason in found.items() if reason is not None}

    def reference_images(self) -> Iterator[tuple[str, NDArray[np.uint8], NDArray[np.uint8]]]:
        """Name, network input and float32 PyTorch output, each (image_size, image_size, 3) uint8.

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
        """Hold a whole file against what the manifest says of it.

        Sizes only where the bundle can be run: the first shape says nothing of the others.
        """
        served = not_served(self.manifest) is None
        for stage in self.stages:
            if any(a.file == file and a.kind == "onnx" for a in stage.artifacts):
                ends = [End(s.name, s.dtype, s.shape) for s in (stage.input, stage.output)]
                check_onnx_file(path, *((ends[:1], ends[1:]) if served else ()))
        for reference in self.manifest.references:
            if served and file in (reference.input.file, reference.output.file):
                _check_picture(path, self.manifest.image_size)

    def _damage(self, file: str) -> str | None:
        try:
            self.checked_file(file)
        except BundleError as error:
            return str(error)
        return None

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
            raise BundleError(f"{shown} is a link out of the bundle: a bundle holds its own files")
        if not regular:
            raise BundleError(f"{shown} is not a regular file")
        return path

    def __repr__(self) -> str:
        return f"Bundle({str(self.path)!r})"


def _check_picture(path: Path, side: int) -> None:
    """Whether a file begins as a PNG file of a square picture does."""
    with path.open("rb") as file:
        header = file.read(24)
    if len(header) < 24 or not header.startswith(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"):
        raise BundleError(f"{path} is no PNG picture: copy the bundle again")
    width, height = struct.unpack_from(">II", header, 16)
    if (width, height) != (side, side):
        raise BundleError(f"{path} is {width}x{height}, wanted {side}x{side}")


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
        raise BundleError(f"there is no folder tiny, and elir-deploy {__version__} carries none")
    if path.exists():
        raise BundleError(f"{path} is a file, wanted the folder that holds {MANIFEST_NAME}")
    raise BundleError(f"{path}: no such folder")


def _read_manifest(folder: Path) -> Manifest:
    path = folder / MANIFEST_NAME
    try:
        mode = path.stat().st_mode
        # Anything but a file might keep a reader waiting; a folder has an error of its own.
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise BundleError(f"{path} is not a regular file")
        with path.open("rb") as file:
            data = file.read(MAX_MANIFEST_BYTES + 1)
    except FileNotFoundError:
        raise BundleError(f"{folder} is not a bundle: it holds no {MANIFEST_NAME}") from None
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}") from None
    try:
        return decode_manifest(data)
    except BundleError as error:
        raise BundleError(f"{path}: {error}") from None
