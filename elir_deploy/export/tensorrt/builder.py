"""One ONNX graph to one engine."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, cast

from elir_deploy.errors import OutputError, UnavailableError, UsageError
from elir_deploy.export.tensorrt.depthwise import widen_depthwise
from elir_deploy.export.tensorrt.interruption import build_in_thread
from elir_deploy.export.tensorrt.layers import (
    EngineLayer,
    engine_precisions,
    layers_in_log,
    layers_of_inspector,
)
from elir_deploy.export.tensorrt.profiles import Ends
from elir_deploy.export.tensorrt.weak_typing import constrain_types
from elir_deploy.interrupts import Interruption, deferred_interrupts
from elir_deploy.progress import ProgressCallback
from elir_deploy.runtime.cache import compiled_place, read_sealed, write_sealed
from elir_deploy.runtime.tensorrt_library import Library, library_log, release_of
from elir_deploy.targets import DEVICE_TENSORRT, RTX, HardwareCompatibility
from elir_deploy.text import shortened

if TYPE_CHECKING:
    import tensorrt as trt

__all__ = ["BuildOptions", "BuiltEngine", "build_engine", "check_capability"]

#: First version whose network types are those of the ONNX file.
_STRONGLY_TYPED_SINCE = (10, 0)
#: First version that parses instance normalisation as a native layer, with a flag before 10.0.
#: Older ones need a plugin, which takes scale and bias in float32 only. 8.6.0 was an early access
#: release: JetPack 6.0 has 8.6.2.
_NATIVE_NORMS_SINCE = (8, 6, 1)
#: Compute capabilities for which depthwise convolutions take the memory of their activations.
_POOR_DEPTHWISE = ("sm75",)
#: Most warnings shown.
_WARNINGS_SHOWN = 5


@dataclass(frozen=True)
class BuildOptions:
    """Options of a build.

    Attributes:
        capability: of the GPUs that TensorRT-RTX builds for, such as ``sm75``; TensorRT builds for
            the GPU it runs on.
        workspace_mib: most memory of one kernel beside its tensors, in MiB; None: all of the
            device.
        version_compatible: later TensorRT 8.6+ releases of this and the next major version can run
            the engine, with a lean runtime inside it.
        hardware_compatible: other GPUs can run the engine: those of the same compute capability
            where the library supports it, else all from Ampere on.
    """

    capability: str | None = None
    workspace_mib: int | None = None
    version_compatible: bool = False
    hardware_compatible: bool = False


@dataclass(frozen=True)
class BuiltEngine:
    """An engine and its properties.

    Attributes:
        content: of the file.
        convolutions: kernels that convolve, by precision; None: the library does not report them.
        layers: number of kernels.
        seconds: of the build.
        warnings: of the library.
        hardware_compatibility: other GPUs that can run it.
    """

    content: bytes
    convolutions: dict[str, int] | None
    layers: int
    seconds: float
    warnings: tuple[str, ...]
    hardware_compatibility: HardwareCompatibility = "none"


def build_engine(
    library: Library,
    model: bytes,
    ends: Ends,
    precision: str,
    options: BuildOptions,
    progress: ProgressCallback,
) -> BuiltEngine:
    """Build one engine.

    Args:
        library: TensorRT-RTX, on any machine, or TensorRT, on the device.
        model: the ONNX file.
        ends: inputs and outputs that the graph must have, and the profiles.
        precision: of the file.
        options: of the build.
        progress: called with the phase of the build.

    Raises:
        UsageError: the library cannot build for a capability.
        UnavailableError: the library does not start, cannot build the graph, or cannot open the
            engine; with its message.
        KeyboardInterrupt, SystemExit: Ctrl-C or SIGTERM; the library stops at the next step.
    """
    began = time.perf_counter()
    _check_release(library)
    level = _hardware_compatibility(library.module, options)
    # A second signal would be raised in the library's callbacks, which drop errors.
    with (
        deferred_interrupts(allow_second=False) as interrupted,
        _collect_messages(library) as (logger, log),
    ):
        builder: trt.Builder = _start(library, library.module.Builder, logger, log)
        network: trt.INetworkDefinition = builder.create_network(_network_flags(library))
        parser = library.module.OnnxParser(network, logger)  # owns the weights
        name = f"{ends.name}.{precision}"
        _parse(library, parser, model, name)
        ends.check(network)
        poor = library.kind == RTX and options.capability in _POOR_DEPTHWISE
        weights = widen_depthwise(library.module, network) if poor else []
        config = _make_config(library, builder, options, level)
        ends.add_profiles(builder, config)
        if _is_weakly_typed(library):
            constrain_types(library.module, network, config, precision)
        serialized = _run_build(library, builder, network, config, progress, interrupted)
        del weights  # which the network references
    if serialized is None:
        raise UnavailableError(
            f"{library.kind} {library.version} cannot build {name}: {_join_reasons(log.errors)}"
        )
    content = bytes(serialized)
    layers = log.layers if library.kind == RTX else _inspect_layers(library, content, options)
    return BuiltEngine(
        content=content,
        convolutions=engine_precisions(layers) if layers else None,
        layers=len(layers),
        seconds=time.perf_counter() - began,
        warnings=tuple(dict.fromkeys(log.warnings))[:_WARNINGS_SHOWN],
        hardware_compatibility=level,
    )


def _run_build(
    library: Library,
    builder: trt.Builder,
    network: trt.INetworkDefinition,
    config: trt.IBuilderConfig,
    progress: ProgressCallback,
    interrupted: Interruption,
) -> trt.IHostMemory | None:
    """Run the build with progress and Ctrl-C; None where it fails, which the stubs do not know."""
    build = partial(builder.build_serialized_network, network, config)
    with _timing_cache(library, config):
        if hasattr(library.module, "IProgressMonitor"):  # since 9.1
            config.progress_monitor = _monitor(library.module, progress, interrupted)
            return build()
        memory: trt.IHostMemory | None = build_in_thread(build, interrupted)
        return memory


# Messages of the library --------------------------------------------------------------------------


@dataclass
class _Log:
    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    layers: list[EngineLayer] = field(default_factory=list)


@contextmanager
def _collect_messages(library: Library) -> Iterator[tuple[trt.ILogger, _Log]]:
    """The library's logger, and its messages."""
    severities, messages = library.module.ILogger, _Log()

    def on_message(severity: Any, text: str) -> None:
        if severity in (severities.ERROR, severities.INTERNAL_ERROR):
            messages.errors.append(text)
        elif severity == severities.WARNING:
            messages.warnings.append(text)
        else:
            messages.layers.extend(layers_in_log(text))

    log = library_log(library)
    with log.listening(on_message):
        yield log.logger, messages


def _join_reasons(reasons: list[str]) -> str:
    """The library's reasons on one line."""
    text = "; ".join(dict.fromkeys(" ".join(reason.split()) for reason in reasons))
    return shortened(text, 600) or "no reason reported"


def _start(library: Library, kind: Any, logger: trt.ILogger, log: _Log) -> Any:
    """Construct a builder or runtime of the library, which needs its device."""
    try:
        return kind(logger)
    except (RuntimeError, TypeError) as error:  # TypeError: of pybind11, for a null pointer
        reasons = log.errors or [str(error)]
        raise UnavailableError(f"{library} does not start: {_join_reasons(reasons)}") from None


def _inspect_layers(library: Library, content: bytes, options: BuildOptions) -> list[EngineLayer]:
    """The layers of an engine that TensorRT built for the device at hand.

    TensorRT-RTX opens engines on their GPU alone, and lists the layers when it builds.
    """
    module = library.module
    with _collect_messages(library) as (logger, log):
        runtime: trt.Runtime = _start(library, module.Runtime, logger, log)
        if options.version_compatible:  # inside is a runtime of its own, which is code
            runtime.engine_host_code_allowed = True
        engine = cast("trt.ICudaEngine | None", runtime.deserialize_cuda_engine(content))
        if engine is None:
            raise UnavailableError(
                f"{library} cannot open the engine it built: {_join_reasons(log.errors)}"
            )
        inspector = engine.create_engine_inspector()
        text = inspector.get_engine_information(module.LayerInformationFormat.JSON)
    return layers_of_inspector(text)


# Progress ---------------------------------------------------------------------------------------


def _monitor(library: Any, progress: ProgressCallback, interrupted: Interruption) -> Any:
    """Reports the outermost phase, since inner ones are many; Ctrl-C ends any of them."""

    class Monitor(library.IProgressMonitor):  # type: ignore[misc]  # a class of the library at hand
        def __init__(self) -> None:
            library.IProgressMonitor.__init__(self)
            self._outermost: dict[str, int] = {}

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            if parent is None:
                self._outermost[name] = steps
                progress(name.lower(), 0, steps)

        def phase_finish(self, name: str) -> None:
            self._outermost.pop(name, None)

        def step_complete(self, name: str, step: int) -> bool:
            if name in self._outermost:
                progress(name.lower(), step + 1, self._outermost[name])
            return interrupted.signal is None

    return Monitor()


# The network and how it is built ----------------------------------------------------------------


def _check_release(library: Library) -> None:
    if library.kind == DEVICE_TENSORRT and release_of(library.version) < _NATIVE_NORMS_SINCE:
        oldest = ".".join(map(str, _NATIVE_NORMS_SINCE))
        raise UnavailableError(
            f"{library.kind} {library.version} needs a plugin for instance normalisation, expected "
            f"{oldest} or newer"
        )


def _is_weakly_typed(library: Library) -> bool:
    old = release_of(library.version) < _STRONGLY_TYPED_SINCE
    return library.kind == DEVICE_TENSORRT and old


def _network_flags(library: Library) -> int:
    flags = library.module.NetworkDefinitionCreationFlag
    if _is_weakly_typed(library):
        return 1 << int(flags.EXPLICIT_BATCH)
    # Later releases know no other way, and may lose the flag.
    return 1 << int(flags.STRONGLY_TYPED) if hasattr(flags, "STRONGLY_TYPED") else 0


def _parse(library: Library, parser: trt.OnnxParser, model: bytes, name: str) -> None:
    if _is_weakly_typed(library):
        parser.set_flag(library.module.OnnxParserFlag.NATIVE_INSTANCENORM)
    if not bool(parser.parse(model)):  # the stubs mean a type of tensors by bool
        reasons = [parser.get_error(index).desc() for index in range(parser.num_errors)]
        raise UnavailableError(
            f"{library.kind} {library.version} cannot parse {name}: {_join_reasons(reasons)}"
        )


class RtxBuilderConfig(Protocol):
    """Additional members of TensorRT-RTX."""

    num_compute_capabilities: int

    def set_compute_capability(self, capability: Any, index: int) -> bool: ...


def check_capability(library: Library, capability: str) -> None:
    """Check that TensorRT-RTX builds for GPUs of a compute capability.

    Raises:
        UsageError: it does not; the message lists those it offers.
    """
    known = library.module.ComputeCapability.__members__
    offered = [name.lower() for name in known if name.startswith("SM")]
    if capability not in offered:
        raise UsageError(
            f"tensorrt-rtx {library.version} does not build for {capability}: it offers "
            f"{', '.join(offered)}"
        )


def _make_config(
    library: Library, builder: trt.Builder, options: BuildOptions, level: HardwareCompatibility
) -> trt.IBuilderConfig:
    module = library.module
    config = builder.create_builder_config()
    # It is set by default, and lets float32 be multiplied with 10 bits of 23.
    config.clear_flag(module.BuilderFlag.TF32)
    config.profiling_verbosity = module.ProfilingVerbosity.DETAILED
    if options.workspace_mib is not None:
        pool = module.MemoryPoolType.WORKSPACE
        config.set_memory_pool_limit(pool, options.workspace_mib * 2**20)
    if _is_weakly_typed(library):
        # Single images and batches have contexts of their own on one profile, which later releases
        # always allow.
        config.set_preview_feature(module.PreviewFeature.PROFILE_SHARING_0806, True)
    if options.version_compatible:
        config.set_flag(module.BuilderFlag.VERSION_COMPATIBLE)
    if level != "none":
        known = module.HardwareCompatibilityLevel
        config.hardware_compatibility_level = getattr(known, level.upper())
    if library.kind == RTX and options.capability is not None:
        check_capability(library, options.capability)
        rtx = cast(RtxBuilderConfig, config)
        rtx.num_compute_capabilities = 1
        capability = getattr(module.ComputeCapability, options.capability.upper())
        rtx.set_compute_capability(capability, 0)
    return config


def _hardware_compatibility(library: Any, options: BuildOptions) -> HardwareCompatibility:
    if not options.hardware_compatible:
        return "none"
    known = library.HardwareCompatibilityLevel
    same = hasattr(known, "SAME_COMPUTE_CAPABILITY")
    return "same_compute_capability" if same else "ampere_plus"


@contextmanager
def _timing_cache(library: Library, config: trt.IBuilderConfig) -> Iterator[None]:
    """Keep TensorRT's kernel timings in the cache folder and use them again.

    TensorRT-RTX chooses kernels at the first run on the user's GPU and times nothing here.
    """
    if library.kind != DEVICE_TENSORRT:
        yield
        return
    place = None
    with suppress(OutputError):
        place = compiled_place("tensorrt", library.version, "timing.cache")
    stored = None if place is None else read_sealed(place)
    # Damaged content gives None, which the stubs do not know. Where the library refuses a cache of
    # another device, it starts with an empty one.
    content = b"" if stored is None else stored.tobytes()
    cache = cast("trt.ITimingCache | None", config.create_timing_cache(content))
    if cache is None or not config.set_timing_cache(cache, False):
        config.set_timing_cache(config.create_timing_cache(b""), False)
    yield
    timings = config.get_timing_cache()
    if place is not None and timings is not None:
        with suppress(OutputError):  # the next build measures again
            write_sealed(place, bytes(timings.serialize()))
