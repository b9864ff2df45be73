"""Check for optional packages before the work begins."""

from __future__ import annotations

from importlib.util import find_spec

from elir_deploy.errors import MissingDependencyError

__all__ = ["require_packages"]


def require_packages(packages: tuple[str, ...], extra: str, purpose: str) -> None:
    """Raise :class:`MissingDependencyError` for the first missing package."""
    for package in packages:
        if find_spec(package) is None:
            raise MissingDependencyError(package, extra, purpose)
