"""The C++ runtime against the Python one, where ``ELIR_LIBRARY`` names a libelir (make cpp)."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest

if "ELIR_LIBRARY" not in os.environ:
    collect_ignore_glob = ["test_*"]

RUNTIME = Path(__file__).parents[2] / "runtime"


def load(path: Path) -> ModuleType:
    """A module that is in no package."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


class Library:
    """libelir, through the example that shows how to use it from Python."""

    def __init__(self) -> None:
        self.binding = load(RUNTIME / "examples" / "elir_ctypes.py")
        self.loaded = self.binding.load(os.environ["ELIR_LIBRARY"])

    def open(self, bundle: Path, **params: object):
        return self.binding.Restorer(self.loaded, bundle, **params)

    def refusal(self, bundle: Path, **params: object) -> str | None:
        """Its message where a bundle cannot be opened."""
        try:
            self.open(bundle, **params).close()
        except self.binding.ElirError as error:
            return str(error)
        return None


@pytest.fixture(scope="session")
def library() -> Library:
    return Library()
