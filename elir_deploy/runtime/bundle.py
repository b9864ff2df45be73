"""Reading a bundle: the folder that holds one exported model, described by ``bundle.json``.

Nothing in the folder is trusted: the manifest is bounded, strict JSON, checked against the schema
and for what a schema cannot say; the files are regular, inside the folder and of the stated size;
a file's SHA-256 is checked before the file is used. Hashes detect damage, not malice: an engine is
executable code and is only as good as whoever made it.

Layout of the folder::

    bundle.json                     the manifest
    STAGE.PRECISION.onnx            graphs, and engines beside them
    reference/NAME.input.png        network inputs, image_size x image_size, 8-bit RGB
    reference/NAME.output.png       what the float32 PyTorch model makes of them
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, fields
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elir_deploy import __version__
from elir_deploy.errors import BundleError
from elir_deploy.runtime.strict_json import strict_json

__all__ = [
    "FORMAT_NAME",
    "FORMAT_VERSION",
    "MANIFEST_NAME",
    "PRECISIONS",
    "RUN_PRECISIONS",
    "SPLIT_STAGES",
    "Artifact",
    "Bundle",
    "Calibration",
    "Manifest",
    "ModelInfo",
    "Reference",
    "Source",
    "Stage",
    "TensorSpec",
    "Verification",
    "file_precision",
    "file_sha256",
    "validate_manifest",
]

MANIFEST_NAME = "bundle.json"
FORMAT_NAME = "elir-bundle"
FORMAT_VERSION = 1
#: Every precision a stage can be exported in.
PRECISIONS = ("fp32", "fp16", "int8")
#: Every precision a stage can run in, the most exact first. There are no files of bf16: a backend
#: that has it rounds those of fp32.
RUN_PRECISIONS = ("fp32", "fp16", "bf16", "int8")
_SERVED_BY = {"bf16": "fp32"}
#: The stages of a split bundle, in order. A fused bundle has the one stage ``fused``.
SPLIT_STAGES = ("encoder", "estimator", "flow", "decoder")

#: A manifest is some tens of kilobytes; more than this is not one.
MAX_MANIFEST_BYTES = 16 * 2**20
#: A tensor between stages larger than this (a 512 x 512 model needs 3 MB) is a damaged manifest.
MAX_TENSOR_BYTES = 2**30

_RANGES = {"uint8": (0, 255), "float32": (0, 1)}
_AXES = {"NHWC": (1, 2, 3), "NCHW": (2, 3, 1)}  # of height, width, channels


@dataclass(frozen=True)
class TensorSpec:
    """A tensor handed to or taken from a stage.

    Attributes:
        name: of the graph's input or output.
        dtype: ``uint8`` or ``float32``.
        shape: four sides in the order of ``layout``; the first is the batch, 1.
        layout: ``NHWC`` or ``NCHW``.
    """

    name: str
    dtype: str
    shape: tuple[int, int, int, int]
    layout: str

    @property
    def height(self) -> int:
        return self.shape[_AXES[self.layout][0]]

    @property
    def width(self) -> int:
        return self.shape[_AXES[self.layout][1]]

    @property
    def channels(self) -> int:
        return self.shape[_AXES[self.layout][2]]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * (1 if self.dtype == "uint8" else 4)

    def __str__(self) -> str:
        sides = "x".join(str(side) for side in self.shape)
        return f"{self.name}: {self.dtype} {sides} {self.layout}"


@dataclass(frozen=True)
class Artifact:
    """One stage made into one file.

    Attributes:
        file: path inside the bundle, with ``/``.
        kind: ``onnx``, ``tensorrt``, ``tensorrt-rtx`` or ``openvino``.
        precision: ``fp32``, ``fp16`` or ``int8``.
        target: the devices it was made for, such as ``sm75+sm86``; None: any.
        tool: what made it.
        tool_version: of that tool.
        sha256: of the file, lowercase hexadecimal.
        bytes: its size.
        convolutions: of an engine: how many of its kernels that convolve read ``int8``, ``fp16``
            and ``fp32``; None: not known, or no engine.
        version_compatible: an engine for later releases of its library too.
        hardware_compatible: an engine for other GPUs of its kind too.
    """

    file: str
    kind: str
    precision: str
    target: str | None
    tool: str
    tool_version: str
    sha256: str
    bytes: int
    convolutions: Mapping[str, int] | None = None
    version_compatible: bool = False
    hardware_compatible: bool = False


@dataclass(frozen=True)
class Stage:
    """One graph of the chain and the files that hold it."""

    name: str
    input: TensorSpec
    output: TensorSpec
    artifacts: tuple[Artifact, ...]


@dataclass(frozen=True)
class ModelInfo:
    """The network's numbers, as :class:`elir_deploy.tasks.TaskSpec` names them.

    Attributes:
        task: name of the task.
        image_size: side in pixels of the square image the graphs take.
        steps: Euler steps M (paper, Algorithm 1).
        sigma_s: standard deviation of the noise added to the coarse latent.
        upscale: factor by which an input is enlarged before the network, which keeps the size.
        upscale_kernel: ``none``, ``nearest`` or ``bicubic``.
        faces: trained on aligned face crops only.
        parameters: of the collapsed network.
        architecture: plain JSON values of :class:`elir_deploy.tasks.Architecture`.
        noise: seed, generator and SHA-256 of the noise inside the graph.
    """

    task: str
    image_size: int
    steps: int
    sigma_s: float
    upscale: int
    upscale_kernel: str
    faces: bool
    parameters: int
    architecture: Mapping[str, Any]
    noise: Mapping[str, Any]


@dataclass(frozen=True)
class Source:
    """The checkpoint: its name, the SHA-256 of its file if it had one, and whether it is random."""

    name: str
    sha256: str | None
    random: bool


@dataclass(frozen=True)
class Verification:
    """Agreement of one precision with float32 PyTorch, over all reference images.

    Attributes:
        precision: which one; beside those of files, ``bf16`` where it was measured.
        psnr_db: of the worst image, in dB; None where every image is identical.
        max_error: in output units of [0, 1]; None where it is not finite.
        mean_error: likewise.
        floor_db: what ``psnr_db`` had to reach.
        passed: whether it did.
        backend: what ran it.
        worst_part: the part of the network that loses most, if one stands out.
        kept_float32: nodes left in float32.
    """

    precision: str
    psnr_db: float | None
    max_error: float | None
    mean_error: float | None
    floor_db: float
    passed: bool
    backend: str
    worst_part: str | None
    kept_float32: tuple[str, ...]


@dataclass(frozen=True)
class Reference:
    """A network input and the float32 PyTorch output for it: two PNG files of the bundle."""

    name: str
    input: str
    input_sha256: str
    output: str
    output_sha256: str


@dataclass(frozen=True)
class Calibration:
    """Where INT8 has its ranges from: a file that makes the same graph again, and how it was made.

    Attributes:
        file: path inside the bundle.
        sha256: of the file.
        method: that chose the ranges.
        images: how many they were chosen on.
        per_step: whether each Euler step has ranges of its own.
        smallest_layer: convolutions of fewer weights stay in floating point.
    """

    file: str
    sha256: str
    method: str
    images: int
    per_step: bool
    smallest_layer: int = 0


@dataclass(frozen=True)
class Manifest:
    """``bundle.json`` with types; ``Bundle.manifest`` is the same as plain JSON values."""

    model: ModelInfo
    source: Source
    input: TensorSpec
    output: TensorSpec
    stages: tuple[Stage, ...]
    precisions: tuple[str, ...]
    verification: Mapping[str, Verification]
    references: tuple[Reference, ...]
    versions: Mapping[str, str]
    calibration: Calibration | None = None

    @property
    def artifacts(self) -> tuple[Artifact, ...]:
        """Of all stages, in order."""
        return tuple(artifact for stage in self.stages for artifact in stage.artifacts)

    @property
    def file_hashes(self) -> dict[str, str]:
        """SHA-256 of every file of the bundle but the manifest, in the manifest's order."""
        hashes = {artifact.file: artifact.sha256 for artifact in self.artifacts}
        for reference in self.references:
            hashes[reference.input] = reference.input_sha256
            hashes[reference.output] = reference.output_sha256
        if self.calibration is not None:
            hashes[self.calibration.file] = self.calibration.sha256
        return hashes


class Bundle:
    """A bundle on disk whose manifest has been checked. Open one with :meth:`open`.

    Attributes:
        path: the folder.
        manifest: ``bundle.json`` as plain JSON values.
        info: the same with types.
    """

    def __init__(self, path: Path, manifest: dict[str, Any], info: Manifest) -> None:
        self.path = path
        self.manifest = manifest
        self.info = info

    @classmethod
    def open(cls, path_or_name: str | Path) -> Bundle:
        """Read and check the manifest, and that every file is there with its stated size.

        Contents are hashed when a file is used (:meth:`checked_file`) or by
        :meth:`damaged_files`.

        Args:
            path_or_name: the folder, or ``tiny`` for the one inside the package where no folder
                of that name exists.

        Raises:
            BundleError: it is none, is damaged, incomplete, or of a newer version.
        """
        path = _folder(path_or_name)
        manifest = _read_manifest(path)
        with _naming(path):
            info = validate_manifest(manifest)
        bundle = cls(path, manifest, info)
        sizes = {artifact.file: artifact.bytes for artifact in info.artifacts}
        for file in info.file_hashes:
            size = bundle._locate(file).stat().st_size
            if size != sizes.get(file, size):
                raise BundleError(
                    f"{path / file}: {size} bytes, the manifest says {sizes[file]}: "
                    "the file is cut off or replaced, copy the bundle again"
                )
        return bundle

    def checked_file(self, file: str) -> Path:
        """Where ``file`` of the bundle is, after its contents were hashed and found right.

        Raises:
            BundleError: it is damaged, gone, unreadable, or not a file of this bundle.
        """
        wanted = self.info.file_hashes.get(file)
        if wanted is None:
            raise BundleError(f"{self.path}: the manifest lists no file {file!r}")
        path = self._locate(file)
        try:
            seen = file_sha256(path)
        except OSError as error:
            raise BundleError(f"{self.path / file} cannot be read: {error.strerror}") from None
        if seen != wanted:
            raise BundleError(
                f"{self.path / file} is damaged: its SHA-256 is {seen}, the "
                f"manifest says {wanted}: copy the bundle again"
            )
        return path

    def damaged_files(self) -> dict[str, str]:
        """Hash every file of the bundle; what is wrong with each that is damaged or gone."""
        found = {file: self._damage(file) for file in self.info.file_hashes}
        return {file: reason for file, reason in found.items() if reason is not None}

    def reference_images(self) -> Iterator[tuple[str, NDArray[np.uint8], NDArray[np.uint8]]]:
        """Name, network input and float32 PyTorch output, each (image_size, image_size, 3) uint8.

        Raises:
            BundleError: a file is damaged or not of the model's size.
        """
        from elir_deploy.runtime.images import read_image

        side = self.info.model.image_size
        for reference in self.info.references:
            pair = []
            for file in (reference.input, reference.output):
                pixels = read_image(self.checked_file(file)).pixels
                if pixels.shape != (side, side, 3):
                    height, width = pixels.shape[:2]
                    raise BundleError(
                        f"{self.path / file} is {width}x{height}, wanted {side}x{side}"
                    )
                pair.append(pixels)
            yield reference.name, pair[0], pair[1]

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


def file_precision(precision: str) -> str:
    """The precision of the files that are loaded to run in ``precision``."""
    return _SERVED_BY.get(precision, precision)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file as lowercase hexadecimal, in bounded memory."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()


def validate_manifest(manifest: object) -> Manifest:
    """Check a manifest's plain JSON values, and give them types.

    Raises:
        BundleError: not a bundle's manifest, of a newer format, against the schema, or not
            consistent in itself.
    """
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT_NAME:
        raise BundleError(f'not the manifest of a bundle: it has no "format": "{FORMAT_NAME}"')
    _check_version(manifest)
    _check_schema(manifest)
    info = _typed(manifest)
    _check_model(info)
    _check_chain(info)
    _check_files(info)
    return info


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


@contextmanager
def _naming(folder: Path) -> Iterator[None]:
    """Puts the manifest's path in front of a BundleError raised inside."""
    try:
        yield
    except BundleError as error:
        where = folder / MANIFEST_NAME
        raise BundleError(f"{where}: {error}") from None


def _read_manifest(folder: Path) -> Any:
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
    with _naming(folder):
        if len(data) > MAX_MANIFEST_BYTES:
            raise BundleError(f"larger than {MAX_MANIFEST_BYTES} bytes, so not a manifest")
        return _strict_json(data)


def _strict_json(data: bytes) -> Any:
    try:
        return strict_json(data)
    except UnicodeDecodeError as error:
        raise BundleError(f"damaged: not UTF-8 at byte {error.start}") from None
    except RecursionError:
        raise BundleError("damaged: nested too deeply") from None
    except ValueError as error:  # JSONDecodeError is one
        raise BundleError(f"damaged: {error}") from None


# Checking -------------------------------------------------------------------------------------


def _check_version(manifest: dict[str, Any]) -> None:
    version = manifest.get("format_version")
    if type(version) is not int or version < 1:
        raise BundleError(f"format_version is {_short(version)}, wanted {FORMAT_VERSION}")
    if version > FORMAT_VERSION:
        versions = manifest.get("versions")
        maker = versions.get("elir-deploy") if isinstance(versions, dict) else None
        by = f" ({_short(maker)})" if maker else ""
        raise BundleError(
            f"made by a newer version of elir-deploy{by}: bundle format {version}, "
            f"and elir-deploy {__version__} reads format {FORMAT_VERSION}: upgrade "
            "elir-deploy"
        )


@functools.lru_cache(maxsize=1)
def _schema_check() -> Callable[[object], object]:
    import fastjsonschema

    text = (resources.files("elir_deploy.runtime") / "bundle.schema.json").read_text("utf-8")
    check: Callable[[object], object] = fastjsonschema.compile(json.loads(text))
    return check


def _check_schema(manifest: dict[str, Any]) -> None:
    from fastjsonschema import JsonSchemaValueException

    try:
        _schema_check()(manifest)
    except JsonSchemaValueException as error:
        rule = str(error.message).removeprefix("data").removeprefix(".")
        raise BundleError(f"{rule}, and is {_short(error.value)}") from None


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _typed(manifest: dict[str, Any]) -> Manifest:
    def tensor(values: dict[str, Any], where: str) -> TensorSpec:
        # JSON Schema counts 1.0 as an integer; an array's shape does not.
        if any(type(side) is not int for side in values["shape"]):
            raise BundleError(f"{where}: shape is {_short(values['shape'])}, wanted integers")
        return TensorSpec(values["name"], values["dtype"], tuple(values["shape"]), values["layout"])

    def record(kind: type[Any], values: dict[str, Any], where: str, **typed: object) -> Any:
        chosen = {
            f.name: values[f.name]
            for f in fields(kind)
            if f.name not in typed and (f.name in values or f.default is MISSING)
        }
        for field in fields(kind):
            value = chosen.get(field.name)
            if field.type == "int" and type(value) is not int and field.name in chosen:
                raise BundleError(f"{where}.{field.name} is {_short(value)}, wanted an integer")
        return kind(**chosen, **typed)

    stages = []
    for index, stage in enumerate(manifest["stages"]):
        where = f"stages[{index}]"
        stages.append(
            Stage(
                stage["name"],
                tensor(stage["input"], f"{where}.input"),
                tensor(stage["output"], f"{where}.output"),
                tuple(record(Artifact, values, where) for values in stage["artifacts"]),
            )
        )
    for name in ("input", "output"):
        wanted = _RANGES[manifest[name]["dtype"]]
        if tuple(manifest[name]["range"]) != wanted:
            raise BundleError(
                f"{name}.range is {_short(manifest[name]['range'])}, wanted "
                f"{list(wanted)} for {manifest[name]['dtype']}"
            )
    quantization = manifest.get("quantization")
    return Manifest(
        calibration=quantization and record(Calibration, quantization, "quantization"),
        model=record(ModelInfo, manifest["model"], "model"),
        source=record(Source, manifest["source"], "source"),
        input=tensor(manifest["input"], "input"),
        output=tensor(manifest["output"], "output"),
        stages=tuple(stages),
        precisions=tuple(manifest["precisions"]),
        verification={
            precision: record(
                Verification,
                values,
                f"verification.{precision}",
                precision=precision,
                kept_float32=tuple(values["kept_float32"]),
            )
            for precision, values in manifest["verification"].items()
        },
        references=tuple(
            record(Reference, values, f"references[{index}]")
            for index, values in enumerate(manifest["references"])
        ),
        versions=dict(manifest["versions"]),
    )


def _check_model(info: Manifest) -> None:
    side = info.model.image_size
    for name, spec in (("input", info.input), ("output", info.output)):
        seen = (spec.shape[0], spec.height, spec.width, spec.channels)
        if seen != (1, side, side, 3):
            raise BundleError(
                f"{name} is {spec}, wanted one RGB image of model.image_size, {side}x{side}"
            )
    upscale, kernel = info.model.upscale, info.model.upscale_kernel
    if (upscale == 1) != (kernel == "none"):
        raise BundleError(f"model.upscale is {upscale} and model.upscale_kernel is {kernel!r}")
    # With a power of two the weights of a bicubic enlargement are exact, hence the same wherever
    # a picture is cut into tiles.
    if kernel == "bicubic" and upscale & (upscale - 1):
        raise BundleError(f"model.upscale is {upscale}, wanted a power of two for bicubic")


def _check_chain(info: Manifest) -> None:
    names = tuple(stage.name for stage in info.stages)
    if names not in (("fused",), SPLIT_STAGES):
        raise BundleError(
            f"stages are {', '.join(names)}; wanted fused alone, or {', '.join(SPLIT_STAGES)}"
        )
    ends = [("input", info.input)]
    for stage in info.stages:
        before, spec = ends[-1]
        if stage.input != spec:
            raise BundleError(f"{stage.name} takes {stage.input}, but {before} is {spec}")
        ends.append((f"the output of {stage.name}", stage.output))
        if stage.input.nbytes > MAX_TENSOR_BYTES or stage.output.nbytes > MAX_TENSOR_BYTES:
            raise BundleError(f"{stage.name} has a tensor of more than {MAX_TENSOR_BYTES} bytes")
    before, spec = ends[-1]
    if spec != info.output:
        raise BundleError(f"output is {info.output}, but {before} is {spec}")


def _check_files(info: Manifest) -> None:
    files = [artifact.file for artifact in info.artifacts]
    for reference in info.references:
        files += [reference.input, reference.output]
    if info.calibration is not None:
        files.append(info.calibration.file)
    seen: set[str] = {MANIFEST_NAME}
    for file in files:
        if file in seen:
            raise BundleError(f"two entries name the file {file}")
        seen.add(file)
    names = [reference.name for reference in info.references]
    if len(set(names)) != len(names):
        raise BundleError(f"two references have the same name: {', '.join(names)}")
    for stage in info.stages:
        made = set()
        for artifact in stage.artifacts:
            if artifact.precision not in info.precisions:
                raise BundleError(
                    f"{artifact.file} is {artifact.precision}, but precisions are "
                    f"{', '.join(info.precisions)}"
                )
            key = (artifact.kind, artifact.precision, artifact.target)
            if key in made:
                raise BundleError(
                    f"{stage.name} has two {artifact.kind} files of "
                    f"{artifact.precision} for {artifact.target or 'any device'}"
                )
            made.add(key)
