"""How ``auto`` decides: ``automatic.json``, which the C++ runtime has built in."""

from __future__ import annotations

import json
from importlib import resources

__all__ = ["ON_NAMED_DEVICES", "ORDER", "SUFFICIENT_DB", "TOLERANCE_DB", "automatic_precisions"]

_RULES = json.loads((resources.files("elir_deploy.runtime") / "automatic.json").read_text("utf-8"))
#: The order in which ``auto`` tries backends and precisions: by measured speed (docs/decisions.md),
#: GPUs first, and the more exact one if speeds are about equal. INT8 convolutions are not in the
#: support matrix of TensorRT-RTX, and ONNX Runtime's CUDA provider computes them in floating point;
#: ONNX Runtime has no float16 kernels for the CPU.
ORDER: tuple[tuple[str, str], ...] = tuple((name, each) for name, each in _RULES["order"])
#: Precisions of a device with a name, best first: not measured, and float16 is native to most.
ON_NAMED_DEVICES: tuple[str, ...] = tuple(_RULES["on_named_devices"])
#: How far a backend may stay below the verified PSNR, and a PSNR that is always sufficient, in dB.
TOLERANCE_DB: float = _RULES["tolerance_db"]
SUFFICIENT_DB: float = _RULES["sufficient_db"]


def automatic_precisions(backend: str) -> tuple[str, ...]:
    """Precisions of a backend that ``auto`` may choose, as it prefers them."""
    return tuple(precision for name, precision in ORDER if name == backend)
