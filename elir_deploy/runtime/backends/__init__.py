"""The table of backends, and the choice among them.

A sibling module has the backends of one library in a tuple ``BACKENDS`` and is listed in
``_MODULES``; importing it does not import the library.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Iterator

from elir_deploy.errors import BundleError, UnavailableError, UsageError
from elir_deploy.runtime import automatic
from elir_deploy.runtime.automatic import automatic_precisions
from elir_deploy.runtime.backends.base import Backend, Session
from elir_deploy.runtime.bundle import Bundle
from elir_deploy.runtime.manifest import Detector, Verification, file_precision

__all__ = [
    "BACKENDS",
    "NAMES_DEVICES",
    "Backend",
    "Session",
    "automatic_precisions",
    "backend_named",
    "candidates",
    "choose_precision",
    "detector_backends",
    "precisions_to_try",
    "reason_not_automatic",
]

_MODULES = ("tensorrt", "onnxruntime", "openvino")

#: The backend whose devices have names.
NAMES_DEVICES = "openvino"


def _load() -> Iterator[Backend]:
    for module in _MODULES:
        yield from importlib.import_module(f"{__name__}.{module}").BACKENDS


#: All backends by name.
BACKENDS: dict[str, Backend] = {backend.name: backend for backend in _load()}


def backend_named(name: str, device: int | str = 0) -> Backend:
    """The backend called ``name``.

    Args:
        name: of :data:`BACKENDS`.
        device: number of a GPU, which changes nothing here, or name of a device.

    Raises:
        UsageError: there is no such backend, in which case the message lists all names, or its
            devices have no names.
    """
    try:
        backend = BACKENDS[name]
    except KeyError:
        names = ", ".join(BACKENDS)
        raise UsageError(f"unknown backend {name!r}: choose from auto, {names}") from None
    return backend if isinstance(device, int) else backend.on_device(device)


def candidates(bundle: Bundle, precision: str | None) -> list[tuple[Backend, str]]:
    """The backends and precisions that ``auto`` tries, in order.

    If the bundle has engines for this kind of machine and none of them can run, they come first:
    opening them gives the reason, which is worth a warning before something slower runs.

    Warns:
        RuntimeWarning: the only engines that fit are of a precision that is not automatic.

    Raises:
        UnavailableError: there are none; the message gives the reason for each backend.
        BundleError: the bundle has no files for any backend.
        UsageError: it has no files of ``precision``, or no precision is automatic.
    """
    runnable: list[tuple[Backend, str]] = []
    obstructed: list[tuple[Backend, str]] = []
    reasons: list[str] = []  # of backends for which the bundle has the precision
    others: list[str] = []
    refused: list[tuple[Backend, UsageError]] = []
    for backend in BACKENDS.values():
        available = backend.held_precisions(bundle)
        if not backend.automatic or not available:
            continue
        obstacle = backend.obstacle(bundle)
        reason = obstacle or backend.available()
        if reason:
            fitting = precision is None or precision in available
            (reasons if fitting else others).append(f"{backend.name}: {reason}")
            automatic = [p for p in available if _refusal(bundle, p) is None]
            if obstacle and fitting and (precision or automatic):
                obstructed.append((backend, precision or automatic[0]))
            continue
        try:
            usable = precisions_to_try(backend, bundle, precision)
            runnable += [(backend, its_precision) for its_precision in usable]
        except UsageError as error:
            refused.append((backend, error))
        except UnavailableError as error:
            reasons.append(str(error))
    if runnable:
        if any(backend.kind != "onnx" for backend, _ in runnable):
            obstructed.clear()  # other engines can run, as fast
        elif precision is None:
            _warn_of_unused_engines(bundle, [backend for backend, _ in refused])
        return obstructed + sorted(runnable, key=lambda pair: _rank(*pair))
    if refused and (precision is None or not reasons):
        raise refused[0][1]
    if reasons or others:
        reason = "; ".join(reasons or others)
        raise UnavailableError(f"no backend on this machine can run {bundle.path}: {reason}")
    kinds = sorted({artifact.kind for artifact in bundle.manifest.artifacts})
    raise BundleError(
        f"{bundle.path} has only {', '.join(kinds)} files, which no backend can load; "
        f"backends: {', '.join(BACKENDS)}"
    )


def detector_backends(first: str, detector: Detector) -> list[Backend]:
    """The backends that may run a face detector: ``first``, then as ``auto`` prefers them."""
    kinds = {artifact.kind for artifact in detector.artifacts}
    others = [
        name for name, _ in automatic.ORDER if name in BACKENDS and BACKENDS[name].kind in kinds
    ]
    return [BACKENDS[name] for name in dict.fromkeys((first, *others))]


def _warn_of_unused_engines(bundle: Bundle, refused: list[Backend]) -> None:
    for backend in refused:
        if backend.kind != "onnx":
            precision = backend.held_precisions(bundle)[0]
            warnings.warn(
                f"an engine in {precision} fits this device, but is not used by default: "
                f"{precision} {_refusal(bundle, precision)}; --precision {precision} runs it",
                RuntimeWarning,
                stacklevel=5,
            )


def _rank(backend: Backend, precision: str) -> int:
    """Index in the table, or its end for third-party backends."""
    pair = (backend.name, precision)
    return automatic.ORDER.index(pair) if pair in automatic.ORDER else len(automatic.ORDER)


def choose_precision(backend: Backend, bundle: Bundle, precision: str | None) -> str:
    """The first of :func:`precisions_to_try`, with the same arguments and errors."""
    return precisions_to_try(backend, bundle, precision)[0]


def precisions_to_try(backend: Backend, bundle: Bundle, precision: str | None) -> tuple[str, ...]:
    """``precision``, or if it is None the automatic ones, in the backend's order of preference.

    Automatic precisions are those that the bundle's verification says so of, and float32 even if
    it was not verified. Any other precision runs only if it is named.

    Args:
        backend: an available backend.
        bundle: the bundle to run.
        precision: the precision that the caller named.

    Returns:
        at least one precision.

    Raises:
        BundleError: the bundle has no files for ``backend``.
        UsageError: the bundle does not have ``precision``, or none that is automatic.
        UnavailableError: this machine cannot run in ``precision``.
    """
    available = backend.held_precisions(bundle)
    if not available:
        raise BundleError(f"{bundle.path} has no files for the backend {backend.name}")
    if precision is not None:
        _check_precision(backend, bundle, precision)
        return (precision,)
    supported = [p for p in available if not backend.unsupported(p)]
    reasons = {p: _refusal(bundle, p) for p in supported}
    usable = tuple(p for p, reason in reasons.items() if reason is None)
    if usable:
        return usable
    listed = "; ".join(f"{p} {reason}" for p, reason in reasons.items())
    raise UsageError(
        f"{bundle.path}: {backend.name} has no precision that runs by default ({listed}): choose "
        "one with --precision"
    )


def _refusal(bundle: Bundle, precision: str) -> str | None:
    return reason_not_automatic(precision, bundle.manifest.verification.get(precision))


def reason_not_automatic(precision: str, result: Verification | None) -> str | None:
    """Why ``precision`` only runs if it is named; None: it may run by default.

    Args:
        precision: the precision.
        result: its verification; None: it was not verified.
    """
    if result is None:
        return None if precision == "fp32" else "was not verified"
    if not result.passed:
        return f"{_reached(result)}, below its floor of {result.floor_db:g} dB"
    if not result.automatic:
        images = [image for image in result.images if image.psnr_db is not None]
        worst = min(images, key=lambda image: image.psnr_db or 0.0, default=None)
        if worst is None:
            return "is marked as not automatic"
        kind = "synthetic " * worst.synthetic
        return f"reached {worst.psnr_db:.1f} dB on the {kind}picture {worst.name}"
    return None


def _check_precision(backend: Backend, bundle: Bundle, precision: str) -> None:
    available = backend.held_precisions(bundle)
    names = ", ".join(available)
    if precision not in backend.precisions:
        raise UsageError(f"{backend.name} does not run in {precision}: choose one of {names}")
    if precision not in available:
        raise UsageError(
            f"{bundle.path} has no {file_precision(precision)} files for "
            f"{backend.name}: choose one of {names}"
        )
    reason = backend.unsupported(precision)
    if reason is not None:
        raise UnavailableError(f"{backend.name} cannot run in {precision}: {reason}")


def _reached(result: Verification) -> str:
    if not result.finite:
        return "gives numbers that are not finite"
    return "is identical" if result.psnr_db is None else f"reached {result.psnr_db:.1f} dB"
