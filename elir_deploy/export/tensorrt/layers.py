"""The precision of an engine's convolutions, compared with its graph's.

The builder's log (TensorRT-RTX, without a GPU) or the inspector (TensorRT, on the device) lists the
layers with the types of their tensors. An "fp16" engine whose convolutions read float32 is found
here.
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

#: TensorRT's names of tensor types, in logs and in both forms of the inspector's JSON.
_TYPES = (
    ("int8", re.compile(r"\bint8\b", re.IGNORECASE)),
    ("fp16", re.compile(r"\b(half|fp16)\b", re.IGNORECASE)),
    ("fp32", re.compile(r"\b(float|fp32)\b", re.IGNORECASE)),
)
#: Matches a kernel that convolves: its kind or, where several layers were fused, its name.
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
        name: from the library.
        kind: of kernel, as the library calls it.
        reads: precision of its first input of a known type; None: none is known.
    """

    name: str
    kind: str
    reads: str | None

    @property
    def convolves(self) -> bool:
        text = self.name if self.kind in _FUSED_KINDS else self.kind
        return _CONVOLVES.search(text) is not None


def layers_in_log(message: str) -> list[EngineLayer]:
    """The layers in a message of the builder's verbose log; most messages have none."""
    if "LayerType: " not in message:
        return []
    return [
        EngineLayer(
            line["name"],
            line["kind"],
            _first_known(re.findall(r"Datatype: ([^,}]+)", line["inputs"])),
        )
        for line in _LOG_LINE.finditer(message)
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
    """Number of kernels that convolve, by precision."""
    counts = Counter(layer.reads for layer in layers if layer.convolves and layer.reads)
    return {precision: counts[precision] for precision, _ in _TYPES}


def check_layers(
    file: str, precision: str, required: Mapping[str, int], convolutions: Mapping[str, int]
) -> None:
    """Check that an engine computes in its precision.

    Args:
        file: the engine's name, for the message.
        precision: ``fp32``, ``fp16``, ``int8``, or ``w8``, which computes in float16 or float32.
        required: the graph's convolutions by precision
            (:attr:`~elir_deploy.runtime.manifest.Artifact.graph_convolutions`).
        convolutions: the engine's (:func:`engine_precisions`).

    Raises:
        QualityError: convolutions of reduced precision run in float32; most int8 ones do not run in
            int8; the graph has none of the precision; or no type of any is known.
    """
    shown = ", ".join(f"{count} {name}" for name, count in convolutions.items() if count)
    if any(required.values()) and not shown:
        raise QualityError(
            f"{file}: the types of its {sum(required.values())} convolutions are not known"
        )
    if precision == "w8":
        precision = "fp16" if required["fp16"] else "fp32"
    if precision == "fp32":
        return
    if any(required.values()) and not required[precision]:
        raise QualityError(f"{file} is not {precision}: its graph has no {precision} convolution")
    # A few int8 convolutions have no int8 kernel and run in the fallback dtype.
    float32_fallback = precision == "int8" and not required["fp16"]
    if convolutions["fp32"] > required["fp32"] and not float32_fallback:
        raise QualityError(
            f"{file} is not {precision}: its convolutions run as {shown}, expected at most "
            f"{required['fp32']} fp32"
        )
    if precision == "int8" and 2 * convolutions["int8"] < required["int8"]:
        raise QualityError(
            f"{file} is not int8: its convolutions run as {shown}, expected {required['int8']} int8"
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
