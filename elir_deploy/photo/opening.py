"""Opening a bundle's face detector on the first backend that runs it."""

from __future__ import annotations

import warnings

import numpy as np

from elir_deploy.errors import BundleError
from elir_deploy.runtime import Bundle
from elir_deploy.runtime.backends import Backend, detector_backends
from elir_deploy.runtime.detector_graph import DetectorRun, detector_of
from elir_deploy.runtime.opening import Failures
from elir_deploy.runtime.tiling import next_multiple

__all__ = ["open_detector"]

#: Sides of the picture that a detector first runs on, at least.
_FIRST_SIDE = 64


def open_detector(
    bundle: Bundle, first: str, threads: int | None, device: int
) -> tuple[str, DetectorRun]:
    """The name of the backend, and the detector on it, which has run once.

    Args:
        bundle: with a detector.
        first: name of the backend to try first.
        threads, device: as for :class:`~elir_deploy.runtime.Restorer`.

    Raises:
        BundleError: the detector is damaged.
        UnavailableError: no backend runs it; the message has the reason for each.
    """
    failures = Failures()
    for backend in detector_backends(first):
        try:
            run = _open_and_run(backend, bundle, threads, device)
        except BundleError:
            raise
        except Exception as error:  # noqa: BLE001  # a library may raise anything
            failures.add(backend.name, None, error)
            continue
        if failures:
            text = f"the face detector runs on {backend.name}: {failures}"
            warnings.warn(text, RuntimeWarning, stacklevel=3)
        return backend.name, run
    raise failures.as_error("the face detector")


def _open_and_run(
    backend: Backend, bundle: Bundle, threads: int | None, device: int
) -> DetectorRun:
    """Missing libraries and a lack of memory often show only in a run."""
    run = backend.open_detector(bundle, threads=threads, device=device)
    side = next_multiple(_FIRST_SIDE, detector_of(bundle).multiple)
    run(np.zeros((1, 3, side, side), np.float32))
    return run
