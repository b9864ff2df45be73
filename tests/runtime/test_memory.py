"""A picture of 12,000 x 9,000 takes little memory beside itself and its result."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from elir_deploy.runtime.images import write_image
from tests.bundles import make_bundle

LIMIT = 500e6

#: VmHWM belongs to the process; ru_maxrss would begin with what its parent had.
COMMON = """
import sys
import numpy as np

def status(key):
    with open("/proc/self/status") as file:
        return 1024 * int(next(line for line in file if line.startswith(key)).split()[1])
"""

RESTORE = """
from elir_deploy.runtime import Restorer

with Restorer(sys.argv[1], fit=sys.argv[2]) as restore:
    restore(np.zeros((512, 512, 3), np.uint8))
    before = status("VmRSS")
    image = np.random.default_rng(0).integers(0, 256, (9000, 12000, 3), np.uint8)
    restored = restore(image)
    assert restored.shape == image.shape
    assert sys.argv[2] == "resize" or (restored == image).all()
    print(status("VmHWM") - before - image.nbytes - restored.nbytes)
"""

FILES = """
from pathlib import Path
from elir_deploy.runtime import Restorer
from elir_deploy.runtime.files import restore_files
from elir_deploy.runtime.jobs import plan_jobs

with Restorer(sys.argv[1]) as restore:
    restore(np.zeros((512, 512, 3), np.uint8))
    before = status("VmRSS")
    outcome = restore_files(restore, plan_jobs([Path(sys.argv[2])], Path(sys.argv[3])).jobs)
    assert not outcome.failures, outcome.failures
    print(status("VmHWM") - before - 2 * 9000 * 12000 * 3)
"""


def beside(code: str, *arguments: str | Path) -> float:
    done = subprocess.run(
        [sys.executable, "-c", COMMON + code, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # not a word of decompression bombs
    return float(done.stdout)


@pytest.mark.parametrize(("fit", "batch"), [("tile", 1), ("tile", 8), ("resize", 1)])
def test_memory_of_a_large_picture(tmp_path: Path, fit: str, batch: int) -> None:
    shapes = [{"batch": batch, "height": 512, "width": 512}]
    path = make_bundle(tmp_path / "b", shapes=shapes, references=False)
    assert beside(RESTORE, path, fit) < LIMIT


@pytest.mark.slow
def test_memory_of_a_large_file(tmp_path: Path) -> None:
    path = make_bundle(tmp_path / "b", size=512, references=False)
    image = np.zeros((9000, 12000, 3), np.uint8)
    image[:] = np.arange(12000, dtype=np.uint16)[:, None] // 50
    write_image(tmp_path / "x.jpg", image)
    del image
    assert beside(FILES, path, tmp_path / "x.jpg", tmp_path / "out") < LIMIT
