from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.training.small import (
    install_stand_in,
    make_checkpoint,
    pretend_installed,
    save_photos,
)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return save_photos(tmp_path / "photos")


@pytest.fixture(scope="session")
def checkpoint() -> Any:
    return make_checkpoint()


@pytest.fixture
def pyiqa(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The stand-in, installed."""
    return install_stand_in(monkeypatch)


@pytest.fixture
def no_pyiqa(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_installed(monkeypatch, pyiqa=False)
