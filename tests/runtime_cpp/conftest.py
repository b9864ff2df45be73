"""The C++ runtime compared with the Python one, if ``ELIR_LIBRARY`` names a libelir (make cpp)."""

from __future__ import annotations

import importlib.util
import os
import sys
from importlib import resources
from pathlib import Path
from types import ModuleType

import pytest

if "ELIR_LIBRARY" not in os.environ:
    collect_ignore_glob = ["test_*"]

RUNTIME = Path(__file__).parents[2] / "runtime"


def load(path: Path) -> ModuleType:
    """Load a module that is not in a package."""
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
        """Open a bundle, by default without a cache."""
        return self.binding.Restorer(self.loaded, bundle, **({"cache": ""} | params))

    def open_with_log(self, bundle: Path, **params: object):
        """Open a bundle; also return the lines of its log."""
        lines: list[str] = []
        callback = self.binding.LogCallback(lambda user, level, line: lines.append(line.decode()))
        return self.open(bundle, log=callback, **params), lines

    def status(self, bundle: Path, **params: object) -> int:
        """Open a bundle; return the ``elir_status``."""
        try:
            self.open(bundle, **params).close()
        except self.binding.ElirError as error:
            return error.status
        return 0


@pytest.fixture(scope="session")
def library() -> Library:
    return Library()


@pytest.fixture(scope="session")
def tiny() -> Path:
    return Path(str(resources.files("elir_deploy") / "data" / "tiny.bundle"))
