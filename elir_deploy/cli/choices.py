"""Choices that several commands offer."""

from __future__ import annotations

import enum

__all__ = ["Precision"]


class Precision(str, enum.Enum):
    fp32 = "fp32"
    fp16 = "fp16"
    int8 = "int8"
