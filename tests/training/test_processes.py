"""Two processes over gloo that train one model: an error in one ends both."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch

from elir_deploy.training.state import find_not_finite

SCRIPT = """
import sys
from pathlib import Path

import torch
from lightning_fabric import Fabric

from elir_deploy.errors import ElirError
from elir_deploy.training.data import PhotoFolder, TrainingSamples
from elir_deploy.training.phase import Phase, Schedule
from elir_deploy.training.processes import leaving_group
from elir_deploy.training.trainer import Callbacks, run_phase

photos, folder, case = sys.argv[1:]


class Objective(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 3, 1)
        self.added = 0.0

    def forward(self, clean, degraded, time, noise):
        return {"loss": (self.conv(degraded) - clean).square().mean() + self.added}


@leaving_group()
def train():
    def report(progress):
        if progress.update == 3 and case == "log":
            raise OSError("no space")

    def preview(update, module):
        shown.append(update)
        if update == 3 and case == "weight":
            (moment, *_) = phase.optimizers[0].state.values()
            moment["exp_avg"].fill_(float("nan"))

    fabric = Fabric(accelerator="cpu", devices=2)
    fabric.launch()
    torch.manual_seed(0)
    objective, shown = Objective(), []
    if fabric.global_rank == 1 and case == "loss":
        objective.added = float("nan")  # has no gradient: the weights stay finite
    folder_of_photos = PhotoFolder.scan(Path(photos))
    phase = Phase(
        name="two",
        objective=objective,
        averaged=objective.conv,
        optimizers=[torch.optim.AdamW(objective.parameters(), 1e-3)],
        samples=TrainingSamples(
            folder_of_photos, 16, task_name="denoise", noise_shape=(2, 2), whole=False, seed=0
        ),
        batch_size=2,
        schedule=Schedule(6),
        ema_decay=0.9,
        rate_option="--learning-rate 0.001",
    )
    callbacks = Callbacks(report_every=1, preview_every=1, save_seconds=0)
    if fabric.is_global_zero:
        callbacks.report, callbacks.preview = report, preview
    ended = "no error"
    try:
        run_phase(fabric, phase, Path(folder) / "state.pt", callbacks, workers=0)
    except (ElirError, OSError) as error:
        ended = f"{type(error).__name__}: {error}"
    (Path(folder) / f"{fabric.global_rank}.txt").write_text(f"{ended}\\n{shown}\\n")
    fabric.barrier()  # the test reads both files when the first process ends


train()
threads = {path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")}
sys.exit(any("gloo" in name for name in threads))
"""


def both(photos: Path, folder: Path, case: str) -> list[list[str]]:
    """The error of each process, and the updates whose previews were drawn."""
    folder.mkdir()
    script = folder / "two.py"
    script.write_text(SCRIPT)
    subprocess.run(
        [sys.executable, str(script), str(photos), str(folder), case],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=True,
        timeout=240,
    )
    return [(folder / f"{rank}.txt").read_text().splitlines() for rank in (0, 1)]


def test_a_nan_loss_in_one_stops_both(photos: Path, tmp_path: Path) -> None:
    for ended, _ in both(photos, tmp_path / "two", "loss"):
        assert ended.startswith("QualityError: two: the loss is not finite after 1 updates")
    assert not (tmp_path / "two" / "state.pt").exists()


def test_a_nan_weight_in_one_stops_both(photos: Path, tmp_path: Path) -> None:
    """Previews, which only the first process draws, do not block the other."""
    (first, shown), (second, nothing) = both(photos, tmp_path / "two", "weight")
    assert first.startswith("QualityError: two: objective.conv.weight is not finite after 4")
    assert second.startswith("QualityError: two: a weight is not finite after 4 updates")
    assert (shown, nothing) == ("[1, 2, 3]", "[]")
    saved = torch.load(tmp_path / "two" / "state.pt", weights_only=True)
    assert saved["updates_done"] == 3
    assert find_not_finite(saved) is None


def test_an_unwritable_log_stops_both(photos: Path, tmp_path: Path) -> None:
    (first, _), (second, _) = both(photos, tmp_path / "two", "log")
    assert first == "OSError: no space"
    assert second == "OutputError: the first process failed: see its error message"
