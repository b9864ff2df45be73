"""The backends, as data, and the choice among them.

A sibling module holds the backends of one library in a tuple ``BACKENDS`` and is named in
``_MODULES``; importing it imports no library.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator

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
]

_MODULES = ("tensorrt", "onnxruntime", "openvino")

#: What ``auto`` takes, the first of these pairs that bundle and machine allow: by measured speed
#: (docs/decisions.md), and of about equals the more exact. GPUs come first.
_AUTOMATIC = (
    ("tensorrt", "int8"),
    ("tensorrt", "fp16"),
    ("tensorrt-rtx", "fp16"),
    ("tensorrt", "fp32"),
    ("tensorrt-rtx", "fp32"),
    ("tensorrt-rtx", "int8"),
    ("onnxruntime-cuda", "fp16"),
    ("onnxruntime-cuda", "fp32"),
    ("onnxruntime-cuda", "int8"),
    ("openvino", "int8"),
    ("openvino", "bf16"),
    ("openvino", "fp32"),
    ("openvino", "fp16"),
    ("onnxruntime", "fp32"),
    ("onnxruntime", "int8"),
    ("onnxruntime", "fp16"),
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
        UsageError: it does not hold ``precision`` for any of them, or every one failed
            verification.
    """
    found: list[tuple[Backend, str]] = []
    obstructed: list[tuple[Backend, str]] = []
    reasons: list[str] = []  # of those that hold what is wanted
    others: list[str] = []
    refusals: list[UsageError] = []
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
            if obstacle and fitting:
                obstructed.append((backend, precision or held[0]))
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
        return obstructed + sorted(found, key=lambda pair: _rank(bundle, *pair))
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


def _rank(bundle: Bundle, backend: Backend, precision: str) -> tuple[bool, int]:
    """What passed verification comes before what was not verified."""
    verified = precision in bundle.manifest.verification
    pair = (backend.name, precision)
    return not verified, _AUTOMATIC.index(pair)


def choose_precision(backend: Backend, bundle: Bundle, precision: str | None) -> str:
    """The first of :func:`precisions_to_try`, whose arguments and errors are these."""
    return precisions_to_try(backend, bundle, precision)[0]


def precisions_to_try(backend: Backend, bundle: Bundle, precision: str | None) -> tuple[str, ...]:
    """``precision``, or those that passed verification, in the order ``backend`` likes them.

    Where none passed, those that were not verified; one that failed runs only where ``precision``
    asks for it, and so does bf16 where it was not verified, because it computes something else
    than the files it takes.

    Args:
        backend: is available.
        bundle: is to be run.
        precision: the caller's wish.

    Returns:
        one or more.

    Raises:
        BundleError: the bundle holds no files for ``backend``.
        UsageError: the bundle does not hold ``precision``, or every one failed verification.
        UnavailableError: this machine cannot run in ``precision``.
    """
    held = backend.held_precisions(bundle)
    if not held:
        raise BundleError(f"{bundle.path} holds no files for the backend {backend.name}")
    if precision is not None:
        _check_wish(backend, bundle, precision)
        return (precision,)
    verification = bundle.manifest.verification
    usable = [
        p
        for p in held
        if (p in verification or p == file_precision(p)) and not backend.unsupported(p)
    ]
    passed = [p for p in usable if p in verification and verification[p].passed]
    unknown = [p for p in usable if p not in verification]
    if passed or unknown:
        return tuple(passed or unknown)
    seen = ", ".join(_missed(p, verification[p]) for p in usable)
    raise UsageError(
        f"{bundle.path}: no precision passed verification ({seen}): choose one with "
        "--precision to run it all the same"
    )


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


def _missed(precision: str, result: Verification) -> str:
    reached = "not finite" if result.psnr_db is None else f"{result.psnr_db:.1f} dB"
    floor = f"{result.floor_db:g}"
    return f"{precision} {reached}, floor {floor} dB"
