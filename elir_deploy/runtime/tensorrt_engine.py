"""An engine of TensorRT or TensorRT-RTX, as a stage that runs on a CUDA device.

Only the API that both libraries have from 8.6 to 11 is used, with tensors by name. TensorRT-RTX
also has a cache of compiled kernels, and a validity check before an engine is loaded.
"""

from __future__ import annotations

import hashlib
import mmap
import re
import threading
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from elir_deploy.errors import BundleError, OutputError, UnavailableError
from elir_deploy.runtime.cache import compiled_place, read_sealed, write_sealed
from elir_deploy.runtime.cuda import Device
from elir_deploy.runtime.cuda_session import CudaStage
from elir_deploy.runtime.graph_ends import check_ends
from elir_deploy.runtime.manifest import Artifact, Manifest, Shape, Stage
from elir_deploy.runtime.tensorrt_ends import check_profiles, read_ends
from elir_deploy.runtime.tensorrt_library import Library, LibraryLog, library_log, short_reason
from elir_deploy.targets import RTX

if TYPE_CHECKING:
    import tensorrt as trt  # TensorRT-RTX has the same classes, and more

__all__ = ["Engine", "LoadedEngine", "load_engine", "load_file"]

#: Errors about the file, which errors about the device may follow.
_FILE_ERROR = re.compile(r"serialization assertion", re.IGNORECASE)
#: Errors about the device.
_DEVICE_ERROR = re.compile(
    r"cuda ?(runtime|error|driver|failure)|out ?of ?memory|memory allocation", re.IGNORECASE
)


class LoadedEngine:
    """An engine on a device, which it occupies until it and all its contexts are deleted.

    Attributes:
        name: of what it computes, for messages.
        library: the library that runs it.
        engine: TensorRT's object.
    """

    def __init__(
        self, library: Library, device: Device, engine: trt.ICudaEngine, log: LibraryLog, name: str
    ) -> None:
        self.name = name
        self.library = library
        self.engine = engine
        self._device = device
        self._log = log
        self._compiled: _CompiledKernels | None = None
        self._config: RtxRuntimeConfig | None = None

    def use_kernel_cache(self, artifact: Artifact, *, keep: bool) -> None:
        """Take compiled kernels of TensorRT-RTX from the user's cache folder, if ``keep``."""
        engine = cast(RtxEngine, self.engine)
        config = self._checked(engine.create_runtime_config(), "create_runtime_config")
        self._config = config
        if not self._device.captures:
            # The library then captures each stage; a session would capture all and the copies.
            strategy = self.library.module.CudaGraphStrategy
            config.cuda_graph_strategy = strategy.WHOLE_GRAPH_CAPTURE
        cache = self._checked(config.create_runtime_cache(), "create_runtime_cache")
        if keep:
            self._compiled = _CompiledKernels(self.library, self._device, artifact.sha256, cache)
        if not config.set_runtime_cache(cache):
            raise self.refused("set_runtime_cache")

    @property
    def captures_itself(self) -> bool:
        """Whether the library captures each run as a CUDA graph."""
        return self._config is not None and not self._device.captures

    def create_context(self) -> trt.IExecutionContext:
        """Create an execution context on the current device.

        Raises:
            UnavailableError: there is not enough memory.
        """
        context: trt.IExecutionContext | None
        try:
            if self._config is None:
                context = self.engine.create_execution_context()
            else:
                engine = cast(RtxEngine, self.engine)
                context = engine.create_execution_context(runtime_config=self._config)
        except RuntimeError as error:
            raise UnavailableError(f"{self.library}: {short_reason([str(error)])}") from None
        made: trt.IExecutionContext = self._checked(context, "create_execution_context")
        return made

    def enqueue(self, context: trt.IExecutionContext, stream: int) -> None:
        """Queue a run.

        Raises:
            UnavailableError: the library refuses.
        """
        try:
            queued = context.execute_async_v3(stream)
        except RuntimeError as error:
            raise UnavailableError(f"{self.library}: {short_reason([str(error)])}") from None
        if not queued:
            raise self.refused("execute_async_v3")

    def uncapturable(self, context: trt.IExecutionContext, stream: int) -> str | None:
        """Why runs on ``stream`` cannot be captured as a CUDA graph; None: it may be possible."""
        if self.library.kind != RTX or cast(RtxContext, context).is_stream_capturable(stream):
            return None
        return f"{self.library} cannot capture {self.name}"

    def keep_compiled(self) -> None:
        """Write newly compiled kernels to the cache. Never fails."""
        if self._compiled is not None:
            self._compiled.keep()

    def refused(self, call: str) -> UnavailableError:
        """The error for a call that returned False or None."""
        reason = short_reason(self._log.take_errors())
        return UnavailableError(f"{self.library}: {call} of {self.name} failed: {reason}")

    def _checked(self, value: Any, call: str) -> Any:
        if value is None:
            raise self.refused(call)
        return value


class Engine:
    """The engine of a stage of a bundle.

    Attributes:
        loaded: it on a device.
        stage: the stage of the bundle that it computes.
    """

    def __init__(self, loaded: LoadedEngine, stage: Stage, manifest: Manifest) -> None:
        self.loaded = loaded
        self.stage = stage
        self._manifest = manifest

    def create_stage(self, shape: Shape) -> CudaStage:
        """Create a stage with its own execution context on the current device.

        Args:
            shape: what it will run, with the batch.

        Raises:
            UnavailableError: there is not enough memory.
        """
        stages = {stage.name: stage for stage in self._manifest.stages_in(shape)}
        profile = None
        if self._manifest.several:
            sizes = [(each.height, each.width) for each in self._manifest.shapes]
            profile = sizes.index((shape.height, shape.width))
        context = self.loaded.create_context()
        return _EngineStage(self.loaded, stages[self.stage.name], profile, context)


class _EngineStage(CudaStage):
    """An execution context; of an engine with profiles, for a shape of one of them."""

    def __init__(
        self,
        engine: LoadedEngine,
        stage: Stage,
        profile: int | None,
        context: trt.IExecutionContext,
    ) -> None:
        self._inputs = stage.inputs
        self._profile = profile
        self.input, self.noise, self.output = stage.input, stage.noise, stage.output
        self.captures_itself = engine.captures_itself
        self._engine: LoadedEngine | None = engine
        self._context: trt.IExecutionContext | None = context

    def bind(self, addresses: Mapping[str, int], stream: int) -> None:
        engine, context = self._opened()
        if self._profile is not None:
            if not context.set_optimization_profile_async(self._profile, stream):
                raise engine.refused("set_optimization_profile_async")
            for spec in self._inputs:
                if not context.set_input_shape(spec.name, spec.shape):
                    raise engine.refused("set_input_shape")
        for tensor in (self.input, self.noise, self.output):
            if tensor and not context.set_tensor_address(tensor.name, addresses[tensor.name]):
                raise engine.refused("set_tensor_address")

    def enqueue(self, stream: int) -> None:
        engine, context = self._opened()
        engine.enqueue(context, stream)

    def uncapturable(self, stream: int) -> str | None:
        engine, context = self._opened()
        return engine.uncapturable(context, stream)

    def close(self) -> None:
        # The context first: it uses the engine's memory.
        self._context = None
        self._engine = None

    def _opened(self) -> tuple[LoadedEngine, trt.IExecutionContext]:
        assert self._engine is not None
        assert self._context is not None
        return self._engine, self._context


def load_engine(
    library: Library,
    device: Device,
    path: Path,
    artifact: Artifact,
    stage: Stage,
    manifest: Manifest,
    *,
    rebuild: str,
    keep: bool = True,
) -> Engine:
    """Load the engine of a stage onto the current device.

    Args:
        library, device, path, artifact, rebuild, keep: as of :func:`load_file`.
        stage: the stage that it computes.
        manifest: of the bundle.

    Raises:
        BundleError: it is damaged, or does not compute this stage.
        UnavailableError: library or device refuse it.
    """

    def check(engine: trt.ICudaEngine) -> None:
        expected = manifest.graph_ends(stage)
        check_ends(f"{path}: the engine's", read_ends(library, engine), expected)
        check_profiles(engine, path, stage, manifest)

    loaded = load_file(
        library, device, path, artifact, stage.name, check, rebuild=rebuild, keep=keep
    )
    return Engine(loaded, stage, manifest)


def load_file(
    library: Library,
    device: Device,
    path: Path,
    artifact: Artifact,
    name: str,
    check: Callable[[trt.ICudaEngine], object],
    *,
    rebuild: str,
    keep: bool,
) -> LoadedEngine:
    """Load an engine onto the current device.

    Args:
        library: a library of the engine's kind and version.
        device: the current device, of the engine's compute capability.
        path: the engine file, whose hash was checked.
        artifact: the file's entry in the manifest.
        name: of what it computes, for messages.
        check: raises a BundleError if the engine computes something else.
        rebuild: the command that builds it again.
        keep: keep the kernels that TensorRT-RTX compiles in the user's cache folder.

    Raises:
        BundleError: it is damaged, or computes something else.
        UnavailableError: library or device refuse it.
    """
    log = library_log(library)
    log.take_errors()  # left over from calls that succeeded in the end
    try:
        runtime: trt.Runtime = library.module.Runtime(log.logger)
    except (RuntimeError, TypeError) as error:  # TypeError: pybind11's, for a null pointer
        reasons = log.take_errors() or [str(error)]
        raise UnavailableError(f"{library} does not start: {short_reason(reasons)}") from None
    if artifact.version_compatible:
        # It contains a runtime of its own version: executable code, like the engine itself.
        runtime.engine_host_code_allowed = True
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if library.kind == RTX:
            _check_validity(library, cast(RtxRuntime, runtime), content, path, rebuild)
            log.take_errors()
        try:
            engine = runtime.deserialize_cuda_engine(content)
        except RuntimeError as error:
            log.add(str(error))
            engine = None
    if engine is None:
        reasons = log.take_errors()
        messages, reason = "; ".join(reasons), short_reason(reasons)
        if _DEVICE_ERROR.search(messages) and not _FILE_ERROR.search(messages):
            raise UnavailableError(f"{library} cannot load {path}: {reason}")
        raise BundleError(
            f"{path} cannot be loaded by {library}: {reason}: rebuild it with {rebuild}"
        )
    check(engine)
    loaded = LoadedEngine(library, device, engine, log, name)
    if library.kind == RTX:
        loaded.use_kernel_cache(artifact, keep=keep)
    return loaded


def _check_validity(
    library: Library, runtime: RtxRuntime, content: Any, path: Path, rebuild: str
) -> None:
    validity, flags = runtime.get_engine_validity(content)
    if validity != library.module.EngineValidity.INVALID:
        return
    causes = library.module.EngineInvalidityDiagnostics.__members__.items()
    named = [name for name, cause in causes if int(flags) & int(cause)]
    if not named:
        return  # as without a driver, for example: loading it gives the reason
    advice = f"({', '.join(named)}): rebuild it with {rebuild}"
    if named == ["MALFORMED_ENGINE"]:
        raise BundleError(f"{path} is not an engine of {library} {advice}")
    raise UnavailableError(f"{library} cannot run {path} here {advice}")


# Compiled kernels -------------------------------------------------------------------------------


class _CompiledKernels:
    """Kernels that TensorRT-RTX compiled from one engine for one device, cached on disk."""

    def __init__(
        self, library: Library, device: Device, sha256: str, cache: RtxRuntimeCache
    ) -> None:
        self._cache = cache
        self._lock = threading.Lock()
        self._stored: bytes | None = None
        self._place: Path | None = None
        machine = repr((device.name, device.driver)).encode()
        name = f"{device.capability}.{hashlib.sha256(machine).hexdigest()[:16]}.cache"
        try:
            self._place = compiled_place("tensorrt-rtx", library.version, sha256, name)
        except OutputError as error:
            _warn(error)
        stored = None if self._place is None else read_sealed(self._place)
        # The library compiles again what it does not accept.
        if stored is not None and cache.deserialize(stored.tobytes()):
            self._stored = stored.tobytes()

    def keep(self) -> None:
        with self._lock:  # sessions share an engine
            if self._place is None:
                return
            serialized = self._cache.serialize()
            content = b"" if serialized is None else bytes(serialized)
            if not content or content == self._stored:
                return
            self._stored = content
            try:
                write_sealed(self._place, content)
            except OutputError as error:
                _warn(error)


def _warn(error: OutputError) -> None:
    warnings.warn(
        f"{error}; compiled kernels are not cached, so every start takes longer",
        RuntimeWarning,
        stacklevel=2,
    )


# TensorRT-RTX only ------------------------------------------------------------------------------


class RtxRuntime(Protocol):
    def get_engine_validity(self, buffer: Any) -> tuple[Any, int]: ...


class RtxEngine(Protocol):
    def create_runtime_config(self) -> RtxRuntimeConfig | None: ...
    def create_execution_context(
        self, runtime_config: RtxRuntimeConfig
    ) -> trt.IExecutionContext | None: ...


class RtxRuntimeConfig(Protocol):
    cuda_graph_strategy: Any

    def create_runtime_cache(self) -> RtxRuntimeCache | None: ...
    def set_runtime_cache(self, cache: RtxRuntimeCache) -> bool: ...


class RtxRuntimeCache(Protocol):
    def deserialize(self, blob: bytes) -> bool: ...
    def serialize(self) -> Any: ...


class RtxContext(Protocol):
    def is_stream_capturable(self, stream: int) -> bool: ...
