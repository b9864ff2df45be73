"""Importing optional libraries, with errors that say what to install."""

from __future__ import annotations

import importlib
import logging
from typing import Any

from elir_deploy.errors import MissingDependencyError, UnavailableError

__all__ = ["import_library", "not_loaded"]


def import_library(name: str, extra: str, purpose: str, *, attribute: str) -> Any:
    """Import the library called ``name``.

    Args:
        name: name of the module and the package.
        extra: the extra of this project that installs it.
        purpose: completes "is needed to ..." if it is missing.
        attribute: an attribute that a complete installation has.

    Raises:
        MissingDependencyError: it is not installed.
        UnavailableError: it cannot be loaded, or is incomplete.
    """
    try:
        library = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise not_loaded(name, error) from None
        raise MissingDependencyError(name, extra, purpose) from None
    except (ImportError, OSError) as error:  # OSError: from a library it loads itself
        raise not_loaded(name, error) from None
    if not hasattr(library, attribute):
        raise UnavailableError(
            f"the installation of {name} is incomplete: "
            f"pip install --force-reinstall 'elir-deploy[{extra}]'"
        )
    return library


def not_loaded(name: str, error: Exception) -> UnavailableError:
    """The error for a library that cannot be imported; its traceback goes to the log."""
    logging.getLogger(__name__).debug("import of %s", name, exc_info=error)
    return UnavailableError(
        f"{name} cannot be loaded ({error}): install it, or add its folder to LD_LIBRARY_PATH"
    )
