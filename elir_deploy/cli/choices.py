"""Choices that several commands share."""

from __future__ import annotations

import enum

__all__ = ["Precision"]


class Precision(str, enum.Enum):
    """Precisions a model can run in (:data:`elir_deploy.runtime.manifest.RUN_PRECISIONS`)."""

    fp32 = "fp32"
    fp16 = "fp16"
    bf16 = "bf16"
    int8 = "int8"
    w8 = "w8"
