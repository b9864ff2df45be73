"""The golden vectors are up to date with the Python runtime."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.runtime_cpp.conftest import RUNTIME

GOLDEN = RUNTIME / "tests" / "golden"


@pytest.fixture(scope="module")
def new_vectors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("golden")
    subprocess.run([sys.executable, GOLDEN / "make.py", "--into", folder], check=True)
    return folder


@pytest.mark.parametrize(
    "name", ["geometry.json", "pictures.json", "photos.json", "noise.json", "manifests.json"]
)
def test_up_to_date(new_vectors: Path, name: str) -> None:
    assert (new_vectors / name).read_text() == (GOLDEN / name).read_text(), (
        "the Python runtime's results changed: run runtime/tests/golden/make.py and review the "
        "differences"
    )
