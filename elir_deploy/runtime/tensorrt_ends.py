"""Inputs, outputs and optimisation profiles of an engine, compared with the manifest's."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from elir_deploy.errors import BundleError
from elir_deploy.runtime.detector_graph import check_detector_ends
from elir_deploy.runtime.graph_ends import End, GraphEnds
from elir_deploy.runtime.manifest import Detector, Manifest, Stage
from elir_deploy.runtime.tensorrt_library import Library

if TYPE_CHECKING:
    import tensorrt as trt  # TensorRT-RTX has the same classes, and more

__all__ = [
    "check_profiles",
    "detector_sizes",
    "dtype_of",
    "open_sides",
    "read_ends",
    "sides_of",
]

_DTYPES = {"UINT8": "uint8", "FLOAT": "float32"}
#: Of a detector's pictures, in pixels.
_MAX_SIDE = 2**14


def read_ends(library: Library, engine: trt.ICudaEngine) -> GraphEnds:
    """Inputs and outputs of an engine."""
    trt = library.module

    def read(name: str) -> End:
        dtype = dtype_of(engine.get_tensor_dtype(name))
        layout = engine.get_tensor_format(name)
        if layout != trt.TensorFormat.LINEAR:
            dtype += f" in the format {layout.name}"
        if engine.get_tensor_location(name) != trt.TensorLocation.DEVICE:
            dtype += " on the host"
        return End(name, dtype, open_sides(engine.get_tensor_shape(name)))

    ends = GraphEnds([], [])
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        is_input = engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
        (ends.inputs if is_input else ends.outputs).append(read(name))
    return ends


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
    check_detector_ends(path, detector, read_ends(library, engine))
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


def dtype_of(dtype: trt.DataType) -> str:
    """The manifest's name of a type, or TensorRT's where the manifest has none."""
    return _DTYPES.get(dtype.name, dtype.name)


def open_sides(sides: trt.Dims) -> tuple[int | None, ...]:
    """TensorRT's dimensions as :class:`~.graph_ends.End` has them."""
    return tuple(None if side < 0 else side for side in sides_of(sides))


def sides_of(sides: trt.Dims) -> tuple[int, ...]:
    """TensorRT's dimensions as a tuple."""
    return tuple(sides[index] for index in range(len(sides)))  # it has no __iter__ of its own
