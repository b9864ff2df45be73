"""A stand-in for TensorRT's builder, for machines without it: it records what it is asked for.

Every name in it is held against the published type stubs of TensorRT 10.13 by a test, but for what
older and newer releases have alone.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

__all__ = ["ABSENT_BY_RELEASE", "StandIn"]


class DataType(enum.Enum):
    FLOAT = 0
    HALF = 1
    INT8 = 2
    INT32 = 3
    UINT8 = 5


class LayerType(enum.Enum):
    CONVOLUTION = 0
    CAST = 1
    ACTIVATION = 2
    SCALE = 5
    DECONVOLUTION = 7
    CONCATENATION = 8
    ELEMENTWISE = 9
    UNARY = 11
    SHUFFLE = 13
    MATRIX_MULTIPLY = 16
    CONSTANT = 19
    RESIZE = 25
    QUANTIZE = 37
    DEQUANTIZE = 38
    NORMALIZATION = 43


class NetworkDefinitionCreationFlag(enum.IntEnum):
    EXPLICIT_BATCH = 0
    STRONGLY_TYPED = 1


class OnnxParserFlag(enum.IntEnum):
    NATIVE_INSTANCENORM = 0


class BuilderFlag(enum.IntEnum):
    FP16 = 0
    INT8 = 2
    TF32 = 7
    OBEY_PRECISION_CONSTRAINTS = 12
    VERSION_COMPATIBLE = 15


class PreviewFeature(enum.IntEnum):
    PROFILE_SHARING_0806 = 0


class HardwareCompatibilityLevel(enum.IntEnum):
    NONE = 0
    AMPERE_PLUS = 1
    SAME_COMPUTE_CAPABILITY = 2


class MemoryPoolType(enum.IntEnum):
    WORKSPACE = 0


class ProfilingVerbosity(enum.IntEnum):
    DETAILED = 2


class LayerInformationFormat(enum.IntEnum):
    JSON = 1


#: Members that a release does not have.
ABSENT_BY_RELEASE = {
    8: {"STRONGLY_TYPED", "SAME_COMPUTE_CAPABILITY"},
    10: set(),
    11: {
        *("FP16", "INT8", "OBEY_PRECISION_CONSTRAINTS", "EXPLICIT_BATCH", "STRONGLY_TYPED"),
        "PROFILE_SHARING_0806",
    },
}


#: What a builder may say of its layers before they are final.
_LOGGED_LAYER = (
    "Name: c, LayerType: correlation, Inputs: [ { Name: x, Datatype: Float } ], Outputs: [ ]"
)


@dataclass
class Tensor:
    name: str
    dtype: DataType
    shape: tuple[int, ...] = (1, 32, 32, 3)


@dataclass
class Layer:
    type: LayerType
    inputs: list[Tensor | None]
    outputs: list[Tensor]
    precision: DataType | None = None
    output_types: dict[int, DataType] = field(default_factory=dict)

    @property
    def num_inputs(self) -> int:
        return len(self.inputs)

    def get_input(self, index: int) -> Tensor | None:
        return self.inputs[index]

    @property
    def num_outputs(self) -> int:
        return len(self.outputs)

    def get_output(self, index: int) -> Tensor:
        return self.outputs[index]

    def set_output_type(self, index: int, dtype: DataType) -> None:
        # "Assertion !mOutputTypes.at(0).hasValue() || ..." of castLayer.cpp, seen with 8.6.0.
        assert self.type != LayerType.CAST, "TensorRT 8.6 does not build such a network"
        self.output_types[index] = dtype


#: What a network consists of: layers, what they read, and what they make in which type. Float16
#: around INT8 as in a graph of opset 17, whose quantisers take float32 alone: with casts.
_LAYERS = (
    (LayerType.CAST, "image", "half", DataType.HALF),
    (LayerType.CONVOLUTION, "half", "first", DataType.HALF),
    (LayerType.NORMALIZATION, "first scale shift", "norm", DataType.FLOAT),
    (LayerType.ACTIVATION, "norm", "silu", DataType.FLOAT),
    (LayerType.QUANTIZE, "silu s", "silu.q", DataType.INT8),
    (LayerType.DEQUANTIZE, "silu.q s", "silu.dq", DataType.FLOAT),
    (LayerType.RESIZE, "silu.dq -", "large", DataType.FLOAT),
    (LayerType.CAST, "large", "large.h", DataType.HALF),
    (LayerType.CONSTANT, "", "levels", DataType.INT8),
    (LayerType.DEQUANTIZE, "levels s", "weight", DataType.FLOAT),
    (LayerType.CAST, "weight", "weight.h", DataType.HALF),
    (LayerType.CONVOLUTION, "large.h weight.h", "second", DataType.HALF),
    (LayerType.ELEMENTWISE, "second large.h", "added", DataType.HALF),
    (LayerType.ACTIVATION, "added", "relu", DataType.HALF),
    (LayerType.CAST, "relu", "relu.f", DataType.FLOAT),
    (LayerType.QUANTIZE, "relu.f s", "relu.q", DataType.INT8),
    (LayerType.DEQUANTIZE, "relu.q s", "relu.dq", DataType.FLOAT),
    (LayerType.CAST, "relu.dq", "relu.h", DataType.HALF),
    (LayerType.CONVOLUTION, "relu.h weight.h", "third", DataType.HALF),
    (LayerType.UNARY, "third", "rounded", DataType.HALF),
    (LayerType.CONVOLUTION, "rounded weight.h", "restored", DataType.FLOAT),
)


class Network:
    """image -> convolution -> normalised -> two convolutions in INT8 -> convolution -> restored."""

    def __init__(self, ends: DataType) -> None:
        tensors = {"image": Tensor("image", ends, (1, 3, 32, 32))}
        self.layers = []
        for kind, read, made, dtype in _LAYERS:
            inputs = [tensors.setdefault(n, Tensor(n, DataType.FLOAT)) for n in read.split()]
            tensors[made] = Tensor(made, dtype)
            self.layers.append(
                Layer(kind, [None if t.name == "-" else t for t in inputs], [tensors[made]])
            )
        tensors["restored"].dtype, tensors["restored"].shape = ends, (1, 3, 32, 32)
        self.inputs, self.output = [tensors["image"]], tensors["restored"]
        self.num_outputs = 1

    @property
    def num_inputs(self) -> int:
        return len(self.inputs)

    @property
    def num_layers(self) -> int:
        return len(self.layers)

    def get_layer(self, index: int) -> Layer:
        return self.layers[index]

    def get_input(self, index: int) -> Tensor:
        return self.inputs[index]

    def get_output(self, index: int) -> Tensor:
        return self.output


class TimingCache:
    def __init__(self, content: bytes) -> None:
        self.content = content

    def serialize(self) -> bytes:
        return self.content + b"measured;"


class Profile:
    def __init__(self) -> None:
        self.shapes: dict[str, tuple[tuple[int, ...], ...]] = {}

    def set_shape(
        self, input: str, min: tuple[int, ...], opt: tuple[int, ...], max: tuple[int, ...]
    ) -> None:
        self.shapes[input] = (min, opt, max)


class Config:
    def __init__(self, accepts_cache: bool) -> None:
        self.flags: set[Any] = {BuilderFlag.TF32}  # as it is, "Enabled by default."
        self.pools: dict[Any, int] = {}
        self.cache: TimingCache | None = None
        self.progress_monitor: Any = None
        self.profiling_verbosity: Any = None
        self.hardware_compatibility_level: Any = HardwareCompatibilityLevel.NONE
        self.profiles: list[Profile] = []
        self.preview: set[Any] = set()
        self._accepts_cache = accepts_cache

    def add_optimization_profile(self, profile: Profile) -> int:
        self.profiles.append(profile)
        return len(self.profiles) - 1

    def set_flag(self, flag: Any) -> None:
        self.flags.add(flag)

    def set_preview_feature(self, feature: Any, enable: bool) -> None:
        (self.preview.add if enable else self.preview.discard)(feature)

    def clear_flag(self, flag: Any) -> None:
        self.flags.discard(flag)

    def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
        self.pools[pool] = pool_size

    def create_timing_cache(self, serialized_timing_cache: bytes) -> TimingCache:
        return TimingCache(serialized_timing_cache)

    def set_timing_cache(self, cache: TimingCache, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        if cache.content and not self._accepts_cache:
            return False
        self.cache = cache
        return True

    def get_timing_cache(self) -> TimingCache | None:
        return self.cache


class StandIn:
    """The module ``tensorrt`` of a release.

    Args:
        version: in full.
        layers: what the inspector lists of the engine.
        starts: whether there is a device for the builder.
        fails: whether the builder fails, after it logged why.
        opens: whether the engine can be opened.
        accepts_cache: whether a stored timing cache is of this device.
        ends: type of the network's input and output.
        shapes: what has the shape of each of them, and of float32 inputs besides.
    """

    def __init__(
        self,
        version: str,
        layers: Sequence[dict[str, Any]] = (),
        *,
        starts: bool = True,
        fails: bool = False,
        opens: bool = True,
        accepts_cache: bool = True,
        ends: DataType = DataType.FLOAT,
        shapes: Mapping[str, Any] | None = None,
    ) -> None:
        self.__name__ = f"tensorrt {version} {id(self)}"
        self.__version__ = version
        major = int(version.split(".")[0])
        absent = ABSENT_BY_RELEASE[major]
        self.configs: list[Config] = []
        self.networks: list[Network] = []
        self.network_flags: list[int] = []
        for kind in (DataType, LayerType, MemoryPoolType, ProfilingVerbosity, OnnxParserFlag):
            setattr(self, kind.__name__, kind)
        for kind in (
            *(NetworkDefinitionCreationFlag, BuilderFlag, HardwareCompatibilityLevel),
            PreviewFeature,
        ):
            members = {name: m for name, m in kind.__members__.items() if name not in absent}
            setattr(self, kind.__name__, SimpleNamespace(**members))
        self.LayerInformationFormat = LayerInformationFormat
        outer = self

        class ILogger:
            INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

            def __init__(self) -> None: ...

            def log(self, severity: int, msg: str) -> None: ...

        class IProgressMonitor:
            def __init__(self) -> None: ...

        class Builder:
            def __init__(self, logger: Any) -> None:
                if not starts:
                    logger.log(ILogger.ERROR, "CUDA initialization failure with error: 35")
                    raise TypeError("pybind11::init(): factory function returned nullptr")
                self._logger = logger

            def create_network(self, flags: int = 0) -> Network:
                outer.network_flags.append(flags)
                network = Network(ends)
                for name, sized in (shapes or {}).items():
                    if name not in ("image", "restored"):
                        network.inputs.append(Tensor(name, DataType.FLOAT))
                    for tensor in (*network.inputs, network.output):
                        tensor.shape = sized.shape if tensor.name == name else tensor.shape
                outer.networks.append(network)
                return network

            def create_builder_config(self) -> Config:
                outer.configs.append(Config(accepts_cache))
                return outer.configs[-1]

            def create_optimization_profile(self) -> Profile:
                return Profile()

            def build_serialized_network(self, network: Network, config: Config) -> bytes | None:
                if fails:
                    self._logger.log(ILogger.ERROR, "Error Code 10:\n no implementation for node c")
                    return None
                self._logger.log(ILogger.WARNING, "tactics were skipped")
                self._logger.log(ILogger.VERBOSE, _LOGGED_LAYER)
                alone = BuilderFlag.VERSION_COMPATIBLE not in config.flags
                return b"an engine" if alone else b"a runtime, and an engine"

        class OnnxParser:
            num_errors = 0

            def __init__(self, network: Network, logger: Any) -> None:
                #: Before 10.0 the plugin is the default.
                self._native = major >= 10

            def set_flag(self, flag: OnnxParserFlag) -> None:
                self._native = self._native or flag == OnnxParserFlag.NATIVE_INSTANCENORM

            def parse(self, model: bytes) -> bool:
                self.num_errors = 0 if self._native else 1
                return self._native

            def get_error(self, index: int) -> Any:
                return SimpleNamespace(desc=lambda: "InstanceNormalization_TRT was not found")

        class EngineInspector:
            def get_engine_information(self, format: Any) -> str:
                assert format == LayerInformationFormat.JSON
                text = json.dumps({"Layers": list(layers)})
                # As 8.6 separates a layer's origins, which JSON does not allow.
                return text.replace("ONNX Layer", "\x1eONNX Layer") if major == 8 else text

        class ICudaEngine:
            def create_engine_inspector(self) -> EngineInspector:
                return EngineInspector()

        class Runtime:
            def __init__(self, logger: Any) -> None:
                self._logger = logger
                self.engine_host_code_allowed = False

            def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None:
                if b"runtime" in serialized_engine and not self.engine_host_code_allowed:
                    self._logger.log(ILogger.ERROR, "host executable code is not allowed")
                    return None
                if not opens:
                    self._logger.log(ILogger.ERROR, "Error Code 1: Cuda Runtime (out of memory)")
                    return None
                return ICudaEngine()

        self.ILogger, self.Builder = ILogger, Builder
        if not version.startswith("8."):
            self.IProgressMonitor = IProgressMonitor
        self.OnnxParser, self.Runtime = OnnxParser, Runtime
        self.ICudaEngine, self.EngineInspector = ICudaEngine, EngineInspector
