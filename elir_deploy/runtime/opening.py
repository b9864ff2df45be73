"""Opening a bundle: the backend and precision that run it, tried before they are taken.

What is not named is chosen by trying: each candidate runs the bundle's own picture once, and
whatever goes wrong with it leads to the next. What is named runs, or its error is raised.
"""

from __future__ import annotations

import warnings
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from elir_deploy.errors import BundleError, ElirError, UnavailableError
from elir_deploy.pixels import db_from_json, psnr_db
from elir_deploy.runtime.backends import Backend, backend_named, candidates, precisions_to_try
from elir_deploy.runtime.bundle import Bundle
from elir_deploy.runtime.pool import PixelSession

__all__ = ["Opened", "Setup", "open_sessions"]

#: What a backend's rounding may add to a precision's verified error before it counts as wrong, and
#: a quality that is enough whatever was verified, both in dB.
_TOLERATED_DB = 3.0
_ENOUGH_DB = 50.0


@dataclass(frozen=True)
class Setup:
    """How sessions are started, whatever the backend.

    Attributes:
        threads: CPU threads a run may use; None leaves it to the backend.
        device: number of the GPU.
        throughput: as many sessions as restore the most images in a second, instead of one.
    """

    threads: int | None
    device: int
    throughput: bool

    def start(
        self, bundle: Bundle, backend: Backend, precision: str, undo: ExitStack
    ) -> tuple[PixelSession, ...]:
        """One session or more; ``undo`` closes their sessions."""
        call = backend.open_several if self.throughput else backend.open
        opened = call(bundle, precision, threads=self.threads, device=self.device)
        sessions = opened if isinstance(opened, tuple) else (opened,)
        for session in sessions:
            undo.callback(session.close)
        return tuple(PixelSession(bundle, session) for session in sessions)


@dataclass(frozen=True)
class Opened:
    """What runs a bundle.

    Attributes:
        backend: its name.
        precision: the one that runs.
        sessions: one or more, each with a session that the receiver closes.
    """

    backend: str
    precision: str
    sessions: tuple[PixelSession, ...]


def open_sessions(bundle: Bundle, backend: str, precision: str | None, setup: Setup) -> Opened:
    """Open ``bundle`` on ``backend`` in ``precision``.

    Args:
        backend: a name, or ``auto`` for the fastest that works.
        precision: None for the best that may run unasked.

    Raises:
        BundleError: the bundle is damaged, or holds nothing for the backend.
        UsageError: no backend of that name, or nothing that it may run.
        UnavailableError: nothing works; the message gives the reason of each candidate.
    """
    if backend == "auto":
        return _first_that_works(bundle, candidates(bundle, precision), setup)
    chosen = backend_named(backend)
    reason = chosen.available()
    if reason:
        with ExitStack() as undo:  # opening raises an error of its kind, such as a missing package
            setup.start(bundle, chosen, precision or chosen.precisions[0], undo)
        raise UnavailableError(f"{chosen.name} cannot be used: {reason}")
    usable = precisions_to_try(chosen, bundle, precision)
    if precision is None:
        return _first_that_works(bundle, [(chosen, each) for each in usable], setup)
    return _as_named(bundle, chosen, precision, setup)


def _as_named(bundle: Bundle, backend: Backend, precision: str, setup: Setup) -> Opened:
    """A wrong picture is no more than a warning here."""
    with ExitStack() as undo:
        sessions = setup.start(bundle, backend, precision, undo)
        verified = bundle.manifest.verification.get(precision)
        if precision != "fp32" and verified is not None and bundle.manifest.references:
            wrong = _Trial(bundle).wrong(sessions[0], precision)
            if wrong:
                text = (
                    f"{backend.name} in {precision} is {wrong}; take another backend or precision"
                )
                warnings.warn(text, RuntimeWarning, stacklevel=4)
        undo.pop_all()
    return Opened(backend.name, precision, sessions)


def _first_that_works(bundle: Bundle, pairs: list[tuple[Backend, str]], setup: Setup) -> Opened:
    trial = _Trial(bundle)
    failures = _Failures()
    for backend, precision in pairs:
        with ExitStack() as undo:
            try:
                sessions = _tried(bundle, backend, precision, setup, trial, undo)
            except Exception as error:  # noqa: BLE001  # a library may raise anything
                failures.add(f"{backend.name} in {precision}", error)
                continue
            if failures:
                text = f"{failures}; using {backend.name} in {precision}"
                warnings.warn(text, RuntimeWarning, stacklevel=4)
            undo.pop_all()
            return Opened(backend.name, precision, sessions)
    raise failures.as_error(bundle)


def _tried(
    bundle: Bundle,
    backend: Backend,
    precision: str,
    setup: Setup,
    trial: _Trial,
    undo: ExitStack,
) -> tuple[PixelSession, ...]:
    """A function of its own, so that nothing holds what failed while the next one is opened."""
    sessions = setup.start(bundle, backend, precision, undo)
    wrong = trial.wrong(sessions[0], precision)
    if wrong:
        raise UnavailableError(wrong)
    return sessions


class _Trial:
    """One run of a picture whose result is known.

    Processors and libraries differ most where precision is low: INT8 kernels for processors
    without the newest instructions saturate or err. And what a device lacks often shows only when
    something runs: memory, or a library that is loaded late.
    """

    def __init__(self, bundle: Bundle) -> None:
        """Reads the picture.

        Raises:
            BundleError: its files are damaged.
        """
        self._verification = bundle.manifest.verification
        side = bundle.manifest.image_size
        self._name = ""
        self._image = np.full((side, side, 3), 128, np.uint8)
        self._expected: NDArray[np.uint8] | None = None
        for self._name, self._image, self._expected in bundle.reference_images():
            break

    def wrong(self, session: PixelSession, precision: str) -> str | None:
        """Why the result is not what the bundle's verification saw; None: it is.

        Raises:
            Exception: the run failed.
        """
        made = np.empty_like(self._image)
        session.run_pixels(self._image, made)
        verified = self._verification.get(precision)
        if self._expected is None or verified is None:
            return None
        reached = psnr_db(made, self._expected)
        wanted = min(_ENOUGH_DB, db_from_json(verified.psnr_db))
        if reached >= wanted - _TOLERATED_DB:
            return None
        return (
            f"wrong on this machine: {reached:.1f} dB on the bundle's picture {self._name}, "
            f"verified with {wanted:.1f}"
        )


class _Failures:
    """What went wrong with which candidates.

    Of the exceptions only the texts are kept: their tracebacks would keep sessions alive, and the
    next candidate needs the memory.
    """

    def __init__(self) -> None:
        self._failed: dict[str, list[str]] = {}
        self._only_bundle = True

    def add(self, candidate: str, error: Exception) -> None:
        if isinstance(error, ElirError):
            reason = str(error)
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

    def as_error(self, bundle: Bundle) -> ElirError:
        """For where there is no other candidate."""
        if self._only_bundle:
            return BundleError(str(self))
        return UnavailableError(f"nothing here can run {bundle.path}: {self}")
