"""Building blocks of the manifest: types of entries, precisions, names of stages."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

__all__ = [
    "PRECISIONS",
    "RESIZE",
    "RUN_PRECISIONS",
    "SPLIT_STAGES",
    "Bytes",
    "Capability",
    "ConvolutionType",
    "Count",
    "EngineKind",
    "File",
    "FilePath",
    "FilePrecision",
    "Kind",
    "Name",
    "Positive",
    "Record",
    "Resize",
    "RunPrecision",
    "Sha256",
    "Side",
    "Text",
    "file_precision",
]

#: Precisions that a model runs in, the most exact first, and those of the files it loads for them:
#: a backend with bf16 rounds the fp32 files.
_FILES = {"fp32": "fp32", "fp16": "fp16", "bf16": "fp32", "int8": "int8", "w8": "w8"}
RUN_PRECISIONS = tuple(_FILES)
#: Precisions of exported files.
PRECISIONS = tuple(dict.fromkeys(_FILES.values()))
#: The stages of a split bundle, in order. A fused bundle has the one stage ``fused``.
SPLIT_STAGES = ("encoder", "estimator", "flow", "decoder")

# Python's $ also matches before a final newline, hence the lookahead.
_END = r"$(?!\n)"
Text = Annotated[str, Meta(max_length=1000)]
Name = Annotated[str, Meta(pattern=rf"^[a-z0-9][a-z0-9_.+-]{{0,63}}{_END}", max_length=64)]
Sha256 = Annotated[str, Meta(pattern=rf"^[0-9a-f]{{64}}{_END}", max_length=64)]
FilePath = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,199}(/[A-Za-z0-9][A-Za-z0-9._+-]{0,199})?" + _END,
        max_length=401,
    ),
]
Count = Annotated[int, Meta(ge=0, le=2**53)]
Bytes = Annotated[int, Meta(ge=1, le=2**53)]
Side = Annotated[int, Meta(ge=1, le=65536)]
Positive = Annotated[float, Meta(ge=0)]
FilePrecision = Literal["fp32", "fp16", "int8", "w8"]
_RUN = "|".join(RUN_PRECISIONS)
RunPrecision = Annotated[str, Meta(pattern=rf"^({_RUN}){_END}", max_length=4)]
ConvolutionType = Annotated[str, Meta(pattern=rf"^(int8|fp16|fp32){_END}", max_length=4)]
Capability = Annotated[str, Meta(pattern=rf"^sm[0-9]{{2,3}}{_END}", max_length=5)]
EngineKind = Literal["tensorrt", "tensorrt-rtx"]
Kind = Literal["onnx", "tensorrt", "tensorrt-rtx"]


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """An object of the manifest. Unknown entries are refused; optional ones may be missing."""


class File(Record, frozen=True):
    """A file of the bundle: its relative path with ``/``, and the hash and size of its content."""

    file: FilePath
    sha256: Sha256
    bytes: Bytes


class Resize(Record, frozen=True):
    """How images of other sizes are resized to the model's size and back."""

    kernel: Literal["bicubic"]
    a: float
    antialias: bool
    rounding: Text


#: What both runtimes do; ``rounding`` is precise enough for another implementation.
RESIZE = Resize(
    kernel="bicubic",
    a=-0.5,
    antialias=True,
    rounding="Pillow: coefficients in 22-bit fixed point, rows first, then columns, each pass "
    "rounded half up to uint8",
)


def file_precision(precision: str) -> str:
    """The precision of the files that run in ``precision``."""
    return _FILES.get(precision, precision)
