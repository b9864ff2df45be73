"""The Python packages of TensorRT and TensorRT-RTX, imported when needed, and their messages."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from elir_deploy.errors import MissingDependencyError, UnavailableError
from elir_deploy.runtime.libraries import not_loaded
from elir_deploy.targets import DEVICE_TENSORRT, RTX, EngineKind
from elir_deploy.text import shortened

if TYPE_CHECKING:
    import tensorrt as trt  # TensorRT-RTX has the same classes, and more

__all__ = ["Library", "LibraryLog", "library_log", "load_library", "release_of", "short_reason"]

#: Module names. The bindings of TensorRT-RTX can also be installed alone.
_MODULES: dict[EngineKind, tuple[str, ...]] = {
    RTX: ("tensorrt_rtx", "tensorrt_rtx_bindings"),
    DEVICE_TENSORRT: ("tensorrt",),
}
_OLDEST: dict[EngineKind, tuple[int, int]] = {RTX: (1, 5), DEVICE_TENSORRT: (8, 6)}


@dataclass(frozen=True)
class Library:
    """An imported library.

    Attributes:
        kind: its name, also that of its artifacts and backend.
        module: the Python module, typed as ``tensorrt``.
        version: full version, such as ``10.3.0.30``.
    """

    kind: EngineKind
    module: Any
    version: str

    def __str__(self) -> str:
        return f"{self.kind} {self.version}"


def load_library(kind: EngineKind, purpose: str = "run engines") -> Library:
    """Import a library.

    Raises:
        MissingDependencyError: it is not installed; ``purpose`` completes "is needed to ...".
        UnavailableError: it does not load or is too old, or TensorRT is missing, which no extra
            installs.
    """
    for name in _MODULES[kind]:
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name:
                raise not_loaded(kind, error) from None
            continue
        except (ImportError, OSError) as error:  # OSError: from a library it loads itself
            raise not_loaded(kind, error) from None
        if not hasattr(module, "Runtime"):  # type stubs alone are an empty package
            continue
        version = str(module.__version__)
        if release_of(version)[:2] < _OLDEST[kind]:
            oldest = "{}.{}".format(*_OLDEST[kind])
            raise UnavailableError(f"{kind} {version} is installed, expected {oldest} or newer")
        return Library(kind, module, version)
    if kind == DEVICE_TENSORRT:
        raise UnavailableError(
            f"tensorrt is needed to {purpose} and is not installed: on a Jetson it comes with "
            "JetPack, for environments created with --system-site-packages; elsewhere, pip install "
            "tensorrt"
        )
    raise MissingDependencyError(kind, kind, purpose)


def release_of(version: str) -> tuple[int, ...]:
    """Major, minor and patch number of a version string."""
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])


#: One per library, by module name.
_LOGS: dict[str, LibraryLog] = {}

Listener = Callable[[Any, str], None]


class LibraryLog:
    """The last errors of a library; all its messages go to listeners.

    Attributes:
        logger: the logger object that the library takes.
    """

    def __init__(self, module: Any) -> None:
        self._errors: list[str] = []
        self._listeners: tuple[Listener, ...] = ()
        receive = self._receive
        self._error_severities = (module.ILogger.ERROR, module.ILogger.INTERNAL_ERROR)

        class Logger(module.ILogger):  # type: ignore[misc]  # a class of the library at hand
            def __init__(self) -> None:
                module.ILogger.__init__(self)

            def log(self, severity: Any, text: str) -> None:
                receive(severity, text)

        self.logger: trt.ILogger = Logger()

    def _receive(self, severity: Any, text: str) -> None:
        if severity in self._error_severities:
            self.add(text)
        for listener in self._listeners:
            listener(severity, text)

    def add(self, text: str) -> None:
        """Add an error that the library reported in another way."""
        self._errors = [*self._errors[-9:], text]

    def take_errors(self) -> list[str]:
        """Return the last errors and forget them."""
        errors, self._errors = self._errors, []
        return errors

    @contextmanager
    def listening(self, listener: Listener) -> Iterator[None]:
        """Call ``listener`` with the severity and text of every message inside the block."""
        self._listeners = (*self._listeners, listener)
        try:
            yield
        finally:
            self._listeners = tuple(other for other in self._listeners if other is not listener)


def library_log(library: Library) -> LibraryLog:
    """The log of a library, one per process.

    TensorRT uses its first logger for as long as anything references it: a second one would miss
    messages from outside the calls of its own runtime object.
    """
    name = library.module.__name__
    if name not in _LOGS:
        _LOGS.setdefault(name, LibraryLog(library.module))
    return _LOGS[name]


def short_reason(reasons: list[str]) -> str:
    # "[a.cpp::readHeader::765] Error Code 2: ... (... failed. In readHeader at /_src/a.cpp:765)"
    plain = (re.sub(r"^\[\S+\] |\s*\bIn \S+ at [^\s()]+:\d+\s*", "", r) for r in reasons)
    text = "; ".join(dict.fromkeys(" ".join(reason.split()) for reason in plain))
    return shortened(text, 400) or "no reason given"
