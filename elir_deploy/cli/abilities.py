"""What can run a bundle on this machine, as ``elir-inspect`` tells it."""

from __future__ import annotations

from dataclasses import dataclass

from elir_deploy.errors import ElirError
from elir_deploy.runtime.backends import BACKENDS, Backend, choose_precision
from elir_deploy.runtime.bundle import Bundle

__all__ = ["Ability", "abilities_here"]


@dataclass(frozen=True)
class Ability:
    """Whether a backend can run the bundle on this machine.

    Attributes:
        backend: name of the backend.
        device: name of the device, where it is not the backend's default.
        precisions: precisions for which the bundle has files for it.
        unsupported: reason for each of them that this machine cannot run; empty if the backend
            cannot be used at all.
        default: the precision that runs by default.
        reason: why the backend cannot run the bundle, and what to do; None: it can.
    """

    backend: str
    precisions: tuple[str, ...]
    unsupported: dict[str, str]
    default: str | None
    reason: str | None
    device: str | None = None

    @property
    def label(self) -> str:
        """Backend and device."""
        return self.backend if self.device is None else f"{self.backend} on {self.device}"

    @property
    def row(self) -> tuple[str, str, str]:
        """For a table: backend and device, what runs here, and reasons."""
        if self.reason:
            return self.label, "no", self.reason
        runnable = [p for p in self.precisions if p not in self.unsupported]
        shown = [f"{p} (default)" if p == self.default else p for p in runnable]
        reasons = "; ".join(f"not {p}: {reason}" for p, reason in self.unsupported.items())
        return self.label, "yes: " + ", ".join(shown), reasons


def abilities_here(bundle: Bundle) -> list[Ability]:
    """Of every backend, and of each of its devices."""
    return [
        _ability(backend, bundle, device)
        for backend in BACKENDS.values()
        for device in (None, *backend.other_devices())
    ]


def _ability(backend: Backend, bundle: Bundle, device: str | None) -> Ability:
    if device is not None:
        backend = backend.on_device(device)
    precisions = backend.held_precisions(bundle)
    reason = backend.available() or backend.obstacle(bundle)
    if not precisions:
        reason = f"the bundle has no {backend.kind} files that it can load here"
    default, unsupported = None, {}
    if reason is None:
        reasons = {precision: backend.unsupported(precision) for precision in precisions}
        unsupported = {precision: text for precision, text in reasons.items() if text}
        try:
            default = choose_precision(backend, bundle, None)
        except ElirError as error:
            reason = str(error)
    return Ability(backend.name, precisions, unsupported, default, reason, device)
