"""Choices that several commands share."""

from __future__ import annotations

import enum

from elir_deploy.errors import UsageError

__all__ = ["Precision", "device_of"]


class Precision(str, enum.Enum):
    """Precisions a model can run in (:data:`elir_deploy.runtime.manifest.RUN_PRECISIONS`)."""

    fp32 = "fp32"
    fp16 = "fp16"
    bf16 = "bf16"
    int8 = "int8"
    w8 = "w8"


def device_of(text: str | None) -> int | str:
    """The number of a GPU, or the name of a device of OpenVINO, as ``--device`` has it.

    Raises:
        UsageError: it is neither.
    """
    if text is None:
        return 0
    if text.isascii() and text.isdecimal():
        return int(text)
    if not text[:1].isalpha():
        raise UsageError(
            f"--device {text}: expected the number of a GPU, from 0 on, or the name of one of "
            "OpenVINO's devices, such as GPU, GPU.1 or NPU"
        )
    return text.upper()  # as OpenVINO writes them
