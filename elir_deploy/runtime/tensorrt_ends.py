"""Inputs, outputs and optimisation profiles of an engine, compared with the manifest's."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from elir_deploy.errors import BundleError
from elir_deploy.runtime.detector_graph import check_detector_ends
from elir_deploy.runtime.manifest import Detector, Manifest, Stage
from elir_deploy.runtime.onnx_check import End
from elir_deploy.runtime.tensorrt_library import Library

if TYPE_CHECKING:
    import tensorrt as trt  # TensorRT-RTX has the same classes, and more

__all__ = ["check_ends", "check_profiles", "detector_sizes", "sides_of"]

_TYPES = {"uint8": "UINT8", "float32": "FLOAT"}
#: Of a detector's pictures, in pixels.
_MAX_SIDE = 2**14


def check_ends(
    library: Library, engine: trt.ICudaEngine, path: Path, stage: Stage, manifest: Manifest
) -> None:
    """Compare inputs and outputs with the manifest's.

    Raises:
        BundleError: they differ.
    """
    trt = library.module
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    for what, mode, specs in (
        ("input", trt.TensorIOMode.INPUT, stage.inputs),
        ("output", trt.TensorIOMode.OUTPUT, (stage.output,)),
    ):
        actual = [
            _describe(
                name,
                engine.get_tensor_dtype(name).name,
                sides_of(engine.get_tensor_shape(name)),
                engine.get_tensor_format(name).name,
            )
            for name in names
            if engine.get_tensor_mode(name) == mode
        ]
        expected = [
            _describe(spec.name, _TYPES[spec.dtype], _dimensions(manifest, spec.name), "LINEAR")
            for spec in specs
        ]
        if sorted(actual) != sorted(expected):
            raise BundleError(
                f"{path}: the engine's {what} is {', '.join(actual) or 'missing'}, the manifest "
                f"says {', '.join(expected)}"
            )


def _dimensions(manifest: Manifest, name: str) -> tuple[int, ...]:
    """As TensorRT has them: -1 is free."""
    return tuple(-1 if side is None else side for side in manifest.dimensions(name))


def check_profiles(engine: trt.ICudaEngine, path: Path, stage: Stage, manifest: Manifest) -> None:
    """Check that there is an optimisation profile for each shape, in order.

    Raises:
        BundleError: there is not.
    """
    if not manifest.several:
        return
    count = len(manifest.shapes)
    if engine.num_optimization_profiles != count:
        raise BundleError(
            f"{path}: the engine has {engine.num_optimization_profiles} optimisation profiles, "
            f"expected {count}, one for each shape"
        )
    for index, shape in enumerate(manifest.shapes):
        for spec in stage.inputs:
            most = manifest.tensor(spec.name, shape).shape
            sides = engine.get_tensor_profile_shape(spec.name, index)
            actual = (sides_of(sides[0]), sides_of(sides[2]))
            if actual != ((1, *most[1:]), most):
                raise BundleError(
                    f"{path}: profile {index} of {spec.name} is for {actual[0]} to {actual[1]}, "
                    f"expected {(1, *most[1:])} to {most}"
                )


def detector_sizes(
    library: Library, engine: trt.ICudaEngine, path: Path, detector: Detector
) -> tuple[tuple[int, int], ...]:
    """Height and width of each optimisation profile of a face detector's engine, in order.

    Raises:
        BundleError: it has other inputs or outputs than the manifest says, or profiles that are
            not of one picture's size.
    """
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    of_input = library.module.TensorIOMode.INPUT
    inputs = [_end(engine, name) for name in names if engine.get_tensor_mode(name) == of_input]
    outputs = [_end(engine, name) for name in names if engine.get_tensor_mode(name) != of_input]
    check_detector_ends(path, detector, inputs, outputs)
    sizes = []
    for index in range(engine.num_optimization_profiles):
        least, _, most = map(sides_of, engine.get_tensor_profile_shape(detector.input, index))
        height, width = most[2:]
        sides = range(detector.multiple, _MAX_SIDE + 1, detector.multiple)
        if least != most or most[:2] != (1, 3) or height not in sides or width not in sides:
            raise BundleError(
                f"{path}: profile {index} of {detector.input} is for {least} to {most}, expected "
                f"one picture of one size, with sides in multiples of {detector.multiple} up to "
                f"{_MAX_SIDE}"
            )
        sizes.append((height, width))
    return tuple(sizes)


def _end(engine: trt.ICudaEngine, name: str) -> End:
    dtype, layout = engine.get_tensor_dtype(name).name, engine.get_tensor_format(name).name
    known = {f"{short} LINEAR": kind for kind, short in _TYPES.items()}
    kind = known.get(f"{dtype} {layout}", f"{dtype} {layout}")
    sides = sides_of(engine.get_tensor_shape(name))
    return End(name, kind, tuple(None if side < 0 else side for side in sides))


def sides_of(sides: trt.Dims) -> tuple[int, ...]:
    """TensorRT's dimensions as a tuple."""
    return tuple(sides[index] for index in range(len(sides)))  # it has no __iter__ of its own


def _describe(name: str, dtype: str, shape: tuple[int, ...], layout: str) -> str:
    return f"{name}: {dtype} {'x'.join(map(str, shape))} {layout}"
