"""Engines on TensorRT, which are made on the device, and on TensorRT-RTX, made ahead of time.

An engine fits one kind of GPU and one release of its library. A bundle may hold several; the one
that fits is taken. Where none does, what would fit is told, with the command that makes it.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from elir_deploy.errors import UnavailableError
from elir_deploy.runtime.backends.base import Backend, Session, missing_cuda_device
from elir_deploy.runtime.bundle import Bundle
from elir_deploy.runtime.cuda import Device, device_capabilities, open_device
from elir_deploy.runtime.cuda_session import CudaSession, CudaStage
from elir_deploy.runtime.manifest import Artifact, Stage
from elir_deploy.runtime.tensorrt_engine import (
    Engine,
    Library,
    load_engine,
    load_library,
    release_of,
)
from elir_deploy.targets import DEVICE_TENSORRT, RTX, RTX_CAPABILITIES, EngineKind

__all__ = ["BACKENDS", "TensorRtBackend"]

#: Sessions side by side for the most images in a second: one copies while the other computes.
_SEVERAL = 2
_AMPERE = 80
#: Its engines are for no other GPU, and those of others are not for it.
_JETSON = "sm87"
#: Version-compatible engines run under the next major version, too. After 8 that is 10: 9 was for
#: few platforms.
_NEXT_MAJOR = {8: 10}


@dataclass(frozen=True)
class _Machine:
    """What an engine has to fit.

    Attributes:
        library: installed.
        capability: of the device, such as ``sm86``.
    """

    library: Library
    capability: str

    def incompatibility(self, artifact: Artifact) -> str | None:
        """Why an engine of the library's kind cannot run, or None."""
        if not _is_for(artifact, self.capability):
            return f"it is for {artifact.target}, and this device is {self.capability}"
        made, here = release_of(artifact.tool_version), release_of(self.library.version)
        later_too = artifact.version_compatible and self.library.kind == DEVICE_TENSORRT
        if made == here or (later_too and made < here and here[0] <= _last_major(made[0])):
            return None
        return (
            f"it was made by {artifact.tool} {artifact.tool_version}, and {self.library} is "
            "installed"
        )

    def rebuild(self, bundle: Bundle, precisions: Sequence[str]) -> str:
        """The command that makes the engines that fit, or what to do where there is none."""
        if self.library.kind == RTX and self.capability not in RTX_CAPABILITIES:
            return f"TensorRT-RTX builds none for {self.capability}, take another backend"
        device = "--device" if self.library.kind != RTX else f"--target {self.capability}"
        wanted = "".join(f" --precision {precision}" for precision in precisions)
        path = shlex.quote(str(bundle.path))
        return f"elir-build {path} {device}{wanted}"


@dataclass(frozen=True)
class TensorRtBackend(Backend):
    """The engines of one of the two libraries, ``kind``."""

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
        """Those with engines that fit; where none does, or nothing is known, those with any."""
        held = super().held_precisions(bundle)
        return tuple(p for p in held if self._fits(bundle, p)) or held

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
        return self._sessions(bundle, precision, device, _SEVERAL)

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
                    library, device, bundle.checked_file(artifact.file), artifact, stage, rebuild
                )
                for stage, artifact in chain
            ]
        with ExitStack() as undo:
            sessions = []
            for _ in range(count):
                session = _session(device, engines, sleeping=count > 1)
                undo.callback(session.close)
                sessions.append(session)
            undo.pop_all()
        return tuple(sessions)

    def _device(self, number: int) -> Device:
        reason = missing_cuda_device()
        if reason is not None:
            raise UnavailableError(reason)
        return open_device(number, self.kind)

    def _machines(self) -> tuple[_Machine, ...]:
        """One for each device; none where the library or the driver is not there."""
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
        """The engine of each stage that fits.

        Raises:
            BundleError: there is none at all for a stage.
            UnavailableError: none of them fits.
        """
        super().artifacts(bundle, precision)
        chain = []
        for stage in bundle.stages:
            held = self._fitting(stage, precision)
            fitting = [artifact for artifact in held if machine.incompatibility(artifact) is None]
            if not fitting:
                raise UnavailableError(self._incompatibilities(bundle, held, machine))
            # One made for this GPU is faster than one that others can run, too.
            chain.append((stage, min(fitting, key=lambda a: not _made_for(a, machine.capability))))
        return chain

    def _incompatibilities(
        self, bundle: Bundle, engines: Sequence[Artifact], machine: _Machine
    ) -> str:
        """What was found, what is needed, and the command that makes it."""
        found = dict.fromkeys(f"{a.target or 'any device'} by {a.tool_version}" for a in engines)
        precisions = tuple(dict.fromkeys(engine.precision for engine in engines))
        return (
            f"no {self.name} engine of {bundle.path} fits: found for {', '.join(found)}; "
            f"needed for {machine.capability} by {machine.library.version}: "
            f"{machine.rebuild(bundle, precisions)}"
        )


def _made_for(artifact: Artifact, capability: str) -> bool:
    return artifact.target in (None, capability)


def _is_for(artifact: Artifact, capability: str) -> bool:
    """Whether an engine is for GPUs of a compute capability."""
    if _made_for(artifact, capability):
        return True
    return (
        artifact.hardware_compatibility == "ampere_plus"
        and _JETSON not in (capability, artifact.target)
        and int(capability.removeprefix("sm")) >= _AMPERE
    )


def _last_major(made: int) -> int:
    """The last major version whose releases run a version-compatible engine of ``made``."""
    return _NEXT_MAJOR.get(made, made + 1)


def _session(device: Device, engines: Sequence[Engine], *, sleeping: bool) -> Session:
    def keep_compiled() -> None:
        for engine in engines:
            engine.keep_compiled()

    with ExitStack() as undo:
        stages: list[CudaStage] = []
        with device.current():
            for engine in engines:
                stage = engine.create_stage()
                undo.callback(stage.close)
                stages.append(stage)
        undo.pop_all()
    return CudaSession(device, stages, sleeping=sleeping, after_first_run=keep_compiled)


BACKENDS = (
    TensorRtBackend(name="tensorrt", kind=DEVICE_TENSORRT, precisions=("int8", "fp16", "fp32")),
    # Its support matrix lists no INT8 convolutions: they build, and come last (docs/decisions.md).
    TensorRtBackend(name="tensorrt-rtx", kind=RTX, precisions=("fp16", "fp32", "int8")),
)
