"""Runners: one way to run one model, from 8-bit image to 8-bit image."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from elir_deploy.bench.device import installed_version
from elir_deploy.errors import UnavailableError
from elir_deploy.photo import PhotoRestorer
from elir_deploy.photo.steps import PHOTO_STEPS, StepTimes
from elir_deploy.pixels import finite_or_none, psnr_db
from elir_deploy.runtime import Bundle, Restorer
from elir_deploy.runtime.backends import BACKENDS, NAMES_DEVICES, Backend, backend_named
from elir_deploy.runtime.manifest import RUN_PRECISIONS, Artifact, file_precision
from elir_deploy.runtime.photos import sample_photos
from elir_deploy.runtime.tensorrt_library import load_library
from elir_deploy.targets import DEVICE_TENSORRT, RTX

__all__ = [
    *("RANDOM_WEIGHTS", "BundleRunner", "Fidelity", "PhotoRunner", "Preparation", "Runner"),
    *("Unavailable", "compare_with_references", "compare_with_truth", "open_restorers"),
]

#: Runs the model on (height, width, 3) uint8 RGB, to the same shape.
Restore = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]
#: Why a bundle with random weights has no PSNR.
RANDOM_WEIGHTS = "random weights: valid for speed only; the pictures mean nothing"


@dataclass(frozen=True)
class Fidelity:
    """Agreement with float32 PyTorch on the bundle's reference images.

    Attributes:
        psnr_db: of the worst image; None where it is identical, or nothing was compared.
        identical: every image is.
        images: number of images compared.
        note: what they were compared with, or why they were not.
    """

    psnr_db: float | None
    identical: bool
    images: int
    note: str

    @classmethod
    def of(cls, psnr_db: float, images: int, note: str) -> Fidelity:
        """From a PSNR that is infinite where every image is identical."""
        return cls(finite_or_none(psnr_db), math.isinf(psnr_db), images, note)

    @classmethod
    def unknown(cls, reason: str) -> Fidelity:
        """Nothing was compared."""
        return cls(None, False, 0, reason)


@dataclass(frozen=True)
class Unavailable:
    """A runner that was requested and cannot be measured."""

    label: str
    reason: str


@dataclass(frozen=True)
class Preparation:
    """Work that was needed once before a runner could run, such as ``to compile``."""

    what: str
    seconds: float


class Runner(ABC):
    """One way to run the model.

    Attributes:
        label: unique in a run, such as ``onnxruntime fp16``.
        backend: name of a backend or a peer.
        precision: ``fp32``, ``fp16``, ``bf16``, ``int8`` or ``w8``.
        version: of the library that runs it.
        artifacts: the files of a bundle that run.
        device_ns: nanoseconds inside the backend during the last :meth:`restore`; None where that
            is unknown.
        stage_names: names of the parts of ``device_ns``; empty where there is only one.
        stages_ns: of the last :meth:`restore`, one for each name.
        arithmetic: number of convolutions by the type in which they run; None where unknown.
        on_cpu: whether the processor runs it, so that the yardstick applies.
        preparation: before the first image; None where loading is all.
    """

    label: str
    backend: str
    precision: str
    version: str
    weights: str
    artifacts: tuple[Artifact, ...] = ()
    device_ns: int | None = None
    stage_names: tuple[str, ...] = ()
    stages_ns: tuple[int, ...] = ()
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

    def close(self) -> None:  # noqa: B027  # optional
        """Release the device's memory."""


class BundleRunner(Runner):
    """A bundle on one of the runtime's backends.

    Args:
        device: number of the GPU, or name of a device of OpenVINO.
        suffix: of the label, where several bundles are measured.
        clock: for device times.

    Attributes:
        description: one line on what runs it.

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
        device: int | str = 0,
        suffix: str = "",
        clock: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        self.bundle = bundle
        self.device = device
        self._clock = clock
        self._restorer = self._open(
            bundle, backend, precision=precision, threads=threads, device=device
        )
        self.description = str(self._restorer)
        self.label = f"{backend} {precision}{_on(device)}{suffix}"
        self.backend = backend
        self.precision = precision
        self.version = _backend_version(backend)
        self.weights = "random" if bundle.manifest.source.random else bundle.manifest.source.name
        runs = backend_named(backend, device)
        self.on_cpu = not runs.on_gpu
        number = device if isinstance(device, int) else 0
        self.artifacts = tuple(runs.artifacts(bundle, precision, device=number))
        session = self._restorer.session
        self.arithmetic = session.arithmetic() or _recorded_convolutions(self.artifacts)
        self._time_session()

    def restore(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        self._parts[:] = [0] * len(self._parts)
        restored = self._restorer.restore(image)
        self.device_ns = sum(self._parts)
        if self.stage_names:
            self.stages_ns = tuple(self._parts)
        return restored

    def run_pixels(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Run the model alone on (height, width, 3) uint8 RGB, to the same shape."""
        return self._restorer.run_pixels(pixels)

    def fidelity(self, bundle: Bundle) -> Fidelity:
        return compare_with_references(bundle, self._restorer.run_pixels)

    def close(self) -> None:
        self._restorer.close()

    def _open(self, bundle: Bundle, backend: str, **options: Any) -> Restorer:
        return Restorer(bundle, backend, **options)

    def _time_session(self) -> None:
        """Replace the session's ``run`` by one that times each part.

        Timed in the same call as the whole, so that their difference is the runtime's own work.
        """
        session, clock = self._restorer.session, self._clock
        stages = session.stage_calls()
        parts = self._parts = [0] * len(stages)
        calls: tuple[Callable[[], None], ...] = (session.run,)
        if len(stages) > 1:
            self.stage_names = tuple(name for name, _ in stages)
            calls = tuple(call for _, call in stages)

        def timed_run() -> None:
            start = clock()
            for part, call in enumerate(calls):
                call()
                end = clock()
                parts[part] += end - start
                start = end

        session.run = timed_run  # type: ignore[method-assign]


class PhotoRunner(BundleRunner):
    """The whole way of a photograph; its steps are timed in the same call."""

    def restore(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        self._times.reset()
        self._parts[:] = [0] * len(self._parts)
        photo = self._photo.restore(image, "all")
        if not any(face.restored for face in photo.faces):
            raise UnavailableError("the face detector finds no face in the measured photograph")
        self.device_ns = sum(self._parts)
        self.stages_ns = tuple(self._times.ns.values())
        return photo.pixels

    def close(self) -> None:
        self._photo.close()

    def _open(self, bundle: Bundle, backend: str, **options: Any) -> Restorer:
        self._photo = PhotoRestorer(bundle, backend=backend, **options)
        self._photo.timer = self._times = StepTimes(self._clock)
        return self._photo.restorer

    def _time_session(self) -> None:
        super()._time_session()
        self.stage_names = PHOTO_STEPS


def _recorded_convolutions(artifacts: Sequence[Artifact]) -> dict[str, int] | None:
    """Types of the convolutions, as the builder of every engine recorded them."""
    if not all(artifact.convolutions for artifact in artifacts):
        return None
    return dict(sum((Counter(artifact.convolutions) for artifact in artifacts), Counter()))


def compare_with_references(bundle: Bundle, run: Restore) -> Fidelity:
    """Compare the outputs of ``run`` for the reference images with float32 PyTorch's.

    With random weights nothing is run: such pictures are noise, and so is their PSNR.
    """
    if bundle.manifest.source.random:
        return Fidelity.unknown(RANDOM_WEIGHTS)
    psnrs = [psnr_db(run(image), reference) for _, image, reference in bundle.reference_images()]
    if not psnrs:
        return Fidelity.unknown("the bundle has no reference images")
    return Fidelity.of(min(psnrs), len(psnrs), "against float32 PyTorch, worst image")


def compare_with_truth(bundle: Bundle, run: Restore) -> Fidelity:
    """Mean PSNR of the outputs of ``run`` to the photographs behind the reference images."""
    info = bundle.manifest
    if info.source.random:
        return Fidelity.unknown(RANDOM_WEIGHTS)
    size = info.shapes[0].graph_height, info.shapes[0].graph_width
    truths = dict(sample_photos(size, faces=False))
    if info.model.faces:
        truths.update(sample_photos(size, faces=True))
    psnrs = [
        psnr_db(run(low), truths[name])
        for name, low, _ in bundle.reference_images()
        if name in truths
    ]
    if not psnrs:
        return Fidelity.unknown("the bundle's reference images have no known truth")
    # The mean of all would be infinite where one of them is identical.
    mean = float(np.mean([db for db in psnrs if math.isfinite(db)] or psnrs))
    return Fidelity.of(mean, len(psnrs), "against the truth, mean")


class BackendPrecision(NamedTuple):
    """A runner of a bundle, but for its device."""

    backend: str
    precision: str

    def __str__(self) -> str:
        return f"{self.backend} {self.precision}"


def open_restorers(
    bundle: Bundle,
    backends: Sequence[str] | None,
    precisions: Sequence[str] | None,
    *,
    threads: int | None,
    device: int | str = 0,
    suffix: str = "",
    runner: type[BundleRunner] = BundleRunner,
) -> tuple[list[Runner], list[Unavailable]]:
    """Open every backend in every precision that the bundle has for it.

    Args:
        backends: names; None: all that the bundle has files for and ``auto`` may choose, or
            OpenVINO on a device with a name.
        precisions: required; None: all that bundle and machine allow.
        device: number of the GPU, or name of a device of OpenVINO.
        suffix: of the labels, where several bundles are measured.
        runner: what each becomes.

    Returns:
        the runners, and those that cannot run with the reason.

    Raises:
        UsageError: there is no backend of that name, or its devices have no names.
        BundleError: a file is damaged.
    """
    if backends is None and isinstance(device, str):
        backends = [NAMES_DEVICES]
    if backends is None:
        candidates = [b for b in BACKENDS.values() if b.automatic and b.held_precisions(bundle)]
    else:
        candidates = [backend_named(name, device) for name in backends]
    runners: list[Runner] = []
    missing: list[Unavailable] = []
    for backend in candidates:
        available = [p for p in RUN_PRECISIONS if p in backend.held_precisions(bundle)]
        reason = backend.available()
        if reason is None and precisions is None and not available:
            reason = f"{bundle.path} has no files for it"
        if reason is not None:
            missing.append(Unavailable(backend.name + _on(device), reason))
            continue
        for precision in available if precisions is None else precisions:
            label = f"{backend.name} {precision}{_on(device)}"
            if reason := _missing_support(bundle, backend, precision):
                missing.append(Unavailable(label, reason))
                continue
            options: dict[str, Any] = {"threads": threads, "device": device, "suffix": suffix}
            try:
                runners.append(runner(bundle, backend.name, precision, **options))
            except UnavailableError as error:
                missing.append(Unavailable(label + suffix, str(error)))
    return runners, missing


def _missing_support(bundle: Bundle, backend: Backend, precision: str) -> str | None:
    """Why a backend that is available cannot run the bundle in a precision; None if it can."""
    available = backend.held_precisions(bundle)
    if precision in available:
        return backend.unsupported(precision)
    if precision not in backend.precisions:
        return f"it does not run in {precision}"
    return (
        f"{bundle.path} has no {file_precision(precision)} files for it "
        f"(it can run {', '.join(available) or 'none'})"
    )


def _on(device: int | str) -> str:
    """The end of a label; empty for the first GPU and for the CPU, where nobody names a device."""
    if isinstance(device, str):
        return f" on {device}"
    return f" on GPU {device}" if device else ""


def _backend_version(backend: str) -> str:
    if backend in (DEVICE_TENSORRT, RTX):
        return str(load_library(backend))
    library = backend.partition("-")[0]
    version = installed_version(library) or installed_version(f"{library}-gpu") or "unknown"
    return f"{library} {version}"
