"""Engines for an existing bundle, added in place or to a copy of it."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import math
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from elir_deploy.errors import ElirError, OutputError, QualityError, UnavailableError, UsageError
from elir_deploy.export.bundle import staged_bundle
from elir_deploy.export.tensorrt.builder import BuildOptions
from elir_deploy.export.tensorrt.engines import (
    EngineFailure,
    EngineSpec,
    StageEngine,
    engine_key,
    make_engines,
    with_artifacts,
    with_engine,
)
from elir_deploy.operating_system import close, lock, open_folder
from elir_deploy.output_files import replacing
from elir_deploy.pixels import psnr_db
from elir_deploy.progress import ProgressCallback, WarningCallback
from elir_deploy.runtime import Restorer
from elir_deploy.runtime.backends import backend_named
from elir_deploy.runtime.bundle import Bundle
from elir_deploy.runtime.manifest import Artifact, File, Manifest
from elir_deploy.runtime.manifest_file import MANIFEST_NAME, encode_manifest
from elir_deploy.runtime.tensorrt_library import Library
from elir_deploy.targets import RTX, onnx_limits

__all__ = [
    "AddedEngine",
    "AddedEngines",
    "EngineQuality",
    "add_engines",
    "check_parser",
    "default_precisions",
    "measure_engine",
]


@dataclass(frozen=True)
class EngineQuality:
    """Agreement of the engines of one precision with the bundle's references.

    Attributes:
        precision: of the engines.
        psnr_db: against float32 PyTorch, of the worst reference; infinite where all are identical.
        floor_db: least PSNR; engines below it have been removed from the bundle.
    """

    precision: str
    psnr_db: float
    floor_db: float

    @property
    def passed(self) -> bool:
        return self.psnr_db >= self.floor_db


@dataclass(frozen=True)
class AddedEngine:
    """An engine that was added to a bundle.

    Attributes:
        file: its name there.
        stage: name of the stage, or :data:`~.engines.DETECTOR`.
        precision: of the engine.
        bytes: its size.
        seconds: of its build.
        convolutions: kernels that convolve, by precision; None: not known.
    """

    file: str
    stage: str
    precision: str
    bytes: int
    seconds: float
    convolutions: dict[str, int] | None


@dataclass(frozen=True)
class AddedEngines:
    """The engines that were added to a bundle.

    Attributes:
        engines: in the order of their builds.
        failures: why others were not, by precision and GPU.
    """

    engines: tuple[AddedEngine, ...]
    failures: Mapping[str, str]


def default_precisions(bundle: Bundle) -> tuple[str, ...]:
    """The reduced precisions of the bundle that passed; without any, what it has."""
    present, verification = bundle.manifest.precisions, bundle.manifest.verification
    passed = [p for p in present if p not in verification or verification[p].passed]
    return tuple(p for p in passed if p != "fp32") or tuple(passed) or tuple(present)


def check_parser(bundle: Bundle, library: Library) -> None:
    """Check that the library can parse the bundle's graphs.

    Raises:
        UsageError: their opset is too new for it, or it does not accept uint8 images.
    """
    if library.kind == RTX:
        return
    limits = onnx_limits(library.version)
    opset = bundle.manifest.export.opset
    again = "export again with --target"
    if opset > limits.opset:
        raise UsageError(
            f"{bundle.path}: its graphs have opset {opset}, expected at most {limits.opset} for "
            f"TensorRT {library.version}: {again}"
        )
    if bundle.manifest.input.dtype == "uint8" and not limits.uint8_io:
        raise UsageError(
            f"{bundle.path}: its graphs take uint8 images, expected float32 for TensorRT "
            f"{library.version}: {again}"
        )


def add_engines(
    bundle: Bundle,
    library: Library,
    specs: Sequence[EngineSpec],
    precisions: Sequence[str],
    options: BuildOptions,
    progress: ProgressCallback,
    warn: WarningCallback,
    *,
    output: Path | None = None,
    overwrite: bool = False,
) -> AddedEngines:
    """Build engines and add them to the bundle, those of one precision and GPU at a time.

    A stage's engine of the same kind, precision and target is replaced. What was added before an
    error or Ctrl-C stays, unless ``output`` is given, which appears whole or not at all.

    Args:
        bundle: with the ONNX files.
        library: that builds.
        specs: to build for.
        precisions: to build in.
        options: of the build.
        progress: called with the engine and the state of its build.
        warn: called with warnings about an engine.
        output: folder of a copy to add them to; None: they go into the bundle itself.
        overwrite: replace a bundle at ``output``.

    Raises:
        OutputError: the bundle or the copy cannot be written, or another process adds to it.
        BundleError: an ONNX file is damaged.
        QualityError, UnavailableError: every engine fails; nothing is written.
        UsageError: as :func:`~.engines.make_engines`.
    """
    engines = make_engines(
        library,
        bundle.manifest,
        precisions,
        specs,
        lambda artifact: bundle.checked_file(artifact.file).read_bytes(),
        options,
        progress,
        warn,
    )

    def add(path: Path) -> AddedEngines:
        results = list(_add_each(path, bundle.manifest, engines))
        added = tuple(result for result in results if isinstance(result, AddedEngine))
        failures = {r.name: r.error for r in results if isinstance(r, EngineFailure)}
        if not added:
            raise _all_failed(failures) from next(iter(failures.values()))
        return AddedEngines(added, {name: str(error) for name, error in failures.items()})

    if output is None:
        with _lock_bundle(bundle.path):
            return add(bundle.path)
    with staged_bundle(output, overwrite=overwrite) as writer:
        _copy(bundle, writer.folder, output)
        return add(writer.folder)


def _all_failed(failures: Mapping[str, ElirError]) -> ElirError:
    unavailable = all(isinstance(error, UnavailableError) for error in failures.values())
    kind = UnavailableError if unavailable else QualityError
    return kind(". ".join(map(str, failures.values())))


def measure_engine(path: Path, kind: str, precision: str) -> EngineQuality:
    """Run the bundle's engines on its references, and remove them if they miss their floor.

    Args:
        path: of the bundle.
        kind: of the engines, and the backend of that name.
        precision: to run.

    Raises:
        UnavailableError: this machine cannot run them.
    """
    bundle = Bundle.open(path)
    worst = math.inf
    with Restorer(bundle, kind, precision=precision) as restore:
        for _, image, expected in bundle.reference_images():
            worst = min(worst, psnr_db(restore.run_pixels(image), expected))
    verified = bundle.manifest.verification.get(precision)
    # A graph that did not pass, as of random weights, sets no floor for its engines.
    floor = verified.floor_db if verified is not None and verified.passed else 0.0
    quality = EngineQuality(precision, worst, floor)
    if not quality.passed:
        _remove_engines(path, backend_named(kind).artifacts(bundle, precision))
    return quality


# The manifest and the files -----------------------------------------------------------------------


def _add_each(
    path: Path, manifest: Manifest, engines: Iterable[StageEngine | EngineFailure]
) -> Iterator[AddedEngine | EngineFailure]:
    """Put the engines into the bundle as they come."""
    for engine in engines:
        if isinstance(engine, EngineFailure):
            yield engine
            continue
        manifest = _add_one(path, manifest, engine)
        built = engine.built
        yield AddedEngine(
            engine.file,
            engine.stage,
            engine.precision,
            len(built.content),
            built.seconds,
            built.convolutions,
        )


def _add_one(path: Path, manifest: Manifest, engine: StageEngine) -> Manifest:
    """Write an engine and its entry; returns the new manifest.

    The manifest is right at every moment: the entry of a replaced engine is removed first.
    """
    content = engine.built.content
    written = File(engine.file, hashlib.sha256(content).hexdigest(), len(content))
    key = engine_key(engine.entry(written))
    without = _without_artifacts(
        manifest, lambda stage, a: stage == engine.stage and engine_key(a) == key
    )
    if without != manifest:
        _write_manifest(path, without)
    with replacing(path / engine.file) as file:
        file.write(content)
    filled = with_engine(manifest, engine, written)
    _write_manifest(path, filled)
    return filled


def _remove_engines(path: Path, engines: Sequence[Artifact]) -> None:
    """Remove engines from the bundle."""
    files = {engine.file for engine in engines}
    manifest = Bundle.open(path).manifest
    _write_manifest(path, _without_artifacts(manifest, lambda stage, a: a.file in files))
    for file in files:
        with contextlib.suppress(OSError):
            (path / file).unlink()


def _without_artifacts(manifest: Manifest, unwanted: Callable[[str, Artifact], bool]) -> Manifest:
    """The manifest without the artifacts for which ``unwanted(stage name, artifact)`` is true."""
    return with_artifacts(
        manifest, lambda name, artifacts: [a for a in artifacts if not unwanted(name, a)]
    )


def _write_manifest(path: Path, manifest: Manifest) -> None:
    with replacing(path / MANIFEST_NAME) as file:
        file.write(encode_manifest(manifest))


def _copy(bundle: Bundle, folder: Path, output: Path) -> None:
    """Copy the files that the manifest names, and no others."""
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
def _lock_bundle(path: Path) -> Iterator[None]:
    """Lock the bundle: of two processes that add to one manifest, one would lose its engines."""
    try:
        descriptor = open_folder(path)
        lock(descriptor)
    except BlockingIOError:
        close(descriptor)
        raise OutputError(f"another process is adding engines to {path}: wait for it") from None
    except OSError as error:
        raise OutputError(f"{path} cannot be locked: {error.strerror}") from None
    try:
        if not os.access(path, os.W_OK):
            raise OutputError(f"{path} cannot be written: add the engines to a copy with -o FOLDER")
        yield
    finally:
        close(descriptor)
