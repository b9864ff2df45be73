"""The packaged bundle in four stages, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cost.split_bundle import split_tiny


@pytest.fixture(scope="session")
def tiny_split(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packaged model in four stages, in every precision."""
    return split_tiny(tmp_path_factory.mktemp("split") / "tiny", ("fp32", "fp16", "int8"))
