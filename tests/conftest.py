"""Settings every test shares."""

from __future__ import annotations

import contextlib


def pytest_configure() -> None:
    # Tests run in parallel; a second thread per process makes small tensors slower, not faster.
    with contextlib.suppress(ImportError):
        import torch

        torch.set_num_threads(1)
