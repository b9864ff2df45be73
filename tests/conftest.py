"""Settings every test shares."""

from __future__ import annotations

import contextlib
import functools
import gc
import os
import signal
from collections.abc import Iterator

import pytest


def pytest_configure() -> None:
    # Tests run in parallel; a second thread per process makes small tensors slower, not faster.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with contextlib.suppress(ImportError):
        import torch

        torch.set_num_threads(1)
    # Exporting makes many objects that stay: looking for garbage among them takes a fifth of it.
    gc.set_threshold(50_000, 20, 100)
    # A shell lets what it starts in the background ignore Ctrl-C, which tests of it wait for.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _cache_of_these_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing is taken from the user's cache folder or left in it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.delenv("ELIR_CACHE", raising=False)
        patch.delenv("ELIR_CACHE_LIMIT", raising=False)
        yield


@pytest.fixture(scope="session", autouse=True)
def _translations_read_once() -> Iterator[None]:
    """PyTorch's exporter parses the source of all its translations again for each graph.

    That is a third of what exporting a small model costs. Processes of their own do it.
    """
    with pytest.MonkeyPatch.context() as patch:
        with contextlib.suppress(ImportError):
            from torch.onnx._internal.exporter._registration import ONNXRegistry

            read = functools.cache(ONNXRegistry.from_torchlib)
            patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(read))
        yield
