"""Shapes of an engine: the ends of its graph, and its optimisation profiles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast

from elir_deploy.errors import UnavailableError
from elir_deploy.runtime.manifest import Detector, Stage
from elir_deploy.runtime.tensors import TensorSpec
from elir_deploy.runtime.tiling import next_multiple

if TYPE_CHECKING:
    import tensorrt as trt

__all__ = ["DetectorEnds", "Ends", "StageEnds"]

#: A dimension that the graph leaves free.
_FREE = -1
#: Axes that depend on the height and width of the image.
_SPATIAL = {"NHWC": (1, 2), "NCHW": (2, 3)}


class Ends(Protocol):
    """What an engine is built for, beside its graph."""

    @property
    def name(self) -> str:
        """Of the graph, for messages."""

    def check(self, library: Any, network: trt.INetworkDefinition) -> None:
        """Check inputs and outputs of a parsed graph.

        Raises:
            UnavailableError: they differ from the manifest's.
        """

    def add_profiles(self, builder: trt.Builder, config: trt.IBuilderConfig) -> None:
        """Add the optimisation profiles, of which a graph of one shape needs none."""


@dataclass(frozen=True)
class StageEnds:
    """A stage, with its tensors for each shape of the bundle.

    There is a profile for each shape, in order, if there are several shapes or batches. It has one
    height and width and any batch up to the shape's, for which it is optimised.
    """

    stages: Sequence[Stage]

    @property
    def name(self) -> str:
        return self.stages[0].name

    def check(self, library: Any, network: trt.INetworkDefinition) -> None:
        types = {"uint8": library.DataType.UINT8, "float32": library.DataType.FLOAT}
        inputs = list(zip(*(stage.inputs for stage in self.stages), strict=True))
        outputs = [tuple(stage.output for stage in self.stages)]
        for what, tensors, parsed in (
            ("input", inputs, _inputs(network)),
            ("output", outputs, _outputs(network)),
        ):
            if parsed != [(of[0].name, types[of[0].dtype], _dimensions(of)) for of in tensors]:
                expected = "; ".join(f"{of[0]} in shape {_dimensions(of)}" for of in tensors)
                raise _differs(self.name, what, parsed, expected)

    def add_profiles(self, builder: trt.Builder, config: trt.IBuilderConfig) -> None:
        if len(self.stages) == 1 and self.stages[0].input.shape[0] == 1:
            return
        for stage in self.stages:
            most = {spec.name: spec.shape for spec in stage.inputs}
            least = {name: (1, *shape[1:]) for name, shape in most.items()}
            _add_profile(builder, config, least, most)


@dataclass(frozen=True)
class DetectorEnds:
    """A face detector.

    There are three profiles of one size each, at the detector's long side: 4:3, 3:4 and a square.
    Pictures are extended to the smallest that holds them. With one profile for any size,
    TensorRT-RTX builds other bytes each time.
    """

    detector: Detector
    name = "detector"

    def check(self, library: Any, network: trt.INetworkDefinition) -> None:
        float32 = library.DataType.FLOAT
        parsed = _inputs(network)
        if parsed != [(self.detector.input, float32, (1, 3, _FREE, _FREE))]:
            expected = f"{self.detector.input}: float32 in shape (1, 3, -1, -1)"
            raise _differs(self.name, "input", parsed, expected)
        parsed = _outputs(network)
        names = set(self.detector.outputs)
        if {name for name, _, _ in parsed} != names or {kind for _, kind, _ in parsed} != {float32}:
            raise _differs(self.name, "output", parsed, f"float32 {', '.join(sorted(names))}")

    def add_profiles(self, builder: trt.Builder, config: trt.IBuilderConfig) -> None:
        multiple = self.detector.multiple
        long, short = (
            next_multiple(side, multiple)
            for side in (self.detector.long_side, self.detector.long_side * 3 // 4)
        )
        for height, width in ((short, long), (long, short), (long, long)):
            shape = {self.detector.input: (1, 3, height, width)}
            _add_profile(builder, config, shape, shape)


Parsed = list[tuple[str, Any, tuple[int, ...]]]


def _inputs(network: trt.INetworkDefinition) -> Parsed:
    return [_parsed(network.get_input(i)) for i in range(network.num_inputs)]


def _outputs(network: trt.INetworkDefinition) -> Parsed:
    return [_parsed(network.get_output(i)) for i in range(network.num_outputs)]


def _parsed(tensor: trt.ITensor) -> tuple[str, Any, tuple[int, ...]]:
    # A shape has a length and items, but no iterator of its own.
    return tensor.name, tensor.dtype, tuple(tensor.shape[i] for i in range(len(tensor.shape)))


def _dimensions(specs: Sequence[TensorSpec]) -> tuple[int, ...]:
    """Dimensions in the graph of a tensor that has these shapes."""
    sides = list(specs[0].shape)
    if any(spec.shape[0] > 1 for spec in specs):
        sides[0] = _FREE
    if len(specs) > 1:
        for axis in _SPATIAL[specs[0].layout]:
            sides[axis] = _FREE
    return tuple(sides)


def _differs(name: str, what: str, parsed: Parsed, expected: str) -> UnavailableError:
    read = ", ".join(f"{name}: {dtype} {shape}" for name, dtype, shape in parsed) or "missing"
    return UnavailableError(
        f"TensorRT reads the {what} of {name} as {read}, expected {expected} as in the manifest"
    )


def _add_profile(
    builder: trt.Builder,
    config: trt.IBuilderConfig,
    least: Mapping[str, tuple[int, ...]],
    most: Mapping[str, tuple[int, ...]],
) -> None:
    """Add a profile that is optimised for the largest shapes."""
    profile = builder.create_optimization_profile()
    for name in most:
        # Any sequence of numbers is taken, which the stubs do not know.
        first, last = cast("tuple[trt.Dims, trt.Dims]", (least[name], most[name]))
        profile.set_shape(name, first, last, last)
    config.add_optimization_profile(profile)
