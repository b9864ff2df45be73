"""elir-restore on many pictures, killed and started again until all are restored."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.bundles import make_bundle

#: elir-restore, which also notes each picture, by a hash, before the model runs on it.
_RUN = """
import hashlib, os, sys
from elir_deploy.cli import restore
from elir_deploy.runtime import Restorer

log = os.open(sys.argv.pop(1), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
whole = Restorer.restore

def noted(self, image, **options):
    os.write(log, hashlib.sha256(image).hexdigest().encode() + b"\\n")
    return whole(self, image, **options)

Restorer.restore = noted
restore.main()
"""
#: Folders in which the pictures are, so that results are in several, too.
_FOLDERS = 4


def pictures(album: Path, count: int) -> None:
    rng = np.random.default_rng(0)
    for number in range(count):
        path = album / f"{number % _FOLDERS}" / f"{number:05}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40, 48, 3), "u1")).save(path, compress_level=1)


def command(bundle: Path, album: Path, out: Path, events: Path, runs: Path) -> list[str]:
    arguments = [str(bundle), str(album), "-o", str(out), "-r", "--existing", "skip"]
    arguments += ["--events", str(events), "--backend", "onnxruntime", "--compare"]
    return [sys.executable, "-c", _RUN, str(runs), *arguments]


def results(out: Path) -> dict[str, bytes]:
    """Content of all files, hidden ones too."""
    files = (Path(folder) / name for folder, _, names in os.walk(out) for name in names)
    return {file.relative_to(out).as_posix(): file.read_bytes() for file in files}


def events_in(path: Path) -> list[dict]:
    """The events; the last line may be cut off."""
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in lines]


def kill_at(process: subprocess.Popen, events: Path, share: int) -> None:
    """Kill a run when it has restored so many pictures."""
    deadline = time.monotonic() + 300
    while sum(event.get("status") == "restored" for event in events_in(events)) < share:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()


@pytest.mark.parametrize("count", [60, pytest.param(2000, marks=pytest.mark.slow)])
def test_killed_three_times_and_finished(tmp_path: Path, count: int) -> None:
    album, out, undisturbed = (tmp_path / name for name in ("album", "out", "undisturbed"))
    bundle = make_bundle(tmp_path / "bundle", gain=0.7, bias=0.2)
    pictures(album, count)
    restored: Counter[str] = Counter()
    lost = []
    for attempt in range(4):
        events = tmp_path / f"{attempt}.jsonl"
        process = subprocess.Popen(
            command(bundle, album, out, events, tmp_path / "runs"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        if attempt < 3:
            kill_at(process, events, count // 5)
        else:
            printed, error = process.communicate(timeout=600)
            assert process.returncode == 0, error
            assert f"{count - sum(restored.values()) - sum(lost)} restored, " in printed.decode()
        run = Counter(e["input"] for e in events_in(events) if e.get("status") == "restored")
        restored += run
        # Written, but killed before that was said.
        written = [name for name in results(out) if name.endswith(".png")]
        finished = sum(not name.endswith(".compare.png") for name in written)  # the last of two
        lost.append(finished - sum(restored.values()) - sum(lost))
    # Nothing that was done is done again.
    assert all(0 <= number <= 1 for number in lost), lost
    assert max(restored.values()) == 1
    # A kill costs the picture in the model and the one that is written, at most one a worker.
    runs = Counter((tmp_path / "runs").read_text().splitlines())
    assert len(runs) == count
    assert runs.total() - count <= 3 * 2, runs.most_common(7)
    again = command(bundle, album, undisturbed, tmp_path / "x", tmp_path / "y")
    assert subprocess.run(again).returncode == 0
    assert results(out) == results(undisturbed)
    assert len(results(out)) == 2 * count
