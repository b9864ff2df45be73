"""Choices that several commands offer."""

from __future__ import annotations

import enum

__all__ = ["Precision"]


class Precision(str, enum.Enum):
    """What a model can run in; an export makes files of all but bf16, which runs those of fp32."""

    fp32 = "fp32"
    fp16 = "fp16"
    bf16 = "bf16"
    int8 = "int8"
