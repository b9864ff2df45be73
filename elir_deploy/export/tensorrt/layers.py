"""What the convolutions of a network, and of the engine made from it, compute in.

Of an engine, a builder's log (TensorRT-RTX, which needs no GPU for it) or the inspector (TensorRT,
on the device) lists the layers with the types of their tensors. An "fp16" engine whose convolutions
read float32 is none, and this is where it shows.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from elir_deploy.errors import QualityError

if TYPE_CHECKING:
    import tensorrt as trt

__all__ = [
    "EngineLayer",
    "check_layers",
    "convolution_precisions",
    "engine_precisions",
    "layers_in_log",
    "layers_of_inspector",
]

#: How TensorRT names a tensor's type, in logs and in either form of the inspector's.
_TYPES = (
    ("int8", re.compile(r"\bint8\b", re.IGNORECASE)),
    ("fp16", re.compile(r"\b(half|fp16)\b", re.IGNORECASE)),
    ("fp32", re.compile(r"\b(float|fp32)\b", re.IGNORECASE)),
)
#: A kernel that convolves, by its kind or, where several layers became one, by its name.
_CONVOLVES = re.compile(r"conv|corr|gemm|matmul|matrixmultiply", re.IGNORECASE)
_FUSED_KINDS = frozenset({"runtime_fusion", "Myelin"})
_LOG_LINE = re.compile(
    r"^ *Name: (?P<name>[^,]+), LayerType: (?P<kind>\w+), Inputs: \[(?P<inputs>.*?)\], "
    r"(?:Constants|Outputs): ",
    re.MULTILINE,
)


@dataclass(frozen=True)
class EngineLayer:
    """One kernel of an engine.

    Attributes:
        name: given by the library.
        kind: of kernel, in the library's words.
        reads: precision of its first input of a known type; None: none is known.
    """

    name: str
    kind: str
    reads: str | None

    @property
    def convolves(self) -> bool:
        told_by = self.name if self.kind in _FUSED_KINDS else self.kind
        return _CONVOLVES.search(told_by) is not None


def layers_in_log(message: str) -> list[EngineLayer]:
    """The layers that a message of the builder's verbose log lists, most often none."""
    if "LayerType: " not in message:
        return []
    return [
        EngineLayer(
            found["name"],
            found["kind"],
            _first_known(re.findall(r"Datatype: (\w+)", found["inputs"])),
        )
        for found in _LOG_LINE.finditer(message)
    ]


def layers_of_inspector(text: str) -> list[EngineLayer]:
    """The layers in the inspector's JSON, made with detailed profiling verbosity."""
    layers = []
    for entry in json.loads(text).get("Layers", ()):
        if not isinstance(entry, dict):  # names alone, of an engine with less verbosity
            continue
        types = [_type_words(tensor) for tensor in entry.get("Inputs", ())]
        name, kind = str(entry.get("Name", "")), str(entry.get("LayerType", ""))
        layers.append(EngineLayer(name, kind, _first_known(types)))
    return layers


def engine_precisions(layers: Iterable[EngineLayer]) -> dict[str, int]:
    """How many kernels that convolve there are of each precision."""
    counts = Counter(layer.reads for layer in layers if layer.convolves and layer.reads)
    return {precision: counts[precision] for precision, _ in _TYPES}


def convolution_precisions(library: Any, network: trt.INetworkDefinition) -> dict[str, int]:
    """How many convolutions and matrix products of a parsed network are of each precision.

    One is int8 if all that it multiplies was dequantised, be it cast or concatenated since.
    """
    kinds = library.LayerType
    wanted = {kinds.CONVOLUTION, kinds.DECONVOLUTION, kinds.MATRIX_MULTIPLY}
    passing = {kinds.CAST, kinds.CONCATENATION}
    names = {library.DataType.HALF: "fp16", library.DataType.FLOAT: "fp32"}
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    made_by = {
        layer.get_output(index).name: layer
        for layer in layers
        for index in range(layer.num_outputs)
    }

    def dequantized(tensor: trt.ITensor) -> bool:
        layer = made_by.get(tensor.name)
        if layer is None or layer.type == kinds.DEQUANTIZE:
            return layer is not None
        sources = [layer.get_input(index) for index in range(layer.num_inputs)]
        return layer.type in passing and all(dequantized(source) for source in sources)

    counts: Counter[str] = Counter()
    for layer in layers:
        if layer.type not in wanted:
            continue
        # A convolution whose weights are constants has one input; a bias may be the third.
        factors = [layer.get_input(index) for index in range(min(2, layer.num_inputs))]
        if len(factors) == 2 and all(dequantized(tensor) for tensor in factors):
            counts["int8"] += 1
        else:
            counts[names.get(factors[0].dtype, "other")] += 1
    return {precision: counts[precision] for precision, _ in _TYPES}


def check_layers(
    file: str, precision: str, asked: Mapping[str, int], found: Mapping[str, int]
) -> None:
    """Whether an engine is what its precision says.

    Args:
        file: the engine's name, for the message.
        precision: ``fp32``, ``fp16`` or ``int8``.
        asked: :func:`convolution_precisions` of the network.
        found: :func:`engine_precisions`.

    Raises:
        QualityError: convolutions run in float32 that were to be reduced, or none in int8.
    """
    told = ", ".join(f"{count} {name}" for name, count in found.items() if count)
    if precision != "fp32" and found["fp32"] > asked["fp32"]:
        raise QualityError(
            f"{file} is not {precision}: its convolutions run as {told}, and {asked['fp32']} were "
            "to be fp32"
        )
    if precision == "int8" and asked["int8"] and not found["int8"]:
        raise QualityError(f"{file} is not int8: its convolutions run as {told}")


def _first_known(types: Iterable[str]) -> str | None:
    for text in types:
        for precision, pattern in _TYPES:
            if pattern.search(text):
                return precision
    return None


def _type_words(tensor: Any) -> str:
    """ "Format/Datatype" up to TensorRT 10, two entries since."""
    if not isinstance(tensor, dict):
        return ""
    return str(tensor.get("Datatype") or tensor.get("Format/Datatype") or "")
