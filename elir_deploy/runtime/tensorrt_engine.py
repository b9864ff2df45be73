"""TensorRT and TensorRT-RTX: the installed library, an engine in it, and the engine as a stage.

Only what both libraries have from 8.6 to 11 is used: tensors by name, and no binding numbers. What
TensorRT-RTX alone has is its cache of compiled kernels, and a check of an engine before it is
loaded.
"""

from __future__ import annotations

import hashlib
import importlib
import mmap
import re
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from elir_deploy.errors import (
    BundleError,
    MissingDependencyError,
    OutputError,
    UnavailableError,
)
from elir_deploy.runtime.cache import compiled_place, read_sealed, write_sealed
from elir_deploy.runtime.cuda import Device
from elir_deploy.runtime.cuda_session import CudaStage
from elir_deploy.runtime.manifest import Artifact, Stage
from elir_deploy.targets import DEVICE_TENSORRT, RTX, EngineKind

if TYPE_CHECKING:
    import tensorrt as trt  # TensorRT-RTX has the same classes, and more

__all__ = [
    "Engine",
    "Library",
    "LibraryLog",
    "library_log",
    "load_engine",
    "load_library",
    "release_of",
]

#: By the names they are imported under; the bindings of TensorRT-RTX have one of their own.
_MODULES: dict[EngineKind, tuple[str, ...]] = {
    RTX: ("tensorrt_rtx", "tensorrt_rtx_bindings"),
    DEVICE_TENSORRT: ("tensorrt",),
}
_OLDEST: dict[EngineKind, tuple[int, int]] = {RTX: (1, 5), DEVICE_TENSORRT: (8, 6)}
_TYPES = {"uint8": "UINT8", "float32": "FLOAT"}
#: Where a library complains of the file; after that it may complain of the device, too.
_OF_THE_FILE = re.compile(r"serialization assertion", re.IGNORECASE)
#: Where a library complains of the device, and not of the file.
_OF_THE_DEVICE = re.compile(
    r"cuda ?(runtime|error|driver|failure)|out ?of ?memory|memory allocation", re.IGNORECASE
)


@dataclass(frozen=True)
class Library:
    """One of the libraries, imported.

    Attributes:
        kind: which; artifacts and backends are called so too.
        module: its Python module, typed as ``tensorrt``.
        version: in full, such as ``10.3.0.30``.
    """

    kind: EngineKind
    module: Any
    version: str

    def __str__(self) -> str:
        return f"{self.kind} {self.version}"


def load_library(kind: EngineKind, purpose: str = "run engines") -> Library:
    """Import a library.

    Raises:
        MissingDependencyError: it is not installed; ``purpose`` says what it is needed for.
        UnavailableError: it does not load, or is too old; or TensorRT is not there, which no extra
            installs.
    """
    for name in _MODULES[kind]:
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name:
                raise _not_loaded(kind, error) from None
            continue
        except (ImportError, OSError) as error:  # OSError: a library it loads by itself
            raise _not_loaded(kind, error) from None
        if not hasattr(module, "Runtime"):  # type stubs alone are an empty package
            continue
        version = str(module.__version__)
        if release_of(version)[:2] < _OLDEST[kind]:
            oldest = "{}.{}".format(*_OLDEST[kind])
            wanted = f"{oldest} or newer"
            raise UnavailableError(f"{kind} {version} is installed, wanted {wanted}")
        return Library(kind, module, version)
    if kind == DEVICE_TENSORRT:
        raise UnavailableError(
            f"tensorrt is needed to {purpose} and is not installed: on a Jetson it comes with "
            "JetPack, for environments made with --system-site-packages; elsewhere, pip install "
            "tensorrt"
        )
    raise MissingDependencyError(kind, kind, purpose)


def _not_loaded(kind: EngineKind, error: Exception) -> UnavailableError:
    return UnavailableError(
        f"{kind} cannot be loaded ({error}): install it, or name its folder in LD_LIBRARY_PATH"
    )


def release_of(version: str) -> tuple[int, ...]:
    """Major, minor and patch number of a version of either library."""
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])


# An engine --------------------------------------------------------------------------------------


class Engine:
    """An engine on a device. It stays there until it and all its stages are gone.

    Attributes:
        stage: of the bundle, that it computes.
    """

    def __init__(
        self,
        library: Library,
        device: Device,
        engine: trt.ICudaEngine,
        log: LibraryLog,
        stage: Stage,
    ) -> None:
        self.stage = stage
        self.library = library
        self._device = device
        self._engine = engine
        self._log = log
        self._compiled: _CompiledKernels | None = None
        self._config: RtxRuntimeConfig | None = None

    def compile_into(self, artifact: Artifact) -> None:
        """Keep the kernels that TensorRT-RTX compiles, in the user's cache folder."""
        engine = cast(RtxEngine, self._engine)
        self._config = config = self._made(engine.create_runtime_config(), "create_runtime_config")
        if not self._device.captures:
            # The library then captures each stage; the session captures all of them and the copies.
            strategy = self.library.module.CudaGraphStrategy
            config.cuda_graph_strategy = strategy.WHOLE_GRAPH_CAPTURE
        cache = self._made(config.create_runtime_cache(), "create_runtime_cache")
        self._compiled = _CompiledKernels(self.library, self._device, artifact.sha256, cache)
        if not config.set_runtime_cache(cache):
            raise self.refused("set_runtime_cache")

    @property
    def captures_itself(self) -> bool:
        """Whether the library makes a graph of each run."""
        return self._config is not None and not self._device.captures

    def create_stage(self) -> CudaStage:
        """A context of its own to run in, on the device that is current.

        Raises:
            UnavailableError: there is no memory for it.
        """
        context: trt.IExecutionContext | None
        try:
            if self._config is None:
                context = self._engine.create_execution_context()
            else:
                engine = cast(RtxEngine, self._engine)
                context = engine.create_execution_context(runtime_config=self._config)
        except RuntimeError as error:
            raise UnavailableError(f"{self.library}: {_brief([str(error)])}") from None
        return _EngineStage(self, self._made(context, "create_execution_context"))

    def keep_compiled(self) -> None:
        """Write what was compiled into the cache, if it is new. Never fails."""
        if self._compiled is not None:
            self._compiled.keep()

    def refused(self, call: str) -> UnavailableError:
        """For a call that the library answers with False or None."""
        return UnavailableError(
            f"{self.library}: {call} of {self.stage.name} failed: {_brief(self._log.taken())}"
        )

    def _made(self, value: Any, call: str) -> Any:
        if value is None:
            raise self.refused(call)
        return value


class _EngineStage(CudaStage):
    def __init__(self, engine: Engine, context: trt.IExecutionContext) -> None:
        self.input, self.output = engine.stage.input, engine.stage.output
        self.captures_itself = engine.captures_itself
        self._engine: Engine | None = engine
        self._context: trt.IExecutionContext | None = context

    def bind(self, source: int, sink: int) -> None:
        engine, context = self._opened()
        for name, address in ((self.input.name, source), (self.output.name, sink)):
            if not context.set_tensor_address(name, address):
                raise engine.refused("set_tensor_address")

    def enqueue(self, stream: int) -> None:
        engine, context = self._opened()
        try:
            queued = context.execute_async_v3(stream)
        except RuntimeError as error:
            raise UnavailableError(f"{engine.library}: {_brief([str(error)])}") from None
        if not queued:
            raise engine.refused("execute_async_v3")

    def uncapturable(self, stream: int) -> str | None:
        engine, context = self._opened()
        if engine.library.kind != RTX or cast(RtxContext, context).is_stream_capturable(stream):
            return None
        return f"{engine.library} says that {engine.stage.name} cannot be captured"

    def close(self) -> None:
        # The context first: it holds memory of the engine's.
        self._context = None
        self._engine = None

    def _opened(self) -> tuple[Engine, trt.IExecutionContext]:
        assert self._engine is not None
        assert self._context is not None
        return self._engine, self._context


def load_engine(
    library: Library, device: Device, path: Path, artifact: Artifact, stage: Stage, rebuild: str
) -> Engine:
    """Put an engine on the device, which is current.

    Args:
        library: of the engine's kind and version.
        device: of the engine's compute capability.
        path: of the file, whose hash was checked.
        artifact: what the manifest says of it.
        stage: whose ends it must have.
        rebuild: the command that makes it anew.

    Raises:
        BundleError: it is damaged, or does not compute this stage.
        UnavailableError: library or device refuse it.
    """
    log = library_log(library)
    log.taken()  # what is left of calls that went well in the end
    try:
        runtime: trt.Runtime = library.module.Runtime(log.logger)
    except (RuntimeError, TypeError) as error:  # TypeError: of pybind11, for a null pointer
        reasons = log.taken() or [str(error)]
        raise UnavailableError(f"{library} does not start: {_brief(reasons)}") from None
    if artifact.version_compatible:
        # Inside is a runtime of the engine's own version: code, as much as the engine itself is.
        runtime.engine_host_code_allowed = True
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if library.kind == RTX:
            _check_validity(library, cast(RtxRuntime, runtime), content, path, rebuild)
            log.taken()
        try:
            engine = runtime.deserialize_cuda_engine(content)
        except RuntimeError as error:
            log.add(str(error))
            engine = None
    if engine is None:
        reasons = log.taken()
        said = "; ".join(reasons)
        if _OF_THE_DEVICE.search(said) and not _OF_THE_FILE.search(said):
            raise UnavailableError(f"{library} cannot load {path}: {_brief(reasons)}")
        raise BundleError(
            f"{path} cannot be loaded by {library}: {_brief(reasons)}: make it anew with {rebuild}"
        )
    _check_ends(library, engine, path, stage)
    loaded = Engine(library, device, engine, log, stage)
    if library.kind == RTX:
        loaded.compile_into(artifact)
    return loaded


def _check_validity(
    library: Library, runtime: RtxRuntime, content: Any, path: Path, rebuild: str
) -> None:
    validity, found = runtime.get_engine_validity(content)
    if validity != library.module.EngineValidity.INVALID:
        return
    causes = library.module.EngineInvalidityDiagnostics.__members__.items()
    named = [name for name, cause in causes if int(found) & int(cause)]
    if not named:
        return  # no reason is none: without a driver, say. Loading it will tell
    advice = f"({', '.join(named)}): make it anew with {rebuild}"
    if named == ["MALFORMED_ENGINE"]:
        raise BundleError(f"{path} is no engine of {library} {advice}")
    raise UnavailableError(f"{library} cannot run {path} here {advice}")


def _check_ends(library: Library, engine: trt.ICudaEngine, path: Path, stage: Stage) -> None:
    trt = library.module
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    for what, mode, spec in (
        ("input", trt.TensorIOMode.INPUT, stage.input),
        ("output", trt.TensorIOMode.OUTPUT, stage.output),
    ):
        seen = [
            _described(
                name,
                engine.get_tensor_dtype(name).name,
                _shape(engine.get_tensor_shape(name)),
                engine.get_tensor_format(name).name,
            )
            for name in names
            if engine.get_tensor_mode(name) == mode
        ]
        wanted = _described(spec.name, _TYPES[spec.dtype], spec.shape, "LINEAR")
        if seen != [wanted]:
            described = ", ".join(seen) or "missing"
            raise BundleError(
                f"{path}: the engine's {what} is {described}, the manifest says {wanted}"
            )


def _shape(sides: trt.Dims) -> tuple[int, ...]:
    return tuple(sides[index] for index in range(len(sides)))  # it has no __iter__ of its own


def _described(name: str, dtype: str, shape: tuple[int, ...], layout: str) -> str:
    return f"{name}: {dtype} {'x'.join(map(str, shape))} {layout}"


# What the library says --------------------------------------------------------------------------


#: One for each library, by its module's name.
_LOGS: dict[str, LibraryLog] = {}

Listener = Callable[[Any, str], None]


class LibraryLog:
    """A library's last errors and, while somebody listens, everything it says.

    Attributes:
        logger: to be handed to the library.
    """

    def __init__(self, module: Any) -> None:
        self._errors: list[str] = []
        self._listeners: tuple[Listener, ...] = ()
        heard = self._heard
        self._of_errors = (module.ILogger.ERROR, module.ILogger.INTERNAL_ERROR)

        class Logger(module.ILogger):  # type: ignore[misc]  # a class of the library at hand
            def __init__(self) -> None:
                module.ILogger.__init__(self)

            def log(self, severity: Any, text: str) -> None:
                heard(severity, text)

        self.logger: trt.ILogger = Logger()

    def _heard(self, severity: Any, text: str) -> None:
        if severity in self._of_errors:
            self.add(text)
        for listener in self._listeners:
            listener(severity, text)

    def add(self, text: str) -> None:
        """Note an error that the library tells of in another way."""
        self._errors = [*self._errors[-9:], text]

    def taken(self) -> list[str]:
        """The last errors, which are forgotten."""
        errors, self._errors = self._errors, []
        return errors

    @contextmanager
    def listening(self, listener: Listener) -> Iterator[None]:
        """Inside, ``listener`` is called with the severity and text of all that is said."""
        self._listeners = (*self._listeners, listener)
        try:
            yield
        finally:
            self._listeners = tuple(other for other in self._listeners if other is not listener)


def library_log(library: Library) -> LibraryLog:
    """The one log of a library in this process.

    TensorRT keeps to the first logger that it was given, as long as something holds it: what is
    said outside of a runtime's own calls would be lost to the second.
    """
    name = library.module.__name__
    if name not in _LOGS:
        _LOGS.setdefault(name, LibraryLog(library.module))
    return _LOGS[name]


def _brief(reasons: list[str]) -> str:
    # "[a.cpp::readHeader::765] Error Code 2: ... (... failed. In readHeader at /_src/a.cpp:765)"
    plain = (re.sub(r"^\[\S+\] |\s*\bIn \S+ at [^\s()]+:\d+\s*", "", r) for r in reasons)
    text = "; ".join(dict.fromkeys(" ".join(reason.split()) for reason in plain))
    return (text if len(text) <= 400 else text[:397] + "...") or "it gives no reason"


# Compiled kernels -------------------------------------------------------------------------------


class _CompiledKernels:
    """What TensorRT-RTX compiled of one engine for one device, kept from process to process."""

    def __init__(
        self, library: Library, device: Device, sha256: str, cache: RtxRuntimeCache
    ) -> None:
        self._cache = cache
        self._lock = threading.Lock()
        self._kept: bytes | None = None
        self._place: Path | None = None
        maker = repr((device.name, device.driver)).encode()
        name = f"{device.capability}.{hashlib.sha256(maker).hexdigest()[:16]}.cache"
        try:
            self._place = compiled_place("tensorrt-rtx", library.version, sha256, name)
        except OutputError as error:
            _warn(error)
        stored = None if self._place is None else read_sealed(self._place)
        # What the library does not take it compiles anew.
        if stored is not None and cache.deserialize(stored.tobytes()):
            self._kept = stored.tobytes()

    def keep(self) -> None:
        with self._lock:  # two sessions share an engine
            if self._place is None:
                return
            made = self._cache.serialize()
            content = b"" if made is None else bytes(made)
            if not content or content == self._kept:
                return
            self._kept = content
            try:
                write_sealed(self._place, content)
            except OutputError as error:
                _warn(error)


def _warn(error: OutputError) -> None:
    warnings.warn(
        f"{error}; so compiled kernels are not kept and every start takes longer",
        RuntimeWarning,
        stacklevel=2,
    )


# What TensorRT-RTX has besides ------------------------------------------------------------------


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
