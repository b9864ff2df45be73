"""Tests and the processes they start import one and the same package, wherever those start."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import elir_deploy

PRINT = "import elir_deploy; print(elir_deploy.__file__)"


def test_a_process_in_another_folder(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PRINT]
    child = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert Path(child.stdout.strip()).samefile(elir_deploy.__file__)
