"""Opening a bundle: choosing the backend and precision that run it.

Candidates for what the caller did not name restore the bundle's reference picture; any failure
leads to the next one. What the caller named runs, or its error is raised.
"""

from __future__ import annotations

import warnings
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from elir_deploy.errors import BundleError, ElirError, UnavailableError, UsageError
from elir_deploy.pixels import db_from_json, psnr_db
from elir_deploy.runtime.automatic import SUFFICIENT_DB, TOLERANCE_DB
from elir_deploy.runtime.backends import (
    NAMES_DEVICES,
    Backend,
    backend_named,
    candidates,
    precisions_to_try,
)
from elir_deploy.runtime.bundle import Bundle
from elir_deploy.runtime.manifest import FieldNoise, Manifest
from elir_deploy.runtime.noise import NoiseField
from elir_deploy.runtime.pool import PixelSession
from elir_deploy.runtime.tiling import Tile

__all__ = ["Failures", "Opened", "Setup", "field_noise", "open_sessions"]


def field_noise(
    manifest: Manifest, seed: int | None = None, sigma_s: float | None = None
) -> NoiseField | None:
    """The noise of every picture; None if it is baked into the graph.

    Args:
        manifest: of the bundle.
        seed: 0 to 2**32 - 1; None: the bundle's.
        sigma_s: its standard deviation; None: the bundle's.

    Raises:
        UsageError: a value is out of range, or the noise is baked.
    """
    noise = manifest.noise
    if isinstance(noise, FieldNoise):
        return NoiseField(
            noise.seed if seed is None else seed,
            manifest.model.sigma_s if sigma_s is None else sigma_s,
        )
    if seed is None and sigma_s is None:
        return None
    raise UsageError(
        "the noise is baked into this bundle's graphs, so neither seed nor sigma_s can be chosen: "
        "export with --noise field"
    )


@dataclass(frozen=True)
class Setup:
    """Options of sessions for any backend.

    Attributes:
        threads: CPU threads that a run may use; None: the backend's default.
        device: number of the GPU, or name of a device of OpenVINO.
        throughput: open as many sessions as give the highest throughput, instead of one.
    """

    threads: int | None
    device: int | str
    throughput: bool

    def start(
        self, bundle: Bundle, backend: Backend, precision: str, undo: ExitStack
    ) -> tuple[PixelSession, ...]:
        """Open one session or more, which ``undo`` closes."""
        call = backend.open_several if self.throughput else backend.open
        number = self.device if isinstance(self.device, int) else 0
        opened = call(bundle, precision, threads=self.threads, device=number)
        sessions = opened if isinstance(opened, tuple) else (opened,)
        for session in sessions:
            undo.callback(session.close)
        return tuple(PixelSession(bundle, session) for session in sessions)


@dataclass(frozen=True)
class Opened:
    """An opened bundle.

    Attributes:
        backend: name of the backend.
        precision: the precision that runs.
        sessions: one or more, which the caller closes.
    """

    backend: str
    precision: str
    sessions: tuple[PixelSession, ...]


def open_sessions(bundle: Bundle, backend: str, precision: str | None, setup: Setup) -> Opened:
    """Open ``bundle`` on ``backend`` in ``precision``.

    Args:
        bundle: the bundle.
        backend: a name, or ``auto`` for the fastest that works: OpenVINO, on a device of its own.
        precision: a precision; None: the best automatic one.
        setup: options of the sessions.

    Raises:
        BundleError: the bundle is damaged, or has no files for the backend.
        UsageError: there is no such backend, or it has no precision to run, or its devices have no
            names.
        UnavailableError: nothing works; the message has the reason for each candidate.
    """
    if backend == "auto" and isinstance(setup.device, str):
        backend = NAMES_DEVICES
    if backend == "auto":
        return _open_first_working(bundle, candidates(bundle, precision), setup)
    chosen = backend_named(backend, setup.device)
    reason = chosen.available()
    if reason:
        with ExitStack() as undo:  # raises the specific error, such as MissingDependencyError
            setup.start(bundle, chosen, precision or chosen.precisions[0], undo)
        raise UnavailableError(f"{chosen.name} cannot be used: {reason}")
    usable = precisions_to_try(chosen, bundle, precision)
    if precision is None:
        return _open_first_working(bundle, [(chosen, each) for each in usable], setup)
    return _open_named(bundle, chosen, precision, setup)


def _open_named(bundle: Bundle, backend: Backend, precision: str, setup: Setup) -> Opened:
    """Open what the caller named, for which a wrong picture is only a warning."""
    with ExitStack() as undo:
        sessions = setup.start(bundle, backend, precision, undo)
        verified = bundle.manifest.verification.get(precision)
        if precision != "fp32" and verified is not None and bundle.manifest.references:
            wrong = _AccuracyCheck(bundle).wrong(sessions[0], precision)
            if wrong:
                text = (
                    f"{backend.name} in {precision} is {wrong}; choose another backend or precision"
                )
                warnings.warn(text, RuntimeWarning, stacklevel=4)
        undo.pop_all()
    return Opened(backend.name, precision, sessions)


def _open_first_working(bundle: Bundle, pairs: list[tuple[Backend, str]], setup: Setup) -> Opened:
    check = _AccuracyCheck(bundle)
    failures = Failures()
    for backend, precision in pairs:
        with ExitStack() as undo:
            try:
                sessions = _open_and_check(bundle, backend, precision, setup, check, undo)
            except Exception as error:  # noqa: BLE001  # a library may raise anything
                failures.add(backend.name, precision, error)
                continue
            if failures:
                text = f"{failures}; using {backend.name} in {precision}"
                warnings.warn(text, RuntimeWarning, stacklevel=4)
            undo.pop_all()
            return Opened(backend.name, precision, sessions)
    raise failures.as_error(str(bundle.path))


def _open_and_check(
    bundle: Bundle,
    backend: Backend,
    precision: str,
    setup: Setup,
    check: _AccuracyCheck,
    undo: ExitStack,
) -> tuple[PixelSession, ...]:
    """A separate function, so that nothing references a failed session when the next one opens."""
    sessions = setup.start(bundle, backend, precision, undo)
    wrong = check.wrong(sessions[0], precision)
    if wrong:
        raise UnavailableError(wrong)
    return sessions


class _AccuracyCheck:
    """Restores the bundle's reference picture.

    Processors and libraries differ most at low precision: INT8 kernels for older processors
    saturate or are wrong. And a lack of memory or of a library often shows only in a run.

    Raises:
        BundleError: the files of the picture are damaged.
    """

    def __init__(self, bundle: Bundle) -> None:
        manifest = bundle.manifest
        self._verification = manifest.verification
        self._shape = manifest.shapes[0]
        self._noise = field_noise(manifest)
        self._name = ""
        self._image = np.full((self._shape.graph_height, self._shape.graph_width, 3), 128, np.uint8)
        self._expected: NDArray[np.uint8] | None = None
        for self._name, self._image, self._expected in bundle.reference_images():
            break

    def wrong(self, session: PixelSession, precision: str) -> str | None:
        """How the result falls short of the bundle's verification; None: it does not.

        Raises:
            Exception: the run failed.
        """
        output = np.empty_like(self._image)
        session.run_tiles(self._shape, [Tile(self._image, output, 0, 0)], self._noise)
        verified = self._verification.get(precision)
        if self._expected is None or verified is None:
            return None
        reached = psnr_db(output, self._expected)
        required = min(SUFFICIENT_DB, db_from_json(verified.psnr_db))
        if reached >= required - TOLERANCE_DB:
            return None
        return (
            f"wrong on this machine: {reached:.1f} dB on the reference picture {self._name}, "
            f"expected about {required:.1f}"
        )


class Failures:
    """The reasons why candidates failed.

    Only texts are stored: tracebacks would keep sessions alive, whose memory the next candidate
    needs.
    """

    def __init__(self) -> None:
        self._failed: dict[str, list[str]] = {}
        self._only_bundle = True

    def add(self, backend: str, precision: str | None, error: Exception) -> None:
        candidate = backend if precision is None else f"{backend} in {precision}"
        if isinstance(error, ElirError):
            reason = str(error).removeprefix(f"{backend} ")
        elif isinstance(error, MemoryError):
            reason = "out of memory"
        else:
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        self._failed.setdefault(reason, []).append(candidate)
        self._only_bundle &= isinstance(error, BundleError)

    def __bool__(self) -> bool:
        return bool(self._failed)

    def __str__(self) -> str:
        return "; ".join(f"{', '.join(who)}: {reason}" for reason, who in self._failed.items())

    def as_error(self, what: str) -> ElirError:
        """The error if all candidates failed to run ``what``."""
        if self._only_bundle:
            return BundleError(str(self))
        return UnavailableError(f"no backend on this machine can run {what}: {self}")
