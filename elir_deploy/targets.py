"""Devices that engines are built for, as data: their names, GPUs and libraries.

An engine is for a kind of GPU (its compute capability) and for one library. TensorRT-RTX builds
engines for desktop RTX GPUs ahead of time, on machines without any GPU; TensorRT builds them on the
device itself, from an ONNX file that the device's version can parse.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from elir_deploy.errors import UsageError

__all__ = [
    "DEVICE_TENSORRT",
    "PRECISIONS_DOCUMENTED_BY_RTX",
    "RTX",
    "RTX_CAPABILITIES",
    "TARGETS",
    "EngineKind",
    "HardwareCompatibility",
    "OnnxLimits",
    "Target",
    "onnx_limits",
    "target_named",
    "targets_named",
]

#: The kind of an engine's artifact, and the library that builds and runs it.
EngineKind = Literal["tensorrt", "tensorrt-rtx"]
RTX: EngineKind = "tensorrt-rtx"
DEVICE_TENSORRT: EngineKind = "tensorrt"

#: The GPUs that an engine of TensorRT is for beside the one it was built on: all of that one's
#: compute capability, or all from Ampere on (compute capability 8.0) but Jetsons.
HardwareCompatibility = Literal["none", "same_compute_capability", "ampere_plus"]


@dataclass(frozen=True)
class OnnxLimits:
    """What a version of TensorRT's parser accepts.

    Attributes:
        opset: the newest; GroupNormalization, of opset 21, is parsed from TensorRT 10.9 on.
        uint8_io: whether uint8 images may go in and out.
        float16_beside_int8: whether INT8 graphs may compute in float16 elsewhere, with casts around
            their quantisers, which are float32.
    """

    opset: int
    uint8_io: bool
    float16_beside_int8: bool


#: By the first version of TensorRT; older ones are not supported.
_LIMITS = (
    ((8, 6), OnnxLimits(opset=17, uint8_io=False, float16_beside_int8=False)),
    ((10, 0), OnnxLimits(opset=20, uint8_io=True, float16_beside_int8=True)),
    ((10, 9), OnnxLimits(opset=23, uint8_io=True, float16_beside_int8=True)),
)


def onnx_limits(version: str) -> OnnxLimits:
    """What TensorRT ``version``, such as ``10.3``, accepts.

    Raises:
        UsageError: it is older than 8.6.
    """
    major, minor = (int(part) for part in version.split(".")[:2])
    fitting = [limits for first, limits in _LIMITS if first <= (major, minor)]
    if not fitting:
        raise UsageError(f"TensorRT {version} is too old, expected 8.6 or newer")
    return fitting[-1]


@dataclass(frozen=True)
class Target:
    """One kind of device.

    Attributes:
        name: on the command line.
        device: full name.
        capability: its GPU's compute capability, such as ``sm75``.
        kind: of the engines for it.
        documented: precisions in NVIDIA's support matrix for it and this network's operators;
            others may build, untested.
        tensorrt: version on the device, for ``tensorrt`` targets.
        int8_in_float16: its INT8 engines compute convolutions in float16: INT8 only saves size.
    """

    name: str
    device: str
    capability: str
    kind: EngineKind
    documented: tuple[str, ...]
    tensorrt: str | None = None
    int8_in_float16: bool = False

    @property
    def on_device(self) -> bool:
        """Whether its engines can be built only there."""
        return self.kind == DEVICE_TENSORRT

    @property
    def onnx(self) -> OnnxLimits:
        """Limits of ONNX files for it."""
        return onnx_limits(self.tensorrt) if self.tensorrt else _LIMITS[-1][1]


#: What TensorRT-RTX can build for, and its GPUs. Its support matrices (1.0 to 1.5) list FP32 and
#: FP16 for all of them but sm80, which they do not name; of INT8 only weight-only GEMMs, from
#: Ampere on, and no convolutions.
#: https://docs.nvidia.com/deeplearning/tensorrt-rtx/latest/getting-started/support-matrix.html
PRECISIONS_DOCUMENTED_BY_RTX = ("fp32", "fp16")
RTX_CAPABILITIES = {
    "sm75": "Turing (RTX 20)",
    "sm80": "Ampere (A100, A30)",
    "sm86": "Ampere (RTX 30)",
    "sm89": "Ada (RTX 40)",
    "sm120": "Blackwell (RTX 50)",
    "sm121": "Blackwell (GB10, DGX Spark)",
}
#: Where TensorRT-RTX 1.7 computes all convolutions of an INT8 graph in float16, as its list of
#: kernels shows.
_RTX_INT8_IN_FLOAT16 = frozenset({"sm75"})
_RTX_MODELS = {
    "sm75": ("rtx2060", "rtx2070", "rtx2080", "rtx2080ti"),
    "sm86": ("rtx3060", "rtx3070", "rtx3080", "rtx3090"),
    "sm89": ("rtx4060", "rtx4070", "rtx4080", "rtx4090"),
    "sm120": ("rtx5060", "rtx5070", "rtx5080", "rtx5090"),
}

#: Of JetPack's Orin modules, with the oldest TensorRT that comes with it: JetPack 7.2 has 10.16,
#: and 11.4 can be installed. JetPack 5 stops at Python 3.8, which this package does not run on.
_JETPACKS = {
    "jetpack6.0": ("Jetson Orin with JetPack 6.0", "8.6"),
    "jetpack6.1": ("Jetson Orin with JetPack 6.1", "10.3"),
    "jetpack6.2": ("Jetson Orin with JetPack 6.2", "10.3"),
    "jetpack7": ("Jetson Orin with JetPack 7.2 or newer", "10.16"),
}


def _all_targets() -> Iterable[Target]:
    documented = PRECISIONS_DOCUMENTED_BY_RTX

    def rtx(name: str, words: str, capability: str) -> Target:
        in_float16 = capability in _RTX_INT8_IN_FLOAT16
        return Target(name, words, capability, RTX, documented, int8_in_float16=in_float16)

    for capability, models in _RTX_MODELS.items():
        for model in models:
            words = f"GeForce {model[:3].upper()} {model[3:].replace('ti', ' Ti')}"
            yield rtx(model, words, capability)
    for capability, words in RTX_CAPABILITIES.items():
        yield rtx(capability, words, capability)
    for name, (words, version) in _JETPACKS.items():
        yield Target(name, words, "sm87", DEVICE_TENSORRT, (*documented, "int8"), version)


#: Every target by name.
TARGETS: dict[str, Target] = {target.name: target for target in _all_targets()}


def target_named(name: str) -> Target:
    """The target called ``name``; case, spaces and hyphens do not matter.

    Raises:
        UsageError: there is none; the message lists all.
    """
    plain = name.lower().replace(" ", "").replace("-", "").replace("_", "")
    target = TARGETS.get(plain)
    if target is None:
        raise UsageError(f"unknown target {name!r}: choose from {', '.join(TARGETS)}")
    return target


def targets_named(names: Iterable[str]) -> tuple[Target, ...]:
    """The targets with these names, each once, in order.

    Raises:
        UsageError: one of them does not exist.
    """
    return tuple(dict.fromkeys(target_named(name) for name in names))
