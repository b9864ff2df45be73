"""Engines for a bundle that is there already, added where it lies or in a copy of it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import math
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from msgspec import structs

from elir_deploy.atomic import replacing
from elir_deploy.errors import OutputError, QualityError, UsageError
from elir_deploy.export.bundle import staged_bundle
from elir_deploy.export.tensorrt.builder import BuildOptions
from elir_deploy.export.tensorrt.engines import (
    EngineSpec,
    StageEngine,
    engine_key,
    make_engines,
    with_engine,
)
from elir_deploy.pixels import psnr_db
from elir_deploy.progress import ProgressCallback
from elir_deploy.runtime import Restorer
from elir_deploy.runtime.backends import backend_named
from elir_deploy.runtime.bundle import Bundle
from elir_deploy.runtime.manifest import Artifact, File, Manifest
from elir_deploy.runtime.manifest_file import MANIFEST_NAME, encode_manifest
from elir_deploy.runtime.tensorrt_engine import Library
from elir_deploy.targets import RTX, onnx_limits

__all__ = [
    "AddedEngine",
    "EngineQuality",
    "add_engines",
    "check_parser",
    "default_precisions",
    "measure_engines",
]


@dataclass(frozen=True)
class EngineQuality:
    """What the engines of one precision make of the bundle's own pictures.

    Attributes:
        precision: of the engines.
        psnr_db: against float32 PyTorch, of the worst picture; infinite where nothing differs.
        floor_db: the least there may be.
    """

    precision: str
    psnr_db: float
    floor_db: float


@dataclass(frozen=True)
class AddedEngine:
    """An engine that is in the bundle now.

    Attributes:
        file: its name there.
        bytes: its size.
        seconds: its build took.
        convolutions: kernels that convolve, by precision; None: not known.
    """

    file: str
    bytes: int
    seconds: float
    convolutions: dict[str, int] | None


def default_precisions(bundle: Bundle) -> tuple[str, ...]:
    """The reduced ones that the bundle holds and that passed; float32 where there is no other."""
    verification = bundle.manifest.verification
    held: list[str] = [
        precision
        for precision in bundle.manifest.precisions
        if precision not in verification or verification[precision].passed
    ]
    return tuple(p for p in held if p != "fp32") or tuple(held) or tuple(bundle.manifest.precisions)


def check_parser(bundle: Bundle, library: Library) -> None:
    """Whether the library can parse the bundle's graphs.

    Raises:
        UsageError: their opset is too new for it, or it does not take uint8 images.
    """
    if library.kind == RTX:
        return
    limits = onnx_limits(library.version)
    opset = bundle.manifest.export.opset
    again = "export again with --target, which writes what it takes"
    if opset > limits.opset:
        raise UsageError(
            f"{bundle.path} has graphs of opset {opset}, and TensorRT {library.version} takes "
            f"{limits.opset} at most: {again}"
        )
    if bundle.manifest.input.dtype == "uint8" and not limits.uint8_io:
        raise UsageError(
            f"{bundle.path} takes uint8 images, and TensorRT {library.version} does not: {again}"
        )


def add_engines(
    bundle: Bundle,
    library: Library,
    orders: Sequence[EngineSpec],
    precisions: Sequence[str],
    options: BuildOptions,
    progress: ProgressCallback,
    warn: Callable[[str], None],
    *,
    output: Path | None = None,
    overwrite: bool = False,
) -> list[AddedEngine]:
    """Build engines and add them to the bundle, one by one as they are finished.

    A stage's engine of the same kind, precision and target is replaced. What was added before an
    error or Ctrl-C stays, unless ``output`` is given, which appears whole or not at all.

    Args:
        bundle: that has the ONNX files.
        library: that builds.
        orders: what for.
        precisions: to build in.
        options: how.
        progress: called with what is being done.
        warn: called with what the user should know.
        output: folder of a copy to add them to; None: they go into the bundle itself.
        overwrite: replace a bundle at ``output``.

    Raises:
        OutputError: the bundle or the copy cannot be written, or another process adds to it.
        BundleError: an ONNX file is damaged.
        QualityError, UnavailableError, UsageError: as :func:`~.engines.make_engines`.
    """
    made = make_engines(
        library,
        bundle.manifest,
        precisions,
        orders,
        lambda artifact: bundle.checked_file(artifact.file).read_bytes(),
        options,
        progress,
        warn,
    )
    if output is None:
        with _alone(bundle.path):
            return _added(bundle.path, bundle.manifest, made)
    with staged_bundle(output, overwrite=overwrite) as writer:
        _copy(bundle, writer.folder, output)
        return _added(writer.folder, bundle.manifest, made)


def measure_engines(path: Path, kind: str, precisions: Sequence[str]) -> list[EngineQuality]:
    """Run the bundle's engines on its own pictures, and drop those below their floor.

    Args:
        path: of the bundle.
        kind: the backend, and the engines' kind.
        precisions: to run.

    Raises:
        UnavailableError: this machine cannot run them.
        QualityError: a precision stays below its floor; the engines that ran are taken out.
    """
    bundle = Bundle.open(path)
    found = []
    for precision in precisions:
        worst = math.inf
        with Restorer(bundle, kind, precision=precision) as restore:
            for _, image, expected in bundle.reference_images():
                worst = min(worst, psnr_db(restore.run_pixels(image), expected))
        verified = bundle.manifest.verification.get(precision)
        # What did not pass as a graph, of random weights, has no floor to keep as an engine.
        floor = verified.floor_db if verified is not None and verified.passed else 0.0
        found.append(EngineQuality(precision, worst, floor))
        if worst < floor:
            _drop(path, backend_named(kind).artifacts(bundle, precision))
            raise QualityError(
                f"{precision} engines reach {worst:.1f} dB against float32 PyTorch, wanted "
                f"{floor:g} dB: they were taken out of {path}"
            )
    return found


# The manifest and the files -----------------------------------------------------------------------


def _added(path: Path, manifest: Manifest, made: Iterator[StageEngine]) -> list[AddedEngine]:
    """Put the engines into the bundle as they come."""
    added = []
    for engine in made:
        manifest = _put(path, manifest, engine)
        size, seconds = len(engine.built.content), engine.built.seconds
        added.append(AddedEngine(engine.file, size, seconds, engine.built.found))
    return added


def _put(path: Path, manifest: Manifest, engine: StageEngine) -> Manifest:
    """Write an engine and its entry; returns the manifest as it is now.

    The manifest is right at every moment: an engine that is replaced leaves it first.
    """
    content = engine.built.content
    written = File(engine.file, hashlib.sha256(content).hexdigest(), len(content))
    key = engine_key(engine.entry(written))
    without = _without(manifest, lambda stage, a: stage == engine.stage and engine_key(a) == key)
    if without != manifest:
        _write_manifest(path, without)
    with replacing(path / engine.file) as file:
        file.write(content)
    filled = with_engine(manifest, engine, written)
    _write_manifest(path, filled)
    return filled


def _drop(path: Path, engines: Sequence[Artifact]) -> None:
    """Take engines out of the bundle."""
    files = {engine.file for engine in engines}
    manifest = Bundle.open(path).manifest
    _write_manifest(path, _without(manifest, lambda stage, a: a.file in files))
    for file in files:
        with contextlib.suppress(OSError):
            (path / file).unlink()


def _without(manifest: Manifest, bad: Callable[[str, Artifact], bool]) -> Manifest:
    """The manifest without what is ``bad`` of the artifacts, each given with its stage's name."""
    stages = [
        structs.replace(stage, artifacts=[a for a in stage.artifacts if not bad(stage.name, a)])
        for stage in manifest.stages
    ]
    return structs.replace(manifest, stages=stages)


def _write_manifest(path: Path, manifest: Manifest) -> None:
    with replacing(path / MANIFEST_NAME) as file:
        file.write(encode_manifest(manifest))


def _copy(bundle: Bundle, folder: Path, output: Path) -> None:
    """The bundle's own files, and no others that lie beside them."""
    try:
        shutil.copy2(bundle.path / MANIFEST_NAME, folder)
        for file in (entry.file for entry in bundle.manifest.files()):
            (folder / file).parent.mkdir(exist_ok=True)
            shutil.copy2(bundle.path / file, folder / file)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        hint = ": free some space, or choose another folder with -o" if full else ""
        raise OutputError(f"cannot copy the bundle to {output}: {error.strerror}{hint}") from None


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Two processes that add to one manifest would lose what one of them added."""
    try:
        lock = os.open(path, os.O_RDONLY)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise OutputError(f"another process is adding engines to {path}: wait for it") from None
    except OSError as error:
        raise OutputError(f"{path} cannot be locked: {error.strerror}") from None
    try:
        if not os.access(path, os.W_OK):
            raise OutputError(
                f"{path} cannot be written: give -o FOLDER, and the engines go into a copy there"
            )
        yield
    finally:
        os.close(lock)
