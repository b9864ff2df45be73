"""What is measured: one way to run one model, from 8-bit image to 8-bit image."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elir_deploy.bench.clocks import Clock, wall_clock
from elir_deploy.bench.device import installed_version
from elir_deploy.errors import UnavailableError
from elir_deploy.pixels import psnr_db
from elir_deploy.runtime import Bundle, Restorer
from elir_deploy.runtime.backends import BACKENDS, Backend, backend_named
from elir_deploy.runtime.manifest import RUN_PRECISIONS, Artifact, file_precision
from elir_deploy.runtime.tensorrt_library import load_library
from elir_deploy.targets import DEVICE_TENSORRT, RTX

__all__ = [
    "RANDOM_WEIGHTS",
    "BundleRunner",
    "Fidelity",
    "Preparation",
    "Runner",
    "Unavailable",
    "compare_with_references",
    "open_restorers",
]

#: Why a bundle with random weights has no PSNR.
RANDOM_WEIGHTS = "random weights: good for speed only, there is no picture to compare"


@dataclass(frozen=True)
class Fidelity:
    """Agreement with float32 PyTorch on the bundle's reference images.

    Attributes:
        psnr_db: of the worst image; None where there is nothing to compare with, infinite where
            every image is identical.
        images: how many were compared.
        note: what it was compared with, or why it was not.
    """

    psnr_db: float | None
    images: int
    note: str


@dataclass(frozen=True)
class Unavailable:
    """A runner that was asked for and cannot be measured."""

    label: str
    reason: str


@dataclass(frozen=True)
class Preparation:
    """What had to be done once before a runner could run.

    Attributes:
        what: such as ``to compile``.
        seconds: it took.
    """

    what: str
    seconds: float


class Runner(ABC):
    """One way to run the model.

    Attributes:
        label: distinct among the runners of a run, such as ``onnxruntime fp16``.
        backend: a backend's name, or ``torch``.
        precision: ``fp32``, ``fp16``, ``bf16`` or ``int8``.
        version: of the library that runs it.
        weights: where the weights come from.
        artifacts: file, its precision and SHA-256, of every file that runs; none for PyTorch.
        device_ns: time inside the backend during the last :meth:`restore`, in nanoseconds; None
            where it cannot be told.
        part_names: of the parts that ``device_ns`` consists of; empty where it is all one.
        parts_ns: of the last :meth:`restore`, one for each name.
        arithmetic: how many convolutions really run in which type; None where nobody tells.
        on_cpu: whether the processor runs it, so that the yardstick, which is the processor's, says
            something about it.
        preparation: before the first image; None where loading is all.
    """

    label: str
    backend: str
    precision: str
    version: str
    weights: str
    artifacts: tuple[dict[str, Any], ...] = ()
    device_ns: int | None = None
    part_names: tuple[str, ...] = ()
    parts_ns: tuple[int, ...] = ()
    arithmetic: dict[str, int] | None = None
    on_cpu: bool = True
    preparation: Preparation | None = None

    @abstractmethod
    def restore(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Restore (H, W, 3) uint8 RGB as a user would; this is what is timed.

        Raises:
            ElirError: the device failed; the runner is left out from here on.
        """

    @abstractmethod
    def fidelity(self, bundle: Bundle) -> Fidelity:
        """Compare with the reference outputs in ``bundle``."""

    def close(self) -> None:  # noqa: B027  # not every runner holds something
        """Give back the device's memory."""


class BundleRunner(Runner):
    """A bundle on one of the runtime's backends.

    Args:
        bundle: the opened bundle.
        backend: name of the backend.
        precision: the one to run.
        threads: CPU threads a run may use.
        variant: added to the label, where several bundles are measured.
        clock: to time the session with.

    Attributes:
        bundle: that runs.
        running: one line on what runs it.

    Raises:
        ElirError: the backend cannot run the bundle here.
    """

    def __init__(
        self,
        bundle: Bundle,
        backend: str,
        precision: str,
        *,
        threads: int | None,
        variant: str = "",
        clock: Clock = wall_clock,
    ) -> None:
        self.bundle = bundle
        self._restorer = Restorer(bundle, backend, precision=precision, threads=threads)
        self.running = str(self._restorer)
        self._clock = clock
        self.label = f"{backend} {precision}{variant}"
        self.backend = backend
        self.precision = precision
        self.version = _backend_version(backend)
        self.weights = "random" if bundle.manifest.source.random else bundle.manifest.source.name
        runs_on = backend_named(backend)
        self.on_cpu = not runs_on.on_gpu
        chosen = runs_on.artifacts(bundle, precision)
        self.artifacts = tuple(
            {"file": a.file, "precision": a.precision, "bytes": a.bytes, "sha256": a.sha256}
            for a in chosen
        )
        self.arithmetic = self._restorer.session.arithmetic() or _counted(chosen)
        self._time_the_session()

    def restore(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        for part in range(len(self._parts)):
            self._parts[part] = 0
        restored = self._restorer.restore(image)
        self.device_ns = sum(self._parts)
        if self.part_names:
            self.parts_ns = tuple(self._parts)
        return restored

    def run_pixels(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The model alone: (image_size, image_size, 3) uint8 RGB at its own scale, and back."""
        return self._restorer.run_pixels(pixels)

    def fidelity(self, bundle: Bundle) -> Fidelity:
        return compare_with_references(bundle, self._restorer.run_pixels)

    def close(self) -> None:
        self._restorer.close()

    def _time_the_session(self) -> None:
        """Add up what each part of the session's runs takes inside a restore.

        Timed in the same call as the whole, so that their difference is the runtime's own work.
        """
        session, clock = self._restorer.session, self._clock
        steps = session.steps()
        parts = self._parts = [0] * len(steps)
        calls: tuple[Callable[[], None], ...] = (session.run,)
        if len(steps) > 1:
            self.part_names = tuple(name for name, _ in steps)
            calls = tuple(call for _, call in steps)

        def timed_run() -> None:
            start = clock()
            for part, call in enumerate(calls):
                call()
                end = clock()
                parts[part] += end - start
                start = end

        session.run = timed_run  # type: ignore[method-assign]


def _counted(artifacts: Sequence[Artifact]) -> dict[str, int] | None:
    """What the builder of every engine found its convolutions to be."""
    if not all(artifact.convolutions for artifact in artifacts):
        return None
    total: Counter[str] = Counter()
    for artifact in artifacts:
        total.update(artifact.convolutions or {})
    return dict(total)


def compare_with_references(
    bundle: Bundle, run: Callable[[NDArray[np.uint8]], NDArray[np.uint8]]
) -> Fidelity:
    """How near to float32 PyTorch the pixels are that ``run`` makes of the reference images.

    With random weights nothing is run: such pictures are noise, and so is their PSNR.

    Args:
        bundle: that holds the references.
        run: from (image_size, image_size, 3) uint8 RGB to the same.
    """
    if bundle.manifest.source.random:
        return Fidelity(None, 0, RANDOM_WEIGHTS)
    found = [psnr_db(run(image), reference) for _, image, reference in bundle.reference_images()]
    if not found:
        return Fidelity(None, 0, "the bundle holds no reference images")
    return Fidelity(min(found), len(found), "against float32 PyTorch, worst image")


def open_restorers(
    bundle: Bundle,
    backends: Sequence[str] | None,
    precisions: Sequence[str] | None,
    *,
    threads: int | None,
    variant: str = "",
    clock: Clock = wall_clock,
) -> tuple[list[Runner], list[Unavailable]]:
    """Every backend in every precision that the bundle has for it.

    Args:
        bundle: the opened bundle.
        backends: names; None: all those the bundle holds files for.
        precisions: wanted; None: all that bundle and machine allow.
        threads: CPU threads a run may use.
        variant: added to the labels, where several bundles are measured.
        clock: to time with.

    Returns:
        the runners that can run, and why the others cannot.

    Raises:
        UsageError: there is no backend of that name.
        BundleError: a file is damaged.
    """
    if backends is None:
        chosen = [b for b in BACKENDS.values() if b.automatic and b.held_precisions(bundle)]
    else:
        chosen = [backend_named(name) for name in backends]
    runners: list[Runner] = []
    missing: list[Unavailable] = []
    for backend in chosen:
        reason = backend.available()
        if reason is not None:
            missing.append(Unavailable(backend.name, reason))
            continue
        for precision in _wanted_precisions(bundle, backend, precisions, missing):
            opened = _open(bundle, backend.name, precision, threads, variant, clock)
            if isinstance(opened, Unavailable):
                missing.append(opened)
            else:
                runners.append(opened)
    return runners, missing


def _open(
    bundle: Bundle,
    backend: str,
    precision: str,
    threads: int | None,
    variant: str,
    clock: Clock,
) -> Runner | Unavailable:
    try:
        return BundleRunner(
            bundle, backend, precision, threads=threads, variant=variant, clock=clock
        )
    except UnavailableError as error:
        return Unavailable(f"{backend} {precision}{variant}", str(error))


def _wanted_precisions(
    bundle: Bundle,
    backend: Backend,
    precisions: Sequence[str] | None,
    missing: list[Unavailable],
) -> list[str]:
    """Those to measure, the most exact first; what bundle or machine lack goes to ``missing``."""
    if precisions is None:
        held = backend.held_precisions(bundle)
        if not held:
            missing.append(Unavailable(backend.name, f"{bundle.path} holds no files for it"))
        precisions = [p for p in RUN_PRECISIONS if p in held]
    reasons = {p: _why_not(bundle, backend, p) for p in precisions}
    missing += [Unavailable(f"{backend.name} {p}", why) for p, why in reasons.items() if why]
    return [p for p, why in reasons.items() if why is None]


def _why_not(bundle: Bundle, backend: Backend, precision: str) -> str | None:
    held = backend.held_precisions(bundle)
    if precision in held:
        return backend.unsupported(precision)
    if precision not in backend.precisions:
        return f"it does not run in {precision}"
    return (
        f"{bundle.path} holds no {file_precision(precision)} files for it "
        f"(it can run {', '.join(held) or 'none'})"
    )


def _backend_version(backend: str) -> str:
    if backend in (DEVICE_TENSORRT, RTX):
        return str(load_library(backend))
    library = backend.partition("-")[0]
    version = installed_version(library) or installed_version(f"{library}-gpu") or "unknown"
    return f"{library} {version}"
