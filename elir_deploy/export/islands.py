"""Islands: the layers of a float16 graph that stay float32, chosen by measurement.

Three quantities are measured while the float32 graph runs on real and on extreme images: the range
of every tensor, the sums of squares in normalisation, and the error of each normalisation's output
when it sums in float16. The largest partial sum of a convolution, in any order of addition, follows
from the ranges. Each island has a reason with the number that decided.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from elir_deploy.export.emulation import NORMALIZATIONS, HalfForms, NodeSequence
from elir_deploy.export.precision import (
    Probe,
    in_image_tail,
    largest_magnitudes,
    open_session,
    watch_ranges,
)
from elir_deploy.export.synthetic import checks, flat
from elir_deploy.pixels import decibels
from elir_deploy.scopes import layer_of

__all__ = [
    "FLOAT16_MAX",
    "HEADROOM",
    "LEAST_DB",
    "Evidence",
    "Float16Plan",
    "Normalization",
    "Reason",
    "extreme_images",
    "gather_evidence",
    "plan_float16",
    "stage_feeds",
]

FLOAT16_MAX = 65504.0
#: Values within this factor of the limit stay float32: users' images differ from ours.
HEADROOM = 4.0
#: Least signal-to-error ratio, in dB, of a layer's output with sums in float16. A layer with 43
#: changes nothing in an image; the margin is for other images.
LEAST_DB = 50.0
#: Side in pixels of a square of the chequered image.
SQUARE = 16
#: Convolutions, and the axes of a weight that one output channel sums over.
SUMMED_AXES = {"Conv": (1, 2, 3), "ConvTranspose": (0, 2, 3)}

#: Which normalisations are float32: those that a measurement says, all, or none.
Normalization = Literal["measured", "float32", "float16"]
Kind = Literal["range", "squares", "overflow", "error", "partial", "requested"]
#: In order of importance.
KINDS: tuple[Kind, ...] = get_args(Kind)
OperatorKind = Literal["normalisation", "convolution", "other"]


def extreme_images(height: int, width: int) -> dict[str, NDArray[np.uint8]]:
    """Images more extreme than any photograph: name to (height, width, 3) uint8 RGB.

    Where an image is of one colour, feature maps nearly are: their mean is large against their
    deviation, and a variance computed by sums in float16 may be negative.
    """
    levels = {"black": 0, "grey": 128, "white": 255}
    images = {name: flat(height, width, *3 * (level,)) for name, level in levels.items()}
    return images | {"chequered": checks(height, width, SQUARE)}


def stage_feeds(
    graphs: Mapping[str, ModelProto], inputs: Iterable[Mapping[str, NDArray[Any]]]
) -> dict[str, list[dict[str, NDArray[Any]]]]:
    """Inputs of each stage: for each image, input name to array.

    Args:
        graphs: float32 graph of each stage, in order.
        inputs: of the whole network, for each image.
    """
    values = [dict(feed) for feed in inputs]
    feeds = {}
    last = list(graphs)[-1]
    for stage, graph in graphs.items():
        names = [value.name for value in graph.graph.input]
        feeds[stage] = [{name: known[name] for name in names} for known in values]
        if stage != last:
            session, output = open_session(graph), graph.graph.output[0].name
            for known, feed in zip(values, feeds[stage], strict=True):
                known[output] = session.run(None, feed)[0]
    return feeds


@dataclass(frozen=True)
class Evidence:
    """Measurements that decide what may be float16.

    Attributes:
        amax: largest magnitude of every float32 tensor, inputs and weights included.
        sums: node name to the largest sum of squares in it.
        error_db: node name to signal over error of its output when it sums in float16, against
            float32 sums of the same input; minus infinity where the output is not finite.
    """

    amax: Mapping[str, float]
    sums: Mapping[str, float] = field(default_factory=dict)
    error_db: Mapping[str, float] = field(default_factory=dict)

    def __or__(self, other: Evidence) -> Evidence:
        """The worse of two measurements of one graph, such as at two sizes."""
        return Evidence(
            _merged(max, self.amax, other.amax),
            _merged(max, self.sums, other.sums),
            _merged(min, self.error_db, other.error_db),
        )


def _merged(
    worse: Callable[[float, float], float], first: Mapping[str, float], second: Mapping[str, float]
) -> dict[str, float]:
    return {
        name: worse(first.get(name, value), second.get(name, value))
        for name, value in (first | second).items()  # type: ignore[operator]  # both are dicts
    }


def gather_evidence(model: ModelProto, inputs: Sequence[Mapping[str, NDArray[Any]]]) -> Evidence:
    """Run a float32 graph on some inputs and keep the worst measurements.

    Args:
        model: with inferred types and shapes.
        inputs: name to array, one mapping per run; results on them are known to be finite.
    """
    probe = Probe(model)
    watch_ranges(probe)
    forms = HalfForms(model)
    nodes = [node for node in model.graph.node if forms.has(node)]
    for node in nodes:
        _watch_sums(probe, forms, node)
    runs = list(probe.run(inputs))
    sums = {n.name: max(numbers[f"{n.name}.largest"] for numbers in runs) for n in nodes}
    error_db = {
        n.name: min(
            _signal_to_error(numbers[f"{n.name}.signal"], numbers[f"{n.name}.error"])
            for numbers in runs
        )
        for n in nodes
    }
    amax = largest_magnitudes(model, runs)
    for feed in inputs:
        for name, array in feed.items():
            if array.dtype == np.float32:
                amax[name] = max(amax.get(name, 0.0), float(np.abs(array).max()))
    return Evidence(amax, sums, error_db)


def _watch_sums(probe: Probe, forms: HalfForms, node: NodeProto) -> None:
    """Let ``probe`` measure the largest sum in ``node``, and the error of its half form."""
    sequence = NodeSequence(f"{node.name}.watched")
    source = sequence.rounded(node.input[0], TensorProto.FLOAT16)
    # Its output as an island, whose input is rounded, too.
    exact = f"{source}.exact"
    island = NodeProto()
    island.CopyFrom(node)
    island.name = exact
    island.input[0] = source
    island.output[0] = exact
    half = forms.of(node, source, f"{source}.summed")
    sequence.nodes.extend([island, *half.nodes])

    rows = forms.rows(node, source, sequence)
    last_axis = sequence.constant(np.array([1], np.int64))
    sums = sequence.exact("ReduceSum", sequence.exact("Mul", rows, rows), last_axis, keepdims=0)
    sequence.exact("ReduceMax", sums, keepdims=0)
    largest = sequence.name_last(f"{node.name}.largest")

    error = sequence.exact("Sub", f"{source}.summed", exact)
    energies = []
    for name, tensor in (("signal", exact), ("error", error)):
        sequence.exact("ReduceSum", sequence.exact("Mul", tensor, tensor), keepdims=0)
        energies.append(sequence.name_last(f"{node.name}.{name}"))
    probe.watch(node, sequence.nodes, [largest, *energies], [*sequence.constants, *half.constants])


def _signal_to_error(signal: float, error: float) -> float:
    if error == 0:
        return math.inf
    return decibels(error / signal) if signal and math.isfinite(error) else -math.inf


@dataclass(frozen=True)
class Reason:
    """Why a layer stays float32.

    Attributes:
        kind: ``range`` of a tensor, sum of ``squares``, ``overflow`` of sums in float16, or their
            ``error``; ``partial`` sums of a convolution; or
            ``requested`` by the options.
        part: kind of layer.
        value: measured; in dB for ``error``.
        tensor: that has the range.
    """

    kind: Kind
    part: OperatorKind
    value: float = 0.0
    tensor: str = ""

    def __str__(self) -> str:
        if self.kind == "range":
            return f"|{self.tensor}| reaches {self.value:.4g}"
        return _reason_text(self.kind, [self.value])

    @property
    def order(self) -> tuple[int, float]:
        """Sort key: the first of a layer's reasons is shown, by kind, then the worst value."""
        worst_first = self.value if self.kind == "error" else -self.value
        return KINDS.index(self.kind), -math.inf if math.isnan(worst_first) else worst_first


def _reason_text(kind: Kind, values: Sequence[float]) -> str:
    """The reason of one layer, or the common one of several."""
    least, most = (
        f"{v:.0f}" if kind == "error" else f"{v:.3g}" for v in (min(values), max(values))
    )
    span = least if least == most else f"{least} to {most}"
    limit = f"the limit is {FLOAT16_MAX / HEADROOM:.0f}, 1/{HEADROOM:g} of float16's"
    return {
        "range": f"values reach {span}; {limit}",
        "squares": f"sums of squares reach {span}; {limit}",
        "overflow": "sums in float16 are not finite",
        "error": f"sums in float16 leave {span} dB; the limit is {LEAST_DB:g}",
        "partial": f"partial sums may reach {span}; float16 ends at {FLOAT16_MAX:.0f}",
        "requested": "as requested",
    }[kind]


@dataclass(frozen=True)
class Float16Plan:
    """Which layers of a graph stay float32.

    Attributes:
        reasons: by layer name (see :func:`layer_of`).
    """

    reasons: Mapping[str, Reason] = field(default_factory=dict)

    def keeps(self, node: NodeProto) -> bool:
        """Whether ``node`` computes in float32."""
        return in_image_tail(node) or layer_of(node.name) in self.reasons

    def summary(self) -> list[str]:
        """A line for each kind of layer and reason, to be printed."""
        groups: dict[tuple[OperatorKind, Kind], list[float]] = {}
        for reason in self.reasons.values():
            groups.setdefault((reason.part, reason.kind), []).append(reason.value)
        return [
            f"{part}, {len(values)} layer{'s' * (len(values) > 1)}: {_reason_text(kind, values)}"
            for (part, kind), values in sorted(groups.items())
        ]


def plan_float16(
    model: ModelProto, evidence: Evidence, *, normalization: Normalization = "measured"
) -> Float16Plan:
    """Choose the islands by the evidence and the options.

    Args:
        model: the float32 graph.
        evidence: on it.
        normalization: whether what sums over a feature map is float32: where measured, always, or
            only where a range demands it.
    """
    judge = _Judge(model, evidence, normalization)
    reasons: dict[str, Reason] = {}
    for node in model.graph.node:
        layer = layer_of(node.name)
        for reason in judge.reasons_against(node):
            if layer not in reasons or reason.order < reasons[layer].order:
                reasons[layer] = reason
    return Float16Plan(reasons)


class _Judge:
    def __init__(self, model: ModelProto, evidence: Evidence, normalization: Normalization) -> None:
        self.evidence = evidence
        self.normalization = normalization
        self.gains = _largest_gains(model)

    def reasons_against(self, node: NodeProto) -> Iterator[Reason]:
        """Reasons against float16 in ``node``."""
        part = _operator_kind(node)
        limit = FLOAT16_MAX / HEADROOM
        for name in (*node.input, *node.output):
            peak = self.evidence.amax.get(name, 0.0)
            if not peak <= limit:  # so that what is not a number counts
                yield Reason("range", part, peak, layer_of(name))
        if part == "convolution":
            partial = self._partial_sums(node)
            if not partial <= FLOAT16_MAX:
                yield Reason("partial", part, partial)
        if part == "normalisation" and self.normalization == "float32":
            yield Reason("requested", part)
        if part == "normalisation" and self.normalization == "measured":
            squares = self.evidence.sums.get(node.name, 0.0)
            if not squares <= limit:
                yield Reason("squares", part, squares)
            error_db = self.evidence.error_db.get(node.name, math.inf)
            if error_db == -math.inf:
                yield Reason("overflow", part)
            elif error_db < LEAST_DB:
                yield Reason("error", part, error_db)

    def _partial_sums(self, node: NodeProto) -> float:
        """Upper bound of all partial sums, whatever their signs and order."""
        amax = self.evidence.amax
        bias = amax.get(node.input[2], 0.0) if len(node.input) > 2 else 0.0
        return amax.get(node.input[0], 0.0) * self.gains.get(node.input[1], 0.0) + bias


def _operator_kind(node: NodeProto) -> OperatorKind:
    if node.op_type in NORMALIZATIONS:
        return "normalisation"
    return "convolution" if node.op_type in SUMMED_AXES else "other"


def _largest_gains(model: ModelProto) -> dict[str, float]:
    """Weight of a convolution to the largest sum of its magnitudes in an output channel."""
    axes = {
        n.input[1]: SUMMED_AXES[n.op_type] for n in model.graph.node if n.op_type in SUMMED_AXES
    }
    return {
        tensor.name: float(np.abs(numpy_helper.to_array(tensor)).sum(axes[tensor.name]).max())
        for tensor in model.graph.initializer
        if tensor.name in axes
    }
