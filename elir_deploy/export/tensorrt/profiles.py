"""Shapes of an engine: the ends of its graph, and its optimisation profiles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, cast

from elir_deploy.errors import UnavailableError
from elir_deploy.runtime.graph_ends import End, GraphEnds
from elir_deploy.runtime.manifest import Detector, Stage
from elir_deploy.runtime.tensorrt_ends import dtype_of, open_sides
from elir_deploy.runtime.tensors import TensorSpec
from elir_deploy.runtime.tiling import next_multiple

if TYPE_CHECKING:
    import tensorrt as trt

__all__ = ["DetectorEnds", "Ends", "StageEnds"]

#: Axes that depend on the height and width of the image.
_SPATIAL = {"NHWC": (1, 2), "NCHW": (2, 3)}


class Ends(Protocol):
    """What an engine is built for, beside its graph."""

    @property
    def name(self) -> str:
        """Of the graph, for messages."""

    def check(self, network: trt.INetworkDefinition) -> None:
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

    def check(self, network: trt.INetworkDefinition) -> None:
        inputs = zip(*(stage.inputs for stage in self.stages), strict=True)
        outputs = [tuple(stage.output for stage in self.stages)]
        expected = ([_end(tensors) for tensors in ends] for ends in (inputs, outputs))
        for what, seen, wanted in zip(
            ("input", "output"), _read_ends(network), expected, strict=True
        ):
            if seen != wanted:
                raise _differs(self.name, what, seen, ", ".join(map(str, wanted)))

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

    def check(self, network: trt.INetworkDefinition) -> None:
        inputs, outputs = _read_ends(network)
        picture = End(self.detector.input, "float32", (1, 3, None, None))
        if inputs != [picture]:
            raise _differs(self.name, "input", inputs, str(picture))
        names = set(self.detector.outputs)
        if {(end.name, end.dtype) for end in outputs} != {(name, "float32") for name in names}:
            raise _differs(self.name, "output", outputs, f"float32 {', '.join(sorted(names))}")

    def add_profiles(self, builder: trt.Builder, config: trt.IBuilderConfig) -> None:
        multiple = self.detector.multiple
        long, short = (
            next_multiple(side, multiple)
            for side in (self.detector.long_side, self.detector.long_side * 3 // 4)
        )
        for height, width in ((short, long), (long, short), (long, long)):
            shape = {self.detector.input: (1, 3, height, width)}
            _add_profile(builder, config, shape, shape)


def _read_ends(network: trt.INetworkDefinition) -> GraphEnds:
    return GraphEnds(
        [_read_end(network.get_input(index)) for index in range(network.num_inputs)],
        [_read_end(network.get_output(index)) for index in range(network.num_outputs)],
    )


def _read_end(tensor: trt.ITensor) -> End:
    return End(tensor.name, dtype_of(tensor.dtype), open_sides(tensor.shape))


def _end(specs: Sequence[TensorSpec]) -> End:
    """The end of a graph that is a tensor of these shapes."""
    first = specs[0]
    sides: list[int | None] = list(first.shape)
    if any(spec.shape[0] > 1 for spec in specs):
        sides[0] = None
    if len(specs) > 1:
        for axis in _SPATIAL[first.layout]:
            sides[axis] = None
    return End(first.name, first.dtype, tuple(sides))


def _differs(name: str, what: str, seen: Sequence[End], expected: str) -> UnavailableError:
    read = ", ".join(map(str, seen)) or "nothing"
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
