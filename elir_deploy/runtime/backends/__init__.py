"""The backends, as data, and the choice among them.

A sibling module holds the backends of one library in a tuple ``BACKENDS`` and is named in
``_MODULES``; importing it imports no library.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator

from elir_deploy.errors import BundleError, UnavailableError, UsageError
from elir_deploy.runtime.backends.base import Backend, Session
from elir_deploy.runtime.bundle import Bundle, Verification

__all__ = ["BACKENDS", "Backend", "Session", "backend_named", "candidates", "choose_precision"]

_MODULES = ("onnxruntime",)


def _load() -> Iterator[Backend]:
    for module in _MODULES:
        yield from importlib.import_module(f"{__name__}.{module}").BACKENDS


#: Every known backend by name, in the order in which ``auto`` prefers them.
BACKENDS: dict[str, Backend] = {backend.name: backend for backend in _load()}


def backend_named(name: str) -> Backend:
    """The backend called ``name``.

    Raises:
        UsageError: there is none; the message lists those there are.
    """
    try:
        return BACKENDS[name]
    except KeyError:
        raise UsageError(
            f"no backend {name!r}: choose one of auto, {', '.join(BACKENDS)}"
        ) from None


def candidates(bundle: Bundle, precision: str | None) -> list[tuple[Backend, str]]:
    """What ``auto`` tries, in order: backends of this machine with a precision to run.

    Raises:
        UnavailableError: none; the message says why for each.
        BundleError: the bundle holds no files for any backend known here.
        UsageError: it does not hold ``precision`` for any of them, or every one failed
            verification.
    """
    found: list[tuple[Backend, str]] = []
    reasons: list[str] = []
    refusals: list[UsageError] = []
    for backend in BACKENDS.values():
        if not backend.automatic or not backend.held_precisions(bundle):
            continue
        reason = backend.available()
        if reason:
            reasons.append(f"{backend.name}: {reason}")
            continue
        try:
            found.append((backend, choose_precision(backend, bundle, precision)))
        except UsageError as error:
            refusals.append(error)
    if found:
        return found
    if refusals:
        raise refusals[0]
    if reasons:
        raise UnavailableError(f"nothing here can run {bundle.path}: {'; '.join(reasons)}")
    kinds = sorted({artifact.kind for artifact in bundle.info.artifacts})
    raise BundleError(
        f"{bundle.path} holds only {', '.join(kinds)} files that no backend here can load; "
        f"backends: {', '.join(BACKENDS)}"
    )


def choose_precision(backend: Backend, bundle: Bundle, precision: str | None) -> str:
    """``precision``, or the one ``backend`` likes best among those that passed verification.

    Where none passed, the one it likes best among those that were not verified; one that failed
    runs only where ``precision`` asks for it.

    Raises:
        BundleError: the bundle holds no files for ``backend``.
        UsageError: the bundle does not hold ``precision``, or every one failed verification.
    """
    held = backend.held_precisions(bundle)
    if not held:
        raise BundleError(f"{bundle.path} holds no files for the backend {backend.name}")
    if precision is not None:
        if precision not in held:
            raise UsageError(
                f"{bundle.path} holds no {precision} files for {backend.name}: "
                f"choose one of {', '.join(held)}"
            )
        return precision
    verification = bundle.info.verification
    passed = [p for p in held if p in verification and verification[p].passed]
    unknown = [p for p in held if p not in verification]
    if passed or unknown:
        return (passed or unknown)[0]
    seen = ", ".join(_missed(verification[p]) for p in held)
    raise UsageError(
        f"{bundle.path}: no precision passed verification ({seen}): "
        "choose one with --precision to run it all the same"
    )


def _missed(result: Verification) -> str:
    reached = "not finite" if result.psnr_db is None else f"{result.psnr_db:.1f} dB"
    return f"{result.precision} {reached}, floor {result.floor_db:g} dB"
