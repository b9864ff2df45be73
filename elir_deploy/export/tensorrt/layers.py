"""What the convolutions of an engine compute in, and whether that is what its graph asks for.

A builder's log (TensorRT-RTX, which needs no GPU for it) or the inspector (TensorRT,
on the device) lists the layers with the types of their tensors. An "fp16" engine whose convolutions
read float32 is none, and this is where it shows.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from elir_deploy.errors import QualityError

__all__ = [
    "EngineLayer",
    "check_layers",
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
            _first_known(re.findall(r"Datatype: ([^,}]+)", found["inputs"])),
        )
        for found in _LOG_LINE.finditer(message)
    ]


def layers_of_inspector(text: str) -> list[EngineLayer]:
    """The layers in the inspector's JSON, made with detailed profiling verbosity."""
    layers = []
    # TensorRT 8.6 separates a layer's origins by control characters, which JSON forbids.
    for entry in json.loads(text, strict=False).get("Layers", ()):
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


def check_layers(
    file: str, precision: str, asked: Mapping[str, int], found: Mapping[str, int]
) -> None:
    """Whether an engine is what its precision says.

    Args:
        file: the engine's name, for the message.
        precision: ``fp32``, ``fp16`` or ``int8``.
        asked: of the ONNX file, :attr:`~elir_deploy.runtime.bundle.Artifact.graph_convolutions`.
        found: :func:`engine_precisions`.

    Raises:
        QualityError: convolutions run in float32 that were to be reduced, or most of those that
            were to be int8 do not; none was to be reduced; or no type of any is known.
    """
    told = ", ".join(f"{count} {name}" for name, count in found.items() if count)
    if any(asked.values()) and not told:
        raise QualityError(
            f"{file}: nothing tells what its {sum(asked.values())} convolutions compute in"
        )
    if precision == "fp32":
        return
    if any(asked.values()) and not asked[precision]:
        raise QualityError(f"{file} is not {precision}: its graph has no convolution in it")
    # A few have no kernel in int8 and run as what surrounds them; most make what an engine is.
    float32_around = precision == "int8" and not asked["fp16"]
    if found["fp32"] > asked["fp32"] and not float32_around:
        raise QualityError(
            f"{file} is not {precision}: its convolutions run as {told}, and {asked['fp32']} were "
            "to be fp32"
        )
    if precision == "int8" and 2 * found["int8"] < asked["int8"]:
        raise QualityError(
            f"{file} is not int8: its convolutions run as {told}, wanted {asked['int8']} int8"
        )


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
