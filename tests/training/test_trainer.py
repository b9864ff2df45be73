from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.precision import MixedPrecision
from torch import Tensor, nn

from elir_deploy.errors import CheckpointError, QualityError
from elir_deploy.training.data import PhotoFolder, TrainingSamples
from elir_deploy.training.phase import Phase, Schedule
from elir_deploy.training.state import find_not_finite
from elir_deploy.training.trainer import Callbacks, Report, Stopped, run_phase

UPDATES = 6


class Mixing(nn.Module):
    """A convolution, and a loss that depends on every tensor of a batch."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.factor = 1.0

    def forward(
        self, clean: Tensor, degraded: Tensor, time: Tensor, noise: Tensor
    ) -> dict[str, Tensor]:
        error = (
            self.conv(degraded.to(self.conv.weight)) * (1 + time[:, None, None, None])
            - clean
            + noise.mean()
        )
        return {"loss": self.factor * error.square().mean(), "time": time.mean()}


def phase(photos: Path, *, updates: int = UPDATES, **changes: Any) -> Phase:
    objective = Mixing()
    values: dict[str, Any] = {
        "name": "mixing",
        "objective": objective,
        "averaged": objective.conv,
        "optimizers": [
            torch.optim.AdamW([objective.conv.weight], 1e-2),
            torch.optim.SGD([objective.conv.bias], 1e-2, momentum=0.9),
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
        "rate_option": "--learning-rate 0.01",
    }
    return Phase(**(values | changes))


def run(
    chosen: Phase, state: Path, callbacks: Callbacks | None = None, workers: int = 0
) -> dict[str, Tensor]:
    fabric = Fabric(accelerator="cpu", devices=1)
    module, _ = run_phase(fabric, chosen, state, callbacks or Callbacks(), workers=workers)
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def assert_equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


def stop_at(update: int, act: Callable[[], None]) -> Callable[[Report], None]:
    return lambda report: act() if report.update == update else None


def test_a_killed_run_resumes_bit_for_bit(photos: Path, tmp_path: Path) -> None:
    whole = run(phase(photos), tmp_path / "whole.pt")
    state = tmp_path / "killed.pt"

    class KilledError(Exception):
        pass

    def kill() -> None:
        raise KilledError

    # Saved after every update; the kill comes after the fourth and before it is saved.
    callbacks = Callbacks(report=stop_at(4, kill), report_every=1, save_seconds=0)
    with pytest.raises(KilledError):
        run(phase(photos), state, callbacks)
    assert torch.load(state, weights_only=True)["updates_done"] == 3
    assert_equal(run(phase(photos), state), whole)


def test_a_stopped_run_resumes_with_the_same_weights(photos: Path, tmp_path: Path) -> None:
    whole, state = phase(photos), tmp_path / "state.pt"
    run(whole, tmp_path / "whole.pt")
    callbacks = Callbacks(report=stop_at(3, lambda: os.kill(os.getpid(), signal.SIGTERM)))
    callbacks.report_every = 1
    with pytest.raises(Stopped) as stopped:
        run(phase(photos), state, callbacks)
    assert stopped.value.signal == signal.SIGTERM
    resumed = phase(photos)
    run(resumed, state)
    assert_equal(resumed.objective.state_dict(), whole.objective.state_dict())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_the_state_and_stops(photos: Path, tmp_path: Path, number: int) -> None:
    state = tmp_path / "state.pt"
    callbacks = Callbacks(
        report=stop_at(2, lambda: os.kill(os.getpid(), number)), report_every=1, save_seconds=1e9
    )
    before = signal.getsignal(number)
    with pytest.raises(Stopped, match=str(number)):
        run(phase(photos), state, callbacks)
    assert signal.getsignal(number) is before
    assert torch.load(state, weights_only=True)["updates_done"] in (2, 3)
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ""] == ["state.pt"]


def test_a_signal_while_the_last_state_is_saved_still_stops(photos: Path, tmp_path: Path) -> None:
    """Otherwise the next phase would begin."""
    state = tmp_path / "state.pt"
    callbacks = Callbacks(
        preview=lambda update, module: os.kill(os.getpid(), signal.SIGINT), preview_every=UPDATES
    )
    with pytest.raises(Stopped) as stopped:
        run(phase(photos), state, callbacks)
    assert stopped.value.signal == signal.SIGINT
    assert torch.load(state, weights_only=True)["updates_done"] == UPDATES


def test_workers_do_not_change_the_result(photos: Path, tmp_path: Path) -> None:
    alone = run(phase(photos), tmp_path / "a.pt")
    assert_equal(run(phase(photos), tmp_path / "b.pt", workers=2), alone)


def test_a_finished_phase_returns_its_result_again(photos: Path, tmp_path: Path) -> None:
    state = tmp_path / "state.pt"
    assert_equal(run(phase(photos), state), run(phase(photos), state))


def test_a_loss_scaler_is_part_of_the_state(photos: Path, tmp_path: Path) -> None:
    """A resumed float16 training would otherwise begin with scales that overflow."""

    def half() -> Fabric:
        scaler = torch.amp.GradScaler("cpu", init_scale=64.0, growth_interval=2)
        return Fabric(
            accelerator="cpu", devices=1, plugins=MixedPrecision("16-mixed", "cpu", scaler)
        )

    def train(chosen: Phase, state: Path, callbacks: Callbacks) -> tuple[float, dict[str, Tensor]]:
        fabric = half()
        module, _ = run_phase(fabric, chosen, state, callbacks, workers=0)
        return fabric.strategy.precision.state_dict()["scale"], module.state_dict()

    whole_scale, whole = train(phase(photos), tmp_path / "whole.pt", Callbacks())
    assert whole_scale > 64
    state = tmp_path / "state.pt"
    stopping = stop_at(3, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Stopped):
        train(phase(photos), state, Callbacks(report=stopping, report_every=1))
    scale, resumed = train(phase(photos), state, Callbacks())
    assert scale == whole_scale
    assert_equal(resumed, whole)


class MovingFabric(Fabric):
    """Stands for a device: what is set up becomes float64."""

    def setup(self, module: nn.Module, *optimizers: Any, **options: Any) -> Any:
        return super().setup(module.double(), *optimizers, **options)


def test_a_state_is_loaded_to_where_the_weights_are(photos: Path, tmp_path: Path) -> None:
    """As on a GPU, where an optimizer's state on the CPU would end the run."""
    state = tmp_path / "state.pt"
    run(phase(photos, updates=2), state)
    saved = torch.load(state, weights_only=True)
    torch.save(saved | {"updates": UPDATES}, state)
    chosen = phase(photos)
    run_phase(MovingFabric(accelerator="cpu", devices=1), chosen, state, Callbacks(), workers=0)
    (moments,) = chosen.optimizers[0].state.values()
    assert moments["exp_avg"].dtype == torch.float64


def test_reports(photos: Path, tmp_path: Path) -> None:
    seen: list[Report] = []
    previews: list[int] = []
    callbacks = Callbacks(
        report=seen.append,
        preview=lambda update, module: previews.append(update),
        report_every=4,
        preview_every=5,
    )
    run(phase(photos), tmp_path / "state.pt", callbacks)
    assert [report.update for report in seen] == [4, 6]
    assert previews == [5, 6]
    assert seen[0].losses.keys() == {"loss", "time"}
    assert 0 < seen[0].losses["time"] < 1
    # Four updates of the cosine are behind it.
    assert seen[0].learning_rates == pytest.approx(
        [1e-2 * Schedule(UPDATES, 2, "cosine").factor(3)] * 2
    )


def test_an_unreadable_photograph_is_reported_once(photos: Path, tmp_path: Path) -> None:
    (photos / "2.png").write_bytes(b"")
    names: list[str] = []
    callbacks = Callbacks(unreadable=lambda path: names.append(path.name))
    run(phase(photos, updates=12), tmp_path / "state.pt", callbacks)
    assert names == ["2.png"]


def test_unreadable_photographs_are_remembered_after_resuming(photos: Path, tmp_path: Path) -> None:
    (photos / "2.png").write_bytes(b"")
    state = tmp_path / "state.pt"
    callbacks = Callbacks(
        report=stop_at(3, lambda: os.kill(os.getpid(), signal.SIGTERM)), report_every=1
    )
    with pytest.raises(Stopped):
        run(phase(photos, updates=4), state, callbacks)
    fabric = Fabric(accelerator="cpu", devices=1)
    _, unreadable = run_phase(fabric, phase(photos, updates=4), state, Callbacks(), workers=0)
    assert [path.name for path in unreadable] == ["2.png"]


def test_a_nan_loss_stops_the_training(photos: Path, tmp_path: Path) -> None:
    chosen, state = phase(photos), tmp_path / "state.pt"

    def spoil(report: Report) -> None:
        chosen.objective.factor = float("nan")  # type: ignore[assignment]

    with pytest.raises(QualityError, match="the loss is not finite after 2 updates") as caught:
        run(chosen, state, Callbacks(report=spoil, report_every=1, save_seconds=0))
    assert f"{state} of update 1 is intact" in str(caught.value)
    assert "lower learning rate than --learning-rate 0.01 to continue" in str(caught.value)
    assert_good_state(state, 1)


def assert_good_state(state: Path, update: int) -> None:
    """The state is complete, of that update, and the only file."""
    saved = torch.load(state, weights_only=True)
    assert saved["updates_done"] == update
    assert find_not_finite(saved) is None
    assert [path.name for path in state.parent.iterdir() if path.suffix] == [state.name]


def spoil_weight(chosen: Phase, average: nn.Module) -> None:
    chosen.objective.conv.weight.data[0, 0, 0, 0] = float("nan")  # type: ignore[index,operator,union-attr]


def spoil_average(chosen: Phase, average: nn.Module) -> None:
    average.bias.data[1] = float("inf")  # type: ignore[operator,union-attr]


def spoil_moment(chosen: Phase, average: nn.Module) -> None:
    (moments,) = chosen.optimizers[0].state.values()
    moments["exp_avg_sq"][1] = float("inf")


@pytest.mark.parametrize(
    ("spoil", "place", "why"),
    [
        (spoil_weight, "objective.conv.weight", "time"),
        (spoil_average, "average.module.bias", "signal"),
        (spoil_moment, "optimizers.0.state.0.exp_avg_sq", "end"),
    ],
)
def test_a_state_with_infinities_is_not_written(
    photos: Path, tmp_path: Path, spoil: Callable[[Phase, nn.Module], None], place: str, why: str
) -> None:
    """Whatever the reason to save, and although the loss is still finite."""
    state = tmp_path / "state.pt"
    updates = 3 if why == "end" else UPDATES
    chosen = phase(photos, updates=updates)
    averages: list[nn.Module] = []

    def report(progress: Report) -> None:  # before the state of its update is saved
        if progress.update == 2 and why == "signal":
            os.kill(os.getpid(), signal.SIGTERM)  # seen after the next update
        if progress.update == 3:
            spoil(chosen, averages[0])
            callbacks.save_seconds = 0 if why == "time" else 1e9

    callbacks = Callbacks(
        report=report,
        preview=lambda update, module: averages.append(module),
        report_every=1,
        preview_every=1,
        save_seconds=0,
    )
    with pytest.raises(QualityError) as caught:
        run(chosen, state, callbacks)
    assert f"mixing: {place} is not finite after 3 updates; {state} of update 2" in str(
        caught.value
    )
    assert_good_state(state, 2)


def test_divergence_before_the_first_state(photos: Path, tmp_path: Path) -> None:
    chosen, state = phase(photos), tmp_path / "state.pt"
    callbacks = Callbacks(
        report=stop_at(3, lambda: spoil_weight(chosen, chosen.averaged)), report_every=1
    )
    with pytest.raises(QualityError, match="no state of this phase was saved: run the same"):
        run(chosen, state, callbacks)
    assert not state.exists()


def test_a_state_with_nans_is_refused(photos: Path, tmp_path: Path) -> None:
    state = tmp_path / "state.pt"
    run(phase(photos), state)
    saved = torch.load(state, weights_only=True)
    saved["average"]["module.weight"][0] = float("nan")
    torch.save(saved, state)
    with pytest.raises(CheckpointError, match=r"infinities or NaNs in average\.module\.weight"):
        run(phase(photos), state)


def test_a_run_resumes_with_a_new_learning_rate(photos: Path, tmp_path: Path) -> None:
    """The optimizer's rate in the state is ignored."""
    state = tmp_path / "state.pt"
    stopping = Callbacks(
        report=stop_at(3, lambda: os.kill(os.getpid(), signal.SIGTERM)), report_every=1
    )
    with pytest.raises(Stopped):
        run(phase(photos), state, stopping)
    stopped = torch.load(state, weights_only=True)
    resumed, seen = phase(photos), list[Report]()
    weight, bias = resumed.objective.conv.weight, resumed.objective.conv.bias  # type: ignore[union-attr]
    resumed = phase(
        photos,
        objective=resumed.objective,
        averaged=resumed.averaged,
        optimizers=[
            torch.optim.AdamW([weight], 1e-6),  # type: ignore[list-item]
            torch.optim.SGD([bias], 1e-7, momentum=0.9),  # type: ignore[list-item]
        ],
    )
    run(resumed, state, Callbacks(report=seen.append, report_every=1))
    done = stopped["updates_done"]
    factors = [Schedule(UPDATES, 2, "cosine").factor(k) for k in range(done, UPDATES)]
    assert [report.learning_rates for report in seen] == [
        pytest.approx((1e-6 * factor, 1e-7 * factor)) for factor in factors
    ]
    moved = (weight - stopped["objective"]["conv.weight"]).abs().max()  # type: ignore[operator]
    # Adam moves a weight by about its rate; with the old one it would be thousands of times more.
    assert 0 < moved < 5 * sum(factors) * 1e-6


def test_unusable_states(photos: Path, tmp_path: Path) -> None:
    state = tmp_path / "state.pt"
    run(phase(photos), state)
    with pytest.raises(CheckpointError, match="has updates 6, expected 7"):
        run(phase(photos, updates=7), state)
    with pytest.raises(CheckpointError, match="has stage 'mixing', expected 'other'"):
        run(phase(photos, name="other"), state)
    state.write_bytes(state.read_bytes()[:-200])
    with pytest.raises(CheckpointError, match="is damaged"):
        run(phase(photos), state)


def test_a_state_never_runs_code(photos: Path, tmp_path: Path) -> None:
    state = tmp_path / "state.pt"
    torch.save({"format": 1, "stage": _Harmful(tmp_path / "harm")}, state)
    with pytest.raises(CheckpointError, match="is damaged"):
        run(phase(photos), state)
    assert not (tmp_path / "harm").exists()


class _Harmful:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_the_average_follows_a_short_training(photos: Path, tmp_path: Path) -> None:
    """With a constant decay of 0.999 it would stay near the initial weights."""
    chosen = phase(photos, updates=60, ema_decay=0.999)
    began = chosen.objective.conv.weight.detach().clone()  # type: ignore[union-attr]
    average = run(chosen, tmp_path / "state.pt")["weight"]
    ended = chosen.objective.conv.weight.detach()  # type: ignore[union-attr]
    assert (average - ended).norm() < 0.3 * (began - ended).norm()


def test_schedules() -> None:
    constant = Schedule(100, warmup=10)
    assert [constant.factor(k) for k in (0, 4, 9, 50, 99)] == [0.1, 0.5, 1, 1, 1]
    cosine = Schedule(100, shape="cosine")
    assert cosine.factor(0) == 1
    assert cosine.factor(50) == pytest.approx(0.5)
    assert 0 < cosine.factor(99) < 0.001
