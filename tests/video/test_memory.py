"""Memory does not depend on the length of a film."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.bundles import make_bundle
from tests.video.films import write_film

pytest.importorskip("onnxruntime")

#: Restores a film and prints the peak of memory after 1,000 pictures and at the end, in KiB.
_RUN = """
import resource, sys
from pathlib import Path
from elir_deploy.runtime import Restorer
from elir_deploy.video import Encoding, WholeFrames, open_film, restore_film

peaks = []

def progress(what, done, total):
    if done in (1000, total):
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)

with Restorer(sys.argv[1], "onnxruntime", threads=1) as restorer:
    encoding = Encoding("libx264", preset="ultrafast")
    film = open_film(Path(sys.argv[2]))
    restore_film(film, Path(sys.argv[3]), WholeFrames(restorer), encoding, on_progress=progress)
print(peaks[0], peaks[-1])
"""


@pytest.mark.slow
def test_ten_thousand_pictures(tmp_path: Path) -> None:
    fast = {"preset": "ultrafast", "g": "250"}
    film = write_film(tmp_path / "film.mp4", size=(64, 64), count=10_000, options=fast)
    command = [sys.executable, "-c", _RUN, make_bundle(tmp_path / "b", size=64), film]
    done = subprocess.run(
        [*map(str, command), str(tmp_path / "out.mp4")], capture_output=True, text=True, check=True
    )
    early, late = map(int, done.stdout.split())
    # The index of an MP4 file is in memory until it is written: some bytes a packet.
    assert late - early < 6 * 1024
