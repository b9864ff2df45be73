"""The backends, as data, and the choice among them.

A sibling module holds the backends of one library in a tuple ``BACKENDS`` and is named in
``_MODULES``; importing it imports no library.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from importlib import resources

from elir_deploy.errors import BundleError, UnavailableError, UsageError
from elir_deploy.runtime.backends.base import Backend, Session
from elir_deploy.runtime.bundle import Bundle
from elir_deploy.runtime.manifest import Verification, file_precision

__all__ = [
    "BACKENDS",
    "Backend",
    "Session",
    "backend_named",
    "candidates",
    "choose_precision",
    "precisions_to_try",
    "why_only_asked",
]

_MODULES = ("tensorrt", "onnxruntime", "openvino")

#: What ``auto`` takes, the first of these pairs that bundle and machine allow: by measured speed
#: (docs/decisions.md), and of about equals the more exact. GPUs come first. The C++ runtime has
#: the same file built in.
_AUTOMATIC: tuple[tuple[str, str], ...] = tuple(
    (backend, precision)
    for backend, precision in json.loads(
        (resources.files("elir_deploy.runtime") / "automatic.json").read_text("utf-8")
    )
)


def _load() -> Iterator[Backend]:
    for module in _MODULES:
        yield from importlib.import_module(f"{__name__}.{module}").BACKENDS


#: Every known backend by name.
BACKENDS: dict[str, Backend] = {backend.name: backend for backend in _load()}


def backend_named(name: str) -> Backend:
    """The backend called ``name``.

    Raises:
        UsageError: there is none; the message lists those there are.
    """
    try:
        return BACKENDS[name]
    except KeyError:
        names = ", ".join(BACKENDS)
        raise UsageError(f"no backend {name!r}: choose one of auto, {names}") from None


def candidates(bundle: Bundle, precision: str | None) -> list[tuple[Backend, str]]:
    """What ``auto`` tries, in order: backends of this machine, with each precision they may run.

    Where the bundle holds engines for machines like this one and none of them can run, they come
    first all the same: opening them tells why, which is worth a warning before what is slower.

    Raises:
        UnavailableError: none; the message says why for each.
        BundleError: the bundle holds no files for any backend known here.
        UsageError: it does not hold ``precision`` for any of them, or none that may run unasked.
    """
    found: list[tuple[Backend, str]] = []
    obstructed: list[tuple[Backend, str]] = []
    reasons: list[str] = []  # of those that hold what is wanted
    others: list[str] = []
    refusals: list[UsageError] = []
    verified = bundle.manifest.verification
    for backend in BACKENDS.values():
        held = backend.held_precisions(bundle)
        if not backend.automatic or not held:
            continue
        obstacle = backend.obstacle(bundle)
        reason = obstacle or backend.available()
        if reason:
            fitting = precision is None or precision in held
            told = f"{backend.name}: {reason}"
            (reasons if fitting else others).append(told)
            unasked = [p for p in held if why_only_asked(p, verified.get(p)) is None]
            if obstacle and fitting and (precision or unasked):
                obstructed.append((backend, precision or unasked[0]))
            continue
        try:
            usable = precisions_to_try(backend, bundle, precision)
            found += [(backend, its_precision) for its_precision in usable]
        except UsageError as error:
            refusals.append(error)
        except UnavailableError as error:
            reasons.append(str(error))
    if found:
        if any(backend.kind != "onnx" for backend, _ in found):
            obstructed.clear()  # other engines can run, as fast
        return obstructed + sorted(found, key=lambda pair: _rank(*pair))
    if refusals and (precision is None or not reasons):
        raise refusals[0]
    if reasons or others:
        why = "; ".join(reasons or others)
        raise UnavailableError(f"nothing here can run {bundle.path}: {why}")
    kinds = sorted({artifact.kind for artifact in bundle.manifest.artifacts})
    raise BundleError(
        f"{bundle.path} holds only {', '.join(kinds)} files that no backend here "
        f"can load; backends: {', '.join(BACKENDS)}"
    )


def _rank(backend: Backend, precision: str) -> int:
    """Its place in the table; behind it where somebody else's backend is in no table."""
    pair = (backend.name, precision)
    return _AUTOMATIC.index(pair) if pair in _AUTOMATIC else len(_AUTOMATIC)


def choose_precision(backend: Backend, bundle: Bundle, precision: str | None) -> str:
    """The first of :func:`precisions_to_try`, whose arguments and errors are these."""
    return precisions_to_try(backend, bundle, precision)[0]


def precisions_to_try(backend: Backend, bundle: Bundle, precision: str | None) -> tuple[str, ...]:
    """``precision``, or those that may run unasked, in the order ``backend`` likes them.

    Those are the ones that the bundle's verification calls automatic, and float32 also where it
    was not verified. Any other runs only where ``precision`` asks for it.

    Args:
        backend: is available.
        bundle: is to be run.
        precision: the caller's wish.

    Returns:
        one or more.

    Raises:
        BundleError: the bundle holds no files for ``backend``.
        UsageError: the bundle does not hold ``precision``, or none that may run unasked.
        UnavailableError: this machine cannot run in ``precision``.
    """
    held = backend.held_precisions(bundle)
    if not held:
        raise BundleError(f"{bundle.path} holds no files for the backend {backend.name}")
    if precision is not None:
        _check_wish(backend, bundle, precision)
        return (precision,)
    verified = bundle.manifest.verification
    supported = [p for p in held if not backend.unsupported(p)]
    reasons = {p: why_only_asked(p, verified.get(p)) for p in supported}
    usable = tuple(p for p, reason in reasons.items() if reason is None)
    if usable:
        return usable
    seen = "; ".join(f"{p} {reason}" for p, reason in reasons.items())
    raise UsageError(
        f"{bundle.path}: {backend.name} has no precision that may run unasked ({seen}): choose "
        "one with --precision to run it all the same"
    )


def why_only_asked(precision: str, result: Verification | None) -> str | None:
    """Why ``precision`` runs only where somebody asks for it; None: it may run unasked.

    Args:
        result: of its verification; None: it was not verified.
    """
    if result is None:
        return None if precision == "fp32" else "was not verified"
    if not result.passed:
        return f"{_reached(result)}, its floor is {result.floor_db:g} dB"
    if not result.automatic:
        images = [image for image in result.images if image.psnr_db is not None]
        worst = min(images, key=lambda image: image.psnr_db or 0.0, default=None)
        if worst is None:
            return "is marked so"
        kind = "synthetic " * worst.synthetic
        return f"has {worst.psnr_db:.1f} dB on the {kind}picture {worst.name}"
    return None


def _check_wish(backend: Backend, bundle: Bundle, precision: str) -> None:
    held = backend.held_precisions(bundle)
    names = ", ".join(held)
    if precision not in backend.precisions:
        raise UsageError(f"{backend.name} does not run in {precision}: choose one of {names}")
    if precision not in held:
        raise UsageError(
            f"{bundle.path} holds no {file_precision(precision)} files for "
            f"{backend.name}: choose one of {names}"
        )
    reason = backend.unsupported(precision)
    if reason is not None:
        raise UnavailableError(f"{backend.name} cannot run in {precision}: {reason}")


def _reached(result: Verification) -> str:
    if not result.finite:
        return "gives numbers that are not finite"
    return "is identical" if result.psnr_db is None else f"has {result.psnr_db:.1f} dB"
