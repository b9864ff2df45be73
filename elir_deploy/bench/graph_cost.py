"""The layers of an ONNX graph with their operations and bytes, as an inference engine runs them.

Engines compute element-wise operators inside the kernel that makes their input, so that nothing
travels to memory in between. Here one joins the latest kernel that makes an input of its size, as
long as nobody else has read what that kernel makes. A tensor is read in the type it is stored in:
a conversion to a wider type (float16 to float32, dequantisation) is done by whoever reads it, one
to a narrower type (quantisation) by whoever makes it. Copies (Concat, Resize, Transpose) are
kernels of their own, which only a conversion may join and which move numbers in the type they are
stored in; some engines save a few of them. Reshapes cost nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from elir_deploy.bench.cost_model import Layer
from elir_deploy.bench.onnx_operators import (
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
from elir_deploy.errors import BundleError, MissingDependencyError
from elir_deploy.runtime.bundle import Bundle
from elir_deploy.runtime.manifest import Stage, file_precision
from elir_deploy.scopes import stage_of

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

__all__ = ["bundle_layers", "graph_layers", "graph_precisions", "read_graph"]

#: What the element types of ONNX are called in a bundle.
_PRECISIONS = {"FLOAT": "fp32", "FLOAT16": "fp16", "BFLOAT16": "bf16", "INT8": "int8"}
_EIGHT_BITS = {"INT8", "UINT8"}


def graph_precisions(bundle: Bundle) -> list[str]:
    """Precisions in which a bundle has an ONNX graph of every stage."""
    return [p for p in bundle.manifest.precisions if all(_graph_file(s, p) for s in bundle.stages)]


def bundle_layers(bundle: Bundle, precision: str, *, fuse: bool = True) -> list[Layer]:
    """Layers of all stages of a bundle, in the order they run.

    Args:
        bundle: opened.
        precision: of its files.
        fuse: as for :func:`graph_layers`.

    Raises:
        BundleError: it has no such graph, a file is damaged, or an operator or a shape is unknown.
        MissingDependencyError: onnx is not installed.
    """
    layers: list[Layer] = []
    for stage in bundle.stages:
        file = _graph_file(stage, file_precision(precision))
        if file is None:
            held = ", ".join(graph_precisions(bundle)) or "none"
            raise BundleError(
                f"{bundle.path} holds no {precision} ONNX graph of {stage.name}, which a cost is "
                f"read from; it holds {held}"
            )
        layers += graph_layers(read_graph(bundle.checked_file(file)), stage.name, fuse=fuse)
    return layers


def _graph_file(stage: Stage, precision: str) -> str | None:
    for artifact in stage.artifacts:
        if (artifact.kind, artifact.precision, artifact.target) == ("onnx", precision, None):
            return artifact.file
    return None


def read_graph(path: Path) -> ModelProto:
    """An ONNX file.

    Raises:
        MissingDependencyError: onnx is not installed.
        BundleError: the file cannot be read or is no ONNX graph.
    """
    onnx = _onnx()
    from google.protobuf.message import DecodeError

    try:
        model: ModelProto = onnx.load(str(path), load_external_data=False)
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror or error}") from None
    except DecodeError:
        raise BundleError(f"{path} is no ONNX file or is damaged") from None
    if not model.graph.node:
        raise BundleError(f"{path} holds no ONNX graph")
    return model


def graph_layers(model: ModelProto, part: str = "graph", *, fuse: bool = True) -> list[Layer]:
    """Layers of a graph, in the order they run.

    Args:
        model: with fixed shapes; it is left as it is.
        part: what layers belong to whose names do not begin with a part of the network.
        fuse: as engines do; False: every node is a kernel, as the graph stands, Q/DQ pairs too.

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
    tensors = Tensors(inferred)
    return _Kernels(tensors, fuse).layers(inferred.graph.node, part)


def _onnx() -> Any:
    try:
        import onnx
        import onnx.shape_inference
    except ImportError:
        raise MissingDependencyError("onnx", "export", "read what a graph costs") from None
    return onnx


# Kernels --------------------------------------------------------------------------------------


@dataclass
class _Kernel:
    """Nodes that run as one.

    Attributes:
        nodes: in order; the first gives the kernel its name.
        precision: of its matrix product, or of what it makes.
        macs: of its nodes.
        other_flops: of its nodes.
        read: tensors as they are stored, those that its own nodes make too.
        made: tensors that its nodes make.
        reread_bytes: of inputs read twice.
        copies: it only moves numbers.
        open: nobody else has read what it makes, so that more may join.
    """

    nodes: list[NodeProto] = field(default_factory=list)
    precision: str = "fp32"
    macs: int = 0
    other_flops: int = 0
    read: set[str] = field(default_factory=set)
    made: set[str] = field(default_factory=set)
    reread_bytes: int = 0
    copies: bool = False
    open: bool = True


class _Kernels:
    """State of one pass over a graph in order."""

    def __init__(self, tensors: Tensors, fuse: bool) -> None:
        self._tensors = tensors
        self._fuse = fuse
        self._kernels: list[_Kernel] = []
        self._maker: dict[str, int] = {}  # stored tensor to the kernel that makes it
        self._stored: dict[str, str] = {}  # tensor to the one it is a view or a wider form of

    def layers(self, nodes: Iterable[NodeProto], part: str) -> list[Layer]:
        for node in nodes:
            if node.op_type == "Constant":
                continue
            if self._is_free(node):
                self._stored[node.output[0]] = self._as_stored(node.input[0])
            else:
                self._add(node)
        readers: dict[str, set[int]] = {}
        for index, kernel in enumerate(self._kernels):
            for name in kernel.read:
                readers.setdefault(name, set()).add(index)
        needed = {self._as_stored(name) for name in self._tensors.outputs}
        made = []
        for index, kernel in enumerate(self._kernels):
            written = [n for n in kernel.made if n in needed or readers.get(n, set()) - {index}]
            part = stage_of(kernel.nodes[0].name) or part  # what was inserted has no scope
            made.append(self._layer(kernel, part, written))
        return made

    def _layer(self, kernel: _Kernel, part: str, written: Iterable[str]) -> Layer:
        size = self._tensors.nbytes
        head = kernel.nodes[0]
        return Layer(
            name=head.name or head.output[0],
            operators="+".join(node.op_type for node in kernel.nodes),
            part=part,
            precision=kernel.precision,
            macs=kernel.macs,
            other_flops=kernel.other_flops,
            bytes_read=sum(map(size, kernel.read - kernel.made)) + kernel.reread_bytes,
            bytes_written=sum(map(size, written)),
        )

    def _is_free(self, node: NodeProto) -> bool:
        """Whether a node moves nothing by itself: a view, or a conversion that its readers do."""
        if node.op_type in VIEWS:
            return True
        if not self._fuse or node.op_type not in CONVERSIONS:
            return False
        made, stored = node.output[0], self._as_stored(node.input[0])
        widens = self._tensors.itemsize(made) >= self._tensors.itemsize(stored)
        return widens and made not in self._tensors.outputs

    def _as_stored(self, name: str) -> str:
        return self._stored.get(name, name)

    def _add(self, node: NodeProto) -> None:
        inputs = [self._as_stored(name) for name in node.input if name]
        index = self._joined(node, inputs)
        for name in inputs:
            maker = self._maker.get(name)
            if maker is not None and maker != index:
                self._kernels[maker].open = False
        if index is None:
            index = len(self._kernels)
            self._kernels.append(_Kernel(copies=node.op_type in COPIES))
        kernel = self._kernels[index]
        macs, other = operations(node, self._tensors)
        if self._fuse and node.op_type in COPIES:
            self._copy_as_stored(node)
        if not kernel.nodes:
            kernel.precision = self._precision(node, inputs)
            if node.op_type in NORMALIZATIONS:
                kernel.reread_bytes = self._tensors.nbytes(inputs[0])
        kernel.nodes.append(node)
        kernel.macs += macs
        kernel.other_flops += other
        kernel.read.update(inputs)
        for name in node.output:
            if name:
                kernel.made.add(name)
                self._maker[name] = index

    def _joined(self, node: NodeProto, inputs: Iterable[str]) -> int | None:
        """The kernel that an element-wise node becomes part of: the latest that makes an input."""
        if not self._fuse or node.op_type not in ELEMENTWISE:
            return None
        count = self._tensors.count(node.output[0])
        converts = node.op_type in CONVERSIONS
        joinable = [
            self._maker[name]
            for name in inputs
            if name in self._maker
            and self._tensors.count(name) == count
            and self._kernels[self._maker[name]].open
            and (converts or not self._kernels[self._maker[name]].copies)
        ]
        return max(joinable, default=None)

    def _copy_as_stored(self, node: NodeProto) -> None:
        """What moves numbers that are stored in a narrower type moves them in that type."""
        data = node.input if node.op_type == "Concat" else node.input[:1]
        stored = [self._as_stored(name) for name in data]
        size = self._tensors.itemsize
        narrower = all(size(s) < size(name) for s, name in zip(stored, data, strict=True))
        alike = len({self._tensors.type_name(name) for name in stored}) == 1
        if narrower and alike and not resize_taps(node):
            self._tensors.store_as(node.output[0], stored[0])

    def _precision(self, node: NodeProto, inputs: list[str]) -> str:
        """Of a matrix product: of the types its operands are stored in; else of what is made."""
        kind = self._tensors.type_name(node.output[0])
        if node.op_type in PRODUCTS:
            stored = {self._tensors.type_name(name) for name in inputs[:2]}
            kind = "INT8" if stored <= _EIGHT_BITS else kind
        return _PRECISIONS.get(kind, kind.lower())
