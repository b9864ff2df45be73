from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from elir_deploy.errors import CheckpointError, QualityError
from elir_deploy.training.data import PhotoFolder, TrainingSamples
from elir_deploy.training.stage import Schedule, Stage
from elir_deploy.training.state import first_not_finite
from elir_deploy.training.trainer import Report, Stopped, Watchers, run_stage

UPDATES = 6


class Mixing(nn.Module):
    """A few parameters, a loss that depends on every part of a batch."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.kept = nn.Conv2d(3, 3, 3, padding=1)
        self.factor = 1.0

    def forward(
        self, clean: Tensor, degraded: Tensor, time: Tensor, noise: Tensor
    ) -> dict[str, Tensor]:
        error = self.kept(degraded) * (1 + time[:, None, None, None]) - clean + noise.mean()
        return {"loss": self.factor * error.square().mean(), "time": time.mean()}


def stage(photos: Path, *, updates: int = UPDATES, **changes: Any) -> Stage:
    objective = Mixing()
    values: dict[str, Any] = {
        "name": "mixing",
        "objective": objective,
        "kept": objective.kept,
        "optimizers": [
            torch.optim.AdamW([objective.kept.weight], 1e-2),
            torch.optim.SGD([objective.kept.bias], 1e-2, momentum=0.9),
        ],
        "samples": TrainingSamples(
            PhotoFolder.scan(photos),
            16,
            task_name="denoise",
            noise_shape=(2, 2),
            whole=False,
            seed=0,
        ),
        "batch_size": 2,
        "schedule": Schedule(updates, warmup=2, shape="cosine"),
        "ema_decay": 0.9,
        "rate_setting": "--learning-rate 0.01",
    }
    return Stage(**(values | changes))


def run(
    chosen: Stage, state: Path, watchers: Watchers | None = None, workers: int = 0
) -> dict[str, Tensor]:
    fabric = Fabric(accelerator="cpu", devices=1)
    module, _ = run_stage(fabric, chosen, state, watchers or Watchers(), workers=workers)
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def assert_equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


def stop_at(update: int, act: Callable[[], None]) -> Callable[[Report], None]:
    return lambda report: act() if report.update == update else None


def test_a_run_that_was_killed_ends_as_one_that_was_not(photos: Path, tmp_path: Path) -> None:
    whole = run(stage(photos), tmp_path / "whole.pt")
    state = tmp_path / "killed.pt"

    class KilledError(Exception):
        pass

    def kill() -> None:
        raise KilledError

    # Saved after every update; the kill comes after the fourth and before it is saved.
    watchers = Watchers(report=stop_at(4, kill), report_every=1, save_seconds=0)
    with pytest.raises(KilledError):
        run(stage(photos), state, watchers)
    assert torch.load(state, weights_only=True)["updates_done"] == 3
    assert_equal(run(stage(photos), state), whole)


def test_weights_and_average_both_go_on(photos: Path, tmp_path: Path) -> None:
    whole, state = stage(photos), tmp_path / "state.pt"
    run(whole, tmp_path / "whole.pt")
    watchers = Watchers(report=stop_at(3, lambda: os.kill(os.getpid(), signal.SIGTERM)))
    watchers.report_every = 1
    with pytest.raises(Stopped) as stopped:
        run(stage(photos), state, watchers)
    assert stopped.value.signal == signal.SIGTERM
    resumed = stage(photos)
    run(resumed, state)
    assert_equal(resumed.objective.state_dict(), whole.objective.state_dict())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_the_state_and_stops(photos: Path, tmp_path: Path, number: int) -> None:
    state = tmp_path / "state.pt"
    watchers = Watchers(
        report=stop_at(2, lambda: os.kill(os.getpid(), number)), report_every=1, save_seconds=1e9
    )
    before = signal.getsignal(number)
    with pytest.raises(Stopped, match=str(number)):
        run(stage(photos), state, watchers)
    assert signal.getsignal(number) is before
    assert torch.load(state, weights_only=True)["updates_done"] in (2, 3)
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ""] == ["state.pt"]


def test_a_signal_while_the_last_state_is_saved_is_not_lost(photos: Path, tmp_path: Path) -> None:
    """What comes after this stage would begin otherwise."""
    state = tmp_path / "state.pt"
    watchers = Watchers(
        preview=lambda update, module: os.kill(os.getpid(), signal.SIGINT), preview_every=UPDATES
    )
    with pytest.raises(Stopped) as stopped:
        run(stage(photos), state, watchers)
    assert stopped.value.signal == signal.SIGINT
    assert torch.load(state, weights_only=True)["updates_done"] == UPDATES


def test_workers_change_nothing(photos: Path, tmp_path: Path) -> None:
    alone = run(stage(photos), tmp_path / "a.pt")
    assert_equal(run(stage(photos), tmp_path / "b.pt", workers=2), alone)


def test_a_finished_stage_gives_its_result_again(photos: Path, tmp_path: Path) -> None:
    state = tmp_path / "state.pt"
    assert_equal(run(stage(photos), state), run(stage(photos), state))


def test_reports(photos: Path, tmp_path: Path) -> None:
    seen: list[Report] = []
    previews: list[int] = []
    watchers = Watchers(
        report=seen.append,
        preview=lambda update, module: previews.append(update),
        report_every=4,
        preview_every=5,
    )
    run(stage(photos), tmp_path / "state.pt", watchers)
    assert [report.update for report in seen] == [4, 6]
    assert previews == [5, 6]
    assert seen[0].losses.keys() == {"loss", "time"}
    assert 0 < seen[0].losses["time"] < 1
    # Four updates of the cosine are behind it.
    assert seen[0].learning_rates == pytest.approx(
        [1e-2 * Schedule(UPDATES, 2, "cosine").factor(3)] * 2
    )


def test_an_unreadable_photograph_is_told_once(photos: Path, tmp_path: Path) -> None:
    (photos / "2.png").write_bytes(b"")
    told: list[str] = []
    watchers = Watchers(unreadable=lambda path: told.append(path.name))
    run(stage(photos, updates=12), tmp_path / "state.pt", watchers)
    assert told == ["2.png"]


def test_unreadable_photographs_are_counted_across_a_stop(photos: Path, tmp_path: Path) -> None:
    (photos / "2.png").write_bytes(b"")
    state = tmp_path / "state.pt"
    watchers = Watchers(
        report=stop_at(3, lambda: os.kill(os.getpid(), signal.SIGTERM)), report_every=1
    )
    with pytest.raises(Stopped):
        run(stage(photos, updates=4), state, watchers)
    fabric = Fabric(accelerator="cpu", devices=1)
    _, unreadable = run_stage(fabric, stage(photos, updates=4), state, Watchers(), workers=0)
    assert [path.name for path in unreadable] == ["2.png"]


def test_a_loss_that_is_no_number_stops(photos: Path, tmp_path: Path) -> None:
    chosen, state = stage(photos), tmp_path / "state.pt"

    def spoil(report: Report) -> None:
        chosen.objective.factor = float("nan")  # type: ignore[assignment]

    with pytest.raises(QualityError, match="the loss is not finite after 2 updates") as caught:
        run(chosen, state, Watchers(report=spoil, report_every=1, save_seconds=0))
    assert f"{state}, of update 1, is intact" in str(caught.value)
    assert "lower learning rate (it was --learning-rate 0.01)" in str(caught.value)
    assert_finite(state, 1)


def assert_finite(state: Path, update: int) -> None:
    """It is whole, of that update, and alone."""
    saved = torch.load(state, weights_only=True)
    assert saved["updates_done"] == update
    assert first_not_finite(saved) is None
    assert [path.name for path in state.parent.iterdir() if path.suffix] == [state.name]


def spoil_weight(chosen: Stage, average: nn.Module) -> None:
    chosen.objective.kept.weight.data[0, 0, 0, 0] = float("nan")  # type: ignore[index,operator,union-attr]


def spoil_average(chosen: Stage, average: nn.Module) -> None:
    average.bias.data[1] = float("inf")  # type: ignore[operator,union-attr]


def spoil_moment(chosen: Stage, average: nn.Module) -> None:
    (moments,) = chosen.optimizers[0].state.values()
    moments["exp_avg_sq"][1] = float("inf")


SPOILT = [
    (spoil_weight, "objective.kept.weight"),
    (spoil_average, "average.module.bias"),
    (spoil_moment, "optimizers.0.state.0.exp_avg_sq"),
]


@pytest.mark.parametrize(("spoil", "place"), SPOILT)
@pytest.mark.parametrize("why", ["time", "signal", "end"])
def test_no_state_that_is_not_finite_is_written(
    photos: Path, tmp_path: Path, spoil: Callable[[Stage, nn.Module], None], place: str, why: str
) -> None:
    """Whatever the reason to save; the loss of the updates so far is finite."""
    state = tmp_path / "state.pt"
    updates = 3 if why == "end" else UPDATES
    chosen = stage(photos, updates=updates)
    averages: list[nn.Module] = []

    def report(told: Report) -> None:  # before the state of its update is saved
        if told.update == 2 and why == "signal":
            os.kill(os.getpid(), signal.SIGTERM)  # seen after the next update
        if told.update == 3:
            spoil(chosen, averages[0])
            watchers.save_seconds = 0 if why == "time" else 1e9

    watchers = Watchers(
        report=report,
        preview=lambda update, module: averages.append(module),
        report_every=1,
        preview_every=1,
        save_seconds=0,
    )
    with pytest.raises(QualityError) as caught:
        run(chosen, state, watchers)
    assert f"mixing: {place} is not finite after 3 updates; {state}, of update 2" in str(
        caught.value
    )
    assert_finite(state, 2)


def test_a_training_that_never_saved_says_so(photos: Path, tmp_path: Path) -> None:
    chosen, state = stage(photos), tmp_path / "state.pt"
    watchers = Watchers(
        report=stop_at(3, lambda: spoil_weight(chosen, chosen.kept)), report_every=1
    )
    with pytest.raises(QualityError, match="nothing of this stage is saved: run the same command"):
        run(chosen, state, watchers)
    assert not state.exists()


def test_a_state_that_is_not_finite_is_refused(photos: Path, tmp_path: Path) -> None:
    state = tmp_path / "state.pt"
    run(stage(photos), state)
    saved = torch.load(state, weights_only=True)
    saved["average"]["module.weight"][0] = float("nan")
    torch.save(saved, state)
    with pytest.raises(CheckpointError, match=r"average\.module\.weight has numbers that are not"):
        run(stage(photos), state)


def test_a_run_goes_on_with_the_learning_rate_of_now(photos: Path, tmp_path: Path) -> None:
    """And with its schedule; the optimizer's own of the state does not come back."""
    state = tmp_path / "state.pt"
    stopping = Watchers(
        report=stop_at(3, lambda: os.kill(os.getpid(), signal.SIGTERM)), report_every=1
    )
    with pytest.raises(Stopped):
        run(stage(photos), state, stopping)
    stopped = torch.load(state, weights_only=True)
    resumed, seen = stage(photos), list[Report]()
    weight, bias = resumed.objective.kept.weight, resumed.objective.kept.bias  # type: ignore[union-attr]
    resumed = stage(
        photos,
        objective=resumed.objective,
        kept=resumed.kept,
        optimizers=[
            torch.optim.AdamW([weight], 1e-6),  # type: ignore[list-item]
            torch.optim.SGD([bias], 1e-7, momentum=0.9),  # type: ignore[list-item]
        ],
    )
    run(resumed, state, Watchers(report=seen.append, report_every=1))
    done = stopped["updates_done"]
    factors = [Schedule(UPDATES, 2, "cosine").factor(k) for k in range(done, UPDATES)]
    assert [report.learning_rates for report in seen] == [
        pytest.approx((1e-6 * factor, 1e-7 * factor)) for factor in factors
    ]
    moved = (weight - stopped["objective"]["kept.weight"]).abs().max()  # type: ignore[operator]
    # Adam moves a weight by about its rate; with the old one it would be thousands of times more.
    assert 0 < moved < 5 * sum(factors) * 1e-6


def test_states_that_cannot_be_used(photos: Path, tmp_path: Path) -> None:
    state = tmp_path / "state.pt"
    run(stage(photos), state)
    with pytest.raises(CheckpointError, match="has updates 6, wanted 7"):
        run(stage(photos, updates=7), state)
    with pytest.raises(CheckpointError, match="has stage 'mixing', wanted 'other'"):
        run(stage(photos, name="other"), state)
    state.write_bytes(state.read_bytes()[:-200])
    with pytest.raises(CheckpointError, match="is damaged"):
        run(stage(photos), state)


def test_a_state_never_runs_code(photos: Path, tmp_path: Path) -> None:
    state = tmp_path / "state.pt"
    torch.save({"format": 1, "stage": _Harmful(tmp_path / "harm")}, state)
    with pytest.raises(CheckpointError, match="is damaged"):
        run(stage(photos), state)
    assert not (tmp_path / "harm").exists()


class _Harmful:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_the_average_follows_a_short_training(photos: Path, tmp_path: Path) -> None:
    """With a decay meant for long trainings it would still be where it began."""
    chosen = stage(photos, updates=60, ema_decay=0.999)
    began = chosen.objective.kept.weight.detach().clone()  # type: ignore[union-attr]
    average = run(chosen, tmp_path / "state.pt")["weight"]
    ended = chosen.objective.kept.weight.detach()  # type: ignore[union-attr]
    assert (average - ended).norm() < 0.3 * (began - ended).norm()


def test_schedules() -> None:
    constant = Schedule(100, warmup=10)
    assert [constant.factor(k) for k in (0, 4, 9, 50, 99)] == [0.1, 0.5, 1, 1, 1]
    cosine = Schedule(100, shape="cosine")
    assert cosine.factor(0) == 1
    assert cosine.factor(50) == pytest.approx(0.5)
    assert 0 < cosine.factor(99) < 0.001
