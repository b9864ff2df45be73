"""OpenVINO's devices: the processor, and Intel's GPUs and NPUs under OpenVINO's names for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from elir_deploy.errors import UnavailableError
from elir_deploy.runtime.openvino_library import REINSTALL, does_not_start, shared_core

__all__ = ["CPU", "OpenVinoDevice", "openvino_devices"]

CPU = "CPU"

#: Type of floating-point operators on the processor, by precision. By default, OpenVINO runs fp32
#: files in bfloat16 if the processor has it. In fp16 only the weights are float16: float16
#: arithmetic was slower than float32 (docs/decisions.md).
_ON_THE_CPU = {"fp32": "f32", "fp16": "f32", "bf16": "bf16", "int8": "bf16", "w8": "f32"}
#: Elsewhere. Not every device has float32, and some have no float16.
_ELSEWHERE = {"fp32": "f32", "fp16": "f16", "bf16": "bf16", "int8": "f16", "w8": "f16"}
#: What a device must be capable of to run in a precision.
_NEEDED = {"fp32": "FP32", "bf16": "BF16", "int8": "INT8"}


def openvino_devices() -> tuple[str, ...]:
    """Names of the devices that OpenVINO finds on this machine.

    Raises:
        UnavailableError: OpenVINO is not installed, or does not start.
    """
    try:
        return tuple(shared_core().available_devices)
    except RuntimeError as error:
        raise UnavailableError(does_not_start(error)) from None


@dataclass(frozen=True)
class OpenVinoDevice:
    """One device, which need not be there.

    Attributes:
        name: ``CPU``, ``GPU``, ``GPU.1``, ``NPU``: as OpenVINO names it.
    """

    name: str = CPU

    @property
    def is_cpu(self) -> bool:
        """Whether it is the processor."""
        return self.name == CPU

    def missing(self) -> str | None:
        """Why it cannot be used on this machine, and what to do; None: it can."""
        try:
            devices = openvino_devices()
        except UnavailableError as error:
            return str(error)
        # One GPU is called GPU, of several the first GPU.0; OpenVINO takes either for it.
        if {self.name, f"{self.name}.0", self.name.removesuffix(".0")} & set(devices):
            return None
        if self.is_cpu:
            return f"the installed openvino has no {CPU} plugin: {REINSTALL}"
        return (
            f"openvino finds no device {self.name}, only {', '.join(devices)}: choose one of "
            "those, or install Intel's driver for the device"
        )

    def capabilities(self) -> list[str]:
        """OpenVINO's names for what it computes in, sorted, such as FP16."""
        return sorted(self.property("OPTIMIZATION_CAPABILITIES"))

    def property(self, name: str) -> Any:
        """OpenVINO's value of a property."""
        return shared_core().get_property(self.name, name)

    def unsupported(self, precision: str) -> str | None:
        """Why it does not run in ``precision``, and what to do; None: it does."""
        needed, capabilities = _NEEDED.get(precision), self.capabilities()
        if self.is_cpu:
            if precision != "bf16" or needed in capabilities:
                return None
            return "this processor has no bf16 instructions (AVX512_BF16 or AMX_BF16): run in fp32"
        if needed is None or needed in capabilities:
            return None
        types = ("FP32", "BF16", "FP16", "INT8")
        able = ", ".join(each for each in types if each in capabilities) or "none of the types"
        return f"{self.name} has no {needed}, only {able}: choose another precision"

    def float_type(self, precision: str) -> str:
        """The type that floating-point operators compute in, as OpenVINO names it."""
        kind = (_ON_THE_CPU if self.is_cpu else _ELSEWHERE)[precision]
        capable = {"bf16": "BF16", "f16": "FP16"}.get(kind)
        # OpenVINO's emulation of bfloat16 is slow.
        return kind if capable is None or capable in self.capabilities() else "f32"
