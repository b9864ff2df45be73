"""Settings every test shares."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest


def pytest_configure() -> None:
    # Tests run in parallel; a second thread per process makes small tensors slower, not faster.
    with contextlib.suppress(ImportError):
        import torch

        torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _cache_of_these_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing is taken from the user's cache folder or left in it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield
