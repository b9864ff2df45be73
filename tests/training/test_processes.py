"""Two processes over gloo that train one model: what one of them meets, both end with."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch

from elir_deploy.training.state import first_not_finite

SCRIPT = """
import sys
from pathlib import Path

import torch
from lightning_fabric import Fabric

from elir_deploy.errors import ElirError
from elir_deploy.training.data import PhotoFolder, TrainingSamples
from elir_deploy.training.stage import Schedule, Stage
from elir_deploy.training.trainer import Watchers, run_stage

photos, folder, case = sys.argv[1:]


class Objective(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.kept = torch.nn.Conv2d(3, 3, 1)
        self.added = 0.0

    def forward(self, clean, degraded, time, noise):
        return {"loss": (self.kept(degraded) - clean).square().mean() + self.added}


def report(told):
    if told.update == 3 and case == "log":
        raise OSError("no space")


def preview(update, module):
    shown.append(update)
    if update == 3 and case == "weight":
        (moment, *_) = stage.optimizers[0].state.values()
        moment["exp_avg"].fill_(float("nan"))


fabric = Fabric(accelerator="cpu", devices=2)
fabric.launch()
torch.manual_seed(0)
objective, shown = Objective(), []
if fabric.global_rank == 1 and case == "loss":
    objective.added = float("nan")  # it has no gradient: the weights stay good on both
samples = TrainingSamples(
    PhotoFolder.scan(Path(photos)), 16, task_name="denoise", noise_shape=(2, 2), whole=False, seed=0
)
stage = Stage(
    name="two",
    objective=objective,
    kept=objective.kept,
    optimizers=[torch.optim.AdamW(objective.parameters(), 1e-3)],
    samples=samples,
    batch_size=2,
    schedule=Schedule(6),
    ema_decay=0.9,
    rate_setting="--learning-rate 0.001",
)
watchers = Watchers(report_every=1, preview_every=1, save_seconds=0)
if fabric.is_global_zero:
    watchers.report, watchers.preview = report, preview
ended = "well"
try:
    run_stage(fabric, stage, Path(folder) / "state.pt", watchers, workers=0)
except (ElirError, OSError) as error:
    ended = f"{type(error).__name__}: {error}"
(Path(folder) / f"{fabric.global_rank}.txt").write_text(f"{ended}\\n{shown}\\n")
"""


def both(photos: Path, folder: Path, case: str) -> list[list[str]]:
    """How the two processes ended, and the updates whose previews were shown."""
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


def test_a_loss_that_is_not_finite_on_one_stops_both(photos: Path, tmp_path: Path) -> None:
    for ended, _ in both(photos, tmp_path / "two", "loss"):
        assert ended.startswith("QualityError: two: the loss is not finite after 1 updates")
    assert not (tmp_path / "two" / "state.pt").exists()


def test_a_weight_that_is_not_finite_on_one_stops_both(photos: Path, tmp_path: Path) -> None:
    """And previews, which are the first one's alone, hold nobody up."""
    (first, shown), (second, nothing) = both(photos, tmp_path / "two", "weight")
    assert first.startswith("QualityError: two: objective.kept.weight is not finite after 4")
    assert second.startswith("QualityError: two: a weight is not finite after 4 updates")
    assert (shown, nothing) == ("[1, 2, 3]", "[]")
    saved = torch.load(tmp_path / "two" / "state.pt", weights_only=True)
    assert saved["updates_done"] == 3
    assert first_not_finite(saved) is None


def test_a_log_that_cannot_be_written_stops_both(photos: Path, tmp_path: Path) -> None:
    (first, _), (second, _) = both(photos, tmp_path / "two", "log")
    assert first == "OSError: no space"
    assert second == "OutputError: the first process failed, and says why"
