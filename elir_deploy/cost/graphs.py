"""The layers of an ONNX graph with their operations and bytes, as an inference engine runs them.

Engines compute element-wise operators inside the kernel that produces their input, so that nothing
travels to memory in between. Here one joins the latest kernel that produces an input of its size,
unless another kernel has read that kernel's output. A tensor is read in the type in which it is
stored: its readers do a conversion to a wider type (float16 to float32, dequantisation), its
producer one to a narrower type (quantisation). Copies (Concat, Resize, Transpose) are kernels of
their own, which only a conversion may join and which move numbers in their stored type; some
engines avoid a few of them. Reshapes cost nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from elir_deploy.cost.operators import (
    CONVERSIONS,
    COPIES,
    ELEMENTWISE,
    NORMALIZATIONS,
    PRODUCTS,
    VIEWS,
    Tensors,
    operations,
    resize_taps,
)
from elir_deploy.cost.roofline import Layer
from elir_deploy.errors import BundleError
from elir_deploy.runtime.bundle import Bundle
from elir_deploy.runtime.libraries import import_library
from elir_deploy.runtime.manifest import Artifact, Stage, file_precision
from elir_deploy.scopes import stage_of

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

__all__ = ["bundle_layers", "graph_layers", "graph_precisions"]

#: ONNX's element types as a bundle names them.
_PRECISIONS = {"FLOAT": "fp32", "FLOAT16": "fp16", "BFLOAT16": "bf16", "INT8": "int8"}
_EIGHT_BITS = {"INT8", "UINT8"}


def _artifact(stage: Stage, precision: str) -> Artifact | None:
    """The ONNX file that runs a stage in ``precision``; None where there is none."""
    required = ("onnx", file_precision(precision), None)
    return next((a for a in stage.artifacts if (a.kind, a.precision, a.target) == required), None)


def graph_precisions(bundle: Bundle) -> list[str]:
    """Precisions in which a bundle has an ONNX graph of every stage."""
    return [p for p in bundle.manifest.precisions if all(_artifact(s, p) for s in bundle.stages)]


def bundle_layers(bundle: Bundle, precision: str) -> list[Layer]:
    """Layers of all stages of a bundle, for one image of its first shape, in order of execution.

    Raises:
        BundleError: it has no such graph, a file is damaged, or an operator or a shape is unknown.
        MissingDependencyError: onnx is not installed.
    """
    layers: list[Layer] = []
    for stage in bundle.stages:
        artifact = _artifact(stage, precision)
        if artifact is None:
            available = ", ".join(graph_precisions(bundle)) or "none"
            raise BundleError(
                f"{bundle.path} has no {precision} ONNX graph of {stage.name} to compute costs "
                f"from; it has {available}"
            )
        file = bundle.checked_file(artifact.file)
        model = _onnx().load(str(file), load_external_data=False)
        if bundle.manifest.several:
            from elir_deploy.fixed_shapes import fixed

            model = fixed(model, {spec.name: (1, *spec.shape[1:]) for spec in stage.inputs})
        layers += graph_layers(model, stage.name)
    return layers


def graph_layers(model: ModelProto, part: str = "graph") -> list[Layer]:
    """Layers of a graph, in the order of execution.

    Args:
        model: with fixed shapes; it is not changed.
        part: of layers whose names do not begin with a part of the network.

    Raises:
        BundleError: an operator, a type or a shape is unknown.
        MissingDependencyError: onnx is not installed.
    """
    onnx = _onnx()
    try:
        inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    except (onnx.shape_inference.InferenceError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise BundleError(f"the graph is inconsistent: {reason}") from None
    return _Kernels(Tensors(inferred)).layers(inferred.graph.node, part)


def _onnx() -> Any:
    return import_library("onnx", "export", "read ONNX graphs", attribute="shape_inference")


# Kernels --------------------------------------------------------------------------------------


@dataclass
class _Kernel:
    """Nodes that run as one; the first names the kernel."""

    nodes: list[NodeProto] = field(default_factory=list)
    precision: str = "fp32"  # of its matrix product, or of its output
    macs: int = 0
    other_flops: int = 0
    inputs: set[str] = field(default_factory=set)  # as stored, its own nodes' outputs included
    outputs: set[str] = field(default_factory=set)
    reread_bytes: int = 0  # of inputs read twice
    copies: bool = False  # it only moves numbers
    open: bool = True  # no other kernel has read its output, so that more nodes may join


class _Kernels:
    """State of one pass over a graph in order."""

    def __init__(self, tensors: Tensors) -> None:
        self._tensors = tensors
        self._kernels: list[_Kernel] = []
        self._producer: dict[str, int] = {}  # stored tensor to its kernel
        self._stored: dict[str, str] = {}  # tensor to the one it is a view or a wider form of

    def layers(self, nodes: Iterable[NodeProto], part: str) -> list[Layer]:
        for node in nodes:
            if self._is_free(node):
                self._stored[node.output[0]] = self._as_stored(node.input[0])
            else:
                self._add(node)
        readers = defaultdict[str, set[int]](set)
        for index, kernel in enumerate(self._kernels):
            for name in kernel.inputs:
                readers[name].add(index)
        results = {self._as_stored(name) for name in self._tensors.outputs}
        layers, size = [], self._tensors.nbytes
        for index, kernel in enumerate(self._kernels):
            written = [n for n in kernel.outputs if n in results or readers[n] - {index}]
            head = kernel.nodes[0]
            part = stage_of(head.name) or part  # inserted nodes have no scope
            layers.append(
                Layer(
                    name=head.name or head.output[0],
                    operators="+".join(node.op_type for node in kernel.nodes),
                    part=part,
                    precision=kernel.precision,
                    macs=kernel.macs,
                    other_flops=kernel.other_flops,
                    bytes_read=sum(map(size, kernel.inputs - kernel.outputs)) + kernel.reread_bytes,
                    bytes_written=sum(map(size, written)),
                )
            )
        return layers

    def _is_free(self, node: NodeProto) -> bool:
        """Whether a node moves nothing itself: a view, or a conversion that its readers do."""
        if node.op_type in VIEWS:
            return True
        if node.op_type not in CONVERSIONS:
            return False
        output, stored = node.output[0], self._as_stored(node.input[0])
        widens = self._tensors.itemsize(output) >= self._tensors.itemsize(stored)
        return widens and output not in self._tensors.outputs

    def _as_stored(self, name: str) -> str:
        return self._stored.get(name, name)

    def _add(self, node: NodeProto) -> None:
        inputs = [self._as_stored(name) for name in node.input if name]
        index = self._joined_kernel(node, inputs)
        for name in inputs:
            producer = self._producer.get(name)
            if producer is not None and producer != index:
                self._kernels[producer].open = False
        if index is None:
            index = len(self._kernels)
            self._kernels.append(_Kernel(copies=node.op_type in COPIES))
        kernel = self._kernels[index]
        macs, other = operations(node, self._tensors)
        if node.op_type in COPIES:
            self._copy_as_stored(node)
        if not kernel.nodes:
            kernel.precision = self._precision(node, inputs)
            if node.op_type in NORMALIZATIONS:
                kernel.reread_bytes = self._tensors.nbytes(inputs[0])
        kernel.nodes.append(node)
        kernel.macs += macs
        kernel.other_flops += other
        kernel.inputs.update(inputs)
        for name in filter(None, node.output):
            kernel.outputs.add(name)
            self._producer[name] = index

    def _joined_kernel(self, node: NodeProto, inputs: Iterable[str]) -> int | None:
        """The kernel that an element-wise node joins: the latest that produces an input."""
        if node.op_type not in ELEMENTWISE:
            return None
        count = self._tensors.count(node.output[0])
        converts = node.op_type in CONVERSIONS
        joinable = [
            self._producer[name]
            for name in inputs
            if name in self._producer
            and self._tensors.count(name) == count
            and self._kernels[self._producer[name]].open
            and (converts or not self._kernels[self._producer[name]].copies)
        ]
        return max(joinable, default=None)

    def _copy_as_stored(self, node: NodeProto) -> None:
        """Let a copy of numbers that are stored in a narrower type move them in that type."""
        data = node.input if node.op_type == "Concat" else node.input[:1]
        stored = [self._as_stored(name) for name in data]
        size = self._tensors.itemsize
        narrower = all(size(s) < size(name) for s, name in zip(stored, data, strict=True))
        alike = len({self._tensors.type_name(name) for name in stored}) == 1
        if narrower and alike and not resize_taps(node):
            self._tensors.store_as(node.output[0], stored[0])

    def _precision(self, node: NodeProto, inputs: list[str]) -> str:
        """Of a matrix product: from the types in which its operands are stored."""
        kind = self._tensors.type_name(node.output[0])
        if node.op_type in PRODUCTS:
            stored = {self._tensors.type_name(name) for name in inputs[:2]}
            kind = "INT8" if stored <= _EIGHT_BITS else kind
        return _PRECISIONS.get(kind, kind.lower())
