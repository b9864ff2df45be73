"""Shapes of an engine: the ends of its graph, and an optimisation profile for each shape."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from elir_deploy.errors import UnavailableError
from elir_deploy.runtime.manifest import Stage
from elir_deploy.runtime.tensors import TensorSpec

if TYPE_CHECKING:
    import tensorrt as trt

__all__ = ["add_profiles", "check_ends"]

#: A dimension that the graph leaves free.
_FREE = -1
#: Axes that depend on the height and width of the image.
_SPATIAL = {"NHWC": (1, 2), "NCHW": (2, 3)}


def check_ends(library: Any, network: trt.INetworkDefinition, stages: Sequence[Stage]) -> None:
    """Check inputs and output of a parsed graph against the manifest.

    Args:
        library: the module.
        network: the parsed graph.
        stages: the stage with its tensors for each shape.

    Raises:
        UnavailableError: they differ.
    """
    types = {"uint8": library.DataType.UINT8, "float32": library.DataType.FLOAT}
    inputs = list(zip(*(stage.inputs for stage in stages), strict=True))
    outputs = [tuple(stage.output for stage in stages)]
    for what, expected, tensors in (
        ("input", inputs, [network.get_input(i) for i in range(network.num_inputs)]),
        ("output", outputs, [network.get_output(i) for i in range(network.num_outputs)]),
    ):
        # A shape has a length and items, but no iterator of its own.
        parsed = [
            (t.name, t.dtype, tuple(t.shape[i] for i in range(len(t.shape)))) for t in tensors
        ]
        if parsed != [(of[0].name, types[of[0].dtype], _dimensions(of)) for of in expected]:
            wanted = "; ".join(f"{of[0]} in shape {_dimensions(of)}" for of in expected)
            raise UnavailableError(
                f"TensorRT reads the {what} of {stages[0].name} as {_described(parsed)}, expected "
                f"{wanted} as in the manifest"
            )


def _dimensions(specs: Sequence[TensorSpec]) -> tuple[int, ...]:
    """Dimensions in the graph of a tensor that has these shapes."""
    sides = list(specs[0].shape)
    if any(spec.shape[0] > 1 for spec in specs):
        sides[0] = _FREE
    if len(specs) > 1:
        for axis in _SPATIAL[specs[0].layout]:
            sides[axis] = _FREE
    return tuple(sides)


def _described(tensors: list[tuple[str, Any, tuple[int, ...]]]) -> str:
    return ", ".join(f"{name}: {dtype} {shape}" for name, dtype, shape in tensors) or "missing"


def add_profiles(builder: trt.Builder, config: trt.IBuilderConfig, stages: Sequence[Stage]) -> None:
    """Add an optimisation profile for each shape, in order, if the graph is for several shapes.

    A profile has one height and width and any batch up to the shape's, for which it is optimised.
    """
    if len(stages) == 1 and stages[0].input.shape[0] == 1:
        return
    for stage in stages:
        profile = builder.create_optimization_profile()
        for spec in stage.inputs:
            # Any sequence of numbers is taken, which the stubs do not know.
            least, most = cast("tuple[trt.Dims, trt.Dims]", ((1, *spec.shape[1:]), spec.shape))
            profile.set_shape(spec.name, least, most, most)
        config.add_optimization_profile(profile)
