"""Reading, checking and writing ``bundle.json``, and its JSON Schema.

The package contains the schema as ``bundle.schema.json`` (written by ``make schema``), with which
the C++ runtime checks manifests.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import msgspec

from elir_deploy import __version__
from elir_deploy.errors import BundleError, UsageError
from elir_deploy.runtime.manifest import (
    FORMAT_NAME,
    FORMAT_VERSION,
    NOISE_TENSOR,
    RESIZE,
    SPLIT_STAGES,
    Artifact,
    BakedNoise,
    Detector,
    FieldNoise,
    Manifest,
)
from elir_deploy.runtime.noise import FIELD_GENERATOR, check_noise
from elir_deploy.runtime.strict_json import describe_mismatch, schema_text, strict_json
from elir_deploy.text import shortened

__all__ = [
    "MANIFEST_NAME",
    "MAX_MANIFEST_BYTES",
    "check_consistency",
    "decode_manifest",
    "encode_manifest",
    "manifest_schema",
]

MANIFEST_NAME = "bundle.json"
#: Manifests have some tens of kilobytes.
MAX_MANIFEST_BYTES = 16 * 2**20
#: Maximum size of a tensor between stages; a 512 x 512 model needs 3 MB.
MAX_TENSOR_BYTES = 2**30

#: Landmarks of an aligned face lie within this many of its square's sides, and span a part of one.
_TEMPLATE_SIDES = 16
_RANGES = {"uint8": (0, 255), "float32": (0, 1)}


def decode_manifest(data: bytes) -> Manifest:
    """The manifest in the bytes of ``bundle.json``.

    Raises:
        BundleError: it is too large, not strict JSON, not a bundle's manifest, of another format,
            invalid by the schema, or inconsistent.
    """
    if len(data) > MAX_MANIFEST_BYTES:
        raise BundleError(f"larger than {MAX_MANIFEST_BYTES} bytes: not a manifest")
    try:
        plain = strict_json(data)
    except ValueError as error:
        raise BundleError(f"damaged: {error}") from None
    if not isinstance(plain, dict) or plain.get("format") != FORMAT_NAME:
        raise BundleError(f'not the manifest of a bundle: it has no "format": "{FORMAT_NAME}"')
    _check_version(plain)
    try:
        manifest = msgspec.json.decode(data, type=Manifest)
    except msgspec.MsgspecError as error:
        raise BundleError(describe_mismatch(str(error), plain)) from None
    check_consistency(manifest)
    return manifest


def encode_manifest(manifest: Manifest) -> bytes:
    """Encode the manifest, with the checks of :func:`decode_manifest`.

    Raises:
        BundleError: it is invalid.
    """
    text = json.dumps(msgspec.to_builtins(manifest), indent=2, ensure_ascii=False, allow_nan=False)
    data = f"{text}\n".encode()
    decode_manifest(data)
    return data


def manifest_schema() -> str:
    """The JSON Schema (draft 2020-12) of manifests, the content of ``bundle.schema.json``."""
    return schema_text(Manifest)


def _check_version(plain: dict[str, Any]) -> None:
    version = plain.get("format_version")
    if type(version) is not int or version < 1:
        raise BundleError(
            f"format_version is {shortened(repr(version))}, expected {FORMAT_VERSION}"
        )
    if version < FORMAT_VERSION:
        raise BundleError(
            f"bundle format {version}, and elir-deploy {__version__} reads format "
            f"{FORMAT_VERSION}: export the checkpoint again (elir-export CHECKPOINT -o FOLDER)"
        )
    if version > FORMAT_VERSION:
        versions = plain.get("versions")
        writer = versions.get("elir-deploy") if isinstance(versions, dict) else None
        newer = f" ({shortened(repr(writer))})" if writer else ""
        raise BundleError(
            f"written by a newer version of elir-deploy{newer}: bundle format {version}, and "
            f"elir-deploy {__version__} reads format {FORMAT_VERSION}: upgrade elir-deploy"
        )


# Beyond the schema -----------------------------------------------------------------------------


def check_consistency(manifest: Manifest) -> None:
    """Check that the entries of a manifest agree with each other.

    Raises:
        BundleError: they do not.
    """
    _check_model(manifest)
    _check_shapes(manifest)
    _check_noise(manifest)
    _check_chain(manifest)
    _check_files(manifest)
    if manifest.detector is not None:
        _check_detector(manifest.detector)


def _check_model(manifest: Manifest) -> None:
    upscale, kernel = manifest.model.upscale, manifest.model.upscale_kernel
    if (upscale == 1) != (kernel == "none"):
        raise BundleError(f"model.upscale is {upscale} and model.upscale_kernel is {kernel!r}")
    # With a power of two the weights of a bicubic enlargement are exact, hence the same wherever
    # a picture is cut into tiles.
    if kernel == "bicubic" and upscale & (upscale - 1):
        raise BundleError(f"model.upscale is {upscale}, expected a power of two for bicubic")
    resize = manifest.resize
    if (resize.a, resize.antialias) != (RESIZE.a, RESIZE.antialias):
        raise BundleError(f"resize is {resize.a}, {resize.antialias}: expected -0.5, true")


def _check_shapes(manifest: Manifest) -> None:
    shapes = manifest.shapes
    if len({(shape.height, shape.width) for shape in shapes}) < len(shapes):
        raise BundleError("two shapes have the same height and width")
    for shape in shapes:
        size = f"shape {shape.width}x{shape.height}"
        if (shape.padded_height is None) != (shape.padded_width is None):
            raise BundleError(f"{size} has one padded side, expected both or neither")
        if shape.graph_height < shape.height or shape.graph_width < shape.width:
            raise BundleError(f"{size} is padded to less than its own size")
        for name, tensor in manifest.tensors.items():
            if shape.graph_height % tensor.stride or shape.graph_width % tensor.stride:
                raise BundleError(
                    f"{size} is not divisible by the stride {tensor.stride} of {name}"
                )
            if manifest.tensor(name, shape).nbytes > MAX_TENSOR_BYTES:
                raise BundleError(f"{name} has more than {MAX_TENSOR_BYTES} bytes in {size}")


def _check_noise(manifest: Manifest) -> None:
    noise = manifest.noise
    if isinstance(noise, BakedNoise):
        if len(manifest.shapes) > 1:
            raise BundleError("noise is baked into the graph, but there are several shapes")
        return
    if noise.generator != FIELD_GENERATOR:
        raise BundleError(
            f"noise of the unknown generator {shortened(repr(noise.generator))}, expected "
            f"{FIELD_GENERATOR!r}: upgrade elir-deploy"
        )
    try:
        check_noise(noise.seed, manifest.model.sigma_s)
    except UsageError as error:
        raise BundleError(str(error)) from None
    tensor = manifest.tensors.get(NOISE_TENSOR)
    if tensor is None:
        raise BundleError("noise is an input, which is not among the tensors")
    if (tensor.dtype, tensor.layout, tensor.range) != ("float32", "NCHW", None):
        raise BundleError("noise is not a latent: expected float32, NCHW and no range")
    for shape in manifest.shapes:
        if min(shape.graph_height, shape.graph_width) < 2 * tensor.stride:
            raise BundleError(
                f"shape {shape.width}x{shape.height} is too small for tiles: expected at least "
                f"{2 * tensor.stride} pixels a side, twice the stride of noise"
            )


def _check_chain(manifest: Manifest) -> None:
    stages = manifest.stages
    names = tuple(stage.name for stage in stages)
    if names not in (("fused",), SPLIT_STAGES):
        raise BundleError(
            f"stages are {', '.join(names)}; expected fused alone, or {', '.join(SPLIT_STAGES)}"
        )
    for stage in stages:
        for name in (*stage.inputs, stage.output):
            if name not in manifest.tensors:
                raise BundleError(f"{stage.name} names {name}, which is not among the tensors")
        takes_noise = stage.name in ("fused", "flow") and isinstance(manifest.noise, FieldNoise)
        if stage.inputs[1:] != [NOISE_TENSOR] * takes_noise:
            raise BundleError(
                f"{stage.name} takes {', '.join(stage.inputs)}: expected "
                f"{'a second input, noise' if takes_noise else 'one input'}"
            )
    for before, after in pairwise(stages):
        if after.inputs[0] != before.output:
            raise BundleError(
                f"{after.name} takes {after.inputs[0]}, but {before.name} gives {before.output}"
            )
    for name in (stages[0].inputs[0], stages[-1].output):
        tensor = manifest.tensors[name]
        if (tensor.channels, tensor.stride, tensor.range) != (3, 1, _RANGES[tensor.dtype]):
            low, high = _RANGES[tensor.dtype]
            raise BundleError(
                f"{name} is not an image: expected 3 channels, stride 1 and a range of "
                f"[{low}, {high}] for {tensor.dtype}"
            )


def _check_files(manifest: Manifest) -> None:
    names = {MANIFEST_NAME}
    for file in manifest.files():
        if file.file in names:
            raise BundleError(f"two entries name the file {file.file}")
        names.add(file.file)
    references = [reference.name for reference in manifest.references]
    if len(set(references)) != len(references):
        raise BundleError(f"two references have the same name: {', '.join(references)}")
    for stage in manifest.stages:
        for artifact in stage.artifacts:
            if artifact.precision not in manifest.precisions:
                raise BundleError(
                    f"{artifact.file} is {artifact.precision}, but precisions are "
                    f"{', '.join(manifest.precisions)}"
                )
        _check_artifacts(stage.name, stage.artifacts)


def _check_artifacts(name: str, artifacts: Sequence[Artifact]) -> None:
    keys = set()
    for artifact in artifacts:
        key = (artifact.kind, artifact.precision, artifact.target)
        if key in keys:
            raise BundleError(
                f"{name} has two {artifact.kind} files of {artifact.precision} for "
                f"{artifact.target or 'any device'}"
            )
        keys.add(key)


def _check_detector(detector: Detector) -> None:
    _check_artifacts("the face detector", detector.artifacts)
    graphs = [artifact.target for artifact in detector.artifacts if artifact.kind == "onnx"]
    if graphs != [None]:
        raise BundleError(
            f"the face detector has {len(graphs)} ONNX files, expected 1, for any device"
        )
    if detector.multiple > detector.long_side:
        raise BundleError(
            f"detector.long_side is {detector.long_side}, expected at least {detector.multiple}, "
            "the multiple of its input's sides"
        )
    size, points = detector.template_size, detector.template
    if not all(abs(value) <= _TEMPLATE_SIDES * size for point in points for value in point):
        raise BundleError(
            f"detector.template has a point more than {_TEMPLATE_SIDES} times template_size away"
        )
    if all(_TEMPLATE_SIDES * (max(axis) - min(axis)) < size for axis in zip(*points, strict=True)):
        raise BundleError(
            f"detector.template spans less than 1/{_TEMPLATE_SIDES} of template_size: not a face"
        )
