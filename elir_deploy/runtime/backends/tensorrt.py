"""Engines on TensorRT, built on the device, and on TensorRT-RTX, built ahead of time.

An engine runs on one kind of GPU with one release of its library. A bundle may have several, of
which the one that fits is used. If none fits, the error has the command that builds one.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from elir_deploy.errors import UnavailableError
from elir_deploy.runtime.automatic import automatic_precisions
from elir_deploy.runtime.backends.base import Backend, Session, missing_cuda_device
from elir_deploy.runtime.bundle import Bundle
from elir_deploy.runtime.cuda import Device, device_capabilities, open_device
from elir_deploy.runtime.cuda_session import CudaSession, CudaStage
from elir_deploy.runtime.detector_graph import DetectorNetwork, detector_of
from elir_deploy.runtime.manifest import Artifact, Detector, Shape, Stage
from elir_deploy.runtime.tensorrt_detector import open_detector_engine
from elir_deploy.runtime.tensorrt_ends import detector_sizes
from elir_deploy.runtime.tensorrt_engine import Engine, load_engine, load_file
from elir_deploy.runtime.tensorrt_library import Library, load_library, release_of
from elir_deploy.targets import DEVICE_TENSORRT, RTX, RTX_CAPABILITIES, EngineKind

if TYPE_CHECKING:
    import tensorrt as trt  # TensorRT-RTX has the same classes, and more

__all__ = ["BACKENDS", "TensorRtBackend"]

#: Number of sessions for throughput: one copies while the other computes.
_SESSIONS = 2
_AMPERE = 80
#: Its engines run on no other GPU, and those of others do not run on it.
_JETSON = "sm87"
#: Version-compatible engines also run with the next major version. After 8 that is 10: 9 was
#: released for few platforms.
_NEXT_MAJOR = {8: 10}


@dataclass(frozen=True)
class _Machine:
    """The library and device that an engine has to fit.

    Attributes:
        library: the installed library.
        capability: compute capability of the device, such as ``sm86``.
    """

    library: Library
    capability: str

    def incompatibility(self, artifact: Artifact) -> str | None:
        """Why an engine of the library's kind cannot run; None: it can."""
        if not _is_for(artifact, self.capability):
            return f"it is for {artifact.target}, and this device is {self.capability}"
        built, here = release_of(artifact.tool_version), release_of(self.library.version)
        later_too = artifact.version_compatible and self.library.kind == DEVICE_TENSORRT
        if built == here or (later_too and built < here and here[0] <= _last_major(built[0])):
            return None
        built_by = f"{artifact.tool} {artifact.tool_version}"
        return f"it was built by {built_by}, and {self.library} is installed"

    def rebuild(self, bundle: Bundle, precisions: Sequence[str]) -> str:
        """The command that builds engines that fit, or what to do if that is not possible."""
        if self.library.kind == RTX and self.capability not in RTX_CAPABILITIES:
            return f"TensorRT-RTX does not support {self.capability}, use another backend"
        device = "--device" if self.library.kind != RTX else f"--target {self.capability}"
        options = "".join(f" --precision {precision}" for precision in precisions)
        path = shlex.quote(str(bundle.path))
        return f"elir-build {path} {device}{options}"


@dataclass(frozen=True)
class TensorRtBackend(Backend):
    """The backend for engines of one of the two libraries, ``kind``."""

    name: str
    kind: EngineKind
    precisions: tuple[str, ...]
    on_gpu: bool = True

    def available(self) -> str | None:
        try:
            load_library(self.kind)
            self._device(0)
        except UnavailableError as error:
            return str(error)
        return None

    def takes(self, artifact: Artifact) -> bool:
        return artifact.kind == self.kind

    def incompatibility(self, artifact: Artifact) -> str | None:
        if artifact.kind != self.kind:
            return None
        reasons = [machine.incompatibility(artifact) for machine in self._machines()]
        return None if None in reasons or not reasons else reasons[0]

    def obstacle(self, bundle: Bundle) -> str | None:
        engines = [a for a in bundle.manifest.artifacts if a.kind == self.kind]
        if not engines:
            return None
        reason = self.available()
        if reason is not None:
            here = device_capabilities()
            return reason if any(_is_for(engine, sm) for engine in engines for sm in here) else None
        if any(self._fits(bundle, precision) for precision in self.precisions):
            return None
        machines = self._machines()
        return self._incompatibilities(bundle, engines, machines[0]) if machines else None

    def held_precisions(self, bundle: Bundle) -> tuple[str, ...]:
        """Precisions with engines that fit; if none does, or if unknown, those with any engine."""
        available = super().held_precisions(bundle)
        return tuple(p for p in available if self._fits(bundle, p)) or available

    def artifacts(self, bundle: Bundle, precision: str, *, device: int = 0) -> tuple[Artifact, ...]:
        machines = self._machines()[device : device + 1]
        if not machines:
            return super().artifacts(bundle, precision)
        return tuple(engine for _, engine in self._chain(bundle, precision, machines[0]))

    def open(
        self, bundle: Bundle, precision: str, *, threads: int | None = None, device: int = 0
    ) -> Session:
        return self._sessions(bundle, precision, device, 1)[0]

    def open_several(
        self, bundle: Bundle, precision: str, *, threads: int | None = None, device: int = 0
    ) -> tuple[Session, ...]:
        return self._sessions(bundle, precision, device, _SESSIONS)

    def _sessions(
        self, bundle: Bundle, precision: str, number: int, count: int
    ) -> tuple[Session, ...]:
        library = load_library(self.kind)
        device = self._device(number)
        machine = _Machine(library, device.capability)
        chain = self._chain(bundle, precision, machine)
        rebuild = machine.rebuild(bundle, (precision,))
        with device.current():
            engines = [
                load_engine(
                    library,
                    device,
                    bundle.checked_file(artifact.file),
                    artifact,
                    stage,
                    bundle.manifest,
                    rebuild=rebuild,
                    keep=not bundle.temporary,
                )
                for stage, artifact in chain
            ]
        first = bundle.manifest.shapes[0]
        with ExitStack() as undo:
            sessions = []
            for _ in range(count):
                session = _session(device, engines, first, sleeping=count > 1)
                undo.callback(session.close)
                sessions.append(session)
            undo.pop_all()
        return tuple(sessions)

    def open_detector(
        self, bundle: Bundle, *, threads: int | None = None, device: int = 0
    ) -> DetectorNetwork:
        library = load_library(self.kind)
        opened = self._device(device)
        machine = _Machine(library, opened.capability)
        detector = detector_of(bundle)
        artifact = self._detector_engine(bundle, detector, machine)
        path = bundle.checked_file(artifact.file)
        sizes: list[tuple[int, int]] = []

        def check(engine: trt.ICudaEngine) -> None:
            sizes.extend(detector_sizes(library, engine, path, detector))

        with opened.current():
            engine = load_file(
                *(library, opened, path, artifact, "the face detector", check),
                rebuild=machine.rebuild(bundle, ()),
                keep=not bundle.temporary,
            )
        return open_detector_engine(opened, engine, detector, sizes)

    def _device(self, number: int) -> Device:
        reason = missing_cuda_device()
        if reason is not None:
            raise UnavailableError(reason)
        return open_device(number, self.kind)

    def _machines(self) -> tuple[_Machine, ...]:
        """One for each device; none without the library or the driver."""
        try:
            library = load_library(self.kind)
        except UnavailableError:
            return ()
        return tuple(_Machine(library, capability) for capability in device_capabilities())

    def _fits(self, bundle: Bundle, precision: str) -> bool:
        return any(
            all(
                any(
                    machine.incompatibility(artifact) is None
                    for artifact in self._fitting(s, precision)
                )
                for s in bundle.stages
            )
            for machine in self._machines()
        )

    def _chain(
        self, bundle: Bundle, precision: str, machine: _Machine
    ) -> list[tuple[Stage, Artifact]]:
        """Each stage with the engine that fits.

        Raises:
            BundleError: a stage has no engine at all.
            UnavailableError: none of a stage's engines fits.
        """
        super().artifacts(bundle, precision)
        chain = []
        for stage in bundle.stages:
            engines = self._fitting(stage, precision)
            chain.append((stage, self._best(bundle, engines, machine)))
        return chain

    def _best(self, bundle: Bundle, engines: Sequence[Artifact], machine: _Machine) -> Artifact:
        """Of the same network, the engine that fits best.

        Raises:
            UnavailableError: none fits.
        """
        fitting = [engine for engine in engines if machine.incompatibility(engine) is None]
        if not fitting:
            raise UnavailableError(self._incompatibilities(bundle, engines, machine))
        # An engine for this GPU alone is faster than a hardware-compatible one.
        return min(fitting, key=lambda a: not _is_exact(a, machine.capability))

    def _detector_engine(self, bundle: Bundle, detector: Detector, machine: _Machine) -> Artifact:
        """The engine of the face detector that fits best.

        Raises:
            UnavailableError: there is none.
        """
        engines = [
            artifact
            for artifact in detector.artifacts
            if artifact.kind == self.kind and artifact.precision == "fp32"
        ]
        if not engines:
            raise UnavailableError(
                f"{bundle.path} has no {self.name} engine of its face detector: "
                f"{machine.rebuild(bundle, ())}"
            )
        return self._best(bundle, engines, machine)

    def _incompatibilities(
        self, bundle: Bundle, engines: Sequence[Artifact], machine: _Machine
    ) -> str:
        """The engines in the bundle, the one that is needed, and the command that builds it."""
        existing = dict.fromkeys(f"{a.target or 'any device'} by {a.tool_version}" for a in engines)
        precisions = tuple(dict.fromkeys(engine.precision for engine in engines))
        return (
            f"no {self.name} engine of {bundle.path} fits: found for {', '.join(existing)}; "
            f"needed for {machine.capability} by {machine.library.version}: "
            f"{machine.rebuild(bundle, precisions)}"
        )


def _is_exact(artifact: Artifact, capability: str) -> bool:
    return artifact.target in (None, capability)


def _is_for(artifact: Artifact, capability: str) -> bool:
    """Whether an engine runs on GPUs of a compute capability."""
    if _is_exact(artifact, capability):
        return True
    return (
        artifact.hardware_compatibility == "ampere_plus"
        and _JETSON not in (capability, artifact.target)
        and int(capability.removeprefix("sm")) >= _AMPERE
    )


def _last_major(built: int) -> int:
    """The last major version that runs a version-compatible engine of major version ``built``."""
    return _NEXT_MAJOR.get(built, built + 1)


def _session(device: Device, engines: Sequence[Engine], shape: Shape, *, sleeping: bool) -> Session:
    def create_stages(shape: Shape) -> list[CudaStage]:
        with ExitStack() as undo:
            stages: list[CudaStage] = []
            for engine in engines:
                stage = engine.create_stage(shape)
                undo.callback(stage.close)
                stages.append(stage)
            undo.pop_all()
        return stages

    def keep_compiled() -> None:
        for engine in engines:
            engine.loaded.keep_compiled()

    return CudaSession(
        device,
        shape,
        create_stages,
        sleeping=sleeping,
        after_first_run=keep_compiled,
    )


BACKENDS = (
    TensorRtBackend("tensorrt", DEVICE_TENSORRT, automatic_precisions("tensorrt")),
    TensorRtBackend("tensorrt-rtx", RTX, automatic_precisions("tensorrt-rtx")),
)
